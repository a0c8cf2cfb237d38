// Changes a sandbox's view by writing its delta's records, without the operations of mux/ops.h:
// for tests of what reads a delta. Each call is one transaction and returns 0 or -errno as the
// system call of its name would.
#ifndef AF_TESTS_MUX_DELTA_WRITER_H
#define AF_TESTS_MUX_DELTA_WRITER_H

#include "tests/unit/mux/fixture.h"

struct delta_writer {
    struct fixture *fixture;
    struct af_id sandbox;
};

int delta_mkdir(struct delta_writer *writer, const char *path);
// Creates the file or replaces its content. text: at most AF_INLINE_CONTENT_MAX bytes.
int delta_write(struct delta_writer *writer, const char *path, const char *text);
int delta_symlink(struct delta_writer *writer, const char *path, const char *target);
int delta_unlink(struct delta_writer *writer, const char *path);
int delta_rmdir(struct delta_writer *writer, const char *path);
int delta_rename(struct delta_writer *writer, const char *from, const char *to);
int delta_exchange(struct delta_writer *writer, const char *a, const char *b);
int delta_link(struct delta_writer *writer, const char *from, const char *to);
int delta_chmod(struct delta_writer *writer, const char *path, mode_t mode);

#endif
