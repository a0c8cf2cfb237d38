// Extended attributes: what is kept, who may, and that they follow their file.
#include "tests/unit/mux/ops_fixture.h"

#include <errno.h>
#include <linux/xattr.h>
#include <string.h>

#define BIG      200000
#define OK(call) assert_int_equal(call, 0)

static const struct base_file tree[] = {
    {.path = "dir/a", .text = "alpha"},
    {.path = "ro/f", .text = "fixed"},
    {.path = "closed/f", .text = "closed"},
    {.path = "link", .mode = S_IFLNK | 0777, .text = "dir/a"},
    {0},
};

static struct view start_with(void **state, const char *rules, uint64_t bytes)
{
    struct af_id codebase = ops_codebase(*state, tree);
    ops_upload_big(*state, codebase, "big", BIG, 3);
    return ops_view_quota(*state, codebase, rules, bytes, 0);
}

static struct view start(void **state)
{
    return start_with(state, "**/*=write", 0);
}

static int set_bytes(struct view *v, const char *path, const char *name, const void *value,
                     size_t size, int flags)
{
    return mux_setxattr(v->fixture->mux, &v->ctx, ops_nodeid(v, path), name, value, size, flags);
}

static int set(struct view *v, const char *path, const char *name, const char *value)
{
    return set_bytes(v, path, name, value, strlen(value), 0);
}

static int get(struct view *v, const char *path, const char *name, void *buf, size_t size,
               size_t *ret)
{
    return mux_getxattr(v->fixture->mux, &v->ctx, ops_nodeid(v, path), name, buf, size, ret);
}

static int drop(struct view *v, const char *path, const char *name)
{
    return mux_removexattr(v->fixture->mux, &v->ctx, ops_nodeid(v, path), name);
}

static void assert_value(struct view *v, const char *path, const char *name, const char *value)
{
    char buf[256];
    size_t len;
    OK(get(v, path, name, buf, sizeof buf, &len));
    assert_int_equal(len, strlen(value));
    assert_memory_equal(buf, value, len);
    OK(get(v, path, name, NULL, 0, &len));
    assert_int_equal(len, strlen(value));
}

// names: each followed by a comma.
static void assert_list(struct view *v, const char *path, const char *names)
{
    char buf[1024];
    size_t len, told;
    uint64_t nodeid = ops_nodeid(v, path);
    OK(mux_listxattr(v->fixture->mux, &v->ctx, nodeid, buf, sizeof buf, &len));
    OK(mux_listxattr(v->fixture->mux, &v->ctx, nodeid, NULL, 0, &told));
    assert_int_equal(len, told);
    for (size_t i = 0; i < len; i++)
        buf[i] = buf[i] ? buf[i] : ',';
    buf[len] = '\0';
    assert_string_equal(buf, names);
    if (len > 0)
        assert_int_equal(mux_listxattr(v->fixture->mux, &v->ctx, nodeid, buf, len - 1, &told),
                         -ERANGE);
}

static void restart(struct view *v)
{
    ops_detach(v);
    ops_reopen_sized(v->fixture, 1);
    ops_attach(v);
}

static void test_S1_set_get_list_remove(void **state)
{
    struct view v = start(state);
    char buf[8];
    size_t len;
    const char *const paths[] = {"dir/a", "dir", ""};
    for (size_t i = 0; i < 3; i++) {
        const char *path = paths[i];
        assert_list(&v, path, "");
        assert_int_equal(get(&v, path, "user.a", buf, sizeof buf, &len), -ENODATA);
        assert_int_equal(drop(&v, path, "user.a"), -ENODATA);
        OK(set(&v, path, "user.a", "one"));
        OK(set(&v, path, "user.b", ""));
        OK(set_bytes(&v, path, "user.c", NULL, 0, 0));
        assert_list(&v, path, "user.a,user.b,user.c,");
        assert_value(&v, path, "user.b", "");
        assert_int_equal(set_bytes(&v, path, "user.a", "x", 1, XATTR_CREATE), -EEXIST);
        assert_int_equal(set_bytes(&v, path, "user.d", "x", 1, XATTR_REPLACE), -ENODATA);
        OK(set_bytes(&v, path, "user.a", "longer one", 10, XATTR_REPLACE));
        OK(set_bytes(&v, path, "user.d", "x", 1, XATTR_CREATE));
        assert_value(&v, path, "user.a", "longer one");
        assert_int_equal(get(&v, path, "user.a", buf, 3, &len), -ERANGE);
        OK(drop(&v, path, "user.b"));
        restart(&v);
        assert_list(&v, path, "user.a,user.c,user.d,");
        assert_accounting(&v);
        OK(drop(&v, path, "user.a"));
        OK(drop(&v, path, "user.c"));
        OK(drop(&v, path, "user.d"));
        assert_list(&v, path, "");
        assert_accounting(&v);
    }
    assert_text(&v, "dir/a", "alpha");
}

static void test_S1_limits_and_names(void **state)
{
    struct view v = start(state);
    static char big[AF_XATTR_VALUE_MAX + 1], read[AF_XATTR_VALUE_MAX];
    char name[300];
    size_t len;
    memset(big, 'x', sizeof big);
    assert_int_equal(set_bytes(&v, "dir/a", "user.big", big, sizeof big, 0), -E2BIG);
    OK(set_bytes(&v, "dir/a", "user.big", big, sizeof big - 1, 0));
    OK(get(&v, "dir/a", "user.big", read, sizeof read, &len));
    assert_int_equal(len, AF_XATTR_VALUE_MAX);
    assert_memory_equal(read, big, len);
    assert_int_equal(set_bytes(&v, "dir/a", "user.big2", big, sizeof big - 1, 0), -ENOSPC);
    OK(set_bytes(&v, "dir/a", "user.less", big, 60000, 0));
    OK(ops_write(&v, "dir/a", "A", 1, 0)); // a write leaves them where they are
    assert_text(&v, "dir/a", "Alpha");
    snprintf(name, sizeof name, "user.%0*d", 250, 0);
    OK(set(&v, "dir", name, "x"));
    assert_value(&v, "dir", name, "x");
    snprintf(name, sizeof name, "user.%0*d", 251, 0);
    assert_int_equal(set(&v, "dir", name, "x"), -ERANGE);
    assert_int_equal(set(&v, "dir", "user.", "x"), -EINVAL);
    assert_int_equal(set_bytes(&v, "dir", "user.x", "x", 1, 64), -EINVAL);
    static const char *const others[] = {
        "security.capability",     "security.selinux",         "trusted.x",
        "system.posix_acl_access", "system.posix_acl_default", "other"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_int_equal(set(&v, "dir/a", others[i], "x"), -EOPNOTSUPP);
        assert_int_equal(get(&v, "dir/a", others[i], read, 10, &len), -EOPNOTSUPP);
        assert_int_equal(drop(&v, "dir/a", others[i]), -EOPNOTSUPP);
    }
    assert_int_equal(set(&v, "link", "user.a", "x"), -EPERM);
    OK(ops_mkfifo(&v, "fifo", 0600));
    assert_int_equal(set(&v, "fifo", "user.a", "x"), -EPERM);
    int rc = 0;
    for (unsigned i = 0; rc == 0; i++) {
        snprintf(name, sizeof name, "user.%0*u", 240, i);
        rc = set(&v, "dir", name, "");
        assert_true(i < 300);
    }
    assert_int_equal(rc, -ENOSPC); // a list is never longer than programs can ask for
    assert_accounting(&v);
}

static void test_they_follow_their_file(void **state)
{
    struct view v = start(state);
    OK(set(&v, "big", "user.mark", "kept"));
    OK(ops_write(&v, "big", "XX", 2, 1000)); // content is copied up
    assert_value(&v, "big", "user.mark", "kept");
    OK(ops_rename(&v, "big", "dir/moved", 0));
    OK(ops_link(&v, "dir/moved", "second"));
    restart(&v);
    assert_value(&v, "second", "user.mark", "kept");
    OK(set(&v, "second", "user.mark", "changed"));
    assert_value(&v, "dir/moved", "user.mark", "changed");
    uint64_t nodeid = ops_nodeid(&v, "second");
    OK(ops_unlink(&v, "second"));
    OK(ops_unlink(&v, "dir/moved"));
    OK(mux_setxattr(v.fixture->mux, &v.ctx, nodeid, "user.late", "x", 1, 0)); // open, unlinked
    assert_accounting(&v);
    mux_forget(v.fixture->mux, nodeid);
    assert_accounting(&v);
    ops_put(&v, "big", "another file");
    assert_list(&v, "big", "");
}

// Puts attributes on a file of the base, as a commit would.
static void set_in_base(struct fixture *fixture, struct af_id codebase, const char *path)
{
    static const char bytes[] = "\x06\x04\0\0\0user.bbase";
    struct store_codebase base = get_codebase(fixture, codebase);
    struct store_txn *txn;
    struct store_inode inode;
    struct store_entry entry;
    char name[256], data[64];
    OK(store_write_begin(mux_store(fixture->mux), &txn));
    const char *slash = strchr(path, '/');
    OK(store_entry_get(txn, base.head, base.root_fid, path, (size_t)(slash - path), &entry));
    OK(store_entry_get(txn, base.head, entry.fid, slash + 1, strlen(slash + 1), &entry));
    OK(store_inode_get(txn, base.head, entry.fid, &inode));
    memcpy(name, inode.name, inode.name_len);
    memcpy(data, inode.inline_data, inode.inline_len);
    inode.name = name;
    inode.inline_data = data;
    OK(store_xattr_put(txn, base.head, entry.fid, bytes, sizeof bytes - 1));
    inode.xattr_bytes = sizeof bytes - 1;
    inode.xattr_layer = base.head;
    OK(store_inode_put(txn, base.head, &inode));
    OK(store_commit(txn));
}

static int print_change(void *arg, const struct mux_diff_entry *entry)
{
    fprintf(arg, "%c %s\n", "?AMDTR"[entry->change], entry -> path);
    return 0;
}

static void assert_diff(struct view *v, const char *expected)
{
    char *text;
    size_t len;
    struct af_error err;
    FILE *out = open_memstream(&text, &len);
    OK(mux_inspect_diff(v->fixture->mux, v->sandbox.text, print_change, out, &err));
    fclose(out);
    assert_string_equal(text, expected);
    free(text);
}

static void test_a_copy_up_takes_the_bases_along(void **state)
{
    struct fixture *fixture = *state;
    struct af_id codebase = ops_codebase(fixture, tree);
    set_in_base(fixture, codebase, "dir/a");
    set_in_base(fixture, codebase, "ro/f");
    struct view v = ops_view(fixture, codebase, "**/*=write /ro/**=read@5");
    struct view other = ops_view(fixture, codebase, "**/*=read");
    assert_value(&v, "dir/a", "user.b", "base");
    assert_value(&v, "ro/f", "user.b", "base"); // a nodeid that all views share
    assert_list(&v, "ro/f", "user.b,");
    OK(ops_chmod(&v, "dir/a", 0600));
    assert_value(&v, "dir/a", "user.b", "base");
    assert_diff(&v, "T dir/a\n");
    OK(set(&v, "dir/a", "user.n", "new"));
    assert_list(&v, "dir/a", "user.b,user.n,");
    OK(drop(&v, "dir/a", "user.b"));
    assert_list(&v, "dir/a", "user.n,");
    assert_accounting(&v);
    assert_list(&other, "dir/a", "user.b,");
    assert_value(&other, "dir/a", "user.b", "base");
}

static void test_the_diff_tells_changed_attributes(void **state)
{
    struct view v = start(state);
    struct stat st = ops_stat(&v, "dir/a");
    OK(set(&v, "dir/a", "user.a", "x"));
    assert_diff(&v, "T dir/a\n");
    assert_int_equal(ops_stat(&v, "dir/a").st_mtim.tv_sec, st.st_mtim.tv_sec);
    assert_true(ops_stat(&v, "dir/a").st_ctim.tv_sec > st.st_mtim.tv_sec);
    OK(drop(&v, "dir/a", "user.a"));
    assert_diff(&v, "");
}

static void test_P8_levels(void **state)
{
    struct view v = start_with(state, "**/*=write /ro/**=read@5 /closed/**=view@5", 0);
    char buf[8];
    size_t len;
    assert_list(&v, "ro/f", "");
    assert_int_equal(get(&v, "ro/f", "user.a", buf, sizeof buf, &len), -ENODATA);
    assert_int_equal(set(&v, "ro/f", "user.a", "x"), -EACCES);
    assert_int_equal(drop(&v, "ro/f", "user.a"), -EACCES);
    assert_int_equal(get(&v, "closed/f", "user.a", buf, sizeof buf, &len), -EACCES);
    assert_int_equal(set(&v, "closed/f", "user.a", "x"), -EACCES);
    uint64_t nodeid = ops_nodeid(&v, "closed/f");
    assert_int_equal(mux_listxattr(v.fixture->mux, &v.ctx, nodeid, buf, sizeof buf, &len), -EACCES);
    assert_accounting(&v);
}

static void test_they_count_in_the_quota(void **state)
{
    struct view v = start_with(state, "**/*=write", 1000);
    static char value[900];
    OK(set_bytes(&v, "dir/a", "user.a", value, sizeof value, 0));
    assert_int_equal(set_bytes(&v, "dir/a", "user.b", value, 100, 0), -EDQUOT);
    assert_int_equal(ops_write(&v, "dir/a", value, 200, 0), -EDQUOT);
    assert_accounting(&v);
    OK(set_bytes(&v, "dir/a", "user.a", value, 10, 0));
    OK(ops_write(&v, "dir/a", value, 200, 0));
    OK(drop(&v, "dir/a", "user.a"));
    assert_accounting(&v);
    OK(ops_unlink(&v, "dir/a"));
    ops_detach(&v);
    ops_attach(&v);
    assert_accounting(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_S1_set_get_list_remove),
        fixture_test(test_S1_limits_and_names),
        fixture_test(test_they_follow_their_file),
        fixture_test(test_a_copy_up_takes_the_bases_along),
        fixture_test(test_the_diff_tells_changed_attributes),
        fixture_test(test_P8_levels),
        fixture_test(test_they_count_in_the_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
