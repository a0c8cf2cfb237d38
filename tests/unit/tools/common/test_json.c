// Tests of the JSON writer against a parser: valid for any bytes, and nothing lost.
#include "tools/common/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

struct output {
    struct json json;
    FILE *file;
    char *text;
    size_t len;
};

static void begin(struct output *output)
{
    output->file = open_memstream(&output->text, &output->len);
    json_init(&output->json, output->file);
}

static json_t *parse(struct output *output)
{
    json_finish(&output->json);
    fclose(output->file);
    json_error_t error;
    json_t *root = json_loads(output->text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root)
        fail_msg("%s in %s", error.text, output->text);
    free(output->text);
    return root;
}

static void test_every_kind_of_value_comes_back(void **state)
{
    (void)state;
    struct output output;
    begin(&output);
    json_begin_object(&output.json, NULL);
    json_text(&output.json, "text", "a\"b\\c\nd\x7F");
    json_int(&output.json, "int", INT64_MIN);
    json_uint(&output.json, "uint", INT64_MAX);
    json_bool(&output.json, "yes", true);
    json_bool(&output.json, "no", false);
    json_time(&output.json, "time", 1000000000, 5);
    json_begin_array(&output.json, "empty");
    json_end(&output.json);
    json_begin_object(&output.json, "object");
    json_bytes_named(&output.json, "a\xFF\nb", 4, "7", 1);
    json_end(&output.json);
    json_end(&output.json);
    json_t *root = parse(&output);
    assert_string_equal(json_string_value(json_object_get(root, "text")), "a\"b\\c\nd\x7F");
    assert_true(json_integer_value(json_object_get(root, "int")) == INT64_MIN);
    assert_true(json_integer_value(json_object_get(root, "uint")) == INT64_MAX);
    assert_true(json_is_true(json_object_get(root, "yes")));
    assert_true(json_is_false(json_object_get(root, "no")));
    assert_string_equal(json_string_value(json_object_get(root, "time")),
                        "2001-09-09T01:46:40.000000005Z");
    assert_int_equal(json_array_size(json_object_get(root, "empty")), 0);
    assert_int_equal(json_object_size(json_object_get(root, "object")), 1);
    json_decref(root);
}

static void test_a_name_that_is_not_utf8_is_valid_and_exact_in_hex(void **state)
{
    (void)state;
    struct output output;
    begin(&output);
    json_begin_array(&output.json, NULL);
    for (int i = 0; i < 2; i++) {
        json_begin_object(&output.json, NULL);
        json_bytes(&output.json, "path", i ? "a\xFF\x1B" : "plain", i ? 3 : 5);
        json_end(&output.json);
    }
    json_end(&output.json);
    json_t *root = parse(&output);
    json_t *plain = json_array_get(root, 0), *odd = json_array_get(root, 1);
    assert_string_equal(json_string_value(json_object_get(plain, "path")), "plain");
    assert_null(json_object_get(plain, "path_hex"));
    assert_string_equal(json_string_value(json_object_get(odd, "path")), "a\xEF\xBF\xBD\x1B");
    assert_string_equal(json_string_value(json_object_get(odd, "path_hex")), "61ff1b");
    json_decref(root);
}

static void test_an_object_of_a_stream_is_one_line_whatever_its_bytes(void **state)
{
    (void)state;
    struct output output;
    begin(&output);
    output.json.one_line = true;
    json_begin_object(&output.json, NULL);
    json_bytes(&output.json, "path", "a\xFF\n", 3);
    json_begin_array(&output.json, "list");
    json_begin_object(&output.json, NULL);
    json_bytes(&output.json, "path", "\xFF", 1);
    json_end(&output.json);
    json_end(&output.json);
    json_end(&output.json);
    fflush(output.file);
    assert_null(strchr(output.text, '\n'));
    json_decref(parse(&output));
}

static void test_every_pair_of_bytes_is_valid_json(void **state)
{
    (void)state;
    struct output output;
    begin(&output);
    json_begin_array(&output.json, NULL);
    for (unsigned i = 0; i < 65536; i++) {
        char bytes[2] = {(char)(i >> 8), (char)i};
        json_begin_object(&output.json, NULL);
        json_bytes(&output.json, "b", bytes, 2);
        json_end(&output.json);
    }
    json_end(&output.json);
    json_t *root = parse(&output);
    assert_int_equal(json_array_size(root), 65536);
    json_decref(root);
}

static void test_an_empty_list_is_valid(void **state)
{
    (void)state;
    struct output output;
    begin(&output);
    json_begin_array(&output.json, NULL);
    json_end(&output.json);
    json_t *root = parse(&output);
    assert_true(json_is_array(root));
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_value_comes_back),
        cmocka_unit_test(test_a_name_that_is_not_utf8_is_valid_and_exact_in_hex),
        cmocka_unit_test(test_an_object_of_a_stream_is_one_line_whatever_its_bytes),
        cmocka_unit_test(test_every_pair_of_bytes_is_valid_json),
        cmocka_unit_test(test_an_empty_list_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
