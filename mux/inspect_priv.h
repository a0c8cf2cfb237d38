// What the looks into a view share: its layers within one read transaction. Internal to mux.
// Read next: inspect.c.
#ifndef AF_MUX_INSPECT_PRIV_H
#define AF_MUX_INSPECT_PRIV_H

#include "mux/inspect.h"
#include "mux/layer_list.h"

struct mux_sandbox_layers {
    struct mux_layer_list layers; // the delta on top
    uint64_t root_fid;
};

void mux_sandbox_layers_fini(struct mux_sandbox_layers *layers);

// Begins a read transaction and loads the sandbox's layers in it, and its rules when ret_rules is
// given. On success the caller ends the transaction and frees both.
int mux_inspect_begin(struct mux *mux, const char *sandbox_id, struct mux_sandbox_layers *ret,
                      struct store_txn **ret_txn, struct af_error *err);
struct rules;
int mux_inspect_begin_rules(struct mux *mux, const char *sandbox_id, struct mux_sandbox_layers *ret,
                            struct rules **ret_rules, struct store_txn **ret_txn,
                            struct af_error *err);

#endif
