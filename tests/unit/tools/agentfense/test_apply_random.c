// The apply engine against random histories: the directory becomes what the view is, or, when it
// fails at any step, stays what it was.
//
// Environment: AGENTFENSE_LONG=1 for many more rounds; AGENTFENSE_SEED to repeat one.
#include "tests/unit/tools/agentfense/apply_fixture.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/beneath.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed;

static unsigned pick(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % below);
}

// Up to three components of few names, so that they meet.
static void random_path(char out[16])
{
    unsigned depth = 1 + pick(3), at = 0;
    for (unsigned i = 0; i < depth; i++) {
        if (i > 0)
            out[at++] = '/';
        out[at++] = (char)('a' + pick(4));
    }
    out[at] = '\0';
}

static void make_one(int root, unsigned number)
{
    char path[16], content[32];
    struct stat st;
    const char *name;
    random_path(path);
    snprintf(content, sizeof content, "content %u", number);
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    if (parent < 0 || fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return;
    switch (pick(4)) {
    case 0:
    case 1:
        pair_dir(root, path, 0755);
        break;
    case 2:
        pair_file(root, path, content, pick(2) ? 0644 : 0755);
        break;
    default:
        pair_link(root, path, content);
    }
}

static void change_one(struct pair *pair, unsigned number)
{
    char path[16], other[16], content[32];
    struct stat st;
    random_path(path);
    random_path(other);
    snprintf(content, sizeof content, "changed %u", number);
    int rc = beneath_stat(pair->view, path, &st);
    if (rc < 0 || pick(4) == 0) {
        make_one(pair->view, number);
        return;
    }
    switch (pick(4)) {
    case 0:
        pair_remove(pair, path);
        break;
    case 1:
        if (S_ISREG(st.st_mode))
            pair_file(pair->view, path, content, st.st_mode & 07777);
        break;
    case 2:
        if (!S_ISLNK(st.st_mode)) {
            AF_CLEANUP_FD int fd = beneath_open(pair->view, path, O_RDONLY, 0);
            assert_int_equal(fchmod(fd, S_ISDIR(st.st_mode) ? 0711 : 0600), 0);
        }
        break;
    default:
        rc = beneath_rename(pair->view, path, other, RENAME_NOREPLACE);
        assert_true(rc == 0 || rc == -EEXIST || rc == -EINVAL || rc == -ENOENT || rc == -ENOTDIR ||
                    rc == -ELOOP);
    }
}

static void one_round(uint64_t number)
{
    struct pair *pair = pair_new();
    struct af_error err;
    seed = 0x9E3779B97F4A7C15ull * (number + 1);
    for (unsigned i = 0; i < 25; i++)
        make_one(pair->base, i);
    pair_import(pair);
    unsigned count = 1 + pick(25);
    for (unsigned i = 0; i < count; i++)
        change_one(pair, i);
    // First it fails at some step: nothing must have happened.
    AF_CLEANUP_FREE char *before = pair_snapshot(pair->base);
    if (pair_apply(pair, 1 + pick(12), NULL, &err) < 0) {
        AF_CLEANUP_FREE char *after = pair_snapshot(pair->base);
        assert_string_equal(before, after);
        // The renames there and back changed the ctimes: import again what is the same.
        for (size_t i = 0; i < pair->manifest.count; i++) {
            struct manifest_entry *entry = &pair->manifest.entries[i];
            struct stat st;
            assert_int_equal(beneath_stat(pair->base, entry->path, &st), 0);
            assert_true(manifest_is_same(entry, &st, true));
            entry->ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
        }
        if (pair_apply(pair, 0, NULL, &err) < 0)
            fail_msg("round %llu: %s", (unsigned long long)number, err.text);
    }
    pair_expect_equal(pair);
    pair_free(pair);
}

static void test_random_changes_are_applied_completely_or_not_at_all(void **state)
{
    (void)state;
    const char *one = getenv("AGENTFENSE_SEED");
    unsigned long rounds = getenv("AGENTFENSE_LONG") ? 3000 : 150;
    for (unsigned long i = one ? strtoul(one, NULL, 10) : 0; i < rounds; i++) {
        one_round(i);
        if (one)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_changes_are_applied_completely_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
