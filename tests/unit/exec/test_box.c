// Boxes: start, stop, death, what a hostile init can do, left-overs of a crash, leaks.
//
// The hostile init is this program itself, given to the engine as the init's path: with four
// arguments main() behaves as the limit of processes says.
#include "tests/unit/exec/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/init/protocol.h"

// ---- hostile init -----------------------------------------------------------------------

enum hostile {
    HOSTILE_SILENT = 7001, // never says hello
    HOSTILE_LEAVES,        // exits at once
    HOSTILE_VERSION,       // another protocol
    HOSTILE_GARBAGE,       // bytes that are no message
    HOSTILE_LONG,          // a message that is too long
    HOSTILE_ENDED,         // hello, then ENDED of a command that was never started
    HOSTILE_TWICE,         // hello twice
    HOSTILE_STATUS,        // hello, then nonsense on a command's status pipe
    HOSTILE_LAST,
};

static void hostile_hello(int fd, uint32_t version)
{
    const struct exec_msg_hello hello = {
        .head.kind = EXEC_MSG_HELLO, .version = version, .shell = EXEC_SHELL_SH};
    if (send(fd, &hello, sizeof(hello), 0) < 0)
        _exit(1);
}

static void hostile_status(int fd)
{
    char bytes[4096];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * EXEC_START_FDS_MAX)];
    } control;
    struct iovec iov = {bytes, sizeof(bytes)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    if (recvmsg(fd, &msg, 0) <= 0)
        _exit(1);
    int status_fd;
    memcpy(&status_fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
    const struct exec_status_record records[] = {
        {99, -1, 7},
        {EXEC_STATUS_GONE, 0, 0},
        {EXEC_STATUS_EXITED, 0x7fffffff, 1},
        {EXEC_STATUS_EXITED, 0, 0},
        {EXEC_STATUS_FAILED, -5, 77},
        {EXEC_STATUS_GONE, 9, 9},
    };
    if (write(status_fd, records, sizeof(records)) < 0)
        _exit(1);
}

static int hostile_main(char **argv)
{
    int fd = atoi(argv[1]);
    const struct exec_msg_head ended = {.kind = EXEC_MSG_ENDED, .id = 1};
    char big[2000] = {1};
    switch (atoi(argv[3])) {
    case HOSTILE_SILENT:
        break;
    case HOSTILE_LEAVES:
        return 3;
    case HOSTILE_VERSION:
        hostile_hello(fd, EXEC_PROTO_VERSION + 1);
        break;
    case HOSTILE_GARBAGE:
        send(fd, "garbage", 7, 0);
        break;
    case HOSTILE_LONG:
        send(fd, big, sizeof(big), 0);
        break;
    case HOSTILE_ENDED:
        hostile_hello(fd, EXEC_PROTO_VERSION);
        send(fd, &ended, sizeof(ended), 0);
        break;
    case HOSTILE_TWICE:
        hostile_hello(fd, EXEC_PROTO_VERSION);
        hostile_hello(fd, EXEC_PROTO_VERSION);
        break;
    case HOSTILE_STATUS:
        hostile_hello(fd, EXEC_PROTO_VERSION);
        hostile_status(fd);
        break;
    default: // HOSTILE_LAST: behaves
        hostile_hello(fd, EXEC_PROTO_VERSION);
    }
    poll(NULL, 0, -1);
    return 0;
}

static struct exec_box *hostile_box(struct xt *xt, enum hostile kind)
{
    const struct exec_box_spec spec = {.id = "sb_hostile",
                                       .view_path = xt->view,
                                       .uid = XT_UID,
                                       .gid = XT_UID,
                                       .limits.processes_max = kind};
    return xt_box_try(xt, &spec);
}

static void a_hostile_init_ends_its_box_and_nothing_else(void **state)
{
    struct xt *xt = *state;
    struct exec_options options = xt_options(xt);
    options.start_timeout_ns = 3 * XT_SECOND;
    options.limits.processes_max = HOSTILE_LAST; // for the trial box
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n] = '\0';
    options.init_path = self;
    xt_engine_open(xt, &options);
    for (int kind = HOSTILE_SILENT; kind < HOSTILE_STATUS; kind++) {
        struct exec_box *box = hostile_box(xt, (enum hostile)kind);
        if (xt->start_error.status == AF_OK)
            xt_wait_died(xt);
        xt_box_stop(xt, box);
        assert_int_equal(xt_processes_of(XT_UID), 0);
    }
    xt->box = hostile_box(xt, HOSTILE_STATUS);
    assert_int_equal(xt->start_error.status, AF_OK);
    const struct exec_command_spec spec = {.shell_line = "true", .timeout_ns = 5 * XT_SECOND};
    xt_run(xt, &spec); // ends in some way; what it says is the init's word
    xt_engine_close(xt);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

// ---- start and stop ---------------------------------------------------------------------

static void the_view_is_at_workspace_and_writes_reach_it(void **state)
{
    struct xt *xt = *state;
    char text[64];
    xt_write_file(xt, "given", "from outside");
    struct xt_done *done = xt_sh(xt, "cat given; echo made > made; stat -c %%u:%%g made");
    xt_expect_exit(done, 0);
    assert_string_equal(done->out, "from outside1000:1000\n");
    assert_string_equal(xt_read_file(xt, "made", text, sizeof(text)), "made\n");
    char path[256];
    struct stat st;
    snprintf(path, sizeof(path), "%s/made", xt->view);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, XT_UID);
}

static void fifty_cycles_leave_no_process_and_no_descriptor(void **state)
{
    struct xt *xt = *state;
    xt_box_stop(xt, xt_box_start(xt, "sb_warm", XT_UID));
    unsigned fds = xt_open_fds(), children = xt_children();
    assert_int_equal(xt_processes_of(XT_UID), 0);
    for (int i = 0; i < 50; i++) {
        xt->box = xt_box_start(xt, "sb_cycle", XT_UID);
        xt_expect_exit(xt_sh(xt, "echo %d", i), 0);
        xt_box_stop(xt, xt->box);
    }
    assert_int_equal(xt_processes_of(XT_UID), 0);
    assert_int_equal(xt_children(), children);
    assert_int_equal(xt_open_fds(), fds);
}

// Whether the table of mounts is the same before and after a box.
static bool mounts_stay(struct xt *xt)
{
    char before[65536], after[65536];
    int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, before, sizeof(before));
    xt_box_stop(xt, xt_box_start(xt, "sb_mount", XT_UID));
    ssize_t m = pread(fd, after, sizeof(after), 0);
    close(fd);
    return n > 0 && n == m && memcmp(before, after, (size_t)n) == 0;
}

static void no_mount_is_left_on_the_host(void **state)
{
    // Others mount and unmount things as well, but not each time.
    for (int i = 0; i < 50; i++)
        if (mounts_stay(*state))
            return;
    fail_msg("the table of mounts changes with every box");
}

static void a_missing_view_is_said(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec spec = {
        .id = "sb_x", .view_path = "/nonexistent/view", .uid = XT_UID, .gid = XT_UID};
    struct exec_box *box = xt_box_try(xt, &spec);
    assert_int_equal(xt->start_error.status, AF_NOT_FOUND);
    assert_non_null(strstr(xt->start_error.text, "/nonexistent/view"));
    const struct exec_command_spec command = {.shell_line = "true"};
    xt->box = box;
    const struct xt_done *done = xt_run(xt, &command); // is told why there is no box
    xt->box = NULL;
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_NOT_FOUND);
    assert_string_equal(done->error.text, xt->start_error.text);
    xt_box_stop(xt, box);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

static void privileged_ids_are_refused(void **state)
{
    struct xt *xt = *state;
    const struct exec_box_spec specs[] = {{.id = "sb_x", .uid = 0, .gid = XT_UID},
                                          {.id = "sb_x", .uid = XT_UID, .gid = 0},
                                          {.id = "", .uid = XT_UID, .gid = XT_UID}};
    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        struct exec_box *box;
        struct af_error err;
        assert_int_equal(exec_box_start(xt->engine, &specs[i], NULL, NULL, NULL, &box, &err), -1);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    }
}

static void ignore_start(void *arg, const struct af_error *err)
{
    (void)arg;
    (void)err;
}

static void ignore_command(void *arg, const struct af_error *err, const struct exec_result *result)
{
    (void)arg;
    (void)err;
    (void)result;
}

static void stopping_while_starting_leaves_nothing(void **state)
{
    struct xt *xt = *state;
    for (int i = 0; i < 20; i++) {
        const struct exec_box_spec spec = {
            .id = "sb_x", .view_path = xt->view, .uid = XT_UID, .gid = XT_UID};
        struct exec_box *box;
        struct af_error err;
        assert_int_equal(exec_box_start(xt->engine, &spec, ignore_start, NULL, xt, &box, &err), 0);
        poll(NULL, 0, i / 2); // not to wait for something, but to come at different moments
        xt_box_stop(xt, box);
        assert_int_equal(xt_processes_of(XT_UID), 0);
    }
}

static void many_boxes_start_at_once(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line = "id -u"};
    struct exec_box *boxes[30];
    struct xt_done *done[30];
    for (int i = 0; i < 30; i++) {
        boxes[i] = xt->box = xt_box_start(xt, "sb_many", XT_UID + (uid_t)i);
        done[i] = xt_start(xt, &spec, NULL);
    }
    for (int i = 0; i < 30; i++) {
        xt_wait(done[i]);
        xt_expect_exit(done[i], 0);
        xt_box_stop(xt, boxes[i]);
        assert_int_equal(xt_processes_of(XT_UID + (uid_t)i), 0);
    }
}

static void a_killed_init_is_an_error_and_no_exit_code(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line = "echo > /workspace/ready; sleep 1000"};
    struct xt_done *done = xt_start(xt, &spec, NULL);
    xt_wait_file(xt, "ready");
    assert_int_equal(kill(xt_init_pid(XT_UID), SIGKILL), 0);
    xt_wait_died(xt);
    assert_int_equal(xt->died_error.status, AF_UNAVAILABLE);
    assert_true(done->over);
    assert_true(done->failed);
    assert_int_equal(done->error.status, AF_UNAVAILABLE);
    assert_int_equal(done->result.exit_code, -1);
    assert_int_equal(xt_processes_of(XT_UID), 0);
    xt_box_stop(xt, xt->box);
}

static void a_slow_init_delays_commands_and_loses_none(void **state)
{
    struct xt *xt = *state;
    pid_t init = xt_init_pid(XT_UID);
    struct xt_done *done[60];
    char *line = malloc(30000);
    memset(line, ' ', 30000);
    assert_int_equal(kill(init, SIGSTOP), 0);
    // More than its socket holds; some are cancelled before they were sent.
    for (int i = 0; i < 60; i++) {
        snprintf(line + 29900, 100, "exit %d", i);
        const struct exec_command_spec spec = {.shell_line = line};
        struct exec_command *command;
        done[i] = xt_start(xt, &spec, &command);
        if (i >= 50)
            exec_command_cancel(command);
        exec_command_unref(command);
    }
    for (int i = 50; i < 60; i++) {
        xt_wait(done[i]);
        assert_int_equal(done[i]->error.status, AF_CANCELLED);
    }
    assert_int_equal(kill(init, SIGCONT), 0);
    for (int i = 0; i < 50; i++) {
        xt_wait(done[i]);
        xt_expect_exit(done[i], i);
    }
    free(line);
}

static void running_out_of_descriptors_is_said_and_heals(void **state)
{
    struct xt *xt = *state;
    const unsigned before = xt_open_fds();
    xt->box = xt_box_start(xt, "sb_full", XT_UID);
    const unsigned fds = xt_open_fds();
    struct rlimit limit, low;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const struct exec_command_spec spec = {.shell_line = "true"};
    const struct exec_box_spec box_spec = {
        .id = "sb_x", .view_path = xt->view, .uid = XT_UID, .gid = XT_UID};
    for (unsigned more = 0; more < 24; more++) {
        low = (struct rlimit){fds + more, limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        struct af_error err;
        struct exec_box *box;
        // Starts of both kinds fail with words, or work: nothing hangs or leaks.
        if (exec_command_start(xt->box, &spec, ignore_command, NULL, NULL, &err) < 0)
            assert_int_equal(err.status, AF_RESOURCE_EXHAUSTED);
        box = xt_box_try(xt, &box_spec);
        if (xt->start_error.status != AF_OK)
            assert_true(xt->start_error.text[0]);
        xt_box_stop(xt, box);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    xt_expect_exit(xt_sh(xt, "exit 5"), 5);
    xt_box_stop(xt, xt->box); // every command is over then
    assert_int_equal(xt_open_fds(), before);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

struct caller {
    pthread_t thread;
    struct xt xt; // of its own, sharing engine and box
    unsigned failures;
};

static void *call_much(void *arg)
{
    struct caller *caller = arg;
    for (int i = 0; i < 60; i++) {
        char line[64];
        snprintf(line, sizeof(line), i % 3 ? "echo %d" : "echo %d; exec sleep 1000", i);
        const struct exec_command_spec spec = {.shell_line = line};
        struct exec_command *command;
        struct xt_done *done = xt_start(&caller->xt, &spec, &command);
        if (i % 3 == 0)
            exec_command_cancel(command);
        exec_command_unref(command);
        xt_wait(done);
        bool good = i % 3 ? !done->failed && atoi(done->out) == i
                          : done->failed && done->error.status == AF_CANCELLED;
        caller->failures += !good;
    }
    return NULL;
}

static void callers_on_many_threads_do_not_disturb_each_other(void **state)
{
    struct xt *xt = *state;
    struct caller callers[4];
    for (int i = 0; i < 4; i++) {
        callers[i] = (struct caller){.xt = *xt};
        callers[i].xt.dones = NULL;
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call_much, &callers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].failures, 0);
        struct xt_done **last = &xt->dones;
        while (*last)
            last = &(*last)->next;
        *last = callers[i].xt.dones;
    }
    xt_box_stop(xt, xt->box);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

// ---- the machine ------------------------------------------------------------------------

static void what_is_missing_is_named(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    struct exec_engine *engine;
    struct exec_options options = xt_options(xt);
    options.bwrap_path = "/nonexistent/bwrap";
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "/nonexistent/bwrap"));
    options.bwrap_path = "/bin/true"; // runs, but is something else
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    options = xt_options(xt);
    options.init_path = "/nonexistent/init";
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    assert_non_null(strstr(err.text, "/nonexistent/init"));
    options.init_path = "/bin/false"; // no init
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    options = xt_options(xt);
    options.run_dir = "relative";
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
}

// A daemon in a process of its own with a box that runs something; tells when it is up.
static pid_t fork_daemon(struct xt *xt)
{
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        const struct exec_options options = xt_options(xt);
        xt_engine_open(xt, &options);
        xt->box = xt_box_start(xt, "sb_left", XT_UID);
        const struct exec_command_spec spec = {.shell_line = "echo > /workspace/up; sleep 1000"};
        xt_start(xt, &spec, NULL);
        xt_wait_file(xt, "up");
        if (write(ready[1], "x", 1) == 1)
            poll(NULL, 0, -1);
        _exit(1);
    }
    close(ready[1]);
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void recovery_after_a_crash_leaves_no_process(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    unsigned ended;
    pid_t pid = fork_daemon(xt);
    // While it lives nothing of it is touched.
    assert_int_equal(exec_recover(xt->run_dir, &ended, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    struct exec_engine *engine;
    const struct exec_options options = xt_options(xt);
    assert_int_equal(exec_engine_new(&options, &engine, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_true(xt_processes_of(XT_UID) >= 2);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(exec_recover(xt->run_dir, &ended, &err), 0);
    assert_int_equal(xt_processes_of(XT_UID), 0);
    xt_engine_open(xt, &options);
}

static void recovery_kills_what_does_not_end_by_itself(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    pid_t pid = fork_daemon(xt);
    // A stand-in for a bwrap that hangs: it inherits the lock and ends for nobody.
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    char path[256];
    snprintf(path, sizeof(path), "%s/exec.lock", xt->run_dir);
    int ready[2];
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t stuck = fork();
    if (stuck == 0) {
        char command[512];
        snprintf(command, sizeof(command), "exec 9<%s; flock -s 9; echo; exec sleep 1000", path);
        dup2(ready[1], 1);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    unsigned ended = 0;
    assert_int_equal(exec_recover(xt->run_dir, &ended, &err), 0);
    assert_true(ended >= 1);
    int status;
    assert_int_equal(waitpid(stuck, &status, 0), stuck);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(ready[0]);
    close(ready[1]);
}

static void recovery_of_nothing_is_no_error(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    unsigned ended = 1;
    assert_int_equal(exec_recover("/nonexistent/run", &ended, &err), 0);
    assert_int_equal(ended, 0);
    assert_int_equal(exec_recover(xt->run_dir, NULL, &err), 0);
}

#define engine_test(fn) cmocka_unit_test_setup_teardown(fn, xt_setup_engine, xt_teardown)
#define dirs_test(fn)   cmocka_unit_test_setup_teardown(fn, xt_setup_dirs, xt_teardown)

int main(int argc, char **argv)
{
    if (argc == 5)
        return hostile_main(argv);
    const struct CMUnitTest tests[] = {
        xt_test(the_view_is_at_workspace_and_writes_reach_it),
        engine_test(fifty_cycles_leave_no_process_and_no_descriptor),
        engine_test(no_mount_is_left_on_the_host),
        engine_test(a_missing_view_is_said),
        engine_test(privileged_ids_are_refused),
        engine_test(stopping_while_starting_leaves_nothing),
        engine_test(many_boxes_start_at_once),
        xt_test(a_killed_init_is_an_error_and_no_exit_code),
        xt_test(a_slow_init_delays_commands_and_loses_none),
        engine_test(running_out_of_descriptors_is_said_and_heals),
        xt_test(callers_on_many_threads_do_not_disturb_each_other),
        dirs_test(a_hostile_init_ends_its_box_and_nothing_else),
        dirs_test(what_is_missing_is_named),
        dirs_test(recovery_after_a_crash_leaves_no_process),
        dirs_test(recovery_kills_what_does_not_end_by_itself),
        dirs_test(recovery_of_nothing_is_no_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
