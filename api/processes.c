// The table of processes, and the life of one. See processes.h.
//
// Owns: entries, by id and grouped by sandbox. An entry is held by the table, by exec until it has
// ended, and by whoever has found it. One that is starting is counted but not shown.
// Locks: processes->lock over the table, then process->lock over what changes in one.
// Fails: for want of memory. Read next: process_output.c, services/process_service.c.
#include "api/processes_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct group {
    char sandbox_id[AF_ID_TEXT_MAX];
    struct process *processes; // oldest first
    unsigned running, ended;   // running ones and those that are starting
    UT_hash_handle hh;
};

struct processes {
    struct runner *runner;
    pthread_mutex_t lock;
    struct process *processes; // by id
    struct group *groups;      // by sandbox
};

// ---- memory -----------------------------------------------------------------------------

void process_unref(struct process *process)
{
    if (!process || atomic_fetch_sub(&process->refs, 1) != 1)
        return;
    exec_command_unref(process->command);
    for (char **arg = process->argv; arg && *arg; arg++)
        free(*arg);
    free(process->argv);
    free(process->command_line);
    af_ring_fini(&process->kept[EXEC_OUTPUT_STDOUT]);
    af_ring_fini(&process->kept[EXEC_OUTPUT_STDERR]);
    pthread_mutex_destroy(&process->lock);
    free(process);
}

// What is shown of the command.
static int copy_command(struct process *process, const struct exec_command_spec *spec)
{
    size_t argc = 0;
    if (spec->shell_line)
        return (process->command_line = strdup(spec->shell_line)) ? 0 : -ENOMEM;
    while (spec->argv && spec->argv[argc])
        argc++;
    if (argc == 0)
        return 0;
    process->argv = calloc(argc + 1, sizeof *process->argv);
    for (size_t i = 0; process->argv && i < argc; i++)
        if (!(process->argv[i] = strdup(spec->argv[i])))
            return -ENOMEM;
    return process->argv ? 0 : -ENOMEM;
}

static struct process *process_new(struct processes *processes, const char *sandbox_id,
                                   const struct exec_command_spec *spec,
                                   const struct process_hooks *hooks, void *arg)
{
    struct process *process = calloc(1, sizeof *process);
    if (!process)
        return NULL;
    af_id_new("proc", &process->id);
    snprintf(process->sandbox_id, sizeof process->sandbox_id, "%s", sandbox_id);
    process->processes = processes;
    atomic_init(&process->refs, 1);
    pthread_mutex_init(&process->lock, NULL);
    process->terminal = spec->terminal != NULL;
    process->stdin_open = spec->stdin_open;
    process->background = !hooks->output;
    process->hooks = *hooks;
    process->arg = arg;
    LIST_INIT(&process->readers);
    af_ring_init(&process->kept[EXEC_OUTPUT_STDOUT], AF_PROCESS_OUTPUT_MAX);
    af_ring_init(&process->kept[EXEC_OUTPUT_STDERR], AF_PROCESS_OUTPUT_MAX);
    if (copy_command(process, spec) < 0) {
        process_unref(process);
        return NULL;
    }
    return process;
}

// ---- the table, under its lock ----------------------------------------------------------

static struct group *find_group(struct processes *processes, const char *sandbox_id)
{
    struct group *group;
    HASH_FIND_STR(processes->groups, sandbox_id, group);
    return group;
}

// Takes the process out of the table. The caller then drops the table's reference.
static void forget(struct processes *processes, struct group *group, struct process *process)
{
    HASH_DEL(processes->processes, process);
    DL_DELETE(group->processes, process);
    process->known = false;
    if (process->counted_running)
        group->running--;
    else
        group->ended--;
    if (group->processes)
        return;
    HASH_DEL(processes->groups, group);
    free(group);
}

static int enter(struct processes *processes, struct process *process, struct af_error *err)
{
    struct group *group = find_group(processes, process->sandbox_id);
    if (group && group->running >= AF_PROCESSES_MAX)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "sandbox %s has %u processes: end some, or wait for their end",
                            process->sandbox_id, group->running);
    if (!group) {
        group = calloc(1, sizeof *group);
        if (!group)
            return af_error_errno(err, ENOMEM, "cannot start a process");
        snprintf(group->sandbox_id, sizeof group->sandbox_id, "%s", process->sandbox_id);
        HASH_ADD_STR(processes->groups, sandbox_id, group);
    }
    HASH_ADD_KEYPTR(hh, processes->processes, process->id.text, strlen(process->id.text), process);
    DL_APPEND(group->processes, process);
    group->running++;
    process->known = process->counted_running = true;
    atomic_fetch_add(&process->refs, 1);
    return 0;
}

// The oldest that has ended, when there are too many of those.
static struct process *surplus(struct group *group)
{
    struct process *process;
    if (group->ended <= AF_PROCESSES_KEPT_MAX)
        return NULL;
    DL_FOREACH (group->processes, process)
        if (!process->counted_running)
            return process;
    return NULL;
}

// The process has ended. `keep`: as one that has ended.
static void leave(struct process *process, bool keep)
{
    struct processes *processes = process->processes;
    struct process *gone = NULL;
    pthread_mutex_lock(&processes->lock);
    if (process->known) {
        struct group *group = find_group(processes, process->sandbox_id);
        if (keep) {
            process->counted_running = false;
            group->running--;
            group->ended++;
        }
        gone = keep ? surplus(group) : process;
        if (gone)
            forget(processes, group, gone);
    }
    pthread_mutex_unlock(&processes->lock);
    process_unref(gone);
}

// ---- what exec says ---------------------------------------------------------------------

static struct process_info info_of(const struct process *process)
{
    return (struct process_info){
        .id = process->id.text,
        .sandbox_id = process->sandbox_id,
        .argv = (const char *const *)process->argv,
        .command = process->command_line,
        .terminal = process->terminal,
        .stdin_open = process->stdin_open,
        .background = process->background,
        .started_ns = process->started_ns,
        .ended_ns = process->ended_ns,
        .end = process->ended_ns ? &process->end : NULL,
    };
}

static void on_started(void *arg)
{
    struct process *process = arg;
    pthread_mutex_lock(&process->lock);
    process->started_ns = af_wall_ns();
    struct process_info info = info_of(process);
    pthread_mutex_unlock(&process->lock);
    process->hooks.launched(process->arg, &info);
}

static bool on_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct process *process = arg;
    if (!process->background)
        return process->hooks.output(process->arg, kind, bytes, len);
    process_keep(process, kind, bytes, len);
    return true;
}

static void on_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct process *process = arg;
    pthread_mutex_lock(&process->lock);
    process->end = (struct process_end){
        .exit_code = err || result->timed_out ? -1 : result->exit_code,
        .signal = err || result->timed_out ? 0 : result->signal,
        .duration_ns = result->duration_ns,
        .timed_out = result->timed_out,
        // What lasts is not told of a kill that it has survived.
        .out_of_memory = result->out_of_memory &&
                         (result->exit_code != 0 || !(process->background || process->terminal)),
    };
    if (err)
        process->end.error = *err;
    process->ended_ns = af_wall_ns();
    bool keep = process->background && process->started_ns;
    process_wake_readers(process, true);
    pthread_mutex_unlock(&process->lock);
    leave(process, keep);
    process->hooks.ended(process->arg, err, result);
    process_unref(process);
}

// ---- the functions ----------------------------------------------------------------------

int processes_new(struct runner *runner, struct processes **ret, struct af_error *err)
{
    struct processes *processes = calloc(1, sizeof *processes);
    if (!processes)
        return af_error_errno(err, ENOMEM, "processes");
    processes->runner = runner;
    pthread_mutex_init(&processes->lock, NULL);
    *ret = processes;
    return 0;
}

void processes_forget(struct processes *processes, const char *sandbox_id)
{
    for (;;) {
        pthread_mutex_lock(&processes->lock);
        struct group *group = find_group(processes, sandbox_id);
        struct process *process = group ? group->processes : NULL;
        if (process)
            forget(processes, group, process);
        pthread_mutex_unlock(&processes->lock);
        if (!process)
            return;
        process_unref(process);
    }
}

void processes_free(struct processes *processes)
{
    if (!processes)
        return;
    while (processes->groups) {
        char id[AF_ID_TEXT_MAX];
        snprintf(id, sizeof id, "%s", processes->groups->sandbox_id);
        processes_forget(processes, id);
    }
    pthread_mutex_destroy(&processes->lock);
    free(processes);
}

int processes_start(struct processes *processes, const char *sandbox_id,
                    const struct exec_command_spec *spec, const struct process_hooks *hooks,
                    void *arg, struct process **ret, struct af_error *err)
{
    struct process *process = process_new(processes, sandbox_id, spec, hooks, arg);
    if (!process)
        return af_error_errno(err, ENOMEM, "cannot start a process");
    pthread_mutex_lock(&processes->lock);
    int rc = enter(processes, process, err);
    pthread_mutex_unlock(&processes->lock);
    if (rc < 0) {
        process_unref(process);
        return -1;
    }
    struct exec_command_spec own = *spec;
    own.controlled = true;
    own.on_started = on_started;
    own.on_output = on_output;
    atomic_fetch_add(&process->refs, 1); // exec's
    *ret = process;                      // set before any hook can run
    // A terminal may stand open for hours, as a background process may run.
    rc = process->background || process->terminal
             ? runner_background(processes->runner, sandbox_id, &own, on_done, process,
                                 &process->command, err)
             : runner_command(processes->runner, sandbox_id, &own, on_done, process,
                              &process->command, err);
    if (rc == 0)
        return 0;
    *ret = NULL;
    leave(process, false);
    process_unref(process);
    process_unref(process);
    return -1;
}

int processes_find(struct processes *processes, const char *id, struct process **ret,
                   struct af_error *err)
{
    struct process *process;
    pthread_mutex_lock(&processes->lock);
    HASH_FIND_STR(processes->processes, id, process);
    if (process) {
        pthread_mutex_lock(&process->lock);
        bool shown = process->started_ns != 0;
        pthread_mutex_unlock(&process->lock);
        if (shown)
            atomic_fetch_add(&process->refs, 1);
        else
            process = NULL;
    }
    pthread_mutex_unlock(&processes->lock);
    if (!process)
        return af_error_set(err, AF_NOT_FOUND,
                            "there is no process %s (they end with the daemon; a foreground one is "
                            "known while it runs)",
                            id);
    *ret = process;
    return 0;
}

int process_look(struct process *process, process_seen seen, void *arg)
{
    pthread_mutex_lock(&process->lock);
    struct process_info info = info_of(process);
    int rc = seen(arg, &info);
    pthread_mutex_unlock(&process->lock);
    return rc;
}

static int list_group(const struct group *group, process_seen seen, void *arg)
{
    int rc = 0;
    struct process *process;
    DL_FOREACH (group->processes, process) {
        pthread_mutex_lock(&process->lock);
        struct process_info info = info_of(process);
        if (info.started_ns)
            rc = seen(arg, &info);
        pthread_mutex_unlock(&process->lock);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int processes_list(struct processes *processes, const char *sandbox_id, process_seen seen,
                   void *arg)
{
    int rc = 0;
    pthread_mutex_lock(&processes->lock);
    struct group *group, *next;
    HASH_ITER (hh, processes->groups, group, next)
        if (rc == 0 && (!sandbox_id || strcmp(group->sandbox_id, sandbox_id) == 0))
            rc = list_group(group, seen, arg);
    pthread_mutex_unlock(&processes->lock);
    return rc;
}

// ---- control ----------------------------------------------------------------------------

void process_cancel(struct process *process)
{
    exec_command_cancel(process->command);
}

void process_resume(struct process *process)
{
    exec_command_resume(process->command);
}

static int check_running(struct process *process, struct af_error *err)
{
    pthread_mutex_lock(&process->lock);
    bool ended = process->ended_ns != 0;
    pthread_mutex_unlock(&process->lock);
    return ended
               ? af_error_set(err, AF_FAILED_PRECONDITION, "process %s has ended", process->id.text)
               : 0;
}

int process_write(struct process *process, const void *bytes, size_t len, bool eof,
                  exec_command_written done, void *arg, struct af_error *err)
{
    if (check_running(process, err) < 0)
        return -1;
    // One in the foreground has its client for as long as it runs, and none comes after that.
    enum exec_eof end = !eof                  ? EXEC_EOF_NONE
                        : process->background ? EXEC_EOF_ONCE
                                              : EXEC_EOF_FOR_GOOD;
    return exec_command_write(process->command, bytes, len, end, done, arg, err);
}

int process_signal(struct process *process, int number, bool all, struct af_error *err)
{
    if (check_running(process, err) < 0)
        return -1;
    return exec_command_signal(process->command, number, all, err);
}

int process_close_output(struct process *process, bool out, bool err_output, struct af_error *err)
{
    if (check_running(process, err) < 0)
        return -1;
    return exec_command_close_output(process->command, out, err_output, err);
}

int process_resize(struct process *process, const struct exec_window *window, struct af_error *err)
{
    if (check_running(process, err) < 0)
        return -1;
    return exec_command_resize(process->command, window, err);
}
