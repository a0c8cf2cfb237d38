// Changes of a codebase, copied and queued. Owns the queue. Read next: codebase_tap.h.
#include "api/services/codebase_tap.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct codebase_tap {
    struct mux *mux;
    struct mux_listener listener;
    char *path;
    void (*wake)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    STAILQ_HEAD(, codebase_event) events;
    size_t count, bytes;
    uint64_t lost;
    bool gone; // the codebase is
};

// Whether `path` is `dir` or below it.
static bool is_within(const char *path, const char *dir)
{
    size_t len = strlen(dir);
    return len == 0 || (strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/'));
}

// A directory above may have come or gone with all that it holds, the watched path included.
static bool covers(const struct codebase_tap *tap, const struct mux_diff_entry *entry)
{
    bool moves = entry->change == MUX_DELETED || entry->change == MUX_RENAMED;
    return is_within(entry->path, tap->path) || (moves && is_within(tap->path, entry->path)) ||
           (entry->old_path &&
            (is_within(entry->old_path, tap->path) || is_within(tap->path, entry->old_path)));
}

static struct codebase_event *copy_event(const struct mux_news_item *item)
{
    const struct mux_diff_entry *entry = item->entry;
    const char *sandbox = item->sandbox_id ? item->sandbox_id : "";
    size_t path = strlen(entry->path) + 1, id = strlen(sandbox) + 1;
    size_t old_path = entry->old_path ? strlen(entry->old_path) + 1 : 0;
    size_t bytes = sizeof(struct codebase_event) + path + id + old_path;
    struct codebase_event *event = malloc(bytes);
    if (!event)
        return NULL;
    char *text = (char *)(event + 1);
    *event = (struct codebase_event){
        .change = entry->change, .mode = entry->mode, .at_ns = item->at_ns, .bytes = bytes};
    event->path = memcpy(text, entry->path, path);
    event->sandbox_id = memcpy(text + path, sandbox, id);
    if (old_path > 0)
        event->old_path = memcpy(text + path + id, entry->old_path, old_path);
    return event;
}

static void put_changed(void *arg, const struct mux_news_item *item)
{
    struct codebase_tap *tap = arg;
    if (!covers(tap, item->entry))
        return;
    AF_CLEANUP_FREE struct codebase_event *event = copy_event(item);
    pthread_mutex_lock(&tap->lock);
    bool wake = tap->count == 0; // else its reader has not seen all, and goes on by itself
    if (!event || tap->count == AF_WATCH_EVENTS_MAX ||
        tap->bytes + event->bytes > AF_WATCH_BYTES_MAX) {
        tap->lost++;
    } else {
        tap->count++;
        tap->bytes += event->bytes;
        event->lost = tap->lost;
        tap->lost = 0;
        STAILQ_INSERT_TAIL(&tap->events, event, link);
        event = NULL;
    }
    pthread_mutex_unlock(&tap->lock);
    if (wake)
        tap->wake(tap->arg);
}

static void put_lost(void *arg, uint64_t count)
{
    struct codebase_tap *tap = arg;
    pthread_mutex_lock(&tap->lock);
    bool wake = tap->count == 0;
    tap->lost += count;
    pthread_mutex_unlock(&tap->lock);
    if (wake)
        tap->wake(tap->arg);
}

static void put_deleted(void *arg)
{
    struct codebase_tap *tap = arg;
    pthread_mutex_lock(&tap->lock);
    tap->gone = true;
    pthread_mutex_unlock(&tap->lock);
    tap->wake(tap->arg);
}

static void free_tap(struct codebase_tap *tap)
{
    struct codebase_event *event;
    while ((event = STAILQ_FIRST(&tap->events))) {
        STAILQ_REMOVE_HEAD(&tap->events, link);
        free(event);
    }
    pthread_mutex_destroy(&tap->lock);
    free(tap->path);
    free(tap);
}

int codebase_tap_open(struct mux *mux, const struct codebase_tap_options *options,
                      struct codebase_tap **ret, struct af_error *err)
{
    struct codebase_tap *tap = calloc(1, sizeof *tap);
    char *path = strdup(options->path);
    if (!tap || !path) {
        free(tap);
        free(path);
        return af_error_errno(err, ENOMEM, "cannot watch");
    }
    *tap =
        (struct codebase_tap){.mux = mux, .path = path, .wake = options->wake, .arg = options->arg};
    pthread_mutex_init(&tap->lock, NULL);
    STAILQ_INIT(&tap->events);
    tap->listener = (struct mux_listener){
        .codebase_id = *options->codebase_id,
        .changed = put_changed,
        .lost = put_lost,
        .deleted = put_deleted,
        .arg = tap,
    };
    if (mux_listen(mux, &tap->listener, err) < 0) {
        free_tap(tap);
        return -1;
    }
    *ret = tap;
    return 0;
}

struct codebase_event *codebase_tap_next(struct codebase_tap *tap, uint64_t *ret_lost,
                                         bool *ret_gone)
{
    pthread_mutex_lock(&tap->lock);
    struct codebase_event *event = STAILQ_FIRST(&tap->events);
    if (event) {
        STAILQ_REMOVE_HEAD(&tap->events, link);
        tap->count--;
        tap->bytes -= event->bytes;
        *ret_lost = event->lost;
    } else {
        *ret_lost = tap->lost;
        tap->lost = 0;
    }
    *ret_gone = tap->gone && !event;
    pthread_mutex_unlock(&tap->lock);
    return event;
}

void codebase_tap_close(struct codebase_tap *tap)
{
    if (!tap)
        return;
    mux_unlisten(tap->mux, &tap->listener);
    free_tap(tap);
}
