// A command that a test talks to while it runs: types, waits for words, sends signals.
//
// Output is kept as it comes; no helper sleeps. Helpers assert that they work.
#ifndef AF_TESTS_EXEC_TALK_H
#define AF_TESTS_EXEC_TALK_H

#include "tests/unit/exec/fixture.h"

struct talk {
    struct exec_command *command;
    char *shown[2]; // by exec_output_kind
    size_t len[2], capacity[2];
    size_t seen;     // of stdout: what talk_expect has passed
    bool held;       // the receiver says that it has no room
    bool started;    // told
    bool late_start; // output came first
    unsigned starts;
    size_t written, refused; // answers to talk_type_later
    struct af_error refusal;
    bool over, failed;
    struct af_error error;
    struct exec_result result; // its pointers are not valid
};

// Starts a command line that is talked to; `rows` 0: with pipes. Freed by talk_end.
struct talk *talk_sh(struct xt *xt, unsigned rows, unsigned columns, const char *line);
struct talk *talk_start(struct xt *xt, struct exec_command_spec *spec);

// Types and waits until the bytes are in the pipe or terminal.
void talk_type(struct talk *talk, const char *text);
void talk_write(struct talk *talk, const void *bytes, size_t len, bool eof);
// Types without waiting.
void talk_type_later(struct talk *talk, const void *bytes, size_t len, bool eof);
// Waits for words on stdout after those waited for before.
void talk_expect(struct talk *talk, const char *words);
// Waits until this many answers to talk_type_later have come.
void talk_wait_answers(struct talk *talk, size_t count);
void talk_wait_started(struct talk *talk);
void talk_signal(struct talk *talk, int number, bool all);
// Waits for the end.
void talk_wait(struct talk *talk);
bool talk_is_over(struct talk *talk);
// Waits for the end and this exit code.
void talk_expect_exit(struct talk *talk, int code);
// Whether more than this has been shown on stdout.
size_t talk_shown(struct talk *talk);
// Sets whether the receiver has room; with room again the command is resumed.
void talk_hold(struct talk *talk, bool held);
// Cancels what still runs, waits, frees.
void talk_end(struct talk *talk);

#endif
