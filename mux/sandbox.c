// Sandboxes' records: read, changed, removed.
//
// Takes no locks; every change is one write transaction. Errors: an af_error.
// Read next: sandbox_create.c, view_table.c (attaching), view_change.c (changing a running one).
#include "mux/sandbox.h"

#include "mux/base/clock.h"
#include "mux/base/metrics.h"
#include "mux/host_call.h"
#include "mux/parts.h"
#include "mux/sandbox_priv.h"

#include <errno.h>
#include <string.h>

#define RECOVER_BATCH 128 // sandboxes in one transaction

int mux_sandbox_get(struct mux *mux, const char *id, mux_sandbox_fn fn, void *arg,
                    struct af_error *err)
{
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    struct store_txn *txn;
    struct store_sandbox sandbox;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the sandbox");
    rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0) {
        store_read_end(txn);
        return mux_fail_sandbox(err, rc, id);
    }
    rc = fn(arg, &sandbox);
    store_sandbox_free_rules(&sandbox);
    store_read_end(txn);
    return rc;
}

int mux_sandbox_info(struct mux *mux, const char *id, mux_sandbox_info_fn fn, void *arg,
                     struct af_error *err)
{
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    struct store_txn *txn;
    struct store_sandbox sandbox;
    struct store_layer delta;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the sandbox");
    rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0) {
        store_read_end(txn);
        return mux_fail_sandbox(err, rc, id);
    }
    rc = store_layer_get(txn, sandbox.delta, &delta);
    if (rc < 0)
        mux_fail(err, rc, "reading the sandbox's changes");
    else
        rc = fn(arg, &sandbox, &delta);
    store_sandbox_free_rules(&sandbox);
    store_read_end(txn);
    return rc;
}

struct scan_arg {
    struct store_txn *txn;
    mux_sandbox_info_fn fn;
    void *arg;
    bool stopped; // by fn: its value is the result
};

static int scan_one(void *arg, const struct store_sandbox *sandbox)
{
    struct scan_arg *scan = arg;
    struct store_layer delta;
    int rc = store_layer_get(scan->txn, sandbox->delta, &delta);
    if (rc < 0)
        return rc;
    rc = scan->fn(scan->arg, sandbox, &delta);
    scan->stopped = rc != 0;
    return rc;
}

int mux_sandbox_scan(struct mux *mux, const char *after_id, mux_sandbox_info_fn fn, void *arg,
                     struct af_error *err)
{
    if (after_id && mux_check_sandbox_id(after_id, err) < 0)
        return -1;
    struct scan_arg scan = {.fn = fn, .arg = arg};
    int rc = store_read_begin(mux_store(mux), &scan.txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing the sandboxes");
    rc = store_sandbox_list(scan.txn, after_id, scan_one, &scan);
    store_read_end(scan.txn);
    if (rc < 0 && !scan.stopped)
        return mux_fail(err, rc, "listing the sandboxes");
    return rc;
}

struct list_arg {
    const char *codebase_id;
    mux_sandbox_fn fn;
    void *arg;
    bool stopped; // by fn: its value is the result
};

static int list_one(void *arg, const struct store_sandbox *sandbox)
{
    struct list_arg *list = arg;
    if (list->codebase_id && strcmp(list->codebase_id, sandbox->codebase_id.text) != 0)
        return 0;
    int value = list->fn(list->arg, sandbox);
    list->stopped = value != 0;
    return value;
}

int mux_sandbox_list(struct mux *mux, const char *codebase_id, const char *after_id,
                     mux_sandbox_fn fn, void *arg, struct af_error *err)
{
    if ((codebase_id && mux_check_codebase_id(codebase_id, err) < 0) ||
        (after_id && mux_check_sandbox_id(after_id, err) < 0))
        return -1;
    struct store_txn *txn;
    int rc = store_read_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "listing the sandboxes");
    struct list_arg list = {.codebase_id = codebase_id, .fn = fn, .arg = arg};
    rc = store_sandbox_list(txn, after_id, list_one, &list);
    store_read_end(txn);
    if (rc < 0 && !list.stopped)
        return mux_fail(err, rc, "listing the sandboxes");
    return rc;
}

static int put_status(struct store_txn *txn, const char *id, enum store_sandbox_status status)
{
    struct store_sandbox sandbox;
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return rc;
    sandbox.status = status;
    if (status == STORE_SANDBOX_RUNNING)
        sandbox.started_ns = af_wall_ns();
    else if (status == STORE_SANDBOX_STOPPED)
        sandbox.stopped_ns = af_wall_ns();
    rc = store_sandbox_put(txn, &sandbox);
    store_sandbox_free_rules(&sandbox);
    return rc;
}

int mux_sandbox_set_status(struct mux *mux, const char *id, enum store_sandbox_status status,
                           struct af_error *err)
{
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    struct store_txn *txn;
    int rc = store_write_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "changing the sandbox's status");
    rc = put_status(txn, id, status);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    return rc < 0 ? mux_fail_sandbox(err, rc, id) : 0;
}

static int change_in_txn(struct store_txn *txn, const char *id, mux_sandbox_change_fn fn, void *arg,
                         struct af_error *err)
{
    struct store_sandbox sandbox;
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return mux_fail_sandbox(err, rc, id);
    struct store_sandbox changed = sandbox;
    rc = fn(arg, &changed, err);
    if (rc == 0) {
        rc = store_sandbox_put(txn, &changed);
        if (rc < 0)
            rc = mux_fail_sandbox(err, rc, id);
    }
    store_sandbox_free_rules(&sandbox);
    return rc;
}

int mux_sandbox_change(struct mux *mux, const char *id, mux_sandbox_change_fn fn, void *arg,
                       struct af_error *err)
{
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    struct store_txn *txn;
    int rc = store_write_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "changing the sandbox");
    if (change_in_txn(txn, id, fn, arg, err) < 0) {
        store_abort(txn);
        return -1;
    }
    rc = store_commit(txn);
    return rc < 0 ? mux_fail_sandbox(err, rc, id) : 0;
}

static int destroy_in_txn(struct store_txn *txn, const char *id)
{
    struct store_sandbox sandbox;
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return rc;
    store_sandbox_free_rules(&sandbox);
    rc = store_stack_unref(txn, sandbox.stack);
    if (rc == 0)
        rc = store_layer_unref(txn, sandbox.delta);
    if (rc == 0)
        rc = store_sandbox_del(txn, id);
    return rc;
}

int mux_sandbox_destroy(struct mux *mux, const char *id, struct af_error *err)
{
    if (mux_check_sandbox_id(id, err) < 0)
        return -1;
    mux_view_detach(mux, id);
    struct store_txn *txn;
    int rc = store_write_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "destroying the sandbox");
    rc = destroy_in_txn(txn, id);
    if (rc == 0)
        rc = store_commit(txn);
    else
        store_abort(txn);
    if (rc < 0)
        return mux_fail_sandbox(err, rc, id);
    af_metric_add(AF_METRIC_SANDBOXES_DESTROYED, 1);
    // Somebody may have attached it in between; without a record nobody can any more.
    mux_view_detach(mux, id);
    mux_parts_wake(mux);
    return 0;
}

struct recover_arg {
    struct af_id ids[RECOVER_BATCH];
    size_t count;
};

static int collect_running(void *arg, const struct store_sandbox *sandbox)
{
    struct recover_arg *found = arg;
    if (sandbox->status == STORE_SANDBOX_RUNNING)
        found->ids[found->count++] = sandbox->id;
    return found->count == RECOVER_BATCH;
}

static int recover_one(struct store_txn *txn, const char *id)
{
    struct store_sandbox sandbox;
    uint64_t reaped;
    int rc = store_sandbox_get(txn, id, &sandbox);
    if (rc < 0)
        return rc;
    store_sandbox_free_rules(&sandbox);
    rc = put_status(txn, id, STORE_SANDBOX_STOPPED);
    if (rc == 0)
        rc = store_orphans_reap(txn, sandbox.delta, &reaped);
    return rc;
}

static int recover_batch(struct store *store, size_t *ret_count)
{
    struct recover_arg found = {0};
    struct store_txn *txn;
    int rc = store_read_begin(store, &txn);
    if (rc < 0)
        return rc;
    rc = store_sandbox_list(txn, NULL, collect_running, &found);
    store_read_end(txn);
    if (rc < 0)
        return rc;
    *ret_count = found.count;
    if (found.count == 0)
        return 0;
    rc = store_write_begin(store, &txn);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < found.count; i++)
        rc = recover_one(txn, found.ids[i].text);
    if (rc == 0)
        return store_commit(txn);
    store_abort(txn);
    return rc;
}

int mux_sandbox_recover(struct mux *mux, struct af_error *err)
{
    size_t count;
    do {
        int rc = recover_batch(mux_store(mux), &count);
        if (rc < 0)
            return mux_fail(err, rc, "marking the sandboxes of the last run as stopped");
    } while (count > 0);
    return 0;
}
