// Power cuts while large files are appended to: what the disk has of a blob is any mixture of what
// it was at the last sync point and of what was written since, its length too. What was committed
// and synced is whole; a view's own file is a mixture of its own bytes; nobody's bytes show in
// another view.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIG    300000 // more than MUX_COPY_FAST_BYTES
#define MAX    1200000
#define VIEWS  2
#define ROUNDS 60
#define PAGE   4096

static const struct base_file none[] = {{0}};

struct model {
    size_t size;
    char *bytes; // MAX
};

struct world {
    struct fixture *fixture;
    struct prng prng;
    struct af_id codebase;
    struct view views[VIEWS];
    struct model seen[VIEWS], head;
};

// Each view writes letters of its own.
static char byte_of(struct world *world, int v)
{
    return (char)((v == 0 ? 'a' : 'A') + (char)prng_below(&world->prng, 26));
}

static bool is_byte_of(int v, char byte)
{
    return v == 0 ? byte >= 'a' && byte <= 'z' : byte >= 'A' && byte <= 'Z';
}

static void shell(const char *fmt, const char *dir)
{
    char command[4096];
    snprintf(command, sizeof command, fmt, dir, dir, dir, dir, dir, dir);
    assert_int_equal(system(command), 0);
}

// ---- what is done

static void write_at(struct world *world, int v, size_t offset, size_t len)
{
    static char buf[MAX];
    if (offset + len > MAX)
        return;
    memset(buf, byte_of(world, v), len);
    assert_int_equal(ops_write(&world->views[v], "f", buf, len, (off_t)offset), 0);
}

static void step(struct world *world)
{
    int v = (int)prng_below(&world->prng, VIEWS);
    struct view *view = &world->views[v];
    struct af_error err;
    bool told;
    size_t size = (size_t)ops_stat(view, "f").st_size, len = 1 + prng_below(&world->prng, 30000);
    switch (size < 2 * len ? 11 : prng_below(&world->prng, 12)) {
    case 0:
    case 1:
        ops_commit(view);
        break;
    case 2:
        ops_rebase(view);
        break;
    case 3:
        assert_int_equal(mux_rollback(world->fixture->mux, view->sandbox.text, &told, &err), 0);
        break;
    case 4: // within what it may have appended itself
        assert_int_equal(ops_truncate(view, "f", (off_t)(size - len)), 0);
        break;
    case 5:
        write_at(world, v, size - len, len / 2);
        break;
    case 6:
        write_at(world, v, size + len, len);
        break;
    case 7:
        write_at(world, v, prng_below(&world->prng, size), len);
        break;
    default:
        write_at(world, v, size, len);
    }
}

static void look(struct view *view, struct model *ret)
{
    ret->size = (size_t)ops_stat(view, "f").st_size;
    assert_true(ret->size <= MAX);
    memset(ret->bytes, 0, MAX);
    assert_int_equal(ops_read(view, "f", ret->bytes, MAX, 0), ret->size);
}

static void look_at_head(struct world *world, struct model *ret)
{
    struct mux_file *file;
    struct af_error err;
    assert_int_equal(
        mux_codebase_open_file(world->fixture->mux, world->codebase.text, "f", 1, &file, &err), 0);
    char *text = read_all(file, &ret->size);
    assert_true(ret->size <= MAX);
    memset(ret->bytes, 0, MAX);
    memcpy(ret->bytes, text, ret->size);
    free(text);
    mux_file_close(file);
}

static struct world make_world(struct fixture *fixture)
{
    struct world world = {.fixture = fixture, .prng = {1}};
    world.codebase = ops_codebase(fixture, none);
    for (int v = 0; v < VIEWS; v++)
        world.views[v] = ops_view(fixture, world.codebase, "**/*=write");
    assert_int_equal(ops_create(&world.views[0], "f", 0644), 0);
    write_at(&world, 0, 0, BIG);
    return world;
}

static void end_world(struct world *world)
{
    for (int v = 0; v < VIEWS; v++)
        ops_detach(&world->views[v]);
}

// ---- the cut

static void mix(struct world *world, const char *old_path, const char *path)
{
    char old[PAGE], page[PAGE];
    struct stat st;
    AF_CLEANUP_FD int from = open(old_path, O_RDONLY), to = open(path, O_RDWR);
    if (from < 0 || to < 0) // made since
        return;
    assert_int_equal(fstat(from, &st), 0);
    for (off_t at = 0; at < st.st_size; at += PAGE) {
        ssize_t n = pread(from, old, PAGE, at), m = pread(to, page, PAGE, at);
        if (n > 0 && (n != m || memcmp(old, page, (size_t)n) != 0) &&
            prng_below(&world->prng, 2) == 0)
            assert_int_equal(pwrite(to, old, (size_t)n, at), n);
    }
    if (prng_below(&world->prng, 2) == 0)
        assert_int_equal(ftruncate(to, st.st_size), 0);
}

static void mix_folder(struct world *world, const char *folder)
{
    char path[1024], old_path[1024], name[300];
    snprintf(path, sizeof path, "%s/%s", world->fixture->dir, folder);
    DIR *dir = opendir(path);
    struct dirent *entry;
    assert_non_null(dir);
    while ((entry = readdir(dir))) {
        snprintf(name, sizeof name, "%s/%.255s", folder, entry->d_name);
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            mix_folder(world, name);
        if (entry->d_type != DT_REG)
            continue;
        snprintf(path, sizeof path, "%s/%s", world->fixture->dir, name);
        snprintf(old_path, sizeof old_path, "%s/then/%s", world->fixture->dir, name);
        mix(world, old_path, path);
    }
    closedir(dir);
}

static void save(struct world *world)
{
    shell("rm -rf '%s/then' && mkdir '%s/then' && cp -a --sparse=always '%s/store' '%s/blobs' "
          "'%s/new' '%s/then'",
          world->fixture->dir);
}

// mixed: else everything written to blobs has arrived. False: a sync point has come between.
static bool cut_power(struct world *world, bool mixed)
{
    struct fixture *fixture = world->fixture;
    shell("rm -rf '%s/live' && mkdir '%s/live' && cp -a --sparse=always '%s/blobs' '%s/new' "
          "'%s/live'",
          fixture->dir);
    char command[1200];
    snprintf(command, sizeof command, "cmp -s '%s/store/synced.meta' '%s/then/store/synced.meta'",
             fixture->dir, fixture->dir);
    bool valid = system(command) == 0;
    fixture_close(fixture);
    if (valid) {
        shell("cd '%s' && rm -rf new blobs && mv live/new live/blobs . && "
              "cp then/store/data.mdb then/store/synced.meta store/",
              fixture->dir);
        if (mixed)
            mix_folder(world, "new");
        if (mixed)
            mix_folder(world, "blobs");
        // Another boot each time, or the journal that was begun in the last one would be taken.
        static unsigned boots;
        char boot_id[37];
        snprintf(boot_id, sizeof boot_id, "00000000-0000-0000-0000-%012u", ++boots);
        setenv("AGENTFENSE_TEST_BOOT_ID", boot_id, 1);
    }
    fixture_open(fixture);
    unsetenv("AGENTFENSE_TEST_BOOT_ID");
    for (int v = 0; v < VIEWS; v++)
        ops_attach(&world->views[v]);
    return valid;
}

// ---- what is promised

static void check(struct world *world)
{
    AF_CLEANUP_FREE char *bytes = malloc(MAX);
    struct model now = {.bytes = bytes};
    look_at_head(world, &now);
    assert_int_equal(now.size, world->head.size);
    assert_memory_equal(now.bytes, world->head.bytes, now.size);
    for (int v = 0; v < VIEWS; v++) {
        const struct model *was = &world->seen[v];
        look(&world->views[v], &now);
        assert_int_equal(now.size, was->size);
        for (size_t i = 0; i < now.size; i++)
            if (now.bytes[i] != was->bytes[i] && now.bytes[i] != 0 && !is_byte_of(v, now.bytes[i]))
                fail_msg("view %d of %zu bytes: byte %zu was %d, is %d", v, was->size, i,
                         was->bytes[i], now.bytes[i]);
    }
}

// They go on, and what is behind a file's end comes to light for nobody.
static void go_on(struct world *world)
{
    AF_CLEANUP_FREE char *bytes = malloc(MAX), *before = malloc(MAX);
    struct model now = {.bytes = bytes}, was = {.bytes = before};
    for (int v = 0; v < VIEWS; v++) {
        look(&world->views[v], &was);
        if (was.size + 60000 > MAX)
            continue;
        write_at(world, v, was.size, 10000);
        write_at(world, v, was.size + 50000, 10000);
        look(&world->views[v], &now);
        assert_memory_equal(now.bytes, was.bytes, was.size);
        for (size_t i = was.size + 10000; i < was.size + 50000; i++)
            assert_int_equal(now.bytes[i], 0);
    }
}

static bool run(struct fixture *fixture, uint64_t seed)
{
    struct world world = make_world(fixture);
    world.prng = (struct prng){seed};
    world.head.bytes = malloc(MAX);
    for (int v = 0; v < VIEWS; v++)
        world.seen[v].bytes = malloc(MAX);
    ops_commit(&world.views[0]);
    ops_rebase(&world.views[1]);
    for (size_t i = prng_below(&world.prng, 16); i > 0; i--)
        step(&world);
    for (int v = 0; v < VIEWS; v++)
        look(&world.views[v], &world.seen[v]);
    look_at_head(&world, &world.head);
    assert_int_equal(store_sync(mux_store(fixture->mux)), 0);
    save(&world);
    for (size_t i = 1 + prng_below(&world.prng, 16); i > 0; i--)
        step(&world);
    bool valid = cut_power(&world, true);
    assert_fsck_clean(fixture);
    if (valid) {
        check(&world);
        go_on(&world);
        assert_fsck_clean(fixture);
    }
    end_world(&world);
    for (int v = 0; v < VIEWS; v++)
        free(world.seen[v].bytes);
    free(world.head.bytes);
    return valid;
}

static void test_D6_a_power_cut_between_append_and_record_harms_no_reader(void **state)
{
    unsigned valid = 0;
    for (uint64_t seed = 1; seed <= ROUNDS; seed++)
        valid += run(*state, seed);
    print_message("%u cuts\n", valid);
    assert_true(valid > ROUNDS / 4);
}

// A blob that is cut in place is too short for the record that comes back.
static void test_D6_a_power_cut_after_a_truncation_leaves_a_file_that_can_be_read(void **state)
{
    struct fixture *fixture = *state;
    bool valid = false;
    for (int tries = 0; !valid && tries < 5; tries++) {
        struct world world = make_world(fixture);
        assert_int_equal(store_sync(mux_store(fixture->mux)), 0);
        save(&world);
        assert_int_equal(ops_truncate(&world.views[0], "f", 100000), 0);
        valid = cut_power(&world, false);
        static char buf[BIG];
        if (valid)
            assert_int_equal(ops_read(&world.views[0], "f", buf, BIG, 0), BIG);
        assert_fsck_clean(fixture);
        end_world(&world);
    }
    assert_true(valid);
}

// The record that comes back says more than the one that the other view took over.
static void test_D6_a_power_cut_shows_nobody_what_another_view_appended(void **state)
{
    struct fixture *fixture = *state;
    bool valid = false;
    for (int tries = 0; !valid && tries < 5; tries++) {
        struct world world = make_world(fixture);
        struct view *one = &world.views[0], *other = &world.views[1];
        assert_int_equal(store_sync(mux_store(fixture->mux)), 0);
        save(&world);
        assert_int_equal(ops_truncate(one, "f", BIG - 100000), 0);
        ops_commit(one);
        ops_rebase(other);
        write_at(&world, 1, BIG - 100000, 50000);
        valid = cut_power(&world, false);
        static char buf[BIG];
        if (valid)
            assert_int_equal(ops_read(one, "f", buf, BIG, 0), BIG);
        for (size_t i = 0; valid && i < BIG; i++)
            assert_true(buf[i] == 0 || is_byte_of(0, buf[i]));
        assert_fsck_clean(fixture);
        end_world(&world);
    }
    assert_true(valid);
}

int main(void)
{
    setenv("TMPDIR", "/dev/shm", 1); // copies of stores: in memory, where there is one
    const struct CMUnitTest tests[] = {
        fixture_test(test_D6_a_power_cut_after_a_truncation_leaves_a_file_that_can_be_read),
        fixture_test(test_D6_a_power_cut_shows_nobody_what_another_view_appended),
        fixture_test(test_D6_a_power_cut_between_append_and_record_harms_no_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
