// The read-only root of a box: the generated files of /etc, and the bwrap options that put the
// root together.
//
// Read next: root.c; bwrap.c for the rest of the command line.
#ifndef AF_EXEC_ROOT_H
#define AF_EXEC_ROOT_H

#include "exec/argv.h"
#include "mux/base/error.h"

#define EXEC_ROOT_FILES 5 // passwd, group, nsswitch.conf, hostname, hosts

// The generated files as memfds (close-on-exec), from which bwrap copies them.
struct exec_root_files {
    int fds[EXEC_ROOT_FILES]; // -1: none
};

#define EXEC_ROOT_FILES_NONE                                                                       \
    {                                                                                              \
        {                                                                                          \
            -1, -1, -1, -1, -1                                                                     \
        }                                                                                          \
    }

// Makes the files for a box of this host name. The caller closes them, also after a failure.
// 0 or -errno.
int exec_root_files_new(const char *hostname, struct exec_root_files *files);
void exec_root_files_close(struct exec_root_files *files);

// Adds the options for the host's minimal root.
void exec_root_host(struct exec_argv *argv, const struct exec_root_files *files);

// Adds the options for a given root directory. NOT_FOUND or FAILED_PRECONDITION when it is none.
int exec_root_directory(struct exec_argv *argv, const struct exec_root_files *files,
                        const char *rootfs, struct af_error *err);

#endif
