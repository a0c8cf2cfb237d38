// What the runner's files share: runner.c (table, thread, steps), runner_end.c (the ends),
// runner_box.c (what runs in running sandboxes).
//
// Lock: runner->lock over the table, the events, and every run but where a comment says otherwise.
// Read next: runner.c.
#ifndef AF_API_RUNNER_PRIV_H
#define AF_API_RUNNER_PRIV_H

#include "api/runner.h"

#include "api/net/pool.h"

#include <pthread.h>
#include <uthash.h>

#define RUNNER_MAGIC 0x52554e52

enum run_state { RUN_STARTING, RUN_UP, RUN_STOPPING };

struct waiter {
    runner_done done;
    void *arg;
    struct waiter *next;
};

struct run {
    char id[AF_ID_TEXT_MAX]; // constant
    struct runner *runner;   // constant
    enum run_state state;
    bool destroy; // remove the record once stopped
    bool failed;  // the start failed: the status stays what it was
    bool planned; // its view is attached: it may be up without a box
    bool waking;  // the plan is a caller's, without the lock
    struct box_plan plan;
    struct exec_box *box;  // NULL: none; a lazy one's comes with the first command
    unsigned parts;        // boxes that have not gone yet, and who wakes it: its end waits for them
    struct waiter starter; // done NULL: none
    struct af_error start_error;
    struct waiter *enders;     // those who wait for the stop or the removal
    struct waiter *restarters; // those who want it started once it has stopped
    struct net_pool_item item; // once it has stopped
    UT_hash_handle hh;
};

enum event_kind { EVENT_STARTED, EVENT_STOPPED, EVENT_DIED };

struct event {
    enum event_kind kind;
    struct run *run;
    bool failed;
    struct af_error error;
    struct event *prev, *next;
};

struct runner {
    uint32_t magic;
    // Constant.
    struct mux *mux;
    struct boxes *boxes;
    struct turns *turns;
    void (*destroyed)(void *arg, const char *id);
    void *arg;
    pthread_t thread;
    struct net_pool enders; // threads that may take long

    pthread_mutex_t lock;
    pthread_cond_t wake;    // monotonic clock
    pthread_cond_t drained; // the table became empty
    pthread_cond_t woken;   // a run is not waking any more
    struct run *runs;       // by id
    struct event *events;
    int64_t next_expiry_ns; // wall clock, INT64_MAX: none
    bool closing;
};

// runner.c
struct run *runner_find(struct runner *runner, const char *id); // lock; NULL: none
void runner_push(struct run *run, enum event_kind kind, const struct af_error *err); // lock
void runner_box_died(void *arg, const struct af_error *why); // exec's callback
// lock: ends the run's box; the end goes on when all its parts have gone.
void runner_stop_box(struct run *run);

// runner_end.c
// What is left to do once a run has stopped, on the calling thread: may take as long as a commit.
void runner_end(struct run *run);
void runner_end_item(struct net_pool_item *item); // the same, of run->item

// runner_box.c
// lock: starts the planned box.
int runner_box_start(struct run *run, exec_box_done started, struct af_error *err);
void runner_box_stopped(void *arg); // exec's callback: a part has gone

#endif
