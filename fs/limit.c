// Limits by view: which requests wait, in what order, and what each one costs.
//
// Two buckets a view: requests, and bytes read and written. What may not go yet is copied and
// queued behind what the view asked before. WRITEs run at once and their answers wait: the data is
// nobody's to keep then, and the process waits all the same. A READ is charged for what it asks
// for and gets back what there was not.
//
// Not everything can wait, since others may wait for it, or it keeps what others need (the
// exceptions of may_wait): that goes, is charged, and what follows pays for it.
//
// Owns the limits and what is held. One mutex, a leaf, held for some instructions; a heap of the
// views by when their first call goes. Fails: without memory nothing is held back, or, for a new
// limit, a line in the log. Read next: bucket.h, held.c, docs/FUSE.md.
#include "fs/limit_priv.h"

#include "mux/base/log.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LARGE_BYTES (16u << 10) // it pays to give the memory back
#define TABLE_BYTES (AF_SLOT_COUNT * sizeof(_Atomic(struct fs_view_limit *)))

// ---- the heap ----------------------------------------------------------------------------

static void put(struct fs_limits *limits, size_t place, struct fs_view_limit *view)
{
    limits->heap[place] = view;
    view->place = place;
}

// Puts the view where its due_ns belongs.
static void sift(struct fs_limits *limits, struct fs_view_limit *view)
{
    size_t count = atomic_load(&limits->count), at = view->place;
    while (at > 0 && limits->heap[(at - 1) / 2]->due_ns > view->due_ns) {
        put(limits, at, limits->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && limits->heap[child + 1]->due_ns < limits->heap[child]->due_ns)
            child++;
        if (limits->heap[child]->due_ns >= view->due_ns)
            break;
        put(limits, at, limits->heap[child]);
        at = child;
    }
    put(limits, at, view);
}

static int heap_add(struct fs_limits *limits, struct fs_view_limit *view)
{
    size_t count = atomic_load(&limits->count);
    if (count == limits->heap_room) {
        size_t room = count ? 2 * count : 16;
        struct fs_view_limit **bigger = reallocarray(limits->heap, room, sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        limits->heap = bigger;
        limits->heap_room = room;
    }
    put(limits, count, view);
    atomic_store(&limits->count, (unsigned)count + 1);
    sift(limits, view);
    return 0;
}

static void heap_remove(struct fs_limits *limits, struct fs_view_limit *view)
{
    size_t last = atomic_load(&limits->count) - 1, place = view->place;
    struct fs_view_limit *moved = limits->heap[last];
    atomic_store(&limits->count, (unsigned)last);
    if (moved == view)
        return;
    put(limits, place, moved);
    sift(limits, moved);
}

int64_t fs_limits_due_ns(const struct fs_limits *limits)
{
    return atomic_load(&limits->count) > 0 ? limits->heap[0]->due_ns : INT64_MAX;
}

// ---- a view's buckets --------------------------------------------------------------------

static int64_t buckets_due_ns(const struct fs_view_limit *view)
{
    int64_t requests_ns = fs_bucket_due_ns(&view->requests);
    int64_t bytes_ns = fs_bucket_due_ns(&view->bytes);
    return requests_ns > bytes_ns ? requests_ns : bytes_ns;
}

static void charge(struct fs_view_limit *view, uint64_t requests, uint64_t bytes, int64_t now_ns,
                   int64_t debt_max_ns)
{
    fs_bucket_take(&view->requests, requests, now_ns, debt_max_ns);
    if (bytes > 0)
        fs_bucket_take(&view->bytes, bytes, now_ns, debt_max_ns);
}

static void schedule(struct fs_limits *limits, struct fs_view_limit *view)
{
    const struct fs_held *own = TAILQ_FIRST(&view->own), *shared = TAILQ_FIRST(&view->shared);
    int64_t due_ns = buckets_due_ns(view);
    if (!own && !shared)
        due_ns = INT64_MAX;
    else if (shared && shared->until_ns < due_ns)
        due_ns = shared->until_ns;
    if (due_ns == view->due_ns)
        return;
    view->due_ns = due_ns;
    sift(limits, view);
    if (view->place == 0)
        pthread_cond_signal(&limits->changed);
}

// ---- held calls --------------------------------------------------------------------------

void fs_limits_let_go(struct fs_limits *limits, struct fs_held *held)
{
    TAILQ_REMOVE(held->list, held, link);
    TAILQ_REMOVE(&limits->all, held, all);
    TAILQ_INSERT_TAIL(&limits->going, held, link);
    schedule(limits, held->view);
    held->view = NULL;
    limits->held--;
    limits->held_bytes -= held->bytes;
    if (held->call.op == FS_OP_READ)
        limits->reads_held--;
    if (held->call.ring < FS_RINGS_MAX)
        limits->ring_held[held->call.ring]--;
    pthread_cond_signal(&limits->changed);
}

static void go(struct fs_limits *limits, struct fs_held *held, int64_t now_ns, int64_t debt_max_ns)
{
    charge(held->view, 1, held->cost_bytes, now_ns, debt_max_ns);
    fs_limits_let_go(limits, held);
}

void fs_limits_collect(struct fs_limits *limits, int64_t now_ns, unsigned max)
{
    while (max-- > 0 && fs_limits_due_ns(limits) <= now_ns) {
        struct fs_view_limit *view = limits->heap[0];
        struct fs_held *own = TAILQ_FIRST(&view->own), *shared = TAILQ_FIRST(&view->shared);
        if (buckets_due_ns(view) > now_ns)
            go(limits, shared, now_ns, FS_DEBT_MAX_NS); // its time has come, not its turn
        else if (!shared || (own && own->since_ns <= shared->since_ns))
            go(limits, own, now_ns, FS_UNBOUNDED_NS);
        else
            go(limits, shared, now_ns, FS_UNBOUNDED_NS);
    }
}

static bool passes(const struct fs_limits *limits, uint64_t nodeid)
{
    for (unsigned i = 0; i < limits->n_passes; i++)
        if (limits->passes[i] == nodeid)
            return true;
    return limits->pass_all > 0;
}

// Asked on the thread that the call came on, which runs on its ring's CPU.
static unsigned ring_of(const struct fs_call *call)
{
    char *payload;
    size_t size;
    int cpu = fs_call_payload(call, &payload, &size) ? sched_getcpu() : -1;
    return cpu < 0 ? FS_RINGS_MAX : (unsigned)cpu % FS_RINGS_MAX;
}

// What is over the limit waits, unless others would wait with it.
static bool may_wait(const struct fs_limits *limits, const struct fs_call *call)
{
    if (limits->held >= FS_HELD_MAX || limits->held_bytes >= FS_HELD_BYTES_MAX)
        return false;
    // A ring's other entries are for the others of its CPU.
    unsigned depth = limits->session->transport.depth;
    if (call->ring < FS_RINGS_MAX &&
        (unsigned)limits->ring_held[call->ring] + FS_RING_SPARE >= depth)
        return false;
    // The kernel has so many READs under way for all views together.
    if (call->op == FS_OP_READ && limits->reads_held + FS_BACKGROUND / 2 >= limits->background)
        return false;
    return !passes(limits, call->nodeid) && !(call->new_parent && passes(limits, call->new_parent));
}

static struct fs_held_list *list_of(struct fs_view_limit *view, const struct fs_call *call)
{
    return fs_is_views_own(call->session, call->nodeid) ? &view->own : &view->shared;
}

static bool is_over(struct fs_view_limit *view, const struct fs_call *call, int64_t now_ns)
{
    return buckets_due_ns(view) > now_ns || !TAILQ_EMPTY(list_of(view, call));
}

static struct fs_held *held_new(const struct fs_call *call, fs_run_fn run, int rc, int64_t now_ns)
{
    size_t bytes = fs_call_copy_bytes(call);
    struct fs_held *held = malloc(sizeof *held + bytes);
    if (!held)
        return NULL;
    fs_call_copy(call, &held->call, &held->attr, held->storage);
    held->run = run;
    held->rc = rc;
    held->bytes = bytes;
    held->since_ns = now_ns;
    held->until_ns =
        fs_is_views_own(call->session, call->nodeid) ? INT64_MAX : now_ns + FS_SHARED_HOLD_NS;
    return held;
}

static void hold(struct fs_limits *limits, struct fs_view_limit *view, struct fs_held *held,
                 uint64_t cost_bytes)
{
    held->view = view;
    held->list = list_of(view, &held->call);
    held->cost_bytes = cost_bytes;
    TAILQ_INSERT_TAIL(held->list, held, link);
    TAILQ_INSERT_HEAD(&limits->all, held, all);
    if (held->call.ring < FS_RINGS_MAX)
        limits->ring_held[held->call.ring]++;
    limits->reads_held += held->call.op == FS_OP_READ;
    limits->held_bytes += held->bytes;
    if (limits->held++ == 0) // from now on it is looked whether one of them was killed
        pthread_cond_signal(&limits->changed);
    schedule(limits, view);
}

// ---- a request ---------------------------------------------------------------------------

static struct fs_view_limit *view_of(struct fs_limits *limits, uint32_t slot)
{
    return atomic_load_explicit(&limits->views[slot], memory_order_acquire);
}

// What root does in a view is not the sandbox's doing; only pages of a map that the kernel writes
// back have no caller.
static bool is_sandboxes(const struct fs_call *call)
{
    return call->session->uid_base == 0 || call->ctx.uid >= call->session->uid_base ||
           (call->op == FS_OP_WRITE && (call->flags & FS_WRITE_BACK));
}

// What was written is nobody's to keep while the answer waits, nor are the pages of the ring's
// entry.
static void drop_data(struct fs_call *call)
{
    char *payload;
    size_t size;
    if (call->size >= LARGE_BYTES && fs_call_payload(call, &payload, &size) &&
        call->data == payload && call->size <= size)
        madvise(payload, call->size, MADV_DONTNEED); // should it fail, they stay
    call->data = NULL;
}

// Charges it, or puts a copy of it among what is held. Called without the lock; false: it goes on.
// `rc` is of the call when it has run already (run NULL).
static bool hold_or_charge(struct fs_call *call, fs_run_fn run, int rc, uint64_t cost_bytes,
                           int64_t now_ns)
{
    struct fs_limits *limits = call->session->limits;
    uint32_t slot = fs_call_slot(call);
    struct fs_held *held = NULL;
    for (;;) {
        pthread_mutex_lock(&limits->lock);
        struct fs_view_limit *view = limits->closed ? NULL : view_of(limits, slot);
        bool over = view && is_over(view, call, now_ns);
        bool writes_back = call->op == FS_OP_WRITE && (call->flags & FS_WRITE_BACK);
        bool waits = over && !writes_back && may_wait(limits, call);
        if (waits && held)
            hold(limits, view, held, cost_bytes);
        else if (view && !waits) {
            charge(view, 1, cost_bytes, now_ns, over ? FS_DEBT_MAX_NS : FS_UNBOUNDED_NS);
            schedule(limits, view); // what is held waits longer
        }
        pthread_mutex_unlock(&limits->lock);
        if (over && !waits)
            fs_count(call->session, FS_COUNT_NOT_HELD, 1);
        if (!waits)
            free(held);
        if (!waits || held)
            return waits;
        if (!run)
            drop_data(call);
        held = held_new(call, run, rc, now_ns);
        if (!held)
            return false;
    }
}

bool fs_limit_has(struct fs_session *session, uint32_t slot)
{
    return session->limits && slot != 0 && view_of(session->limits, slot) != NULL;
}

bool fs_limit_holds(struct fs_call *call, fs_run_fn run)
{
    if (!fs_limit_has(call->session, fs_call_slot(call)) || !is_sandboxes(call))
        return false;
    call->ring = ring_of(call);
    call->limited =
        call->op == FS_OP_READ || call->op == FS_OP_WRITE || call->op == FS_OP_COPY_FILE_RANGE;
    if (call->op == FS_OP_WRITE)
        return false;
    if (call->op == FS_OP_READ)
        call->charged_bytes = call->size < FS_IO_MAX ? call->size : FS_IO_MAX;
    return hold_or_charge(call, run, 0, call->charged_bytes, call->start_ns);
}

// What a READ did not find it gets back; what was copied is known only now.
static void correct(struct fs_call *call, uint64_t used, int64_t now_ns)
{
    struct fs_limits *limits = call->session->limits;
    pthread_mutex_lock(&limits->lock);
    struct fs_view_limit *view = view_of(limits, fs_call_slot(call));
    if (view && used < call->charged_bytes)
        fs_bucket_give_back(&view->bytes, call->charged_bytes - used);
    else if (view && used > call->charged_bytes)
        fs_bucket_take(&view->bytes, used - call->charged_bytes, now_ns, FS_UNBOUNDED_NS);
    if (view)
        schedule(limits, view);
    pthread_mutex_unlock(&limits->lock);
}

bool fs_limit_settle(struct fs_call *call, int rc, int64_t now_ns)
{
    uint64_t used = 0;
    call->limited = false;
    if (rc >= 0)
        used = call->op == FS_OP_READ ? call->out.buf.size : call->size;
    if (call->op == FS_OP_WRITE)
        return hold_or_charge(call, NULL, rc, used, now_ns);
    correct(call, used, now_ns);
    return false;
}

// ---- what the kernel is told -------------------------------------------------------------

static bool is_about(const struct fs_held *held, uint64_t nodeid)
{
    return held->call.nodeid == nodeid || held->call.new_parent == nodeid;
}

bool fs_limit_pass(struct fs_session *session, uint64_t nodeid)
{
    struct fs_limits *limits = session->limits;
    if (!limits || atomic_load(&limits->count) == 0)
        return false;
    int64_t now_ns = af_monotonic_ns();
    pthread_mutex_lock(&limits->lock);
    if (limits->n_passes < FS_PASSES_MAX)
        limits->passes[limits->n_passes++] = nodeid;
    else
        limits->pass_all++;
    struct fs_view_limit *view =
        fs_is_views_own(session, nodeid) ? view_of(limits, mux_nodeid_slot(nodeid)) : NULL;
    struct fs_held *held = view ? TAILQ_FIRST(&view->own) : NULL, *next;
    for (; held; held = next) {
        next = TAILQ_NEXT(held, link);
        if (is_about(held, nodeid))
            go(limits, held, now_ns, FS_DEBT_MAX_NS);
    }
    pthread_mutex_unlock(&limits->lock);
    return true;
}

void fs_limit_pass_end(struct fs_session *session, uint64_t nodeid)
{
    struct fs_limits *limits = session->limits;
    bool found = false;
    pthread_mutex_lock(&limits->lock);
    for (unsigned i = 0; i < limits->n_passes && !found; i++) {
        found = limits->passes[i] == nodeid;
        if (found)
            limits->passes[i] = limits->passes[--limits->n_passes];
    }
    if (!found)
        limits->pass_all--;
    pthread_mutex_unlock(&limits->lock);
}

// ---- limits come and go ------------------------------------------------------------------

static void let_all_go(struct fs_limits *limits, struct fs_view_limit *view)
{
    struct fs_held *held;
    while ((held = TAILQ_FIRST(&view->own)) || (held = TAILQ_FIRST(&view->shared))) {
        held->call.charged_bytes = 0; // nor is there anything to give back
        fs_limits_let_go(limits, held);
    }
}

static void remove_limit(struct fs_limits *limits, struct fs_view_limit *view)
{
    let_all_go(limits, view);
    heap_remove(limits, view);
    atomic_store(&limits->views[view->slot], NULL);
    free(view);
}

static struct fs_view_limit *add_limit(struct fs_limits *limits, uint32_t slot)
{
    struct fs_view_limit *view = calloc(1, sizeof *view);
    if (!view)
        return NULL;
    view->slot = slot;
    view->due_ns = INT64_MAX;
    TAILQ_INIT(&view->own);
    TAILQ_INIT(&view->shared);
    if (heap_add(limits, view) < 0) {
        free(view);
        return NULL;
    }
    atomic_store_explicit(&limits->views[slot], view, memory_order_release);
    return view;
}

void fs_limit_set(struct fs_session *session, uint32_t slot, uint64_t iops, uint64_t bandwidth,
                  int64_t now_ns)
{
    struct fs_limits *limits = session->limits;
    bool wanted = iops > 0 || bandwidth > 0;
    pthread_mutex_lock(&limits->lock);
    struct fs_view_limit *view = view_of(limits, slot);
    bool changes = view || wanted;
    if (view && !wanted)
        remove_limit(limits, view);
    else if (!view && wanted && !limits->closed)
        view = add_limit(limits, slot);
    bool failed = wanted && !view && !limits->closed;
    if (view && wanted) {
        fs_bucket_set(&view->requests, iops, now_ns);
        fs_bucket_set(&view->bytes, bandwidth, now_ns);
        schedule(limits, view);
    }
    if (changes) {
        limits->background_fails = false;
        pthread_cond_signal(&limits->changed); // the room in the background follows
    }
    pthread_mutex_unlock(&limits->lock);
    if (failed)
        af_log(AF_LOG_ERROR, "fs", "no memory for a view's limit: it has none", "slot=%u", slot);
}

unsigned fs_limits_held(struct fs_session *session)
{
    struct fs_limits *limits = session->limits;
    pthread_mutex_lock(&limits->lock);
    unsigned held = limits->held;
    pthread_mutex_unlock(&limits->lock);
    return held;
}

int fs_limits_new(struct fs_session *session)
{
    struct fs_limits *limits = calloc(1, sizeof *limits);
    if (!limits)
        return -ENOMEM;
    // Pages of slots that are never limited are never there.
    void *table =
        mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) {
        free(limits);
        return -ENOMEM;
    }
    limits->session = session;
    limits->views = table;
    limits->background = FS_BACKGROUND;
    TAILQ_INIT(&limits->going);
    TAILQ_INIT(&limits->all);
    pthread_mutex_init(&limits->lock, NULL);
    pthread_cond_init(&limits->changed, NULL);
    session->limits = limits;
    return 0;
}

void fs_limits_free(struct fs_session *session)
{
    struct fs_limits *limits = session->limits;
    if (!limits)
        return;
    fs_limits_close(session);
    while (atomic_load(&limits->count) > 0)
        remove_limit(limits, limits->heap[0]);
    free(limits->heap);
    munmap((void *)limits->views, TABLE_BYTES);
    pthread_cond_destroy(&limits->changed);
    pthread_mutex_destroy(&limits->lock);
    free(limits);
    session->limits = NULL;
}
