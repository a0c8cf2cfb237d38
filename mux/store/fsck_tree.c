// Trees: entries, inodes and names of every codebase and sandbox.
//
// A tree is a stack of layers, and every layer of it over those below is a tree that once was a
// codebase's or a view's. So each layer is checked once over what is below it, the lowest first,
// and costs what is in it, however many views stand on it:
//   - an entry is in a directory that can be reached, and leads to a file that there is, whose
//     record or index knows this name; a directory has one name
//   - a record's link count is the number of its names; one without names is an orphan
//   - a file of a lower layer whose name this layer takes away has a record here when it has
//     other names
//   - the parents of a directory lead to the root
// Read next: fsck_names.c, fsck_fix.c, fsck_counters.c.
#include "mux/store/fsck_priv.h"
#include "mux/store/siphash.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>

struct layer_check {
    const struct fsck_view *view;
    uint64_t parent; // the directory looked at last
    uint64_t parent_writes;
    bool parent_reachable;
};

bool fsck_parse_entry(MDB_val key, MDB_val value, struct fsck_entry *ret)
{
    uint64_t prefix[3];
    struct value_entry v;
    if (key.mv_size <= sizeof prefix || value.mv_size != sizeof v)
        return false;
    memcpy(prefix, key.mv_data, sizeof prefix);
    memcpy(&v, value.mv_data, sizeof v);
    *ret = (struct fsck_entry){
        .parent = be64toh(prefix[1]),
        .fid = v.fid,
        .type = v.type,
        .name = (const char *)key.mv_data + sizeof prefix,
        .name_len = key.mv_size - sizeof prefix,
    };
    return ret->name_len <= AF_NAME_MAX;
}

// What a lower layer has under the name, and this layer takes away.
static int check_covered(struct fsck *f, const struct fsck_view *view,
                         const struct fsck_entry *entry)
{
    struct fsck_view lower = {.layers = view->layers + 1, .count = view->count - 1};
    struct store_entry covered;
    struct store_inode inode;
    size_t index;
    uint32_t names;
    int rc = fsck_entry(f, &lower, entry->parent, entry->name, entry->name_len, &covered);
    if (rc < 0 || covered.fid == entry->fid)
        return rc == -ENOENT ? 0 : rc;
    rc = fsck_inode(f, view, covered.fid, &inode, &index);
    if (rc < 0 || index == 0)
        return rc == -ENOENT ? 0 : rc; // a record of this layer is looked at for itself
    rc = fsck_count_names(f, view, &inode, &names);
    if (rc < 0 || names == 0 || names == inode.nlink)
        return rc;
    if (!fsck_found(f, "link-count", true,
                    "file %" PRIu64 " has %" PRIu32 " names over layer %" PRIu64
                    ", and its record says %" PRIu32,
                    covered.fid, names, view->layers[0], inode.nlink))
        return 0;
    return fsck_set_links(f, view, covered.fid, names);
}

static int check_name(struct fsck *f, const struct fsck_view *view, const struct fsck_entry *entry,
                      const struct store_inode *inode)
{
    char quoted[FSCK_QUOTED_MAX];
    uint32_t names = 0;
    bool known;
    int rc = fsck_knows_name(f, view, inode, entry->parent, entry->name, entry->name_len, &known);
    if (rc < 0 || known)
        return rc;
    rc = fsck_count_names(f, view, inode, &names);
    if (rc < 0)
        return rc;
    bool second = entry->fid == view->root || (S_ISDIR(inode->mode) && names > 0);
    if (!fsck_found(f, "name", true,
                    "%s in directory %" PRIu64 " of layer %" PRIu64 " leads to %s %" PRIu64 ", %s",
                    fsck_quote(quoted, entry->name, entry->name_len), entry->parent,
                    view->layers[0], S_ISDIR(inode->mode) ? "directory" : "file", entry->fid,
                    second ? "which has its name elsewhere"
                           : "whose record and index do not know this name"))
        return 0;
    return second
               ? fsck_hide_entry(f, view, entry->parent, entry->name, entry->name_len)
               : fsck_learn_name(f, view, entry->fid, entry->parent, entry->name, entry->name_len);
}

static int check_target(struct fsck *f, const struct fsck_view *view,
                        const struct fsck_entry *entry)
{
    char quoted[FSCK_QUOTED_MAX];
    struct store_inode inode;
    fsck_quote(quoted, entry->name, entry->name_len);
    int rc = fsck_inode(f, view, entry->fid, &inode, NULL);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == -ENOENT) {
        if (!fsck_found(f, "entry-target", true,
                        "%s in directory %" PRIu64 " of layer %" PRIu64 " leads to file %" PRIu64
                        ", which is not there",
                        quoted, entry->parent, view->layers[0], entry->fid))
            return 0;
        return fsck_hide_entry(f, view, entry->parent, entry->name, entry->name_len);
    }
    if (IFTODT(inode.mode) != entry->type) {
        if (!fsck_found(f, "entry-type", true,
                        "%s in directory %" PRIu64 " of layer %" PRIu64
                        " is said to be of another type than file %" PRIu64 " is",
                        quoted, entry->parent, view->layers[0], entry->fid))
            return 0;
        f->writes++;
        return store_entry_put(f->txn, view->layers[0], entry->parent, entry->name, entry->name_len,
                               entry->fid, (uint8_t)IFTODT(inode.mode));
    }
    return check_name(f, view, entry, &inode);
}

static int check_entry(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct layer_check *check = arg;
    const struct fsck_view *view = check->view;
    char quoted[FSCK_QUOTED_MAX];
    struct fsck_entry entry;
    if (!fsck_parse_entry(key, value, &entry))
        return 0;
    int rc = check_covered(f, view, &entry);
    if (rc < 0 || entry.fid == 0)
        return rc;
    if (check->parent != entry.parent || check->parent_writes != f->writes) {
        rc = fsck_is_reachable(f, view, entry.parent, &check->parent_reachable);
        check->parent = entry.parent;
        check->parent_writes = f->writes;
    }
    if (rc < 0 || check->parent_reachable)
        return rc < 0 ? rc : check_target(f, view, &entry);
    if (!fsck_found(f, "entry-parent", true,
                    "%s of layer %" PRIu64 " is in directory %" PRIu64
                    ", which cannot be reached from the root",
                    fsck_quote(quoted, entry.name, entry.name_len), view->layers[0], entry.parent))
        return 0;
    return fsck_del(f, STORE_DBI_ENTRY, key);
}

static int check_orphan(struct fsck *f, const struct fsck_view *view, uint64_t fid)
{
    if (!view->live || store_orphan_has(f->txn, view->layers[0], fid))
        return 0;
    if (!fsck_found(f, "orphan", true,
                    "file %" PRIu64 " in layer %" PRIu64
                    " has no name and is not marked: it would never be freed",
                    fid, view->layers[0]))
        return 0;
    f->writes++;
    return store_orphan_put(f->txn, view->layers[0], fid);
}

static int check_root(struct fsck *f, const struct fsck_view *view, const struct store_inode *root)
{
    if (!S_ISDIR(root->mode))
        fsck_found(f, "root", false,
                   "the root %" PRIu64 " is no directory; restore the directory from a backup",
                   view->root);
    return 0;
}

static int check_inode(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    const struct fsck_view *view = ((struct layer_check *)arg)->view;
    struct store_inode inode;
    struct key_inode place;
    uint32_t names;
    bool reachable = true;
    if (key.mv_size != sizeof place)
        return 0;
    memcpy(&place, key.mv_data, sizeof place);
    uint64_t fid = be64toh(place.fid_be), layer = view->layers[0];
    if (store_inode_decode(value, layer, fid, &inode) < 0)
        return 0;
    if (fid == view->root)
        return check_root(f, view, &inode);
    int rc = fsck_count_names(f, view, &inode, &names);
    if (rc == 0 && names > 0 && S_ISDIR(inode.mode))
        rc = fsck_is_reachable(f, view, fid, &reachable);
    if (rc < 0)
        return rc;
    bool is_kept = !view->live && store_orphan_has(f->txn, layer, fid); // by a merge
    if (names == 0 && is_kept)
        return 0;
    if (!reachable || (names == 0 && inode.nlink > 0)) {
        if (!fsck_found(
                f, "unreachable", true, "%s %" PRIu64 " in layer %" PRIu64 " cannot be reached: %s",
                S_ISDIR(inode.mode) ? "directory" : "file", fid, layer,
                reachable ? "no name leads to it" : "what is above it does not lead to the root"))
            return 0;
        return fsck_reconnect(f, view, fid);
    }
    if (names == inode.nlink)
        return names == 0 ? check_orphan(f, view, fid) : 0;
    if (!fsck_found(f, "link-count", true,
                    "file %" PRIu64 " in layer %" PRIu64 " has %" PRIu32
                    " names, and its record says %" PRIu32,
                    fid, layer, names, inode.nlink))
        return 0;
    return fsck_set_links(f, view, fid, names);
}

static int check_layer(struct fsck *f, const struct fsck_view *view)
{
    struct layer_check check = {.view = view};
    struct key_id prefix = key_of_id(view->layers[0]);
    MDB_val val = store_val(&prefix, sizeof prefix);
    if (idset_has(&f->checked, view->fingerprint))
        return 0;
    int rc = idset_add(&f->checked, view->fingerprint);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_ENTRY, val, check_entry, &check);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_INODE, val, check_inode, &check);
    return rc;
}

static int check_tree(struct fsck *f, const char *what, const char *id, uint64_t live,
                      uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    AF_CLEANUP_FREE uint64_t *layers = malloc((STORE_STACK_MAX + 1) * sizeof *layers);
    size_t count;
    struct store_inode inode;
    (void)arg;
    if (!layers)
        return -ENOMEM;
    int rc = fsck_load_layers(f, live, stack, layers, &count);
    for (size_t i = count; rc == 0 && i-- > 0;) {
        struct fsck_view view = {.layers = layers + i, .count = count - i, .root = root};
        view.live = sandbox && i == 0;
        view.fingerprint =
            store_siphash(f->store->hash_key, view.layers, view.count * sizeof *layers) | 1;
        rc = check_layer(f, &view);
        if (rc == 0 && i == 0 && fsck_inode(f, &view, root, &inode, NULL) == -ENOENT)
            fsck_found(f, "root", false,
                       "the root directory %" PRIu64 " of the %s %s is not there; restore the "
                       "directory from a backup or delete the %s",
                       root, what, id, what);
    }
    return rc;
}

int fsck_pass_trees(struct fsck *f)
{
    return fsck_owners(f, check_tree, NULL);
}
