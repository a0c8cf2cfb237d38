// Tests of the error object: statuses of errno values, safe texts, nothing overrun.
#include "mux/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

static void test_errno_values_have_their_status(void **state)
{
    (void)state;
    static const struct {
        int errnum;
        enum af_status status;
    } cases[] = {
        {0, AF_OK},
        {ENOENT, AF_NOT_FOUND},
        {EEXIST, AF_ALREADY_EXISTS},
        {EACCES, AF_PERMISSION_DENIED},
        {ENAMETOOLONG, AF_INVALID_ARGUMENT},
        {ENOSPC, AF_RESOURCE_EXHAUSTED},
        {EDQUOT, AF_RESOURCE_EXHAUSTED},
        {ENOTEMPTY, AF_FAILED_PRECONDITION},
        {ENXIO, AF_INVALID_ARGUMENT},
        {EMLINK, AF_RESOURCE_EXHAUSTED},
        {ETXTBSY, AF_FAILED_PRECONDITION},
        {ESTALE, AF_ABORTED},
        {ETIMEDOUT, AF_DEADLINE_EXCEEDED},
        {EIO, AF_INTERNAL},
        {12345, AF_INTERNAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(af_status_of_errno(cases[i].errnum), cases[i].status);
        assert_int_equal(af_status_of_errno(-cases[i].errnum), cases[i].status);
    }
}

static void test_a_hostile_name_in_a_message_is_made_harmless(void **state)
{
    (void)state;
    struct af_error err;
    assert_int_equal(af_error_set(&err, AF_NOT_FOUND, "no file %s", "a\nb\x1B[2J\xFF"), -1);
    assert_int_equal(err.status, AF_NOT_FOUND);
    assert_string_equal(err.text, "no file a?b?[2J?");
}

static void test_errno_text_follows_the_context(void **state)
{
    (void)state;
    struct af_error err;
    assert_int_equal(af_error_errno(&err, -ENOENT, "opening %s", "x"), -1);
    assert_int_equal(err.status, AF_NOT_FOUND);
    assert_string_equal(err.text, "opening x: No such file or directory");
}

static void test_long_messages_are_cut_not_overrun(void **state)
{
    (void)state;
    struct af_error err;
    char text[2 * AF_ERROR_TEXT_MAX];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    af_error_set(&err, AF_INTERNAL, "%s", text);
    assert_int_equal(strlen(err.text), AF_ERROR_TEXT_MAX - 1);
    af_error_errno(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.text), AF_ERROR_TEXT_MAX - 1);
}

static void test_every_status_has_its_grpc_name(void **state)
{
    (void)state;
    assert_string_equal(af_status_name(AF_OK), "OK");
    assert_string_equal(af_status_name(AF_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(af_status_name((enum af_status)17), "UNKNOWN");
    assert_string_equal(af_status_name((enum af_status) - 1), "UNKNOWN");
    for (int i = 0; i <= AF_UNAUTHENTICATED; i++)
        assert_true(i == AF_UNKNOWN || strcmp(af_status_name((enum af_status)i), "UNKNOWN") != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errno_values_have_their_status),
        cmocka_unit_test(test_a_hostile_name_in_a_message_is_made_harmless),
        cmocka_unit_test(test_errno_text_follows_the_context),
        cmocka_unit_test(test_long_messages_are_cut_not_overrun),
        cmocka_unit_test(test_every_status_has_its_grpc_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
