// Opening, decided here: the verdict by level and access; and nodeids where nothing is shared.
#include "tests/unit/mux/ops_fixture.h"

#include "mux/mux_priv.h"
#include "mux/nodeid.h"
#include "mux/rules.h"
#include "mux/view_change.h"

#include <errno.h>
#include <string.h>

static const struct base_file tree[] = {
    {"read/f", 0, "read me"}, {"write/f", 0, "mine"}, {"view/f", 0, "closed"},
    {"gone/f", 0, "hidden"},  {NULL, 0, NULL},
};
static const char rules[] = "**/*=read /write/**=write@10 /view/**=view@10 /gone/**=none@10";

static int verdict_of(struct view *v, uint64_t nodeid, bool write, struct mux_opened *ret)
{
    *ret = (struct mux_opened){0};
    return mux_open_check(v->fixture->mux, &v->ctx, nodeid, write, ret);
}

static int verdict(struct view *v, const char *path, bool write)
{
    struct mux_opened opened;
    return verdict_of(v, ops_nodeid(v, path), write, &opened);
}

static void set_access(struct view *v, enum store_sandbox_access access)
{
    struct mux_revoke *revoke;
    struct af_error err;
    assert_int_equal(mux_view_set_access(v->fixture->mux, v->sandbox.text, access, &revoke, &err),
                     0);
    mux_revoke_free(revoke);
}

static void set_level(struct view *v, const char *pattern, enum rules_level level)
{
    struct store_rule rule = {
        .pattern = pattern,
        .pattern_len = (uint16_t)strlen(pattern),
        .type = RULES_GLOB,
        .level = (uint8_t)level,
    };
    struct mux_revoke *revoke;
    struct af_error err;
    assert_int_equal(mux_view_set_rules(v->fixture->mux, v->sandbox.text, &rule, 1, &revoke, &err),
                     0);
    mux_revoke_free(revoke);
}

static void test_levels_and_access_decide_an_open(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), rules);
    uint64_t absent = mux_nodeid_private(mux_nodeid_route(v.root), 999999);
    struct mux_opened opened;
    assert_int_equal(verdict(&v, "read/f", false), 0);
    assert_int_equal(verdict(&v, "read/f", true), -EACCES);
    assert_int_equal(verdict(&v, "write/f", true), 0);
    assert_int_equal(verdict(&v, "view/f", false), -EACCES);
    assert_int_equal(verdict(&v, "read", false), 0);
    assert_int_equal(verdict(&v, "read", true), -EISDIR);
    assert_int_equal(verdict_of(&v, absent, false, &opened), -ESTALE);
    assert_int_equal(verdict_of(&v, MUX_NODEID_TOP, false, &opened), 0);
    assert_int_equal(verdict_of(&v, MUX_NODEID_SENTINEL, true, &opened), -EPERM);
    set_access(&v, STORE_ACCESS_READ_ONLY);
    assert_int_equal(verdict(&v, "write/f", false), 0);
    assert_int_equal(verdict(&v, "write/f", true), -EROFS);
    uint64_t own = ops_nodeid(&v, "write/f");
    set_access(&v, STORE_ACCESS_CUT_OFF);
    assert_int_equal(verdict_of(&v, own, false, &opened), -EACCES);
    assert_int_equal(verdict_of(&v, v.root, false, &opened), -EACCES);
}

static void test_only_what_never_changes_under_its_nodeid_has_a_fixed_size(void **state)
{
    struct view v = ops_view(*state, ops_codebase(*state, tree), rules);
    struct mux_opened opened;
    assert_int_equal(verdict_of(&v, ops_nodeid(&v, "read/f"), false, &opened), 0);
    assert_int_equal(opened.level, RULES_READ);
    assert_int_equal(opened.fixed_size, 7);
    assert_int_equal(verdict_of(&v, ops_nodeid(&v, "write/f"), false, &opened), 0);
    assert_int_equal(opened.level, RULES_WRITE);
    assert_int_equal(opened.fixed_size, 0);
}

static void test_without_sharing_each_view_has_nodeids_of_its_own(void **state)
{
    struct fixture *fixture = *state;
    fixture->mux->no_sharing = true;
    struct af_id codebase = ops_codebase(fixture, tree);
    struct view one = ops_view(fixture, codebase, rules),
                other = ops_view(fixture, codebase, rules);
    uint64_t mine = ops_nodeid(&one, "read/f"), theirs = ops_nodeid(&other, "read/f");
    assert_int_not_equal(mine, theirs);
    assert_int_equal(mux_nodeid_fid(mine), mux_nodeid_fid(theirs)); // one version
    assert_int_equal(mux_nodeid_route(mine), mux_nodeid_route(one.root));
    assert_int_equal(ops_nodeid(&one, "read/f"), mine);
    assert_text(&one, "read/f", "read me");
    assert_text(&other, "read/f", "read me");
    struct stat st = ops_stat(&one, "read/f");
    assert_int_equal(st.st_mode & 07777, 0444);
    assert_int_equal(st.st_uid, 699999);
    struct mux_entry entry;
    assert_int_equal(ops_lookup(&one, "read/f", &entry), 0);
    assert_int_not_equal(entry.generation, 0); // a slot's next view has another
    ops_detach(&other);
    char buf[8];
    assert_int_equal(ops_read_node(&one, theirs, buf, sizeof buf, 0), -ESTALE);
    assert_int_equal(ops_read_node(&one, mine, buf, sizeof buf, 0), 7);
}

static void test_without_sharing_an_open_file_follows_the_rules_of_now(void **state)
{
    struct fixture *fixture = *state;
    fixture->mux->no_sharing = true;
    struct view v = ops_view(fixture, ops_codebase(fixture, tree), rules);
    uint64_t nodeid = ops_nodeid(&v, "read/f");
    struct mux_opened opened;
    char buf[8];
    assert_int_equal(ops_read_node(&v, nodeid, buf, sizeof buf, 0), 7);
    set_level(&v, "**/*", RULES_VIEW);
    assert_int_equal(ops_read_node(&v, nodeid, buf, sizeof buf, 0), -EACCES);
    assert_int_equal(verdict_of(&v, nodeid, false, &opened), -EACCES);
    set_level(&v, "**/*", RULES_WRITE); // now it has another nodeid, and this one is never written
    assert_int_not_equal(ops_nodeid(&v, "read/f"), nodeid);
    assert_int_equal(verdict_of(&v, nodeid, true, &opened), -EACCES);
    ops_put(&v, "read/f", "another");
    assert_int_equal(ops_read_node(&v, nodeid, buf, sizeof buf, 0), 7);
    assert_memory_equal(buf, "read me", 7);
    set_access(&v, STORE_ACCESS_CUT_OFF);
    assert_int_equal(ops_read_node(&v, nodeid, buf, sizeof buf, 0), -EACCES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(test_levels_and_access_decide_an_open),
        fixture_test(test_only_what_never_changes_under_its_nodeid_has_a_fixed_size),
        fixture_test(test_without_sharing_each_view_has_nodeids_of_its_own),
        fixture_test(test_without_sharing_an_open_file_follows_the_rules_of_now),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
