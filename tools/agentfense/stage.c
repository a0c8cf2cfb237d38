// New content, complete and with its attributes, before the directory is touched: see apply.h.
#include "tools/agentfense/apply.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "tools/agentfense/beneath.h"
#include "tools/agentfense/interrupt.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_LIST_MAX  65536
#define XATTR_VALUE_MAX 65536

void apply_stage_path(const struct apply *apply, char letter, size_t index,
                      char out[APPLY_STAGE_MAX + 32])
{
    snprintf(out, APPLY_STAGE_MAX + 32, "%s/%c%zu", apply->stage, letter, index);
}

bool apply_is_left_out(const struct plan_put *put)
{
    return put->kind == PUT_CREATE && S_ISSOCK(put->change->mode);
}

mode_t apply_mode(const struct plan_put *put)
{
    mode_t mode = put->change->mode & 01777;
    if (put->base && put->kind != PUT_CONTENT)
        mode |= put->change->mode & put->base->mode & 06000;
    return mode;
}

static int make_stage(struct apply *apply, struct af_error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    for (int tries = 0; tries < 16; tries++) {
        unsigned char random[8];
        char suffix[sizeof random + 1] = "";
        if (getrandom(random, sizeof random, 0) != sizeof random)
            return af_error_errno(err, EIO, "cannot get random bytes");
        for (size_t i = 0; i < sizeof random; i++)
            suffix[i] = letters[random[i] & 31];
        char name[APPLY_STAGE_MAX];
        snprintf(name, sizeof name, ".agentfense-apply-%s", suffix);
        if (mkdirat(apply->root, name, 0700) == 0) {
            memcpy(apply->stage, name, sizeof name);
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    return af_error_errno(err, errno, "cannot make a directory for the changes");
}

// What a replaced file had beside its content and mode: owner, group, access lists and the like.
// File capabilities go with the content that they were given to.
static int copy_xattrs(int from, int to)
{
    AF_CLEANUP_FREE char *names = tool_alloc(XATTR_LIST_MAX);
    AF_CLEANUP_FREE char *value = tool_alloc(XATTR_VALUE_MAX);
    ssize_t len = flistxattr(from, names, XATTR_LIST_MAX);
    if (len < 0)
        return errno == ENOTSUP ? 0 : -errno;
    for (const char *name = names; name < names + len; name += strlen(name) + 1) {
        if (strcmp(name, "security.capability") == 0)
            continue;
        ssize_t size = fgetxattr(from, name, value, XATTR_VALUE_MAX);
        if (size < 0 && errno == ENODATA)
            continue;
        if (size < 0)
            return -errno;
        if (fsetxattr(to, name, value, (size_t)size, 0) < 0 && errno != ENOTSUP &&
            !(errno == EPERM && geteuid() != 0))
            return -errno;
    }
    return 0;
}

static int give_owner(int fd, const struct stat *owner)
{
    if (fchownat(fd, "", owner->st_uid, owner->st_gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    return geteuid() != 0 ? 0 : -errno; // who is not root owns what he makes
}

static int set_times(int parent, const char *name, const struct change *change)
{
    if (!change->has_mtime)
        return 0;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, af_timespec_of_ns(change->mtime_ns)};
    return utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int stage_regular(struct apply *apply, const struct plan_put *put, int dir, const char *name,
                         struct af_error *err)
{
    const struct change *change = put->change;
    struct stat owner = apply->root_stat, st;
    AF_CLEANUP_FD int fd =
        openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return af_error_errno(err, errno, "cannot make a file for '%s'", change->path);
    if (apply->fetch(apply->arg, change->path, fd, err) < 0)
        return -1;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != change->size)
        return af_error_set(err, AF_ABORTED,
                            "'%s' has %" PRIu64 " bytes, not the %" PRIu64
                            " that were listed: something still writes to it",
                            change->path, (uint64_t)st.st_size, change->size);
    int rc = 0;
    if (put->base) {
        AF_CLEANUP_FD int old =
            beneath_open(apply->root, put->base->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
        if (old < 0 || fstat(old, &owner) < 0)
            rc = old < 0 ? old : -errno;
        else
            rc = copy_xattrs(old, fd);
    }
    if (rc == 0)
        rc = give_owner(fd, &owner);
    if (rc == 0 && fchmod(fd, apply_mode(put)) < 0)
        rc = -errno;
    return rc < 0 ? af_error_errno(err, rc, "cannot prepare '%s'", change->path) : 0;
}

static int stage_special(struct apply *apply, const struct plan_put *put, int dir, const char *name)
{
    const struct change *change = put->change;
    if (S_ISLNK(change->mode)) {
        if (symlinkat(change->target, dir, name) < 0)
            return -errno;
    } else if (mkfifoat(dir, name, 0600) < 0) {
        return -errno;
    }
    AF_CLEANUP_FD int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = give_owner(fd, &apply->root_stat);
    // Nobody else can reach the stage, so that the name is what was just made.
    if (rc == 0 && !S_ISLNK(change->mode) && fchmodat(dir, name, apply_mode(put), 0) < 0)
        rc = -errno;
    return rc;
}

// ---- names of one file

struct staged {
    uint64_t ino;
    bool replaces; // a file whose owner and attributes are to be kept
    size_t index;
};

static int compare_staged(const void *a, const void *b)
{
    const struct staged *left = a, *right = b;
    if (left->ino != right->ino)
        return left->ino < right->ino ? -1 : 1;
    if (left->replaces != right->replaces)
        return left->replaces ? -1 : 1;
    return left->index < right->index ? -1 : left->index > right->index;
}

// Which put stages the file that a put is a name of: itself, as a rule.
static void find_names(struct apply *apply)
{
    const struct plan *plan = apply->plan;
    AF_CLEANUP_FREE struct staged *list = tool_alloc((plan->n_puts + 1) * sizeof *list);
    size_t count = 0;
    apply->same_as = tool_alloc((plan->n_puts + 1) * sizeof *apply->same_as);
    for (size_t i = 0; i < plan->n_puts; i++) {
        const struct plan_put *put = &plan->puts[i];
        bool replaces = put->kind == PUT_CONTENT;
        apply->same_as[i] = i;
        if ((replaces || put->kind == PUT_CREATE) && S_ISREG(put->change->mode) && put->change->ino)
            list[count++] = (struct staged){put->change->ino, replaces, i};
    }
    qsort(list, count, sizeof *list, compare_staged);
    for (size_t i = 1; i < count; i++)
        if (list[i].ino == list[i - 1].ino)
            apply->same_as[list[i].index] = apply->same_as[list[i - 1].index];
}

static int stage_one(struct apply *apply, size_t index, int dir, struct af_error *err)
{
    const struct plan_put *put = &apply->plan->puts[index];
    const struct change *change = put->change;
    char name[32];
    if (apply_is_left_out(put)) {
        lines_add(&apply->notes, change->path, "a socket, not taken over");
        return 0;
    }
    if ((change->mode & 07777) != apply_mode(put))
        lines_add(&apply->notes, change->path, "set-user-id and set-group-id not taken over");
    bool is_new_file = put->kind == PUT_CREATE && !S_ISDIR(change->mode);
    if (!is_new_file && put->kind != PUT_CONTENT)
        return 0;
    snprintf(name, sizeof name, "n%zu", index);
    int rc;
    if (S_ISREG(change->mode))
        rc = stage_regular(apply, put, dir, name, err);
    else if ((rc = stage_special(apply, put, dir, name)) < 0)
        rc = af_error_errno(err, rc, "cannot prepare '%s'", change->path);
    if (rc == 0 && (rc = set_times(dir, name, change)) < 0)
        rc = af_error_errno(err, rc, "cannot set the times of '%s'", change->path);
    return rc;
}

// Where there are no hard links, or no more of them, each name is a file of its own.
static int stage_name(struct apply *apply, size_t index, int dir, struct af_error *err)
{
    char from[32], to[32];
    snprintf(from, sizeof from, "n%zu", apply->same_as[index]);
    snprintf(to, sizeof to, "n%zu", index);
    return linkat(dir, from, dir, to, 0) == 0 ? 0 : stage_one(apply, index, dir, err);
}

int apply_stage_all(struct apply *apply, struct af_error *err)
{
    if (make_stage(apply, err) < 0)
        return -1;
    AF_CLEANUP_FD int dir = beneath_open(apply->root, apply->stage, O_RDONLY | O_DIRECTORY, 0);
    if (dir < 0)
        return af_error_errno(err, dir, "cannot open the directory for the changes");
    find_names(apply);
    for (size_t i = 0; i < apply->plan->n_puts; i++) {
        if (interrupt_check(err) < 0 ||
            (apply->same_as[i] == i && stage_one(apply, i, dir, err) < 0))
            return -1;
    }
    for (size_t i = 0; i < apply->plan->n_puts; i++) {
        if (apply->same_as[i] != i &&
            (interrupt_check(err) < 0 || stage_name(apply, i, dir, err) < 0))
            return -1;
    }
    // Content before names: after a power cut no name leads to an empty file.
    return syncfs(dir) < 0 ? af_error_errno(err, errno, "cannot write the changes to disk") : 0;
}
