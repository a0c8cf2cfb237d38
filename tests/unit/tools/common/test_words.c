// Tests of words: values from a newer or hostile daemon are no index out of a table.
#include "tools/common/words.h"
#include "tools/common/when.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <limits.h>
#include <string.h>

static void test_unknown_values_have_a_word(void **state)
{
    (void)state;
    static const int values[] = {-1, 99, INT_MIN, INT_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char mode[TOOL_MODE_MAX];
        assert_string_equal(tool_level_word((Agentfense__V1__Level)values[i]), "unknown");
        assert_string_equal(tool_kind_word((Agentfense__V1__FileKind)values[i]), "unknown");
        assert_string_equal(tool_change_word((Agentfense__V1__DiffEntry__Change)values[i]),
                            "unknown");
        assert_string_equal(tool_access_word((Agentfense__V1__Access)values[i]), "unknown");
        assert_string_equal(tool_policy_word((Agentfense__V1__CommitPolicy)values[i]), "unknown");
        assert_string_equal(tool_conflict_word((Agentfense__V1__ConflictPolicy)values[i]),
                            "unknown");
        assert_int_equal(tool_change_letter((Agentfense__V1__DiffEntry__Change)values[i]), '?');
        tool_mode_text((Agentfense__V1__FileKind)values[i], UINT32_MAX, mode);
        assert_string_equal(mode, "?rwsrwsrwt");
    }
}

static void test_settings_that_are_not_specified_are_the_standard(void **state)
{
    (void)state;
    assert_string_equal(tool_policy_word(AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_UNSPECIFIED),
                        "on-exec");
    assert_string_equal(tool_policy_word(AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_DESTROY),
                        "on-destroy");
    assert_string_equal(
        tool_conflict_word(AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_UNSPECIFIED),
        "last-writer-wins");
    assert_string_equal(tool_conflict_word(AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_REFUSE),
                        "refuse");
    assert_string_equal(tool_access_word(AGENTFENSE__V1__ACCESS__ACCESS_CUT_OFF), "cut-off");
}

static void test_modes_are_written_as_by_ls(void **state)
{
    (void)state;
    char mode[TOOL_MODE_MAX];
    tool_mode_text(AGENTFENSE__V1__FILE_KIND__FILE_KIND_DIRECTORY, 0750, mode);
    assert_string_equal(mode, "drwxr-x---");
    tool_mode_text(AGENTFENSE__V1__FILE_KIND__FILE_KIND_REGULAR, 06644, mode);
    assert_string_equal(mode, "-rwSr-Sr--");
    tool_mode_text(AGENTFENSE__V1__FILE_KIND__FILE_KIND_SYMLINK, 01777, mode);
    assert_string_equal(mode, "lrwxrwxrwt");
}

static void test_sizes_are_short(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0"},          {1023, "1023"},    {1024, "1.0K"},
                 {1536, "1.5K"},    {20480, "20K"},    {1024 * 1023, "1023K"},
                 {1048575, "1.0M"}, {1048576, "1.0M"}, {UINT64_MAX, "16E"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[TOOL_SIZE_MAX];
        tool_size_text(cases[i].bytes, text);
        assert_string_equal(text, cases[i].text);
    }
}

static void test_any_time_can_be_printed(void **state)
{
    (void)state;
    static const int64_t values[] = {0, -1, INT64_MIN, INT64_MAX, 1LL << 56};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char text[TOOL_WHEN_MAX];
        tool_when_utc(values[i], INT32_MIN, text);
        assert_true(*text && strlen(text) < sizeof text);
        tool_when_local(values[i], text);
        assert_true(*text && strlen(text) < sizeof text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_values_have_a_word),
        cmocka_unit_test(test_settings_that_are_not_specified_are_the_standard),
        cmocka_unit_test(test_modes_are_written_as_by_ls),
        cmocka_unit_test(test_sizes_are_short),
        cmocka_unit_test(test_any_time_can_be_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
