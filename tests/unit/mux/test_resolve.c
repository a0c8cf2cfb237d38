// Names and inodes over a stack of layers: the top one that knows a name decides.
#include "mux/resolve.h"

#include "tests/unit/mux/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define LAYERS 3

struct stack {
    struct store *store;
    uint64_t ids[LAYERS]; // top first
    uint64_t root;
    struct store_txn *txn;
};

static uint64_t new_id(struct stack *s)
{
    uint64_t id;
    assert_int_equal(store_new_id(s->store, &id), 0);
    return id;
}

static uint64_t put_inode(struct stack *s, int layer, uint64_t fid, mode_t mode, uint64_t parent,
                          const char *name)
{
    struct store_inode inode = {
        .fid = fid ? fid : new_id(s),
        .version = new_id(s),
        .mode = mode,
        .nlink = 1,
        .size = S_ISREG(mode) ? (uint64_t)layer : 0,
        .parent = parent,
        .name = name,
        .name_len = (uint8_t)strlen(name),
    };
    assert_int_equal(store_inode_put(s->txn, s->ids[layer], &inode), 0);
    return inode.fid;
}

static uint64_t put(struct stack *s, int layer, uint64_t parent, const char *name, mode_t mode)
{
    uint64_t fid = put_inode(s, layer, 0, mode, parent, name);
    assert_int_equal(store_entry_put(s->txn, s->ids[layer], parent, name, strlen(name), fid,
                                     (uint8_t)IFTODT(mode)),
                     0);
    return fid;
}

static void hide(struct stack *s, int layer, uint64_t parent, const char *name)
{
    assert_int_equal(store_entry_put_whiteout(s->txn, s->ids[layer], parent, name, strlen(name)),
                     0);
}

// Opens a write transaction over three empty layers with a root in the lowest.
static struct stack begin(struct fixture *f)
{
    struct stack s = {.store = mux_store(f->mux)};
    assert_int_equal(store_write_begin(s.store, &s.txn), 0);
    for (int i = 0; i < LAYERS; i++)
        assert_int_equal(store_layer_new(s.txn, &s.ids[i]), 0);
    s.root = put_inode(&s, LAYERS - 1, 0, S_IFDIR | 0755, 0, "");
    return s;
}

static struct mux_layers layers_of(const struct stack *s)
{
    return (struct mux_layers){.ids = s->ids, .count = LAYERS};
}

static int entry(struct stack *s, uint64_t parent, const char *name, uint64_t *ret_fid,
                 size_t *ret_index)
{
    struct store_entry found;
    int rc = mux_resolve_entry(s->txn, layers_of(s), parent, name, strlen(name), &found, ret_index);
    *ret_fid = rc == 0 ? found.fid : 0;
    return rc;
}

static int path(struct stack *s, const char *text, struct store_inode *ret, size_t *ret_index)
{
    return mux_resolve_path(s->txn, layers_of(s), s->root, text, strlen(text), ret, ret_index);
}

static void test_the_top_layer_that_names_an_entry_wins(void **state)
{
    struct stack s = begin(*state);
    uint64_t low = put(&s, 2, s.root, "both", S_IFREG | 0644);
    uint64_t only_low = put(&s, 2, s.root, "low", S_IFREG | 0644);
    uint64_t high = put(&s, 1, s.root, "both", S_IFREG | 0644), fid;
    size_t index;
    assert_int_not_equal(low, high);
    assert_int_equal(entry(&s, s.root, "both", &fid, &index), 0);
    assert_int_equal(fid, high);
    assert_int_equal(index, 1);
    assert_int_equal(entry(&s, s.root, "low", &fid, &index), 0);
    assert_int_equal(fid, only_low);
    assert_int_equal(index, 2);
    assert_int_equal(entry(&s, s.root, "none", &fid, NULL), -ENOENT);
    assert_int_equal(entry(&s, low, "both", &fid, NULL), -ENOENT);
    store_abort(s.txn);
}

static void test_B6_a_whiteout_hides_what_is_below_and_can_be_covered_again(void **state)
{
    struct stack s = begin(*state);
    uint64_t fid, again;
    bool exists;
    put(&s, 2, s.root, "n", S_IFREG | 0644);
    hide(&s, 1, s.root, "n");
    assert_int_equal(entry(&s, s.root, "n", &fid, NULL), -ENOENT);
    assert_int_equal(mux_resolve_in_lower(s.txn, layers_of(&s), s.root, "n", 1, &exists), 0);
    assert_false(exists); // whited out below already: removing it again needs nothing
    again = put(&s, 0, s.root, "n", S_IFDIR | 0755);
    assert_int_equal(entry(&s, s.root, "n", &fid, NULL), 0);
    assert_int_equal(fid, again);
    store_abort(s.txn);
}

static void test_in_lower_asks_below_the_live_layer_only(void **state)
{
    struct stack s = begin(*state);
    bool exists;
    put(&s, 0, s.root, "live", S_IFREG | 0644);
    put(&s, 2, s.root, "frozen", S_IFREG | 0644);
    assert_int_equal(mux_resolve_in_lower(s.txn, layers_of(&s), s.root, "live", 4, &exists), 0);
    assert_false(exists);
    hide(&s, 0, s.root, "frozen");
    assert_int_equal(mux_resolve_in_lower(s.txn, layers_of(&s), s.root, "frozen", 6, &exists), 0);
    assert_true(exists);
    store_abort(s.txn);
}

static void test_D8_the_topmost_record_of_a_fid_is_its_state(void **state)
{
    struct stack s = begin(*state);
    uint64_t fid = put(&s, 2, s.root, "f", S_IFREG | 0644);
    struct store_inode inode;
    size_t index;
    put_inode(&s, 0, fid, S_IFREG | 0600, s.root, "f"); // copied up
    assert_int_equal(path(&s, "f", &inode, &index), 0);
    assert_int_equal(inode.fid, fid);
    assert_int_equal(inode.mode, S_IFREG | 0600);
    assert_int_equal(index, 0);
    assert_int_equal(mux_resolve_inode(s.txn, layers_of(&s), new_id(&s), &inode, NULL), -ENOENT);
    store_abort(s.txn);
}

static void test_paths_walk_over_layers_and_follow_no_links(void **state)
{
    struct stack s = begin(*state);
    struct store_inode inode = {.fid = 1};
    size_t index;
    uint64_t a = put(&s, 2, s.root, "a", S_IFDIR | 0755);
    uint64_t b = put(&s, 1, a, "b", S_IFDIR | 0755);
    uint64_t c = put(&s, 0, b, "c", S_IFREG | 0644);
    put(&s, 2, s.root, "link", S_IFLNK | 0777);
    assert_int_equal(path(&s, "", &inode, &index), 0);
    assert_int_equal(inode.fid, s.root);
    assert_int_equal(path(&s, "a/b/c", &inode, &index), 0);
    assert_int_equal(inode.fid, c);
    assert_int_equal(index, 0);
    assert_int_equal(path(&s, "a/b", &inode, &index), 0);
    assert_int_equal(index, 1);
    inode.fid = 1;
    assert_int_equal(path(&s, "a/b/c/d", &inode, &index), -ENOTDIR);
    assert_int_equal(path(&s, "link/c", &inode, &index), -ENOTDIR);
    assert_int_equal(path(&s, "a/x/c", &inode, &index), -ENOENT);
    assert_int_equal(inode.fid, 1); // untouched on failure
    store_abort(s.txn);
}

static bool is_empty(struct stack *s, uint64_t dir)
{
    bool empty;
    assert_int_equal(mux_resolve_dir_is_empty(s->txn, layers_of(s), dir, &empty), 0);
    return empty;
}

static void test_a_directory_is_empty_when_every_name_is_hidden(void **state)
{
    struct stack s = begin(*state);
    uint64_t dir = put(&s, 2, s.root, "d", S_IFDIR | 0755);
    assert_true(is_empty(&s, dir));
    put(&s, 2, dir, "x", S_IFREG | 0644);
    put(&s, 1, dir, "y", S_IFREG | 0644);
    assert_false(is_empty(&s, dir));
    hide(&s, 0, dir, "x");
    assert_false(is_empty(&s, dir));
    hide(&s, 0, dir, "y");
    assert_true(is_empty(&s, dir));
    store_abort(s.txn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_the_top_layer_that_names_an_entry_wins),
        fixture_test(test_B6_a_whiteout_hides_what_is_below_and_can_be_covered_again),
        fixture_test(test_in_lower_asks_below_the_live_layer_only),
        fixture_test(test_D8_the_topmost_record_of_a_fid_is_its_state),
        fixture_test(test_paths_walk_over_layers_and_follow_no_links),
        fixture_test(test_a_directory_is_empty_when_every_name_is_hidden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
