// Reads and writes that go on until all is done.
//
// For files of a local file system, where a short count is a signal's or the end's doing.
// Threads: any. Blocks as the file does.
#ifndef AF_MUX_BASE_WHOLE_H
#define AF_MUX_BASE_WHOLE_H

#include <stddef.h>
#include <sys/types.h>

// Reads `size` bytes from `offset` on, or what there is up to the file's end. Returns how many;
// -errno.
ssize_t af_read_whole(int fd, void *buf, size_t size, off_t offset);

// Writes all of it at `offset`. 0; -errno, -EIO when the file takes nothing: some of it may be
// there.
int af_write_whole(int fd, const void *data, size_t len, off_t offset);

#endif
