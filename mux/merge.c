// The passes of a merge over the delta's entries and records. See merge.h.
//
// In this order, so that each finds what it needs done: directories that moved leave their place
// in the head; files, then directories, that were removed go; what came is put, parents first;
// files that others removed while they were changed come back, and what lost its last name to
// others gets one beside them; at last the records are written, with their links counted. A
// directory is put only while it is unreachable, and only below one that is not: no cycle can come
// of two writers' moves. Read next: merge_place.c, merge_record.c.
#include "mux/merge_priv.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BYTES (1u << 30)

int mux_merge_grow(void **array, size_t *capacity, size_t count, size_t size)
{
    if (count < *capacity)
        return 0;
    if (count >= MUX_MERGE_NAMES_MAX)
        return -E2BIG;
    size_t bigger = *capacity ? *capacity * 2 : 64;
    void *moved = realloc(*array, bigger * size);
    if (!moved)
        return -ENOMEM;
    *array = moved;
    *capacity = bigger;
    return 0;
}

void mux_merge_fini(struct mux_merge *merge)
{
    mux_arena_fini(&merge->arena);
    free(merge->names);
    free(merge->inodes);
    free(merge->fids);
    free(merge->touched);
    free(merge->puts);
    free(merge->losers);
    mux_fid_map_fini(&merge->dirs);
    mux_fid_map_fini(&merge->links);
    mux_fid_map_fini(&merge->put_of);
    mux_fid_map_fini(&merge->is_touched);
}

int mux_merge_conflict(struct mux_merge *merge)
{
    merge->conflicts++;
    return merge->refuse ? -ECANCELED : 0;
}

int mux_merge_step(struct mux_merge *merge)
{
    if (merge->batch == 0 || ++merge->steps < merge->batch)
        return 0;
    merge->steps = 0;
    int rc = store_commit(merge->txn);
    merge->txn = NULL;
    if (rc == 0)
        rc = store_write_begin(merge->store, &merge->txn);
    if (rc < 0)
        merge->txn = NULL;
    return rc;
}

// ---- what the delta says

static int collect_name(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct mux_merge *merge = arg;
    struct store_entry below = {0};
    int rc = mux_resolve_entry(merge->txn, mux_merge_base(merge), parent, entry->name,
                               entry->name_len, &below, NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == -ENOENT)
        below.fid = below.type = 0;
    if (entry->fid == below.fid)
        return 0; // as in the base, or a whiteout of nothing
    rc = mux_merge_grow((void **)&merge->names, &merge->names_capacity, merge->n_names,
                        sizeof *merge->names);
    if (rc < 0)
        return rc;
    const char *name = mux_arena_copy(&merge->arena, entry->name, entry->name_len);
    if (!name)
        return -E2BIG;
    merge->names[merge->n_names++] = (struct mux_merge_name){
        .parent = parent,
        .fid = entry->fid,
        .type = entry->type,
        .base_fid = below.fid,
        .base_type = below.type,
        .name = name,
        .name_len = entry->name_len,
    };
    return 0;
}

static int collect_inode(void *arg, const struct store_inode *inode)
{
    struct mux_merge *merge = arg;
    if (inode->nlink == 0)
        return 0;
    int rc = mux_merge_grow((void **)&merge->inodes, &merge->inodes_capacity, merge->n_inodes,
                            sizeof *merge->inodes);
    if (rc == 0)
        merge->inodes[merge->n_inodes++] = inode->fid;
    return rc;
}

static int collect(struct mux_merge *merge)
{
    merge->arena.cap = ARENA_BYTES;
    int rc = store_layer_entries(merge->txn, merge->view.ids[0], collect_name, merge);
    if (rc == 0)
        rc = store_layer_inodes(merge->txn, merge->view.ids[0], collect_inode, merge);
    return rc;
}

// Reads with nobody waiting for it, then begins to write.
static int collect_aside(struct mux_merge *merge)
{
    int rc = store_read_begin(merge->store, &merge->txn);
    if (rc < 0)
        return rc;
    rc = collect(merge);
    store_read_end(merge->txn);
    merge->txn = NULL;
    return rc < 0 ? rc : store_write_begin(merge->store, &merge->txn);
}

// ---- directories that moved

static int detach_moved(struct mux_merge *merge, const struct mux_merge_name *name)
{
    struct store_inode inode;
    struct store_entry now;
    bool was;
    if (name->fid == 0 || name->type != DT_DIR)
        return 0;
    int rc = mux_resolve_inode(merge->txn, mux_merge_base(merge), name->fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc; // new
    // Where the base had it: somewhere else now, and two writers have moved it.
    rc = mux_merge_look(merge, inode.parent, inode.name, inode.name_len, &now);
    bool moved_twice = rc == 0 && now.fid != name->fid;
    if (rc == 0)
        rc = mux_merge_detach(merge, name->fid, &was);
    if (rc == 0 && moved_twice && was)
        rc = mux_merge_conflict(merge);
    return rc;
}

// ---- what was removed

static bool is_removed(const struct mux_merge_name *name, bool dir)
{
    return name->base_fid != 0 && (name->base_type == DT_DIR) == dir;
}

// Whether others have changed the file since the view's base.
static int changed_since(struct mux_merge *merge, uint64_t fid, bool *ret)
{
    struct mux_inode_copy base;
    struct store_inode head;
    int rc = mux_merge_load(merge, mux_merge_base(merge), fid, &base);
    if (rc == 0)
        rc = mux_resolve_inode(merge->txn, merge->head, fid, &head, NULL);
    if (rc < 0)
        return rc;
    *ret = head.version != base.inode.version && !mux_merge_same_content(&head, &base.inode);
    return 0;
}

static int remove_file(struct mux_merge *merge, const struct mux_merge_name *name)
{
    struct store_entry found;
    bool has_other, changed = false;
    if (!is_removed(name, false) || (name->fid != 0 && name->type != DT_DIR))
        return 0; // a file in its place replaces it: put_file
    int rc = mux_merge_look(merge, name->parent, name->name, name->name_len, &found);
    if (rc < 0 || found.fid == 0)
        return rc;
    if (found.fid != name->base_fid) // somebody else's by now
        return mux_merge_conflict(merge);
    rc = mux_merge_has_name(merge, merge->view, name->base_fid, &has_other);
    if (rc == 0 && !has_other)
        rc = changed_since(merge, name->base_fid, &changed);
    if (rc == 0 && changed)
        return mux_merge_conflict(merge);
    if (rc == 0)
        rc = mux_merge_count_link(merge, name->base_fid, -1);
    if (rc == 0)
        rc = mux_merge_unname(merge, name->parent, name->name, name->name_len);
    return rc;
}

struct removal {
    const struct mux_merge_name *name;
    uint32_t depth;
};

static int deeper_first(const void *a, const void *b)
{
    const struct removal *left = a, *right = b;
    return (left->depth < right->depth) - (left->depth > right->depth);
}

// Directories above one of the base.
static int depth_of(struct mux_merge *merge, uint64_t dir, uint32_t *ret)
{
    struct store_inode inode;
    uint32_t depth = 0;
    for (uint64_t at = dir; at != merge->root_fid; at = inode.parent, depth++) {
        int rc = mux_resolve_inode(merge->txn, mux_merge_base(merge), at, &inode, NULL);
        if (rc < 0)
            return rc == -ENOENT ? -EUCLEAN : rc;
        if (depth > MUX_MERGE_NAMES_MAX)
            return -EUCLEAN;
    }
    *ret = depth;
    return 0;
}

static int remove_directory(struct mux_merge *merge, const struct mux_merge_name *name)
{
    struct store_entry found;
    bool empty;
    int rc = mux_merge_look(merge, name->parent, name->name, name->name_len, &found);
    if (rc < 0 || found.fid != name->base_fid)
        return rc;
    rc = mux_resolve_dir_is_empty(merge->txn, merge->head, found.fid, &empty);
    if (rc < 0)
        return rc;
    if (!empty)
        return mux_merge_conflict(merge);
    return mux_merge_unname(merge, name->parent, name->name, name->name_len);
}

static int remove_directories(struct mux_merge *merge)
{
    size_t count = 0;
    AF_CLEANUP_FREE struct removal *removals = calloc(merge->n_names + 1, sizeof *removals);
    if (!removals)
        return -ENOMEM;
    for (size_t i = 0; i < merge->n_names; i++) {
        const struct mux_merge_name *name = &merge->names[i];
        bool moved = true;
        int rc = is_removed(name, true)
                     ? mux_merge_has_name(merge, merge->view, name->base_fid, &moved)
                     : 0;
        if (rc == 0 && !moved)
            rc = depth_of(merge, name->parent, &removals[count].depth);
        if (rc == 0)
            rc = mux_merge_step(merge);
        if (rc < 0)
            return rc;
        if (!moved)
            removals[count++].name = name;
    }
    qsort(removals, count, sizeof *removals, deeper_first);
    for (size_t i = 0; i < count; i++) {
        int rc = remove_directory(merge, removals[i].name);
        if (rc == 0)
            rc = mux_merge_step(merge);
        if (rc < 0)
            return rc;
    }
    return 0;
}

// ---- what came

static int put_name(struct mux_merge *merge, const struct mux_merge_name *name)
{
    uint64_t parent;
    if (name->fid == 0)
        return 0;
    if (name->type == DT_DIR)
        return mux_merge_target(merge, name->fid, &parent);
    int rc = mux_merge_target(merge, name->parent, &parent);
    return rc < 0 ? rc : mux_merge_put_file(merge, parent, name);
}

struct revival {
    struct mux_merge *merge;
    uint64_t fid;
    uint8_t type;
    struct mux_merge_name *names;
    size_t count, capacity;
};

static int collect_link(void *arg, const struct mux_link *link)
{
    struct revival *revival = arg;
    int rc = mux_merge_grow((void **)&revival->names, &revival->capacity, revival->count,
                            sizeof *revival->names);
    if (rc < 0)
        return rc;
    const char *name = mux_arena_copy(&revival->merge->arena, link->name, link->name_len);
    if (!name)
        return -E2BIG;
    revival->names[revival->count++] = (struct mux_merge_name){
        .parent = link->parent,
        .fid = revival->fid,
        .base_fid = revival->fid,
        .type = revival->type,
        .base_type = revival->type,
        .name = name,
        .name_len = (uint8_t)link->name_len,
    };
    return 0;
}

// A file whose content the view has changed and others have removed: the last writer is the view.
static int revive(struct mux_merge *merge, uint64_t fid)
{
    struct mux_inode_copy base, view;
    bool named;
    int rc = mux_merge_load(merge, mux_merge_base(merge), fid, &base);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc; // new
    rc = mux_merge_load(merge, merge->view, fid, &view);
    if (rc < 0 || S_ISDIR(view.inode.mode) || mux_merge_same_content(&view.inode, &base.inode))
        return rc;
    rc = mux_merge_has_name(merge, merge->head, fid, &named);
    if (rc < 0 || named)
        return rc;
    struct revival revival = {.merge = merge, .fid = fid, .type = IFTODT(view.inode.mode)};
    rc = mux_links_walk(merge->txn, merge->view, &view.inode, collect_link, &revival);
    if (rc == 0 && revival.count > 0)
        rc = mux_merge_conflict(merge);
    for (size_t i = 0; rc == 0 && i < revival.count; i++)
        rc = put_name(merge, &revival.names[i]);
    free(revival.names);
    return rc;
}

static int for_names(struct mux_merge *merge, const struct mux_merge_name *names, size_t count,
                     int (*fn)(struct mux_merge *merge, const struct mux_merge_name *name))
{
    for (size_t i = 0; i < count; i++) {
        int rc = fn(merge, &names[i]);
        if (rc == 0)
            rc = mux_merge_step(merge);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int mux_merge_run(struct mux_merge *merge)
{
    int rc = merge->batch > 0 ? collect_aside(merge) : collect(merge);
    if (rc == 0)
        rc = for_names(merge, merge->names, merge->n_names, detach_moved);
    if (rc == 0)
        rc = for_names(merge, merge->names, merge->n_names, remove_file);
    if (rc == 0)
        rc = remove_directories(merge);
    if (rc == 0)
        rc = for_names(merge, merge->names, merge->n_names, put_name);
    for (size_t i = 0; rc == 0 && i < merge->n_inodes; i++) {
        rc = revive(merge, merge->inodes[i]);
        if (rc == 0)
            rc = mux_merge_step(merge);
    }
    if (rc == 0)
        rc = for_names(merge, merge->losers, merge->n_losers, mux_merge_spare);
    return rc < 0 ? rc : mux_merge_record_all(merge);
}
