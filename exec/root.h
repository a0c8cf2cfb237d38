// The read-only root of boxes: what it is made of, put together once for many boxes.
//
// Read next: root.c; stage.c, which keeps the roots; bwrap.c for what each box gets of its own.
#ifndef AF_EXEC_ROOT_H
#define AF_EXEC_ROOT_H

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "mux/base/error.h"

#define EXEC_HOSTNAME "sandbox" // of boxes that ask for no other

// The files of /etc that are generated.
enum exec_root_file {
    EXEC_ROOT_PASSWD,
    EXEC_ROOT_GROUP,
    EXEC_ROOT_NSSWITCH,
    EXEC_ROOT_HOSTNAME, // a box with another host name has its own
    EXEC_ROOT_HOSTS,    // as this
    EXEC_ROOT_FILES,
};

// What a root is made of.
struct exec_root {
    const char *rootfs; // a directory's path; NULL: the host's minimal root
    bool resolver;      // with the machine's resolv.conf: for boxes with its network
};

// By what one can tell that the sources of a root have changed.
#define EXEC_ROOT_MARKS 16
struct exec_root_mark {
    dev_t dev;
    ino_t ino; // 0: there is none
    struct timespec changed;
};
struct exec_root_marks {
    struct exec_root_mark at[EXEC_ROOT_MARKS];
};

void exec_root_look(const struct exec_root *root, struct exec_root_marks *ret);
bool exec_root_same(const struct exec_root_marks *a, const struct exec_root_marks *b);

// Mounts the root on the directory `dir`, read-only. The calling thread's mount namespace has to be
// one of its own, which is thrown away after a failure.
// Errors: NOT_FOUND or FAILED_PRECONDITION when the root directory cannot be used; INTERNAL.
int exec_root_build(const struct exec_root *root, const char *dir, struct af_error *err);
// Lends the directory `dir` what the host's programs need to run, and `program` if it is elsewhere.
int exec_root_lend_host(const char *dir, const char *program, struct af_error *err);

// Whether a root has this file, so that a box can have its own over it. NULL: the host's.
bool exec_root_has(const char *rootfs, enum exec_root_file file);
const char *exec_root_file_path(enum exec_root_file file); // inside
// The file as it is in a box of this host name, as a memfd (close-on-exec) at its beginning.
// 0 or -errno.
int exec_root_file_new(enum exec_root_file file, const char *hostname, int *ret_fd);

#endif
