// Who holds layers and stacks: codebases and sandboxes. Whether what they hold is there.
//
// A layer's record that is missing or could not be read is made again: its records are still
// there, and its counters are recounted. A stack's is not: nobody else knows its layers.
// Read next: fsck_refs.c.
#include "mux/store/fsck_priv.h"

#include <errno.h>
#include <inttypes.h>

struct owners {
    fsck_owner_fn fn;
    void *arg;
};

static int pass_codebase(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    const struct owners *owners = arg;
    struct store_codebase c;
    if (store_codebase_decode(key, value, &c) < 0)
        return 0;
    return owners->fn(f, "codebase", c.id.text, c.head, c.stack, c.root_fid, false, owners->arg);
}

static int pass_sandbox(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    const struct owners *owners = arg;
    struct store_sandbox s;
    if (store_sandbox_decode(key, value, &s) < 0)
        return 0;
    store_sandbox_free_rules(&s);
    return owners->fn(f, "sandbox", s.id.text, s.delta, s.stack, s.root_fid, true, owners->arg);
}

int fsck_owners(struct fsck *f, fsck_owner_fn fn, void *arg)
{
    struct owners owners = {.fn = fn, .arg = arg};
    int rc = fsck_walk(f, STORE_DBI_CODEBASE, fsck_everything(), pass_codebase, &owners);
    return rc == 0 ? fsck_walk(f, STORE_DBI_SANDBOX, fsck_everything(), pass_sandbox, &owners) : rc;
}

int fsck_load_layers(struct fsck *f, uint64_t live, uint64_t stack,
                     uint64_t layers[STORE_STACK_MAX + 1], size_t *ret_count)
{
    size_t count = 0;
    layers[0] = live;
    *ret_count = 0;
    if (store_stack_get(f->txn, stack, layers + 1, STORE_STACK_MAX, &count) < 0)
        return 0; // said already
    *ret_count = count + 1;
    return 0;
}

// ---- what they hold is there

// A live layer is not frozen, one in a stack is.
static int check_layer(struct fsck *f, uint64_t id, bool frozen, const char *whose)
{
    struct store_layer layer;
    int rc = store_layer_get(f->txn, id, &layer);
    if (rc < 0 && rc != -ENOENT)
        return 0; // damaged: said already
    if (rc == -ENOENT) {
        if (!fsck_found(f, "layer-missing", true,
                        "layer %" PRIu64 " of %s has no record; it is made again with what is left "
                        "in it",
                        id, whose))
            return 0;
        layer = (struct store_layer){.id = id, .refs = 1, .frozen = frozen};
        return fsck_put_layer(f, &layer);
    }
    if (layer.frozen == frozen)
        return 0;
    if (!fsck_found(f, "layer-state", true, "layer %" PRIu64 " of %s is %s", id, whose,
                    frozen ? "not frozen, though views are based on it"
                           : "frozen, though it is the one that changes go to"))
        return 0;
    layer.frozen = frozen;
    return fsck_put_layer(f, &layer);
}

static int check_owner(struct fsck *f, const char *what, const char *id, uint64_t live,
                       uint64_t stack, uint64_t root, bool sandbox, void *arg)
{
    char whose[FSCK_QUOTED_MAX];
    size_t count;
    uint64_t none;
    (void)root;
    (void)sandbox;
    (void)arg;
    snprintf(whose, sizeof whose, "the %s %s", what, id);
    int rc = check_layer(f, live, false, whose);
    if (rc == 0 && store_stack_get(f->txn, stack, &none, 0, &count) < 0) {
        f->lost_owner = true;
        fsck_found(f, "stack-missing", false,
                   "stack %" PRIu64 " of the %s %s has no readable record, so its files cannot be "
                   "found; restore the directory from a backup or delete the %s",
                   stack, what, id, what);
    }
    return rc;
}

static int check_stack(struct fsck *f, MDB_val key, MDB_val value, void *arg)
{
    (void)value;
    (void)arg;
    struct key_id id;
    AF_CLEANUP_FREE uint64_t *layers = malloc(STORE_STACK_MAX * sizeof *layers);
    size_t count = 0;
    if (!layers)
        return -ENOMEM;
    if (key.mv_size != sizeof id)
        return 0;
    memcpy(&id, key.mv_data, sizeof id);
    if (store_stack_get(f->txn, be64toh(id.be), layers, STORE_STACK_MAX, &count) < 0)
        return 0;
    char whose[FSCK_QUOTED_MAX];
    snprintf(whose, sizeof whose, "stack %" PRIu64, be64toh(id.be));
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = check_layer(f, layers[i], true, whose);
    return rc;
}

// ---- records of layers that have none: found by leaping from layer to layer

static int check_stray_layer(struct fsck *f, uint64_t layer)
{
    struct store_layer found;
    struct key_id key = key_of_id(layer);
    uint8_t format = STORE_FORMAT;
    if (store_layer_get(f->txn, layer, &found) != -ENOENT)
        return 0;
    if (!fsck_found(f, "layer-missing", true,
                    "there are records of layer %" PRIu64 ", which nothing refers to; the "
                    "collector gets them",
                    layer))
        return 0;
    int rc = fsck_put_layer(f, &(struct store_layer){.id = layer});
    return rc == 0
               ? fsck_put(f, STORE_DBI_GARBAGE, store_val(&key, sizeof key), store_val(&format, 1))
               : rc;
}

static int check_layers_of(struct fsck *f, enum store_dbi dbi)
{
    uint64_t layer = 0;
    for (;;) {
        MDB_cursor *cursor;
        struct key_id from = key_of_id(layer + 1);
        MDB_val key = store_val(&from, sizeof from), value;
        int rc = store_errno(mdb_cursor_open(f->txn->mdb, f->store->dbi[dbi], &cursor));
        if (rc < 0)
            return rc;
        rc = store_errno(mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE));
        if (rc == 0 && key.mv_size < sizeof from)
            rc = -ENOENT; // malformed: said already
        if (rc == 0)
            memcpy(&from, key.mv_data, sizeof from);
        mdb_cursor_close(cursor);
        if (rc < 0)
            return rc == -ENOENT ? 0 : rc;
        layer = be64toh(from.be);
        rc = check_stray_layer(f, layer);
        if (rc < 0 || layer == UINT64_MAX)
            return rc;
    }
}

int fsck_pass_owners(struct fsck *f)
{
    static const enum store_dbi by_layer[] = {STORE_DBI_ENTRY, STORE_DBI_INODE, STORE_DBI_ORPHAN,
                                              STORE_DBI_LINK, STORE_DBI_XATTR};
    int rc = fsck_owners(f, check_owner, NULL);
    if (rc == 0)
        rc = fsck_walk(f, STORE_DBI_STACK, fsck_everything(), check_stack, NULL);
    for (size_t i = 0; rc == 0 && i < AF_ARRAY_LEN(by_layer); i++)
        rc = check_layers_of(f, by_layer[i]);
    return rc;
}
