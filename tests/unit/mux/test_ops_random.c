// Long random histories of mixed operations on a view and on a model, which must agree on every
// answer and, again and again, on the whole tree; mux is closed and opened in between, with node
// caches from one node up. AF_TEST_SEED and AF_TEST_OPS choose another history.
#include "tests/unit/mux/ops_model.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#define HANDLES         8
#define SIZE_MAX_TESTED 400000

struct handle {
    uint64_t nodeid;
    struct model_node *node;
};

struct history {
    struct fixture *fixture;
    struct view view;
    struct model model;
    struct prng prng;
    struct handle handles[HANDLES]; // files held open
    size_t nodes_max;
    unsigned step;
};

static size_t below(struct history *h, size_t bound)
{
    return prng_below(&h->prng, bound);
}

static void random_path(struct history *h, char path[64])
{
    size_t depth = 1 + below(h, 4), n = 0;
    for (size_t i = 0; i < depth; i++)
        n += (size_t)sprintf(path + n, "%s%c", i ? "/" : "", (int)('a' + below(h, 8)));
}

static void expect(struct history *h, const char *what, const char *path, int rc, int expected)
{
    if (rc != expected)
        fail_msg("step %u: %s(%s) is %s, should be %s", h->step, what, path, strerror(-rc),
                 strerror(-expected));
}

static void fill(struct history *h, unsigned char *buf, size_t len)
{
    unsigned seed = (unsigned)prng_next(&h->prng);
    for (size_t i = 0; i < len; i++)
        buf[i] = ops_byte(seed, i);
}

// Sizes around every boundary: inline, page, what a worker copies itself, beyond.
static size_t random_size(struct history *h)
{
    static const size_t bounds[] = {16, AF_INLINE_CONTENT_MAX + 2, 9000, 140000};
    size_t kind = below(h, 16);
    return below(h, bounds[kind < 9 ? 0 : kind < 13 ? 1 : kind < 15 ? 2 : 3]);
}

static void write_somewhere(struct history *h, uint64_t nodeid, struct model_node *node)
{
    static unsigned char buf[140000];
    size_t len = random_size(h), offset = below(h, 3) ? below(h, node->size + 1) : random_size(h);
    if (offset + len > SIZE_MAX_TESTED || len == 0)
        return;
    fill(h, buf, len);
    expect(h, "write", "", ops_write_node(&h->view, nodeid, buf, len, (off_t)offset), 0);
    model_write(node, buf, len, offset);
    node->mode &= ~(mode_t)S_ISUID;
}

static void truncate_somewhere(struct history *h, uint64_t nodeid, struct model_node *node)
{
    size_t size = below(h, 2) ? random_size(h) : below(h, node->size + 1);
    struct stat attr = {.st_size = (off_t)size};
    expect(h, "truncate", "", ops_setattr(&h->view, nodeid, MUX_SET_SIZE, &attr, NULL), 0);
    model_truncate(node, size);
    node->mode &= ~(mode_t)S_ISUID;
}

static void change_content(struct history *h)
{
    char path[64];
    struct model_node *node;
    struct mux_entry entry;
    random_path(h, path);
    int expected = model_find(&h->model, path, &node);
    expect(h, "lookup", path, ops_lookup(&h->view, path, &entry), expected);
    if (expected < 0 || !S_ISREG(node->mode))
        return;
    if (below(h, 3))
        write_somewhere(h, entry.nodeid, node);
    else
        truncate_somewhere(h, entry.nodeid, node);
}

static void change_mode(struct history *h)
{
    char path[64];
    struct model_node *node;
    mode_t mode = below(h, 2) ? 0640 : 04755;
    random_path(h, path);
    int expected = model_find(&h->model, path, &node);
    if (expected == 0 && S_ISLNK(node->mode))
        expected = -EOPNOTSUPP;
    expect(h, "chmod", path, ops_chmod(&h->view, path, mode), expected);
    if (expected == 0)
        node->mode = (node->mode & S_IFMT) | mode;
}

static void create_something(struct history *h)
{
    char path[64];
    random_path(h, path);
    switch (below(h, 6)) {
    case 0:
        expect(h, "symlink", path, ops_symlink(&h->view, "../else", path),
               model_create(&h->model, path, S_IFLNK | 0777, "../else"));
        break;
    case 1:
        expect(h, "mkfifo", path, ops_mkfifo(&h->view, path, 0600),
               model_create(&h->model, path, S_IFIFO | 0600, NULL));
        break;
    case 2:
    case 3:
        expect(h, "mkdir", path, ops_mkdir(&h->view, path, 0755),
               model_create(&h->model, path, S_IFDIR | 0755, NULL));
        break;
    default:
        expect(h, "create", path, ops_create(&h->view, path, 0644),
               model_create(&h->model, path, S_IFREG | 0644, NULL));
    }
}

static bool is_held(struct history *h, uint64_t nodeid)
{
    for (size_t i = 0; i < HANDLES; i++)
        if (h->handles[i].node && h->handles[i].nodeid == nodeid)
            return true;
    return false;
}

// What the kernel does for an inode that lost its name and that nobody has open.
static void forget_unless_held(struct history *h, uint64_t nodeid)
{
    if (nodeid != 0 && !is_held(h, nodeid))
        mux_forget(h->fixture->mux, nodeid);
}

static void remove_something(struct history *h)
{
    char path[64];
    struct mux_entry entry;
    bool dir = below(h, 2);
    random_path(h, path);
    if (ops_lookup(&h->view, path, &entry) < 0)
        entry.nodeid = 0;
    int expected = model_remove(&h->model, path, dir);
    expect(h, dir ? "rmdir" : "unlink", path,
           dir ? ops_rmdir(&h->view, path) : ops_unlink(&h->view, path), expected);
    if (expected == 0)
        forget_unless_held(h, entry.nodeid);
}

static void rename_something(struct history *h)
{
    static const unsigned flags[] = {0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    char from[64], to[64];
    struct mux_entry source, replaced;
    unsigned flag = flags[below(h, 5)];
    random_path(h, from);
    random_path(h, to);
    if (ops_lookup(&h->view, to, &replaced) < 0)
        replaced.nodeid = 0;
    if (ops_lookup(&h->view, from, &source) < 0)
        source.nodeid = 0;
    int expected = model_rename(&h->model, from, to, flag);
    expect(h, flag ? "rename2" : "rename", from, ops_rename(&h->view, from, to, flag), expected);
    if (expected == 0 && !(flag & RENAME_EXCHANGE) && replaced.nodeid != source.nodeid)
        forget_unless_held(h, replaced.nodeid);
}

static void close_handle(struct history *h, struct handle *handle)
{
    struct handle old = *handle;
    if (!old.node)
        return;
    assert_node_equals(&h->view, old.nodeid, old.node, "open file");
    handle->node = NULL;
    if (!old.node->linked)
        forget_unless_held(h, old.nodeid);
    model_unref(old.node);
}

// Opens, uses or closes a file that may lose its name meanwhile.
static void use_handle(struct history *h)
{
    char path[64];
    struct model_node *node;
    struct mux_entry entry;
    struct handle *handle = &h->handles[below(h, HANDLES)];
    if (handle->node && below(h, 4) == 0) {
        close_handle(h, handle);
    } else if (handle->node) {
        write_somewhere(h, handle->nodeid, handle->node);
    } else {
        random_path(h, path);
        if (model_find(&h->model, path, &node) < 0 || !S_ISREG(node->mode))
            return;
        assert_int_equal(ops_lookup(&h->view, path, &entry), 0);
        model_ref(node);
        *handle = (struct handle){entry.nodeid, node};
    }
}

static void step(struct history *h)
{
    size_t kind = below(h, 32);
    if (kind < 8)
        create_something(h);
    else if (kind < 16)
        change_content(h);
    else if (kind < 18)
        change_mode(h);
    else if (kind < 22)
        remove_something(h);
    else if (kind < 27)
        rename_something(h);
    else
        use_handle(h);
}

static void reopen(struct history *h)
{
    for (size_t i = 0; i < HANDLES; i++)
        close_handle(h, &h->handles[i]);
    ops_reopen_sized(h->fixture, h->nodes_max);
    ops_attach(&h->view);
    assert_int_equal(stats_of(h->fixture).orphans, 0);
}

static const struct base_file base[] = {
    {.path = "a/a/a", .text = "aaa"},
    {.path = "a/b", .text = "ab"},
    {.path = "b/h", .text = "hidden when h is"},
    {.path = "b/c/d", .text = "bcd"},
    {.path = "c", .mode = S_IFREG | 0755, .text = "#!"},
    {.path = "d/e/h/a", .text = "below a hidden directory"},
    {.path = "e", .mode = S_IFLNK | 0777, .text = "a/b"},
    {0},
};

static void add_base(struct history *h)
{
    static const char *const dirs[] = {"a", "a/a", "b", "b/c", "d", "d/e", "d/e/h"};
    for (size_t i = 0; i < 7; i++)
        model_add(&h->model, dirs[i], S_IFDIR | 0755, NULL);
    for (const struct base_file *file = base; file->path; file++)
        model_add(&h->model, file->path, file->mode ? file->mode : S_IFREG | 0644, file->text);
    // Larger ones, which uploads put beside them.
    static unsigned char bytes[200000];
    static const size_t sizes[] = {3000, 200000};
    for (size_t i = 0; i < 2; i++) {
        struct model_node *node;
        const char *path = i ? "g" : "f";
        for (size_t n = 0; n < sizes[i]; n++)
            bytes[n] = ops_byte((unsigned)i, n);
        model_add(&h->model, path, S_IFREG | 0644, "");
        assert_int_equal(model_find(&h->model, path, &node), 0);
        model_write(node, bytes, sizes[i], 0);
    }
}

static unsigned from_env(const char *name, unsigned otherwise)
{
    const char *value = getenv(name);
    return value ? (unsigned)strtoul(value, NULL, 10) : otherwise;
}

static void run(void **state, size_t nodes_max, const char *rules, const char *hidden)
{
    struct history h = {.fixture = *state, .nodes_max = nodes_max};
    unsigned ops = from_env("AF_TEST_OPS", 1500);
    h.prng.state = from_env("AF_TEST_SEED", 1) * 1000 + nodes_max;
    ops_reopen_sized(h.fixture, nodes_max);
    struct af_id codebase = ops_codebase(h.fixture, base);
    ops_upload_big(h.fixture, codebase, "f", 3000, 0);
    ops_upload_big(h.fixture, codebase, "g", 200000, 1);
    model_init(&h.model, hidden);
    add_base(&h);
    h.view = ops_view(h.fixture, codebase, rules);
    for (h.step = 0; h.step < ops; h.step++) {
        step(&h);
        if (h.step % 100 == 99)
            assert_equals_model(&h.view, &h.model);
        if (h.step % 400 == 399) {
            reopen(&h);
            assert_equals_model(&h.view, &h.model);
            assert_accounting(&h.view);
        }
    }
    reopen(&h);
    assert_equals_model(&h.view, &h.model);
    struct view fresh = ops_view(h.fixture, codebase, "**/*=write");
    assert_text(&fresh, "b/h", "hidden when h is"); // the base is as it was
    assert_text(&fresh, "d/e/h/a", "below a hidden directory");
    model_fini(&h.model);
}

static void test_history_with_one_cached_node(void **state)
{
    run(state, 1, "**/*=write", NULL);
}

static void test_history_with_a_handful_of_cached_nodes(void **state)
{
    run(state, 5, "**/*=write", NULL);
}

static void test_history_with_everything_cached(void **state)
{
    run(state, 100000, "**/*=write", NULL);
}

static void test_P6_P8_history_with_hidden_names(void **state)
{
    run(state, 100001, "**/*=write **/h/**=none@5", "h");
}

static void test_P6_P8_history_with_hidden_names_and_few_nodes(void **state)
{
    run(state, 3, "**/*=write **/h/**=none@5", "h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_history_with_one_cached_node),
        fixture_test(test_history_with_a_handful_of_cached_nodes),
        fixture_test(test_history_with_everything_cached),
        fixture_test(test_P6_P8_history_with_hidden_names),
        fixture_test(test_P6_P8_history_with_hidden_names_and_few_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
