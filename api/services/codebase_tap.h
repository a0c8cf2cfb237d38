// The changes of one codebase on their way to one stream: what fs/taps.h is for a view.
//
// Has room for AF_WATCH_EVENTS_MAX events in AF_WATCH_BYTES_MAX bytes. What comes while it is full
// is lost and counted; nobody who changes a codebase waits for a reader.
// Lock: tap.lock (rank 71), a leaf. Threads: any that changes the codebase puts; one at a time
// takes and closes. Errors: an af_error. Read next: codebase_tap.c, mux/news.h.
#ifndef AF_API_SERVICES_CODEBASE_TAP_H
#define AF_API_SERVICES_CODEBASE_TAP_H

#include "mux/news.h"

struct codebase_tap;

struct codebase_event {
    enum mux_change change;
    mode_t mode; // of the file, 0: unknown
    int64_t at_ns;
    const char *path;       // of the codebase
    const char *old_path;   // of a rename, else NULL
    const char *sandbox_id; // whose commit it was, "": an upload or import
    uint64_t lost;          // so many before it did not fit
    STAILQ_ENTRY(codebase_event) link;
    size_t bytes;
};

struct codebase_tap_options {
    const struct af_id *codebase_id;
    const char *path;        // only this and what is below; "" is everything
    void (*wake)(void *arg); // there is something to take; never after codebase_tap_close
    void *arg;
};

// NOT_FOUND, RESOURCE_EXHAUSTED.
int codebase_tap_open(struct mux *mux, const struct codebase_tap_options *options,
                      struct codebase_tap **ret, struct af_error *err);
// The next event, to be freed with free(3), or NULL; *ret_lost is how many were lost before it, or
// after the last one. *ret_gone: nothing will follow.
struct codebase_event *codebase_tap_next(struct codebase_tap *tap, uint64_t *ret_lost,
                                         bool *ret_gone);
void codebase_tap_close(struct codebase_tap *tap); // NULL is ignored

#endif
