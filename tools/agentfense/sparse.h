// Files with holes: where the data is, and writing zeros as holes.
//
// Owns nothing. Any thread. Read next: import.c, showdiff.c (view_fetch).
#ifndef AF_TOOLS_AGENTFENSE_SPARSE_H
#define AF_TOOLS_AGENTFENSE_SPARSE_H

#include <stddef.h>
#include <sys/types.h>

// The next extent with data in [at, size): *ret_data is where it begins, `size` when there is none;
// *ret_end where it ends. Where the file system cannot tell, everything is data. Moves the offset.
void sparse_next(int fd, off_t at, off_t size, off_t *ret_data, off_t *ret_end);

// Writes to a fresh file at `offset`, leaving out aligned blocks that are zeros. The file may end
// before offset + len: ftruncate it to its size at the end. 0 or -errno.
int sparse_write(int fd, const void *data, size_t len, off_t offset);

#endif
