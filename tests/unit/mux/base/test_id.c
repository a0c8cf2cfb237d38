// Tests of ids: unguessable, and validated before any use (O5).
#include "mux/base/id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static void test_new_ids_parse_and_differ_O5(void **state)
{
    (void)state;
    struct af_id first, second, parsed;
    af_id_new("sb", &first);
    af_id_new("sb", &second);
    assert_string_not_equal(first.text, second.text);
    assert_int_equal(strlen(first.text), 3 + AF_ID_RANDOM_CHARS);
    assert_true(af_id_parse("sb", first.text, strlen(first.text), &parsed));
    assert_string_equal(parsed.text, first.text);
    assert_true(af_id_parse("sb", first.text, strlen(first.text), NULL));
}

static void test_every_character_of_the_alphabet_occurs_O5(void **state)
{
    (void)state;
    bool seen[256] = {false};
    int count = 0;
    for (int i = 0; i < 200; i++) {
        struct af_id id;
        af_id_new("cb", &id);
        for (const char *p = id.text + 3; *p; p++) {
            count += !seen[(unsigned char)*p];
            seen[(unsigned char)*p] = true;
        }
    }
    assert_int_equal(count, 32);
}

static void test_malformed_ids_are_refused_O5(void **state)
{
    (void)state;
    struct af_id id, parsed;
    af_id_new("sb", &id);
    size_t len = strlen(id.text);
    memset(&parsed, 0x55, sizeof parsed);
    struct af_id before = parsed;
    assert_false(af_id_parse("cb", id.text, len, &parsed));
    assert_false(af_id_parse("sb", id.text, len - 1, &parsed));
    assert_false(af_id_parse("sb", id.text, len + 1, &parsed)); // a NUL too many
    assert_false(af_id_parse("sb", "", 0, &parsed));
    static const char bad[] = {'/', '.', '\0', 'A', 'i', 'l', 'o', 'u', '_', '-', '\xFF', ' '};
    for (size_t i = 0; i < sizeof bad; i++) {
        struct af_id copy = id;
        copy.text[10] = bad[i];
        assert_false(af_id_parse("sb", copy.text, len, &parsed));
    }
    assert_memory_equal(&parsed, &before, sizeof parsed); // untouched on failure
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_ids_parse_and_differ_O5),
        cmocka_unit_test(test_every_character_of_the_alphabet_occurs_O5),
        cmocka_unit_test(test_malformed_ids_are_refused_O5),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
