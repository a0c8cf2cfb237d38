// The layers of a codebase's head or of a view, loaded into memory: what resolve.h walks.
//
// Internal to mux. A list is a copy: it stays meaningful after the transaction only while someone
// holds a reference to the stack. Errors: -errno of the store, -ENOMEM. Thread: one at a time.
#ifndef AF_MUX_LAYER_LIST_H
#define AF_MUX_LAYER_LIST_H

#include "mux/base/cleanup.h"
#include "mux/resolve.h"

struct mux_layer_list {
    uint64_t *ids; // top first
    size_t count;
};

#define AF_CLEANUP_LAYER_LIST AF_CLEANUP(mux_layer_list_fini)

// `live` on top (0: none), then the stack's layers.
int mux_layer_list_load(struct store_txn *txn, uint64_t live, uint64_t stack,
                        struct mux_layer_list *ret);
void mux_layer_list_fini(struct mux_layer_list *list);

static inline struct mux_layers mux_layer_list_all(const struct mux_layer_list *list)
{
    return (struct mux_layers){.ids = list->ids, .count = list->count};
}

// Without the live layer on top.
static inline struct mux_layers mux_layer_list_base(const struct mux_layer_list *list)
{
    return (struct mux_layers){.ids = list->ids + 1, .count = list->count - 1};
}

#endif
