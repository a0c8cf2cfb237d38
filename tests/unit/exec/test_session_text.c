// What is written to a session's shell and what is believed of its answer.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "exec/session_text.h"

static void a_line_is_one_quoted_word(void **state)
{
    (void)state;
    static const struct {
        const char *line, *quoted;
    } cases[] = {
        {"", "''"},       {"true", "'true'"},     {"it's", "'it'\\''s'"},
        {"'", "''\\'''"}, {"a\n\"b", "'a\n\"b'"},
    };
    const struct exec_shell_kind *kind = exec_shell_kind_of("/bin/sh");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = exec_session_turn_text(kind, 7, 0, cases[i].line);
        assert_non_null(strstr(text, cases[i].quoted));
        assert_non_null(strstr(text, " 9>&-\ncommand echo \"7 $?\" >&9\n"));
        free(text);
    }
    char *text = exec_session_turn_text(kind, 8, 3, "true");
    assert_int_equal(strncmp(text, "(exit 3) || command eval ", 25), 0);
    free(text);
}

static void shells_are_told_apart_by_their_name(void **state)
{
    (void)state;
    assert_int_equal(exec_shell_kind_of("bash")->report_fd, 63);
    assert_int_equal(exec_shell_kind_of("/usr/bin/bash")->report_fd, 63);
    assert_int_equal(exec_shell_kind_of("/bin/sh")->report_fd, 9);
    assert_int_equal(exec_shell_kind_of("/opt/bash/dash")->report_fd, 9);
    assert_string_equal(exec_shell_kind_of("/bin/zsh")->eval, "eval");
}

static void reports_are_read_with_bounds(void **state)
{
    (void)state;
    uint64_t sequence = 99;
    int status = 99;
    static const char *const bad[] = {"",
                                      " ",
                                      "1",
                                      "1 ",
                                      " 1",
                                      "1  2",
                                      "1 256",
                                      "1 -1",
                                      "-1 1",
                                      "1 2 ",
                                      "x 1",
                                      "1 x",
                                      "+1 1",
                                      "0x1 1",
                                      "1 00000000000000000000001",
                                      "1000000000000000000000 1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(exec_session_parse_report(bad[i], strlen(bad[i]), &sequence, &status));
    assert_false(exec_session_parse_report("1 2\0", 4, &sequence, &status));
    assert_int_equal(sequence, 99);
    assert_true(exec_session_parse_report("12 255", 6, &sequence, &status));
    assert_int_equal(sequence, 12);
    assert_int_equal(status, 255);
    assert_true(exec_session_parse_report("0 0", 3, &sequence, &status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_is_one_quoted_word),
        cmocka_unit_test(shells_are_told_apart_by_their_name),
        cmocka_unit_test(reports_are_read_with_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
