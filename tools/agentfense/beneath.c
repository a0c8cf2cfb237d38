// openat2 beneath a directory: see beneath.h. Owns nothing; every failure is returned.
#include "tools/agentfense/beneath.h"

#include "mux/base/cleanup.h"
#include "tools/common/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REMOVE_DEPTH_MAX 2100 // what fits in a path of AF_PATH_MAX, and some

int beneath_open(int root, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (unsigned)(flags | O_NOFOLLOW | O_CLOEXEC),
        .mode = mode,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    // With these two flags a link as the last component is opened, not followed.
    if ((flags & O_PATH) && !(flags & O_DIRECTORY))
        how.flags = (unsigned)(O_PATH | O_NOFOLLOW | O_CLOEXEC);
    for (int tries = 0; tries < 64; tries++) {
        long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how);
        if (fd >= 0)
            return (int)fd;
        if (errno != EAGAIN && errno != EINTR) // EAGAIN: a rename somewhere, try again
            return -errno;
    }
    return -EAGAIN;
}

int beneath_parent(int root, const char *path, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char parent[4096];
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (len >= sizeof parent)
        return -ENAMETOOLONG;
    if (!*path)
        return -EINVAL;
    memcpy(parent, path, len);
    parent[len] = '\0';
    *ret_name = slash ? slash + 1 : path;
    return beneath_open(root, parent, O_PATH | O_DIRECTORY, 0);
}

int beneath_stat(int root, const char *path, struct stat *ret)
{
    AF_CLEANUP_FD int fd = beneath_open(root, path, O_PATH, 0);
    if (fd < 0)
        return fd;
    return fstat(fd, ret) < 0 ? -errno : 0;
}

int beneath_mkdir(int root, const char *path, mode_t mode)
{
    const char *name;
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    if (parent < 0)
        return parent;
    return mkdirat(parent, name, mode) < 0 ? -errno : 0;
}

int beneath_rmdir(int root, const char *path)
{
    const char *name;
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    if (parent < 0)
        return parent;
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int beneath_rename(int root, const char *from, const char *to, unsigned flags)
{
    const char *from_name, *to_name;
    AF_CLEANUP_FD int from_parent = beneath_parent(root, from, &from_name);
    if (from_parent < 0)
        return from_parent;
    AF_CLEANUP_FD int to_parent = beneath_parent(root, to, &to_name);
    if (to_parent < 0)
        return to_parent;
    return renameat2(from_parent, from_name, to_parent, to_name, flags) < 0 ? -errno : 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int beneath_list(int root, const char *path, char ***ret, size_t *ret_count)
{
    int fd = beneath_open(root, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    char **names = NULL;
    size_t count = 0, max = 0;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        names = tool_grow(names, count, &max, sizeof *names);
        names[count++] = tool_copy_text(entry->d_name);
    }
    int failed = errno;
    closedir(dir);
    if (failed) {
        beneath_free_names(names, count);
        return -failed;
    }
    if (count > 0)
        qsort(names, count, sizeof *names, compare_names);
    *ret = names;
    *ret_count = count;
    return 0;
}

void beneath_free_names(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

// Removes what a directory holds; one descriptor per level.
static int remove_content(int parent, const char *name, int depth)
{
    if (depth > REMOVE_DEPTH_MAX)
        return -EMFILE;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    (void)fchmod(fd, 0700);
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM) {
            rc = -errno;
        } else if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0) {
            rc = errno == ENOTEMPTY ? remove_content(fd, entry->d_name, depth + 1) : -errno;
            if (rc == 0 && unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0)
                rc = -errno;
        }
    }
    closedir(dir);
    return rc;
}

int beneath_remove(int root, const char *path)
{
    const char *name;
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    if (parent < 0)
        return parent == -ENOENT ? 0 : parent;
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    int rc = remove_content(parent, name, 0);
    if (rc < 0)
        return rc;
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}
