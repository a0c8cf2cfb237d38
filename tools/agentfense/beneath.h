// Files of a directory by relative path, never outside of it and never through a symbolic link.
//
// Every function resolves `path` (components joined by single slashes, "" is the directory itself)
// with openat2(2) beneath `root`: no link in any component is followed, ".." and absolute paths are
// refused, no mount point is crossed. So neither an agent's files nor somebody who changes the
// directory at the same time can lead the tool elsewhere.
// Thread: any. Failure: -errno; -ELOOP for a link on the way, -EXDEV for a mount point, -ENOSYS on
// a kernel without openat2 (before 5.6). Read next: apply.h.
#ifndef AF_TOOLS_AGENTFENSE_BENEATH_H
#define AF_TOOLS_AGENTFENSE_BENEATH_H

#include <sys/stat.h>
#include <sys/types.h>

// A file descriptor, close-on-exec, or -errno. The last component is not followed either
// (O_NOFOLLOW is implied; with O_PATH a link can be opened itself).
int beneath_open(int root, const char *path, int flags, mode_t mode);

// The directory that holds `path`, as an O_PATH descriptor, and the last component.
int beneath_parent(int root, const char *path, const char **ret_name);

int beneath_stat(int root, const char *path, struct stat *ret);
int beneath_mkdir(int root, const char *path, mode_t mode);
int beneath_rmdir(int root, const char *path);
// flags: RENAME_NOREPLACE, RENAME_EXCHANGE.
int beneath_rename(int root, const char *from, const char *to, unsigned flags);

// The names in a directory, sorted by bytes; to be freed with beneath_free_names.
int beneath_list(int root, const char *path, char ***ret, size_t *ret_count);
void beneath_free_names(char **names, size_t count);

// Removes a file or a tree; what is gone already is no error.
int beneath_remove(int root, const char *path);

#endif
