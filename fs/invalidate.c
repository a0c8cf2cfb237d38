// The notifier: tells the kernel what to forget, from one thread of its own.
//
// mux only queues here, after its new state is published and with no lock held. Delivery may wait
// in the kernel: for a page that a READ has locked, for a directory that a CREATE has locked, and
// those requests need a FUSE worker. So it never happens on a worker, nor under a lock.
//
// A FORGET of a file without a name is confirmed some time later, with others: files that go one
// after another would wake the thread each, and it would stand in their view's way.
//
// Owns the queue and the thread. One mutex, a leaf, not held while notifying. Fails: a name or
// inode that the kernel does not have (-ENOENT) is what was wanted; want of memory is retried,
// then counted and logged, for then a view may show old content until its timeouts end.
// Read next: mux/mux.h, struct mux_notifier.
#include "fs/limit.h"
#include "fs/session_priv.h"
#include "fs/taps_priv.h"

#include "mux/base/clock.h"
#include "mux/base/log.h"
#include "mux/mux.h"

#include <stdlib.h>
#include <string.h>

#define RETRIES      10
#define LATE_NS      (5 * 1000000LL)
#define LATE_MAX     64
#define TOLD_WAIT_NS AF_NS_PER_SEC // longer for want of what a slow thread waits for: give up

enum kind { INVAL_ENTRY, EXPIRE_ENTRY, MOVED_DIRECTORY, INVAL_INODE, CONFIRM_FORGET, SETTLE };

struct item {
    struct item *next;
    enum kind kind;
    uint64_t nodeid; // of the parent, for the kinds with a name
    uint64_t moved;  // of the directory itself
    int64_t offset;
    int64_t len;
    size_t name_len;
    const char *name; // NUL-terminated
    char bytes[];     // of a queued one
};

struct fs_invalidator {
    struct fs_session *session;
    pthread_mutex_t lock;
    pthread_cond_t queued_cond;
    pthread_cond_t delivered_cond;
    struct item *head;
    struct item **tail;
    struct item *late_head; // CONFIRM_FORGETs that wait for others, until late_due_ns
    struct item **late_tail;
    unsigned late;
    int64_t late_due_ns;
    uint64_t queued;    // items ever queued
    uint64_t delivered; // items ever delivered
    bool stopping;
    bool running;
    pthread_t thread;
};

static int deliver_once(struct fuse_session *fuse, const struct item *item)
{
    switch (item->kind) {
    case INVAL_ENTRY:
    case MOVED_DIRECTORY:
        return fuse_lowlevel_notify_inval_entry(fuse, item->nodeid, item->name, item->name_len);
    case EXPIRE_ENTRY:
        return fs_compat_expire_entry(fuse, item->nodeid, item->name, item->name_len);
    case INVAL_INODE:
    case CONFIRM_FORGET: // asks by taking back what costs nothing: -ENOENT is the answer
        return fuse_lowlevel_notify_inval_inode(fuse, item->nodeid, item->offset, item->len);
    case SETTLE: // is for us
        break;
    }
    return -EINVAL;
}

// 0, or -ENOENT when the kernel has no such name or inode; the rest is the connection's end, or
// has been reported.
static int deliver(struct fs_invalidator *inv, const struct item *item)
{
    int rc = 0;
    // The kernel waits for requests on that inode; those that are held back would take long.
    bool passes = fs_limit_pass(inv->session, item->nodeid);
    for (int i = 0; i < RETRIES; i++) {
        rc = deliver_once(inv->session->fuse, item);
        if (rc != -ENOMEM && rc != -EINTR && rc != -EAGAIN)
            break;
        sched_yield();
    }
    if (passes)
        fs_limit_pass_end(inv->session, item->nodeid);
    fs_count(inv->session, FS_COUNT_INVALIDATION, 1);
    // ENOTDIR: the parent is a directory no more; ENOTCONN, ENODEV: nobody caches anything now.
    if (rc == 0 || rc == -ENOENT || rc == -ENOTDIR || rc == -ENOTCONN || rc == -ENODEV)
        return rc;
    fs_count(inv->session, FS_COUNT_INVALIDATION_LOST, 1);
    af_log(AF_LOG_ERROR, "fs", "the kernel refused an invalidation", "kind=%d nodeid=%llx error=%d",
           (int)item->kind, (unsigned long long)item->nodeid, -rc);
    return rc;
}

// Under the lock: what waits for others is delivered next.
static void end_late(struct fs_invalidator *inv)
{
    if (inv->late == 0)
        return;
    *inv->tail = inv->late_head;
    inv->tail = inv->late_tail;
    inv->late_head = NULL;
    inv->late_tail = &inv->late_head;
    inv->late = 0;
}

static void wait_for_items(struct fs_invalidator *inv)
{
    if (inv->late == 0) {
        pthread_cond_wait(&inv->queued_cond, &inv->lock);
        return;
    }
    struct timespec due = af_timespec_of_ns(inv->late_due_ns);
    pthread_cond_clockwait(&inv->queued_cond, &inv->lock, CLOCK_MONOTONIC, &due);
}

// The old name goes first, and with it what nobody uses. When the kernel has the directory still,
// somebody is in it.
static void deliver_moved(struct fs_invalidator *inv, const struct item *item)
{
    struct item ask = {.kind = INVAL_INODE, .nodeid = item->moved, .offset = -1};
    deliver(inv, item);
    if (deliver(inv, &ask) == 0)
        fs_moved_add(inv->session, item->moved);
}

static void *notifier_thread(void *arg)
{
    struct fs_invalidator *inv = arg;
    pthread_setname_np(pthread_self(), "af-fs-notify");
    pthread_mutex_lock(&inv->lock);
    while (!inv->stopping) {
        if (inv->late > 0 && af_monotonic_ns() >= inv->late_due_ns)
            end_late(inv);
        struct item *item = inv->head;
        if (!item) {
            wait_for_items(inv);
            continue;
        }
        inv->head = item->next;
        if (!inv->head)
            inv->tail = &inv->head;
        pthread_mutex_unlock(&inv->lock);
        int rc = 0;
        if (item->kind == SETTLE)
            mux_settle(inv->session->mux, item->nodeid);
        else if (item->kind == MOVED_DIRECTORY)
            deliver_moved(inv, item);
        else
            rc = deliver(inv, item);
        if (item->kind == CONFIRM_FORGET && rc == -ENOENT)
            mux_forgotten(inv->session->mux, item->nodeid);
        free(item);
        pthread_mutex_lock(&inv->lock);
        inv->delivered++;
        pthread_cond_broadcast(&inv->delivered_cond);
    }
    pthread_mutex_unlock(&inv->lock);
    return NULL;
}

static void add(struct fs_invalidator *inv, struct item *item)
{
    *inv->tail = item;
    inv->tail = &item->next;
    inv->queued++;
    pthread_cond_signal(&inv->queued_cond);
}

static void add_late(struct fs_invalidator *inv, struct item *item)
{
    *inv->late_tail = item;
    inv->late_tail = &item->next;
    inv->queued++;
    if (++inv->late == 1)
        inv->late_due_ns = af_monotonic_ns() + LATE_NS;
    else if (inv->late < LATE_MAX)
        return;
    else
        end_late(inv);
    pthread_cond_signal(&inv->queued_cond);
}

static void queue_item(struct fs_session *session, const struct item *what)
{
    struct fs_invalidator *inv = session->invalidator;
    struct item *item = malloc(sizeof *item + what->name_len + 1);
    if (!item) {
        fs_count(session, FS_COUNT_INVALIDATION_LOST, 1);
        af_log(AF_LOG_ERROR, "fs", "no memory for an invalidation", "nodeid=%llx",
               (unsigned long long)what->nodeid);
        return;
    }
    *item = *what;
    if (what->name_len > 0)
        memcpy(item->bytes, what->name, what->name_len);
    item->bytes[what->name_len] = '\0';
    item->name = item->bytes;
    pthread_mutex_lock(&inv->lock);
    bool keep = !inv->stopping;
    if (keep && what->kind == SETTLE) // comes after all that was queued before
        end_late(inv);
    if (keep && what->kind == CONFIRM_FORGET)
        add_late(inv, item);
    else if (keep)
        add(inv, item);
    pthread_mutex_unlock(&inv->lock);
    if (!keep)
        free(item);
}

static void notify_inval_entry(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    queue_item(arg, &(struct item){
                        .kind = INVAL_ENTRY, .nodeid = parent, .name = name, .name_len = name_len});
}

static void notify_moved_directory(void *arg, uint64_t parent, const char *name, size_t name_len,
                                   uint64_t nodeid)
{
    queue_item(arg, &(struct item){.kind = MOVED_DIRECTORY,
                                   .nodeid = parent,
                                   .moved = nodeid,
                                   .name = name,
                                   .name_len = name_len});
}

static void notify_expire_entry(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    queue_item(
        arg,
        &(struct item){.kind = EXPIRE_ENTRY, .nodeid = parent, .name = name, .name_len = name_len});
}

static void notify_inval_inode(void *arg, uint64_t nodeid, int64_t offset, int64_t len)
{
    queue_item(arg,
               &(struct item){.kind = INVAL_INODE, .nodeid = nodeid, .offset = offset, .len = len});
}

static void notify_confirm_forget(void *arg, uint64_t nodeid)
{
    queue_item(arg, &(struct item){.kind = CONFIRM_FORGET, .nodeid = nodeid, .offset = -1});
}

static void notify_settle(void *arg, uint64_t nodeid)
{
    queue_item(arg, &(struct item){.kind = SETTLE, .nodeid = nodeid});
}

// Everything is in the queue and in order, so that a count tells when all of it is delivered.
static void hurry(struct fs_invalidator *inv)
{
    end_late(inv);
    pthread_cond_signal(&inv->queued_cond);
}

static void notify_wait_told(void *arg)
{
    struct fs_session *session = arg;
    struct fs_invalidator *inv = session->invalidator;
    struct timespec until = af_timespec_of_ns(af_monotonic_ns() + TOLD_WAIT_NS);
    pthread_mutex_lock(&inv->lock);
    hurry(inv);
    uint64_t queued = inv->queued;
    while (inv->running && !inv->stopping && inv->delivered < queued)
        if (pthread_cond_clockwait(&inv->delivered_cond, &inv->lock, CLOCK_MONOTONIC, &until) != 0)
            break;
    pthread_mutex_unlock(&inv->lock);
}

// ---- at once, on a thread of the caller's

static int now(struct fs_session *session, enum kind kind, uint64_t nodeid, const char *name,
               size_t name_len, int64_t offset, int64_t len)
{
    struct fs_invalidator *inv = session->invalidator;
    struct item item = {.kind = kind, .nodeid = nodeid, .offset = offset, .len = len};
    item.name = name;
    item.name_len = name_len;
    pthread_mutex_lock(&inv->lock);
    bool usable = inv->running && !inv->stopping;
    pthread_mutex_unlock(&inv->lock);
    return usable ? deliver(inv, &item) : -ENOENT;
}

static int drop_entry_now(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    return now(arg, INVAL_ENTRY, parent, name, name_len, 0, 0);
}

static int expire_entry_now(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    return now(arg, EXPIRE_ENTRY, parent, name, name_len, 0, 0);
}

static int drop_inode_now(void *arg, uint64_t nodeid, int64_t offset, int64_t len)
{
    return now(arg, INVAL_INODE, nodeid, NULL, 0, offset, len);
}

void fs_invalidate_inode(struct fs_session *session, uint64_t nodeid, int64_t offset, int64_t len)
{
    notify_inval_inode(session, nodeid, offset, len);
}

void fs_invalidate_flush(struct fs_session *session, const char *sandbox_id)
{
    struct fs_invalidator *inv = session->invalidator;
    pthread_mutex_lock(&inv->lock);
    hurry(inv);
    uint64_t until = inv->queued;
    while (inv->running && !inv->stopping && inv->delivered < until)
        pthread_cond_wait(&inv->delivered_cond, &inv->lock);
    pthread_mutex_unlock(&inv->lock);
    fs_moved_wait(session, sandbox_id);
}

// ---- not for the kernel, but for who else wants to know

static void notify_detached(void *arg, uint32_t slot)
{
    fs_limit_set(arg, slot, 0, 0, af_monotonic_ns());
    fs_taps_detached(arg, slot);
}

static void notify_limited(void *arg, uint32_t slot, uint64_t iops, uint64_t bandwidth)
{
    fs_limit_set(arg, slot, iops, bandwidth, af_monotonic_ns());
}

int fs_invalidator_new(struct fs_session *session, struct fs_invalidator **ret)
{
    static const struct mux_notifier notifier = {
        .inval_entry = notify_inval_entry,
        .moved_directory = notify_moved_directory,
        .expire_entry = notify_expire_entry,
        .inval_inode = notify_inval_inode,
        .confirm_forget = notify_confirm_forget,
        .settle = notify_settle,
        .wait_told = notify_wait_told,
        .drop_entry_now = drop_entry_now,
        .expire_entry_now = expire_entry_now,
        .drop_inode_now = drop_inode_now,
        .attached = fs_taps_attached,
        .detached = notify_detached,
        .limited = notify_limited,
    };
    struct fs_invalidator *inv = calloc(1, sizeof *inv);
    if (!inv)
        return -ENOMEM;
    inv->session = session;
    inv->tail = &inv->head;
    inv->late_tail = &inv->late_head;
    pthread_mutex_init(&inv->lock, NULL);
    pthread_cond_init(&inv->queued_cond, NULL);
    pthread_cond_init(&inv->delivered_cond, NULL);
    *ret = inv;
    mux_set_notifier(session->mux, &notifier, session);
    return 0;
}

int fs_invalidator_start(struct fs_invalidator *inv)
{
    pthread_mutex_lock(&inv->lock);
    int rc = inv->running ? 0 : pthread_create(&inv->thread, NULL, notifier_thread, inv);
    if (rc == 0)
        inv->running = true;
    pthread_mutex_unlock(&inv->lock);
    return -rc;
}

void fs_invalidator_close(struct fs_invalidator *inv)
{
    pthread_mutex_lock(&inv->lock);
    inv->stopping = true;
    pthread_cond_broadcast(&inv->queued_cond);
    pthread_cond_broadcast(&inv->delivered_cond);
    pthread_mutex_unlock(&inv->lock);
}

void fs_invalidator_join(struct fs_invalidator *inv)
{
    pthread_mutex_lock(&inv->lock);
    bool join = inv->running;
    inv->running = false;
    pthread_mutex_unlock(&inv->lock);
    if (join)
        pthread_join(inv->thread, NULL);
}

void fs_invalidator_free(struct fs_invalidator *inv)
{
    if (!inv)
        return;
    mux_set_notifier(inv->session->mux, NULL, NULL);
    fs_invalidator_close(inv);
    fs_invalidator_join(inv);
    end_late(inv);
    while (inv->head) {
        struct item *next = inv->head->next;
        free(inv->head);
        inv->head = next;
    }
    pthread_cond_destroy(&inv->delivered_cond);
    pthread_cond_destroy(&inv->queued_cond);
    pthread_mutex_destroy(&inv->lock);
    free(inv);
}
