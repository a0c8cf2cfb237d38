// What the store holds and for whom: layers, blobs, space by sandbox; and dropping caches.
//
// For who looks from outside (agentfense-fsctl). Callbacks run inside a read transaction: they keep
// what they get and return 0 to go on, another value to stop, which is returned.
// Errors: an af_error. Read next: usage.c.
#ifndef AF_MUX_USAGE_H
#define AF_MUX_USAGE_H

#include "mux/mux.h"
#include "mux/store/store.h"

struct mux_layer_info {
    struct store_layer layer;
    uint32_t depth;   // in the stack that was asked for, 0 on top
    const char *role; // "delta", "head", "base"; "live" where it is not known whose it is
};
// Of a sandbox, else of a codebase, else (both NULL) all.
int mux_list_layers(struct mux *mux, const char *codebase_id, const char *sandbox_id,
                    int (*fn)(void *arg, const struct mux_layer_info *info), void *arg,
                    struct af_error *err);

// Blobs with an id greater than `after`, in order.
int mux_list_blobs(struct mux *mux, uint64_t after,
                   int (*fn)(void *arg, const struct store_blob_info *blob), void *arg,
                   struct af_error *err);

struct mux_usage {
    struct af_id sandbox_id;
    uint64_t private_bytes; // of its delta
    uint64_t shared_bytes;  // of the layers below, which others may have too
    uint64_t inodes, quota_bytes;
};
// Of one sandbox, or (NULL) of all.
int mux_list_usage(struct mux *mux, const char *sandbox_id,
                   int (*fn)(void *arg, const struct mux_usage *usage), void *arg,
                   struct af_error *err);

// Forgets cached nodes of an attached sandbox, or (NULL) all of them. They are read again when they
// are needed; what the kernel has cached stays. *ret_nodes: how many there were.
int mux_drop_caches(struct mux *mux, const char *sandbox_id, uint64_t *ret_nodes,
                    struct af_error *err);

// What the daemon holds for an attached view.
struct mux_view_held {
    uint64_t nodes_cached;  // of its own; files that views share are nobody's
    uint64_t unlinked_open; // files without a name that the kernel may still have
};
// *ret_root: the nodeid of its root, so its slot and route. FAILED_PRECONDITION when it is not
// attached. Looks through the whole cache.
int mux_view_get_held(struct mux *mux, const char *sandbox_id, struct mux_view_held *ret,
                      uint64_t *ret_root, struct af_error *err);

#endif
