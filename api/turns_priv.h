// What turns.c (gates and commands) and turns_work.c (what is done with views) share.
//
// Lock: turns->lock over gates, and over every turn's place in one. Read next: turns.c.
#ifndef AF_API_TURNS_PRIV_H
#define AF_API_TURNS_PRIV_H

#include "api/turns.h"

#include "api/net/pool.h"
#include "mux/base/limits.h"

#include <stdatomic.h>
#include <sys/queue.h>
#include <uthash.h>

enum gate_state { GATE_IDLE, GATE_PREPARING, GATE_PUSHING };

struct turns_job {
    struct net_pool_item item;
    void (*run)(struct turns_job *job);
};

struct turn {
    struct turns *turns;
    char id[AF_ID_TEXT_MAX]; // of the sandbox
    struct turn_spec spec;
    atomic_int refs; // until it has been told its end; and until turn_began, when held
    bool held;       // constant
    bool prepares;   // it is up to it to have the view prepared
    bool passed;     // the gate; a lasting one is then not counted as running
    bool over;
    struct exec_command *command; // of a held one: one of the two, a reference
    struct exec_turn *session_turn;
    struct turn *next; // of those who wait, before the start or for a push
    LIST_ENTRY(turn) link;
    // The end, until it is told after a push.
    bool kept;
    bool failed;
    struct af_error error;
    struct exec_result result;
    char *out, *err;
};

struct turn_gate {
    char id[AF_ID_TEXT_MAX];
    struct turns *turns;
    enum gate_state state;
    unsigned running;
    struct turn *waiting;
    struct turn *ended;   // what lasts and has ended while the gate was not idle: push once more
    struct turns_job job; // while PREPARING or PUSHING
    struct turn *pushers; // whose ends are told after the push
    UT_hash_handle hh;
};

struct turns {
    struct turns_options options;
    pthread_mutex_t lock;
    struct turn_gate *gates; // by sandbox
    LIST_HEAD(, turn) all;   // that have not ended
    struct net_pool pool;
};

struct turn_need {
    bool on_exec, on_destroy;
    enum mux_conflicts conflicts;
    struct mux_commit_state state;
};
// What the sandbox's policy is, and whether there is anything to do. -1: it cannot be read.
int turns_look(struct turns *turns, const char *id, struct turn_need *ret);

// turns.c, from the jobs
void turns_open(struct turns *turns, struct turn_gate *gate);
void turns_pushed(struct turns *turns, struct turn_gate *gate);
void turns_tell(struct turn *turns); // a list
// turns_work.c
void turns_submit_prepare(struct turns *turns, struct turn_gate *gate);
void turns_submit_push(struct turns *turns, struct turn_gate *gate, struct turn *pusher);

#endif
