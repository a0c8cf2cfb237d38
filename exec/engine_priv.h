// What the files of exec share: the engine, boxes, commands and who may touch them.
//
// Threads. "event" is the engine's event thread, "lane" a worker thread (lane.c), "any" callers.
//   Fields are the event thread's, unless a comment says otherwise. Callers reach the event
//   thread by exec_post; lanes get jobs and answer them by exec_post.
// Locks, none held across a system call that can block, nor across a callback:
//   rank 0  sender->lock           what is sent to a box (send.c); posts are made under it
//   rank 0  docker->pull_lock      pulls of images (docker_pull.c); jobs are queued under it
//   rank 1  engine->inbox_lock     the list of posts
//   rank 1  lane->lock             a lane's list
//   rank 1  pool->lock             a pool's members (pool.c); posts may be made under it
//   rank 2  cgroup->lock           a group's counts (cgroup.c)
//   rank 2  late->lock             containers that are left (docker_late.c)
// Freeing: an object that epoll may still name in the current batch is freed at the end of the
// batch (exec_engine_bury). Read next: engine.c, box.c, command.c, lane.c.
#ifndef AF_EXEC_ENGINE_PRIV_H
#define AF_EXEC_ENGINE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "exec/cgroup.h"
#include "exec/exec.h"
#include "exec/gather.h"
#include "exec/init/protocol.h"
#include "exec/timer.h"
#include "mux/base/limits.h"

#define EXEC_ENGINE_MAGIC  0xe8ec0001u
#define EXEC_BOX_MAGIC     0xe8ec0002u
#define EXEC_COMMAND_MAGIC 0xe8ec0003u
#define EXEC_AREA          "exec"
#define EXEC_POOL_NICE     10 // of what is started ahead

// A call to be made on the event thread. Embedded in what it is about, so that it cannot fail.
struct exec_post {
    STAILQ_ENTRY(exec_post) link;
    void (*fn)(struct exec_post *post);
};
STAILQ_HEAD(exec_post_list, exec_post);

// A descriptor in the epoll set.
struct exec_watch {
    int fd; // -1: none
    void (*fn)(struct exec_watch *watch, uint32_t events);
};

// Something to be freed after the current batch of events.
struct exec_grave {
    SLIST_ENTRY(exec_grave) link;
    void (*free_fn)(struct exec_grave *grave);
};
SLIST_HEAD(exec_grave_list, exec_grave);

// Work for a lane.
struct exec_job {
    STAILQ_ENTRY(exec_job) link;
    void (*run)(struct exec_job *job); // lane; ends with exec_post
};
STAILQ_HEAD(exec_job_list, exec_job);

// A worker thread and what it has to do.
enum exec_lane_kind {
    EXEC_LANE_SPAWN,  // spawns bwrap; lives until the last box is gone (--die-with-parent)
    EXEC_LANE_ATTACH, // checks inits, attaches views: short, never behind a spawn
    EXEC_LANE_DOCKER, // waits for the Docker daemon; several threads
    EXEC_LANE_PULL,   // waits for registries; several threads, and no start behind them
    EXEC_LANES,
};
#define EXEC_LANE_THREADS_MAX 4
struct exec_lane {
    pthread_t threads[EXEC_LANE_THREADS_MAX];
    unsigned started; // of them
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct exec_job_list jobs[2]; // lock; [1]: what waits for all of [0]
    bool end;                     // lock
};

// ---- box --------------------------------------------------------------------------------

enum exec_box_state {
    BOX_LAUNCHING, // a lane makes the user namespace and spawns bwrap
    BOX_GREETING,  // waiting for the init's HELLO
    BOX_ATTACHING, // a lane checks the init and attaches the view
    BOX_UP,
    BOX_ENDING, // killed, waiting for its processes to be gone
    BOX_GONE,   // no process left; waits for exec_box_stop, or for its last job
};

enum exec_pull { EXEC_PULL_NONE, EXEC_PULL_DONE, EXEC_PULL_FAILED };

// What a lane works on: written by the event thread before the job is queued, by the
// lane until it posts `done`, and by the event thread again from then on.
struct exec_launch {
    struct exec_job job;
    struct exec_post done;
    bool running;
    bool failed;
    struct af_error error;
    // The name of its container, "" as long as there is none.
    char container[AF_ID_TEXT_MAX + 32];
    bool may_come;       // Docker has not said whether it is there
    enum exec_pull pull; // of the image: how it went; FAILED: `error` says why
    char docker_dir[32]; // the box's directory below the run directory's, "": none
    char **env;          // of the image, NULL-terminated NAME=VALUE; constant once the box is up
    int bwrap_pidfd;
    pid_t bwrap_pid;
    int init_pidfd; // for the attach job, closed when that is done
    pid_t init_pid;
    int pts_fd;                     // found by the attach job: the box's devpts (O_PATH), -1: none
    int socket_fd;                  // the engine's end
    struct exec_cgroup *old_cgroup; // for the remove job
    struct exec_cgroup *cgroup;     // made by the attach job; NULL: the box has no bounds
    int words_fd;                   // memfd with what bwrap wrote on stderr
};

// What is said to a box's init (send.c).
struct exec_sender {
    pthread_mutex_t lock;
    int fd;              // lock: the box's socket while callers may send, else -1
    unsigned slots_used; // lock: commands that the init has
    uint64_t last_id;    // lock: of the commands told to the init
};

struct exec_box {
    unsigned magic;
    enum exec_box_state state;
    struct exec_engine *engine;
    LIST_ENTRY(exec_box) link;
    struct exec_grave grave;
    atomic_int init_up; // the init's pid while the box is up, else 0; any thread may read
    atomic_uint users;  // commands that are not over, from their start on; any thread
    atomic_bool open;   // takes commands: not ending; any thread may read
    atomic_bool ending; // state is BOX_ENDING or later; any thread may read
    atomic_bool known;  // its shell and the image's variables are; any thread may read

    // The spec, constant after exec_box_start but for what adoption gives.
    char id[AF_ID_TEXT_MAX + 1]; // adoption
    char *view_path;             // adoption
    const struct exec_backend *backend;
    enum exec_network network;
    char *image;
    char *rootfs;
    char *hostname;
    uid_t uid;
    gid_t gid;
    struct exec_limits limits;
    struct exec_resources resources; // adoption

    exec_box_done done; // NULL once called
    exec_box_died died;
    exec_box_idle idle;       // NULL: nobody asks
    int64_t idle_ns, used_ns; // used: when the last command was over
    void *arg;
    exec_box_stopped stopped;
    void *stopped_arg;
    bool stop_asked;         // by its owner or by the end of the engine
    bool stop_arrived;       // stop_post has run
    atomic_bool stop_posted; // any thread: exec_box_stop was called
    struct exec_post start_post, stop_post;

    // Given by exec_box_adopt, taken over on the event thread.
    struct exec_adoption {
        struct exec_post post;
        char id[AF_ID_TEXT_MAX + 1];
        char *view_path;
        struct exec_resources resources;
        exec_box_done done;
        exec_box_died died;
        exec_box_idle idle;
        int64_t idle_ns;
        void *arg;
    } adoption;
    bool adopted; // no longer one of the pool that waits for a sandbox
    bool removed; // what the backend had to take away is gone
    bool checked; // its init is what it has to be

    struct exec_pool *pool; // that started it, or NULL
    TAILQ_ENTRY(exec_box) pool_link;
    bool pool_ready; // pool->lock: waits for a sandbox

    struct exec_launch launch;
    struct exec_timer timer; // start, then idleness, then end of the processes
    struct exec_watch socket;
    struct exec_watch bwrap_exit;
    struct exec_watch init_exit;
    bool timer_reserved;
    bool waits_to_send; // EPOLLOUT is on
    enum exec_shell shell;
    struct af_error why; // why the box is ending

    LIST_HEAD(, exec_command) commands; // not over yet
    STAILQ_HEAD(, exec_command) unsent; // have something to say to the init
    struct exec_sender sender;
};

// event: kills every process of the box. `why` is what its start, its commands and its owner hear.
void exec_box_kill(struct exec_box *box, const struct af_error *why);
// any: whether the box takes no command. One that is ending does, and tells it why it ends: it may
// have been started for that command.
bool exec_box_refuses(const struct exec_box *box);
// any: makes a box of a spec that has been checked, and starts it. NULL when memory is out.
struct exec_box *exec_box_new(struct exec_engine *engine, const struct exec_box_spec *spec);
void exec_box_launch(struct exec_box *box);
// any: what is wrong with a spec.
int exec_box_check_spec(const struct exec_box_spec *spec, struct af_error *err);
void exec_box_free(struct exec_box *box);
// any: starts another member where one is missing.
void exec_pool_refill(struct exec_pool *pool);
// event: the engine ends: stops the box, which from now on belongs to the engine alone.
void exec_box_abandon(struct exec_box *box);
// event: sends what its commands have to say; a breach or a closed socket kills the box.
void exec_box_flush(struct exec_box *box);

// ---- command ----------------------------------------------------------------------------

enum exec_command_state {
    COMMAND_QUEUED,   // START not sent yet
    COMMAND_RUNNING,  // until its leader has exited
    COMMAND_DRAINING, // the leader has exited; reading what is in the pipes
    COMMAND_ENDING,   // END sent or the supervisor died: waiting for ENDED
    COMMAND_OVER,     // its callback has run
};

// One of stdout and stderr.
struct exec_stream {
    struct exec_watch watch;
    struct exec_command *command;
    struct exec_gather kept; // with a receiver only counted
    bool hung;               // a terminal that nothing has open, though its command runs
};

// Bytes on their way to a command's stdin (input.c).
struct exec_input {
    STAILQ_ENTRY(exec_input) link;
    struct exec_post post;
    struct exec_command *command; // a reference
    exec_command_written done;
    void *arg;
    enum exec_eof eof;
    size_t len, at; // at of len are written
    char bytes[];
};
STAILQ_HEAD(exec_input_list, exec_input);

struct exec_command {
    unsigned magic;
    enum exec_command_state state;
    atomic_int refs; // the engine's and the caller's
    struct exec_box *box;
    struct exec_engine *engine;
    LIST_ENTRY(exec_command) link;
    STAILQ_ENTRY(exec_command) unsent_link;
    bool unsent; // in box->unsent
    bool end_wanted;
    struct exec_grave grave;
    struct exec_post start_post, cancel_post, resume_post, resize_post, release_post;
    atomic_bool cancel_posted, resume_posted, resize_posted;
    atomic_bool over; // state is COMMAND_OVER

    exec_command_done done;
    exec_command_output on_output;   // NULL: output is kept for the result
    exec_command_started on_started; // NULL once told
    void *arg;
    size_t output_max;
    bool held;    // waits for its release
    bool endless; // no timeout
    int64_t started_ns, timeout_ns, drain_until_ns, paused_ns;
    int64_t eof_at_ns, eof_pause_ns; // input.c; 0: the terminal's input has not ended for good
    bool paused;                     // the receiver has enough: the pipes are not read

    uint64_t id;
    struct exec_msg_start head;
    char *text;                     // argv, env, workdir as in protocol.h
    struct exec_command_spec *late; // the text is made of this when the box is known; or NULL
    void (*on_begin)(void *arg);    // of a late one: its text is made; or NULL
    int fds[EXEC_START_FDS_MAX];    // the init's ends until sent, -1 otherwise
    int fd_count;
    bool controlled, terminal;    // constant
    bool stdin_open;              // constant: stdin is what comes by exec_command_write
    bool stdin_watched;           // its pipe is in the epoll set
    struct exec_input_list input; // not written yet
    atomic_size_t input_bytes;    // of it and of posts under way
    atomic_uint window;           // rows << 16 | columns: what the terminal is to have
    char *program;                // for messages: argv[0], and the working directory
    char *workdir;

    struct exec_watch stdin_watch;
    struct exec_watch status;
    struct exec_stream out, err;
    struct exec_timer timer; // timeout, then drain, then kill
    bool timer_reserved;
    bool exited; // wait_status is the leader's
    bool left;   // the leader left others running
    bool deaf;   // an order was dropped, and that was logged
    bool slot;   // one of its sender's slots is its; sender->lock
    bool timed_out;
    int wait_status;
    int64_t ended_ns;
    struct exec_memory_events memory; // of its box when it started
    struct af_error error;            // AF_OK: none
};

// event: ENDED of a command of this box, or of one that is over.
void exec_command_on_ended(struct exec_box *box, uint64_t id);
// event: writes the command's next message to the init. 0, -EAGAIN, another -errno, or 1 when the
// command has ended instead.
int exec_command_send(struct exec_command *command, int socket_fd);
// event: the box is up: starts the commands that wait for that.
void exec_command_box_up(struct exec_box *box);
// event: the box has no process left: ends the command with the given error.
void exec_command_box_gone(struct exec_command *command, const struct af_error *why);
// event: sets the timer that runs until the leader has exited, for the timeout or what comes first.
void exec_command_set_timer(struct exec_command *command);
// any: posts a prepared command (exec_command_new), whose reference of its own is the engine's.
void exec_command_post(struct exec_command *command);
// any: watches what a command says that is not a terminal's. 0 or -errno; what is watched then is
// closed with the command.
int exec_command_watch(struct exec_command *command);
// event: kills everything that the command started, as exec_command_cancel does.
void exec_command_end(struct exec_command *command);
// event: reads the command's pipes again. Allowed when it is not paused.
void exec_command_unpause(struct exec_command *command);
// event: a stream of the command has brought bytes or has closed.
void exec_command_on_output(struct exec_command *command);
// event: the leader runs its program: tells on_started, once.
void exec_command_tell_started(struct exec_command *command);

// ---- engine -----------------------------------------------------------------------------

struct exec_engine {
    unsigned magic;
    // Constant after exec_engine_new.
    char *run_dir;
    char *bwrap_path;
    struct exec_options options; // defaults filled in; its strings are not used
    struct exec_features features;
    char *init_path;
    struct exec_cgroups *cgroups;
    struct exec_stages *stages; // the spawning lane's
    struct exec_docker *docker; // or NULL
    int owner_fd;               // lock that says a daemon is there; nobody inherits it
    int lock_fd;                // lock that boxes inherit: held while one of them lives
    int init_fd;                // agentfense-init; boxes execute it by this descriptor
    int filter_fds[2];          // memfds: the seccomp programs
    int null_fd;
    unsigned cpus; // of the machine, if all of them may be used; else 0
    int epoll_fd, event_fd;
    pthread_t event_thread;

    pthread_mutex_t inbox_lock;
    struct exec_post_list inbox; // inbox_lock
    bool inbox_woken;            // inbox_lock: the event thread will look
    int64_t alarm_ns;            // inbox_lock: when the alarm goes off, INT64_MAX: it is not set
    struct exec_watch alarm;     // a timerfd

    struct exec_lane lanes[EXEC_LANES];

    // The event thread's.
    LIST_HEAD(, exec_box) boxes;
    struct exec_timers timers;
    struct exec_grave_list graves;
    struct exec_post end_post;
    bool stopping;

    atomic_bool ending;     // any thread: no new boxes
    char scratch[64 << 10]; // event thread
};

// any: starts a thread with every signal blocked: signals are the daemon's business. 0 or an errno
// value.
int exec_thread_start(pthread_t *ret, void *(*fn)(void *), void *arg);
// any: runs post->fn on the event thread, in the order of the calls.
void exec_post(struct exec_engine *engine, struct exec_post *post, void (*fn)(struct exec_post *));
// any: the same, but nobody is woken for it before at_ns: it runs before anything that epoll
// reports from now on is handled, and by then at the latest.
void exec_post_by(struct exec_engine *engine, struct exec_post *post,
                  void (*fn)(struct exec_post *), int64_t at_ns);
// any: makes the event thread look at its inbox.
void exec_wake(struct exec_engine *engine);
// event: runs what has been posted.
void exec_posts_run(struct exec_engine *engine);
// event
void exec_engine_bury(struct exec_engine *engine, struct exec_grave *grave,
                      void (*free_fn)(struct exec_grave *grave));
// event: adds fd (owned by the watch from now on) to the epoll set. 0 or -errno.
int exec_watch_add(struct exec_engine *engine, struct exec_watch *watch, int fd, uint32_t events,
                   void (*fn)(struct exec_watch *, uint32_t));
int exec_watch_change(struct exec_engine *engine, struct exec_watch *watch, uint32_t events);
// event: takes the descriptor out and closes it. Allowed when there is none.
void exec_watch_close(struct exec_engine *engine, struct exec_watch *watch);

#define EXEC_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
