// Names and inodes that two states of a view have differently. See changes.h.
//
// A name that leads elsewhere is expired, not invalidated: the kernel asks again, and what still
// leads to the same inode keeps its dentry, and with it the working directories and mounts on it. A
// directory whose listing changed has its attributes and cached listing dropped; its reported mtime
// has changed, for whoever changes a listing bumps it (docs/FUSE.md). Read next: commit.c.
#include "mux/changes.h"

#include "mux/nodeid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ARENA_BYTES (1u << 30)
#define ITEMS_MAX   (16u << 20)

enum kind { NAME, ATTRIBUTES, CONTENT };

struct mux_change {
    uint64_t fid; // of the directory, for a name
    const char *name;
    uint8_t name_len;
    uint8_t kind;
};

struct differ {
    struct store_txn *txn;
    struct mux_layers before, after;
    struct mux_changes *changes;
};

void mux_changes_fini(struct mux_changes *changes)
{
    mux_arena_fini(&changes->arena);
    mux_fid_map_fini(&changes->dirs);
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
        struct mux_change *items = realloc(changes->items, capacity * sizeof *items);
        if (!items)
            return -ENOMEM;
        changes->items = items;
        changes->capacity = capacity;
    }
    const char *copy = len > 0 ? mux_arena_copy(&changes->arena, name, len) : NULL;
    if (len > 0 && !copy)
        return -E2BIG;
    changes->items[changes->count++] = (struct mux_change){
        .fid = fid, .name = copy, .name_len = (uint8_t)len, .kind = (uint8_t)kind};
    return 0;
}

static int add_directory(struct mux_changes *changes, uint64_t fid)
{
    if (mux_fid_map_get(&changes->dirs, fid, NULL))
        return 0;
    int rc = mux_fid_map_put(&changes->dirs, fid, 1);
    return rc < 0 ? rc : add(changes, CONTENT, fid, NULL, 0);
}

static int entry_of(struct store_txn *txn, struct mux_layers layers, uint64_t parent,
                    const struct store_entry *entry, uint64_t *ret_fid)
{
    struct store_entry found;
    int rc = mux_resolve_entry(txn, layers, parent, entry->name, entry->name_len, &found, NULL);
    *ret_fid = rc == 0 ? found.fid : 0;
    return rc == -ENOENT ? 0 : rc;
}

static int compare_entry(void *arg, uint64_t parent, const struct store_entry *entry)
{
    struct differ *differ = arg;
    uint64_t before = 0, after = 0;
    int rc = entry_of(differ->txn, differ->before, parent, entry, &before);
    if (rc == 0)
        rc = entry_of(differ->txn, differ->after, parent, entry, &after);
    if (rc < 0 || before == after)
        return rc;
    rc = add(differ->changes, NAME, parent, entry->name, entry->name_len);
    return rc < 0 ? rc : add_directory(differ->changes, parent);
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
        rc = add(changes, NAME, before.parent, before.name, before.name_len);
    if (rc == 0 && after.name_len > 0)
        rc = add(changes, NAME, after.parent, after.name, after.name_len);
    return rc;
}

static bool has_layer(struct mux_layers layers, uint64_t id)
{
    for (size_t i = 0; i < layers.count; i++)
        if (layers.ids[i] == id)
            return true;
    return false;
}

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

int mux_changes_collect(struct store_txn *txn, struct mux_layers before, struct mux_layers after,
                        struct mux_changes *ret)
{
    struct differ differ = {.txn = txn, .before = before, .after = after, .changes = ret};
    ret->arena.cap = ARENA_BYTES;
    int rc = compare_layers(&differ, before, after);
    return rc < 0 ? rc : compare_layers(&differ, after, before);
}

void mux_changes_tell(struct mux *mux, uint32_t route, const struct mux_changes *changes)
{
    for (size_t i = 0; i < changes->count; i++) {
        const struct mux_change *change = &changes->items[i];
        uint64_t nodeid = mux_nodeid_private(route, change->fid);
        if (change->kind == NAME)
            mux_notify_expire_entry(mux, nodeid, change->name, change->name_len);
        else
            mux_notify_inval_inode(mux, nodeid, change->kind == CONTENT ? 0 : -1, 0);
    }
}
