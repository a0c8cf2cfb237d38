// Processes are stopped in a box's pid namespace, and never in the one that the daemon runs in, nor
// in another box's.
//
// The test is in a namespace of its own: where the guard is broken, it is that one that stands
// still, and not the machine.
#include "exec/members.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 12345

enum outcome { REFUSED, NO_NAMESPACE, NOT_REFUSED, STOPPED };

static pid_t child_that_waits(void)
{
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    return child;
}

static bool is_stopped(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

// As the first process of its pid namespace: what the pid of an init that has ended may name then.
static enum outcome stop_in_own_namespace(void)
{
    if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", 0, NULL) < 0)
        return NO_NAMESPACE;
    pid_t reused = child_that_waits(), zombie = fork();
    if (zombie == 0)
        _exit(0);
    siginfo_t info;
    if (reused < 0 || zombie < 0 || waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT) < 0)
        return NO_NAMESPACE;
    pid_t other = unshare(CLONE_NEWPID) < 0 ? -1 : child_that_waits();
    if (other < 0)
        return NO_NAMESPACE;
    const struct {
        pid_t init;
        uid_t uid;
    } boxes[] = {{reused, 0}, {zombie, 0}, {getpid(), 0}, {other, NOBODY}};
    for (size_t i = 0; i < sizeof(boxes) / sizeof(boxes[0]); i++) {
        struct exec_members members;
        if (exec_members_stop(boxes[i].init, boxes[i].uid, &members) != -ESRCH)
            return is_stopped(reused) ? STOPPED : NOT_REFUSED;
    }
    return is_stopped(reused) ? STOPPED : REFUSED;
}

static void an_init_whose_pid_is_another_process_now_stops_nobody_outside_of_boxes(void **state)
{
    (void)state;
    int status;
    pid_t outer = fork();
    if (outer == 0) {
        if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
            _exit(NO_NAMESPACE);
        pid_t inner = fork();
        if (inner == 0)
            _exit(stop_in_own_namespace());
        _exit(waitpid(inner, &status, 0) == inner && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                       : NO_NAMESPACE);
    }
    assert_true(outer > 0);
    assert_int_equal(waitpid(outer, &status, 0), outer);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), REFUSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_init_whose_pid_is_another_process_now_stops_nobody_outside_of_boxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
