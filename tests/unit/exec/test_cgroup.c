// Bounds by control groups: what is written on v2 and v1, what is refused, what is left behind; and
// on this machine's own hierarchies, what a box feels of them.
//
// v2 is tested against a tree of plain files: the machines that run these tests may have no v2
// controllers (then the tests of boxes use v1). Control files are what the kernel documents.
#include "tests/unit/exec/fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec/cgroup.h"

#define MIB (1u << 20)

// ---- a tree of plain files --------------------------------------------------------------

static void put(const struct xt *xt, const char *name, const char *fmt, ...)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", xt->dir, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(file, fmt, ap);
    va_end(ap);
    assert_int_equal(fclose(file), 0);
}

static void make(const struct xt *xt, const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", xt->dir, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

// The text of DIR/<our group>/<rest>, or "" when it is not there.
static const char *own_text(const struct xt *xt, const char *where, const char *rest)
{
    static char text[256];
    char pattern[256], command[600];
    snprintf(pattern, sizeof(pattern), "%s/%s/agentfense-*%s", xt->dir, where, rest);
    snprintf(command, sizeof(command), "cat %s 2>/dev/null", pattern);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t n = fread(text, 1, sizeof(text) - 1, pipe);
    text[n] = '\0';
    pclose(pipe);
    return text;
}

// A daemon in the group /svc of a v2 hierarchy that has these controllers.
static struct exec_cgroups *fake_v2(struct xt *xt, const char *controllers)
{
    make(xt, "v2");
    make(xt, "v2/svc");
    make(xt, "proc");
    put(xt, "v2/svc/cgroup.controllers", "%s\n", controllers);
    put(xt, "proc/mountinfo",
        "22 1 0:20 / / rw - ext4 /dev/x rw\n38 31 0:38 / %s/v2 rw - cgroup2 cgroup2 rw\n", xt->dir);
    put(xt, "proc/cgroup", "0::/svc\n");
    char proc[128];
    snprintf(proc, sizeof(proc), "%s/proc", xt->dir);
    const struct exec_cgroups_options options = {.run_dir = xt->run_dir, .proc_dir = proc};
    struct exec_cgroups *cgroups;
    struct af_error err;
    assert_int_equal(exec_cgroups_new(&options, &cgroups, &err), 0);
    return cgroups;
}

static void v2_writes_what_the_kernel_documents(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    struct exec_cgroups *cgroups = fake_v2(xt, "cpuset cpu io memory pids");
    char text[64];
    exec_cgroups_describe(cgroups, text, sizeof(text));
    assert_string_equal(text, "memory v2, cpu v2, pids v2");
    const struct exec_resources resources = {
        .memory_bytes = 64 * MIB, .cpu_quota_us = 50000, .cpu_shares = 1024, .pids_max = 17};
    struct exec_cgroup *cgroup;
    assert_int_equal(exec_cgroup_new(cgroups, "sb_x", &resources, &cgroup, &err), 0);
    assert_int_equal(exec_cgroup_add(cgroup, 4711, &err), 0);
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/memory.max"), "67108864");
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/memory.swap.max"), "0");
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/cpu.max"), "50000 100000");
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/cpu.weight"), "100");
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/pids.max"), "17");
    assert_string_equal(own_text(xt, "v2/svc", "/sb_x/cgroup.procs"), "4711");
    // Handed down at both levels (a plain file shows the last word over the ones before).
    assert_non_null(strstr(own_text(xt, "v2/svc", "/cgroup.subtree_control"), "+pids"));
    assert_int_equal(exec_cgroup_memory_events(cgroup).kills, 0);
    exec_cgroup_free(cgroup);
    exec_cgroups_free(cgroups);
}

// A group of the box sb_x, with a bound on its memory alone.
static struct exec_cgroup *bounded_group(struct exec_cgroups *cgroups)
{
    const struct exec_resources resources = {.memory_bytes = MIB};
    struct exec_cgroup *cgroup;
    struct af_error err;
    assert_int_equal(exec_cgroup_new(cgroups, "sb_x", &resources, &cgroup, &err), 0);
    return cgroup;
}

// Writes the events of the box sb_x.
static void put_events(const struct xt *xt, const char *text)
{
    char command[512];
    snprintf(command, sizeof(command),
             "for d in %s/v2/svc/agentfense-*/sb_x; do printf '%s' > $d/memory.events; done",
             xt->dir, text);
    assert_int_equal(system(command), 0);
}

// A kill is one whatever became of the command that is asked about; memory that was refused without
// one counts for a command that failed.
static void memory_that_was_refused_is_told_from_none(void **state)
{
    struct xt *xt = *state;
    struct exec_cgroups *cgroups = fake_v2(xt, "memory");
    struct exec_cgroup *cgroup = bounded_group(cgroups);
    put_events(xt, "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n");
    struct exec_memory_events before = exec_cgroup_memory_events(cgroup);
    assert_int_equal(before.kills, 1);
    assert_int_equal(before.failures, 2);
    assert_false(exec_cgroup_ran_out(cgroup, &before, true));
    put_events(xt, "low 0\nhigh 0\nmax 50\noom 2\noom_kill 1\noom_group_kill 7\n"); // reclaimed
    assert_false(exec_cgroup_ran_out(cgroup, &before, true));
    put_events(xt, "low 0\nhigh 0\nmax 50\noom 3\noom_kill 1\noom_group_kill 0\n");
    assert_true(exec_cgroup_ran_out(cgroup, &before, true));
    assert_false(exec_cgroup_ran_out(cgroup, &before, false));
    put_events(xt, "low 0\nhigh 0\nmax 50\noom 3\noom_kill 2\noom_group_kill 0\n");
    assert_true(exec_cgroup_ran_out(cgroup, &before, false));
    before = exec_cgroup_memory_events(cgroup);
    put_events(xt, "oom_kill_disable 0\nunder_oom 9\noom_kill 2\n"); // v1's words
    assert_false(exec_cgroup_ran_out(cgroup, &before, true));
    exec_cgroup_free(cgroup);
    exec_cgroups_free(cgroups);
}

static void *ask_events(void *arg)
{
    for (int i = 0; i < 1000; i++)
        exec_cgroup_memory_events(arg);
    return NULL;
}

// Callers' threads ask when they start a command, the event thread when one has ended.
static void threads_that_ask_a_group_at_once_open_its_counts_once(void **state)
{
    struct xt *xt = *state;
    struct exec_cgroups *cgroups = fake_v2(xt, "memory");
    struct exec_cgroup *cgroup = bounded_group(cgroups);
    put_events(xt, "oom 2\noom_kill 1\n");
    unsigned fds = xt_open_fds();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_events, cgroup), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(exec_cgroup_memory_events(cgroup).kills, 1);
    assert_int_equal(xt_open_fds(), fds + 1);
    exec_cgroup_free(cgroup);
    exec_cgroups_free(cgroups);
}

static void a_controller_that_is_nowhere_is_refused_by_name(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    struct exec_cgroups *cgroups = fake_v2(xt, "cpu pids");
    struct exec_cgroup *cgroup;
    const struct exec_resources memory = {.memory_bytes = MIB}, cpu = {.cpu_shares = 2};
    const struct exec_resources none = {0};
    assert_int_equal(exec_cgroups_check(cgroups, &memory, &err), -1);
    assert_int_equal(err.status, AF_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "memory"));
    assert_int_equal(exec_cgroup_new(cgroups, "sb_x", &memory, &cgroup, &err), -1);
    assert_int_equal(exec_cgroups_check(cgroups, &cpu, &err), 0);
    assert_int_equal(exec_cgroup_new(cgroups, "sb_x", &none, &cgroup, &err), 0);
    assert_null(cgroup); // and no group was made for it
    assert_string_equal(own_text(xt, "v2/svc", "/cgroup.subtree_control"), "");
    exec_cgroups_free(cgroups);
}

// v1 wins a controller that the v2 hierarchy does not have, each on its own; a container's mount
// shows a part of the hierarchy.
static void each_controller_is_found_on_its_own(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    make(xt, "m");
    make(xt, "m/in");
    make(xt, "u");
    make(xt, "proc");
    put(xt, "u/cgroup.controllers", "pids\n");
    put(xt, "proc/mountinfo",
        "32 31 0:29 /dock/c1 %s/m rw,relatime - cgroup cgroup rw,memory\n"
        "33 31 0:30 / %s/u rw - cgroup2 cgroup2 rw\n"
        "34 31 0:31 /else %s/e rw - cgroup cgroup rw,cpu,cpuacct\n",
        xt->dir, xt->dir, xt->dir);
    put(xt, "proc/cgroup", "5:memory:/dock/c1/in\n4:cpuacct,cpu:/dock/c1\n0::/\n");
    char proc[128], text[64];
    snprintf(proc, sizeof(proc), "%s/proc", xt->dir);
    const struct exec_cgroups_options options = {.run_dir = xt->run_dir, .proc_dir = proc};
    struct exec_cgroups *cgroups;
    assert_int_equal(exec_cgroups_new(&options, &cgroups, &err), 0);
    exec_cgroups_describe(cgroups, text, sizeof(text));
    assert_string_equal(text, "memory v1, cpu none, pids v2");
    struct exec_cgroup *cgroup = bounded_group(cgroups);
    assert_string_equal(own_text(xt, "m/in", "/sb_x/memory.limit_in_bytes"), "1048576");
    exec_cgroup_free(cgroup);
    exec_cgroups_free(cgroups);
}

// ---- boxes on this machine --------------------------------------------------------------

// Whether this machine has all three, in whatever version.
static void need_controllers(struct xt *xt)
{
    const char *have = exec_engine_features(xt->engine)->cgroups;
    if (!strstr(have, "none"))
        return;
    print_message("skipped: this machine's control groups: %s\n", have);
    skip();
}

static void start(struct xt *xt, const struct exec_resources *resources)
{
    const struct exec_box_spec spec = {.id = "sb_bound",
                                       .view_path = xt->view,
                                       .uid = XT_UID,
                                       .gid = XT_UID,
                                       .resources = *resources};
    xt->box = xt_box_try(xt, &spec);
    if (xt->start_error.status != AF_OK)
        fail_msg("box: %s", xt->start_error.text);
}

// The groups of this test's own daemon, as it noted them: a daemon of another run on this machine,
// or what a killed one left behind, has others.
static void own_groups(const struct xt *xt, char *text, size_t size)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/exec.cgroups", xt->run_dir);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    size_t n = fread(text, 1, size - 1, file);
    text[n] = '\0';
    fclose(file);
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = ' ';
}

// Groups of boxes that are there now, in any hierarchy.
static unsigned groups_in(const char *own)
{
    unsigned count = 0;
    char command[1200];
    snprintf(command, sizeof(command), "find %s -name 'sb_bound*' -type d 2>/dev/null | wc -l",
             own);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%u", &count), 1);
    pclose(pipe);
    return count;
}

// Keeps a line that never ends.
#define HOG "tail /dev/zero"

static void a_command_over_the_memory_bound_is_killed_and_says_so(void **state)
{
    struct xt *xt = *state;
    need_controllers(xt);
    start(xt, &(const struct exec_resources){.memory_bytes = 48 * MIB});
    char own[1024];
    own_groups(xt, own, sizeof(own));
    assert_true(groups_in(own) > 0);
    struct xt_done *done = xt_sh(xt, HOG);
    xt_expect_exit(done, 137);
    assert_true(done->result.out_of_memory);
    // What is in /tmp counts as well, so it is full before the memory is.
    done = xt_sh(xt, "head -c 100000000 /dev/zero > /tmp/big");
    xt_expect_exit(done, 1);
    assert_false(done->result.out_of_memory);
    xt_expect_exit(xt_sh(xt, "x=$(head -c 20000000 /dev/zero | tr '\\0' x); :"), 137);
    xt_expect_exit(xt_sh(xt, "rm -f /tmp/big"), 0);
    // An ordinary failure is none of these, and the box goes on.
    done = xt_sh(xt, "exit 3");
    xt_expect_exit(done, 3);
    assert_false(done->result.out_of_memory);
    xt_box_stop(xt, xt->box);
    assert_int_equal(groups_in(own), 0);
}

static void a_box_under_its_bound_is_left_alone(void **state)
{
    struct xt *xt = *state;
    need_controllers(xt);
    start(xt, &(const struct exec_resources){.memory_bytes = 256 * MIB, .cpu_shares = 512});
    struct xt_done *done = xt_sh(xt, "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ${#x}");
    xt_expect_exit(done, 0);
    assert_string_equal(done->out, "20000000\n");
    assert_false(done->result.out_of_memory);
}

static void the_number_of_processes_is_bounded_and_fork_failure_is_clear(void **state)
{
    struct xt *xt = *state;
    need_controllers(xt);
    start(xt, &(const struct exec_resources){.pids_max = 12});
    struct xt_done *done =
        xt_sh(xt, "for i in $(seq 40); do sleep 60 & done 2>&1; jobs -p | wc -l; kill $(jobs -p)");
    assert_true(done->failed || atoi(done->out) < 40);
    // Everything of the box is in use: the next command cannot fork, and its end says why.
    struct exec_command *command;
    const struct exec_command_spec bomb = {
        .shell_line =
            "touch /workspace/full; for i in $(seq 40); do (sleep 60 &) ; done; sleep 60"};
    struct xt_done *bombed = xt_start(xt, &bomb, &command);
    xt_wait_file(xt, "full");
    done = xt_sh(xt, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do /bin/true || exit 9; done");
    if (done->failed)
        assert_int_equal(done->error.status, AF_RESOURCE_EXHAUSTED);
    exec_command_cancel(command);
    xt_wait(bombed);
    exec_command_unref(command);
    xt_expect_exit(xt_sh(xt, "/bin/true"), 0); // and it heals
}

static void the_cpu_quota_slows_a_spinning_command(void **state)
{
    struct xt *xt = *state;
    need_controllers(xt);
    start(xt, &(const struct exec_resources){.cpu_quota_us = 10000}); // a tenth of a CPU
    // The time that the kernel gave it, not the time that passed.
    struct xt_done *done = xt_sh(xt, "timeout 2 sh -c 'while :; do :; done'; times | tail -1");
    unsigned minutes;
    double seconds;
    assert_false(done->failed);
    assert_int_equal(sscanf(done->out, "%um%lf", &minutes, &seconds), 2);
    if (minutes != 0 || seconds > 0.8)
        fail_msg("a tenth of a CPU gave %s in two seconds", done->out);
}

static void limits_that_make_no_sense_are_refused(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    const struct exec_resources wrong[] = {
        {.memory_bytes = 1}, {.cpu_quota_us = 1}, {.cpu_shares = 1}, {.pids_max = 1}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(exec_engine_check_resources(xt->engine, &wrong[i], &err), -1);
        assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    }
}

static void groups_of_a_crashed_daemon_are_removed_with_what_is_in_them(void **state)
{
    struct xt *xt = *state;
    struct af_error err;
    pid_t pid = fork();
    if (pid == 0) {
        const struct exec_options options = xt_options(xt);
        xt_engine_open(xt, &options);
        if (strstr(exec_engine_features(xt->engine)->cgroups, "none"))
            _exit(7);
        start(xt, &(const struct exec_resources){.memory_bytes = 64 * MIB});
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 7) {
        print_message("skipped: this machine's control groups lack a controller\n");
        skip();
    }
    assert_true(WIFSIGNALED(status));
    char own[1024];
    own_groups(xt, own, sizeof(own));
    assert_true(groups_in(own) > 0);
    assert_int_equal(exec_recover(xt->run_dir, NULL, &err), 0);
    assert_int_equal(groups_in(own), 0);
    assert_int_equal(xt_processes_of(XT_UID), 0);
}

#define engine_test(fn) cmocka_unit_test_setup_teardown(fn, xt_setup_engine, xt_teardown)
#define dirs_test(fn)   cmocka_unit_test_setup_teardown(fn, xt_setup_dirs, xt_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        dirs_test(v2_writes_what_the_kernel_documents),
        dirs_test(memory_that_was_refused_is_told_from_none),
        dirs_test(threads_that_ask_a_group_at_once_open_its_counts_once),
        dirs_test(a_controller_that_is_nowhere_is_refused_by_name),
        dirs_test(each_controller_is_found_on_its_own),
        engine_test(a_command_over_the_memory_bound_is_killed_and_says_so),
        engine_test(a_box_under_its_bound_is_left_alone),
        engine_test(the_number_of_processes_is_bounded_and_fork_failure_is_clear),
        engine_test(the_cpu_quota_slows_a_spinning_command),
        engine_test(limits_that_make_no_sense_are_refused),
        dirs_test(groups_of_a_crashed_daemon_are_removed_with_what_is_in_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
