// Changes an attached view through the operations of mux/ops.h, by path: what delta_writer.h does
// by writing records. Each call returns 0 or -errno.
#ifndef AF_TESTS_MUX_VIEW_WRITER_H
#define AF_TESTS_MUX_VIEW_WRITER_H

#include "tests/unit/mux/delta_writer.h"

int view_mkdir(struct delta_writer *writer, const char *path);
int view_write(struct delta_writer *writer, const char *path, const char *text);
int view_symlink(struct delta_writer *writer, const char *path, const char *target);
int view_unlink(struct delta_writer *writer, const char *path);
int view_rmdir(struct delta_writer *writer, const char *path);
int view_rename(struct delta_writer *writer, const char *from, const char *to);
int view_exchange(struct delta_writer *writer, const char *a, const char *b);
int view_chmod(struct delta_writer *writer, const char *path, mode_t mode);

#endif
