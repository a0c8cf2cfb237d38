// Diffs over random histories: the base with the diff applied is the view, every time.
//
// Applying is what docs/CODEBASES.md describes: first take every rename's source out of the tree,
// deepest first, then go through the entries in order. Content and attributes are taken from the
// view only where an entry says that they changed, so a change that is not told shows. The same
// histories are made by writing records and by the operations that a sandbox uses.
#include "tests/unit/mux/view_writer.h"

#include "mux/walk.h"

#include <string.h>
#include <sys/stat.h>

#define NODES_MAX 512

struct node {
    char path[256];
    mode_t mode;
    int64_t mtime_ns; // 0 for directories: they are no change of their own
    char content[64];
};

struct tree {
    struct node nodes[NODES_MAX];
    size_t count;
};

// ---- reading the view and applying a diff

struct reading {
    struct delta_writer *writer;
    struct tree *tree;
};

static int read_node(void *arg, const struct mux_tree_node *from)
{
    struct reading *reading = arg;
    assert_true(reading->tree->count < NODES_MAX);
    struct node *node = &reading->tree->nodes[reading->tree->count++];
    *node = (struct node){.mode = from->mode};
    snprintf(node->path, sizeof node->path, "%s", from->path);
    if (from->symlink_target)
        snprintf(node->content, sizeof node->content, "%s", from->symlink_target);
    return 0;
}

static void read_view(struct delta_writer *writer, struct tree *tree)
{
    struct mux *mux = writer->fixture->mux;
    struct reading reading = {writer, tree};
    struct af_error err;
    tree->count = 0;
    if (mux_inspect_tree(mux, writer->sandbox.text, "", 0, 0, true, read_node, &reading, &err) < 0)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < tree->count; i++) {
        struct node *node = &tree->nodes[i];
        struct mux_node_info info;
        struct mux_file *file;
        size_t len = strlen(node->path);
        if (S_ISDIR(node->mode))
            continue;
        assert_int_equal(mux_inspect_stat(mux, writer->sandbox.text, node->path, len, &info, &err),
                         0);
        node->mtime_ns = info.mtime_ns;
        if (!S_ISREG(node->mode))
            continue;
        assert_int_equal(
            mux_inspect_open_file(mux, writer->sandbox.text, node->path, len, &file, &err), 0);
        ssize_t n = mux_file_read(file, node->content, sizeof node->content - 1, 0);
        assert_true(n >= 0);
        mux_file_close(file);
    }
}

static struct node *find(struct tree *tree, const char *path)
{
    for (size_t i = 0; i < tree->count; i++)
        if (strcmp(tree->nodes[i].path, path) == 0)
            return &tree->nodes[i];
    return NULL;
}

static bool is_at_or_below(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

// Moves the subtree to `to` (NULL: drops it). It must be there.
static void take_out(struct tree *tree, const char *path, struct tree *to)
{
    size_t kept = 0;
    assert_non_null(find(tree, path));
    for (size_t i = 0; i < tree->count; i++) {
        if (!is_at_or_below(tree->nodes[i].path, path))
            tree->nodes[kept++] = tree->nodes[i];
        else if (to)
            to->nodes[to->count++] = tree->nodes[i];
    }
    tree->count = kept;
}

#define CHANGES_MAX 512
struct changes {
    struct {
        enum mux_change change;
        char path[256], old_path[256];
        struct tree *moved;
    } list[CHANGES_MAX];
    size_t count;
};

static int collect(void *arg, const struct mux_diff_entry *entry)
{
    struct changes *changes = arg;
    assert_true(changes->count < CHANGES_MAX);
    size_t i = changes->count++;
    changes->list[i].change = entry->change;
    changes->list[i].moved = NULL;
    snprintf(changes->list[i].path, 256, "%s", entry->path);
    snprintf(changes->list[i].old_path, 256, "%s", entry->old_path ? entry->old_path : "");
    if (i > 0) {
        const char *before = changes->list[i - 1].path;
        assert_true(mux_path_compare(before, strlen(before), entry->path, strlen(entry->path)) <=
                    0);
    }
    return 0;
}

// Takes the sources of all renames out, deepest first: always the last one in path order.
static void take_sources(struct tree *tree, struct changes *changes)
{
    for (;;) {
        const char *deepest = NULL;
        size_t at = 0;
        for (size_t i = 0; i < changes->count; i++) {
            const char *old = changes->list[i].old_path;
            if (changes->list[i].change != MUX_RENAMED || changes->list[i].moved)
                continue;
            if (!deepest || mux_path_compare(deepest, strlen(deepest), old, strlen(old)) < 0) {
                deepest = old;
                at = i;
            }
        }
        if (!deepest)
            return;
        changes->list[at].moved = calloc(1, sizeof(struct tree));
        take_out(tree, deepest, changes->list[at].moved);
    }
}

static void put_back(struct tree *tree, struct tree *moved, const char *old_path, const char *path)
{
    assert_null(find(tree, path));
    for (size_t i = 0; i < moved->count; i++) {
        struct node node = moved->nodes[i];
        char rest[256];
        snprintf(rest, sizeof rest, "%s", node.path + strlen(old_path));
        int n = snprintf(node.path, sizeof node.path, "%s%s", path, rest);
        assert_true(n < (int)sizeof node.path);
        tree->nodes[tree->count++] = node;
    }
    free(moved);
}

static void apply(struct tree *tree, struct changes *changes, struct tree *view)
{
    take_sources(tree, changes);
    for (size_t i = 0; i < changes->count; i++) {
        const char *path = changes->list[i].path;
        struct node *now = find(view, path), *node = find(tree, path);
        switch (changes->list[i].change) {
        case MUX_DELETED:
            take_out(tree, path, NULL);
            break;
        case MUX_RENAMED:
            put_back(tree, changes->list[i].moved, changes->list[i].old_path, path);
            break;
        case MUX_ADDED:
            assert_null(node);
            assert_non_null(now);
            tree->nodes[tree->count++] = *now;
            break;
        case MUX_MODIFIED:
            assert_true(node && now);
            *node = *now;
            break;
        case MUX_METADATA:
            assert_true(node && now);
            node->mode = now->mode;
            node->mtime_ns = now->mtime_ns;
            break;
        }
    }
}

static void assert_same(struct tree *got, struct tree *view)
{
    for (size_t i = 0; i < view->count; i++) {
        struct node *node = find(got, view->nodes[i].path);
        if (!node)
            fail_msg("the diff does not lead to '%s'", view->nodes[i].path);
        assert_int_equal(node->mode, view->nodes[i].mode);
        assert_int_equal(node->mtime_ns, view->nodes[i].mtime_ns);
        assert_string_equal(node->content, view->nodes[i].content);
    }
    assert_int_equal(got->count, view->count);
}

static void check_diff(struct delta_writer *writer, const struct tree *base)
{
    static struct tree applied, view;
    static struct changes changes;
    struct af_error err;
    applied = *base;
    changes.count = 0;
    read_view(writer, &view);
    if (mux_inspect_diff(writer->fixture->mux, writer->sandbox.text, collect, &changes, &err) < 0)
        fail_msg("%s", err.text);
    apply(&applied, &changes, &view);
    assert_same(&applied, &view);
}

// ---- histories

struct driver {
    int (*mkdir)(struct delta_writer *writer, const char *path);
    int (*write)(struct delta_writer *writer, const char *path, const char *text);
    int (*symlink)(struct delta_writer *writer, const char *path, const char *target);
    int (*unlink)(struct delta_writer *writer, const char *path);
    int (*rmdir)(struct delta_writer *writer, const char *path);
    int (*rename)(struct delta_writer *writer, const char *from, const char *to);
    int (*exchange)(struct delta_writer *writer, const char *a, const char *b);
    int (*chmod)(struct delta_writer *writer, const char *path, mode_t mode);
};

static const struct driver by_records = {
    delta_mkdir, delta_write,  delta_symlink,  delta_unlink,
    delta_rmdir, delta_rename, delta_exchange, delta_chmod,
};

static const struct driver by_operations = {
    view_mkdir, view_write,  view_symlink,  view_unlink,
    view_rmdir, view_rename, view_exchange, view_chmod,
};

// A path that often exists: one of the view's, or a new name in one of its directories.
static void pick_path(struct prng *prng, const struct tree *view, char path[256])
{
    const struct node *node = view->count ? &view->nodes[prng_below(prng, view->count)] : NULL;
    if (node && prng_below(prng, 3) > 0) {
        snprintf(path, 256, "%s", node->path);
        return;
    }
    char name = (char)('a' + prng_below(prng, 6));
    if (node && S_ISDIR(node->mode) && strlen(node->path) < 40)
        snprintf(path, 256, "%.200s/%c", node->path, name);
    else
        snprintf(path, 256, "%c", name);
}

static void random_step(struct prng *prng, const struct driver *driver, struct delta_writer *writer)
{
    static struct tree view;
    char path[256], other[256], text[32];
    read_view(writer, &view);
    pick_path(prng, &view, path);
    pick_path(prng, &view, other);
    snprintf(text, sizeof text, "%u", (unsigned)prng_below(prng, 1000));
    switch (prng_below(prng, 12)) { // failures (EEXIST and the like) are part of it
    case 0:
        driver->mkdir(writer, path);
        break;
    case 1:
    case 2:
        driver->write(writer, path, text);
        break;
    case 3:
        driver->symlink(writer, path, text);
        break;
    case 4:
    case 5:
        driver->unlink(writer, path);
        break;
    case 6:
    case 7:
        driver->rmdir(writer, path);
        break;
    case 8:
    case 9:
        driver->rename(writer, path, other);
        break;
    case 10:
        driver->exchange(writer, path, other);
        break;
    case 11:
        driver->chmod(writer, path, prng_below(prng, 2) ? 0755 : 0700);
        break;
    }
}

static void make_base(struct fixture *f, struct af_id codebase, struct prng *prng)
{
    static const char *const paths[] = {"a", "b/a", "b/b/a", "b/b/b", "c/a", "c/c/c/c", "d", "e/a"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        upload(f, codebase, paths[i], paths[i]);
        if (prng_below(prng, 4) == 0)
            new_sandbox(f, codebase); // so that the base is of several layers
    }
}

static void run_histories(struct fixture *f, const struct driver *driver, bool attached,
                          uint64_t seeds, int steps)
{
    static struct tree base;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct prng prng = {.state = seed};
        struct af_id codebase = new_codebase(f);
        struct mux_attachment attachment;
        struct af_error err;
        make_base(f, codebase, &prng);
        struct delta_writer writer = {.fixture = f, .sandbox = new_sandbox(f, codebase)};
        if (attached && mux_view_attach(f->mux, writer.sandbox.text, &attachment, &err) < 0)
            fail_msg("%s", err.text);
        read_view(&writer, &base);
        for (int i = 0; i < steps; i++) {
            random_step(&prng, driver, &writer);
            check_diff(&writer, &base);
        }
        assert_int_equal(mux_sandbox_destroy(f->mux, writer.sandbox.text, &err), 0);
    }
}

static void test_the_base_with_the_diff_applied_is_the_view(void **state)
{
    run_histories(*state, &by_records, false, 30, 40);
}

static void test_so_it_is_after_the_operations_of_a_sandbox(void **state)
{
    run_histories(*state, &by_operations, true, 30, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_so_it_is_after_the_operations_of_a_sandbox),
        fixture_test(test_the_base_with_the_diff_applied_is_the_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
