// Taps for the rest of fs. Internal. Read next: taps.h.
#ifndef AF_FS_TAPS_PRIV_H
#define AF_FS_TAPS_PRIV_H

#include "fs/session_priv.h"
#include "fs/taps.h"

int fs_taps_new(struct fs_session *session); // 0 or -errno
// Every tap must have been closed. NULL inside is ignored.
void fs_taps_free(struct fs_session *session);

// Whether anybody watches anything: all that an answer pays when nobody does.
static inline bool fs_taps_any(struct fs_session *session)
{
    return atomic_load_explicit(&session->taps_open, memory_order_relaxed) != 0;
}

// The call has been done and will be answered now.
void fs_taps_answer(const struct fs_call *call, int rc, int64_t took_ns);

// For mux (struct mux_notifier): `arg` is the session.
void fs_taps_attached(void *arg, uint32_t slot, const char *sandbox_id);
void fs_taps_detached(void *arg, uint32_t slot);

// ---- tap_queue.c: events on their way to one reader

struct fs_tap_queue;
struct fs_tap_queue *fs_tap_queue_new(void); // NULL: out of memory
void fs_tap_queue_free(struct fs_tap_queue *queue);
// Takes the event over; `bytes` is what it occupies. False: there is no room, it is still the
// caller's. Any number of threads; waits for nothing.
bool fs_tap_queue_put(struct fs_tap_queue *queue, struct fs_event *event, size_t bytes);
// One thread at a time. NULL: empty.
struct fs_event *fs_tap_queue_take(struct fs_tap_queue *queue);

#endif
