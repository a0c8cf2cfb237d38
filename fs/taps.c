// Taps: who listens to which slot, and events made of answers.
//
// Every answer asks one number whether there is any tap at all (fs_taps_any). When there is, a
// count by slot says whether its view is watched, and only then is a path looked for and an event
// made, one allocation for each tap that wants it. Workers wait for nothing here: the places of
// taps are read without a lock, a queue that is full refuses, and readers are woken by a thread.
//
// A tap is closed by taking it out of its place and waiting until nobody is `inside` of that
// place. Lock: taps.lock (a leaf), for opening, closing and the word of mux on attachments. Owns
// taps, queues, the thread. Read next: taps.h, tap_queue.c, mux/locate.h.
#include "fs/taps.h"

#include "fs/taps_priv.h"
#include "mux/base/clock.h"
#include "mux/base/cleanup.h"
#include "mux/base/id.h"
#include "mux/locate.h"
#include "mux/sandbox.h"

#include <linux/fs.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define TABLE_BYTES (AF_SLOT_COUNT * sizeof(_Atomic uint16_t))
#define WAKE_GAP_NS 1000000 // at least this between two rounds of waking readers

struct fs_tap {
    struct fs_session *session;
    struct place *place;
    char sandbox_id[AF_ID_TEXT_MAX];
    unsigned wants;
    char *path;
    size_t path_len;
    void (*wake)(void *arg);
    void *arg;
    struct fs_tap_queue *queue;
    _Atomic uint64_t lost;
    _Atomic uint64_t last_changed; // nodeid of the last event when that was a change of content
    atomic_bool signalled;         // the thread knows that there is something
};

struct place {
    _Atomic(struct fs_tap *) tap;
    _Atomic uint32_t slot; // of the sandbox now; 0: it is not attached
    atomic_uint inside;    // threads that use the tap
};

struct fs_taps {
    pthread_mutex_t lock;
    struct place places[AF_WATCHERS_MAX];
    _Atomic uint16_t *watched; // taps by slot
    int wake_fd;
    pthread_t thread;
    bool has_thread;
    atomic_bool stopping;
};

// ---- places

// NULL: there is none. leave() must follow in either case.
static struct fs_tap *enter(struct place *place)
{
    atomic_fetch_add(&place->inside, 1);
    return atomic_load(&place->tap);
}

// The place may have become another sandbox's since its slot was looked at.
static struct fs_tap *enter_of(struct place *place, uint32_t slot)
{
    struct fs_tap *tap = enter(place);
    return atomic_load(&place->slot) == slot ? tap : NULL;
}

static void leave(struct place *place)
{
    atomic_fetch_sub(&place->inside, 1);
}

static void set_slot_locked(struct fs_taps *taps, struct place *place, uint32_t slot)
{
    uint32_t was = atomic_exchange(&place->slot, slot);
    if (was)
        atomic_fetch_sub(&taps->watched[was], 1);
    if (slot)
        atomic_fetch_add(&taps->watched[slot], 1);
}

void fs_taps_attached(void *arg, uint32_t slot, const char *sandbox_id)
{
    struct fs_session *session = arg;
    struct fs_taps *taps = session->taps;
    pthread_mutex_lock(&taps->lock);
    for (size_t i = 0; i < AF_WATCHERS_MAX; i++) {
        const struct fs_tap *tap = atomic_load(&taps->places[i].tap);
        if (tap && strcmp(tap->sandbox_id, sandbox_id) == 0)
            set_slot_locked(taps, &taps->places[i], slot);
        else if (atomic_load(&taps->places[i].slot) == slot)
            set_slot_locked(taps, &taps->places[i], 0);
    }
    pthread_mutex_unlock(&taps->lock);
}

void fs_taps_detached(void *arg, uint32_t slot)
{
    struct fs_session *session = arg;
    struct fs_taps *taps = session->taps;
    pthread_mutex_lock(&taps->lock);
    for (size_t i = 0; i < AF_WATCHERS_MAX; i++)
        if (atomic_load(&taps->places[i].slot) == slot)
            set_slot_locked(taps, &taps->places[i], 0);
    pthread_mutex_unlock(&taps->lock);
}

// ---- waking readers

static void signal_reader(struct fs_taps *taps, struct fs_tap *tap)
{
    uint64_t one = 1;
    if (atomic_exchange(&tap->signalled, true))
        return;
    ssize_t ignored = write(taps->wake_fd, &one, sizeof one); // full: readable already
    (void)ignored;
}

static void wake_readers(struct fs_taps *taps)
{
    for (size_t i = 0; i < AF_WATCHERS_MAX; i++) {
        struct place *place = &taps->places[i];
        if (!atomic_load(&place->tap))
            continue;
        struct fs_tap *tap = enter(place);
        if (tap && atomic_load(&tap->signalled))
            tap->wake(tap->arg);
        leave(place);
    }
}

static void *wake_thread(void *arg)
{
    struct fs_taps *taps = arg;
    const struct timespec gap = af_timespec_of_ns(WAKE_GAP_NS);
    uint64_t count;
    pthread_setname_np(pthread_self(), "af-fs-taps");
    while (!atomic_load(&taps->stopping)) {
        if (read(taps->wake_fd, &count, sizeof count) < 0 && errno != EINTR)
            break;
        wake_readers(taps);
        nanosleep(&gap, NULL); // many events, one waking
    }
    return NULL;
}

// ---- events

static bool changes_content(enum fs_op op)
{
    return op == FS_OP_WRITE || op == FS_OP_SETATTR || op == FS_OP_FALLOCATE ||
           op == FS_OP_COPY_FILE_RANGE || op == FS_OP_SETXATTR || op == FS_OP_REMOVEXATTR;
}

static bool names_child(enum fs_op op)
{
    return op == FS_OP_LOOKUP || op == FS_OP_CREATE || op == FS_OP_MKNOD || op == FS_OP_MKDIR ||
           op == FS_OP_SYMLINK || op == FS_OP_UNLINK || op == FS_OP_RMDIR || op == FS_OP_RENAME;
}

static bool changes_names(enum fs_op op)
{
    return op == FS_OP_LINK || (names_child(op) && op != FS_OP_LOOKUP);
}

// A lookup answered with "absent": only the rules know whether they have made it so.
static bool may_be_hidden(const struct fs_call *call, int rc)
{
    return call->op == FS_OP_LOOKUP && rc == 0 && call->out.entry.ino == 0;
}

static void describe(const struct fs_call *call, int rc, int64_t took_ns, struct fs_event *ret)
{
    *ret = (struct fs_event){
        .op = call->op,
        .error = rc < 0 ? -rc : 0,
        .is_change = rc == 0 && (changes_content(call->op) || changes_names(call->op)),
        .is_denied = may_be_hidden(call, rc) || rc == -EACCES || rc == -EPERM || rc == -EROFS,
        .swaps = call->op == FS_OP_RENAME && (call->flags & RENAME_EXCHANGE),
        .pid = call->ctx.pid,
        .at_ns = af_wall_ns(),
        .took_ns = took_ns,
    };
}

// The node whose content or attributes change, or that is looked at.
static uint64_t subject_of(const struct fs_call *call)
{
    return call->op == FS_OP_COPY_FILE_RANGE ? call->new_parent : call->nodeid;
}

// -ESTALE: the request is not of the slot's present view.
static int find_place(const struct fs_call *call, bool target, bool ask_hidden,
                      struct mux_place *ret)
{
    struct mux *mux = call->session->mux;
    uid_t uid = call->ctx.uid;
    int rc;
    if (call->op == FS_OP_LINK || target)
        rc = mux_locate(mux, call->new_parent, uid, call->new_name, false, ret);
    else if (names_child(call->op))
        rc = mux_locate(mux, call->nodeid, uid, call->name, ask_hidden, ret);
    else
        rc = mux_locate(mux, subject_of(call), uid, NULL, false, ret);
    if (rc < 0) {
        ret->mode = 0;
        ret->hidden = false;
        ret->len = 0;
        ret->path[0] = '\0';
        ret->is_cut = rc != -ENOENT; // a name that is too long, a store that cannot be read
    }
    return rc == -ESTALE ? rc : 0;
}

static mode_t mode_of(const struct fs_call *call, int rc, mode_t at_place)
{
    bool has_entry = call->answer == FS_ANSWER_ENTRY || call->answer == FS_ANSWER_CREATE;
    if (rc == 0 && has_entry)
        return call->out.entry.ino ? call->out.entry.attr.st_mode : 0;
    return call->op == FS_OP_RMDIR ? S_IFDIR : at_place;
}

static bool covers(const struct fs_tap *tap, const struct mux_place *place)
{
    size_t len = tap->path_len;
    if (len == 0 || place->is_cut)
        return true;
    return place->len >= len && memcmp(place->path, tap->path, len) == 0 &&
           (place->len == len || place->path[len] == '/');
}

static bool wants(const struct fs_tap *tap, const struct fs_event *event)
{
    return (tap->wants & FS_TAP_ALL) || ((tap->wants & FS_TAP_CHANGES) && event->is_change) ||
           ((tap->wants & FS_TAP_DENIED) && event->is_denied);
}

// A file that is written to piece by piece is one event until it has been taken: the reader gives
// up its mark between taking an event and passing it on, so whoever still finds it wrote before.
static bool is_repeated(struct fs_tap *tap, const struct fs_event *event, uint64_t nodeid)
{
    bool mergeable = event->is_change && changes_content(event->op) && !(tap->wants & FS_TAP_ALL);
    return atomic_exchange(&tap->last_changed, mergeable ? nodeid : 0) == nodeid && mergeable;
}

static void put(struct fs_taps *taps, struct fs_tap *tap, const struct fs_event *event,
                const struct mux_place *place, const struct mux_place *target)
{
    size_t bytes = sizeof *event + place->len + 1 + (target ? target->len + 1 : 0);
    struct fs_event *copy = malloc(bytes);
    if (copy) {
        char *text = (char *)(copy + 1);
        *copy = *event;
        copy->path = memcpy(text, place->path, place->len + 1);
        if (target)
            copy->target = memcpy(text + place->len + 1, target->path, target->len + 1);
    }
    if (!copy || !fs_tap_queue_put(tap->queue, copy, bytes)) {
        free(copy);
        atomic_fetch_add(&tap->lost, 1);
    }
    signal_reader(taps, tap);
}

static bool anybody_wants(struct fs_taps *taps, uint32_t slot, const struct fs_event *event)
{
    bool wanted = false;
    for (size_t i = 0; i < AF_WATCHERS_MAX && !wanted; i++) {
        struct place *place = &taps->places[i];
        if (atomic_load_explicit(&place->slot, memory_order_relaxed) != slot)
            continue;
        const struct fs_tap *tap = enter_of(place, slot);
        wanted = tap && wants(tap, event);
        leave(place);
    }
    return wanted;
}

void fs_taps_answer(const struct fs_call *call, int rc, int64_t took_ns)
{
    struct fs_taps *taps = call->session->taps;
    struct fs_event event;
    struct mux_place place, target;
    uint32_t slot = fs_call_slot(call);
    if (slot == 0 || atomic_load_explicit(&taps->watched[slot], memory_order_relaxed) == 0)
        return;
    describe(call, rc, took_ns, &event);
    bool renames = call->op == FS_OP_RENAME, asks = may_be_hidden(call, rc);
    if (!anybody_wants(taps, slot, &event) || find_place(call, false, asks, &place) < 0 ||
        (renames && find_place(call, true, false, &target) < 0))
        return;
    if (asks)
        event.is_denied = event.hidden = place.hidden;
    event.mode = mode_of(call, rc, renames ? target.mode : place.mode);
    event.is_cut = place.is_cut || (renames && target.is_cut);
    for (size_t i = 0; i < AF_WATCHERS_MAX; i++) {
        struct place *at = &taps->places[i];
        if (atomic_load_explicit(&at->slot, memory_order_relaxed) != slot)
            continue;
        struct fs_tap *tap = enter_of(at, slot);
        if (tap && wants(tap, &event) &&
            (covers(tap, &place) || (renames && covers(tap, &target))) &&
            !is_repeated(tap, &event, subject_of(call)))
            put(taps, tap, &event, &place, renames ? &target : NULL);
        leave(at);
    }
}

// ---- for readers

struct fs_event *fs_tap_next(struct fs_tap *tap, uint64_t *ret_lost)
{
    struct fs_event *event = fs_tap_queue_take(tap->queue);
    if (!event) {
        atomic_store(&tap->signalled, false);
        event = fs_tap_queue_take(tap->queue); // what came before somebody could see that
    }
    atomic_store(&tap->last_changed, 0); // see is_repeated
    *ret_lost = event ? atomic_exchange(&tap->lost, 0) : 0;
    return event;
}

static void free_tap(struct fs_tap *tap)
{
    fs_tap_queue_free(tap->queue);
    free(tap->path);
    free(tap);
}

static struct fs_tap *new_tap(struct fs_session *session, const struct fs_tap_options *options)
{
    struct fs_tap *tap = calloc(1, sizeof *tap);
    if (!tap)
        return NULL;
    tap->session = session;
    tap->wants = options->wants;
    tap->wake = options->wake;
    tap->arg = options->arg;
    tap->path = strdup(options->path);
    tap->path_len = strlen(options->path);
    tap->queue = fs_tap_queue_new();
    snprintf(tap->sandbox_id, sizeof tap->sandbox_id, "%s", options->sandbox_id);
    if (tap->path && tap->queue)
        return tap;
    free_tap(tap);
    return NULL;
}

// The sandbox's slot now: what mux said before the tap was there.
static void find_slot(struct fs_tap *tap)
{
    struct fs_taps *taps = tap->session->taps;
    uid_t uid;
    bool attached = mux_view_uid(tap->session->mux, tap->sandbox_id, &uid);
    pthread_mutex_lock(&taps->lock);
    // Detached in between and another's by now: mux says so before that one's first request.
    if (attached && atomic_load(&tap->place->slot) == 0)
        set_slot_locked(taps, tap->place, uid - tap->session->uid_base);
    pthread_mutex_unlock(&taps->lock);
}

static int settle_locked(struct fs_taps *taps, struct fs_tap *tap, struct af_error *err)
{
    if (!taps->has_thread) {
        int rc = pthread_create(&taps->thread, NULL, wake_thread, taps);
        if (rc != 0)
            return af_error_errno(err, rc, "cannot watch");
        taps->has_thread = true;
    }
    for (size_t i = 0; i < AF_WATCHERS_MAX; i++) {
        if (atomic_load(&taps->places[i].tap))
            continue;
        tap->place = &taps->places[i];
        atomic_store(&tap->place->tap, tap);
        atomic_fetch_add(&tap->session->taps_open, 1);
        return 0;
    }
    return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                        "%d clients watch or trace already, more cannot; end one of them",
                        AF_WATCHERS_MAX);
}

int fs_tap_open(struct fs_session *session, const struct fs_tap_options *options,
                struct fs_tap **ret, struct af_error *err)
{
    struct fs_tap *tap = new_tap(session, options);
    if (!tap)
        return af_error_errno(err, ENOMEM, "cannot watch");
    pthread_mutex_lock(&session->taps->lock);
    int rc = settle_locked(session->taps, tap, err);
    pthread_mutex_unlock(&session->taps->lock);
    if (rc < 0) {
        free_tap(tap);
        return -1;
    }
    find_slot(tap);
    *ret = tap;
    return 0;
}

void fs_tap_close(struct fs_tap *tap)
{
    if (!tap)
        return;
    struct fs_taps *taps = tap->session->taps;
    struct place *place = tap->place;
    pthread_mutex_lock(&taps->lock);
    set_slot_locked(taps, place, 0);
    atomic_fetch_sub(&tap->session->taps_open, 1);
    atomic_store(&place->tap, NULL);
    while (atomic_load(&place->inside) > 0)
        sched_yield(); // for the length of one answer
    pthread_mutex_unlock(&taps->lock);
    free_tap(tap);
}

// ---- for the session

int fs_taps_new(struct fs_session *session)
{
    struct fs_taps *taps = calloc(1, sizeof *taps);
    if (!taps)
        return -ENOMEM;
    pthread_mutex_init(&taps->lock, NULL);
    session->taps = taps;
    taps->wake_fd = eventfd(0, EFD_CLOEXEC);
    // Pages of slots that nobody watches are never there.
    void *table =
        mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    taps->watched = table == MAP_FAILED ? NULL : table;
    return taps->wake_fd >= 0 && taps->watched ? 0 : -ENOMEM;
}

void fs_taps_free(struct fs_session *session)
{
    struct fs_taps *taps = session->taps;
    uint64_t one = 1;
    if (!taps)
        return;
    atomic_store(&taps->stopping, true);
    if (taps->has_thread && write(taps->wake_fd, &one, sizeof one) == sizeof one)
        pthread_join(taps->thread, NULL);
    if (taps->wake_fd >= 0)
        close(taps->wake_fd);
    if (taps->watched)
        munmap((void *)taps->watched, TABLE_BYTES);
    pthread_mutex_destroy(&taps->lock);
    free(taps);
    session->taps = NULL;
}
