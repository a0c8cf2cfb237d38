// See held_kernel.h.
#include "tests/unit/mux/held_kernel.h"

#include "mux/compact.h"
#include "mux/view.h"

static void confirm(void *arg, uint64_t nodeid)
{
    struct kernel *kernel = arg;
    atomic_fetch_add(&kernel->asked, 1);
    pthread_mutex_lock(&kernel->lock);
    bool holds = mux_fid_map_get(&kernel->held, nodeid, NULL);
    pthread_mutex_unlock(&kernel->lock);
    if (!holds)
        mux_forgotten(kernel->mux, nodeid);
}

static void settle(void *arg, uint64_t nodeid)
{
    struct kernel *kernel = arg;
    mux_settle(kernel->mux, nodeid);
}

static const struct mux_notifier notifier = {.confirm_forget = confirm, .settle = settle};

void kernel_start(struct kernel *kernel, struct fixture *fixture)
{
    *kernel = (struct kernel){.mux = fixture->mux, .lock = PTHREAD_MUTEX_INITIALIZER};
    mux_set_notifier(fixture->mux, &notifier, kernel);
}

void kernel_stop(struct kernel *kernel)
{
    mux_set_notifier(kernel->mux, NULL, NULL);
    mux_fid_map_fini(&kernel->held);
}

void kernel_hold_node(struct kernel *kernel, uint64_t nodeid)
{
    pthread_mutex_lock(&kernel->lock);
    int rc = mux_fid_map_put(&kernel->held, nodeid, 1);
    pthread_mutex_unlock(&kernel->lock);
    assert_int_equal(rc, 0);
}

uint64_t kernel_hold(struct kernel *kernel, struct view *view, const char *path)
{
    uint64_t nodeid = ops_nodeid(view, path);
    kernel_hold_node(kernel, nodeid);
    return nodeid;
}

void kernel_let_go(struct kernel *kernel, uint64_t nodeid)
{
    pthread_mutex_lock(&kernel->lock);
    mux_fid_map_del(&kernel->held, nodeid);
    pthread_mutex_unlock(&kernel->lock);
    mux_forget(kernel->mux, nodeid);
}

struct stat kernel_stat(struct view *view, uint64_t nodeid)
{
    struct stat st;
    int64_t ttl_ns;
    assert_int_equal(mux_getattr(view->fixture->mux, &view->ctx, nodeid, &st, &ttl_ns), 0);
    return st;
}

void unlink_closed(struct view *view, const char *path)
{
    uint64_t nodeid = ops_nodeid(view, path);
    assert_int_equal(ops_unlink(view, path), 0);
    mux_forget(view->fixture->mux, nodeid);
}

void clean_up_all(struct fixture *fixture)
{
    uint64_t records;
    for (int i = 0; i < 2; i++) { // what was kept goes after it was asked about
        assert_int_equal(mux_compact_drain(fixture->mux), 0);
        assert_int_equal(store_gc_drain(mux_store(fixture->mux), &records), 0);
    }
    assert_int_equal(mux_compact_drain(fixture->mux), 0);
    assert_int_equal(store_gc_drain(mux_store(fixture->mux), &records), 0);
    mux_node_cache_clear(fixture->mux->nodes, 0);
}
