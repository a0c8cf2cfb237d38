// Commands and lines of sessions as turns: what their callers start.
//
// Owns nothing that the turn does not. Errors: as exec's. Read next: turns.h, runner.h, sessions.h.
#include "api/runner.h"
#include "api/sessions.h"

static int start_turn(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                      const struct turn_spec *turn_spec, struct exec_command **ret_command,
                      struct af_error *err)
{
    struct exec_command_spec own = *spec;
    struct exec_command *command = NULL;
    struct turn *turn;
    if (turns_enter(runner_turns(runner), id, turn_spec, &turn, &own.held, err) < 0)
        return -1;
    own.on_output = spec->on_output ? turn_output : NULL;
    own.on_started = spec->on_started ? turn_started : NULL;
    bool held = own.held;
    if (runner_launch(runner, id, &own, turn_done, turn, held ? &command : ret_command, err) < 0) {
        turn_failed(turn);
        return -1;
    }
    if (!held)
        return 0;
    if (ret_command) {
        exec_command_ref(command);
        *ret_command = command;
    }
    turn_began(turn, command, NULL);
    return 0;
}

int runner_command(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                   exec_command_done done, void *arg, struct exec_command **ret_command,
                   struct af_error *err)
{
    struct turn_spec turn = {
        .done = done, .on_output = spec->on_output, .on_started = spec->on_started, .arg = arg};
    return start_turn(runner, id, spec, &turn, ret_command, err);
}

int runner_background(struct runner *runner, const char *id, const struct exec_command_spec *spec,
                      exec_command_done done, void *arg, struct exec_command **ret_command,
                      struct af_error *err)
{
    struct turn_spec turn = {.done = done,
                             .on_output = spec->on_output,
                             .on_started = spec->on_started,
                             .arg = arg,
                             .lasting = true};
    return start_turn(runner, id, spec, &turn, ret_command, err);
}

int session_run_turn(struct turns *turns, const char *sandbox_id, struct exec_session *session,
                     const struct exec_turn_spec *spec, exec_command_done done, void *arg,
                     struct exec_turn **ret_turn, struct af_error *err)
{
    struct turn_spec turn_spec = {.done = done, .on_output = spec->on_output, .arg = arg};
    struct exec_turn_spec own = *spec;
    struct exec_turn *session_turn = NULL;
    struct turn *turn;
    if (turns_enter(turns, sandbox_id, &turn_spec, &turn, &own.held, err) < 0)
        return -1;
    own.on_output = spec->on_output ? turn_output : NULL;
    bool held = own.held;
    if (exec_session_run(session, &own, turn_done, turn, held ? &session_turn : ret_turn, err) <
        0) {
        turn_failed(turn);
        return -1;
    }
    if (!held)
        return 0;
    if (ret_turn) {
        exec_turn_ref(session_turn);
        *ret_turn = session_turn;
    }
    turn_began(turn, NULL, session_turn);
    return 0;
}
