// Where things go in the head: directories by identity or name, files by name. See merge.h.
//
// Everything here changes the head's top layer at once, so that each step sees what the ones
// before have done. Read next: merge.c, merge_record.c.
#include "mux/merge_priv.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX   (1u << 20) // directories above one; beyond, the store has a cycle
#define CHAIN_LOCAL 32

// ---- looking

int mux_merge_load(struct mux_merge *merge, struct mux_layers layers, uint64_t fid,
                   struct mux_inode_copy *ret)
{
    struct store_inode inode;
    int rc = mux_resolve_inode(merge->txn, layers, fid, &inode, NULL);
    return rc < 0 ? rc : mux_inode_copy(&inode, ret);
}

int mux_merge_has_name(struct mux_merge *merge, struct mux_layers layers, uint64_t fid, bool *ret)
{
    struct store_inode inode;
    *ret = false;
    int rc = mux_resolve_inode(merge->txn, layers, fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    return inode.nlink == 0 ? 0 : mux_links_any(merge->txn, layers, &inode, ret);
}

int mux_merge_look(struct mux_merge *merge, uint64_t parent, const char *name, size_t len,
                   struct store_entry *ret)
{
    int rc = mux_resolve_entry(merge->txn, merge->head, parent, name, len, ret, NULL);
    if (rc == -ENOENT)
        *ret = (struct store_entry){0};
    return rc == -ENOENT ? 0 : rc;
}

// ---- names that go

int mux_merge_unname(struct mux_merge *merge, uint64_t parent, const char *name, size_t len)
{
    bool below;
    int rc = mux_resolve_in_lower(merge->txn, merge->head, parent, name, len, &below);
    if (rc < 0)
        return rc;
    rc = below ? store_entry_put_whiteout(merge->txn, merge->head.ids[0], parent, name, len)
               : store_entry_del(merge->txn, merge->head.ids[0], parent, name, len);
    if (rc == -ENOENT)
        rc = 0;
    return rc < 0 ? rc : mux_merge_touch(merge, parent);
}

int mux_merge_detach(struct mux_merge *merge, uint64_t fid, bool *ret_was)
{
    struct mux_inode_copy head;
    struct store_entry found;
    *ret_was = false;
    int rc = mux_merge_load(merge, merge->head, fid, &head);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    rc = mux_merge_look(merge, head.inode.parent, head.name, head.inode.name_len, &found);
    if (rc < 0 || found.fid != fid)
        return rc;
    *ret_was = true;
    return mux_merge_unname(merge, head.inode.parent, head.name, head.inode.name_len);
}

// ---- names that come

static int put_entry(struct mux_merge *merge, uint64_t parent, const char *name, size_t len,
                     uint64_t fid, uint8_t type)
{
    int rc = mux_merge_grow((void **)&merge->puts, &merge->puts_capacity, merge->n_puts,
                            sizeof *merge->puts);
    if (rc < 0)
        return rc;
    const char *copy = mux_arena_copy(&merge->arena, name, len);
    if (!copy)
        return -E2BIG;
    uint64_t before = 0;
    mux_fid_map_get(&merge->put_of, fid, &before);
    merge->puts[merge->n_puts++] =
        (struct mux_merge_put){.parent = parent, .name = copy, .name_len = len, .before = before};
    rc = mux_fid_map_put(&merge->put_of, fid, merge->n_puts);
    if (rc == 0)
        rc = store_entry_put(merge->txn, merge->head.ids[0], parent, copy, len, fid, type);
    return rc < 0 ? rc : mux_merge_touch(merge, parent);
}

// A free name beside one that is taken.
static int find_aside(struct mux_merge *merge, uint64_t parent, const char *name, size_t len,
                      char ret[AF_NAME_MAX + 1])
{
    for (unsigned i = 1; i < UINT16_MAX; i++) {
        char suffix[24];
        struct store_entry found;
        int n = i == 1 ? snprintf(suffix, sizeof suffix, ".conflict")
                       : snprintf(suffix, sizeof suffix, ".conflict-%u", i);
        size_t keep = len + (size_t)n > AF_NAME_MAX ? AF_NAME_MAX - (size_t)n : len;
        memcpy(ret, name, keep);
        memcpy(ret + keep, suffix, (size_t)n + 1);
        int rc = mux_merge_look(merge, parent, ret, keep + (size_t)n, &found);
        if (rc < 0 || found.fid == 0)
            return rc;
    }
    return -EEXIST;
}

// A file makes way for a directory and stays beside it.
static int move_aside(struct mux_merge *merge, uint64_t parent, const char *name, size_t len,
                      const struct store_entry *file)
{
    char aside[AF_NAME_MAX + 1];
    uint64_t fid = file->fid;
    uint8_t type = file->type;
    int rc = mux_merge_conflict(merge);
    if (rc == 0)
        rc = find_aside(merge, parent, name, len, aside);
    if (rc == 0)
        rc = mux_merge_count_link(merge, fid, -1);
    if (rc == 0)
        rc = mux_merge_unname(merge, parent, name, len);
    if (rc == 0)
        rc = mux_merge_count_link(merge, fid, 1);
    return rc < 0 ? rc : put_entry(merge, parent, aside, strlen(aside), fid, type);
}

// ---- directories

int mux_merge_is_reachable(struct mux_merge *merge, uint64_t dir, bool *ret)
{
    struct store_inode inode;
    struct store_entry entry;
    *ret = false;
    for (unsigned depth = 0; dir != merge->root_fid; depth++) {
        uint64_t known;
        if (depth > 0 && mux_fid_map_get(&merge->dirs, dir, &known) && known == dir)
            break;
        if (depth > DEPTH_MAX)
            return -EUCLEAN;
        int rc = mux_resolve_inode(merge->txn, merge->head, dir, &inode, NULL);
        if (rc == 0)
            rc = mux_merge_look(merge, inode.parent, inode.name, inode.name_len, &entry);
        if (rc < 0)
            return rc == -ENOENT ? 0 : rc;
        if (entry.fid != dir)
            return 0;
        dir = inode.parent;
    }
    *ret = true;
    return 0;
}

// A directory that moved to a name which another one has by now keeps its content beside it.
static int place_aside(struct mux_merge *merge, uint64_t parent, struct mux_inode_copy *dir)
{
    char aside[AF_NAME_MAX + 1];
    int rc = mux_merge_conflict(merge);
    if (rc == 0)
        rc = find_aside(merge, parent, dir->name, dir->inode.name_len, aside);
    if (rc < 0)
        return rc;
    dir->inode.name_len = (uint8_t)strlen(aside);
    memcpy(dir->name, aside, dir->inode.name_len);
    return 0;
}

// Puts a directory of the view that the head does not reach below `parent`, where the view has it.
static int place(struct mux_merge *merge, uint64_t dir, uint64_t parent, uint64_t *ret)
{
    struct mux_inode_copy view;
    struct store_entry found;
    bool was, alone;
    int rc = mux_merge_load(merge, merge->view, dir, &view);
    if (rc == 0)
        rc = mux_merge_look(merge, parent, view.name, view.inode.name_len, &found);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    if (found.fid != 0 && found.type == DT_DIR) {
        rc = mux_resolve_dir_is_empty(merge->txn, merge->head, dir, &alone);
        if (rc == 0 && alone) { // made by somebody else: they become one
            *ret = found.fid;
            return mux_fid_map_put(&merge->dirs, dir, found.fid);
        }
        if (rc == 0) // one that moved here, with all it holds
            rc = place_aside(merge, parent, &view);
    } else if (found.fid != 0) {
        rc = move_aside(merge, parent, view.name, view.inode.name_len, &found);
    }
    if (rc == 0) // where another writer has moved it
        rc = mux_merge_detach(merge, dir, &was);
    if (rc == 0 && was)
        rc = mux_merge_conflict(merge);
    if (rc == 0)
        rc = put_entry(merge, parent, view.name, view.inode.name_len, dir, DT_DIR);
    view.inode.parent = parent;
    if (rc == 0)
        rc = store_inode_put(merge->txn, merge->head.ids[0], &view.inode);
    if (rc == 0)
        rc = mux_fid_map_put(&merge->dirs, dir, dir);
    if (rc == 0)
        rc = mux_merge_step(merge);
    *ret = dir;
    return rc;
}

struct chain {
    uint64_t local[CHAIN_LOCAL];
    uint64_t *fids;
    size_t count, capacity;
};

static int chain_add(struct chain *chain, uint64_t fid)
{
    if (chain->count == chain->capacity) {
        size_t capacity = chain->capacity * 4;
        if (capacity > (size_t)4 * DEPTH_MAX)
            return -EUCLEAN;
        uint64_t *fids = malloc(capacity * sizeof *fids);
        if (!fids)
            return -ENOMEM;
        memcpy(fids, chain->fids, chain->count * sizeof *fids);
        if (chain->fids != chain->local)
            free(chain->fids);
        chain->fids = fids;
        chain->capacity = capacity;
    }
    chain->fids[chain->count++] = fid;
    return 0;
}

// From a directory of the view up to the nearest one that has its place in the head; the ones in
// between, lowest first.
static int climb(struct mux_merge *merge, uint64_t dir, struct chain *chain, uint64_t *ret)
{
    for (;;) {
        struct store_inode inode;
        bool there;
        if (dir == merge->root_fid || mux_fid_map_get(&merge->dirs, dir, ret)) {
            if (dir == merge->root_fid)
                *ret = dir;
            return 0;
        }
        int rc = mux_merge_is_reachable(merge, dir, &there);
        if (rc == 0 && there) {
            *ret = dir;
            return mux_fid_map_put(&merge->dirs, dir, dir);
        }
        if (rc == 0)
            rc = chain_add(chain, dir);
        if (rc == 0)
            rc = mux_resolve_inode(merge->txn, merge->view, dir, &inode, NULL);
        if (rc < 0)
            return rc == -ENOENT ? -EUCLEAN : rc;
        dir = inode.parent;
    }
}

int mux_merge_target(struct mux_merge *merge, uint64_t view_dir, uint64_t *ret)
{
    struct chain chain;
    uint64_t at;
    chain.fids = chain.local;
    chain.count = 0;
    chain.capacity = CHAIN_LOCAL;
    int rc = climb(merge, view_dir, &chain, &at);
    for (size_t i = chain.count; rc == 0 && i-- > 0;)
        rc = place(merge, chain.fids[i], at, &at);
    if (chain.fids != chain.local)
        free(chain.fids);
    if (rc == 0)
        *ret = at;
    return rc;
}

// ---- files

// Whether a file that this one takes the name of is not what the view saw there.
static int is_unseen(struct mux_merge *merge, const struct mux_merge_name *name, uint64_t found,
                     bool *ret)
{
    struct store_inode head;
    struct mux_inode_copy base;
    *ret = true;
    if (found != name->base_fid)
        return 0;
    int rc = mux_merge_load(merge, mux_merge_base(merge), found, &base);
    if (rc == 0)
        rc = mux_resolve_inode(merge->txn, merge->head, found, &head, NULL);
    if (rc == 0)
        *ret = head.version != base.inode.version && !mux_merge_same_content(&head, &base.inode);
    return rc == -ENOENT ? 0 : rc;
}

// Two writers have moved a file with one name: the place that the view gave it is the last.
static int detach_moved(struct mux_merge *merge, const struct mux_merge_name *name)
{
    struct store_inode view, base;
    struct mux_inode_copy head;
    struct store_entry found;
    int rc = mux_resolve_inode(merge->txn, mux_merge_base(merge), name->fid, &base, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc; // new
    rc = mux_resolve_inode(merge->txn, merge->view, name->fid, &view, NULL);
    if (rc < 0 || view.nlink != 1)
        return rc;
    rc = mux_merge_load(merge, merge->head, name->fid, &head);
    if (rc < 0 || head.inode.nlink != 1)
        return rc == -ENOENT ? 0 : rc;
    rc = mux_merge_look(merge, head.inode.parent, head.name, head.inode.name_len, &found);
    if (rc < 0 || found.fid != name->fid)
        return rc;
    rc = mux_merge_conflict(merge);
    if (rc == 0)
        rc = mux_merge_count_link(merge, name->fid, -1);
    return rc < 0 ? rc : mux_merge_unname(merge, head.inode.parent, head.name, head.inode.name_len);
}

// The file that `name` takes the head's name of; whether it stays shows when all names are put.
static int note_loser(struct mux_merge *merge, uint64_t parent, const struct mux_merge_name *name,
                      const struct store_entry *found)
{
    if (found->fid == name->base_fid)
        return 0; // the view has seen it there, and has put another in its place
    int rc = mux_merge_grow((void **)&merge->losers, &merge->losers_capacity, merge->n_losers,
                            sizeof *merge->losers);
    if (rc < 0)
        return rc;
    struct mux_merge_name loser = *name;
    loser.parent = parent;
    loser.fid = found->fid;
    loser.type = found->type;
    merge->losers[merge->n_losers++] = loser;
    return 0;
}

int mux_merge_spare(struct mux_merge *merge, const struct mux_merge_name *loser)
{
    char aside[AF_NAME_MAX + 1];
    bool nameless, stays = false;
    int rc = mux_merge_is_nameless(merge, loser->fid, &nameless);
    if (rc < 0 || !nameless)
        return rc;
    // One that is new in the head was made for this name, and the last one has it. A new one of the
    // view's own was in another of its directories, and these have become one.
    rc = mux_merge_has_name(merge, mux_merge_base(merge), loser->fid, &stays);
    if (rc == 0 && !stays)
        rc = mux_merge_has_name(merge, merge->view, loser->fid, &stays);
    if (rc < 0 || !stays)
        return rc;
    rc = find_aside(merge, loser->parent, loser->name, loser->name_len, aside);
    if (rc == 0)
        rc = mux_merge_count_link(merge, loser->fid, 1);
    return rc < 0 ? rc
                  : put_entry(merge, loser->parent, aside, strlen(aside), loser->fid, loser->type);
}

int mux_merge_put_file(struct mux_merge *merge, uint64_t parent, const struct mux_merge_name *name)
{
    struct store_entry found;
    char aside[AF_NAME_MAX + 1];
    const char *text = name->name;
    size_t len = name->name_len;
    bool unseen;
    int rc = mux_merge_look(merge, parent, text, len, &found);
    if (rc < 0 || found.fid == name->fid)
        return rc;
    rc = detach_moved(merge, name);
    if (rc == 0 && found.fid != 0 && found.type == DT_DIR) { // with names that the view never saw
        rc = mux_merge_conflict(merge);
        if (rc == 0)
            rc = find_aside(merge, parent, text, len, aside);
        text = aside;
        len = rc == 0 ? strlen(aside) : 0;
    } else if (rc == 0 && found.fid != 0) {
        rc = is_unseen(merge, name, found.fid, &unseen);
        if (rc == 0 && unseen)
            rc = mux_merge_conflict(merge);
        if (rc == 0)
            rc = note_loser(merge, parent, name, &found);
        if (rc == 0)
            rc = mux_merge_count_link(merge, found.fid, -1);
    }
    if (rc == 0)
        rc = mux_merge_count_link(merge, name->fid, 1);
    return rc < 0 ? rc : put_entry(merge, parent, text, len, name->fid, name->type);
}
