// Large files for the tests of appends after commits.
#ifndef AF_TESTS_TAIL_FIXTURE_H
#define AF_TESTS_TAIL_FIXTURE_H

#include "tests/unit/mux/ops_fixture.h"

#include "mux/layer_list.h"
#include "mux/mux_priv.h"

#include <stdlib.h>
#include <string.h>

#define BIG 300000 // more than MUX_COPY_FAST_BYTES

static const struct base_file none[] = {{0}};

static inline struct store_inode record_of(struct view *v, const char *path)
{
    struct store *store = mux_store(v->fixture->mux);
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct mux_layer_list list = {0};
    struct store_inode inode;
    uint64_t fid = ops_stat(v, path).st_ino;
    assert_int_equal(store_read_begin(store, &txn), 0);
    assert_int_equal(store_sandbox_get(txn, v->sandbox.text, &sandbox), 0);
    store_sandbox_free_rules(&sandbox);
    assert_int_equal(mux_layer_list_load(txn, sandbox.delta, sandbox.stack, &list), 0);
    assert_int_equal(mux_resolve_inode(txn, mux_layer_list_all(&list), fid, &inode, NULL), 0);
    store_read_end(txn);
    mux_layer_list_fini(&list);
    inode.name = NULL;
    inode.inline_data = NULL;
    return inode;
}

static inline void fill(struct view *v, const char *path, char byte, size_t len, off_t offset)
{
    char *buf = malloc(len);
    memset(buf, byte, len);
    assert_int_equal(ops_write(v, path, buf, len, offset), 0);
    free(buf);
}

static inline void expect(struct view *v, const char *path, const char *bytes, size_t size)
{
    char *buf = malloc(size + 1);
    assert_int_equal(ops_stat(v, path).st_size, size);
    assert_int_equal(ops_read(v, path, buf, size + 1, 0), size);
    for (size_t i = 0; i < size; i++)
        if (buf[i] != bytes[i])
            fail_msg("byte %zu is %d, not %d", i, buf[i], bytes[i]);
    free(buf);
}

#endif
