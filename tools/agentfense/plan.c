// Planning: see plan.h.
#include "tools/agentfense/plan.h"

#include "mux/base/cleanup.h"
#include "tools/common/memory.h"

#include <stdlib.h>
#include <string.h>

#define BIT(type) (1u << (type))

// The old path of a path, by the nearest new or renamed directory at or above it; `from_parent`
// leaves the path itself out.
static char *old_path_of(const struct changes *changes, const char *path, bool from_parent)
{
    size_t len = strlen(path);
    AF_CLEANUP_FREE char *prefix = tool_copy(path, len);
    for (size_t at = len; at > 0;) {
        prefix[at] = '\0';
        const struct change *change =
            at == len && from_parent
                ? NULL
                : changes_find(changes, prefix, BIT(CHANGE_ADDED) | BIT(CHANGE_RENAMED));
        if (change && change->type == CHANGE_ADDED)
            return NULL;
        if (change) {
            size_t old_len = strlen(change->old_path);
            char *found = tool_alloc(old_len + (len - at) + 1);
            memcpy(found, change->old_path, old_len);
            memcpy(found + old_len, path + at, len - at);
            return found;
        }
        while (at > 0 && path[--at] != '/')
            ;
    }
    return tool_copy(path, len);
}

char *plan_base(const struct changes *changes, const char *path)
{
    return old_path_of(changes, path, false);
}

char *plan_place(const struct changes *changes, const char *path)
{
    return old_path_of(changes, path, true);
}

static int contradiction(struct af_error *err, const char *what, const char *path)
{
    return af_error_set(err, AF_INTERNAL,
                        "the daemon says that '%s' was %s, but it was not in the directory", path,
                        what);
}

static void add_take(struct plan *plan, const struct manifest_entry *entry,
                     const struct change *rename)
{
    plan->takes = tool_grow(plan->takes, plan->n_takes, &plan->max_takes, sizeof *plan->takes);
    plan->takes[plan->n_takes++] =
        (struct plan_take){.path = tool_copy_text(entry->path), .entry = entry, .rename = rename};
}

// What was at a path: by the old names of the directories above it, else by the path as it is.
static const struct manifest_entry *find_old(const struct plan *plan, const char *path,
                                             bool from_parent)
{
    AF_CLEANUP_FREE char *old = old_path_of(plan->changes, path, from_parent);
    const struct manifest_entry *entry = old ? manifest_find(plan->manifest, old) : NULL;
    return entry || from_parent ? entry : manifest_find(plan->manifest, path);
}

// By depth, deepest first; at the same place a rename before a removal, which it replaces.
static int compare_takes(const void *a, const void *b)
{
    const struct plan_take *left = a, *right = b;
    int order = manifest_compare_paths(right->path, left->path);
    return order ? order : (right->rename != NULL) - (left->rename != NULL);
}

static int plan_takes(struct plan *plan, struct af_error *err)
{
    for (size_t i = 0; i < plan->changes->count; i++) {
        const struct change *change = &plan->changes->list[i];
        const struct manifest_entry *entry;
        if (change->type == CHANGE_DELETED) {
            entry = find_old(plan, change->path, true);
            if (!entry)
                entry = manifest_find(plan->manifest, change->path);
            if (!entry)
                return contradiction(err, "deleted", change->path);
            add_take(plan, entry, NULL);
        } else if (change->type == CHANGE_RENAMED) {
            entry = manifest_find(plan->manifest, change->old_path);
            if (!entry)
                return contradiction(err, "renamed", change->old_path);
            add_take(plan, entry, change);
        }
        // Something new at a name that was in use, without a word about what was there.
        if (change->type == CHANGE_ADDED || change->type == CHANGE_RENAMED) {
            entry = find_old(plan, change->path, true);
            if (entry && !entry->skipped)
                add_take(plan, entry, NULL);
        }
    }
    if (plan->n_takes > 0)
        qsort(plan->takes, plan->n_takes, sizeof *plan->takes, compare_takes);
    size_t kept = 0;
    for (size_t i = 0; i < plan->n_takes; i++) {
        struct plan_take *take = &plan->takes[i];
        if (kept > 0 && strcmp(plan->takes[kept - 1].path, take->path) == 0) {
            if (take->rename)
                return af_error_set(err, AF_INTERNAL, "the daemon says that '%s' was renamed twice",
                                    take->path);
            free(take->path);
        } else {
            plan->takes[kept++] = *take;
        }
    }
    plan->n_takes = kept;
    return 0;
}

struct plan_take *plan_find_take(const struct plan *plan, const char *old_path)
{
    size_t low = 0, high = plan->n_takes; // descending
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = manifest_compare_paths(plan->takes[middle].path, old_path);
        if (order == 0)
            return &plan->takes[middle];
        if (order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int plan_puts(struct plan *plan, struct af_error *err)
{
    for (size_t i = 0; i < plan->changes->count; i++) {
        const struct change *change = &plan->changes->list[i];
        struct plan_put put = {.kind = PUT_CREATE, .change = change};
        if (change->type == CHANGE_DELETED || !*change->path)
            continue;
        // The other entry of that path has the mode and the times, too.
        if (change->type == CHANGE_METADATA &&
            changes_find(plan->changes, change->path,
                         BIT(CHANGE_ADDED) | BIT(CHANGE_MODIFIED) | BIT(CHANGE_RENAMED)))
            continue;
        if (change->type == CHANGE_RENAMED) {
            const struct plan_take *take = plan_find_take(plan, change->old_path);
            if (!take) // plan_takes made it
                return contradiction(err, "renamed", change->old_path);
            put.kind = PUT_RENAMED;
            put.take = (size_t)(take - plan->takes);
            put.base = take->entry;
        } else if (change->type != CHANGE_ADDED) {
            put.kind =
                change->type == CHANGE_MODIFIED && !S_ISDIR(change->mode) ? PUT_CONTENT : PUT_META;
            put.base = find_old(plan, change->path, false);
            if (!put.base)
                return contradiction(err, "changed", change->path);
        }
        if (put.base && (put.base->skipped || (put.base->mode & S_IFMT) != (change->mode & S_IFMT)))
            return af_error_set(err, AF_INTERNAL,
                                "the daemon says that '%s' is of another kind than it was",
                                change->path);
        plan->puts = tool_grow(plan->puts, plan->n_puts, &plan->max_puts, sizeof *plan->puts);
        plan->puts[plan->n_puts++] = put;
    }
    return 0;
}

int plan_make(const struct changes *changes, const struct manifest *manifest, struct plan *ret,
              struct af_error *err)
{
    struct plan plan = {.changes = changes, .manifest = manifest};
    if (plan_takes(&plan, err) < 0 || plan_puts(&plan, err) < 0) {
        plan_fini(&plan);
        return -1;
    }
    *ret = plan;
    return 0;
}

void plan_fini(struct plan *plan)
{
    for (size_t i = 0; i < plan->n_takes; i++)
        free(plan->takes[i].path);
    free(plan->takes);
    free(plan->puts);
    memset(plan, 0, sizeof *plan);
}
