// Threads for imports, in turns: AF_ARCHIVE_THREADS_MAX at once, who comes later waits in order.
//
// A call begins with its turn (archive_turn_begin) and holds a reference to itself until its work
// is done or it has left. Who is waited for must not dawdle (feed.h).
// Lock: archives.lock (rank 76), innermost. Threads: any. Read next: archive_turns.c.
#ifndef AF_API_SERVICES_ARCHIVE_TURNS_H
#define AF_API_SERVICES_ARCHIVE_TURNS_H

#include "mux/base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

struct archives;
struct grpc_call;

// Part of a call's data, zero at first.
struct archive_turn {
    TAILQ_ENTRY(archive_turn) link;
    struct grpc_call *call;
    void (*work)(struct grpc_call *call); // finishes the call
    bool waits;
};

int archives_new(struct archives **ret, struct af_error *err);
// Waits until the threads have ended: soon after their calls were cancelled. NULL is allowed.
void archives_free(struct archives *archives);

// How many calls wait for their turn.
const atomic_uint *archives_waiting(const struct archives *archives);

// Runs work(call) on a thread, now or when it is the call's turn. 1: it waits. The caller handles
// an event of the call.
int archive_turn_begin(struct archives *archives, struct archive_turn *turn, struct grpc_call *call,
                       void (*work)(struct grpc_call *call), struct af_error *err);

// The call is over: when its turn has not come yet it never does. Otherwise does nothing.
void archive_turn_leave(struct archives *archives, struct archive_turn *turn);

#endif
