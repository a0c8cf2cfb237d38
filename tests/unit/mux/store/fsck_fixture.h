// A small store with one of everything, built with the store's own functions, for tests of fsck.
#ifndef AF_TESTS_FSCK_FIXTURE_H
#define AF_TESTS_FSCK_FIXTURE_H

#include "tests/unit/mux/store/store_fixture.h"

#include "mux/store/fsck.h"
#include "mux/store/store_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/sha.h>

#define BLOB_BYTES 5000

// The ids of what build_tree made.
struct tree {
    uint64_t root, dir, plain, big, linked, link; // in `base`
    uint64_t base, stack, head, delta;
    uint64_t big_blob, own_blob;
    uint64_t upload;                      // in `head`
    uint64_t own, own_dir, inner, orphan; // in `delta`
    const char *codebase, *sandbox;
};

static inline uint64_t new_blob(struct fixture *f, uint8_t sha256[32])
{
    struct store_blob *blob;
    char bytes[BLOB_BYTES];
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(store_blob_new(f->store, &blob), 0);
    assert_int_equal(pwrite(store_blob_fd(blob), bytes, sizeof bytes, 0), sizeof bytes);
    if (sha256)
        SHA256((unsigned char *)bytes, sizeof bytes, sha256);
    uint64_t id = store_blob_id(blob);
    store_blob_release(blob);
    return id;
}

static inline struct store_inode node(struct fixture *f, uint64_t parent, const char *name,
                                      mode_t mode)
{
    return (struct store_inode){
        .fid = new_id(f),
        .version = new_id(f),
        .mode = mode,
        .nlink = 1,
        .parent = parent,
        .name = name,
        .name_len = (uint8_t)strlen(name),
    };
}

static inline void set_text(struct store_inode *inode, const char *text)
{
    inode->content = STORE_CONTENT_INLINE;
    inode->inline_data = text;
    inode->inline_len = inode->size = strlen(text);
}

static inline void set_blob(struct store_inode *inode, uint64_t blob)
{
    inode->content = STORE_CONTENT_BLOB;
    inode->blob = blob;
    inode->size = BLOB_BYTES;
}

static inline uint64_t add(struct store_txn *txn, uint64_t layer, const struct store_inode *inode)
{
    assert_int_equal(store_inode_put(txn, layer, inode), 0);
    if (inode->name_len > 0)
        assert_int_equal(store_entry_put(txn, layer, inode->parent, inode->name, inode->name_len,
                                         inode->fid, (uint8_t)IFTODT(inode->mode)),
                         0);
    return inode->fid;
}

static inline void build_base(struct fixture *f, struct store_txn *txn, struct tree *t)
{
    uint8_t sha256[32];
    assert_int_equal(store_layer_new(txn, &t->base), 0);
    struct store_inode inode = node(f, 0, "", S_IFDIR | 0755);
    t->root = add(txn, t->base, &inode);
    inode = node(f, t->root, "dir", S_IFDIR | 0755);
    t->dir = add(txn, t->base, &inode);
    inode = node(f, t->root, "plain", S_IFREG | 0644);
    set_text(&inode, "hello");
    t->plain = add(txn, t->base, &inode);
    inode = node(f, t->dir, "big", S_IFREG | 0644);
    t->big_blob = new_blob(f, sha256);
    set_blob(&inode, t->big_blob);
    t->big = add(txn, t->base, &inode);
    assert_int_equal(store_digest_put(txn, sha256, t->big_blob), 0);
    inode = node(f, t->root, "one", S_IFREG | 0644);
    set_text(&inode, "linked");
    inode.nlink = 2;
    t->linked = add(txn, t->base, &inode);
    assert_int_equal(store_entry_put(txn, t->base, t->dir, "two", 3, t->linked, DT_REG), 0);
    assert_int_equal(store_link_put(txn, t->base, t->linked, t->root, "one", 3), 0);
    assert_int_equal(store_link_put(txn, t->base, t->linked, t->dir, "two", 3), 0);
    inode = node(f, t->root, "link", S_IFLNK | 0777);
    set_text(&inode, "dir/big");
    t->link = add(txn, t->base, &inode);
    assert_int_equal(store_layer_freeze(txn, t->base), 0);
    assert_int_equal(store_stack_new(txn, &t->base, 1, &t->stack), 0);
    assert_int_equal(store_layer_unref(txn, t->base), 0); // the stack's from now on
}

static inline void build_codebase(struct fixture *f, struct store_txn *txn, struct tree *t)
{
    struct store_codebase codebase = {
        .name = "test",
        .root_fid = t->root,
        .stack = t->stack,
        .head_dirty = true,
        .files = 4,
        .size_bytes = 5 + BLOB_BYTES + 6 + 3,
    };
    t->codebase = "cb_00000000000000000000000001";
    strcpy(codebase.id.text, t->codebase);
    assert_int_equal(store_layer_new(txn, &t->head), 0);
    codebase.head = t->head;
    struct store_inode inode = node(f, t->dir, "upload", S_IFREG | 0644);
    set_text(&inode, "new");
    t->upload = add(txn, t->head, &inode);
    assert_int_equal(store_codebase_put(txn, &codebase), 0);
}

static inline void build_sandbox(struct fixture *f, struct store_txn *txn, struct tree *t)
{
    struct store_sandbox sandbox = {.root_fid = t->root,
                                    .stack = t->stack,
                                    .status = STORE_SANDBOX_STOPPED,
                                    .access = STORE_ACCESS_NORMAL};
    t->sandbox = "sb_00000000000000000000000001";
    strcpy(sandbox.id.text, t->sandbox);
    strcpy(sandbox.codebase_id.text, t->codebase);
    assert_int_equal(store_stack_ref(txn, t->stack), 0);
    assert_int_equal(store_layer_new(txn, &t->delta), 0);
    sandbox.delta = t->delta;
    assert_int_equal(store_entry_put_whiteout(txn, t->delta, t->root, "plain", 5), 0);
    struct store_inode inode = node(f, t->root, "own", S_IFREG | 0644);
    t->own_blob = new_blob(f, NULL);
    set_blob(&inode, t->own_blob);
    inode.blob_owned = true;
    inode.xattr_bytes = 7;
    inode.xattr_layer = t->delta;
    assert_int_equal(store_xattr_put(txn, t->delta, inode.fid, "sevenby", 7), 0);
    t->own = add(txn, t->delta, &inode);
    inode = node(f, t->root, "own-dir", S_IFDIR | 0755);
    t->own_dir = add(txn, t->delta, &inode);
    inode = node(f, t->own_dir, "inner", S_IFREG | 0644);
    set_text(&inode, "inner text");
    t->inner = add(txn, t->delta, &inode);
    inode = node(f, 0, "", S_IFREG | 0644);
    inode.nlink = 0;
    t->orphan = add(txn, t->delta, &inode);
    assert_int_equal(store_orphan_put(txn, t->delta, t->orphan), 0);
    // "own" and "inner" came, "plain" went.
    assert_int_equal(store_layer_count_tree(txn, t->delta, 2 - 1, BLOB_BYTES + 10 - 5), 0);
    assert_int_equal(store_sandbox_put(txn, &sandbox), 0);
}

static inline struct tree build_tree(struct fixture *f)
{
    struct tree t = {0};
    struct store_txn *txn = begin(f);
    build_base(f, txn, &t);
    build_codebase(f, txn, &t);
    build_sandbox(f, txn, &t);
    commit(txn);
    assert_int_equal(store_sync(f->store), 0); // the blobs move in
    return t;
}

#endif
