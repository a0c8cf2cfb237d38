// Rules, quota, limits and access of a sandbox that may be running: the record, then the view.
//
// view_table.c serialises changes and attaching, so that what the view has is always what the
// record says. Read next: view_change.h, revoke.c.
#include "mux/view_change.h"

#include "mux/host_call.h"
#include "mux/kept.h"
#include "mux/revoke.h"
#include "mux/sandbox_priv.h"
#include "mux/view.h"

#include <errno.h>

typedef void (*apply_fn)(void *arg, struct mux_view *view);

// fn changes the record in its transaction, then apply the view, if it is attached, before its next
// operation. *ret_root_nodeid is 0 when it is not attached.
static int change_view(struct mux *mux, const char *id, mux_sandbox_change_fn fn, apply_fn apply,
                       void *arg, uint64_t *ret_root_nodeid, struct af_error *err)
{
    struct mux_hold hold;
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    mux_view_hold(mux, id, &hold);
    struct mux_view *view = hold.op.view;
    int rc = mux_sandbox_change(mux, id, fn, arg, err);
    if (rc == 0 && view)
        apply(arg, view);
    uint64_t root = view ? mux_view_nodeid(view, view->root_fid) : 0;
    mux_view_release(&hold);
    if (rc == 0)
        *ret_root_nodeid = root;
    return rc;
}

// ---- rules

struct rules_change {
    const struct store_rule *list;
    size_t count;
    struct rules *rules; // the view takes them over
    uint64_t stamp;
};

static int put_rules(void *arg, struct store_sandbox *sandbox, struct af_error *err)
{
    struct rules_change *change = arg;
    (void)err;
    sandbox->rules = change->list;
    sandbox->n_rules = change->count;
    return 0;
}

static void apply_rules(void *arg, struct mux_view *view)
{
    struct rules_change *change = arg;
    struct rules *before = view->rules;
    view->rules = change->rules;
    change->rules = before; // for the revocation
    view->foreign_seq++;
    view->names_seq++;           // walks of trees have to be repeated
    view->stamp = change->stamp; // what is cached has the old levels
}

int mux_view_set_rules(struct mux *mux, const char *id, const struct store_rule *rules,
                       size_t n_rules, struct mux_revoke **ret, struct af_error *err)
{
    struct rules_change change = {
        .list = rules,
        .count = n_rules,
        .stamp = mux_view_new_stamp(mux),
    };
    struct rules *after;
    uint64_t root;
    if (mux_compile_rules(rules, n_rules, &after, err) < 0)
        return -1;
    struct mux_revoke *revoke = mux_revoke_new(mux);
    if (!revoke) {
        rules_unref(after);
        return mux_fail(err, -ENOMEM, "changing the rules");
    }
    change.rules = rules_ref(after);
    mux_kept_start(mux, after);
    int rc = change_view(mux, id, put_rules, apply_rules, &change, &root, err);
    if (rc < 0 || root == 0 || change.rules == after) { // interned: equal lists are one object
        rules_unref(change.rules);
        rules_unref(after);
        mux_revoke_free(revoke);
        *ret = NULL;
        return rc;
    }
    mux_revoke_rules(revoke, root, change.rules, after);
    *ret = revoke;
    return 0;
}

// ---- access

static int put_access(void *arg, struct store_sandbox *sandbox, struct af_error *err)
{
    (void)err;
    sandbox->access = *(const enum store_sandbox_access *)arg;
    return 0;
}

static void apply_access(void *arg, struct mux_view *view)
{
    view->access = *(const enum store_sandbox_access *)arg;
}

// Only a cut-off has to be told to the kernel: a frozen view looks as before, and what a view that
// was cut off refused was never cached.
int mux_view_set_access(struct mux *mux, const char *id, enum store_sandbox_access access,
                        struct mux_revoke **ret, struct af_error *err)
{
    uint64_t root;
    struct mux_revoke *revoke = NULL;
    if (access == STORE_ACCESS_CUT_OFF && !(revoke = mux_revoke_new(mux)))
        return mux_fail(err, -ENOMEM, "cutting the sandbox off");
    int rc = change_view(mux, id, put_access, apply_access, &access, &root, err);
    if (rc < 0 || root == 0 || !revoke) {
        mux_revoke_free(revoke);
        *ret = NULL;
        return rc;
    }
    mux_revoke_all(revoke, root);
    *ret = revoke;
    return 0;
}

// ---- quota

struct quota {
    uint64_t bytes, inodes;
};

static int put_quota(void *arg, struct store_sandbox *sandbox, struct af_error *err)
{
    const struct quota *quota = arg;
    (void)err;
    sandbox->quota_bytes = quota->bytes;
    sandbox->quota_inodes = quota->inodes;
    return 0;
}

static void apply_quota(void *arg, struct mux_view *view)
{
    const struct quota *quota = arg;
    view->quota_bytes = quota->bytes;
    view->quota_inodes = quota->inodes;
}

int mux_view_set_quota(struct mux *mux, const char *id, uint64_t quota_bytes, uint64_t quota_inodes,
                       struct af_error *err)
{
    struct quota quota = {.bytes = quota_bytes, .inodes = quota_inodes};
    uint64_t root;
    return change_view(mux, id, put_quota, apply_quota, &quota, &root, err);
}

// ---- requests and bytes a second

struct limit {
    struct mux *mux;
    uint64_t iops, bandwidth;
};

static int put_limit(void *arg, struct store_sandbox *sandbox, struct af_error *err)
{
    const struct limit *limit = arg;
    (void)err;
    sandbox->iops = limit->iops;
    sandbox->bandwidth = limit->bandwidth;
    return 0;
}

// The notifier is told with the view held, so that of two changes the last one stays.
static void apply_limit(void *arg, struct mux_view *view)
{
    const struct limit *limit = arg;
    view->iops = limit->iops;
    view->bandwidth = limit->bandwidth;
    mux_view_tell_limit(limit->mux, view);
}

int mux_view_set_limit(struct mux *mux, const char *id, uint64_t iops, uint64_t bandwidth,
                       struct af_error *err)
{
    struct limit limit = {.mux = mux, .iops = iops, .bandwidth = bandwidth};
    uint64_t root;
    return change_view(mux, id, put_limit, apply_limit, &limit, &root, err);
}

// ---- holders

// Of what the view has not got any more, others have replaced it, nobody can tell which name it
// had: only rules that close nothing permit it.
static bool permits_unknown(const struct mux_view *view)
{
    rules_state root = rules_root(view->rules);
    bool permits = rules_below_min(view->rules, root) >= RULES_READ;
    rules_state_release(view->rules, root);
    return permits;
}

int mux_view_permits(struct mux *mux, const char *id, uint64_t ino, bool *ret, struct af_error *err)
{
    struct mux_op op;
    uint64_t root;
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    int rc = mux_view_find(mux, id, &root) ? mux_op_enter_inside(mux, root, &op) : -ESTALE;
    if (rc < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "sandbox %s is not running", id);
    struct mux_node node;
    rc = ino == 0 || ino > MUX_FID_MASK ? -ESTALE : mux_node_load(&op, mux_op_fid(&op, ino), &node);
    bool permits = true;
    if (rc == 0) {
        permits =
            mux_node_is_visible(&op, &node) && (!S_ISREG(node.mode) || node.level >= RULES_READ);
        mux_node_fini(&op, &node);
    } else if (rc == -ESTALE && ino > MUX_NODEID_SENTINEL) {
        permits = permits_unknown(op.view);
    }
    mux_op_leave(&op, 0);
    if (rc < 0 && rc != -ESTALE)
        return mux_fail(err, rc, "looking at an open file's level");
    *ret = permits;
    return 0;
}
