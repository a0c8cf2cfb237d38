// The bytes of one file into another: by sharing extents where the file system can, else by
// copy_file_range, else by hand; holes stay holes. Internal to mux. Blocks. Owns nothing; any
// thread. Errors: -errno. Read next: copy_up.h, import_host.c.
#ifndef AF_MUX_COPY_FILE_H
#define AF_MUX_COPY_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

// Makes `to` share all extents of `from`. False when these two cannot.
bool mux_clone_file(int from, int to);
// Copies `len` bytes from `offset` on to the same place. A file that ends before is no error.
int mux_copy_bytes(int from, int to, off_t offset, size_t len);
// The same without holes: copies [offset, end) of the data that is there. `to` has holes
// elsewhere; its size is the caller's to set.
int mux_copy_extents(int from, int to, off_t offset, off_t end);

#endif
