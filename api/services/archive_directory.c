// A directory of the host into a codebase, with the caller's own rights.
//
// Walked by descriptors, links never followed, under the caller's file-system uid and groups: what
// they could not read, the daemon does not read for them. While it puts something into the import
// the thread is root, for the store is root's. A directory of the daemon's own mount is refused
// (B1). Owns the walk's stack. Read next: archive.h, ignore.h.
#include "api/services/archive.h"
#include "api/services/ignore.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uthash.h>

#define DEPTH_MAX   512 // of directories: each takes a descriptor
#define PATH_SHOWN  160
#define GROUPS_MAX  1024
#define CHECK_EVERY 64 // entries between two looks whether the call was cancelled

struct level {
    struct level *up;
    const char *path; // of the directory, relative
    struct ignore_list *ignore;
};

struct first_name {
    struct {
        dev_t dev;
        ino_t ino;
    } key;
    char *path;
    UT_hash_handle hh;
};

struct walk {
    const struct archive_directory *directory;
    struct mux_import *import;
    struct first_name *names;
    unsigned entries;
    struct af_error *err;
};

// ---- whose rights

static void become_caller(const struct walk *walk)
{
    if (walk->directory->uid == 0)
        return;
    setfsgid(walk->directory->gid);
    setfsuid(walk->directory->uid);
}

static void become_root(const struct walk *walk)
{
    if (walk->directory->uid == 0)
        return;
    setfsuid(0);
    setfsgid(0);
}

// This thread's supplementary groups become the caller's: glibc's setgroups would change them for
// every thread.
static int take_groups(const struct archive_directory *directory, struct af_error *err)
{
    char buffer[16384];
    struct passwd entry, *found = NULL;
    gid_t groups[GROUPS_MAX];
    int count = 0;
    if (directory->uid == 0)
        return 0;
    if (getpwuid_r(directory->uid, &entry, buffer, sizeof buffer, &found) == 0 && found) {
        count = AF_ARRAY_LEN(groups);
        if (getgrouplist(found->pw_name, directory->gid, groups, &count) < 0)
            count = 0;
    }
    if (syscall(SYS_setgroups, count, groups) < 0)
        return af_error_errno(err, errno, "cannot take the caller's groups");
    return 0;
}

// ---- entries

static int fail(struct walk *walk, const char *what, const char *path)
{
    return af_error_errno(walk->err, errno, "cannot %s '%.*s'", what, PATH_SHOWN, path);
}

static int64_t mtime_ns(const struct stat *st)
{
    return st->st_mtim.tv_sec * AF_NS_PER_SEC + st->st_mtim.tv_nsec;
}

static int put(struct walk *walk, const char *path, const struct stat *st, const char *target)
{
    become_root(walk);
    int rc = mux_import_entry(walk->import, path, strlen(path), st->st_mode, mtime_ns(st), target,
                              target ? strlen(target) : 0, walk->err);
    become_caller(walk);
    return rc;
}

static int put_link(struct walk *walk, const char *path, const char *first)
{
    become_root(walk);
    int rc = mux_import_link(walk->import, path, strlen(path), first, strlen(first), walk->err);
    become_caller(walk);
    return rc;
}

// Takes fd.
static int put_data(struct walk *walk, const char *path, const struct stat *st, int fd)
{
    become_root(walk);
    int rc = mux_import_file(walk->import, path, strlen(path), st, fd, walk->err);
    become_caller(walk);
    return rc;
}

// Whether the codebase has it like this already. target: of a link.
static int keep(struct walk *walk, const char *path, const struct stat *st, const char *target,
                bool *ret)
{
    become_root(walk);
    int rc = mux_import_keep(walk->import, path, strlen(path), st, target,
                             target ? strlen(target) : 0, ret, walk->err);
    become_caller(walk);
    return rc;
}

// A file with several names: the first is the file. *ret_first: an earlier name, or NULL.
static int look_up_links(struct walk *walk, const struct stat *st, const char *path,
                         const char **ret_first)
{
    struct first_name *name, key = {0};
    *ret_first = NULL;
    if (st->st_nlink < 2)
        return 0;
    key.key.dev = st->st_dev;
    key.key.ino = st->st_ino;
    HASH_FIND(hh, walk->names, &key.key, sizeof key.key, name);
    if (name) {
        *ret_first = name->path;
        return 0;
    }
    name = calloc(1, sizeof *name);
    if (name)
        name->path = strdup(path);
    if (!name || !name->path) {
        free(name);
        return af_error_errno(walk->err, ENOMEM, "cannot read the directory");
    }
    name->key = key.key;
    HASH_ADD(hh, walk->names, key, sizeof name->key, name);
    return 0;
}

static int put_file(struct walk *walk, int dir, const char *name, const char *path)
{
    struct stat st;
    const char *first;
    AF_CLEANUP_FD int fd =
        openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0; // gone since it was listed
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail(walk, "open", path);
    if (!S_ISREG(st.st_mode))
        return af_error_set(walk->err, AF_ABORTED, "'%.*s' changes while it is read", PATH_SHOWN,
                            path);
    if (look_up_links(walk, &st, path, &first) < 0)
        return -1;
    if (first)
        return put_link(walk, path, first);
    return put_data(walk, path, &st, af_take_fd(&fd));
}

static int put_symlink(struct walk *walk, int dir, const char *name, const char *path,
                       const struct stat *st)
{
    char target[AF_SYMLINK_MAX + 1];
    const char *first;
    bool kept;
    if (look_up_links(walk, st, path, &first) < 0)
        return -1;
    if (first)
        return put_link(walk, path, first);
    ssize_t n = readlinkat(dir, name, target, sizeof target);
    if (n == (ssize_t)sizeof target)
        errno = ENAMETOOLONG;
    if (n < 0 || n == (ssize_t)sizeof target)
        return fail(walk, "read the link", path);
    target[n] = '\0';
    if (keep(walk, path, st, target, &kept) < 0)
        return -1;
    return kept ? 0 : put(walk, path, st, target);
}

// ---- which are left out

static bool is_left_out(const struct walk *walk, const struct level *level, const char *path,
                        bool is_dir)
{
    for (; level; level = level->up) {
        size_t skip = *level->path ? strlen(level->path) + 1 : 0;
        enum ignore_verdict verdict =
            level->ignore ? ignore_check(level->ignore, path + skip, strlen(path + skip), is_dir)
                          : IGNORE_UNDECIDED;
        if (verdict != IGNORE_UNDECIDED)
            return verdict == IGNORE_LEAVE_OUT;
    }
    const struct ignore_list *exclude = walk->directory->exclude;
    return exclude && ignore_check(exclude, path, strlen(path), is_dir) == IGNORE_LEAVE_OUT;
}

// Adds an ignore file's lines, if there is one that can be read.
static int read_ignore_file(struct walk *walk, int dir, const char *name, struct level *level)
{
    struct stat st;
    AF_CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > IGNORE_BYTES_MAX)
        return 0;
    AF_CLEANUP_FREE char *text = malloc((size_t)st.st_size + 1);
    ssize_t n = text ? pread(fd, text, (size_t)st.st_size, 0) : -1;
    if (text && !level->ignore)
        level->ignore = ignore_new();
    if (!text || !level->ignore || (n > 0 && !ignore_add(level->ignore, text, (size_t)n)))
        return af_error_errno(walk->err, ENOMEM, "cannot read the ignore files");
    return 0;
}

// ---- the walk

static int walk_directory(struct walk *walk, int parent, const char *name, const char *path,
                          struct level *up, unsigned depth);

// What it is, when the directory does not say: DT_UNKNOWN then as well when it is gone.
static int type_of(struct walk *walk, int dir, const struct dirent *entry, const char *path,
                   unsigned char *ret)
{
    struct stat st;
    *ret = entry->d_type;
    if (*ret != DT_UNKNOWN)
        return 0;
    if (fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        *ret = IFTODT(st.st_mode);
    else if (errno != ENOENT)
        return fail(walk, "look at", path);
    return 0;
}

static int put_one(struct walk *walk, int dir, const struct dirent *entry, const char *path,
                   struct level *level, unsigned depth)
{
    const char *name = entry->d_name;
    struct stat st;
    unsigned char type;
    bool kept = false;
    if (type_of(walk, dir, entry, path, &type) < 0)
        return -1;
    if (is_left_out(walk, level, path, type == DT_DIR))
        return 0;
    if (type == DT_DIR)
        return walk_directory(walk, dir, name, path, level, depth + 1);
    if (type == DT_REG && !mux_import_may_keep(walk->import))
        return put_file(walk, dir, name, path);
    if (type != DT_REG && type != DT_LNK && type != DT_FIFO)
        return 0;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fail(walk, "look at", path); // gone since it was listed
    if (S_ISLNK(st.st_mode))
        return put_symlink(walk, dir, name, path, &st);
    if (S_ISFIFO(st.st_mode))
        return put(walk, path, &st, NULL);
    if (!S_ISREG(st.st_mode))
        return 0;
    if (keep(walk, path, &st, NULL, &kept) < 0)
        return -1;
    return kept ? 0 : put_file(walk, dir, name, path);
}

static int walk_names(struct walk *walk, DIR *stream, const char *path, struct level *level,
                      unsigned depth)
{
    char child[AF_PATH_MAX + 2];
    int rc = 0;
    while (rc == 0) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry)
            return errno ? fail(walk, "list", path) : 0;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (++walk->entries % CHECK_EVERY == 0 && walk->directory->cancelled(walk->directory->arg))
            return af_error_set(walk->err, AF_CANCELLED, "the call was cancelled");
        int len = snprintf(child, sizeof child, "%s%s%s", path, *path ? "/" : "", entry->d_name);
        if (len > AF_PATH_MAX)
            return af_error_set(walk->err, AF_INVALID_ARGUMENT,
                                "a path below '%.*s' has more than %d bytes", PATH_SHOWN, path,
                                AF_PATH_MAX);
        rc = put_one(walk, dirfd(stream), entry, child, level, depth);
    }
    return rc;
}

static int walk_directory(struct walk *walk, int parent, const char *name, const char *path,
                          struct level *up, unsigned depth)
{
    struct level level = {.up = up, .path = path};
    struct stat st;
    bool kept = false;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (up ? O_NOFOLLOW : 0));
    if (fd < 0 && errno == ENOENT && up)
        return 0; // gone since it was listed
    if (fd < 0 || fstat(fd, &st) < 0) {
        fail(walk, "open the directory", *path ? path : name);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    DIR *stream = fdopendir(fd);
    int rc = 0;
    if (!stream) {
        close(fd);
        return fail(walk, "list", path);
    }
    if (depth > DEPTH_MAX || st.st_dev == walk->directory->refused_dev)
        rc = af_error_set(walk->err, AF_INVALID_ARGUMENT,
                          depth > DEPTH_MAX ? "'%.*s' is nested too deep"
                                            : "'%.*s' lies inside the daemon's own mount",
                          PATH_SHOWN, *path ? path : name);
    if (rc == 0)
        rc = keep(walk, path, &st, NULL, &kept);
    if (rc == 0 && !kept)
        rc = put(walk, path, &st, NULL);
    if (rc == 0 && walk->directory->honour_ignore_files &&
        (read_ignore_file(walk, fd, ".gitignore", &level) < 0 ||
         read_ignore_file(walk, fd, ".sandboxignore", &level) < 0))
        rc = -1;
    if (rc == 0)
        rc = walk_names(walk, stream, path, &level, depth);
    closedir(stream);
    ignore_free(level.ignore);
    return rc;
}

int archive_read_directory(const struct archive_directory *directory, struct mux_import *import,
                           struct af_error *err)
{
    struct walk walk = {.directory = directory, .import = import, .err = err};
    if (take_groups(directory, err) < 0)
        return -1;
    become_caller(&walk);
    int rc = walk_directory(&walk, AT_FDCWD, directory->path, "", NULL, 0);
    become_root(&walk);
    struct first_name *name, *next;
    HASH_ITER (hh, walk.names, name, next) {
        HASH_DEL(walk.names, name);
        free(name->path);
        free(name);
    }
    return rc;
}
