// An engine with one box whose view is a plain directory, and blocking words for what tests do.
//
// The asynchronous interface is made synchronous with a condition variable: no test sleeps.
// Needs root, bubblewrap and the built agentfense-init ($AGENTFENSE_INIT, else bin/ of the build
// that the test program is in). Helpers assert that they work.
#ifndef AF_TESTS_EXEC_FIXTURE_H
#define AF_TESTS_EXEC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>

#include "exec/exec.h"
#include "mux/base/clock.h"

#define XT_UID     (xt_uid())
#define XT_SECOND  1000000000LL
#define XT_WAIT_NS (60 * XT_SECOND) // a callback that takes longer fails the test

// Looks until a condition holds, for which no callback comes; the same bound.
#define xt_until(condition)                                                                        \
    for (int64_t end_ns = af_monotonic_ns() + XT_WAIT_NS; !(condition); sched_yield())             \
        if (af_monotonic_ns() > end_ns)                                                            \
    fail_msg("not within %lld s: %s", XT_WAIT_NS / XT_SECOND, #condition)

// What a command gave. Freed by xt_done_free.
struct xt_done {
    bool over;
    bool failed;
    struct af_error error;
    char *out, *err;
    size_t out_len, err_len;
    struct exec_result result; // its pointers are not valid
    struct xt_done *next;      // every done of a test, freed by the teardown
};

struct xt {
    char dir[64];
    char run_dir[80];
    char view[80];
    struct exec_engine *engine;
    struct exec_box *box;
    struct xt_done *dones;
    // Of the last box started through the fixture.
    bool started, stopped, died;
    struct af_error start_error, died_error; // AF_OK when none
};

// The host uid (and gid) of this test program's box, the first of 64 that no other test program
// that runs at the same time uses: tests count the processes of a uid.
uid_t xt_uid(void);

// Options with the run directory and the init of this test.
struct exec_options xt_options(const struct xt *xt);
const char *xt_init_path(void);

// Fixtures: directories only; an engine; an engine and a box that is up.
int xt_setup_dirs(void **state);
int xt_setup_engine(void **state);
int xt_setup_box(void **state);
int xt_teardown(void **state);
#define xt_test(fn) cmocka_unit_test_setup_teardown(fn, xt_setup_box, xt_teardown)

void xt_engine_open(struct xt *xt, const struct exec_options *options);
void xt_engine_close(struct xt *xt);

// Starts a box and waits; xt->start_error says how it went.
struct exec_box *xt_box_try(struct xt *xt, const struct exec_box_spec *spec);
struct exec_box *xt_box_start(struct xt *xt, const char *id, uid_t uid);
// Starts xt->box and does not wait.
void xt_box_begin(struct xt *xt, const struct exec_box_spec *spec);
// Gives a box of a pool its sandbox and waits, as xt_box_try.
void xt_box_adopt(struct xt *xt, struct exec_box *box, const struct exec_box_spec *spec);
void xt_box_stop(struct xt *xt, struct exec_box *box);
void xt_wait_died(struct xt *xt);

// Starts a command and returns at once; xt_wait waits for its end.
struct xt_done *xt_start(struct xt *xt, const struct exec_command_spec *spec,
                         struct exec_command **ret_command);
void xt_wait(struct xt_done *done);
// Runs a command line to its end.
struct xt_done *xt_sh(struct xt *xt, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct xt_done *xt_run(struct xt *xt, const struct exec_command_spec *spec);
// The command ended with this exit code; its stderr is shown when not.
void xt_expect_exit(const struct xt_done *done, int code);

// Waits until a file of the view exists (made by a command), with inotify.
void xt_wait_file(struct xt *xt, const char *name);
void xt_write_file(struct xt *xt, const char *name, const char *text);
char *xt_read_file(struct xt *xt, const char *name, char *buffer, size_t size);

// Processes of the machine that run as this uid (ended ones that their parent has not reaped do
// not count: after a crash that parent is the machine's process 1); descriptors of this process;
// its children, also those that have ended.
unsigned xt_processes_of(uid_t uid);
// The init of the one box of this uid, as the host sees it.
pid_t xt_init_pid(uid_t uid);
unsigned xt_open_fds(void);
unsigned xt_children(void);

#endif
