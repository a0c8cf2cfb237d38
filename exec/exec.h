// exec: runs commands for sandboxes. This is the only header that other folders include.
//
// What it is: an engine (one event thread, a few worker threads) that owns boxes. A box is one
// running sandbox: a bubblewrap process and the small static init inside it, which forks,
// reaps and reports. A command is one fork of that init, supervised on its own, so that the
// whole tree it started can be ended without touching any other command.
// What it knows: paths, ids, uids and limits. Nothing about views, stores or FUSE.
//
// Threads: every function below may be called from any thread and never blocks on a child
// process or a mount, but for exec_engine_new, exec_engine_free and exec_recover, which may
// take seconds. Every callback runs on the engine's event thread: it must not block, and may
// call any function of this header except exec_engine_free. A callback never runs before the
// function it was given to has returned 0, but it may run on the other thread before the
// caller has looked at that return value: set up what the callback uses first.
// Errors: a function returns 0, or -1 with *err set; then no callback will run. Everything that
// goes wrong later arrives in the callback, exactly once.
// Ownership: specs and their strings are copied; results are valid during the callback only.
// Read next: docs/EXEC.md, then engine.c (the loop), box.c (life of a box), command.c.
#ifndef AF_EXEC_EXEC_H
#define AF_EXEC_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mux/base/error.h"

struct exec_engine;
struct exec_box;
struct exec_command;
struct exec_session;
struct exec_turn;

// ---- engine -----------------------------------------------------------------------------

// Bounds of one box. 0 means the engine's default; the engine's own 0 means the built-in one.
struct exec_limits {
    uint64_t tmp_bytes;      // size of /tmp (built-in 256 MiB)
    uint64_t home_bytes;     // size of HOME, a private tmpfs outside /workspace (256 MiB)
    uint64_t shm_bytes;      // size of /dev/shm (64 MiB)
    uint32_t processes_max;  // processes and threads of one box (RLIMIT_NPROC; 4096)
    uint32_t open_files_max; // file descriptors of one process (RLIMIT_NOFILE; 65536)
};

// Bounds of all processes of one box together, enforced by control groups (processes also by
// RLIMIT_NPROC). 0: none.
struct exec_resources {
    uint64_t memory_bytes; // also what is in /tmp, HOME and /dev/shm, each of which has at most
                           // half of it; swap is not given on top
    uint64_t cpu_quota_us; // CPU time in each 100,000 us: 100,000 is one CPU
    uint64_t cpu_shares;   // weight against others, 2..262144; 1024 is normal
    uint64_t pids_max;     // processes and threads, the init and a supervisor per command included
};

// The Docker runtime. socket NULL: there is none.
struct exec_docker_options {
    const char *socket; // of the Docker Engine API
    bool pull;          // images that are missing are pulled
};

struct exec_options {
    const char *run_dir;       // absolute, existing, root-only directory for the lock and generated
                               // files; one engine per directory
    const char *bwrap_path;    // NULL: "bwrap" from the usual directories (never from $PATH)
    const char *init_path;     // NULL: agentfense-init beside this program, or in ../libexec
    const char *cgroup_parent; // path of a control group for all boxes; NULL: the daemon's own
    struct exec_docker_options docker;
    struct exec_limits limits;
    uint32_t commands_per_box_max; // commands running at once in one box (0: 256)
    int64_t start_timeout_ns;      // a box that is not up after this is ended (0: 10 s)
    int64_t drain_quiet_ns;        // see exec_command_start (0: 100 ms)
    int64_t drain_max_ns;          // (0: 1 s)
    int64_t kill_timeout_ns;       // a command's tree that outlives SIGKILL by this takes its
                                   // box with it (0: 5 s)
};

// What the engine found at start, for the daemon's start-up lines.
struct exec_features {
    char bwrap_version[32];
    char docker_version[32]; // "": there is no Docker runtime
    char cgroups[64];        // which controllers are there: "memory v1, cpu v2, pids none"
    bool seccomp;            // always true today: the engine refuses to start without a filter
};

// Checks the machine (bwrap, the init, user namespaces, mount calls, seccomp: a trial box is
// started and ended), takes the run directory's lock and starts the threads.
// Needs real root (CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID in the initial user namespace).
// Errors: FAILED_PRECONDITION with a sentence that names what is missing or, when a crashed
// daemon's processes still hold the lock, tells to run exec_recover. Blocks for some 20 ms.
int exec_engine_new(const struct exec_options *options, struct exec_engine **ret_engine,
                    struct af_error *err);

// No box is started from now on, and nothing is waited for that only a start needs: for a daemon
// that stops, while its boxes end one by one. Does not block.
void exec_engine_close(struct exec_engine *engine);

// Ends every box and command (their callbacks run first, with AF_CANCELLED), waits until no
// process is left, frees the engine and every box that its owner has not stopped. Blocks. No other
// call on this engine may be running or follow. NULL is allowed.
void exec_engine_free(struct exec_engine *engine);

// The calling thread, and those that it starts from now on, are woken soon also on a machine whose
// CPUs are all in use, in turn for shorter turns (slice.h). For a daemon's first thread.
void exec_short_slices(void);

const struct exec_features *exec_engine_features(const struct exec_engine *engine);

// Ends the processes that a crashed daemon left behind: every process that still holds the lock
// of this run directory (bwrap and inits inherit it; commands live in the init's pid namespace
// and go with it). Call before exec_engine_new and before unmounting the views.
// *ret_ended (may be NULL) is the number of processes that had to be killed.
// While another engine uses the run directory: FAILED_PRECONDITION, and nothing is ended.
// A missing run directory is no error. Blocks, at most 10 s: then AF_UNAVAILABLE. Thread: any.
int exec_recover(const char *run_dir, unsigned *ret_ended, struct af_error *err);

// ---- boxes ------------------------------------------------------------------------------

enum exec_network {
    EXEC_NETWORK_NONE = 0, // only a loopback interface of its own
    EXEC_NETWORK_HOST,     // the machine's, with its resolv.conf
};

enum exec_runtime {
    EXEC_RUNTIME_BWRAP = 0,
    EXEC_RUNTIME_DOCKER,
};

// Nothing has run in a box for idle_ns. Comes again each time that is so.
typedef void (*exec_box_idle)(void *arg);

struct exec_box_spec {
    const char *id;        // the sandbox's id, for messages; printable, at most AF_ID_TEXT_MAX
    const char *view_path; // absolute host path of the directory that becomes /workspace;
                           // NULL: /workspace stays an empty read-only directory
    uid_t uid;             // host ids of everything in the box: unprivileged, one per view slot.
    gid_t gid;             // Inside, the user is always `agent`, 1000:1000
    const char *rootfs;    // absolute host path of a root to use read-only, or NULL for the host's
                           // minimal one (/usr without /usr/local, a generated /etc)
    enum exec_runtime runtime;
    const char *image;    // Docker's; NULL with bubblewrap
    const char *hostname; // NULL: "sandbox"
    enum exec_network network;
    struct exec_limits limits;
    struct exec_resources resources;
    int64_t idle_ns;    // 0: never
    exec_box_idle idle; // with the arg of the other callbacks
};

// Whether this machine can enforce these bounds: FAILED_PRECONDITION says which it cannot,
// INVALID_ARGUMENT which makes no sense. exec_box_start asks the same.
int exec_engine_check_resources(const struct exec_engine *engine,
                                const struct exec_resources *resources, struct af_error *err);

// Called once when a start has ended, `err` NULL when the box is up.
typedef void (*exec_box_done)(void *arg, const struct af_error *err);

// Called at most once, when a box that was up ends without exec_box_stop (its init died, the
// machine ran out of memory, a command's tree could not be killed). Its processes are gone by
// then, and its commands have had their callbacks. The box still has to be given to exec_box_stop.
typedef void (*exec_box_died)(void *arg, const struct af_error *why);

// Starts a box. `died` may be NULL; both callbacks get `arg`.
// *ret_box is valid until exec_box_stop is called on it, whatever `done` says: a box whose start
// failed has to be given to exec_box_stop as well.
// Errors at once: INVALID_ARGUMENT (spec), UNAVAILABLE (the engine is ending), RESOURCE_EXHAUSTED.
// Errors in `done`: FAILED_PRECONDITION (bwrap refused, with its words), NOT_FOUND (no view_path),
// DEADLINE_EXCEEDED, CANCELLED (stopped meanwhile), RESOURCE_EXHAUSTED, INTERNAL.
int exec_box_start(struct exec_engine *engine, const struct exec_box_spec *spec, exec_box_done done,
                   exec_box_died died, void *arg, struct exec_box **ret_box, struct af_error *err);

// The host's pid of a box's init, from which every process of the box descends, and their uid.
// False while it is not up.
bool exec_box_init(const struct exec_box *box, pid_t *ret_pid, uid_t *ret_uid);

// Whether it has ended or is about to, for whatever reason: it takes no commands any more.
bool exec_box_is_ending(const struct exec_box *box);

// Whether a command or session of the box, held ones included, is not over. What was started before
// the call counts, whatever has become of its post.
bool exec_box_busy(const struct exec_box *box);

typedef void (*exec_box_stopped)(void *arg);

// Ends every process of the box (its pid namespace goes), in any state, and releases the handle:
// the caller must not use `box` after this call. Commands still running get AF_CANCELLED before
// `done` (may be NULL) runs; when it runs no process and no mount of the box is left. Cannot fail.
void exec_box_stop(struct exec_box *box, exec_box_stopped done, void *arg);

// ---- pool -------------------------------------------------------------------------------

// Boxes that were started ahead, without a view. A start from the pool attaches the view and no
// more. Members are kept at `size`, refilled in the background.

struct exec_pool;

struct exec_pool_options {
    unsigned size;
    enum exec_runtime runtime;       // of every member, as in exec_box_spec, as the next two
    const char *image;               // copied
    const char *rootfs;              // copied
    struct exec_limits limits;       // of every member
    struct exec_resources resources; // of every sandbox of the pool
    // Ids for members, and back when the pool is freed. On a worker thread and on that of the
    // caller of exec_pool_free; may block for a moment. uid_take: 0, or -1 when there is none.
    int (*uid_take)(void *arg, uid_t *ret_uid);
    void (*uid_give)(void *arg, uid_t uid);
    void *arg;
};

int exec_pool_new(struct exec_engine *engine, const struct exec_pool_options *options,
                  struct exec_pool **ret_pool, struct af_error *err);
// Ends the members and waits for that. Before exec_engine_free. NULL is allowed.
void exec_pool_free(struct exec_pool *pool);
// A member, or NULL when there is none now, also for a pool that is NULL. Its uid (and gid) is the
// caller's from now on. The box has to be given to exec_box_adopt, once, to exec_box_stop, or back.
struct exec_box *exec_pool_take(struct exec_pool *pool, uid_t *ret_uid);
// Gives a member back that was not adopted, and its uid.
void exec_pool_return(struct exec_pool *pool, struct exec_box *box);
// Members that wait.
unsigned exec_pool_count(struct exec_pool *pool);

// Gives a box of the pool its sandbox: of the spec the id, the view, the resources and the idle
// time count. From then on everything is as after exec_box_start; `done` says that the view is
// attached. When it fails at once, the box has to be given to exec_box_stop.
int exec_box_adopt(struct exec_box *box, const struct exec_box_spec *spec, exec_box_done done,
                   exec_box_died died, void *arg, struct af_error *err);

// ---- commands ---------------------------------------------------------------------------

struct exec_env {
    const char *name; // not empty, without '='
    const char *value;
};

enum exec_output_kind { EXEC_OUTPUT_STDOUT, EXEC_OUTPUT_STDERR };

// A receiver of output as it comes: at most 64 KiB at a time, in order for each of the two kinds.
// Returns whether there is room for more. If not, nothing more is read (the command blocks when
// its pipes are full) until exec_command_resume or exec_turn_resume. Two things do not wait for
// that: the end of the command, before which the rest of its pipes arrives, and its timeout.
typedef bool (*exec_command_output)(void *arg, enum exec_output_kind kind, const char *bytes,
                                    size_t len);

// The leader executes its program. On the event thread, before any output, at most once; not at all
// when the program could not be run.
typedef void (*exec_command_started)(void *arg);

// A terminal's size in characters; 0 is 24 rows, 80 columns.
struct exec_window {
    uint16_t rows, columns;
};

struct exec_command_spec {
    // Exactly one of the three. A command line runs in the root's bash where there is one, else in
    // its sh, as `SHELL -c LINE`; an argv is executed as it is, found through PATH.
    const char *shell_line;
    const char *const *argv;    // NULL-terminated
    bool root_shell;            // that shell itself,
    const char *shell_argument; // with one argument; NULL: none

    const void *stdin_bytes; // NULL: /dev/null
    size_t stdin_len;        // at most AF_STDIN_MAX

    // Added to HOME, PATH, LANG, TERM, USER, LOGNAME, SHELL and PWD, which they may replace.
    const struct exec_env *env;
    size_t env_count; // at most AF_ENV_MAX

    const char *workdir;     // absolute path inside; NULL or "": /workspace
    int64_t timeout_ns;      // 0: AF_TIMEOUT_DEFAULT_NS; at most AF_TIMEOUT_MAX_NS
    size_t output_bytes_max; // kept of each of stdout and stderr; 0: AF_OUTPUT_MAX
    // NULL: output is kept for the result. Else it goes here, with the `arg` of the callback at the
    // end, and the result has only its total_bytes.
    exec_command_output on_output;

    // Waits for exec_command_release, which must come once, also after an early end. Its timeout
    // runs from the start.
    bool held;

    // For commands that are talked to while they run.
    bool controlled;                 // takes exec_command_signal, and on_started is told
    exec_command_started on_started; // may be NULL
    bool stdin_open;                 // stdin is what exec_command_write brings (not stdin_bytes)
    // The three streams are a terminal of this size, the leader's controlling one; everything it
    // shows is stdout. NULL: pipes. TERM is then xterm-256color unless it is in env.
    const struct exec_window *terminal;
};

struct exec_output {
    const char *bytes; // never NULL; any bytes; bytes[len] is '\0'
    size_t len;
    uint64_t total_bytes; // what the command wrote, as far as it was read
    bool truncated;       // total_bytes > len
};

// What to do about a memory limit that was reached.
#define EXEC_MEMORY_ADVICE                                                                         \
    "files in /tmp, /dev/shm and the home directory count, and go when the sandbox is stopped"

struct exec_result {
    struct exec_output out;
    struct exec_output err;
    int exit_code;       // 0..255 when signal is 0, else 128 + signal (as shells say it)
    int signal;          // 0, or the signal that ended the leader
    int64_t duration_ns; // from the call of exec_command_start to the end
    bool out_of_memory;  // the box reached its memory bound while the command ran, and the kernel
                         // killed a process of it (of this command, or of another), whatever the
                         // exit code says; or the command failed and found none to kill
    bool timed_out;      // the tree was killed at the timeout; exit_code and signal mean nothing
};

// Called exactly once per started command.
// err NULL: *result is complete (for timed_out: everything printed until the kill).
// err set: there is no exit code. *result holds the output read so far (exit_code -1). Statuses:
//   CANCELLED            exec_command_cancel, exec_box_stop or exec_engine_free
//   INVALID_ARGUMENT     the program or workdir cannot be used (the text says which and why)
//   UNAVAILABLE          the box's init ended
//   ABORTED              the command's supervisor was killed from inside the box
//   RESOURCE_EXHAUSTED   fork failed, too many commands at once, or the box's memory bound has
//                        killed the command's supervisor
// In every case nothing that the command started is running any more.
typedef void (*exec_command_done)(void *arg, const struct af_error *err,
                                  const struct exec_result *result);

// Starts a command in a box. While the box starts, it waits (its timeout runs). One command is its
// leader: when the leader has exited and its pipes are closed, the command is over. When something
// it started still holds the pipes, they are read until nothing came for drain_quiet_ns, at most
// drain_max_ns; then what is left running is killed (also what has left the session or was forked
// twice). *ret_command (ret_command may be NULL) is a reference that the caller gives back with
// exec_command_unref.
// Errors at once: INVALID_ARGUMENT (spec), FAILED_PRECONDITION (the box was never started, or has
// no shell). In a box that ends, or could not start, the command's end says why. Of a container
// that is not up yet it is not known what it has: what is wrong with a command for it may come as
// its end instead.
int exec_command_start(struct exec_box *box, const struct exec_command_spec *spec,
                       exec_command_done done, void *arg, struct exec_command **ret_command,
                       struct af_error *err);

// Kills everything that the command started; `done` then gets AF_CANCELLED. Nothing happens when
// the command is over already.
void exec_command_cancel(struct exec_command *command);

// There is room again after on_output has returned false. Harmless at any other time, also when it
// comes before on_output has returned.
void exec_command_resume(struct exec_command *command);

// Bytes for the stdin of a command with stdin_open are in its pipe or terminal (err NULL), or will
// never get there: FAILED_PRECONDITION, it has closed its stdin or has ended.
typedef void (*exec_command_written)(void *arg, const struct af_error *err);

// What follows the bytes of a write. EOF closes stdin. In a terminal it is a key (Ctrl-D), which is
// typed once, or for good: again whenever the program could wait for input that does not come.
enum exec_eof { EXEC_EOF_NONE, EXEC_EOF_ONCE, EXEC_EOF_FOR_GOOD };

// Queues a copy of the bytes; `done` (may be NULL) is called exactly once unless -1 is returned.
// Writes happen in the order of the calls, the end of input after the bytes.
// Errors at once: FAILED_PRECONDITION (no stdin_open), RESOURCE_EXHAUSTED (AF_STDIN_QUEUE_MAX bytes
// wait already: wait for `done`).
int exec_command_write(struct exec_command *command, const void *bytes, size_t len,
                       enum exec_eof eof, exec_command_written done, void *arg,
                       struct af_error *err);

// Sends a signal to the leader of a controlled command, or with `all` to everything that it has
// started. Answers when the supervisor has the order. Nothing happens when the command is over.
// Errors: INVALID_ARGUMENT (no such signal), FAILED_PRECONDITION (not controlled).
int exec_command_signal(struct exec_command *command, int number, bool all, struct af_error *err);

// Nobody reads these outputs any more: the pipes are closed, and who writes to them hears of it
// from the kernel (SIGPIPE, EPIPE). Nothing happens to a command that has not started or is over.
// Errors: FAILED_PRECONDITION (it has a terminal, which is one for both).
int exec_command_close_output(struct exec_command *command, bool out, bool err_output,
                              struct af_error *err);

// Sets the size of the command's terminal; its foreground processes get SIGWINCH.
// Errors: FAILED_PRECONDITION (no terminal).
int exec_command_resize(struct exec_command *command, const struct exec_window *window,
                        struct af_error *err);

// Lets a held command begin. Harmless when it is over.
void exec_command_release(struct exec_command *command);

// One more reference. Gives the caller's back: the command goes on; NULL is allowed.
void exec_command_ref(struct exec_command *command);
void exec_command_unref(struct exec_command *command);

// ---- sessions ---------------------------------------------------------------------------

// A session is a shell that stays: its directory, variables, functions, descriptors and background
// jobs last from one command line to the next. Each line is a turn; turns run one at a time, in
// the order in which they came. A session is one of its box's commands, without a timeout.
// A turn that is cancelled or runs into its timeout ends the session with everything in it: a
// shell of which only the running program is killed would go on with the rest of the line.

struct exec_session_spec {
    const char *shell; // a path, or a name for PATH, of a POSIX-like shell; NULL or "": the root's
                       // bash, else its sh
    const struct exec_env *env;
    size_t env_count; // as in a command
};

// The shell has come up (err NULL), or the session is over: INVALID_ARGUMENT (no such shell, or it
// is none, with its words), DEADLINE_EXCEEDED, and what a command's end may say.
typedef void (*exec_session_ready)(void *arg, const struct af_error *err);

// A session that was ready is over, and no process of it is left. Comes before the callbacks of
// the turns that end with it.
typedef void (*exec_session_closed)(void *arg);

// Starts a session in a box, as a command; both callbacks get `arg`. *ret_session is a reference
// that the caller gives back with exec_session_unref, whatever the callbacks say. Errors at once:
// as exec_command_start.
int exec_session_start(struct exec_box *box, const struct exec_session_spec *spec,
                       exec_session_ready ready, exec_session_closed closed, void *arg,
                       struct exec_session **ret_session, struct af_error *err);

// The shell's path or name, constant once the session is ready.
const char *exec_session_shell(const struct exec_session *session);

// Kills everything of the session. Its turns end with CANCELLED. Allowed when it is over.
void exec_session_close(struct exec_session *session);

// Gives the caller's reference back. The session goes on. NULL is allowed.
void exec_session_unref(struct exec_session *session);

struct exec_turn_spec {
    const char *line;              // any text; AF_COMMAND_MAX
    int64_t timeout_ns;            // from when it is its turn; as in a command
    size_t output_bytes_max;       // as in a command
    exec_command_output on_output; // as in a command
    bool held;                     // as in a command: joins the queue at exec_turn_release
};

// Runs a line in the session's shell. Its output is what comes while it runs, and what came since
// the turn before from background jobs (at most AF_SESSION_IDLE_OUTPUT_MAX of each stream).
// `done` is as for a command; the exit code is the shell's $?, or that of the shell itself when it
// ended. In addition:
//   FAILED_PRECONDITION  the session is over (also while the turn was waiting)
//   RESOURCE_EXHAUSTED   AF_SESSION_TURNS_MAX are waiting already
//   ABORTED              the line has broken the session's control channel, which ends the session
// *ret_turn (ret_turn may be NULL) is a reference, for exec_turn_unref.
// Errors at once: INVALID_ARGUMENT (spec).
int exec_session_run(struct exec_session *session, const struct exec_turn_spec *spec,
                     exec_command_done done, void *arg, struct exec_turn **ret_turn,
                     struct af_error *err);

// A waiting turn leaves the queue; a running one ends with its session. `done` gets AF_CANCELLED.
// Nothing happens when the turn is over.
void exec_turn_cancel(struct exec_turn *turn);
// As exec_command_resume.
void exec_turn_resume(struct exec_turn *turn);
// Lets a held turn join the queue of its session.
void exec_turn_release(struct exec_turn *turn);
// One more reference. Gives the caller's back; NULL is allowed.
void exec_turn_ref(struct exec_turn *turn);
void exec_turn_unref(struct exec_turn *turn);

#endif
