// Which box a sandbox gets: one of the pool, or a new one, with what its record and the
// configuration say.
//
// The only place that knows both the host uids of views (mux) and the boxes that run under them
// (exec). A box of the pool brings its uid along, and the view is attached as that uid: so what a
// sandbox has written belongs to it whichever box it gets.
// Threads: any; steps of one sandbox come one after the other (the runner sees to that). Errors: -1
// with *err set. Read next: boxes.c, runner.c.
#ifndef AF_API_BOXES_H
#define AF_API_BOXES_H

#include "api/config.h"
#include "exec/exec.h"
#include "mux/base/limits.h"
#include "mux/sandbox.h"
#include "proto/sandbox.pb-c.h"

#include <limits.h>

struct boxes;

struct boxes_options {
    struct mux *mux;                // borrowed
    struct exec_engine *engine;     // borrowed
    const struct af_config *config; // borrowed
};

// Starts the pool, in the background.
int boxes_new(const struct boxes_options *options, struct boxes **ret, struct af_error *err);
// Before the engine is freed, after the last sandbox has ended. NULL is allowed.
void boxes_free(struct boxes *boxes);

// The bounds of a sandbox that asks for these (NULL: for none): the configuration's maxima hold for
// what it leaves open.
struct exec_resources boxes_resources(const struct af_config *config,
                                      const Sandbox__V1__ResourceLimits *limits);

// The configured root directory of this name, which may be "". -1: there is none.
int boxes_root(const struct af_config *config, const char *name, char ret_path[PATH_MAX]);

// Everything that one start needs. Zeroed: nothing.
struct box_plan {
    struct exec_box *member; // of the pool, not yet adopted; NULL: none
    char *view_path;
    uid_t uid;
    struct exec_resources resources;
    enum exec_runtime runtime;
    enum exec_network network;
    char image[AF_IMAGE_MAX + 1]; // of Docker, or the name of a root directory
    bool lazy; // no box until there is a command, for which boxes_fetch comes first
};

// Reads the record, takes a box from the pool where one fits, and attaches the view. On failure
// nothing is attached, and the plan is as good as zeroed.
int boxes_plan(struct boxes *boxes, const char *id, struct box_plan *plan, struct af_error *err);
// The first command of a lazy sandbox has come: takes a box from the pool where one fits, if nobody
// has seen the view yet (its uid changes). May block for a moment. Cannot fail.
void boxes_fetch(struct boxes *boxes, const char *id, struct box_plan *plan);

// Of exec, all with the same arg.
struct box_callbacks {
    exec_box_done started;
    exec_box_died died;
    exec_box_idle idle; // when the configuration wants idle boxes to be ended
    void *arg;
};
// Starts the planned box; does not block. On failure the plan has still to be dropped. Again for a
// box that has gone.
int boxes_start(struct boxes *boxes, const char *id, struct box_plan *plan,
                const struct box_callbacks *callbacks, struct exec_box **ret_box,
                struct af_error *err);
// Ends what a plan holds, but for the attached view. `stopped` comes when its box is gone: then
// true is returned. Else there is none. The plan may be dropped after a start that worked.
bool boxes_drop(struct box_plan *plan, exec_box_stopped stopped, void *arg);

#endif
