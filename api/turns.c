// The gates of busy sandboxes, and the commands that pass them. See turns.h.
//
// A gate is there while anything of its sandbox is under way: IDLE with commands running,
// PREPARING (somebody brings the view onto the head), PUSHING. Commands that come in the two latter
// states wait, held, and are released together. Owns gates, turns and threads.
// Locks: turns->lock, a leaf but for exec's queue (releases are posted under it).
// Fails: a view that cannot be prepared lets its command start in the view as it is, and the log
// says so; a push that fails is the command's error, and the delta stays. Read next: turns_work.c.
#include "api/turns_priv.h"

#include "mux/base/cleanup.h"
#include "mux/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

// ---- gates, under the lock

static struct turn_gate *find_gate(struct turns *turns, const char *id)
{
    struct turn_gate *gate;
    HASH_FIND_STR(turns->gates, id, gate);
    return gate;
}

static struct turn_gate *make_gate(struct turns *turns, const char *id)
{
    struct turn_gate *gate = find_gate(turns, id);
    if (gate)
        return gate;
    gate = calloc(1, sizeof *gate);
    if (!gate)
        return NULL;
    gate->turns = turns;
    snprintf(gate->id, sizeof gate->id, "%s", id);
    HASH_ADD_STR(turns->gates, id, gate);
    return gate;
}

static void drop_if_idle(struct turns *turns, struct turn_gate *gate)
{
    if (gate->state != GATE_IDLE || gate->running > 0 || gate->waiting)
        return;
    HASH_DEL(turns->gates, gate);
    free(gate);
}

static void release(struct turn *turn)
{
    if (turn->command)
        exec_command_release(turn->command);
    else
        exec_turn_release(turn->session_turn);
}

static void pass(struct turn_gate *gate, struct turn *turn)
{
    turn->passed = true;
    if (!turn->spec.lasting)
        gate->running++;
}

// What lasts and has ended meanwhile is pushed, unless commands run: then the last of them does it.
static bool push_again(struct turn_gate *gate)
{
    if (!gate->ended || gate->running > 0)
        return false;
    gate->state = GATE_PUSHING;
    gate->pushers = AF_TAKE_PTR(gate->ended);
    return true;
}

// The gate opens: those who wait run. Returns those whose ends are to be told, without the lock.
static struct turn *open_gate(struct turns *turns, struct turn_gate *gate)
{
    struct turn *turn, *next;
    gate->state = GATE_IDLE;
    LL_FOREACH_SAFE(gate->waiting, turn, next)
    {
        pass(gate, turn);
        release(turn);
    }
    gate->waiting = NULL;
    struct turn *ended = AF_TAKE_PTR(gate->ended);
    drop_if_idle(turns, gate);
    return ended;
}

void turns_open(struct turns *turns, struct turn_gate *gate)
{
    struct turn *ended = NULL;
    pthread_mutex_lock(&turns->lock);
    bool push = push_again(gate);
    if (!push)
        ended = open_gate(turns, gate);
    pthread_mutex_unlock(&turns->lock);
    if (push)
        turns_submit_push(turns, gate, NULL);
    turns_tell(ended);
}

// After a push or a rollback: those who have come meanwhile want the head, too.
void turns_pushed(struct turns *turns, struct turn_gate *gate)
{
    struct turn *ended = NULL;
    pthread_mutex_lock(&turns->lock);
    bool push = push_again(gate), prepare = !push && gate->waiting;
    if (prepare)
        gate->state = GATE_PREPARING;
    else if (!push)
        ended = open_gate(turns, gate);
    pthread_mutex_unlock(&turns->lock);
    if (prepare)
        turns_submit_prepare(turns, gate);
    if (push)
        turns_submit_push(turns, gate, NULL);
    turns_tell(ended);
}

// ---- entering

// Whether the view has to be brought onto the head first; the gate is PREPARING meanwhile.
static bool needs_preparing(struct turns *turns, const char *id)
{
    struct turn_need need;
    return turns_look(turns, id, &need) == 0 && need.on_exec && need.state.behind;
}

static struct turn *new_turn(struct turns *turns, const char *id, const struct turn_spec *spec)
{
    struct turn *turn = calloc(1, sizeof *turn);
    if (!turn)
        return NULL;
    turn->turns = turns;
    turn->spec = *spec;
    atomic_init(&turn->refs, 1);
    snprintf(turn->id, sizeof turn->id, "%s", id);
    return turn;
}

int turns_enter(struct turns *turns, const char *sandbox_id, const struct turn_spec *spec,
                struct turn **ret, bool *ret_held, struct af_error *err)
{
    struct turn *turn = new_turn(turns, sandbox_id, spec);
    if (!turn)
        return af_error_errno(err, ENOMEM, "cannot take the command");
    pthread_mutex_lock(&turns->lock);
    struct turn_gate *gate = make_gate(turns, sandbox_id);
    bool first = gate && gate->state == GATE_IDLE && gate->running == 0 && !gate->waiting;
    if (gate)
        LIST_INSERT_HEAD(&turns->all, turn, link);
    turn->held = gate && gate->state != GATE_IDLE;
    if (first)
        gate->state = GATE_PREPARING;
    else if (gate && !turn->held)
        pass(gate, turn);
    pthread_mutex_unlock(&turns->lock);
    if (!gate) {
        free(turn);
        return af_error_errno(err, ENOMEM, "cannot take the command");
    }
    if (first && needs_preparing(turns, sandbox_id)) {
        turn->held = turn->prepares = true;
    } else if (first) {
        pthread_mutex_lock(&turns->lock);
        pass(gate, turn);
        struct turn *ended = open_gate(turns, gate);
        pthread_mutex_unlock(&turns->lock);
        turns_tell(ended);
    }
    if (turn->held)
        atomic_store(&turn->refs, 2);
    *ret = turn;
    *ret_held = turn->held;
    return 0;
}

static void turn_unref(struct turn *turn)
{
    if (atomic_fetch_sub(&turn->refs, 1) != 1)
        return;
    exec_command_unref(turn->command);
    exec_turn_unref(turn->session_turn);
    free(turn->out);
    free(turn->err);
    free(turn);
}

// Somebody who was to have the view prepared does not. Under the lock; true: the caller has to.
static bool give_up_preparing(struct turns *turns, struct turn_gate *gate)
{
    gate->state = GATE_IDLE;
    if (gate->waiting || gate->ended) {
        gate->state = GATE_PREPARING;
        return true;
    }
    drop_if_idle(turns, gate);
    return false;
}

void turn_began(struct turn *turn, struct exec_command *command, struct exec_turn *session_turn)
{
    struct turns *turns = turn->turns;
    bool prepare = false;
    turn->command = command;
    turn->session_turn = session_turn;
    pthread_mutex_lock(&turns->lock);
    struct turn_gate *gate = make_gate(turns, turn->id);
    bool over = turn->over || !gate; // for want of memory it runs in the view as it is
    if (over && turn->prepares && gate) {
        prepare = give_up_preparing(turns, gate);
    } else if (!over && gate->state == GATE_IDLE && gate->running > 0) {
        pass(gate, turn);
        over = true;
    } else if (!over) {
        LL_PREPEND(gate->waiting, turn);
        prepare = turn->prepares || gate->state == GATE_IDLE;
        if (gate->state == GATE_IDLE)
            gate->state = GATE_PREPARING;
    } else if (gate) {
        drop_if_idle(turns, gate);
    }
    if (over)
        release(turn);
    pthread_mutex_unlock(&turns->lock);
    if (prepare)
        turns_submit_prepare(turns, gate);
    turn_unref(turn);
}

void turn_failed(struct turn *turn)
{
    struct turns *turns = turn->turns;
    bool prepare = false;
    pthread_mutex_lock(&turns->lock);
    LIST_REMOVE(turn, link);
    struct turn_gate *gate = find_gate(turns, turn->id);
    if (gate && turn->passed && !turn->spec.lasting) {
        gate->running--;
        prepare = gate->state == GATE_IDLE && gate->running == 0 && gate->waiting;
        if (prepare)
            gate->state = GATE_PREPARING;
        else
            drop_if_idle(turns, gate);
    } else if (gate && turn->prepares) {
        prepare = give_up_preparing(turns, gate);
    }
    pthread_mutex_unlock(&turns->lock);
    if (prepare)
        turns_submit_prepare(turns, gate);
    atomic_store(&turn->refs, 1);
    turn_unref(turn);
}

// ---- ending

// The gate when the turn was the last one, then PUSHING; else NULL. *ret_later: its end is told
// after the next push.
static struct turn_gate *leave(struct turn *turn, bool *ret_later)
{
    struct turns *turns = turn->turns;
    bool last = false, waited = false;
    *ret_later = false;
    pthread_mutex_lock(&turns->lock);
    bool lasted = turn->passed && turn->spec.lasting;
    struct turn_gate *gate = lasted ? make_gate(turns, turn->id) : find_gate(turns, turn->id);
    turn->over = true;
    LIST_REMOVE(turn, link);
    if (gate && turn->passed) {
        gate->running -= !lasted;
        last = gate->running == 0 && gate->state == GATE_IDLE;
        *ret_later = lasted && gate->state != GATE_IDLE && turn->kept;
        if (*ret_later)
            LL_APPEND(gate->ended, turn);
        if (last)
            gate->state = GATE_PUSHING;
    } else if (gate) { // it ended while it was held: cancelled, or its box has gone
        struct turn *waiting;
        LL_FOREACH (gate->waiting, waiting)
            waited = waited || waiting == turn;
        if (waited)
            LL_DELETE(gate->waiting, turn);
    }
    if (waited)
        release(turn);
    pthread_mutex_unlock(&turns->lock);
    return last ? gate : NULL;
}

static char *keep(const struct exec_output *output)
{
    char *bytes = malloc(output->len + 1);
    if (bytes)
        memcpy(bytes, output->bytes, output->len + 1);
    return bytes;
}

// The result outlives the callback. False: no memory.
static bool keep_result(struct turn *turn, const struct af_error *err,
                        const struct exec_result *result)
{
    if (turn->kept)
        return true;
    turn->out = keep(&result->out);
    turn->err = keep(&result->err);
    if (!turn->out || !turn->err)
        return false;
    turn->result = *result;
    turn->result.out.bytes = turn->out;
    turn->result.err.bytes = turn->err;
    turn->failed = err != NULL;
    if (err)
        turn->error = *err;
    turn->kept = true;
    return true;
}

// A command that could not begin: what its init can tell says little when the view is cut off.
static const struct af_error *explain(const struct turn *turn, const struct af_error *err,
                                      struct af_error *better)
{
    bool may_be =
        err && (err->status == AF_INVALID_ARGUMENT || err->status == AF_PERMISSION_DENIED);
    return may_be && mux_view_blame_cut_off(turn->turns->options.mux, turn->id, better) ? better
                                                                                        : err;
}

void turn_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct turn *turn = arg;
    struct turn_need need;
    struct af_error better;
    bool later;
    err = explain(turn, err, &better);
    if (turn->spec.lasting) // before the lock; without memory its end is told early
        keep_result(turn, err, result);
    struct turn_gate *gate = leave(turn, &later);
    if (later)
        return;
    bool push =
        gate && turns_look(turn->turns, turn->id, &need) == 0 && need.on_exec && need.state.changed;
    if (push && keep_result(turn, err, result)) {
        turns_submit_push(turn->turns, gate, turn);
        return;
    }
    if (push)
        turns_submit_push(turn->turns, gate, NULL);
    else if (gate)
        turns_pushed(turn->turns, gate);
    turn->spec.done(turn->spec.arg, err, result);
    turn_unref(turn);
}

void turns_tell(struct turn *list)
{
    struct turn *turn, *next;
    LL_FOREACH_SAFE(list, turn, next)
    {
        turn->spec.done(turn->spec.arg, turn->failed ? &turn->error : NULL, &turn->result);
        turn_unref(turn);
    }
}

bool turn_output(void *arg, enum exec_output_kind kind, const char *bytes, size_t len)
{
    struct turn *turn = arg;
    return turn->spec.on_output(turn->spec.arg, kind, bytes, len);
}

void turn_started(void *arg)
{
    struct turn *turn = arg;
    turn->spec.on_started(turn->spec.arg);
}

unsigned turns_running(struct turns *turns, const char *sandbox_id)
{
    const struct turn *turn;
    unsigned count = 0;
    pthread_mutex_lock(&turns->lock);
    LIST_FOREACH(turn, &turns->all, link)
    count += strcmp(turn->id, sandbox_id) == 0;
    pthread_mutex_unlock(&turns->lock);
    return count;
}

// ---- alone

bool turns_enter_alone(struct turns *turns, const char *sandbox_id)
{
    pthread_mutex_lock(&turns->lock);
    struct turn_gate *gate = make_gate(turns, sandbox_id);
    bool alone = gate && gate->state == GATE_IDLE && gate->running == 0 && !gate->waiting;
    if (alone)
        gate->state = GATE_PUSHING;
    pthread_mutex_unlock(&turns->lock);
    return alone;
}

void turns_leave_alone(struct turns *turns, const char *sandbox_id)
{
    pthread_mutex_lock(&turns->lock);
    struct turn_gate *gate = find_gate(turns, sandbox_id);
    pthread_mutex_unlock(&turns->lock);
    if (gate)
        turns_pushed(turns, gate);
}
