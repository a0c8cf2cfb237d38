// Requests, errors and time by view: what each running sandbox asks of the daemon.
//
// One block per slot, made at the slot's first request and kept; a request of another attachment
// (another route) begins it anew. Some 2 KB each. Relaxed atomics; a reader may see a request
// counted and its time not yet. Owns the blocks. Nothing locks; without memory nothing is counted.
// Read next: counters.c.
#include "fs/session_priv.h"

#include <stdlib.h>
#include <sys/mman.h>

struct fs_view_block {
    _Atomic uint32_t route; // whose counts these are; 0: nobody's
    struct {
        _Atomic uint64_t requests, errors, total_ns, slowest_ns;
    } op[FS_OP_COUNT];
    struct af_histogram latency;    // of all operations
    _Atomic int64_t references;     // of the kernel to nodeids of the view
    _Atomic uint64_t held, held_ns; // limit.c
};

typedef _Atomic(struct fs_view_block *) block_pointer;

#define TABLE_BYTES (AF_SLOT_COUNT * sizeof(block_pointer))

int fs_view_counters_new(struct fs_session *session)
{
    // Pages of slots that are never used are never there.
    void *table =
        mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        return -errno;
    session->view_blocks = table;
    return 0;
}

void fs_view_counters_free(struct fs_session *session)
{
    block_pointer *table = session->view_blocks;
    if (!table)
        return;
    for (size_t i = 0; i < AF_SLOT_COUNT; i++)
        free(atomic_load(&table[i]));
    munmap(table, TABLE_BYTES);
    session->view_blocks = NULL;
}

static struct fs_view_block *block_of(struct fs_session *session, uint32_t slot)
{
    block_pointer *place = (block_pointer *)session->view_blocks + slot;
    struct fs_view_block *block = atomic_load_explicit(place, memory_order_acquire);
    if (block)
        return block;
    struct fs_view_block *made = calloc(1, sizeof *made);
    if (made && !atomic_compare_exchange_strong(place, &block, made)) {
        free(made); // somebody was faster
        return block;
    }
    return made;
}

static void clear(struct fs_view_block *block)
{
    for (int op = 0; op < FS_OP_COUNT; op++) {
        atomic_store_explicit(&block->op[op].requests, 0, memory_order_relaxed);
        atomic_store_explicit(&block->op[op].errors, 0, memory_order_relaxed);
        atomic_store_explicit(&block->op[op].total_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&block->op[op].slowest_ns, 0, memory_order_relaxed);
    }
    for (unsigned i = 0; i < AF_HISTOGRAM_BUCKETS; i++)
        atomic_store_explicit(&block->latency.counts[i], 0, memory_order_relaxed);
    atomic_store_explicit(&block->latency.sum_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&block->references, 0, memory_order_relaxed);
    atomic_store_explicit(&block->held, 0, memory_order_relaxed);
    atomic_store_explicit(&block->held_ns, 0, memory_order_relaxed);
}

uint32_t fs_call_slot(const struct fs_call *call)
{
    const struct fs_session *session = call->session;
    uint32_t slot = 0;
    if (fs_is_views_own(session, call->nodeid))
        slot = mux_nodeid_slot(call->nodeid);
    else if (session->uid_base != 0 && call->ctx.uid >= session->uid_base)
        slot = call->ctx.uid - session->uid_base;
    return slot < AF_SLOT_COUNT ? slot : 0;
}

// route 0: not known, the slot's present view.
static struct fs_view_block *block_of_route(struct fs_session *session, uint32_t slot,
                                            uint32_t route)
{
    struct fs_view_block *block = block_of(session, slot);
    if (!block || route == 0)
        return block;
    uint32_t was = atomic_load_explicit(&block->route, memory_order_relaxed);
    if (was != route && atomic_compare_exchange_strong(&block->route, &was, route))
        clear(block);
    return block;
}

static struct fs_view_block *block_of_call(const struct fs_call *call)
{
    uint32_t slot = fs_call_slot(call);
    uint32_t route = mux_nodeid_is_shared(call->nodeid) ? 0 : mux_nodeid_route(call->nodeid);
    return slot ? block_of_route(call->session, slot, route) : NULL;
}

void fs_count_references(struct fs_session *session, uint64_t nodeid, int64_t n)
{
    uint32_t slot = mux_nodeid_is_shared(nodeid) ? 0 : mux_nodeid_slot(nodeid);
    if (slot == 0)
        return;
    // A late FORGET of a former view is not for the present one.
    struct fs_view_block *block =
        n > 0 ? block_of_route(session, slot, mux_nodeid_route(nodeid))
              : atomic_load_explicit((block_pointer *)session->view_blocks + slot,
                                     memory_order_acquire);
    if (block &&
        atomic_load_explicit(&block->route, memory_order_relaxed) == mux_nodeid_route(nodeid))
        atomic_fetch_add_explicit(&block->references, n, memory_order_relaxed);
}

void fs_count_view(const struct fs_call *call, int rc, int64_t latency_ns)
{
    struct fs_view_block *block = block_of_call(call);
    if (!block)
        return;
    uint64_t took_ns = latency_ns > 0 ? (uint64_t)latency_ns : 0;
    atomic_fetch_add_explicit(&block->op[call->op].requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&block->op[call->op].total_ns, took_ns, memory_order_relaxed);
    if (rc < 0 && rc != -ENOSYS)
        atomic_fetch_add_explicit(&block->op[call->op].errors, 1, memory_order_relaxed);
    _Atomic uint64_t *slowest = &block->op[call->op].slowest_ns;
    uint64_t was = atomic_load_explicit(slowest, memory_order_relaxed);
    while (took_ns > was && !atomic_compare_exchange_weak_explicit(
                                slowest, &was, took_ns, memory_order_relaxed, memory_order_relaxed))
        ;
    af_histogram_observe(&block->latency, latency_ns);
}

void fs_count_view_held(const struct fs_call *call, uint64_t held_ns)
{
    struct fs_view_block *block = block_of_call(call);
    if (!block)
        return;
    atomic_fetch_add_explicit(&block->held, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&block->held_ns, held_ns, memory_order_relaxed);
}

bool fs_session_view_counters(struct fs_session *session, uint32_t slot, uint32_t route,
                              struct fs_view_counters *ret)
{
    memset(ret, 0, sizeof *ret);
    if (slot == 0 || slot >= AF_SLOT_COUNT)
        return false;
    const struct fs_view_block *block = atomic_load((block_pointer *)session->view_blocks + slot);
    if (!block || atomic_load(&block->route) != route)
        return false;
    for (int op = 0; op < FS_OP_COUNT; op++) {
        ret->op[op].requests = atomic_load_explicit(&block->op[op].requests, memory_order_relaxed);
        ret->op[op].errors = atomic_load_explicit(&block->op[op].errors, memory_order_relaxed);
        ret->op[op].total_ns = atomic_load_explicit(&block->op[op].total_ns, memory_order_relaxed);
        ret->op[op].slowest_ns =
            atomic_load_explicit(&block->op[op].slowest_ns, memory_order_relaxed);
    }
    af_histogram_gather(&block->latency, &ret->latency);
    int64_t references = atomic_load_explicit(&block->references, memory_order_relaxed);
    ret->references = references > 0 ? (uint64_t)references : 0;
    ret->held = atomic_load_explicit(&block->held, memory_order_relaxed);
    ret->held_ns = atomic_load_explicit(&block->held_ns, memory_order_relaxed);
    return true;
}
