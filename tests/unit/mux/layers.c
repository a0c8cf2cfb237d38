// See layers.h.
#include "tests/unit/mux/layers.h"

#include "mux/compact.h"
#include "mux/inspect_priv.h"
#include "mux/walk.h"

#include <string.h>
#include <sys/stat.h>

#define UID_BASE 700000

void layers_reopen(struct fixture *fixture, bool with_thread)
{
    struct af_error err;
    struct mux_options options = {
        .state_dir = fixture->dir,
        .uid_base = UID_BASE,
        .uid_count = 1000,
        .reserved_uid = UID_BASE - 1,
        .no_compaction = !with_thread,
    };
    if (fixture->mux)
        fixture_close(fixture);
    if (mux_open(&options, &fixture->mux, &err) < 0)
        fail_msg("mux_open: %s", err.text);
}

struct counting {
    uint64_t fids[256], files, bytes;
};

static enum mux_walk_next count_file(void *arg, const struct mux_walk_node *node)
{
    struct counting *counting = arg;
    if (!S_ISREG(node->inode->mode))
        return MUX_WALK_ON;
    for (size_t i = 0; i < counting->files; i++)
        if (counting->fids[i] == node->inode->fid)
            return MUX_WALK_ON;
    assert_true(counting->files < AF_ARRAY_LEN(counting->fids));
    counting->fids[counting->files++] = node->inode->fid;
    counting->bytes += node->inode->size;
    return MUX_WALK_ON;
}

void layers_push(struct fixture *fixture, struct af_id codebase_id, struct af_id sandbox_id)
{
    struct store *store = mux_store(fixture->mux);
    struct store_txn *txn;
    struct store_codebase codebase;
    struct store_sandbox sandbox;
    uint64_t layers[STORE_STACK_MAX + 1], stack;
    size_t count;
    assert_int_equal(store_write_begin(store, &txn), 0);
    assert_int_equal(store_codebase_get(txn, codebase_id.text, &codebase), 0);
    assert_int_equal(store_sandbox_get(txn, sandbox_id.text, &sandbox), 0);
    store_sandbox_free_rules(&sandbox);
    assert_false(codebase.head_dirty);
    assert_int_equal(codebase.stack, sandbox.stack);
    assert_int_equal(store_stack_get(txn, codebase.stack, layers + 1, STORE_STACK_MAX, &count), 0);
    layers[0] = sandbox.delta;
    assert_int_equal(store_layer_freeze(txn, sandbox.delta), 0);
    assert_int_equal(store_stack_new(txn, layers, count + 1, &stack), 0);
    assert_int_equal(store_stack_unref(txn, codebase.stack), 0);
    codebase.stack = stack;
    struct counting counting = {0};
    struct mux_layers all = {.ids = layers, .count = count + 1};
    assert_int_equal(mux_walk(txn, all, codebase.root_fid, "", 0, count_file, &counting), 0);
    codebase.files = counting.files;
    codebase.size_bytes = counting.bytes;
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
    assert_int_equal(store_commit(txn), 0);
    struct af_error err;
    if (mux_sandbox_destroy(fixture->mux, sandbox_id.text, &err) < 0)
        fail_msg("%s", err.text);
}

size_t layers_depth(struct fixture *fixture, struct af_id codebase_id)
{
    struct store_txn *txn;
    struct store_codebase codebase = get_codebase(fixture, codebase_id);
    size_t count;
    assert_int_equal(store_read_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(store_stack_get(txn, codebase.stack, NULL, 0, &count), 0);
    store_read_end(txn);
    return count;
}

size_t layers_depth_of_sandbox(struct fixture *fixture, struct af_id sandbox_id)
{
    struct store_txn *txn;
    struct store_sandbox sandbox;
    size_t count;
    assert_int_equal(store_read_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(store_sandbox_get(txn, sandbox_id.text, &sandbox), 0);
    store_sandbox_free_rules(&sandbox);
    assert_int_equal(store_stack_get(txn, sandbox.stack, NULL, 0, &count), 0);
    store_read_end(txn);
    return count;
}

struct telling {
    struct fixture *fixture;
    struct af_id sandbox;
    FILE *out;
};

static void tell_content(struct telling *telling, const char *path)
{
    struct mux_file *file;
    struct af_error err;
    size_t len;
    if (mux_inspect_open_file(telling->fixture->mux, telling->sandbox.text, path, strlen(path),
                              &file, &err) < 0)
        fail_msg("%s", err.text);
    char *text = read_all(file, &len);
    mux_file_close(file);
    unsigned long sum = len;
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + (unsigned char)text[i];
    fprintf(telling->out, " %zu bytes, sum %lx", len, sum);
    free(text);
}

static int tell_node(void *arg, const struct mux_tree_node *node)
{
    struct telling *telling = arg;
    struct mux_node_info info;
    struct af_error err;
    if (mux_inspect_stat(telling->fixture->mux, telling->sandbox.text, node->path,
                         strlen(node->path), &info, &err) < 0)
        fail_msg("%s: %s", node->path, err.text);
    fprintf(telling->out, "%s fid %lu version %lu mode %o names %u mtime %ld -> %s", node->path,
            (unsigned long)info.fid, (unsigned long)info.version, info.mode, info.nlink,
            (long)info.mtime_ns, info.symlink_target);
    if (S_ISREG(info.mode) && info.size <= 1u << 20)
        tell_content(telling, node->path);
    struct store_txn *txn;
    struct mux_sandbox_layers of = {0};
    struct store_inode inode;
    assert_int_equal(
        mux_inspect_begin(telling->fixture->mux, telling->sandbox.text, &of, &txn, &err), 0);
    assert_int_equal(mux_resolve_inode(txn, mux_layer_list_all(&of.layers), info.fid, &inode, NULL),
                     0);
    if (inode.xattr_bytes > 0) {
        const void *xattrs;
        size_t len;
        assert_int_equal(store_xattr_get(txn, inode.xattr_layer, info.fid, &xattrs, &len), 0);
        fprintf(telling->out, " xattrs %.*s", (int)len, (const char *)xattrs);
    }
    store_read_end(txn);
    mux_sandbox_layers_fini(&of);
    fprintf(telling->out, "\n");
    return 0;
}

char *layers_tell(struct fixture *fixture, struct af_id sandbox)
{
    char *text = NULL;
    size_t size;
    struct telling telling = {fixture, sandbox, open_memstream(&text, &size)};
    struct af_error err;
    assert_non_null(telling.out);
    if (mux_inspect_tree(fixture->mux, sandbox.text, "", 0, 0, true, tell_node, &telling, &err) < 0)
        fail_msg("%s", err.text);
    fclose(telling.out);
    return text;
}

void layers_attach(struct fixture *fixture, struct af_id sandbox)
{
    struct mux_attachment at;
    struct af_error err;
    if (mux_view_attach(fixture->mux, sandbox.text, &at, &err) < 0)
        fail_msg("%s", err.text);
}
