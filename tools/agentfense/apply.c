// The commit: renames that are noted, checked and can be undone. See apply.h.
//
// From the first rename on nothing is allocated and no signal interrupts (the caller holds them).
#include "tools/agentfense/apply.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "tools/agentfense/beneath.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAGE_PATH_MAX (APPLY_STAGE_MAX + 32)

void apply_init(struct apply *apply, int root, struct plan *plan, apply_fetch fetch, void *arg)
{
    *apply = (struct apply){.root = root, .plan = plan, .fetch = fetch, .arg = arg};
    apply->before = tool_alloc(plan->n_puts * sizeof *apply->before);
    // At most two steps to put something, one for its attributes.
    apply->steps = tool_alloc((plan->n_takes + 3 * plan->n_puts) * sizeof *apply->steps);
}

void apply_fini(struct apply *apply)
{
    if (*apply->stage && apply->stuck.count == 0)
        (void)beneath_remove(apply->root, apply->stage);
    lines_fini(&apply->conflicts);
    lines_fini(&apply->notes);
    lines_fini(&apply->stuck);
    free(apply->same_as);
    free(apply->before);
    free(apply->steps);
}

int apply_prepare(struct apply *apply, struct af_error *err)
{
    if (fstat(apply->root, &apply->root_stat) < 0)
        return af_error_errno(err, errno, "cannot look at the directory");
    if (verify_plan(apply->root, apply->plan, &apply->conflicts, err) < 0)
        return -1;
    if (apply->conflicts.count > 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%zu of the changed paths changed in the directory meanwhile",
                            apply->conflicts.count);
    return apply_stage_all(apply, err);
}

// ---- steps

static int fail(int errnum, const char *what, const char *path, struct af_error *err)
{
    return af_error_errno(err, errnum, "cannot %s '%s'", what, path);
}

static int changed(const char *path, struct af_error *err)
{
    return af_error_set(err, AF_ABORTED, "'%s' was changed while the changes were applied", path);
}

static void note(struct apply *apply, int kind, size_t index)
{
    apply->steps[apply->n_steps].kind = kind;
    apply->steps[apply->n_steps++].index = index;
}

static int may_go_on(struct apply *apply, struct af_error *err)
{
    if (apply->fail_after == 0 || apply->n_steps + 1 < apply->fail_after)
        return 0;
    return af_error_set(err, AF_ABORTED, "stopped by a test");
}

// A rename that replaces nothing, also where the file system cannot promise that at once.
static int rename_to_free(int root, const char *from, const char *to)
{
    struct stat st;
    int rc = beneath_rename(root, from, to, RENAME_NOREPLACE);
    if (rc != -EINVAL && rc != -ENOSYS)
        return rc;
    rc = beneath_stat(root, to, &st);
    if (rc != -ENOENT)
        return rc < 0 ? rc : -EEXIST;
    return beneath_rename(root, from, to, 0);
}

static int is_still(struct apply *apply, const char *where, const struct manifest_entry *entry)
{
    struct stat st;
    int rc = beneath_stat(apply->root, where, &st);
    return rc < 0 ? rc : manifest_is_same(entry, &st, true);
}

static int take_one(struct apply *apply, size_t index, struct af_error *err)
{
    const struct plan_take *take = &apply->plan->takes[index];
    char stage[STAGE_PATH_MAX];
    if (take->vanished)
        return 0;
    if (may_go_on(apply, err) < 0)
        return -1;
    apply_stage_path(apply, 't', index, stage);
    int rc = rename_to_free(apply->root, take->path, stage);
    if (rc < 0)
        return fail(rc, take->rename ? "move" : "remove", take->path, err);
    note(apply, STEP_TAKE, index);
    return is_still(apply, stage, take->entry) == 1 ? 0 : changed(take->path, err);
}

// New content at the place of the old, which lands in the stage.
static int put_content(struct apply *apply, size_t index, struct af_error *err)
{
    const struct plan_put *put = &apply->plan->puts[index];
    const char *path = put->change->path;
    char stage[STAGE_PATH_MAX], aside[STAGE_PATH_MAX];
    apply_stage_path(apply, 'n', index, stage);
    apply_stage_path(apply, 'o', index, aside);
    int rc = beneath_rename(apply->root, stage, path, RENAME_EXCHANGE);
    if (rc == 0) {
        note(apply, STEP_EXCHANGE, index);
        return is_still(apply, stage, put->base) == 1 ? 0 : changed(path, err);
    }
    if (rc != -EINVAL && rc != -ENOSYS)
        return fail(rc, "replace", path, err);
    rc = rename_to_free(apply->root, path, aside);
    if (rc < 0)
        return fail(rc, "replace", path, err);
    note(apply, STEP_SET_ASIDE, index);
    if (is_still(apply, aside, put->base) != 1)
        return changed(path, err);
    rc = rename_to_free(apply->root, stage, path);
    if (rc < 0)
        return fail(rc, "replace", path, err);
    note(apply, STEP_PLACE, index);
    return 0;
}

static int put_one(struct apply *apply, size_t index, struct af_error *err)
{
    const struct plan_put *put = &apply->plan->puts[index];
    const char *path = put->change->path;
    char stage[STAGE_PATH_MAX];
    int rc;
    if (apply_is_left_out(put) || put->kind == PUT_META)
        return 0;
    if (may_go_on(apply, err) < 0)
        return -1;
    if (put->kind == PUT_CONTENT)
        return put_content(apply, index, err);
    if (put->kind == PUT_CREATE && S_ISDIR(put->change->mode)) {
        rc = beneath_mkdir(apply->root, path, 0700);
        if (rc == 0)
            note(apply, STEP_MKDIR, index);
        return rc < 0 ? fail(rc, "make the directory", path, err) : 0;
    }
    apply_stage_path(apply, put->kind == PUT_RENAMED ? 't' : 'n',
                     put->kind == PUT_RENAMED ? put->take : index, stage);
    rc = rename_to_free(apply->root, stage, path);
    if (rc == 0)
        note(apply, STEP_PLACE, index);
    return rc < 0 ? fail(rc, put->kind == PUT_RENAMED ? "rename to" : "make", path, err) : 0;
}

// ---- attributes

static int change_mode(int fd, mode_t mode)
{
    char link[40]; // an O_PATH descriptor takes no fchmod; this leads to exactly its file
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return chmod(link, mode & 07777) < 0 ? -errno : 0;
}

static int set_attributes(int root, const char *path, mode_t mode, const struct timespec *mtime,
                          const struct stat *owner)
{
    const char *name;
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    if (parent < 0)
        return parent;
    AF_CLEANUP_FD int fd = beneath_open(root, path, O_PATH, 0);
    if (fd < 0)
        return fd;
    if (owner && fchownat(fd, "", owner->st_uid, owner->st_gid, AT_EMPTY_PATH) < 0 &&
        geteuid() == 0)
        return -errno;
    int rc = S_ISLNK(mode) ? 0 : change_mode(fd, mode);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (rc == 0 && mtime) {
        times[1] = *mtime;
        if (utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
            rc = -errno;
    }
    return rc;
}

// Another name of the file was given them already.
static bool is_done(const struct plan_put *put, const struct stat *st, const struct timespec *mtime)
{
    return put->base->dev == st->st_dev && put->base->ino == st->st_ino &&
           put->base->size == (uint64_t)st->st_size && (st->st_mode & 07777) == apply_mode(put) &&
           (!put->change->has_mtime ||
            (st->st_mtim.tv_sec == mtime->tv_sec && st->st_mtim.tv_nsec == mtime->tv_nsec));
}

// For what was not staged with its attributes: new directories, renamed files, metadata alone.
static int put_attributes(struct apply *apply, size_t index, struct af_error *err)
{
    const struct plan_put *put = &apply->plan->puts[index];
    const struct change *change = put->change;
    bool is_new_directory = put->kind == PUT_CREATE && S_ISDIR(change->mode);
    if (!is_new_directory && put->kind != PUT_RENAMED && put->kind != PUT_META)
        return 0;
    if (may_go_on(apply, err) < 0)
        return -1;
    struct timespec mtime = af_timespec_of_ns(change->mtime_ns);
    struct stat *before = &apply->before[index];
    int rc = beneath_stat(apply->root, change->path, before);
    if (rc < 0)
        return fail(rc, "look at", change->path, err);
    if ((before->st_mode & S_IFMT) != (change->mode & S_IFMT) ||
        (put->kind == PUT_META && !S_ISDIR(change->mode) &&
         !manifest_is_same(put->base, before, true) && !is_done(put, before, &mtime)))
        return changed(change->path, err);
    note(apply, STEP_META, index);
    rc = set_attributes(apply->root, change->path, (change->mode & S_IFMT) | apply_mode(put),
                        change->has_mtime ? &mtime : NULL,
                        is_new_directory ? &apply->root_stat : NULL);
    return rc < 0 ? fail(rc, "set the mode and times of", change->path, err) : 0;
}

// ---- undo

static int undo_step(struct apply *apply, const struct apply_step *step)
{
    char stage[STAGE_PATH_MAX];
    if (step->kind == STEP_TAKE) {
        apply_stage_path(apply, 't', step->index, stage);
        return rename_to_free(apply->root, stage, apply->plan->takes[step->index].path);
    }
    const struct plan_put *put = &apply->plan->puts[step->index];
    const struct stat *before = &apply->before[step->index];
    const char *path = put->change->path;
    bool is_rename = put->kind == PUT_RENAMED;
    apply_stage_path(apply, is_rename ? 't' : 'n', is_rename ? put->take : step->index, stage);
    switch (step->kind) {
    case STEP_MKDIR:
        return beneath_rmdir(apply->root, path);
    case STEP_PLACE:
        return rename_to_free(apply->root, path, stage);
    case STEP_EXCHANGE:
        return beneath_rename(apply->root, stage, path, RENAME_EXCHANGE);
    case STEP_SET_ASIDE:
        apply_stage_path(apply, 'o', step->index, stage);
        return rename_to_free(apply->root, stage, path);
    case STEP_META:
        return set_attributes(apply->root, path, before->st_mode, &before->st_mtim, NULL);
    default:
        return -EINVAL;
    }
}

static void undo(struct apply *apply)
{
    while (apply->n_steps > 0) {
        const struct apply_step *step = &apply->steps[--apply->n_steps];
        int rc = undo_step(apply, step);
        const char *path = step->kind == STEP_TAKE ? apply->plan->takes[step->index].path
                                                   : apply->plan->puts[step->index].change->path;
        if (rc < 0 && step->kind != STEP_META)
            lines_add(&apply->stuck, path, strerror(-rc));
    }
}

static int commit(struct apply *apply, struct af_error *err)
{
    const struct plan *plan = apply->plan;
    for (size_t i = 0; i < plan->n_takes; i++) {
        if (take_one(apply, i, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < plan->n_puts; i++) {
        if (put_one(apply, i, err) < 0)
            return -1;
    }
    for (size_t i = plan->n_puts; i-- > 0;) { // what a directory holds before the directory
        if (put_attributes(apply, i, err) < 0)
            return -1;
    }
    return 0;
}

int apply_commit(struct apply *apply, struct af_error *err)
{
    if (commit(apply, err) < 0) {
        undo(apply);
        return -1;
    }
    int rc = beneath_remove(apply->root, apply->stage);
    if (rc < 0)
        lines_add(&apply->notes, apply->stage, "what was removed is still there: delete it");
    else
        apply->stage[0] = '\0';
    return 0;
}
