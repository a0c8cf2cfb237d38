// A store whose open batch stays open until somebody asks for its commit.
#ifndef AF_TESTS_BATCH_FIXTURE_H
#define AF_TESTS_BATCH_FIXTURE_H

#define FIXTURE_SYNC_INTERVAL_NS INT64_C(3600000000000) // no batch is closed for a sync's sake

#include "tests/unit/mux/store/store_fixture.h"

#include "mux/store/store_priv.h"

#include <sched.h>
#include <sys/wait.h>

static inline struct store_txn *change(struct fixture *f)
{
    struct store_txn *txn;
    assert_int_equal(store_change_begin(f->store, &txn), 0);
    return txn;
}

// A batch is open, and its owner closes it only when somebody asks: nobody does on his own, so the
// background thread, which looks for garbage some time after the start, is stopped.
static inline void open_batch(struct fixture *f)
{
    struct store_batch *batch = &f->store->batch;
    store_background_stop(f->store);
    for (;;) {
        struct store_txn *txn = change(f);
        bool batched = store_change_id(txn) != 0;
        if (batched)
            batch->due_ns = INT64_MAX; // under the writer lock
        store_abort(txn);
        if (batched)
            return;
        sched_yield();
    }
}

// A run of the store in a process of its own, which has an open batch, does `work` and is killed;
// the store is closed afterwards. One whose work returns false ends otherwise, and fails the test.
static inline void killed_run(struct fixture *f, bool (*work)(struct fixture *f, void *arg),
                              void *arg)
{
    store_close(f->store);
    f->store = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        fixture_open(f);
        open_batch(f);
        raise(work(f, arg) ? SIGKILL : SIGABRT);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

#endif
