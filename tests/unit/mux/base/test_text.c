// Tests of the checks on outside bytes: UTF-8 by RFC 3629, names (B8, E2, E7), paths (E7).
#include "mux/base/text.h"

#include "mux/base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool utf8(const char *bytes)
{
    return af_text_is_utf8(bytes, strlen(bytes));
}

static void test_utf8_accepts_every_well_formed_length(void **state)
{
    (void)state;
    assert_true(utf8(""));
    assert_true(utf8("plain"));
    assert_true(utf8("\xC2\x80\xDF\xBF"));
    assert_true(utf8("\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"));
    assert_true(utf8("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"));
}

static void test_utf8_refuses_ill_formed_sequences(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80",             // a continuation alone
        "\xC0\x80",         // overlong NUL
        "\xC1\xBF",         // overlong
        "\xE0\x9F\xBF",     // overlong
        "\xED\xA0\x80",     // a surrogate
        "\xF0\x8F\xBF\xBF", // overlong
        "\xF4\x90\x80\x80", // above U+10FFFF
        "\xF5\x80\x80\x80", // no such lead byte
        "\xE2\x82",         // cut off
        "\xC3(",            // no continuation
        "ok\xFF",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(utf8(bad[i]));
    assert_false(af_text_is_utf8("a\0b", 3));
}

static void test_printable_replaces_control_and_ill_formed_bytes(void **state)
{
    (void)state;
    char text[] = "a\nb\x7F\xC3\xA9\xFF\x1B[31m";
    af_text_make_printable(text);
    assert_string_equal(text, "a?b?\xC3\xA9??[31m");
}

static void test_invalid_utf8_becomes_the_replacement_character(void **state)
{
    (void)state;
    char out[64];
    assert_int_equal(af_text_replace_invalid_utf8("a\xFF\0b", 4, out), 6); // NUL is valid UTF-8
    assert_memory_equal(out, "a\xEF\xBF\xBD\0b", 7);
    assert_int_equal(af_text_replace_invalid_utf8("", 0, out), 0);
    assert_string_equal(out, "");
}

static void test_names_are_bytes_B8(void **state)
{
    (void)state;
    char name[257];
    memset(name, '\xFF', sizeof name);
    assert_true(af_name_is_valid(name, 255));
    assert_false(af_name_is_valid(name, 256));
    assert_true(af_name_is_valid("with\nnewline", 12));
    assert_true(af_name_is_valid(".wh..wh..opq", 12));
    assert_true(af_name_is_valid("...", 3));
    assert_true(af_name_is_valid("..a", 3));
    assert_false(af_name_is_valid("", 0));
    assert_false(af_name_is_valid(".", 1));
    assert_false(af_name_is_valid("..", 2));
    assert_false(af_name_is_valid("a/b", 3));
    assert_false(af_name_is_valid("a\0b", 3));
}

static void check_path(const char *path, bool lenient, int rc, const char *expected)
{
    char out[AF_PATH_MAX + 2];
    size_t len = 12345;
    assert_int_equal(af_path_normalize(path, strlen(path), lenient, out, &len), rc);
    if (rc == 0) {
        assert_string_equal(out, expected);
        assert_int_equal(len, strlen(expected));
    } else {
        assert_int_equal(len, 12345); // untouched
    }
}

static void test_paths_never_leave_the_root_E7(void **state)
{
    (void)state;
    for (int lenient = 0; lenient < 2; lenient++) {
        check_path("..", lenient, -EINVAL, NULL);
        check_path("a/../b", lenient, -EINVAL, NULL);
        check_path("a/..", lenient, -EINVAL, NULL);
        check_path("a/b", lenient, 0, "a/b");
        check_path("...", lenient, 0, "...");
        check_path("", lenient, 0, "");
    }
    char out[8];
    size_t len;
    assert_int_equal(af_path_normalize("a\0b", 3, true, out, &len), -EINVAL);
    assert_int_equal(af_path_normalize(NULL, 0, true, out, &len), 0); // an unset field
    assert_int_equal(len, 0);
}

static void test_strict_paths_have_one_spelling(void **state)
{
    (void)state;
    check_path("/a", false, -EINVAL, NULL);
    check_path("a/", false, -EINVAL, NULL);
    check_path("a//b", false, -EINVAL, NULL);
    check_path("./a", false, -EINVAL, NULL);
    check_path("/a", true, 0, "a");
    check_path("//a/./b//", true, 0, "a/b");
    check_path("/", true, 0, "");
    check_path(".", true, 0, "");
}

static void test_paths_have_limits(void **state)
{
    (void)state;
    char *path = malloc(AF_PATH_MAX + 2);
    char *out = malloc(AF_PATH_MAX + 2);
    size_t len;
    memset(path, 'a', AF_PATH_MAX + 1);
    for (size_t i = 100; i < AF_PATH_MAX; i += 100)
        path[i] = '/';
    assert_int_equal(af_path_normalize(path, AF_PATH_MAX, false, out, &len), 0);
    assert_int_equal(len, AF_PATH_MAX);
    assert_int_equal(af_path_normalize(path, AF_PATH_MAX + 1, false, out, &len), -ENAMETOOLONG);
    memset(path, 'a', 256);
    assert_int_equal(af_path_normalize(path, 256, false, out, &len), -ENAMETOOLONG);
    assert_int_equal(af_path_normalize(path, 255, false, out, &len), 0);
    free(path);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_accepts_every_well_formed_length),
        cmocka_unit_test(test_utf8_refuses_ill_formed_sequences),
        cmocka_unit_test(test_printable_replaces_control_and_ill_formed_bytes),
        cmocka_unit_test(test_invalid_utf8_becomes_the_replacement_character),
        cmocka_unit_test(test_names_are_bytes_B8),
        cmocka_unit_test(test_paths_never_leave_the_root_E7),
        cmocka_unit_test(test_strict_paths_have_one_spelling),
        cmocka_unit_test(test_paths_have_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
