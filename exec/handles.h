// What the processes of a box have open, as the kernel tells it in /proc.
//
// They go on meanwhile: the list is of no single moment. May be included by api. Thread: any but
// exec's, for it may take long. Errors: -errno. Owns nothing. Read next: handles.c.
#ifndef AF_EXEC_HANDLES_H
#define AF_EXEC_HANDLES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum exec_handle_kind { EXEC_HANDLE_FD = 1, EXEC_HANDLE_CWD, EXEC_HANDLE_EXE, EXEC_HANDLE_MAP };

struct exec_handle {
    enum exec_handle_kind kind;
    pid_t pid;
    char command[32]; // the process's own word for itself: any bytes
    int fd;           // of EXEC_HANDLE_FD, else -1
    int flags;        // open(2)'s; of a map O_RDONLY or O_RDWR
    uint64_t offset;  // of an fd
    uint64_t ino;
    unsigned locks; // held through it: of fcntl(2) and flock(2)
};

struct exec_handles_spec {
    pid_t init; // of the box: exec_box_init
    uid_t uid;
    uint32_t dev_major, dev_minor; // files elsewhere are left out
    const atomic_bool *stop;       // or NULL: becomes true when nobody wants it any more
    // Returns 0 to go on, another value to end, which is returned.
    int (*fn)(void *arg, const struct exec_handle *handle);
    void *arg;
};

int exec_list_handles(const struct exec_handles_spec *spec);

#endif
