// The roots of boxes: what a box sees of the machine, and roots that change under a running daemon.
#include "tests/unit/exec/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Runs a command line on the machine.
static void on_host(const char *line)
{
    if (system(line) != 0)
        fail_msg("failed: %s", line);
}

// A root directory with a shell and cat of the host, an /etc of its own, and a link that points
// out.
static void make_root(const struct xt *xt, char root[128])
{
    char line[1024];
    snprintf(root, 128, "%s/root", xt->dir);
    snprintf(
        line, sizeof(line),
        "mkdir -p %s/etc %s/usr && cp -a /bin /lib /lib64 %s/ 2>/dev/null; "
        "cd %s && mkdir usr/bin usr/lib usr/lib64 && cp -a /usr/bin/cat /usr/bin/dash usr/bin/ "
        "&& ln -s dash usr/bin/sh && cp --parents $(ldd /usr/bin/cat | grep -o '/lib[^ ]*') . "
        "&& echo mine > etc/mark && echo x > etc/passwd && ln -s /etc/shadow leak",
        root, root, root, root);
    on_host(line);
}

static void start(struct xt *xt, const struct exec_box_spec *spec)
{
    xt->box = xt_box_try(xt, spec);
    if (xt->start_error.status != AF_OK)
        fail_msg("%s", xt->start_error.text);
}

static void a_given_root_directory_is_used_read_only(void **state)
{
    struct xt *xt = *state;
    char root[128];
    make_root(xt, root);
    const struct exec_box_spec spec = {
        .id = "sb_root", .view_path = xt->view, .rootfs = root, .uid = XT_UID, .gid = XT_UID};
    start(xt, &spec);
    struct xt_done *done = xt_sh(xt, "echo $0; cat /etc/mark /etc/passwd; echo x > /etc/mark; "
                                     "echo x > /new; cat /leak");
    assert_non_null(strstr(done->out, "/bin/sh\nmine\nroot:x:0"));
    assert_non_null(strstr(done->out, "agent:x:1000"));
    assert_non_null(strstr(done->err, "/etc/mark: Read-only file system"));
    assert_non_null(strstr(done->err, "/new: Read-only file system"));
    assert_non_null(strstr(done->err, "/leak: No such file"));
}

// The root is put together once for many boxes: it must not outlive what it was made of.
static void what_changes_in_a_root_directory_is_in_the_next_box(void **state)
{
    struct xt *xt = *state;
    char root[128], line[1024];
    make_root(xt, root);
    const struct exec_box_spec spec = {
        .id = "sb_root", .view_path = xt->view, .rootfs = root, .uid = XT_UID, .gid = XT_UID};
    start(xt, &spec);
    snprintf(line, sizeof(line),
             "cd %s && mkdir added && echo one > added/file && echo two > etc/.new && "
             "mv etc/.new etc/mark && echo x > etc/hosts",
             root);
    on_host(line);
    xt_box_stop(xt, xt->box);
    start(xt, &spec);
    struct xt_done *done = xt_sh(xt, "cat /added/file /etc/mark /etc/hosts");
    assert_string_equal(done->err, "");
    assert_non_null(strstr(done->out, "one\ntwo\n127.0.0.1 localhost"));
    xt_box_stop(xt, xt->box);
    // Another directory under the same name.
    snprintf(line, sizeof(line), "mv %s %s.old && cp -a %s.old %s && rm %s/leak", root, root, root,
             root, root);
    on_host(line);
    start(xt, &spec);
    done = xt_sh(xt, "test -h /leak && echo old; cat /etc/mark");
    assert_string_equal(done->out, "two\n");
}

static void a_root_directory_that_is_gone_fails_its_box_alone(void **state)
{
    struct xt *xt = *state;
    char root[128];
    snprintf(root, sizeof(root), "%s/nowhere", xt->dir);
    struct exec_box_spec spec = {
        .id = "sb_root", .view_path = xt->view, .rootfs = root, .uid = XT_UID, .gid = XT_UID};
    xt->box = xt_box_try(xt, &spec);
    assert_int_equal(xt->start_error.status, AF_NOT_FOUND);
    assert_non_null(strstr(xt->start_error.text, root));
    xt_box_stop(xt, xt->box);
    spec.rootfs = NULL;
    start(xt, &spec);
    xt_expect_exit(xt_sh(xt, "true"), 0);
}

static void more_roots_than_are_kept_work_in_turn(void **state)
{
    struct xt *xt = *state;
    char root[128], copy[160], line[1024];
    make_root(xt, root);
    for (int i = 0; i < 40; i++) { // twice as many as are kept, and each of them twice
        snprintf(copy, sizeof(copy), "%s.%d", root, i % 20);
        snprintf(line, sizeof(line), "test -d %s || { cp -a %s %s && echo %d > %s/etc/mark; }",
                 copy, root, copy, i % 20, copy);
        on_host(line);
        const struct exec_box_spec spec = {
            .id = "sb_root", .view_path = xt->view, .rootfs = copy, .uid = XT_UID, .gid = XT_UID};
        start(xt, &spec);
        struct xt_done *done = xt_sh(xt, "cat /etc/mark");
        assert_int_equal(atoi(done->out), i % 20);
        xt_box_stop(xt, xt->box);
        xt->box = NULL;
    }
}

static void a_host_name_of_its_own_is_known_everywhere(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec spec = {
        .id = "sb_name", .view_path = xt->view, .hostname = "other", .uid = XT_UID, .gid = XT_UID};
    start(xt, &spec);
    struct xt_done *done = xt_sh(xt, "hostname; cat /etc/hostname; grep -c other /etc/hosts; "
                                     "echo x > /etc/hosts");
    assert_string_equal(done->out, "other\nother\n1\n");
    assert_non_null(strstr(done->err, "Read-only file system"));
}

static void with_the_machines_network_comes_its_resolver(void **state)
{
    struct xt *xt = *state;
    struct exec_box_spec spec = {.id = "sb_net",
                                 .view_path = xt->view,
                                 .network = EXEC_NETWORK_HOST,
                                 .uid = XT_UID,
                                 .gid = XT_UID};
    start(xt, &spec);
    struct xt_done *done = xt_sh(xt, "cat /etc/resolv.conf 2>/dev/null");
    char host[16384] = "";
    FILE *file = fopen("/etc/resolv.conf", "re"); // without one, the box has none
    if (file) {
        host[fread(host, 1, sizeof(host) - 1, file)] = '\0';
        fclose(file);
    }
    assert_string_equal(done->out, host);
    xt_box_stop(xt, xt->box);
    spec.network = EXEC_NETWORK_NONE;
    start(xt, &spec);
    xt_expect_exit(xt_sh(xt, "test ! -e /etc/resolv.conf"), 0);
}

// Everything that can be written is the box's own; everything else is sealed by its mount.
static void the_table_of_mounts_is_short_and_sealed(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done =
        xt_sh(xt, "awk '$5 !~ \"^(/proc|/dev/pts|/dev/shm|/tmp|/home/agent|/workspace|"
                  "/dev/(null|zero|full|random|urandom|tty))$\" && $6 !~ /^ro,/' "
                  "/proc/self/mountinfo");
    assert_string_equal(done->out, "");
    done = xt_sh(xt, "awk '$6 !~ /nosuid/' /proc/self/mountinfo");
    assert_string_equal(done->out, "");
    done = xt_sh(xt, "awk '$5 !~ \"^/dev(/(pts|null|zero|full|random|urandom|tty))?$\" && "
                     "$6 !~ /nodev/' /proc/self/mountinfo");
    assert_string_equal(done->out, "");
    // No place of the machine but those that are lent.
    done = xt_sh(xt, "awk '$5 !~ \"^/((usr|etc|dev)(/.*)?|lib[^/]*|s?bin|proc|tmp|home/agent|"
                     "workspace)?$\"' /proc/self/mountinfo");
    assert_string_equal(done->out, "");
    done = xt_sh(xt, "touch /x /etc/x /dev/x /usr/x /run/x /home/x /var/x 2>&1 | "
                     "grep -c 'Read-only file system'");
    assert_string_equal(done->out, "7\n");
}

#define engine_test(fn) cmocka_unit_test_setup_teardown(fn, xt_setup_engine, xt_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        engine_test(a_given_root_directory_is_used_read_only),
        engine_test(what_changes_in_a_root_directory_is_in_the_next_box),
        engine_test(a_root_directory_that_is_gone_fails_its_box_alone),
        engine_test(more_roots_than_are_kept_work_in_turn),
        engine_test(a_host_name_of_its_own_is_known_everywhere),
        engine_test(with_the_machines_network_comes_its_resolver),
        xt_test(the_table_of_mounts_is_short_and_sealed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
