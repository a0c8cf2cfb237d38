// What trees have in regular files, in number and in size, counted again: of codebases, which say
// what their whole tree has, and of sandboxes' deltas, which say what they add to it.
//
// A delta is compared with what is below it file by file, for those that it has a record of and
// those whose names it takes away: it costs what is in it. After the pass over the trees, so links
// and names agree. Read next: fsck_tree.c, docs/COMMIT.md.
#include "mux/store/fsck_priv.h"

#include <errno.h>
#include <inttypes.h>

// ---- the counters of codebases

struct tally {
    struct idset dirs; // met
    uint64_t *todo;    // of those, not yet read
    size_t n_todo, capacity;
    uint64_t files, bytes;
};

static int add_dir(struct tally *tally, uint64_t dir)
{
    if (idset_has(&tally->dirs, dir))
        return 0;
    if (tally->n_todo == tally->capacity) {
        size_t capacity = tally->capacity ? 2 * tally->capacity : 256;
        uint64_t *todo = realloc(tally->todo, capacity * sizeof *todo);
        if (!todo)
            return -ENOMEM;
        tally->todo = todo;
        tally->capacity = capacity;
    }
    tally->todo[tally->n_todo++] = dir;
    return idset_add(&tally->dirs, dir);
}

// A file with several names is counted under the one that its record remembers.
static int tally_entry(struct fsck *f, const struct fsck_view *view, uint64_t dir,
                       const struct store_entry *entry, struct tally *tally)
{
    struct store_inode inode;
    int rc = fsck_inode(f, view, entry->fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    if (S_ISDIR(inode.mode))
        return add_dir(tally, entry->fid);
    bool here = inode.nlink <= 1 || (inode.parent == dir && inode.name_len == entry->name_len &&
                                     memcmp(inode.name, entry->name, entry->name_len) == 0);
    if (S_ISREG(inode.mode) && here) {
        tally->files++;
        tally->bytes += inode.size;
    }
    return 0;
}

static int tally_tree(struct fsck *f, const struct fsck_view *view, struct tally *tally)
{
    int rc = add_dir(tally, view->root);
    while (rc == 0 && tally->n_todo > 0) {
        uint64_t dir = tally->todo[--tally->n_todo];
        struct store_dir_iter *iter;
        struct store_entry entry;
        rc = store_dir_open(f->txn, view->layers, view->count, dir, 0, &iter);
        if (rc < 0)
            break;
        while (rc == 0 && (rc = store_dir_next(iter, &entry, NULL)) == 0)
            rc = tally_entry(f, view, dir, &entry, tally);
        store_dir_close(iter);
        rc = rc == -ENOENT || rc == -EUCLEAN ? 0 : rc;
    }
    return rc;
}

static bool has_records(struct fsck *f, uint64_t layer)
{
    struct store_layer found;
    return store_layer_get(f->txn, layer, &found) == 0 && found.inodes > 0;
}

static int check_codebase(struct fsck *f, const char *what, const char *id, uint64_t live,
                          uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    AF_CLEANUP_FREE uint64_t *layers = malloc((STORE_STACK_MAX + 1) * sizeof *layers);
    struct tally tally = {0};
    struct store_codebase codebase;
    size_t count;
    (void)what, (void)arg;
    if (sandbox)
        return 0;
    int rc = layers ? fsck_load_layers(f, live, stack, layers, &count) : -ENOMEM;
    if (rc < 0 || count == 0 || store_codebase_get(f->txn, id, &codebase) < 0)
        return rc;
    struct fsck_view view = {.layers = layers, .count = count, .root = root};
    rc = tally_tree(f, &view, &tally);
    idset_clear(&tally.dirs);
    free(tally.todo);
    if (rc < 0)
        return rc;
    bool dirty = codebase.head_dirty || has_records(f, live);
    if (codebase.files == tally.files && codebase.size_bytes == tally.bytes &&
        codebase.head_dirty == dirty)
        return 0;
    if (!fsck_found(f, "codebase-counters", true,
                    "the codebase %s says that it has %" PRIu64 " files of %" PRIu64
                    " bytes%s; it has %" PRIu64 " of %" PRIu64,
                    id, codebase.files, codebase.size_bytes,
                    codebase.head_dirty == dirty ? "" : " and an empty head", tally.files,
                    tally.bytes))
        return 0;
    codebase.files = tally.files;
    codebase.size_bytes = tally.bytes;
    codebase.head_dirty = dirty;
    f->writes++;
    return store_codebase_put(f->txn, &codebase);
}

// ---- the counters of deltas

// What a sandbox's delta adds to the tree below it.
struct gain {
    struct fsck_view view, base; // with the delta, and without it
    struct idset removed;        // files with several names that were counted as gone
    int64_t files, bytes;
};

// Adds or takes away what the file is in a tree. Without a name it is nothing.
static int gain_file(struct fsck *f, const struct fsck_view *view, uint64_t fid, int sign,
                     struct gain *gain)
{
    struct store_inode inode;
    uint32_t names;
    int rc = fsck_inode(f, view, fid, &inode, NULL);
    if (rc == -ENOENT || (rc == 0 && !S_ISREG(inode.mode)))
        return 0;
    int64_t size = rc == 0 ? (int64_t)inode.size : 0;
    if (rc == 0)
        rc = fsck_count_names(f, view, &inode, &names);
    if (rc < 0 || names == 0)
        return rc;
    gain->files += sign;
    gain->bytes += sign * size;
    return 0;
}

static int gain_of(struct fsck *f, uint64_t fid, struct gain *gain)
{
    int rc = gain_file(f, &gain->view, fid, 1, gain);
    return rc == 0 ? gain_file(f, &gain->base, fid, -1, gain) : rc;
}

static int gain_record(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct key_inode place;
    (void)value;
    if (key.mv_size != sizeof place)
        return 0;
    memcpy(&place, key.mv_data, sizeof place);
    return gain_of(f, be64toh(place.fid_be), arg);
}

// A file below the delta that loses this name, and of which the delta has no record: nobody has
// it open any more.
static int gain_entry(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    struct gain *gain = arg;
    struct fsck_entry entry;
    struct store_entry covered;
    struct store_inode inode;
    size_t index;
    if (!fsck_parse_entry(key, value, &entry))
        return 0;
    int rc = fsck_entry(f, &gain->base, entry.parent, entry.name, entry.name_len, &covered);
    if (rc == 0)
        rc = covered.fid == entry.fid ? -ENOENT
                                      : fsck_inode(f, &gain->view, covered.fid, &inode, &index);
    if (rc < 0 || index == 0 || (inode.nlink > 1 && idset_has(&gain->removed, covered.fid)))
        return rc == -ENOENT ? 0 : rc;
    if (inode.nlink > 1)
        rc = idset_add(&gain->removed, covered.fid);
    return rc == 0 ? gain_of(f, covered.fid, gain) : rc;
}

static int recount_delta(struct fsck *f, struct gain *gain)
{
    struct store_layer delta;
    uint64_t id = gain->view.layers[0];
    struct key_id prefix = key_of_id(id);
    MDB_val val = store_val(&prefix, sizeof prefix);
    int rc = fsck_walk(f, STORE_DBI_INODE, val, gain_record, gain);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_ENTRY, val, gain_entry, gain);
    if (rc != 0 || store_layer_get(f->txn, id, &delta) < 0 ||
        (delta.tree_files == gain->files && delta.tree_bytes == gain->bytes))
        return rc;
    if (!fsck_found(f, "tree-counters", true,
                    "layer %" PRIu64 " says that it adds %" PRId64 " files of %" PRId64
                    " bytes to the tree below it; it adds %" PRId64 " of %" PRId64,
                    id, delta.tree_files, delta.tree_bytes, gain->files, gain->bytes))
        return 0;
    delta.tree_files = gain->files;
    delta.tree_bytes = gain->bytes;
    return fsck_put_layer(f, &delta);
}

static int check_delta(struct fsck *f, const char *what, const char *id, uint64_t live,
                       uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    AF_CLEANUP_FREE uint64_t *layers = malloc((STORE_STACK_MAX + 1) * sizeof *layers);
    size_t count;
    (void)what, (void)id, (void)arg;
    if (!sandbox)
        return 0;
    int rc = layers ? fsck_load_layers(f, live, stack, layers, &count) : -ENOMEM;
    if (rc < 0 || count == 0)
        return rc;
    struct gain gain = {
        .view = {.layers = layers, .count = count, .root = root},
        .base = {.layers = layers + 1, .count = count - 1, .root = root},
    };
    rc = recount_delta(f, &gain);
    idset_clear(&gain.removed);
    return rc;
}

int fsck_pass_tree_counters(struct fsck *f)
{
    int rc = fsck_owners(f, check_codebase, NULL);
    return rc == 0 ? fsck_owners(f, check_delta, NULL) : rc;
}
