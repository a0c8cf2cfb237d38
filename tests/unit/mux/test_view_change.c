// Changing a view in use: what the kernel is told, and that quotas count exactly whatever happens.
//
// The kernel is a fake: a set of inodes that it has, and a record of what was taken back.
#include "tests/unit/mux/ops_model.h"

#include "mux/nodeid.h"
#include "mux/mux_priv.h"
#include "mux/view_change.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct base_file tree[] = {
    {"a/b/c/deep", 0, "1"}, {"a/one", 0, "2"}, {"cold/two", 0, "3"},
    {"top", 0, "4"},        {NULL, 0, NULL},
};

// ---- a kernel

#define HELD_MAX 64

struct kernel {
    uint64_t held[HELD_MAX];
    size_t n_held;
    char told[4096]; // in order: "entry NAME;", "expire NAME;", "inode FID OFFSET;"
    bool only_names; // leave out inodes
    void (*meanwhile)(void *arg);
    void *arg;
};

static void tell(struct kernel *kernel, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct kernel *kernel, const char *fmt, ...)
{
    size_t len = strlen(kernel->told);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(kernel->told + len, sizeof kernel->told - len, fmt, ap);
    va_end(ap);
}

static int drop_entry(void *arg, uint64_t parent, const char *name, size_t len)
{
    (void)parent;
    tell(arg, "entry %.*s;", (int)len, name);
    return 0;
}

static int expire_entry(void *arg, uint64_t parent, const char *name, size_t len)
{
    (void)parent;
    tell(arg, "expire %.*s;", (int)len, name);
    return 0;
}

static int drop_inode(void *arg, uint64_t nodeid, int64_t offset, int64_t len)
{
    struct kernel *kernel = arg;
    assert_false(mux_nodeid_is_shared(nodeid)); // of all views: never one view's to take back
    (void)len;
    if (kernel->meanwhile) {
        void (*fn)(void *) = kernel->meanwhile;
        kernel->meanwhile = NULL;
        fn(kernel->arg);
    }
    for (size_t i = 0; i < kernel->n_held; i++)
        if (kernel->held[i] == nodeid) {
            if (offset >= 0)
                tell(kernel, "pages;");
            return 0;
        }
    return -ENOENT;
}

static const struct mux_notifier notifier = {
    .drop_entry_now = drop_entry,
    .expire_entry_now = expire_entry,
    .drop_inode_now = drop_inode,
};

static void hold(struct kernel *kernel, uint64_t nodeid)
{
    assert_true(kernel->n_held < HELD_MAX);
    kernel->held[kernel->n_held++] = nodeid;
}

static struct store_rule rule_of(const char *pattern, enum rules_level level, int priority)
{
    return (struct store_rule){.pattern = pattern,
                               .pattern_len = (uint16_t)strlen(pattern),
                               .type = RULES_GLOB,
                               .level = (uint8_t)level,
                               .priority = priority};
}

// Changes the rules to **/*=write and one more, and has the kernel told.
static void change(struct view *v, const char *pattern, enum rules_level level)
{
    struct store_rule rules[] = {rule_of("**/*", RULES_WRITE, 0), rule_of(pattern, level, 100)};
    struct mux_revoke *revoke;
    struct af_error err;
    assert_int_equal(mux_view_set_rules(v->fixture->mux, v->sandbox.text, rules, 2, &revoke, &err),
                     0);
    assert_int_equal(mux_revoke_run(revoke, NULL), 0);
}

static struct view start(void **state, struct kernel *kernel)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    mux_set_notifier(v.fixture->mux, &notifier, kernel);
    hold(kernel, v.root);
    return v;
}

static void end(struct view *v)
{
    mux_set_notifier(v->fixture->mux, NULL, NULL);
}

// ---- what is told

static void test_only_what_differs_is_taken_back_and_only_where_the_kernel_has_been(void **state)
{
    struct kernel kernel = {0};
    struct view v = start(state, &kernel);
    hold(&kernel, ops_nodeid(&v, "a"));
    change(&v, "**/one", RULES_READ);
    assert_non_null(strstr(kernel.told, "entry one;"));
    assert_null(strstr(kernel.told, "top"));
    assert_null(strstr(kernel.told, "two")); // cold is not in the kernel
    assert_null(strstr(kernel.told, "pages;"));
    kernel.told[0] = '\0';
    change(&v, "**/one", RULES_READ); // the same rules: nothing at all
    assert_string_equal(kernel.told, "");
    change(&v, "**/two", RULES_NONE);
    assert_null(strstr(kernel.told, "entry two;"));
    assert_non_null(strstr(kernel.told, "entry one;"));
    end(&v);
}

static void test_a_hidden_name_takes_its_listing_along(void **state)
{
    struct kernel kernel = {0};
    struct view v = start(state, &kernel);
    change(&v, "/a/**", RULES_NONE);
    assert_non_null(strstr(kernel.told, "entry a;"));
    assert_non_null(strstr(kernel.told, "pages;")); // of the root
    end(&v);
}

static void test_a_file_with_two_names_is_taken_back_where_only_the_other_name_changed(void **state)
{
    struct kernel kernel = {0};
    struct view v = start(state, &kernel);
    assert_int_equal(ops_link(&v, "top", "cold/link"), 0);
    uint64_t top = ops_nodeid(&v, "top");
    hold(&kernel, top);
    change(&v, "/cold/link", RULES_VIEW); // cold is not in the kernel, top is
    assert_non_null(strstr(kernel.told, "expire top;"));
    assert_non_null(strstr(kernel.told, "pages;"));
    end(&v);
}

static void move_b(void *arg)
{
    struct view *v = arg;
    assert_int_equal(ops_rename(v, "a/b", "cold/b", 0), 0);
}

static void test_a_directory_that_moves_meanwhile_is_not_missed(void **state)
{
    struct kernel kernel = {0};
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=read");
    mux_set_notifier(v.fixture->mux, &notifier, &kernel);
    static const char *const dirs[] = {"a", "a/b", "a/b/c", "cold"};
    hold(&kernel, v.root);
    for (size_t i = 0; i < 4; i++)
        hold(&kernel, ops_nodeid(&v, dirs[i]));
    kernel.meanwhile = move_b; // at the first question: the walk has seen nothing yet
    kernel.arg = &v;
    change(&v, "/nothing", RULES_NONE);
    assert_non_null(strstr(kernel.told, "entry deep;"));
    end(&v);
}

static void test_a_malformed_rule_changes_nothing(void **state)
{
    struct kernel kernel = {0};
    struct view v = start(state, &kernel);
    struct store_rule rules[] = {rule_of("**/*", RULES_NONE, 0), rule_of("[a", RULES_READ, 0)};
    struct mux_revoke *revoke = NULL;
    struct af_error err;
    assert_int_equal(mux_view_set_rules(v.fixture->mux, v.sandbox.text, rules, 2, &revoke, &err),
                     -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_string_equal(kernel.told, "");
    assert_true(ops_exists(&v, "top"));
    end(&v);
}

// ---- access

static void set_access(struct view *v, enum store_sandbox_access access)
{
    struct mux_revoke *revoke;
    struct af_error err;
    assert_int_equal(mux_view_set_access(v->fixture->mux, v->sandbox.text, access, &revoke, &err),
                     0);
    mux_revoke_run(revoke, NULL);
}

static void test_what_is_forgotten_while_frozen_or_cut_off_is_freed(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct mux *mux = v.fixture->mux;
    static const enum store_sandbox_access closed[] = {STORE_ACCESS_READ_ONLY,
                                                       STORE_ACCESS_CUT_OFF};
    for (size_t i = 0; i < 2; i++) {
        ops_put(&v, "gone", "x");
        uint64_t gone = ops_nodeid(&v, "gone");
        struct mux_entry entry;
        assert_int_equal(ops_unlink(&v, "gone"), 0);
        set_access(&v, closed[i]);
        assert_int_equal(mux_create(mux, &v.ctx, v.root, "n", 0644, &entry),
                         i == 0 ? -EROFS : -EACCES);
        assert_int_equal(mux_lookup(mux, &v.ctx, v.root, "top", &entry), i == 0 ? 0 : -EACCES);
        mux_forget(mux, gone);
        set_access(&v, STORE_ACCESS_NORMAL);
        assert_int_equal(mux_lookup(mux, &v.ctx, v.root, "top", &entry), 0);
    }
    ops_detach(&v);
    assert_accounting(&v);
}

// ---- quotas

static int take_bytes(void *arg, const struct store_sandbox *sandbox,
                      const struct store_layer *delta)
{
    (void)sandbox;
    *(uint64_t *)arg = delta->bytes;
    return 0;
}

static uint64_t used_bytes(struct view *v)
{
    uint64_t bytes;
    struct af_error err;
    assert_int_equal(mux_sandbox_info(v->fixture->mux, v->sandbox.text, take_bytes, &bytes, &err),
                     0);
    return bytes;
}

static void test_B3_no_history_makes_a_quota_drift_or_lets_anything_pass_it(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct prng prng = {20261128};
    struct af_error err;
    uint64_t quota = 0;
    static const char data[20000];

    for (unsigned step = 0; step < 4000; step++) {
        char path[8], other[8];
        snprintf(path, sizeof path, "f%u", (unsigned)prng_below(&prng, 12));
        snprintf(other, sizeof other, "f%u", (unsigned)prng_below(&prng, 12));
        int rc = 0;
        switch (prng_below(&prng, 8)) {
        case 0:
            rc = ops_create(&v, path, 0644);
            break;
        case 1:
        case 2:
            if (ops_exists(&v, path))
                rc = ops_write(&v, path, data, 1 + prng_below(&prng, sizeof data),
                               (off_t)prng_below(&prng, 30000));
            break;
        case 3:
            if (ops_exists(&v, path))
                rc = ops_truncate(&v, path, (off_t)prng_below(&prng, 60000));
            break;
        case 4:
            rc = ops_unlink(&v, path);
            break;
        case 5:
            rc = ops_rename(&v, path, other, 0);
            break;
        case 6:
            if (ops_exists(&v, path))
                rc = ops_chmod(&v, path, (mode_t)prng_below(&prng, 0777));
            break;
        default:
            quota = prng_below(&prng, 3) ? prng_below(&prng, 200000) : 0;
            assert_int_equal(mux_view_set_quota(v.fixture->mux, v.sandbox.text, quota, 0, &err), 0);
        }
        if (rc == -EDQUOT)
            assert_true(quota != 0);
        if (step % 500 == 499)
            assert_accounting(&v);
    }
    // From here on nothing passes it: fill to the brim, byte by byte at the end.
    quota = used_bytes(&v) + 100000;
    assert_int_equal(mux_view_set_quota(v.fixture->mux, v.sandbox.text, quota, 0, &err), 0);
    for (size_t size = 16384; size > 0; size /= 2) {
        for (unsigned i = 0; i < 100; i++) {
            if (!ops_exists(&v, "fill"))
                assert_int_equal(ops_create(&v, "fill", 0644), 0);
            int rc = ops_write(&v, "fill", data, size, ops_stat(&v, "fill").st_size);
            if (rc == -EDQUOT)
                break;
            assert_int_equal(rc, 0);
        }
        assert_true(used_bytes(&v) <= quota);
    }
    assert_int_equal(ops_write(&v, "fill", data, 1, ops_stat(&v, "fill").st_size), -EDQUOT);
    assert_accounting(&v);
}

// What changes but its attributes or its name counts, unasked, while its bytes are still the
// base's. So the copy has to have room, or a quota would bound no bytes on the disk.
static void test_a_quota_bounds_the_copies_of_what_was_only_renamed_or_chmod_ed(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, tree);
    ops_upload_big(fixture, codebase, "big", 300000, 1);
    ops_upload_big(fixture, codebase, "large", 300000, 2);
    struct view v = ops_view_quota(fixture, codebase, "**/*=write", 100000, 0);
    uint64_t blobs = count_blob_files(fixture);
    assert_int_equal(ops_chmod(&v, "big", 0600), 0);
    assert_int_equal(ops_rename(&v, "large", "moved", 0), 0);
    static const char *const paths[] = {"big", "moved"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(ops_write(&v, paths[i], "x", 1, 1000), -EDQUOT);
        assert_int_equal(ops_write(&v, paths[i], "x", 1, 300000), -EDQUOT);
        assert_int_equal(ops_truncate(&v, paths[i], 200000), -EDQUOT);
    }
    assert_int_equal(count_blob_files(fixture), blobs);
    assert_int_equal(used_bytes(&v), 600000);
    // What makes it less is not refused.
    assert_int_equal(ops_truncate(&v, "moved", 0), 0);
    assert_int_equal(ops_truncate(&v, "big", 90000), 0);
    assert_int_equal(ops_write(&v, "big", "x", 1, 1000), 0);
    assert_int_equal(ops_write(&v, "big", "x", 1, 99999), 0);
    assert_int_equal(ops_write(&v, "big", "x", 1, 100000), -EDQUOT);
    assert_accounting(&v);
}

// ---- limits

struct told_limit {
    unsigned times;
    uint32_t slot;
    uint64_t iops, bandwidth;
};

static void note_limit(void *arg, uint32_t slot, uint64_t iops, uint64_t bandwidth)
{
    struct told_limit *told = arg;
    *told = (struct told_limit){told->times + 1, slot, iops, bandwidth};
}

static void assert_told(const struct told_limit *told, unsigned times, uint64_t iops,
                        uint64_t bandwidth)
{
    assert_int_equal(told->times, times);
    assert_int_equal(told->iops, iops);
    assert_int_equal(told->bandwidth, bandwidth);
}

static void test_a_limit_is_told_at_each_change_and_attachment(void **state)
{
    static const struct mux_notifier listener = {.limited = note_limit};
    struct told_limit told = {0};
    struct af_error err;
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct mux *mux = v.fixture->mux;
    mux_set_notifier(mux, &listener, &told);
    assert_int_equal(mux_view_set_limit(mux, v.sandbox.text, 50, 1 << 20, &err), 0);
    assert_told(&told, 1, 50, 1 << 20);
    assert_int_equal(told.slot, mux_nodeid_slot(v.root));
    ops_detach(&v);
    assert_int_equal(mux_view_set_limit(mux, v.sandbox.text, 60, 0, &err), 0);
    assert_told(&told, 1, 50, 1 << 20); // it is not attached
    ops_attach(&v);
    assert_told(&told, 2, 60, 0);
    assert_int_equal(told.slot, mux_nodeid_slot(v.root));
    ops_detach(&v);
    struct mux_attachment at;
    uid_t uid;
    assert_int_equal(mux_view_attach(mux, v.sandbox.text, &at, &err), 0);
    assert_told(&told, 3, 60, 0);
    assert_int_equal(mux_uid_reserve(mux, &uid, &err), 0);
    assert_int_equal(mux_view_move(mux, v.sandbox.text, uid, &err), 0);
    assert_told(&told, 4, 60, 0);
    assert_int_equal(told.slot, uid - mux->uid_base);
    assert_int_equal(mux_view_set_limit(mux, v.sandbox.text, 0, 0, &err), 0);
    assert_told(&told, 5, 0, 0);
    mux_view_detach(mux, v.sandbox.text);
    ops_attach(&v);
    assert_told(&told, 5, 0, 0); // without one there is nothing to tell
    assert_int_equal(mux_view_set_limit(mux, UNKNOWN_SANDBOX, 1, 0, &err), -1);
    assert_int_equal(err.status, AF_NOT_FOUND);
    end(&v);
}

static void test_no_view_has_more_than_the_maximum(void **state)
{
    static const struct mux_notifier listener = {.limited = note_limit};
    struct told_limit told = {0};
    struct af_error err;
    struct view v = ops_view(*state, ops_codebase(*state, tree), "**/*=write");
    struct mux *mux = v.fixture->mux;
    mux->iops_max = 100;
    mux->bandwidth_max = 1 << 20;
    mux_set_notifier(mux, &listener, &told);
    ops_detach(&v);
    ops_attach(&v);
    assert_told(&told, 1, 100, 1 << 20);
    assert_int_equal(mux_view_set_limit(mux, v.sandbox.text, 101, 1 << 10, &err), 0);
    assert_told(&told, 2, 100, 1 << 10);
    assert_int_equal(mux_view_set_limit(mux, v.sandbox.text, 99, 0, &err), 0);
    assert_told(&told, 3, 99, 1 << 20);
    end(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_only_what_differs_is_taken_back_and_only_where_the_kernel_has_been),
        fixture_test(test_a_hidden_name_takes_its_listing_along),
        fixture_test(test_a_file_with_two_names_is_taken_back_where_only_the_other_name_changed),
        fixture_test(test_a_directory_that_moves_meanwhile_is_not_missed),
        fixture_test(test_a_malformed_rule_changes_nothing),
        fixture_test(test_what_is_forgotten_while_frozen_or_cut_off_is_freed),
        fixture_test(test_a_quota_bounds_the_copies_of_what_was_only_renamed_or_chmod_ed),
        fixture_test(test_B3_no_history_makes_a_quota_drift_or_lets_anything_pass_it),
        fixture_test(test_a_limit_is_told_at_each_change_and_attachment),
        fixture_test(test_no_view_has_more_than_the_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
