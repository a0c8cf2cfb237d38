// Names that go: whiteouts, directories made again, files that are open without a name.
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <string.h>

#define BIG 200000

static const struct base_file tree[] = {
    {.path = "dir/a", .text = "alpha"},
    {.path = "dir/b", .text = "beta"},
    {.path = "run", .mode = S_IFREG | 06755, .text = "#!"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "dir/a"},
    {0},
};

static struct view start(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    return ops_view(*state, codebase, "**/*=write");
}

static void assert_base_untouched(struct view *v)
{
    struct view other = ops_view(v->fixture, v->codebase, "**/*=read");
    assert_text(&other, "dir/a", "alpha");
    assert_names(&other, "", "big dir link run");
    ops_detach(&other);
}

static void test_D3_a_base_directory_goes_when_it_is_empty(void **state)
{
    struct view v = start(state);
    assert_int_equal(ops_rmdir(&v, "dir"), -ENOTEMPTY);
    assert_int_equal(ops_unlink(&v, "dir"), -EISDIR);
    assert_int_equal(ops_rmdir(&v, "dir/a"), -ENOTDIR);
    assert_int_equal(ops_unlink(&v, "dir/a"), 0);
    assert_int_equal(ops_unlink(&v, "dir/b"), 0);
    assert_int_equal(ops_unlink(&v, "dir/b"), -ENOENT);
    assert_names(&v, "dir", "");
    assert_int_equal(ops_rmdir(&v, "dir"), 0);
    assert_false(ops_exists(&v, "dir"));
    assert_names(&v, "", "big link run");
    assert_base_untouched(&v);
}

static void test_D4_a_directory_made_again_is_empty(void **state)
{
    struct view v = start(state);
    uint64_t old = ops_stat(&v, "dir").st_ino;
    assert_int_equal(ops_unlink(&v, "dir/a"), 0);
    assert_int_equal(ops_unlink(&v, "dir/b"), 0);
    assert_int_equal(ops_rmdir(&v, "dir"), 0);
    assert_int_equal(ops_mkdir(&v, "dir", 0755), 0);
    assert_names(&v, "dir", "");
    assert_int_not_equal(ops_stat(&v, "dir").st_ino, old);
    ops_put(&v, "dir/a", "new");
    assert_text(&v, "dir/a", "new");
    assert_int_equal(ops_lookup(&v, "dir/b", &(struct mux_entry){0}), -ENOENT);
}

static void test_B5_B6_a_deleted_name_can_be_anything_else(void **state)
{
    struct view v = start(state);
    assert_int_equal(ops_unlink(&v, "run"), 0);
    assert_names(&v, "", "big dir link");
    assert_int_equal(ops_mkdir(&v, "run", 0755), 0);
    ops_put(&v, "run/a", "hi");
    assert_names(&v, "run", "a");
    assert_int_equal(ops_unlink(&v, "link"), 0);
    ops_put(&v, "link", "a file now");
    assert_text(&v, "link", "a file now");
    assert_int_equal(ops_unlink(&v, "big"), 0);
    assert_int_equal(ops_symlink(&v, "run", "big"), 0);
    assert_int_equal(ops_mkdir(&v, "big", 0755), -EEXIST);
    assert_int_equal(ops_unlink(&v, "big"), 0);
    assert_int_equal(ops_mkfifo(&v, "big", 0600), 0);
    assert_int_equal(ops_stat(&v, "big").st_mode, S_IFIFO | 0600);
    struct mux_entry entry;
    assert_int_equal(mux_mknod(v.fixture->mux, &v.ctx, v.root, "dev", S_IFCHR | 0666, &entry),
                     -EPERM);
}

static void test_B4_removing_while_listing_removes_all(void **state)
{
    struct view v = start(state);
    char path[64];
    for (int i = 0; i < 1000; i++) {
        snprintf(path, sizeof path, "dir/file-%d", i);
        assert_int_equal(ops_create(&v, path, 0644), 0);
    }
    for (;;) { // always from the position that the last batch ended at would be S2; here from 0
        char *names = ops_list(&v, "dir", 7), *save = NULL;
        if (!*names) {
            free(names);
            break;
        }
        for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
            snprintf(path, sizeof path, "dir/%s", name);
            assert_int_equal(ops_unlink(&v, path), 0);
        }
        free(names);
    }
    assert_int_equal(ops_rmdir(&v, "dir"), 0);
}

struct remover {
    struct view *view;
    uint64_t cookie;
    char name[256];
};

static bool take_one(void *arg, const char *name, size_t len, uint64_t cookie,
                     const struct mux_entry *entry)
{
    struct remover *remover = arg;
    (void)entry;
    if (remover->name[0])
        return false;
    remover->cookie = cookie;
    if (name[0] != '.')
        snprintf(remover->name, sizeof remover->name, "dir/%.*s", (int)len, name);
    return true;
}

static void test_B4_S2_positions_hold_while_names_go(void **state)
{
    struct view v = start(state);
    char path[64];
    for (int i = 0; i < 500; i++) {
        snprintf(path, sizeof path, "dir/file-%d", i);
        assert_int_equal(ops_create(&v, path, 0644), 0);
    }
    struct remover remover = {.view = &v};
    int removed = 0;
    uint64_t dir = ops_nodeid(&v, "dir");
    for (;;) {
        remover.name[0] = '\0';
        assert_int_equal(
            mux_readdir(v.fixture->mux, &v.ctx, dir, remover.cookie, false, take_one, &remover), 0);
        if (!remover.name[0])
            break;
        assert_int_equal(ops_unlink(&v, remover.name), 0);
        removed++;
    }
    assert_int_equal(removed, 502);
    assert_int_equal(ops_rmdir(&v, "dir"), 0);
}

static void test_an_unlinked_file_lives_until_it_is_forgotten(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct stat st;
    int64_t ttl;
    char buf[16] = "";
    uint64_t base = ops_nodeid(&v, "dir/a"), big = ops_nodeid(&v, "big");
    ops_put(&v, "own", "mine");
    uint64_t own = ops_nodeid(&v, "own");
    assert_int_equal(ops_unlink(&v, "dir/a"), 0);
    assert_int_equal(ops_unlink(&v, "big"), 0);
    assert_int_equal(ops_unlink(&v, "own"), 0);
    assert_int_equal(mux_getattr(mux, &v.ctx, base, &st, &ttl), 0);
    assert_int_equal(st.st_nlink, 0);
    assert_int_equal(ops_read_node(&v, base, buf, 16, 0), 5);
    assert_int_equal(ops_write_node(&v, base, "ALPHABET", 8, 0), 0);
    assert_int_equal(ops_read_node(&v, base, buf, 16, 0), 8);
    assert_memory_equal(buf, "ALPHABET", 8);
    assert_int_equal(ops_write_node(&v, big, "tail", 4, BIG), 0);
    assert_int_equal(ops_read_node(&v, big, buf, 16, BIG - 1), 5);
    assert_int_equal(ops_read_node(&v, own, buf, 16, 0), 4);
    assert_int_equal(stats_of(*state).orphans, 3);
    mux_forget(mux, base);
    mux_forget(mux, own);
    mux_forget(mux, own);
    mux_forget(mux, ops_nodeid(&v, "run"));        // not an orphan: nothing happens
    assert_int_equal(stats_of(*state).orphans, 3); // the small ones wait for more
    mux_forget(mux, big);                          // but a large one does not, and takes them along
    assert_int_equal(stats_of(*state).orphans, 0);
    assert_int_equal(mux_getattr(mux, &v.ctx, own, &st, &ttl), -ESTALE);
    assert_int_equal(ops_read(&v, "run", buf, 16, 0), 2);
    ops_put(&v, "own", "again");
    own = ops_nodeid(&v, "own");
    assert_int_equal(ops_unlink(&v, "own"), 0);
    mux_forget(mux, own);
    ops_detach(&v);
    assert_int_equal(stats_of(*state).orphans, 0);
    assert_accounting(&v);
}

static void test_B3_removing_many_files_costs_memory_for_none(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct mux_entry entry;
    uint64_t commits = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(mux_create(mux, &v.ctx, v.root, "tmp", 0644, &entry), 0);
        commits = stats_of(*state).commits;
        assert_int_equal(mux_unlink(mux, &v.ctx, v.root, "tmp"), 0);
        mux_forget(mux, entry.nodeid);
        assert_true(stats_of(*state).orphans <= 32);
        assert_true(stats_of(*state).commits <= commits + 2);
    }
    commits = stats_of(*state).commits;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(mux_create(mux, &v.ctx, v.root, "tmp", 0644, &entry), 0);
        assert_int_equal(mux_unlink(mux, &v.ctx, v.root, "tmp"), 0);
        mux_forget(mux, entry.nodeid);
    }
    assert_true(stats_of(*state).commits < commits + 2 * 200 + 10);
    // Where a quota counts them, they go at once.
    struct view counted = ops_view_quota(*state, v.codebase, "**/*=write", 0, 3);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(mux_create(mux, &counted.ctx, counted.root, "tmp", 0644, &entry), 0);
        assert_int_equal(mux_unlink(mux, &counted.ctx, counted.root, "tmp"), 0);
        mux_forget(mux, entry.nodeid);
    }
    ops_detach(&v);
    ops_detach(&counted);
    assert_int_equal(stats_of(*state).orphans, 0);
    assert_accounting(&v);
}

static void test_a_file_that_grew_after_its_name_went_is_deleted_at_once(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct mux_entry grown, shrunk;
    static char bytes[100 << 10];
    assert_int_equal(mux_create(mux, &v.ctx, v.root, "grown", 0644, &grown), 0);
    assert_int_equal(mux_create(mux, &v.ctx, v.root, "shrunk", 0644, &shrunk), 0);
    assert_int_equal(ops_write_node(&v, shrunk.nodeid, bytes, sizeof bytes, 0), 0);
    assert_int_equal(ops_unlink(&v, "grown"), 0);
    assert_int_equal(ops_unlink(&v, "shrunk"), 0);
    assert_int_equal(ops_write_node(&v, grown.nodeid, bytes, sizeof bytes, 0), 0);
    assert_int_equal(ops_write_node(&v, grown.nodeid, "a", 1, 0), 0);
    const struct stat three = {.st_size = 3};
    assert_int_equal(ops_setattr(&v, shrunk.nodeid, MUX_SET_SIZE, &three, NULL), 0);
    mux_forget(mux, shrunk.nodeid);
    assert_int_equal(stats_of(*state).orphans, 2); // it waits
    mux_forget(mux, grown.nodeid);
    assert_int_equal(stats_of(*state).orphans, 0);
    ops_detach(&v);
    assert_accounting(&v);
}

static void test_a_late_forget_of_a_former_attachment_does_no_harm(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view_quota(*state, codebase, "**/*=write", 0, 1000); // deletes at once
    struct mux *mux = v.fixture->mux;
    uint64_t before = ops_nodeid(&v, "dir/a");
    uint32_t slot = v.at.slot;
    do { // until the slot is ours again
        ops_detach(&v);
        ops_attach(&v);
    } while (v.at.slot != slot);
    uint64_t now = ops_nodeid(&v, "dir/a");
    char buf[8];
    assert_int_equal(ops_write(&v, "dir/a", "A", 1, 0), 0);
    assert_int_equal(ops_unlink(&v, "dir/a"), 0);
    mux_forget(mux, before);
    assert_int_equal(ops_read_node(&v, now, buf, 8, 0), 5);
    assert_int_equal(stats_of(*state).orphans, 1);
    mux_forget(mux, now);
    assert_int_equal(stats_of(*state).orphans, 0);
}

// A kernel that is asked whether it has an inode: the answer comes later, by mux_forgotten.
struct asked {
    uint64_t nodeid;
    unsigned times;
};

static void note_question(void *arg, uint64_t nodeid)
{
    struct asked *asked = arg;
    asked->nodeid = nodeid;
    asked->times++;
}

static const struct mux_notifier asking = {.confirm_forget = note_question};

static void test_a_forget_overtaken_by_a_new_lookup_frees_nothing_that_is_open(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view_quota(*state, codebase, "**/*=write", 0, 1000); // deletes at once
    struct mux *mux = v.fixture->mux;
    struct asked asked = {0};
    char buf[8];
    mux_set_notifier(mux, &asking, &asked);
    ops_put(&v, "own", "mine");
    uint64_t own = ops_nodeid(&v, "own"), run = ops_nodeid(&v, "run");
    // The kernel drops the inode, looks it up again, opens it; the name goes; then the FORGET
    // comes.
    assert_int_equal(ops_nodeid(&v, "own"), own);
    assert_int_equal(ops_unlink(&v, "own"), 0);
    mux_forget(mux, own);
    assert_int_equal(asked.times, 1);
    assert_int_equal(asked.nodeid, own);
    assert_int_equal(ops_read_node(&v, own, buf, 8, 0), 4);
    assert_int_equal(stats_of(*state).orphans, 1);
    mux_forget(mux, run); // has a name: nothing to ask
    assert_int_equal(asked.times, 1);
    mux_forget(mux, own); // the last close; now the kernel says that it has it no more
    assert_int_equal(asked.times, 2);
    mux_forgotten(mux, own);
    assert_int_equal(stats_of(*state).orphans, 0);
    mux_forgotten(mux, own); // told twice
    mux_forgotten(mux, run); // has a name
    assert_int_equal(ops_read(&v, "run", buf, 8, 0), 2);
    mux_set_notifier(mux, NULL, NULL);
    assert_accounting(&v);
}

// A kernel that sends its FORGETs late: asked, it says which inodes it has no more.
struct late_kernel {
    struct mux *mux;
    uint64_t open; // has this one still
    uint64_t questions[8];
    unsigned count, waits;
};

static void queue_question(void *arg, uint64_t nodeid)
{
    struct late_kernel *kernel = arg;
    assert_true(kernel->count < 8);
    kernel->questions[kernel->count++] = nodeid;
}

static void answer_questions(void *arg)
{
    struct late_kernel *kernel = arg;
    kernel->waits++;
    for (unsigned i = 0; i < kernel->count; i++)
        if (kernel->questions[i] != kernel->open)
            mux_forgotten(kernel->mux, kernel->questions[i]);
    kernel->count = 0;
}

static const struct mux_notifier late = {.confirm_forget = queue_question,
                                         .wait_told = answer_questions};

static void test_B3_what_was_deleted_is_given_back_before_EDQUOT_is_the_answer(void **state)
{
    static const char data[3000];
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view_quota(*state, codebase, "**/*=write", 5000, 4);
    struct late_kernel kernel = {.mux = v.fixture->mux};
    struct mux_ctx blocking = v.ctx;
    struct mux_entry entry;
    blocking.may_block = true;
    mux_set_notifier(kernel.mux, &late, &kernel);
    assert_int_equal(ops_create(&v, "first", 0644), 0);
    assert_int_equal(ops_write(&v, "first", data, sizeof data, 0), 0);
    assert_int_equal(ops_create(&v, "second", 0644), 0);
    uint64_t first = ops_nodeid(&v, "first"), second = ops_nodeid(&v, "second");
    assert_int_equal(ops_write(&v, "second", data, sizeof data, 0), -EDQUOT);
    assert_int_equal(kernel.waits, 0); // there was nothing to ask about
    assert_int_equal(ops_unlink(&v, "first"), 0);
    // No FORGET has come. A worker does not wait for the kernel's answer.
    assert_int_equal(mux_write(kernel.mux, &v.ctx, second, data, sizeof data, 0), MUX_SLOW);
    kernel.open = first;
    assert_int_equal(mux_write(kernel.mux, &blocking, second, data, sizeof data, 0), -EDQUOT);
    assert_int_equal(kernel.waits, 1);
    kernel.open = 0; // closed
    assert_int_equal(mux_write(kernel.mux, &blocking, second, data, sizeof data, 0), 0);
    assert_int_equal(stats_of(*state).orphans, 0);
    // The same for inodes: the root, second and two more.
    assert_int_equal(ops_create(&v, "third", 0644), 0);
    assert_int_equal(ops_create(&v, "fourth", 0644), 0);
    assert_int_equal(ops_create(&v, "fifth", 0644), -EDQUOT);
    assert_int_equal(ops_unlink(&v, "third"), 0);
    assert_int_equal(ops_create(&v, "fifth", 0644), MUX_SLOW);
    assert_int_equal(mux_create(kernel.mux, &blocking, v.root, "fifth", 0644, &entry), 0);
    mux_set_notifier(kernel.mux, NULL, NULL);
    assert_accounting(&v);
}

static void test_B3_statfs_counts_nothing_that_the_kernel_has_let_go_of(void **state)
{
    static const char data[3000];
    struct view v =
        ops_view_quota(*state, ops_codebase(*state, tree), "**/*=write", (uint64_t)1 << 20, 8);
    struct late_kernel kernel = {.mux = v.fixture->mux};
    struct mux_ctx blocking = v.ctx;
    struct statvfs st;
    blocking.may_block = true;
    mux_set_notifier(kernel.mux, &late, &kernel);
    assert_int_equal(ops_create(&v, "f", 0644), 0);
    assert_int_equal(ops_write(&v, "f", data, sizeof data, 0), 0);
    assert_int_equal(mux_statfs(kernel.mux, &v.ctx, v.root, &st), 0); // nobody is asked
    assert_int_equal(st.f_files - st.f_ffree, 2);                     // the root and the file
    uint64_t file = ops_nodeid(&v, "f");
    assert_int_equal(ops_unlink(&v, "f"), 0);
    assert_int_equal(mux_statfs(kernel.mux, &v.ctx, v.root, &st), MUX_SLOW);
    kernel.open = file;
    assert_int_equal(mux_statfs(kernel.mux, &blocking, v.root, &st), 0);
    assert_int_equal(st.f_files - st.f_ffree, 2);
    kernel.open = 0;
    assert_int_equal(mux_statfs(kernel.mux, &blocking, v.root, &st), 0);
    assert_int_equal(st.f_files - st.f_ffree, 1);
    assert_int_equal(st.f_bfree, st.f_blocks);
    mux_set_notifier(kernel.mux, NULL, NULL);
    assert_accounting(&v);
}

static void test_a_forget_of_eight_turns_ago_frees_nothing_that_is_open(void **state)
{
    struct af_id codebase = ops_codebase(*state, tree);
    struct view v = ops_view_quota(*state, codebase, "**/*=write", 0, 1000);
    struct mux *mux = v.fixture->mux;
    struct asked asked = {0};
    char buf[8];
    mux_set_notifier(mux, &asking, &asked);
    uint64_t before = ops_nodeid(&v, "dir/a");
    do { // until slot and turn, hence the nodeid, are the same again
        ops_detach(&v);
        ops_attach(&v);
    } while (ops_nodeid(&v, "dir/a") != before);
    assert_int_equal(ops_write(&v, "dir/a", "A", 1, 0), 0);
    assert_int_equal(ops_unlink(&v, "dir/a"), 0);
    mux_forget(mux, before);
    assert_int_equal(asked.times, 1);
    assert_int_equal(ops_read_node(&v, before, buf, 8, 0), 5);
    assert_int_equal(stats_of(*state).orphans, 1);
    mux_set_notifier(mux, NULL, NULL);
}

static void test_an_open_file_outlives_its_directory(void **state)
{
    ops_reopen_sized(*state, 1);
    struct view v = start(state);
    char buf[8];
    assert_int_equal(ops_mkdir(&v, "d", 0755), 0);
    ops_put(&v, "d/f", "text");
    uint64_t file = ops_nodeid(&v, "d/f");
    assert_int_equal(ops_unlink(&v, "d/f"), 0);
    assert_int_equal(ops_rmdir(&v, "d"), 0);
    assert_true(ops_exists(&v, "run")); // the cache has forgotten it
    assert_int_equal(ops_write_node(&v, file, "T", 1, 0), 0);
    assert_int_equal(ops_read_node(&v, file, buf, 8, 0), 4);
    assert_memory_equal(buf, "Text", 4);
}

static void test_nothing_can_be_made_in_a_removed_directory(void **state)
{
    struct view v = start(state);
    struct mux *mux = v.fixture->mux;
    struct mux_entry entry;
    assert_int_equal(ops_mkdir(&v, "gone", 0755), 0);
    uint64_t gone = ops_nodeid(&v, "gone");
    assert_int_equal(ops_rmdir(&v, "gone"), 0);
    assert_int_equal(mux_create(mux, &v.ctx, gone, "x", 0644, &entry), -ENOENT);
    assert_int_equal(mux_rename(mux, &v.ctx, v.root, "run", gone, "run", 0), -ENOENT);
    assert_int_equal(mux_lookup(mux, &v.ctx, gone, "x", &entry), 0);
    assert_int_equal(entry.nodeid, 0);
    mux_forget(mux, gone);
    assert_int_equal(mux_create(mux, &v.ctx, gone, "x", 0644, &entry), -ENOENT);
    assert_accounting(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_D3_a_base_directory_goes_when_it_is_empty),
        fixture_test(test_D4_a_directory_made_again_is_empty),
        fixture_test(test_B5_B6_a_deleted_name_can_be_anything_else),
        fixture_test(test_B4_removing_while_listing_removes_all),
        fixture_test(test_B4_S2_positions_hold_while_names_go),
        fixture_test(test_an_unlinked_file_lives_until_it_is_forgotten),
        fixture_test(test_B3_removing_many_files_costs_memory_for_none),
        fixture_test(test_a_file_that_grew_after_its_name_went_is_deleted_at_once),
        fixture_test(test_a_late_forget_of_a_former_attachment_does_no_harm),
        fixture_test(test_a_forget_overtaken_by_a_new_lookup_frees_nothing_that_is_open),
        fixture_test(test_B3_what_was_deleted_is_given_back_before_EDQUOT_is_the_answer),
        fixture_test(test_B3_statfs_counts_nothing_that_the_kernel_has_let_go_of),
        fixture_test(test_a_forget_of_eight_turns_ago_frees_nothing_that_is_open),
        fixture_test(test_an_open_file_outlives_its_directory),
        fixture_test(test_nothing_can_be_made_in_a_removed_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
