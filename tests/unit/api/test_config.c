// Options: flags, the YAML file, and what is refused with which words.
#include "api/config.h"
#include "mux/base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define REQUIRED "--state", "/var/lib/x/", "--socket", "/run/x.sock"

static int load(struct af_config *config, struct af_error *err, const char *const *flags)
{
    char *argv[32] = {"agentfensed"};
    int argc = 1;
    enum af_config_action action;
    for (; flags[argc - 1]; argc++)
        argv[argc] = (char *)flags[argc - 1];
    return af_config_load(argc, argv, config, &action, err);
}

#define LOAD(config, err, ...) load(config, err, (const char *const[]){__VA_ARGS__, NULL})

static void flags_give_a_complete_config(void **state)
{
    (void)state;
    struct af_config config;
    struct af_error err;
    assert_int_equal(LOAD(&config, &err, REQUIRED), 0);
    assert_string_equal(config.state, "/var/lib/x");
    assert_string_equal(config.socket, "/run/x.sock");
    assert_string_equal(config.mount, "/var/lib/x/mnt");
    assert_null(config.listen);
    assert_int_equal(config.uid_base, 200000);
    assert_int_equal(config.uid_count, 65536);
    assert_int_equal(config.exec.timeout_default_ns, 30000000000);
    assert_string_equal(config.exec.bwrap, "bwrap");
    af_config_fini(&config);
    assert_int_equal(LOAD(&config, &err, REQUIRED, "--mount=/m", "--transport", "dev_fuse",
                          "--group", "0", "--exec-tmp-bytes", "64M", "--exec-timeout-max", "90m",
                          "--workers", "3", "--listen", "localhost:9000", "--reflection",
                          "--log-level", "debug"),
                     0);
    assert_string_equal(config.mount, "/m");
    assert_int_equal(config.transport, AF_TRANSPORT_DEV_FUSE);
    assert_int_equal(config.group_id, 0);
    assert_int_equal(config.exec.tmp_bytes, 64 << 20);
    assert_int_equal(config.exec.timeout_max_ns, 5400000000000);
    assert_int_equal(config.workers, 3);
    assert_string_equal(config.listen, "localhost:9000");
    assert_int_equal(config.log_level, AF_LOG_DEBUG);
    af_config_fini(&config);
}

static void relative_paths_become_absolute(void **state)
{
    (void)state;
    struct af_config config;
    struct af_error err;
    char cwd[512], wanted[600];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(wanted, sizeof wanted, "%s/s", cwd);
    assert_int_equal(LOAD(&config, &err, "--state", "s/", "--socket", "x.sock"), 0);
    assert_string_equal(config.state, wanted);
    af_config_fini(&config);
}

// The flags must fail with a sentence that contains `words`.
#define REFUSED(words, ...)                                                                        \
    do {                                                                                           \
        struct af_config config_;                                                                  \
        struct af_error err_;                                                                      \
        assert_int_equal(LOAD(&config_, &err_, __VA_ARGS__), -1);                                  \
        if (!strstr(err_.text, words))                                                             \
            fail_msg("'%s' is not in: %s", words, err_.text);                                      \
    } while (0)

static void bad_flags_are_named(void **state)
{
    (void)state;
    REFUSED("--state is missing", "--socket", "/s");
    REFUSED("--socket needs a value", "--state", "/s", "--socket=");
    REFUSED("--nonsense", REQUIRED, "--nonsense", "1");
    REFUSED("missing value after --mount", REQUIRED, "--mount");
    REFUSED("unexpected argument extra", REQUIRED, "extra");
    REFUSED("--workers: 'many' is not a number", REQUIRED, "--workers", "many");
    REFUSED("--workers: 1000 is out of range: 0 to 256", REQUIRED, "--workers", "1000");
    REFUSED("--workers: '-1' is not a number", REQUIRED, "--workers", "-1");
    REFUSED("--transport: 'tcp' is not one of: auto, io_uring, dev_fuse", REQUIRED, "--transport",
            "tcp");
    REFUSED("--exec-tmp-bytes: '1X'", REQUIRED, "--exec-tmp-bytes", "1X");
    REFUSED("out of range", REQUIRED, "--uid-base", "0");
    REFUSED("out of range", REQUIRED, "--uid-base", "1000");
    REFUSED("beyond the last host uid", REQUIRED, "--uid-base", "4294900000");
    REFUSED("out of range", REQUIRED, "--uid-count", "65537");
    REFUSED("there is no group 'no-such-group'", REQUIRED, "--group", "no-such-group");
    REFUSED("timeout_default is longer", REQUIRED, "--exec-timeout-max", "1s");
    REFUSED("tls_cert, tls_key and token_file as well", REQUIRED, "--listen-tls", "0.0.0.0:9443",
            "--tls-cert", "/c", "--tls-key", "/k");
    REFUSED("with listen_tls only", REQUIRED, "--token-file", "/t");
    REFUSED("--mount needs a value", REQUIRED, "--mount=");
    REFUSED("--stop-grace: '99999999999999999999s'", REQUIRED, "--stop-grace",
            "99999999999999999999s");
}

static int parse(struct af_config *config, const char *text, struct af_error *err)
{
    af_config_init(config);
    return af_config_parse_yaml(config, "t.yaml", text, strlen(text), err);
}

static void a_file_sets_options_and_sections(void **state)
{
    (void)state;
    struct af_config config;
    struct af_error err;
    assert_int_equal(parse(&config,
                           "# comment\nstate: /s\nsocket: '/run/a b.sock'\nreflection: false\n"
                           "exec:\n  output_bytes: 64K\n  timeout_default: 500ms\n",
                           &err),
                     0);
    assert_string_equal(config.state, "/s");
    assert_string_equal(config.socket, "/run/a b.sock");
    assert_false(config.reflection);
    assert_int_equal(config.exec.output_bytes, 65536);
    assert_int_equal(config.exec.timeout_default_ns, 500000000);
    af_config_fini(&config);
    assert_int_equal(parse(&config, "", &err), 0);
    af_config_fini(&config);
    assert_int_equal(parse(&config, "# nothing\n", &err), 0);
    af_config_fini(&config);
}

static void bad_files_are_refused_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"state: /s\nsokcet: /x\n", "t.yaml:2: unknown key 'sokcet'"},
        {"exec:\n  bwrap: b\n  bwarp: x\n", "t.yaml:3: unknown key in this section: 'bwarp'"},
        {"bwrap: b\n", "t.yaml:1: unknown key 'bwrap'"},
        {"state: /s\n\nstate: /t\n", "t.yaml:3: this key is there twice: 'state'"},
        {"workers: [1, 2]\n", "t.yaml:1: one value is needed for 'workers'"},
        {"exec: 3\n", "t.yaml:1: unknown key 'exec'"},
        {"state: /s\nworkers: x\n", "t.yaml:2: workers: 'x' is not a number"},
        {"state:\n", "t.yaml:1: state needs a value"},
        {"state: ~\n", "state needs a value"},
        {"reflection: yes\n", "'yes' is not true or false"},
        {"- a\n- b\n", "t.yaml:1: the file must be a mapping"},
        {"state: 'x\n", "not valid YAML"},
        {"a: b: c\n", "t.yaml:1: not valid YAML"},
        {"? [a]\n: b\n", "t.yaml:1: a key must be a plain word"},
        {"state: \"a\\0b\"\n", "t.yaml:1: there is a NUL in the value of 'state'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct af_config config;
        struct af_error err = {0};
        assert_int_equal(parse(&config, cases[i].text, &err), -1);
        if (!strstr(err.text, cases[i].words))
            fail_msg("'%s' is not in: %s", cases[i].words, err.text);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
        af_config_fini(&config);
    }
}

static void flags_win_over_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/af-config-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "state: /from-file\nsocket: /s\nworkers: 5\nfuse_workers: 6\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct af_config config;
    struct af_error err;
    // Also when the flag comes before --config.
    assert_int_equal(LOAD(&config, &err, "--workers", "7", "--config", path), 0);
    assert_string_equal(config.state, "/from-file");
    assert_int_equal(config.workers, 7);
    assert_int_equal(config.fuse_workers, 6);
    assert_string_equal(config.config_file, path);
    af_config_fini(&config);
    unlink(path);
    REFUSED("cannot read the configuration", REQUIRED, "--config", path);
    REFUSED("not a regular file", REQUIRED, "--config", "/dev");
}

static void the_documented_file_says_the_defaults(void **state)
{
    (void)state;
    struct af_config config, defaults;
    struct af_error err;
    if (access("docs/agentfensed.yaml", R_OK) != 0) {
        print_message("skipped: not run from the top of the source tree\n");
        skip();
    }
    assert_int_equal(LOAD(&config, &err, "--config", "docs/agentfensed.yaml"), 0);
    af_config_init(&defaults);
    assert_string_equal(config.socket, defaults.socket);
    assert_int_equal(config.transport, defaults.transport);
    assert_int_equal(config.message_bytes_max, defaults.message_bytes_max);
    assert_int_equal(config.connections_max, defaults.connections_max);
    assert_int_equal(config.connections_per_uid, defaults.connections_per_uid);
    assert_int_equal(config.stop_grace_ns, defaults.stop_grace_ns);
    assert_int_equal(config.uid_base, defaults.uid_base);
    assert_int_equal(config.uid_count, defaults.uid_count);
    assert_int_equal(config.exec.tmp_bytes, defaults.exec.tmp_bytes);
    assert_int_equal(config.exec.output_bytes, defaults.exec.output_bytes);
    assert_int_equal(config.exec.timeout_default_ns, defaults.exec.timeout_default_ns);
    assert_int_equal(config.exec.timeout_max_ns, defaults.exec.timeout_max_ns);
    assert_int_equal(config.log_level, defaults.log_level);
    af_config_fini(&config);
    af_config_fini(&defaults);
}

static void help_and_version_need_nothing_else(void **state)
{
    (void)state;
    struct af_config config;
    struct af_error err;
    enum af_config_action action;
    assert_int_equal(
        af_config_load(2, (char *[]){"agentfensed", "--help", NULL}, &config, &action, &err), 0);
    assert_int_equal(action, AF_CONFIG_HELP);
    af_config_fini(&config);
    assert_int_equal(
        af_config_load(2, (char *[]){"agentfensed", "--version", NULL}, &config, &action, &err), 0);
    assert_int_equal(action, AF_CONFIG_VERSION);
    af_config_fini(&config);
    char text[16384] = "";
    FILE *out = fmemopen(text, sizeof text - 1, "w");
    af_config_usage(out);
    fclose(out);
    assert_non_null(strstr(text, "--exec-output-bytes BYTES"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_give_a_complete_config),
        cmocka_unit_test(relative_paths_become_absolute),
        cmocka_unit_test(bad_flags_are_named),
        cmocka_unit_test(a_file_sets_options_and_sections),
        cmocka_unit_test(bad_files_are_refused_with_their_line),
        cmocka_unit_test(flags_win_over_the_file),
        cmocka_unit_test(the_documented_file_says_the_defaults),
        cmocka_unit_test(help_and_version_need_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
