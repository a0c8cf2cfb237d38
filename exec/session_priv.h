// What session.c (a session's life) and turn.c (its command lines) share.
//
// Everything is the event thread's unless a comment says otherwise. References: a session is held
// by its owner, by its shell until that is over, and by every turn; a turn by its caller, by the
// session until it is over, and by posts under way. Read next: session.c, turn.c.
#ifndef AF_EXEC_SESSION_PRIV_H
#define AF_EXEC_SESSION_PRIV_H

#include "exec/engine_priv.h"
#include "exec/session_text.h"

#define EXEC_SESSION_MAGIC 0xe8ec0004u
#define EXEC_TURN_MAGIC    0xe8ec0005u

enum exec_session_state {
    SESSION_OPENING, // waiting for the report of sequence 0
    SESSION_READY,
    SESSION_ENDING, // its tree is being killed, or has ended
    SESSION_OVER,   // its callback has run
};

struct exec_turn {
    unsigned magic;
    atomic_int refs;
    struct exec_session *session;
    STAILQ_ENTRY(exec_turn) link; // waiting
    bool held;                    // has not been asked to join the queue yet
    bool waiting, over;
    struct exec_post start_post, cancel_post, resume_post;
    atomic_bool cancel_posted, resume_posted;

    char *line;
    int64_t timeout_ns;
    size_t output_max;
    exec_command_output on_output;
    exec_command_done done;
    void *arg;

    struct exec_gather kept[2]; // by exec_output_kind
    int64_t started_ns;
    bool timed_out;
    struct exec_memory_events memory; // of the box when it started
};

struct exec_session {
    unsigned magic;
    enum exec_session_state state;
    atomic_int refs;
    struct exec_engine *engine;
    struct exec_command *shell; // a reference
    char *shell_given;          // by the caller, or NULL: the root's
    _Atomic(const char *) shell_path;
    const struct exec_shell_kind *kind;
    exec_session_ready ready;
    exec_session_closed closed;
    void *arg;
    bool ready_told; // with success
    struct exec_post open_post, close_post;
    atomic_bool close_posted;
    struct exec_grave grave;
    struct exec_timer timer; // opening, then the current turn's timeout
    bool timer_reserved;
    struct af_error why; // why we end it; AF_OK: we do not

    struct exec_watch script;  // to the shell
    char *text;                // of the current turn
    size_t text_len, text_at;  // text_at of it are written
    struct exec_watch reports; // from the shell
    char report[EXEC_REPORT_MAX];
    size_t report_len;

    STAILQ_HEAD(, exec_turn) waiting;
    unsigned waiting_count;
    struct exec_turn *current;
    uint64_t sequence; // of the current or last turn
    int last_status;
    struct exec_gather idle[2]; // by exec_output_kind: what came between turns
};

// event: ends the session's tree; the current turn and the session end with `status` and `text`.
void exec_session_end(struct exec_session *session, enum af_status status, const char *text);
// event: hands the script to the shell; takes `text` over.
void exec_session_write(struct exec_session *session, char *text);
void exec_session_ref(struct exec_session *session);

// event: the next waiting turn starts when the shell is free.
void exec_session_next(struct exec_session *session);
// event: the current turn has ended with this $?.
void exec_session_turn_reported(struct exec_session *session, int status);
// event: ends a turn with an error (result->exit_code -1) or a result, and drops the session's
// reference. `end` may be NULL; of it the exit code and signal count.
void exec_turn_finish(struct exec_turn *turn, const struct af_error *err,
                      const struct exec_result *end);

#endif
