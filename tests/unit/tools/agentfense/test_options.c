// Tests of the command line of agentfense: what is accepted, and what ends with 2.
#include "tools/agentfense/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGS_MAX 16

static char *arguments[ARGS_MAX + 1];

// Parses a NULL-terminated list of words after the program's name.
static int parse(struct options *options, ...)
{
    va_list ap;
    int argc = 0;
    arguments[argc++] = "agentfense";
    va_start(ap, options);
    for (char *word; argc < ARGS_MAX && (word = va_arg(ap, char *));)
        arguments[argc++] = word;
    va_end(ap);
    arguments[argc] = NULL;
    optind = 0; // starts getopt_long anew
    // Usage errors are printed; not here.
    fflush(stderr);
    int kept = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    int code = options_parse(argc, arguments, options);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(null);
    return code;
}

static void expect_usage_error(int code, struct options *options)
{
    assert_int_equal(code, 2);
    options_fini(options);
}

static void test_run_takes_options_before_and_after_the_directory(void **state)
{
    (void)state;
    struct options options;
    assert_int_equal(parse(&options, "--socket", "/s", "run", "--diff", "DIR", "--preset",
                           "development", "--env", "A=b=c", "--", "sh", "-c", "--apply", NULL),
                     -1);
    assert_int_equal(options.command, COMMAND_RUN);
    assert_string_equal(options.socket, "/s");
    assert_string_equal(options.preset->name, "development");
    assert_true(options.diff);
    assert_false(options.apply); // belongs to the command
    assert_int_equal(options.n_args, 1);
    assert_string_equal(options.args[0], "DIR");
    assert_int_equal(options.argc, 3);
    assert_string_equal(options.argv[2], "--apply");
    assert_string_equal(options.env[0], "A=b=c");
    options_fini(&options);
}

static void test_the_commands_own_separator_reaches_it(void **state)
{
    (void)state;
    struct options options;
    assert_int_equal(parse(&options, "run", "D", "--", "git", "log", "--", "x", NULL), -1);
    assert_int_equal(options.argc, 4);
    assert_string_equal(options.argv[2], "--");
    assert_string_equal(options.preset->name, PRESET_DEFAULT);
    options_fini(&options);
}

static void test_wrong_usage_is_refused(void **state)
{
    (void)state;
    struct options options;
    expect_usage_error(parse(&options, NULL), &options);
    expect_usage_error(parse(&options, "frobnicate", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--", NULL), &options);
    expect_usage_error(parse(&options, "run", "--", "true", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "E", "--", "true", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--preset", "nope", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--permission", "x", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--env", "=x", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--env", "x", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--workdir", "x", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--bogus", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--env", NULL), &options);
    expect_usage_error(parse(&options, "run", "D", "--keep", "--", "x", NULL), &options);
    expect_usage_error(parse(&options, "ls", "--apply", NULL), &options);
    expect_usage_error(parse(&options, "exec", "sb", "--preset", "read-only", "--", "x", NULL),
                       &options);
    expect_usage_error(parse(&options, "rm", NULL), &options);
    expect_usage_error(parse(&options, "ls", "--", "x", NULL), &options);
}

static void test_timeouts_are_positive_seconds(void **state)
{
    (void)state;
    static char *const bad[] = {"", "0", "-1", "x", "1s", "nan", "inf", "1e300", "86401", "1e-12"};
    struct options options;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_usage_error(parse(&options, "run", "D", "--timeout", bad[i], "--", "x", NULL),
                           &options);
    assert_int_equal(parse(&options, "run", "D", "--timeout", "1.5", "--", "x", NULL), -1);
    assert_int_equal(options.timeout_ns, 1500000000);
    options_fini(&options);
}

static void test_permissions_are_read_from_the_last_equals_sign(void **state)
{
    (void)state;
    struct permissions permissions = {0};
    struct af_error err;
    assert_int_equal(permissions_add(&permissions, "/src/**=write@20", &err), 0);
    assert_int_equal(permissions_add(&permissions, "a=b@c/*=none", &err), 0);
    assert_int_equal(permissions_add(&permissions, "x=view@-7", &err), 0);
    assert_string_equal(permissions.list[0].pattern, "/src/**");
    assert_int_equal(permissions.list[0].level, AGENTFENSE__V1__LEVEL__LEVEL_WRITE);
    assert_int_equal(permissions.list[0].priority, 20);
    assert_string_equal(permissions.list[1].pattern, "a=b@c/*");
    assert_int_equal(permissions.list[1].level, AGENTFENSE__V1__LEVEL__LEVEL_NONE);
    assert_int_equal(permissions.list[1].priority, PERMISSION_PRIORITY_DEFAULT);
    assert_int_equal(permissions.list[2].priority, -7);
    permissions_fini(&permissions);
}

static void test_malformed_permissions_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",          "nonsense",  "=read", "x=",        "x=reed",
        "x=read@",   "x=read@x",  "x=@1",  "x=read@ 1", "x=read@99999999999",
        "\xFF=read", "x=read@1@2"};
    struct permissions permissions = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct af_error err;
        assert_int_equal(permissions_add(&permissions, bad[i], &err), -1);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    }
    assert_int_equal(permissions.count, 0);
    permissions_fini(&permissions);
}

static void test_a_rule_without_priority_does_not_uncover_what_a_preset_protects(void **state)
{
    (void)state;
    for (const struct preset_rules *preset = presets_all; preset->name; preset++) {
        for (size_t i = 0; i < preset->count; i++) {
            bool protects = preset->rules[i].level == AGENTFENSE__V1__LEVEL__LEVEL_NONE;
            assert_true(protects == (preset->rules[i].priority > PERMISSION_PRIORITY_DEFAULT));
        }
    }
}

static int forget_environment(void **state)
{
    (void)state;
    return unsetenv("AGENTFENSE_SOCKET");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_takes_options_before_and_after_the_directory),
        cmocka_unit_test(test_the_commands_own_separator_reaches_it),
        cmocka_unit_test(test_wrong_usage_is_refused),
        cmocka_unit_test(test_timeouts_are_positive_seconds),
        cmocka_unit_test(test_permissions_are_read_from_the_last_equals_sign),
        cmocka_unit_test(test_malformed_permissions_are_refused_by_name),
        cmocka_unit_test(test_a_rule_without_priority_does_not_uncover_what_a_preset_protects),
    };
    return cmocka_run_group_tests(tests, forget_environment, NULL);
}
