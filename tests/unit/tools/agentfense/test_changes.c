// Tests of the list of changes: nothing malformed from a daemon gets in, and the order holds.
#include "tools/agentfense/changes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static ProtobufCBinaryData bytes(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
}

static Agentfense__V1__DiffEntry entry(enum change_type type, const char *path)
{
    Agentfense__V1__DiffEntry made = AGENTFENSE__V1__DIFF_ENTRY__INIT;
    made.change = (Agentfense__V1__DiffEntry__Change)(int)type;
    made.path = bytes(path);
    made.kind = AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR;
    made.mode = 0644;
    return made;
}

static void expect_refused(const Agentfense__V1__DiffEntry *made)
{
    struct changes changes = {0};
    struct af_error err;
    assert_int_equal(changes_add(&changes, made, &err), -1);
    assert_int_equal(err.status, AF_INTERNAL);
    assert_int_equal(changes.count, 0);
    changes_fini(&changes);
}

static void test_paths_that_lead_elsewhere_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    "/etc/passwd", "..", "a/../b", "a/..",
                                      "./a", "a//b",        "a/", "../a",   "a/./b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Agentfense__V1__DiffEntry made = entry(CHANGE_ADDED, bad[i]);
        expect_refused(&made);
        made = entry(CHANGE_RENAMED, "good");
        made.old_path = bytes(bad[i]);
        expect_refused(&made);
    }
    Agentfense__V1__DiffEntry nul = entry(CHANGE_ADDED, "a");
    nul.path = (ProtobufCBinaryData){.data = (uint8_t *)"a\0b", .len = 3};
    expect_refused(&nul);
    char *big = malloc(5000);
    memset(big, 'x', 4999);
    big[4999] = '\0';
    // Too long for any program to open: counted, not listed.
    nul.path = bytes(big);
    struct changes changes = {0};
    struct af_error err;
    assert_int_equal(changes_add(&changes, &nul, &err), 0);
    assert_int_equal(changes.count, 0);
    assert_int_equal(changes.too_long, 1);
    changes_fini(&changes);
    free(big);
}

static void test_unknown_values_are_refused(void **state)
{
    (void)state;
    Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    Agentfense__V1__DiffEntry made = entry(0, "a");
    expect_refused(&made);
    made = entry(6, "a");
    expect_refused(&made);
    made = entry(CHANGE_ADDED, "a");
    made.kind = 6;
    expect_refused(&made);
    made.kind = 0;
    expect_refused(&made);
    made.kind = -1;
    expect_refused(&made);
    made = entry(CHANGE_ADDED, "a");
    made.mode = 0100644;
    expect_refused(&made);
    made = entry(CHANGE_ADDED, "a");
    made.kind = AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK;
    expect_refused(&made); // without a target
    made.symlink_target = (ProtobufCBinaryData){.data = (uint8_t *)"a\0b", .len = 3};
    expect_refused(&made);
    made = entry(CHANGE_ADDED, "a");
    made.modified_at = &at;
    at.seconds = INT64_MAX;
    expect_refused(&made);
    at.seconds = 0;
    at.nanos = -1;
    expect_refused(&made);
}

static void test_changes_are_found_and_printed_in_path_order(void **state)
{
    (void)state;
    static const struct {
        enum change_type type;
        const char *path;
    } added[] = {{CHANGE_METADATA, "b"}, {CHANGE_MODIFIED, "a.txt"}, {CHANGE_ADDED, "a/x"},
                 {CHANGE_MODIFIED, "r"}, {CHANGE_DELETED, "gone\n"}, {CHANGE_RENAMED, "r"}};
    struct changes changes = {0};
    struct manifest manifest = {0};
    struct af_error err;
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        Agentfense__V1__DiffEntry made = entry(added[i].type, added[i].path);
        made.old_path = bytes("old");
        assert_int_equal(changes_add(&changes, &made, &err), 0);
    }
    changes_sort(&changes);
    char *text = NULL;
    size_t len;
    FILE *file = open_memstream(&text, &len);
    changes_print(&changes, &manifest, 0, file);
    changes_print(&changes, &manifest, 1, file);
    fclose(file);
    assert_string_equal(text, "  A  a/x\n  M  a.txt\n  M  b  (mode 0644)\n  D  gone\\n\n"
                              "  R  old -> r\n  M  r\n  A  a/x\n  ... and 5 more\n");
    free(text);
    assert_non_null(changes_find(&changes, "r", 1u << CHANGE_MODIFIED));
    assert_null(changes_find(&changes, "r", 1u << CHANGE_ADDED));
    assert_null(changes_find(&changes, "a", ~0u));
    changes_fini(&changes);
}

static void test_paths_are_ordered_by_components(void **state)
{
    (void)state;
    static const char *const ordered[] = {"",      "a",   "a/b", "a/b/c", "a/c",
                                          "a\x01", "a.b", "b",   "\xFF"};
    for (size_t i = 0; i < sizeof ordered / sizeof *ordered; i++) {
        for (size_t j = 0; j < sizeof ordered / sizeof *ordered; j++)
            assert_int_equal(manifest_compare_paths(ordered[i], ordered[j]), (i > j) - (i < j));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths_that_lead_elsewhere_are_refused),
        cmocka_unit_test(test_unknown_values_are_refused),
        cmocka_unit_test(test_changes_are_found_and_printed_in_path_order),
        cmocka_unit_test(test_paths_are_ordered_by_components),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
