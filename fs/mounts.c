// What is mounted where, and how to end a FUSE connection that nobody serves any more.
//
// Reads /proc/self/mountinfo and the fusectl file system; never looks into a FUSE mount, which
// could wait for its server for ever. Owns nothing, locks nothing. Fails with -errno.
// Read next: recover.c, session.c.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

int fs_mount_canonical(const char *path, char **ret)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (path[0] != '/' || len < 2 || len >= PATH_MAX)
        return -EINVAL;
    char copy[PATH_MAX];
    memcpy(copy, path, len);
    copy[len] = '\0';
    char *slash = strrchr(copy, '/');
    const char *last = slash + 1;
    if (strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        return -EINVAL;
    char parent[PATH_MAX];
    *slash = '\0';
    if (!realpath(copy[0] ? copy : "/", parent))
        return -errno;
    char *joined;
    if (asprintf(&joined, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, last) < 0)
        return -ENOMEM;
    *ret = joined;
    return 0;
}

// Undoes mountinfo's \ooo escapes, in place.
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

// "36 35 0:78 / /mnt rw,nosuid - fuse.agentfense agentfense rw,...": whether it is on path.
static bool parse_line(char *line, const char *path, struct fs_mount *ret)
{
    char *fields[5] = {NULL};
    char *save = NULL;
    char *field = strtok_r(line, " ", &save);
    for (int i = 0; i < 5 && field; i++, field = strtok_r(NULL, " ", &save))
        fields[i] = field;
    while (field && strcmp(field, "-") != 0)
        field = strtok_r(NULL, " ", &save);
    const char *type = field ? strtok_r(NULL, " ", &save) : NULL;
    if (!fields[4] || !type)
        return false;
    unescape(fields[4]);
    if (strcmp(fields[4], path) != 0)
        return false;
    struct fs_mount mount = {0};
    char *end;
    mount.major = (unsigned)strtoul(fields[2], &end, 10);
    if (*end != ':')
        return false;
    mount.minor = (unsigned)strtoul(end + 1, NULL, 10);
    mount.is_ours = strcmp(type, FS_TYPE) == 0;
    snprintf(mount.type, sizeof mount.type, "%.*s", (int)sizeof mount.type - 1, type);
    *ret = mount;
    return true;
}

int fs_mount_find(const char *path, struct fs_mount *ret)
{
    AF_CLEANUP_FILE FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file)
        return -errno;
    AF_CLEANUP_FREE char *line = NULL;
    size_t capacity = 0;
    int found = 0;
    while (getline(&line, &capacity, file) > 0)
        if (parse_line(line, path, ret)) // the last one is on top
            found = 1;
    return ferror(file) ? -EIO : found;
}

// One of a connection's files, for writing; -errno.
static int open_of_connection(unsigned minor, const char *file)
{
    char name[64];
    snprintf(name, sizeof name, "%u/%s", minor, file);
    // A private instance: it need not be mounted anywhere, nor stay.
    AF_CLEANUP_FD int context = fsopen("fusectl", FSOPEN_CLOEXEC), dir = -1;
    if (context >= 0 && fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        dir = fsmount(context, FSMOUNT_CLOEXEC, 0);
    if (dir < 0)
        dir = open("/sys/fs/fuse/connections", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = dir < 0 ? -1 : openat(dir, name, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int tell_connection(unsigned minor, const char *file, const char *text)
{
    AF_CLEANUP_FD int fd = open_of_connection(minor, file);
    if (fd < 0)
        return fd;
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

int fs_mount_abort(unsigned minor)
{
    return tell_connection(minor, "abort", "1");
}

int fs_mount_open_abort(unsigned minor)
{
    return open_of_connection(minor, "abort");
}

int fs_mount_set_background(unsigned minor, unsigned count)
{
    char text[16];
    snprintf(text, sizeof text, "%u", count);
    return tell_connection(minor, "max_background", text);
}
