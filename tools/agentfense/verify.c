// Looking for conflicts before anything is touched: see verify.h.
#include "tools/agentfense/verify.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "tools/agentfense/beneath.h"
#include "tools/common/escape.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct verify {
    int root;
    struct plan *plan;
    struct lines *conflicts;
};

void lines_add(struct lines *lines, const char *path, const char *what)
{
    AF_CLEANUP_FREE char *escaped = tool_escaped(path, strlen(path));
    size_t size = strlen(escaped) + strlen(what) + 4;
    char *line = tool_alloc(size);
    snprintf(line, size, "%s: %s", escaped, what);
    lines->list = tool_grow(lines->list, lines->count, &lines->max, sizeof *lines->list);
    lines->list[lines->count++] = line;
}

void lines_fini(struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        free(lines->list[i]);
    free(lines->list);
    memset(lines, 0, sizeof *lines);
}

// 1 and *ret when it is there, 0 when not, -1 with an error.
static int look(const struct verify *verify, const char *path, struct stat *ret,
                struct af_error *err)
{
    int rc = beneath_stat(verify->root, path, ret);
    if (rc == 0)
        return 1;
    // A directory above it was replaced by a file or a link: what was imported is gone.
    if (rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP)
        return 0;
    return af_error_errno(err, rc, "cannot look at '%s'", path);
}

// One thing inside of a directory that goes for good.
static int check_inside(struct verify *verify, const char *path, struct af_error *err)
{
    struct stat st;
    if (plan_find_take(verify->plan, path))
        return 0; // has a check of its own
    int there = look(verify, path, &st, err);
    if (there <= 0)
        return there;
    const struct manifest_entry *entry = manifest_find(verify->plan->manifest, path);
    if (!entry)
        lines_add(verify->conflicts, path,
                  "appeared while the command ran, in a directory that it "
                  "removed");
    else if (entry->skipped)
        lines_add(verify->conflicts, path,
                  "was left out of the run, in a directory that it removed");
    else if (!manifest_is_same(entry, &st, false))
        lines_add(verify->conflicts, path, "changed while the command ran, which removed it");
    return 0;
}

static int check_tree(struct verify *verify, const char *path, struct af_error *err)
{
    char **names;
    size_t count;
    int rc = beneath_list(verify->root, path, &names, &count);
    if (rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP)
        return 0;
    if (rc < 0)
        return af_error_errno(err, rc, "cannot list '%s'", path);
    for (size_t i = 0; i < count && rc == 0; i++) {
        size_t size = strlen(path) + strlen(names[i]) + 2;
        AF_CLEANUP_FREE char *child = tool_alloc(size);
        snprintf(child, size, "%s/%s", path, names[i]);
        struct stat st;
        const struct plan_take *take = plan_find_take(verify->plan, child);
        rc = check_inside(verify, child, err);
        // What is taken out as a whole, or deleted on its own, is not looked into here.
        if (rc == 0 && !take && beneath_stat(verify->root, child, &st) == 0 &&
            S_ISDIR(st.st_mode) && manifest_find(verify->plan->manifest, child))
            rc = check_tree(verify, child, err);
    }
    beneath_free_names(names, count);
    return rc;
}

static int check_take(struct verify *verify, struct plan_take *take, struct af_error *err)
{
    struct stat st;
    if (take->entry->skipped) {
        lines_add(verify->conflicts, take->path, "was left out of the run");
        return 0;
    }
    int there = look(verify, take->path, &st, err);
    if (there < 0)
        return -1;
    if (!there) {
        take->vanished = !take->rename;
        if (take->rename)
            lines_add(verify->conflicts, take->path,
                      "was removed while the command ran, which renamed it");
        return 0;
    }
    if (!manifest_is_same(take->entry, &st, false)) {
        lines_add(verify->conflicts, take->path,
                  take->rename ? "changed while the command ran, which renamed it"
                               : "changed while the command ran, which removed it");
        return 0;
    }
    return !take->rename && S_ISDIR(take->entry->mode) ? check_tree(verify, take->path, err) : 0;
}

// The place of something new must be free once the takes are out, and its directory still there.
static int check_place(struct verify *verify, const char *path, struct af_error *err)
{
    struct stat st;
    AF_CLEANUP_FREE char *place = plan_place(verify->plan->changes, path);
    if (!place || plan_find_take(verify->plan, place))
        return 0;
    int there = look(verify, place, &st, err);
    if (there < 0)
        return -1;
    if (there) {
        lines_add(verify->conflicts, place,
                  "is in the directory, and the command made something of that name");
        return 0;
    }
    char *slash = strrchr(place, '/');
    if (!slash)
        return 0;
    *slash = '\0';
    const struct manifest_entry *parent = manifest_find(verify->plan->manifest, place);
    there = look(verify, place, &st, err);
    if (there < 0)
        return -1;
    // The kind, too: an inode number is used again at once.
    if (!there || !parent || !S_ISDIR(st.st_mode) || parent->ino != st.st_ino ||
        parent->dev != st.st_dev)
        lines_add(verify->conflicts, place,
                  "was removed or replaced while the command ran, which put something into it");
    return 0;
}

static int check_put(struct verify *verify, const struct plan_put *put, struct af_error *err)
{
    struct stat st;
    if (put->kind == PUT_CREATE || put->kind == PUT_RENAMED)
        return check_place(verify, put->change->path, err);
    if (plan_find_take(verify->plan, put->base->path))
        return 0;
    int there = look(verify, put->base->path, &st, err);
    if (there < 0)
        return -1;
    if (!there || !manifest_is_same(put->base, &st, false))
        lines_add(verify->conflicts, put->base->path,
                  there ? "changed both in the directory and in the sandbox"
                        : "was removed while the command ran, which changed it");
    return 0;
}

int verify_plan(int root, struct plan *plan, struct lines *conflicts, struct af_error *err)
{
    struct verify verify = {.root = root, .plan = plan, .conflicts = conflicts};
    for (size_t i = 0; i < plan->n_takes; i++) {
        if (check_take(&verify, &plan->takes[i], err) < 0)
            return -1;
    }
    for (size_t i = 0; i < plan->n_puts; i++) {
        if (check_put(&verify, &plan->puts[i], err) < 0)
            return -1;
    }
    return 0;
}
