// Tests of escaping: nothing an agent names can drive a terminal or fake a line.
#include "tools/common/escape.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void expect(const char *bytes, const char *text)
{
    char *escaped = tool_escaped(bytes, strlen(bytes));
    assert_string_equal(escaped, text);
    free(escaped);
}

static void test_printable_text_stays_as_it_is(void **state)
{
    (void)state;
    expect("", "");
    expect("src/hello world.c", "src/hello world.c");
    expect("Gr\xC3\xBC\xC3\x9F"
           "e \xE2\x82\xAC \xF0\x9F\x98\x80",
           "Gr\xC3\xBC\xC3\x9F"
           "e \xE2\x82\xAC \xF0\x9F\x98\x80");
}

static void test_control_characters_do_not_reach_the_terminal(void **state)
{
    (void)state;
    expect("a\nb\tc\rd", "a\\nb\\tc\\rd");
    expect("\x1B[2J\x07", "\\x1b[2J\\x07");
    expect("\x7F", "\\x7f");
    expect("\xC2\x9B"
           "31m",
           "\\xc2\\x9b"
           "31m"); // CSI as one C1 character
}

static void test_characters_that_reorder_or_hide_are_shown(void **state)
{
    (void)state;
    expect("a\xE2\x80\xAE"
           "b",
           "a\\xe2\\x80\\xae"
           "b");                                 // right-to-left override
    expect("a\xE2\x80\x8B", "a\\xe2\\x80\\x8b"); // zero width space
    expect("\xEF\xBB\xBF", "\\xef\\xbb\\xbf");
}

static void test_bytes_that_are_not_utf8_are_told_exactly(void **state)
{
    (void)state;
    expect("\xFF\xFE", "\\xff\\xfe");
    expect("\xC0\xAF", "\\xc0\\xaf");          // overlong
    expect("\xED\xA0\x80", "\\xed\\xa0\\x80"); // surrogate
    expect("\xE2\x82", "\\xe2\\x82");          // cut
}

static void test_a_backslash_cannot_fake_an_escape(void **state)
{
    (void)state;
    expect("a\\nb", "a\\\\nb");
}

static void test_a_nul_byte_is_escaped_and_the_rest_stays(void **state)
{
    (void)state;
    char out[TOOL_ESCAPED_MAX(3)];
    assert_int_equal(tool_escape("a\0b", 3, out), 6);
    assert_string_equal(out, "a\\x00b");
}

static void test_every_pair_of_bytes_fits_and_is_printable(void **state)
{
    (void)state;
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            char bytes[2] = {(char)a, (char)b}, out[TOOL_ESCAPED_MAX(2)];
            size_t len = tool_escape(bytes, 2, out);
            assert_true(len < sizeof out && strlen(out) == len);
            for (size_t i = 0; i < len; i++)
                assert_true((unsigned char)out[i] >= 0x20 && out[i] != 0x7F);
        }
    }
}

static void test_text_of_several_lines_keeps_its_lines_only(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    tool_print_text(file, "+a\\\tb\n\x1B[31m\n", 12);
    fclose(file);
    assert_string_equal(text, "+a\\\tb\n\\x1b[31m\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_printable_text_stays_as_it_is),
        cmocka_unit_test(test_control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(test_characters_that_reorder_or_hide_are_shown),
        cmocka_unit_test(test_bytes_that_are_not_utf8_are_told_exactly),
        cmocka_unit_test(test_a_backslash_cannot_fake_an_escape),
        cmocka_unit_test(test_a_nul_byte_is_escaped_and_the_rest_stays),
        cmocka_unit_test(test_every_pair_of_bytes_fits_and_is_printable),
        cmocka_unit_test(test_text_of_several_lines_keeps_its_lines_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
