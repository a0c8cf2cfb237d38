// Histories of four views that append to, overwrite and cut one large file, commit, rebase and roll
// back, against a model: each sees what it should.
#include "tests/unit/mux/tail_fixture.h"

#include "mux/compact.h"

#include <fcntl.h>
#include <sys/stat.h>

#define VIEWS 4
#define MAX   1500000

struct model {
    size_t size;
    char *bytes; // MAX
};

struct world {
    struct fixture *fixture;
    struct prng prng;
    struct af_id codebase;
    struct view views[VIEWS];
    struct model head, base[VIEWS], seen[VIEWS];
    size_t in_place; // appends that took the end of a blob over
};

static void copy_model(struct model *to, const struct model *from)
{
    memcpy(to->bytes, from->bytes, MAX);
    to->size = from->size;
}

static char *read_head(struct world *world, size_t *ret_len)
{
    struct mux_file *file;
    struct af_error err;
    assert_int_equal(
        mux_codebase_open_file(world->fixture->mux, world->codebase.text, "f", 1, &file, &err), 0);
    char *text = read_all(file, ret_len);
    mux_file_close(file);
    return text;
}

static void compare(struct world *world)
{
    for (int v = 0; v < VIEWS; v++)
        expect(&world->views[v], "f", world->seen[v].bytes, world->seen[v].size);
    size_t len;
    char *text = read_head(world, &len);
    assert_int_equal(len, world->head.size);
    assert_memory_equal(text, world->head.bytes, len);
    free(text);
    assert_counters(world->fixture, world->codebase);
}

static void write_at(struct world *world, int v, size_t offset)
{
    struct model *seen = &world->seen[v];
    size_t len = 1 + prng_below(&world->prng, 40000);
    if (offset + len > MAX)
        return;
    char byte = (char)('a' + prng_below(&world->prng, 26));
    fill(&world->views[v], "f", byte, len, (off_t)offset);
    memset(seen->bytes + offset, byte, len);
    if (offset + len > seen->size)
        seen->size = offset + len;
    struct store_inode inode = record_of(&world->views[v], "f");
    world->in_place += inode.blob_owned && inode.blob_shared > 0;
}

static void resize(struct world *world, int v, size_t size)
{
    struct model *seen = &world->seen[v];
    if (size > MAX)
        return;
    assert_int_equal(ops_truncate(&world->views[v], "f", (off_t)size), 0);
    if (size < seen->size)
        memset(seen->bytes + size, 0, seen->size - size);
    seen->size = size;
}

static void punch(struct world *world, int v)
{
    struct model *seen = &world->seen[v];
    struct view *view = &world->views[v];
    struct mux_ctx ctx = view->ctx;
    size_t offset = prng_below(&world->prng, seen->size + 1),
           len = 1 + prng_below(&world->prng, 50000);
    ctx.may_block = true;
    assert_int_equal(mux_fallocate(world->fixture->mux, &ctx, ops_nodeid(view, "f"),
                                   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                                   (off_t)len),
                     0);
    if (offset < seen->size)
        memset(seen->bytes + offset, 0, len < seen->size - offset ? len : seen->size - offset);
}

// The file goes by its name, the last writer wins: as in docs/COMMIT.md.
static void commit(struct world *world, int v)
{
    bool changed = world->seen[v].size != world->base[v].size ||
                   memcmp(world->seen[v].bytes, world->base[v].bytes, MAX) != 0;
    bool touched = ops_look(&world->views[v]).changed;
    ops_commit(&world->views[v]);
    if (changed || touched) { // what was written back counts as written
        size_t len;
        char *text = read_head(world, &len);
        bool mine = len == world->seen[v].size && memcmp(text, world->seen[v].bytes, len) == 0;
        free(text);
        assert_true(mine || !changed);
        if (mine)
            copy_model(&world->head, &world->seen[v]);
    }
    copy_model(&world->seen[v], &world->head);
    copy_model(&world->base[v], &world->head);
}

static void roll_back(struct world *world, int v)
{
    struct af_error err;
    bool told;
    assert_int_equal(mux_rollback(world->fixture->mux, world->views[v].sandbox.text, &told, &err),
                     0);
    copy_model(&world->seen[v], &world->base[v]);
}

static void step(struct world *world)
{
    int v = (int)prng_below(&world->prng, VIEWS);
    size_t size = world->seen[v].size;
    switch (prng_below(&world->prng, 16)) {
    case 0:
    case 1:
    case 2:
        commit(world, v);
        compare(world);
        break;
    case 3:
        roll_back(world, v);
        break;
    case 4:
        resize(world, v, prng_below(&world->prng, MAX));
        break;
    case 5:
        resize(world, v, size + prng_below(&world->prng, 30000));
        break;
    case 6:
        resize(world, v, size - prng_below(&world->prng, size < 30000 ? size + 1 : 30000));
        break;
    case 7:
        punch(world, v);
        break;
    case 8:
        write_at(world, v, prng_below(&world->prng, size + 50000));
        break;
    case 9:
        assert_int_equal(
            ops_chmod(&world->views[v], "f", prng_below(&world->prng, 2) ? 0644 : 0600), 0);
        break;
    case 10:
        ops_detach(&world->views[v]);
        ops_attach(&world->views[v]);
        assert_int_equal(mux_compact_drain(world->fixture->mux), 0);
        break;
    default:
        write_at(world, v, size);
    }
    expect(&world->views[v], "f", world->seen[v].bytes, world->seen[v].size);
}

static void run(struct fixture *fixture, uint64_t seed)
{
    struct world world = {.fixture = fixture, .prng = {seed}};
    world.codebase = ops_codebase(fixture, none);
    world.head.bytes = calloc(1, MAX);
    for (int v = 0; v < VIEWS; v++) {
        world.base[v].bytes = calloc(1, MAX);
        world.seen[v].bytes = calloc(1, MAX);
    }
    struct view first = ops_view(fixture, world.codebase, "**/*=write");
    assert_int_equal(ops_create(&first, "f", 0644), 0);
    fill(&first, "f", '0', BIG, 0);
    ops_commit(&first);
    ops_detach(&first);
    memset(world.head.bytes, '0', BIG);
    world.head.size = BIG;
    for (int v = 0; v < VIEWS; v++) {
        world.views[v] = ops_view(fixture, world.codebase, "**/*=write");
        copy_model(&world.base[v], &world.head);
        copy_model(&world.seen[v], &world.head);
    }
    for (int i = 0; i < 250; i++)
        step(&world);
    compare(&world);
    assert_fsck_clean(fixture);
    assert_true(world.in_place > 0);
    for (int v = 0; v < VIEWS; v++) {
        ops_detach(&world.views[v]);
        free(world.base[v].bytes);
        free(world.seen[v].bytes);
    }
    free(world.head.bytes);
}

static void test_histories_of_four_views_against_a_model(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        print_message("seed %d\n", (int)seed);
        run(*state, seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_histories_of_four_views_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
