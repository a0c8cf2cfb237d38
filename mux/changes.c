// Names and inodes that two states of a view have differently. See changes.h.
//
// A name that leads elsewhere is expired, not invalidated: the kernel asks again, and what still
// leads to the same inode keeps its dentry, and with it the working directories and mounts on it.
// The name of a file that is another one now, or has another shared nodeid, is taken back at once:
// nobody would look it up again only to have the kernel, and with it us, let go of the old one. So
// is that of a directory which has another one by now: the kernel has one dentry of a directory,
// and a lookup by the new name would first have to move it, which fails while anybody renames. A
// directory whose listing changed has its attributes and cached listing dropped; its reported mtime
// has changed, for whoever changes a listing bumps it (docs/FUSE.md). Read next: commit.c.
#include "mux/changes.h"

#include "mux/links.h"
#include "mux/names.h"
#include "mux/nodeid.h"
#include "mux/parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ARENA_BYTES (1u << 30)
#define ITEMS_MAX   (16u << 20)

enum kind {
    NAME,          // leads elsewhere
    NAME_OF_FILE,  // to a file until now
    NAME_OF_MOVED, // to a directory until now, which has another name
    NAME_SAME,     // leads to the same file, which has another version
    ATTRIBUTES,
    CONTENT,
};

struct mux_change_item {
    uint64_t fid;     // of the directory, for a name
    uint64_t was_dir; // that the name led to until now, or 0
    const char *name;
    uint8_t name_len;
    uint8_t kind;
};

struct differ {
    struct store_txn *txn;
    struct mux_layers before, after;
    struct mux_changes *changes;
    struct mux_fid_map lost;  // what a name leads to no more
    struct mux_fid_map moved; // of these, directories that have another name
    uint64_t compared;
};

void mux_changes_fini(struct mux_changes *changes)
{
    mux_arena_fini(&changes->arena);
    mux_fid_map_fini(&changes->dirs);
    mux_fid_map_fini(&changes->named);
    free(changes->gone);
    free(changes->items);
    *changes = (struct mux_changes){0};
}

static int add(struct mux_changes *changes, enum kind kind, uint64_t fid, const char *name,
               size_t len)
{
    if (changes->count == changes->capacity) {
        size_t capacity = changes->capacity ? changes->capacity * 2 : 64;
        if (capacity > ITEMS_MAX)
            return -E2BIG;
        struct mux_change_item *items = realloc(changes->items, capacity * sizeof *items);
        if (!items)
            return -ENOMEM;
        changes->items = items;
        changes->capacity = capacity;
    }
    const char *copy = len > 0 ? mux_arena_copy(&changes->arena, name, len) : NULL;
    if (len > 0 && !copy)
        return -E2BIG;
    changes->items[changes->count++] = (struct mux_change_item){
        .fid = fid, .name = copy, .name_len = (uint8_t)len, .kind = (uint8_t)kind};
    return 0;
}

int mux_changes_add_directory(struct mux_changes *changes, uint64_t fid)
{
    if (mux_fid_map_get(&changes->dirs, fid, NULL))
        return 0;
    int rc = mux_fid_map_put(&changes->dirs, fid, 1);
    return rc < 0 ? rc : add(changes, CONTENT, fid, NULL, 0);
}

int mux_changes_add_names(struct mux_changes *changes, struct store_txn *txn,
                          struct mux_layers layers, uint64_t dir, uint64_t number)
{
    struct store_dir_iter *iter;
    struct store_entry found;
    int rc = mux_changes_add_directory(changes, number);
    if (rc == 0)
        rc = store_dir_open(txn, layers.ids, layers.count, dir, 0, &iter);
    if (rc < 0)
        return rc;
    while (rc == 0 && (rc = store_dir_next(iter, &found, NULL)) == 0)
        rc = add(changes, NAME, number, found.name, found.name_len);
    store_dir_close(iter);
    return rc == -ENOENT ? 0 : rc;
}

int mux_changes_drop_directory(struct mux_changes *changes, struct store_txn *txn,
                               struct mux_layers layers, uint64_t dir)
{
    struct store_inode inode;
    int rc = mux_resolve_inode(txn, layers, dir, &inode, NULL);
    if (rc == 0 && inode.name_len > 0)
        rc = add(changes, NAME_OF_FILE, inode.parent, inode.name, inode.name_len);
    return rc == -ENOENT ? 0 : rc;
}

static int entry_of(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                    const struct store_entry *entry, struct store_entry *ret)
{
    struct store_entry found;
    int rc = mux_resolve_entry(txn, layers, parent, entry->name, entry->name_len, &found, NULL);
    *ret = rc == 0 ? found : (struct store_entry){0};
    return rc == -ENOENT ? 0 : rc;
}

static int compare_entry(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct differ *differ = arg;
    struct store_entry before, after = {0};
    differ->compared++;
    int rc = entry_of(differ->txn, differ->before, parent, entry, &before);
    if (rc == 0)
        rc = entry_of(differ->txn, differ->after, parent, entry, &after);
    if (rc < 0 || before.fid == after.fid)
        return rc;
    if (before.fid != 0)
        rc = mux_fid_map_put(&differ->lost, before.fid, 1);
    if (rc == 0 && after.fid != 0)
        rc = mux_fid_map_put(&differ->changes->named, after.fid, 1);
    bool was_file = before.fid != 0 && before.type != DT_DIR;
    if (rc == 0)
        rc = add(differ->changes, was_file ? NAME_OF_FILE : NAME, parent, entry->name,
                 entry->name_len);
    if (rc < 0)
        return rc;
    differ->changes->items[differ->changes->count - 1].was_dir = was_file ? 0 : before.fid;
    return mux_changes_add_directory(differ->changes, parent);
}

static bool same_attributes(const struct store_inode *a, const struct store_inode *b)
{
    return a->mode == b->mode && a->nlink == b->nlink && a->size == b->size &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && a->atime_ns == b->atime_ns;
}

static int compare_inode(void *arg, const struct store_inode *inode)
{
    struct differ *differ = arg;
    struct mux_changes *changes = differ->changes;
    struct store_inode before, after;
    differ->compared++;
    int rc = mux_resolve_inode(differ->txn, differ->before, inode->fid, &before, NULL);
    if (rc == 0)
        rc = mux_resolve_inode(differ->txn, differ->after, inode->fid, &after, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc; // new or gone: its names tell
    bool same_version = before.version == after.version;
    if (S_ISDIR(inode->mode))
        return same_attributes(&before, &after) ? 0 : add(changes, ATTRIBUTES, inode->fid, NULL, 0);
    if (same_version && same_attributes(&before, &after))
        return 0;
    rc = add(changes, same_version ? ATTRIBUTES : CONTENT, inode->fid, NULL, 0);
    // The same name may lead to another nodeid, shared or private.
    if (rc == 0 && before.name_len > 0)
        rc = add(changes, NAME_SAME, before.parent, before.name, before.name_len);
    if (rc == 0 && after.name_len > 0)
        rc = add(changes, NAME_SAME, after.parent, after.name, after.name_len);
    return rc;
}

static bool has_layer(struct mux_layers layers, uint64_t id)
{
    for (size_t i = 0; i < layers.count; i++)
        if (layers.ids[i] == id)
            return true;
    return false;
}

// Of those lists, the layers that the other one has not got.
static int compare_layers(struct differ *differ, struct mux_layers of, struct mux_layers other)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < of.count; i++) {
        if (has_layer(other, of.ids[i]))
            continue;
        rc = store_layer_entries(differ->txn, of.ids[i], compare_entry, differ);
        if (rc == 0)
            rc = store_layer_inodes(differ->txn, of.ids[i], compare_inode, differ);
    }
    return rc;
}

// Those of `lost` that no other name leads to.
static int find_gone(struct differ *differ)
{
    struct mux_changes *changes = differ->changes;
    struct store_inode inode;
    uint64_t fid, value;
    size_t position = 0;
    changes->gone = calloc(differ->lost.used + 1, sizeof *changes->gone);
    if (!changes->gone)
        return -ENOMEM;
    while (mux_fid_map_next(&differ->lost, &position, &fid, &value)) {
        bool named = false;
        int rc = mux_resolve_inode(differ->txn, differ->after, fid, &inode, NULL);
        if (rc == 0)
            rc = mux_links_any(differ->txn, differ->after, &inode, &named);
        if (rc < 0 && rc != -ENOENT)
            return rc;
        if (!named)
            changes->gone[changes->n_gone++] = fid;
        else if (S_ISDIR(inode.mode) && (rc = mux_fid_map_put(&differ->moved, fid, 1)) < 0)
            return rc;
    }
    return 0;
}

static void mark_moved(struct differ *differ)
{
    for (size_t i = 0; i < differ->changes->count; i++) {
        struct mux_change_item *item = &differ->changes->items[i];
        if (item->was_dir != 0 && mux_fid_map_get(&differ->moved, item->was_dir, NULL))
            item->kind = NAME_OF_MOVED;
    }
}

static int compare_all(struct mux *mux, struct differ *differ)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list before = {0}, after = {0};
    int rc = mux_parts_expand(mux, differ->before, &before);
    if (rc == 0)
        rc = mux_parts_expand(mux, differ->after, &after);
    if (rc == 0)
        rc = compare_layers(differ, mux_layer_list_all(&before), mux_layer_list_all(&after));
    if (rc == 0)
        rc = compare_layers(differ, mux_layer_list_all(&after), mux_layer_list_all(&before));
    return rc;
}

int mux_changes_collect(struct mux *mux, struct store_txn *txn, struct mux_layers before,
                        struct mux_layers after, struct mux_changes *ret)
{
    struct differ differ = {.txn = txn, .before = before, .after = after, .changes = ret};
    ret->arena.cap = ARENA_BYTES;
    int rc = compare_all(mux, &differ);
    if (rc == 0 && differ.lost.used > 0)
        rc = find_gone(&differ);
    if (rc == 0 && differ.moved.used > 0)
        mark_moved(&differ);
    mux_fid_map_fini(&differ.lost);
    mux_fid_map_fini(&differ.moved);
    atomic_fetch_add_explicit(&mux->counters.compared, differ.compared, memory_order_relaxed);
    return rc;
}

// Whether views share the nodeids of files that this name leads to: by its level.
static bool is_shared(struct mux *mux, uint64_t dir_nodeid, const char *text)
{
    struct mux_op op;
    struct mux_node dir;
    struct mux_name name;
    if (mux_op_enter_inside(mux, dir_nodeid, &op) < 0)
        return false;
    bool shared = false;
    int rc = mux_dir_load(&op, dir_nodeid, &dir);
    if (rc == 0) {
        rc = mux_name_resolve(&op, &dir, text, &name);
        mux_node_fini(&op, &dir);
    }
    if (rc == 0) {
        shared = name.level != RULES_WRITE;
        mux_name_fini(&op, &name);
    }
    mux_op_leave(&op, 0);
    return shared;
}

void mux_changes_tell(struct mux *mux, uint32_t route, const struct mux_changes *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        const struct mux_change_item *change = &changes->items[i];
        uint64_t nodeid = mux_view_shown_by(mux, route, change->fid);
        if (change->kind == ATTRIBUTES || change->kind == CONTENT)
            mux_notify_inval_inode(mux, nodeid, change->kind == CONTENT ? 0 : -1, 0);
        else if (change->kind == NAME_OF_MOVED)
            mux_notify_moved_directory(mux, nodeid, change->name, change->name_len,
                                       mux_view_shown_by(mux, route, change->was_dir));
        else if (change->kind == NAME_OF_FILE ||
                 (change->kind == NAME_SAME && is_shared(mux, nodeid, change->name)))
            mux_notify_inval_entry(mux, nodeid, change->name, change->name_len);
        else
            mux_notify_expire_entry(mux, nodeid, change->name, change->name_len);
    }
}
