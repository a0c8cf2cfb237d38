// What a kernel holds stays readable, whoever replaces or removes it, through commits, rebases,
// merges of layers and the collector; and it goes once the kernel has let go of it.
#include "tests/unit/mux/held_kernel.h"

#include "mux/mux_priv.h"
#include "mux/nodeid.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define BIG 70000

static void assert_reads(struct view *view, uint64_t nodeid, const char *text)
{
    char buf[64];
    ssize_t n = ops_read_node(view, nodeid, buf, sizeof buf, 0);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(buf, text, strlen(text));
}

static void assert_reads_big(struct view *view, uint64_t nodeid, unsigned seed)
{
    static char buf[BIG];
    assert_int_equal(ops_read_node(view, nodeid, buf, sizeof buf, 0), sizeof buf);
    for (size_t i = 0; i < sizeof buf; i++)
        assert_true((unsigned char)buf[i] == ops_byte(seed, i));
}

static void assert_stale(struct view *view, uint64_t nodeid)
{
    char buf[8];
    assert_int_equal(ops_read_node(view, nodeid, buf, sizeof buf, 0), -ESTALE);
}

static const struct base_file base[] = {
    {"in_place", 0, "old in_place"},    {"by_rename", 0, "old by_rename"},
    {"removed", 0, "old removed"},      {"d/below", 0, "old below"},
    {"link", S_IFLNK | 0777, "target"}, {0}};

// Another writer replaces everything, several times, in commits that each become a layer, since a
// sandbox is made after each; then nobody is left who needs the layers below.
static void replace_all(struct view *writer)
{
    static const char *const texts[] = {"first", "second", "third", "fourth", "fifth"};
    struct af_id between[AF_ARRAY_LEN(texts)];
    struct af_error err;
    for (size_t i = 0; i < AF_ARRAY_LEN(texts); i++) {
        ops_put(writer, "in_place", texts[i]);
        ops_put(writer, "tmp", texts[i]);
        assert_int_equal(ops_rename(writer, "tmp", "by_rename", 0), 0);
        ops_put(writer, "big", texts[i]);
        if (i == 0) {
            assert_int_equal(ops_unlink(writer, "removed"), 0);
            assert_int_equal(ops_unlink(writer, "link"), 0);
        }
        if (i == 1) {
            assert_int_equal(ops_unlink(writer, "d/below"), 0);
            assert_int_equal(ops_rmdir(writer, "d"), 0);
        }
        ops_commit(writer);
        between[i] = new_sandbox(writer->fixture, writer->codebase);
    }
    for (size_t i = 0; i < AF_ARRAY_LEN(texts); i++)
        assert_int_equal(mux_sandbox_destroy(writer->fixture->mux, between[i].text, &err), 0);
}

struct held {
    uint64_t in_place, by_rename, removed, below, big, dir, link;
};

static struct held hold_all(struct kernel *kernel, struct view *view)
{
    return (struct held){
        .in_place = kernel_hold(kernel, view, "in_place"),
        .by_rename = kernel_hold(kernel, view, "by_rename"),
        .removed = kernel_hold(kernel, view, "removed"),
        .below = kernel_hold(kernel, view, "d/below"),
        .big = kernel_hold(kernel, view, "big"),
        .dir = kernel_hold(kernel, view, "d"),
        .link = kernel_hold(kernel, view, "link"),
    };
}

static void assert_held(struct view *view, const struct held *held, const char *in_place)
{
    char target[AF_SYMLINK_MAX + 1];
    assert_reads(view, held->in_place, in_place);
    assert_reads(view, held->by_rename, "old by_rename");
    assert_reads(view, held->removed, "old removed");
    assert_reads(view, held->below, "old below");
    assert_int_equal(mux_readlink(view->fixture->mux, &view->ctx, held->link, target), 0);
    assert_string_equal(target, "target");
}

static void let_all_go(struct kernel *kernel, const struct held *held)
{
    const uint64_t nodeids[] = {held->in_place, held->by_rename, held->removed, held->below,
                                held->big,      held->dir,       held->link};
    for (size_t i = 0; i < AF_ARRAY_LEN(nodeids); i++)
        kernel_let_go(kernel, nodeids[i]);
}

// ---- files that all views share

static void test_a_shared_file_that_others_replaced_is_read_for_as_long_as_it_is_open(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    ops_upload_big(fixture, codebase, "big", BIG, 1);
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    struct held held = hold_all(&kernel, &reader);
    assert_true(mux_nodeid_is_shared(held.in_place));
    struct stat before = kernel_stat(&reader, held.in_place);
    replace_all(&writer);
    assert_held(&reader, &held, "old in_place");
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_held(&reader, &held, "old in_place");
    assert_reads_big(&reader, held.big, 1);
    struct stat after = kernel_stat(&reader, held.in_place);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(after.st_size, before.st_size);
    assert_true(after.st_mtim.tv_sec == before.st_mtim.tv_sec);
    assert_text(&reader, "in_place", "fifth");
    assert_fsck_clean(fixture);
    let_all_go(&kernel, &held);
    clean_up_all(fixture);
    assert_stale(&reader, held.in_place);
    assert_stale(&reader, held.by_rename);
    assert_stale(&reader, held.big);
    assert_int_equal(count_blob_files(fixture), 0);
    kernel_stop(&kernel);
}

// The one that lets go has a record of the file for itself, which is no reason to let it end.
static void test_what_two_views_hold_stays_for_one_when_the_other_lets_go(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct view other = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t shared = kernel_hold(&kernel, &reader, "removed");
    uint64_t own = kernel_hold(&kernel, &other, "removed");
    assert_true(mux_nodeid_is_shared(shared) && !mux_nodeid_is_shared(own));
    replace_all(&writer);
    ops_rebase(&other);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_reads(&reader, shared, "old removed");
    assert_reads(&other, own, "old removed");
    kernel_let_go(&kernel, own);
    clean_up_all(fixture);
    assert_stale(&other, own);
    assert_reads(&reader, shared, "old removed");
    assert_fsck_clean(fixture);
    kernel_let_go(&kernel, shared);
    clean_up_all(fixture);
    assert_stale(&reader, shared);
    kernel_stop(&kernel);
}

// A layer with the record of a version that is kept, as a merge of layers may write one; and gone.
static uint64_t show_again(struct fixture *fixture, uint64_t version)
{
    struct store_txn *txn;
    struct store_inode inode;
    uint64_t layer;
    assert_int_equal(store_write_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(store_version_get(txn, version, &inode), 0);
    assert_int_equal(inode.fid, version);
    inode.fid = inode.parent;
    inode.parent = inode.origin;
    inode.nlink = 1;
    assert_int_equal(store_layer_new(txn, &layer), 0);
    assert_int_equal(store_inode_put(txn, layer, &inode), 0);
    assert_int_equal(store_layer_freeze(txn, layer), 0);
    assert_int_equal(store_commit(txn), 0);
    return layer;
}

static void drop_layer(struct fixture *fixture, uint64_t layer)
{
    struct store_txn *txn;
    assert_int_equal(store_write_begin(mux_store(fixture->mux), &txn), 0);
    assert_int_equal(store_layer_unref(txn, layer), 0);
    assert_int_equal(store_commit(txn), 0);
}

static void test_a_version_that_was_shown_again_while_it_was_kept_is_asked_about_again(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t read = kernel_hold(&kernel, &reader, "removed");
    uint64_t seen = mux_nodeid_shared(MUX_CLASS_VIEW, mux_nodeid_fid(read));
    replace_all(&writer);
    ops_rebase(&reader);
    clean_up_all(fixture);
    uint64_t layer = show_again(fixture, mux_nodeid_fid(read));
    kernel_hold_node(&kernel, seen); // looked up by somebody who may only see it
    drop_layer(fixture, layer);
    clean_up_all(fixture);
    assert_reads(&reader, read, "old removed");
    kernel_let_go(&kernel, read);
    clean_up_all(fixture);
    assert_int_equal(kernel_stat(&reader, seen).st_size, strlen("old removed"));
    kernel_let_go(&kernel, seen);
    clean_up_all(fixture);
    assert_stale(&reader, seen);
    kernel_stop(&kernel);
}

static void test_its_extended_attributes_stay_too(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    assert_int_equal(mux_setxattr(fixture->mux, &writer.ctx, ops_nodeid(&writer, "in_place"),
                                  "user.note", "mine", 4, 0),
                     0);
    ops_commit(&writer);
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t file = kernel_hold(&kernel, &reader, "in_place");
    assert_int_equal(ops_unlink(&writer, "in_place"), 0);
    ops_commit(&writer);
    replace_all(&writer);
    ops_rebase(&reader);
    clean_up_all(fixture);
    char value[16];
    size_t len = 0;
    assert_int_equal(
        mux_getxattr(fixture->mux, &reader.ctx, file, "user.note", value, sizeof value, &len), 0);
    assert_int_equal(len, 4);
    assert_memory_equal(value, "mine", 4);
    kernel_stop(&kernel);
}

static void test_a_file_that_its_own_view_may_write_by_now_is_read_as_it_was_opened(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, base), "**/*=read");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t file = kernel_hold(&kernel, &v, "in_place");
    ops_detach(&v);
    struct view other = ops_view(fixture, v.codebase, "**/*=read"); // the kernel still has it
    struct view w = ops_view(fixture, v.codebase, "**/*=write");
    struct af_error err;
    ops_detach(&other);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, v.sandbox.text, &err), 0);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, other.sandbox.text, &err), 0);
    ops_put(&w, "in_place", "new"); // alone: absorbed by the layer that has the old one
    ops_commit(&w);
    clean_up_all(fixture);
    assert_reads(&w, file, "old in_place");
    kernel_let_go(&kernel, file);
    clean_up_all(fixture);
    assert_stale(&w, file);
    kernel_stop(&kernel);
}

static void test_what_no_kernel_holds_is_not_kept(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    ops_upload_big(fixture, codebase, "big", BIG, 1);
    struct view reader = ops_view(fixture, codebase, "**/*=read");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    clean_up_all(fixture);
    replace_all(&writer);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_true(kernel.asked > 0);
    assert_int_equal(count_blob_files(fixture), 0);
    ops_detach(&reader);
    ops_detach(&writer);
    kernel_stop(&kernel);
    struct af_error err;
    assert_int_equal(mux_sandbox_destroy(fixture->mux, reader.sandbox.text, &err), 0);
    assert_int_equal(mux_sandbox_destroy(fixture->mux, writer.sandbox.text, &err), 0);
    assert_int_equal(mux_codebase_delete(fixture->mux, codebase.text, &err), 0);
    assert_no_garbage(fixture, 0, 0, 0);
}

// ---- files and directories of one view

static void test_what_others_took_from_a_view_is_read_for_as_long_as_it_is_open(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    ops_upload_big(fixture, codebase, "big", BIG, 1);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    struct held held = hold_all(&kernel, &reader);
    assert_false(mux_nodeid_is_shared(held.in_place));
    uint64_t unheld = ops_nodeid(&reader, "removed");
    ino_t ino = kernel_stat(&reader, held.by_rename).st_ino;
    replace_all(&writer);
    clean_up_all(fixture);
    assert_held(&reader, &held, "old in_place");
    assert_reads_big(&reader, held.big, 1);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_int_equal(kernel_stat(&reader, held.dir).st_nlink, 0);
    assert_held(&reader, &held, "fifth"); // one file, overwritten: as by two processes on a disk
    assert_int_equal(kernel_stat(&reader, held.by_rename).st_ino, ino);
    assert_int_equal(unheld, held.removed);
    assert_fsck_clean(fixture);
    ops_commit(&reader); // nothing of it is pushed
    assert_false(ops_exists(&writer, "removed"));
    let_all_go(&kernel, &held);
    clean_up_all(fixture);
    assert_stale(&reader, held.by_rename);
    assert_stale(&reader, held.removed);
    assert_text(&reader, "in_place", "fifth");
    kernel_stop(&kernel);
}

static void test_a_large_file_costs_no_copy_and_its_content_goes_with_the_last_close(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    ops_upload_big(fixture, codebase, "big", BIG, 1);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t big = kernel_hold(&kernel, &reader, "big");
    unlink_closed(&writer, "big");
    ops_commit(&writer);
    ops_rebase(&reader);
    replace_all(&writer);
    unlink_closed(&writer, "big");
    ops_commit(&writer);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_int_equal(count_blob_files(fixture), 1);
    assert_reads_big(&reader, big, 1);
    kernel_let_go(&kernel, big);
    clean_up_all(fixture);
    assert_int_equal(count_blob_files(fixture), 0);
    assert_stale(&reader, big);
    kernel_stop(&kernel);
}

static void test_a_file_that_comes_back_is_the_one_that_is_open(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view remover = ops_view(fixture, codebase, "**/*=write");
    struct view changer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t file = kernel_hold(&kernel, &reader, "removed");
    ops_put(&changer, "removed", "changed");
    assert_int_equal(ops_unlink(&remover, "removed"), 0);
    ops_commit(&remover);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_reads(&reader, file, "old removed");
    ops_commit(&changer); // last writer: the file is there again
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_int_equal(ops_nodeid(&reader, "removed"), file);
    assert_reads(&reader, file, "changed");
    assert_int_equal(kernel_stat(&reader, file).st_nlink, 1);
    assert_int_equal(ops_unlink(&remover, "by_rename"), 0);
    ops_rebase(&remover);
    assert_int_equal(ops_unlink(&remover, "removed"), 0);
    ops_commit(&remover);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_reads(&reader, file, "changed");
    kernel_stop(&kernel);
}

static void test_it_may_be_written_on_and_is_nobody_else_s(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    ops_upload_big(fixture, codebase, "big", BIG, 1);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view second = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t big = kernel_hold(&kernel, &reader, "big"),
             other = kernel_hold(&kernel, &second, "big");
    unlink_closed(&writer, "big");
    ops_commit(&writer);
    ops_rebase(&reader);
    ops_rebase(&second);
    replace_all(&writer);
    clean_up_all(fixture);
    assert_int_equal(ops_write_node(&reader, big, "mine", 4, 0), 0);
    char buf[4];
    assert_int_equal(ops_read_node(&reader, big, buf, 4, 0), 4);
    assert_memory_equal(buf, "mine", 4);
    assert_reads_big(&second, other, 1);
    ops_commit(&reader);
    clean_up_all(fixture);
    assert_int_equal(ops_read_node(&reader, big, buf, 4, 0), 4);
    assert_memory_equal(buf, "mine", 4);
    kernel_let_go(&kernel, big);
    ops_detach(&second);
    struct af_error err;
    assert_int_equal(mux_sandbox_destroy(fixture->mux, second.sandbox.text, &err), 0);
    clean_up_all(fixture);
    assert_stale(&reader, big);
    assert_int_equal(count_blob_files(fixture), 0);
    kernel_stop(&kernel);
}

static void test_a_file_that_may_only_be_seen_stays_closed(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view setup = ops_view(fixture, codebase, "**/*=write");
    assert_int_equal(ops_link(&setup, "removed", "second_name"), 0); // so it is not shared
    ops_commit(&setup);
    struct view viewer = ops_view(fixture, codebase, "**/*=view");
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    uint64_t file = kernel_hold(&kernel, &viewer, "removed");
    assert_false(mux_nodeid_is_shared(file));
    assert_int_equal(ops_unlink(&setup, "removed"), 0);
    assert_int_equal(ops_unlink(&setup, "second_name"), 0);
    ops_commit(&setup);
    ops_rebase(&viewer);
    clean_up_all(fixture);
    char buf[8];
    assert_int_equal(ops_read_node(&viewer, file, buf, sizeof buf, 0), -EACCES);
    assert_int_equal(ops_write_node(&viewer, file, "x", 1, 0), -EACCES);
    assert_int_equal(kernel_stat(&viewer, file).st_mode & 0777, 0);
    kernel_stop(&kernel);
}

static void test_a_rollback_leaves_open_what_is_open(void **state)
{
    struct fixture *fixture = *state;
    struct view v = ops_view(fixture, ops_codebase(fixture, base), "**/*=write");
    struct af_error err;
    bool told;
    struct kernel kernel;
    kernel_start(&kernel, fixture);
    ops_put(&v, "made", "here");
    ops_put(&v, "unheld", "here");
    uint64_t made = kernel_hold(&kernel, &v, "made"), unheld = ops_nodeid(&v, "unheld");
    assert_int_equal(mux_rollback(fixture->mux, v.sandbox.text, &told, &err), 0);
    clean_up_all(fixture);
    assert_false(ops_exists(&v, "made"));
    assert_reads(&v, made, "here");
    assert_stale(&v, unheld);
    kernel_let_go(&kernel, made);
    assert_stale(&v, made);
    kernel_stop(&kernel);
}

// A kernel that has not answered yet: until it has, nothing ends.
static void test_layers_of_the_past_are_held_until_the_kernel_has_answered(void **state)
{
    static const struct mux_notifier silent = {.confirm_forget = NULL, .settle = NULL};
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    uint64_t file = ops_nodeid(&reader, "removed");
    mux_set_notifier(fixture->mux, &silent, NULL); // all may be open
    replace_all(&writer);
    ops_rebase(&reader);
    clean_up_all(fixture);
    assert_reads(&reader, file, "old removed");
    mux_set_notifier(fixture->mux, NULL, NULL);
    // As after kill -9: the next start finds what is pending, and ends it.
    fixture_reopen(fixture);
    clean_up_all(fixture);
    assert_fsck_clean(fixture);
}

// Each is looked at once, however many there are, and no more than some at one turn of the lock.
static void test_settling_looks_at_each_lost_file_once(void **state)
{
    enum { FILES = 3000, HELD = 700, STEP = 1024, COPIED = 128 };
    struct fixture *fixture = *state;
    struct mux *mux = fixture->mux;
    struct af_id codebase = ops_codebase(fixture, base);
    struct view reader = ops_view(fixture, codebase, "**/*=write");
    struct view writer = ops_view(fixture, codebase, "**/*=write");
    struct kernel kernel;
    char name[32];
    kernel_start(&kernel, fixture);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "f%d", i);
        ops_put(&writer, name, name);
    }
    ops_commit(&writer);
    ops_rebase(&reader);
    uint64_t held[HELD];
    for (int i = 0; i < HELD; i++) {
        snprintf(name, sizeof name, "f%d", i);
        held[i] = kernel_hold(&kernel, &reader, name);
    }
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "f%d", i);
        unlink_closed(&writer, name);
    }
    ops_commit(&writer);
    uint64_t looked = mux->counters.settled, steps = mux->counters.settle_steps;
    ops_rebase(&reader);
    looked = mux->counters.settled - looked;
    steps = mux->counters.settle_steps - steps;
    assert_int_equal(looked, FILES);
    assert_true(steps >= FILES / STEP && steps <= HELD / COPIED + FILES / STEP + 3);
    for (int i = 0; i < HELD; i++) {
        snprintf(name, sizeof name, "f%d", i);
        assert_reads(&reader, held[i], name);
        kernel_let_go(&kernel, held[i]);
    }
    kernel_stop(&kernel);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_a_shared_file_that_others_replaced_is_read_for_as_long_as_it_is_open),
        fixture_test(test_what_two_views_hold_stays_for_one_when_the_other_lets_go),
        fixture_test(test_a_version_that_was_shown_again_while_it_was_kept_is_asked_about_again),
        fixture_test(test_its_extended_attributes_stay_too),
        fixture_test(test_a_file_that_its_own_view_may_write_by_now_is_read_as_it_was_opened),
        fixture_test(test_what_no_kernel_holds_is_not_kept),
        fixture_test(test_what_others_took_from_a_view_is_read_for_as_long_as_it_is_open),
        fixture_test(test_a_large_file_costs_no_copy_and_its_content_goes_with_the_last_close),
        fixture_test(test_a_file_that_comes_back_is_the_one_that_is_open),
        fixture_test(test_it_may_be_written_on_and_is_nobody_else_s),
        fixture_test(test_a_file_that_may_only_be_seen_stays_closed),
        fixture_test(test_a_rollback_leaves_open_what_is_open),
        fixture_test(test_layers_of_the_past_are_held_until_the_kernel_has_answered),
        fixture_test(test_settling_looks_at_each_lost_file_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
