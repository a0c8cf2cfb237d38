// Random histories of two views and uploads on one codebase, with commits, rebases and rollbacks.
//
// The first test compares heads and views with a model: trees are arrays over a small set of paths,
// and a merge is by name, last writer wins, a removal spares what it has not seen. The second one
// moves, exchanges and links as well, where names do not tell identities, and checks what must hold
// of any tree: every name leads to a record, records know a name that leads to them, link counts
// are names, directories have one, the codebase's counters are a recount (B3), no cycle (a walk
// ends). And no merge loses a file: what has one name in base, view and head has one
// afterwards.
#include "mux/commit.h"
#include "mux/fid_map.h"
#include "mux/layer_list.h"
#include "mux/mux_priv.h"
#include "mux/walk.h"
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

#define VIEWS  2
#define ROUNDS 1000

static const char *const dirs[] = {"", "d0", "d1", "d0/e0", "d0/e1", "d1/e0"};
static const int parents[] = {0, 0, 0, 1, 1, 2};
#define DIRS  6
#define FILES 3 // in each directory
#define PATHS (DIRS + DIRS * FILES)

// Value per path, 0: nothing there: a file's content, a directory's identity. Directories first.
struct tree {
    int at[PATHS];
};

struct world {
    struct fixture *fixture;
    struct prng prng;
    struct view views[VIEWS];
    struct tree head, base[VIEWS], seen[VIEWS];
    int next;
};

static const char *path_of(int i, char buf[32])
{
    if (i < DIRS)
        return dirs[i];
    const char *dir = dirs[(i - DIRS) / FILES];
    snprintf(buf, 32, "%s%sf%d", dir, *dir ? "/" : "", (i - DIRS) % FILES);
    return buf;
}

static int parent_of(int i)
{
    return i < DIRS ? parents[i] : (i - DIRS) / FILES;
}

static bool is_empty(const struct tree *tree, int dir)
{
    for (int i = 1; i < PATHS; i++)
        if (tree->at[i] && parent_of(i) == dir)
            return false;
    return true;
}

// Missing ones are as in `from`.
static void make_parents(struct tree *tree, int i, const struct tree *from)
{
    for (int dir = parent_of(i); dir != 0; dir = parent_of(dir))
        if (!tree->at[dir])
            tree->at[dir] = from->at[dir];
}

// What the view changed against its base, done on the head.
static void merge(const struct tree *base, const struct tree *view, struct tree *head)
{
    for (int i = DIRS; i < PATHS; i++)
        if (base->at[i] && !view->at[i] && head->at[i] == base->at[i])
            head->at[i] = 0;
    for (int i = DIRS - 1; i > 0; i--) // deeper ones come later in the list
        if (base->at[i] && view->at[i] != base->at[i] && head->at[i] == base->at[i] &&
            is_empty(head, i))
            head->at[i] = 0;
    for (int i = 1; i < PATHS; i++)
        if (view->at[i] && view->at[i] != base->at[i]) {
            if (i >= DIRS || !head->at[i])
                head->at[i] = view->at[i];
            make_parents(head, i, view);
        }
}

// ---- comparing

static void expect_path(const struct tree *tree, int i, bool exists, const char *text)
{
    char buf[32], expected[16];
    if (exists != (tree->at[i] != 0))
        fail_msg("%s %s", path_of(i, buf), exists ? "should not be there" : "is missing");
    snprintf(expected, sizeof expected, "%d", tree->at[i]);
    if (i >= DIRS && exists && strcmp(text, expected) != 0)
        fail_msg("%s holds %s, not %s", path_of(i, buf), text, expected);
}

static void compare_head(struct world *world)
{
    struct af_id codebase = world->views[0].codebase;
    char *names = listing(world->fixture, codebase, "", true), buf[32], line[40];
    for (int i = 1; i < PATHS; i++) {
        snprintf(line, sizeof line, "%s%s\n", path_of(i, buf), i < DIRS ? "/" : "");
        char *found = strstr(names, line);
        while (found && found != names && found[-1] != '\n')
            found = strstr(found + 1, line);
        char *text =
            found && i >= DIRS ? download(world->fixture, codebase, path_of(i, buf)) : NULL;
        expect_path(&world->head, i, found != NULL, text);
        free(text);
    }
    free(names);
    assert_counters(world->fixture, codebase);
}

static void compare_view(struct world *world, int v)
{
    char buf[32], text[16];
    for (int i = 1; i < PATHS; i++) {
        bool exists = ops_exists(&world->views[v], path_of(i, buf));
        ssize_t n = 0;
        if (exists && i >= DIRS)
            n = ops_read(&world->views[v], path_of(i, buf), text, sizeof text - 1, 0);
        assert_true(n >= 0);
        text[n] = '\0';
        expect_path(&world->seen[v], i, exists, text);
    }
    assert_accounting(&world->views[v]);
}

// ---- steps

static void change_view(struct world *world, int v)
{
    struct view *view = &world->views[v];
    struct tree *tree = &world->seen[v];
    int i = 1 + (int)prng_below(&world->prng, PATHS - 1);
    char buf[32], text[16];
    const char *path = path_of(i, buf);
    if (!tree->at[parent_of(i)] && parent_of(i) != 0)
        return;
    if (i < DIRS && tree->at[i]) {
        int rc = ops_rmdir(view, path);
        assert_int_equal(rc, is_empty(tree, i) ? 0 : -ENOTEMPTY);
        if (rc == 0)
            tree->at[i] = 0;
    } else if (i < DIRS) {
        assert_int_equal(ops_mkdir(view, path, 0755), 0);
        tree->at[i] = ++world->next;
    } else if (tree->at[i] && prng_below(&world->prng, 3) == 0) {
        assert_int_equal(ops_unlink(view, path), 0);
        tree->at[i] = 0;
    } else {
        tree->at[i] = ++world->next;
        snprintf(text, sizeof text, "%d", tree->at[i]);
        ops_put(view, path, text);
    }
}

static void upload_one(struct world *world)
{
    int i = DIRS + (int)prng_below(&world->prng, PATHS - DIRS);
    char buf[32], text[16];
    world->head.at[i] = ++world->next;
    struct tree made;
    for (int dir = 0; dir < DIRS; dir++)
        made.at[dir] = 1000000 + world->next * DIRS + dir;
    make_parents(&world->head, i, &made);
    snprintf(text, sizeof text, "%d", world->next);
    upload(world->fixture, world->views[0].codebase, path_of(i, buf), text);
}

static void move_view(struct world *world, int v, bool push)
{
    struct af_error err;
    struct mux_commit_result result;
    struct tree merged = world->head;
    const char *id = world->views[v].sandbox.text;
    merge(&world->base[v], &world->seen[v], &merged);
    int rc = push ? mux_commit(world->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err)
                  : mux_rebase(world->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    if (push)
        world->head = merged;
    world->base[v] = world->head;
    world->seen[v] = merged;
}

static void step(struct world *world)
{
    int v = (int)prng_below(&world->prng, VIEWS);
    struct af_error err;
    bool told;
    switch (prng_below(&world->prng, 24)) {
    case 0:
    case 1:
        move_view(world, v, true);
        compare_head(world);
        compare_view(world, v);
        break;
    case 2:
        move_view(world, v, false);
        compare_view(world, v);
        break;
    case 3:
        if (prng_below(&world->prng, 6) != 0)
            break;
        assert_int_equal(
            mux_rollback(world->fixture->mux, world->views[v].sandbox.text, &told, &err), 0);
        world->seen[v] = world->base[v];
        compare_view(world, v);
        break;
    case 4:
        if (prng_below(&world->prng, 20) != 0)
            break;
        ops_detach(&world->views[v]);
        ops_attach(&world->views[v]);
        break;
    case 5:
    case 6:
        upload_one(world);
        break;
    default:
        change_view(world, v);
    }
}

static void run_model(struct fixture *fixture, uint64_t seed)
{
    struct world world = {.fixture = fixture, .prng = {seed}};
    struct af_id codebase = ops_codebase(fixture, NULL);
    for (int v = 0; v < VIEWS; v++)
        world.views[v] = ops_view(fixture, codebase, "**/*=write");
    for (int i = 0; i < ROUNDS; i++)
        step(&world);
    for (int v = 0; v < VIEWS; v++)
        move_view(&world, v, true);
    compare_head(&world);
    compare_view(&world, 1);
}

static void test_merges_are_by_name_and_the_last_writer_wins(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        print_message("seed %d\n", (int)seed);
        ops_reopen_sized(fixture, seed % 2 ? 3 : 4096);
        if (seed > 3) // every merge in batches, beside the view's lock
            fixture->mux->merge_step_max = 0;
        run_model(fixture, seed);
    }
}

// ---- moves, links and exchanges

struct audit {
    struct store_txn *txn;
    struct mux_layers layers;
    struct mux_fid_map dirs, names; // fid -> how many were met; names: of files
    uint64_t files, bytes;
};

static enum mux_walk_next audit_one(void *arg, const struct mux_walk_node *node)
{
    struct audit *audit = arg;
    const struct store_inode *inode = node->inode;
    struct store_entry entry;
    struct mux_fid_map *seen = S_ISDIR(inode->mode) ? &audit->dirs : &audit->names;
    uint64_t met = 0;
    mux_fid_map_get(seen, inode->fid, &met);
    if (S_ISDIR(inode->mode))
        assert_int_equal(met, 0);
    assert_int_equal(mux_fid_map_put(seen, inode->fid, met + 1), 0);
    assert_int_equal(mux_resolve_entry(audit->txn, audit->layers, inode->parent, inode->name,
                                       inode->name_len, &entry, NULL),
                     0);
    assert_int_equal(entry.fid, inode->fid);
    if (S_ISREG(inode->mode) && met == 0) {
        audit->files++;
        audit->bytes += inode->size;
    }
    return MUX_WALK_ON;
}

static enum mux_walk_next audit_links(void *arg, const struct mux_walk_node *node)
{
    struct audit *audit = arg;
    uint64_t met = 0;
    mux_fid_map_get(&audit->names, node->inode->fid, &met);
    if (!S_ISDIR(node->inode->mode) && node->inode->nlink != met)
        fail_msg("%s says it has %u names, and has %u", node->path, node->inode->nlink,
                 (unsigned)met);
    return MUX_WALK_ON;
}

static void walk_tree(struct fixture *fixture, uint64_t live, uint64_t stack, uint64_t root,
                      struct audit *audit)
{
    struct mux_layer_list list = {0};
    *audit = (struct audit){0};
    assert_int_equal(store_read_begin(mux_store(fixture->mux), &audit->txn), 0);
    assert_int_equal(mux_layer_list_load(audit->txn, live, stack, &list), 0);
    audit->layers = mux_layer_list_all(&list);
    assert_int_equal(mux_walk(audit->txn, audit->layers, root, "", 0, audit_one, audit), 0);
    assert_int_equal(mux_walk(audit->txn, audit->layers, root, "", 0, audit_links, audit), 0);
    store_read_end(audit->txn);
    mux_layer_list_fini(&list);
}

static void end_audit(struct audit *audit)
{
    mux_fid_map_fini(&audit->dirs);
    mux_fid_map_fini(&audit->names);
}

static void audit_tree(struct fixture *fixture, uint64_t live, uint64_t stack, uint64_t root,
                       uint64_t *ret_files, uint64_t *ret_bytes)
{
    struct audit audit;
    walk_tree(fixture, live, stack, root, &audit);
    *ret_files = audit.files;
    *ret_bytes = audit.bytes;
    end_audit(&audit);
}

static int keep_record(void *arg, const struct store_sandbox *sandbox)
{
    *(struct store_sandbox *)arg = *sandbox;
    return 0;
}

static struct store_layer layer_of(struct fixture *fixture, uint64_t id)
{
    struct store_txn *txn;
    struct store_layer layer;
    assert_int_equal(store_read_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(store_layer_get(txn, id, &layer), 0);
    store_read_end(txn);
    return layer;
}

static void audit_all(struct world *world)
{
    struct store_codebase codebase = get_codebase(world->fixture, world->views[0].codebase);
    uint64_t files, bytes;
    audit_tree(world->fixture, codebase.head, codebase.stack, codebase.root_fid, &files, &bytes);
    assert_int_equal(codebase.files, files);
    assert_int_equal(codebase.size_bytes, bytes);
    for (int v = 0; v < VIEWS; v++) {
        struct store_sandbox sandbox;
        struct af_error err;
        mux_sandbox_get(world->fixture->mux, world->views[v].sandbox.text, keep_record, &sandbox,
                        &err);
        uint64_t base_files, base_bytes;
        audit_tree(world->fixture, 0, sandbox.stack, sandbox.root_fid, &base_files, &base_bytes);
        audit_tree(world->fixture, sandbox.delta, sandbox.stack, sandbox.root_fid, &files, &bytes);
        struct store_layer delta = layer_of(world->fixture, sandbox.delta);
        assert_int_equal(delta.tree_files, files - base_files);
        assert_int_equal(delta.tree_bytes, bytes - base_bytes);
        assert_accounting(&world->views[v]);
    }
}

enum { VIEW, BASE, HEAD, TREES };

static void walk_trees(struct world *world, int v, struct audit trees[TREES])
{
    struct store_codebase codebase = get_codebase(world->fixture, world->views[0].codebase);
    struct store_sandbox sandbox;
    struct af_error err;
    assert_int_equal(mux_sandbox_get(world->fixture->mux, world->views[v].sandbox.text, keep_record,
                                     &sandbox, &err),
                     0);
    walk_tree(world->fixture, sandbox.delta, sandbox.stack, sandbox.root_fid, &trees[VIEW]);
    walk_tree(world->fixture, 0, sandbox.stack, sandbox.root_fid, &trees[BASE]);
    walk_tree(world->fixture, codebase.head, codebase.stack, codebase.root_fid, &trees[HEAD]);
}

static void end_trees(struct audit trees[TREES])
{
    for (int i = 0; i < TREES; i++)
        end_audit(&trees[i]);
}

// Of a file with several names each writer may have removed one, and then it is gone.
static bool all_have_one_name(const struct audit trees[TREES], uint64_t fid)
{
    for (int i = 0; i < TREES; i++) {
        uint64_t names = 0;
        mux_fid_map_get(&trees[i].names, fid, &names);
        if (names != 1)
            return false;
    }
    return true;
}

static void wild_merge(struct world *world, int v, bool push)
{
    const char *id = world->views[v].sandbox.text;
    struct audit before[TREES], after[TREES];
    struct mux_commit_result result;
    struct af_error err;
    size_t position = 0;
    uint64_t fid, names;
    walk_trees(world, v, before);
    int rc = push ? mux_commit(world->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err)
                  : mux_rebase(world->fixture->mux, id, MUX_LAST_WRITER_WINS, &result, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    walk_trees(world, v, after);
    while (mux_fid_map_next(&before[VIEW].names, &position, &fid, &names))
        if (all_have_one_name(before, fid) && !mux_fid_map_get(&after[VIEW].names, fid, NULL))
            fail_msg("a file that both have is lost");
    end_trees(before);
    end_trees(after);
    audit_all(world);
}

static void wild_path(struct world *world, char buf[64])
{
    static const char *const names[] = {"a", "b", "c", "d"};
    size_t depth = 1 + prng_below(&world->prng, 3), len = 0;
    for (size_t i = 0; i < depth; i++)
        len += (size_t)snprintf(buf + len, 64 - len, "%s%s", i ? "/" : "",
                                names[prng_below(&world->prng, 4)]);
}

static void wild_step(struct world *world, int v)
{
    struct view *view = &world->views[v];
    char from[64], to[64], text[16];
    wild_path(world, from);
    wild_path(world, to);
    switch (prng_below(&world->prng, 9)) {
    case 0:
        ops_mkdir(view, from, 0755);
        break;
    case 1:
        ops_rmdir(view, from);
        break;
    case 2:
        ops_unlink(view, from);
        break;
    case 3:
    case 4:
        ops_rename(view, from, to, 0);
        break;
    case 5:
        ops_rename(view, from, to, RENAME_EXCHANGE);
        break;
    case 6:
        ops_link(view, from, to);
        break;
    case 7:
        ops_symlink(view, "/etc", from);
        break;
    default:
        ops_create(view, from, 0644);
        snprintf(text, sizeof text, "%d", ++world->next);
        ops_write(view, from, text, strlen(text), 0);
    }
}

static void run_wild(struct fixture *fixture, uint64_t seed)
{
    struct world world = {.fixture = fixture, .prng = {seed}};
    struct af_id codebase = ops_codebase(fixture, NULL);
    char path[64];
    for (int v = 0; v < VIEWS; v++)
        world.views[v] = ops_view(fixture, codebase, "**/*=write");
    for (int i = 0; i < ROUNDS; i++) {
        int v = (int)prng_below(&world.prng, VIEWS);
        switch (prng_below(&world.prng, 20)) {
        case 0:
            wild_merge(&world, v, true);
            break;
        case 1:
            wild_merge(&world, v, false);
            break;
        case 2:
            snprintf(path, sizeof path, "up%d/f", (int)prng_below(&world.prng, 3));
            upload(fixture, codebase, path, "u");
            break;
        default:
            wild_step(&world, v);
        }
    }
}

static void test_B3_any_history_of_moves_and_links_leaves_a_sound_tree(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        print_message("seed %d\n", (int)seed);
        ops_reopen_sized(fixture, seed % 2 ? 5 : 4096);
        if (seed > 3)
            fixture->mux->merge_step_max = 0;
        run_wild(fixture, seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_merges_are_by_name_and_the_last_writer_wins),
        fixture_test(test_B3_any_history_of_moves_and_links_leaves_a_sound_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
