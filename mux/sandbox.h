// Sandboxes as mux sees them: the record, and the view while it is attached.
//
// The api's own facts (labels, runtime, limits) are carried as opaque user_data. Errors: an
// af_error. Any thread; changes of one sandbox's state are serialised by the store.
#ifndef AF_MUX_SANDBOX_H
#define AF_MUX_SANDBOX_H

#include "mux/mux.h"
#include "mux/store/store.h"

struct mux_sandbox_spec {
    const char *codebase_id;
    const struct store_rule *rules; // refused when malformed (INVALID_ARGUMENT, says which)
    size_t n_rules;
    int64_t expires_ns; // wall clock, 0: never
    uint32_t owner_max; // RESOURCE_EXHAUSTED when the owner has as many; 0: no bound
    uint64_t quota_bytes, quota_inodes;
    uint64_t iops, bandwidth; // requests and bytes a second; 0: no limit
    const void *user_data;
    size_t user_data_len;
};

// One small transaction, whatever the codebase's size. The id is new.
int mux_sandbox_create(struct mux *mux, const struct mux_sandbox_spec *spec, struct af_id *ret_id,
                       struct af_error *err);

// What became of one of many.
struct mux_sandbox_made {
    bool ok;
    struct af_id id;       // when ok
    struct af_error error; // when not
};
// One transaction for all that can be made. A spec that is NULL is left alone: its error is the
// caller's. -1: none was made.
int mux_sandbox_create_many(struct mux *mux, const struct mux_sandbox_spec *const *specs,
                            size_t count, struct mux_sandbox_made *made, struct af_error *err);

// The record is passed to fn inside a read transaction (no blocking); fn's value is returned.
typedef int (*mux_sandbox_fn)(void *arg, const struct store_sandbox *sandbox);
int mux_sandbox_get(struct mux *mux, const char *id, mux_sandbox_fn fn, void *arg,
                    struct af_error *err);
// The same with its delta's sizes.
typedef int (*mux_sandbox_info_fn)(void *arg, const struct store_sandbox *sandbox,
                                   const struct store_layer *delta);
int mux_sandbox_info(struct mux *mux, const char *id, mux_sandbox_info_fn fn, void *arg,
                     struct af_error *err);
// In id order after after_id (NULL: from the start), until fn returns something else than 0.
int mux_sandbox_scan(struct mux *mux, const char *after_id, mux_sandbox_info_fn fn, void *arg,
                     struct af_error *err);
// In id order after after_id (NULL: from the start); only those of codebase_id unless NULL.
int mux_sandbox_list(struct mux *mux, const char *codebase_id, const char *after_id,
                     mux_sandbox_fn fn, void *arg, struct af_error *err);
// Sets the status and the matching time stamp.
int mux_sandbox_set_status(struct mux *mux, const char *id, enum store_sandbox_status status,
                           struct af_error *err);

// Reads the record, has fn change it, and writes it back: one transaction, so that changes of
// different kinds do not undo each other. fn may replace anything but the id; what it points to
// must live until mux_sandbox_change returns. fn fails with *err set, and then nothing changed.
// Only the record: a view that is attached does not learn of it (view_change.c is for that).
typedef int (*mux_sandbox_change_fn)(void *arg, struct store_sandbox *sandbox,
                                     struct af_error *err);
int mux_sandbox_change(struct mux *mux, const char *id, mux_sandbox_change_fn fn, void *arg,
                       struct af_error *err);

struct mux_attachment {
    uint32_t slot;
    uid_t uid; // host uid and gid of its commands, and the owner of what they make
    gid_t gid;
};
// Gives the view a slot, so that <mount>/<id> exists. FAILED_PRECONDITION when attached already,
// RESOURCE_EXHAUSTED when no slot is free.
int mux_view_attach(struct mux *mux, const char *id, struct mux_attachment *ret,
                    struct af_error *err);
// A slot's uid for something that will run a sandbox which is not known yet; no view gets it until
// it is attached as that uid, or released. RESOURCE_EXHAUSTED when no slot is free.
int mux_uid_reserve(struct mux *mux, uid_t *ret_uid, struct af_error *err);
void mux_uid_release(struct mux *mux, uid_t uid);
// mux_view_attach in the slot of a reserved uid, which detaching then frees; 0: in any. On failure
// the uid stays reserved.
int mux_view_attach_as(struct mux *mux, const char *id, uid_t uid, struct mux_attachment *ret,
                       struct af_error *err);
// Takes the slot back: from now on its nodeids are stale. Its orphans are freed. No error when it
// was not attached. Its commands must have ended.
void mux_view_detach(struct mux *mux, const char *id);
// Whether an attached view can be moved: nobody has looked at its root through the mount yet.
bool mux_view_can_move(struct mux *mux, const char *id);
// Gives an attached view the slot of a reserved uid, and its own slot free. Nobody notices: it
// fails with FAILED_PRECONDITION when somebody might; then the uid stays reserved.
int mux_view_move(struct mux *mux, const char *id, uid_t uid, struct af_error *err);

// What a sandbox gets that asks for so much: no more than the maxima of this mux, which is also
// what those get that ask for nothing.
void mux_limit_in_force(const struct mux *mux, uint64_t *iops, uint64_t *bandwidth);

// The host uid of an attached view. False: it is not attached.
bool mux_view_uid(struct mux *mux, const char *id, uid_t *ret_uid);

// For who has failed at an attached view: when it is cut off that is why, and *err says so. Else,
// or when the view is being changed just now, false. Waits for no operation of a view, so that
// exec's event thread may ask.
bool mux_view_blame_cut_off(struct mux *mux, const char *id, struct af_error *err);

// Detaches, removes the record, hands the delta to the garbage collector.
int mux_sandbox_destroy(struct mux *mux, const char *id, struct af_error *err);

// For mux_open: sandboxes that were running when the daemon ended become stopped, and what was
// open but unlinked in their deltas is freed. Their deltas stay.
int mux_sandbox_recover(struct mux *mux, struct af_error *err);

#endif
