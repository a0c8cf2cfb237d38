// The records of a merge: content and attributes three ways, names counted. See merge.h.
//
// What only one writer has changed is his; what both have is the view's, the last writer's. So a
// file moved by one and written by the other is both. A file whose last name went has no record in
// the head's layers above: what lies below is not reached. Read next: merge.c.
#include "mux/merge_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// Map values of merge->links: the change is kept beside a bias, so that it may be negative, and
// whether the head had the file before the merge touched its names.
#define CHANGE_BIAS (1LL << 40)
#define WAS_NAMED   (1ULL << 62)

bool mux_merge_same_content(const struct store_inode *a, const struct store_inode *b)
{
    if (a->content != b->content || a->size != b->size || (a->mode & S_IFMT) != (b->mode & S_IFMT))
        return false;
    if (a->content == STORE_CONTENT_BLOB)
        return a->blob == b->blob;
    return a->content != STORE_CONTENT_INLINE ||
           (a->inline_len == b->inline_len &&
            memcmp(a->inline_data, b->inline_data, a->inline_len) == 0);
}

// ---- what is to be recorded

static int note_fid(struct mux_merge *merge, uint64_t fid)
{
    bool named;
    if (mux_fid_map_get(&merge->links, fid, NULL))
        return 0;
    int rc = mux_merge_has_name(merge, merge->head, fid, &named);
    if (rc == 0)
        rc = mux_merge_grow((void **)&merge->fids, &merge->fids_capacity, merge->n_fids,
                            sizeof *merge->fids);
    if (rc < 0)
        return rc;
    merge->fids[merge->n_fids++] = fid;
    return mux_fid_map_put(&merge->links, fid, (uint64_t)CHANGE_BIAS | (named ? WAS_NAMED : 0));
}

int mux_merge_count_link(struct mux_merge *merge, uint64_t fid, int change)
{
    uint64_t value = 0;
    int rc = note_fid(merge, fid);
    if (rc < 0)
        return rc;
    mux_fid_map_get(&merge->links, fid, &value);
    return mux_fid_map_put(&merge->links, fid, value + (uint64_t)(int64_t)change);
}

// Names that a file has by now. head: its record there, or NULL.
static int64_t names_of(const struct mux_merge *merge, uint64_t fid, const struct store_inode *head,
                        bool *ret_was)
{
    uint64_t value = (uint64_t)CHANGE_BIAS;
    mux_fid_map_get(&merge->links, fid, &value);
    *ret_was = value & WAS_NAMED;
    return (int64_t)(value & ~WAS_NAMED) - CHANGE_BIAS + (*ret_was && head ? head->nlink : 0);
}

int mux_merge_is_nameless(struct mux_merge *merge, uint64_t fid, bool *ret)
{
    struct store_inode head;
    bool was;
    int rc = mux_resolve_inode(merge->txn, merge->head, fid, &head, NULL);
    if (rc == 0 || rc == -ENOENT) // no record yet: a new one of the view
        *ret = names_of(merge, fid, rc == 0 ? &head : NULL, &was) == 0;
    return rc == -ENOENT ? 0 : rc;
}

int mux_merge_touch(struct mux_merge *merge, uint64_t dir)
{
    if (mux_fid_map_get(&merge->is_touched, dir, NULL))
        return 0;
    int rc = mux_merge_grow((void **)&merge->touched, &merge->touched_capacity, merge->n_touched,
                            sizeof *merge->touched);
    if (rc < 0)
        return rc;
    merge->touched[merge->n_touched++] = dir;
    return mux_fid_map_put(&merge->is_touched, dir, 1);
}

// ---- three ways

struct sides {
    struct mux_inode_copy view, base, head;
    bool has_view, has_base, has_head; // has_view: the delta records it
};

static int load_side(struct mux_merge *merge, struct mux_layers layers, uint64_t fid,
                     struct mux_inode_copy *ret, bool *ret_has)
{
    int rc = mux_merge_load(merge, layers, fid, ret);
    *ret_has = rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

static int load_sides(struct mux_merge *merge, uint64_t view_fid, uint64_t head_fid,
                      struct sides *ret)
{
    struct mux_layers delta = {.ids = merge->view.ids, .count = 1};
    int rc = load_side(merge, delta, view_fid, &ret->view, &ret->has_view);
    if (rc == 0 && ret->has_view && ret->view.inode.nlink == 0)
        ret->has_view = false;
    if (rc == 0)
        rc = load_side(merge, mux_merge_base(merge), view_fid, &ret->base, &ret->has_base);
    if (rc == 0)
        rc = load_side(merge, merge->head, head_fid, &ret->head, &ret->has_head);
    return rc;
}

static void take_content(struct store_inode *to, const struct store_inode *from)
{
    to->content = from->content;
    to->size = from->size;
    to->blob = from->blob;
    to->inline_data = from->inline_data;
    to->inline_len = from->inline_len;
}

// What view and head have made of the base's file, into sides->view.
static int combine(struct mux_merge *merge, struct sides *sides)
{
    struct store_inode *view = &sides->view.inode;
    const struct store_inode *base = &sides->base.inode, *head = &sides->head.inode;
    bool mine = !mux_merge_same_content(view, base), theirs = !mux_merge_same_content(head, base);
    int rc = mine && theirs ? mux_merge_conflict(merge) : 0;
    if (rc == 0)
        rc = mux_merge_xattrs(merge, view, base, head, view);
    if (rc < 0)
        return rc;
    if (!mine && theirs) {
        take_content(view, head);
        view->mtime_ns = head->mtime_ns;
    }
    if (view->mode == base->mode)
        view->mode = head->mode;
    view->ctime_ns = merge->now_ns;
    return store_new_id(merge->store, &view->version);
}

// ---- files

// A name that leads to the file in the head, into the record.
static int choose_name(struct mux_merge *merge, struct mux_inode_copy *record,
                       const struct sides *sides)
{
    struct store_inode *inode = &record->inode;
    struct store_entry found;
    uint64_t index;
    int rc;
    if (mux_fid_map_get(&merge->put_of, inode->fid, &index)) {
        const struct mux_merge_put *put = &merge->puts[index - 1];
        rc = mux_merge_look(merge, put->parent, put->name, put->name_len, &found);
        if (rc < 0)
            return rc;
        if (found.fid == inode->fid) {
            memcpy(record->name, put->name, put->name_len);
            inode->name_len = (uint8_t)put->name_len;
            inode->parent = put->parent;
            return 0;
        }
    }
    if (!sides->has_head)
        return -EUCLEAN;
    const struct store_inode *head = &sides->head.inode;
    rc = mux_merge_look(merge, head->parent, head->name, head->name_len, &found);
    if (rc < 0)
        return rc;
    struct mux_link other = {
        .parent = head->parent, .name = head->name, .name_len = head->name_len};
    if (found.fid != inode->fid)
        rc = mux_links_other(merge->txn, merge->head, head, &other, &other);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    memmove(record->name, other.name, other.name_len);
    inode->name_len = (uint8_t)other.name_len;
    inode->parent = other.parent;
    return 0;
}

// The names of a file with several: those put by the merge, and the one that the head's record
// remembers, which no index has while it is the only one.
static int index_names(struct mux_merge *merge, const struct mux_inode_copy *record,
                       const struct sides *sides)
{
    uint64_t layer = merge->head.ids[0], fid = record->inode.fid, index = 0;
    const struct store_inode *head = &sides->head.inode;
    if (record->inode.nlink < 2)
        return 0;
    int rc = store_link_put(merge->txn, layer, fid, record->inode.parent, record->name,
                            record->inode.name_len);
    if (rc == 0 && sides->has_head && head->name_len > 0)
        rc = store_link_put(merge->txn, layer, fid, head->parent, head->name, head->name_len);
    mux_fid_map_get(&merge->put_of, fid, &index);
    while (rc == 0 && index != 0) {
        const struct mux_merge_put *put = &merge->puts[index - 1];
        rc = store_link_put(merge->txn, layer, fid, put->parent, put->name, put->name_len);
        index = put->before;
    }
    return rc;
}

static int drop_record(struct mux_merge *merge, uint64_t fid)
{
    uint64_t layer = merge->head.ids[0];
    int rc = store_inode_del(merge->txn, layer, fid);
    if (rc == 0 || rc == -ENOENT)
        rc = store_link_clear(merge->txn, layer, fid);
    return rc;
}

static void count(struct mux_merge *merge, const struct store_inode *inode, int sign)
{
    if (!S_ISREG(inode->mode))
        return;
    merge->tree_files += sign;
    merge->tree_bytes += sign * (int64_t)inode->size;
}

static int put_record(struct mux_merge *merge, struct sides *sides, uint32_t nlink)
{
    bool combined = sides->has_view && sides->has_base && sides->has_head &&
                    sides->head.inode.version != sides->base.inode.version;
    struct mux_inode_copy *record = sides->has_view ? &sides->view : &sides->head;
    uint32_t known = record->inode.nlink;
    int rc = combined ? combine(merge, sides) : 0;
    if (rc == 0)
        rc = choose_name(merge, record, sides);
    if (rc == 0 && !combined && (nlink != known || !sides->has_view))
        rc = store_new_id(merge->store, &record->inode.version);
    record->inode.nlink = nlink;
    if (rc == 0)
        rc = store_inode_put(merge->txn, merge->head.ids[0], &record->inode);
    if (rc == 0)
        rc = index_names(merge, record, sides);
    count(merge, &record->inode, 1);
    return rc;
}

static int record_file(struct mux_merge *merge, uint64_t fid)
{
    struct sides sides;
    bool was;
    int rc = load_sides(merge, fid, fid, &sides);
    if (rc < 0)
        return rc;
    int64_t nlink = names_of(merge, fid, sides.has_head ? &sides.head.inode : NULL, &was);
    if (was && sides.has_head)
        count(merge, &sides.head.inode, -1);
    if (!was)
        sides.has_head = false; // what lies below was removed before
    if (nlink < 0 || nlink > UINT16_MAX)
        return nlink < 0 ? -EUCLEAN : -EMLINK;
    if (nlink == 0)
        return drop_record(merge, fid);
    return sides.has_view || sides.has_head ? put_record(merge, &sides, (uint32_t)nlink) : -EUCLEAN;
}

// ---- directories

static int record_directory(struct mux_merge *merge, uint64_t view_fid, uint64_t head_fid)
{
    struct sides sides;
    bool touched = mux_fid_map_get(&merge->is_touched, head_fid, NULL), reachable = false;
    int rc = load_sides(merge, view_fid, head_fid, &sides);
    if (rc == 0 && sides.has_head)
        rc = mux_merge_is_reachable(merge, head_fid, &reachable);
    if (rc < 0 || !reachable)
        return rc; // others have removed it, and nothing of the view is in it
    if (sides.has_view && !sides.has_base && view_fid == head_fid)
        return 0; // new, and put whole
    struct store_inode *head = &sides.head.inode;
    const struct store_inode *view = &sides.view.inode, *base = &sides.base.inode;
    bool changed = touched;
    if (sides.has_view && (!sides.has_base || view->mode != base->mode) &&
        view->mode != head->mode) {
        head->mode = view->mode;
        changed = true;
    }
    if (sides.has_view)
        rc = mux_merge_xattrs(merge, view, sides.has_base ? base : NULL, head, head);
    changed |= rc > 0;
    if (rc < 0)
        return rc;
    if (sides.has_view && sides.has_base && view->mtime_ns != base->mtime_ns && !touched) {
        head->mtime_ns = view->mtime_ns;
        changed = true;
    }
    if (!changed)
        return 0;
    if (touched)
        head->mtime_ns = merge->now_ns;
    head->ctime_ns = merge->now_ns;
    return store_inode_put(merge->txn, merge->head.ids[0], head);
}

static int record_directories(struct mux_merge *merge)
{
    AF_CLEANUP_FID_MAP struct mux_fid_map done = {0};
    struct store_inode inode;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < merge->n_inodes; i++) {
        uint64_t fid = merge->inodes[i], target = fid;
        rc = store_inode_get(merge->txn, merge->view.ids[0], fid, &inode);
        bool is_dir = rc == 0 && S_ISDIR(inode.mode);
        if (is_dir) {
            mux_fid_map_get(&merge->dirs, fid, &target);
            rc = record_directory(merge, fid, target);
        }
        if (rc == 0 && is_dir)
            rc = mux_fid_map_put(&done, target, 1);
        if (rc == 0)
            rc = mux_merge_step(merge);
    }
    for (size_t i = 0; rc == 0 && i < merge->n_touched; i++) {
        uint64_t dir = merge->touched[i];
        bool stays = dir == merge->root_fid; // one that lost its own name too has no record
        if (!stays)
            rc = mux_merge_has_name(merge, merge->head, dir, &stays);
        if (rc == 0 && stays && !mux_fid_map_get(&done, dir, NULL))
            rc = record_directory(merge, dir, dir);
        if (rc == 0)
            rc = mux_merge_step(merge);
    }
    return rc;
}

int mux_merge_record_all(struct mux_merge *merge)
{
    struct store_inode inode;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < merge->n_inodes; i++) {
        rc = store_inode_get(merge->txn, merge->view.ids[0], merge->inodes[i], &inode);
        if (rc == 0 && !S_ISDIR(inode.mode))
            rc = note_fid(merge, merge->inodes[i]);
        if (rc == 0)
            rc = mux_merge_step(merge);
    }
    for (size_t i = 0; rc == 0 && i < merge->n_fids; i++) {
        rc = record_file(merge, merge->fids[i]);
        if (rc == 0)
            rc = mux_merge_step(merge);
    }
    return rc < 0 ? rc : record_directories(merge);
}
