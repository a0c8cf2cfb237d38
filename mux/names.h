// A name in a directory of a view: what the rules say of it and what is there. Internal to mux.
//
// Every operation on a name begins here, so that hidden means hidden everywhere (P8): whether a
// name may be known of follows from the rules before the store is asked.
// Under the view's lock, in the operation's transaction. Errors: -errno. Read next: names.c.
#ifndef AF_MUX_NAMES_H
#define AF_MUX_NAMES_H

#include "mux/view.h"

struct mux_name {
    const char *text;
    size_t len;
    rules_state state; // owned: mux_name_fini
    enum rules_level level;
    bool hidden;                 // by the rules, whatever it is
    bool exists;                 // hidden or not
    bool visible;                // exists and may be known of
    bool in_lower;               // mux_name_resolve_change only: a layer below the delta has it
    uint64_t fid;                // when it exists
    uint8_t type;                // DT_*
    struct mux_listing *listing; // mux_name_resolve only, owned: where it was found, or NULL
    const struct mux_node *base; // then what is there, unless the delta has a record of it
};

// Loads a directory that names are looked for in. -ENOTDIR, -ENOENT (hidden), -ESTALE.
int mux_dir_load(struct mux_op *op, uint64_t nodeid, struct mux_node *ret);

// What the rules and the store say of a name. A name that the rules hide is not looked for: the
// answer costs the same whether it exists or not. -ENAMETOOLONG, -EINVAL for what is no name.
int mux_name_resolve(struct mux_op *op, const struct mux_node *dir, const char *name,
                     struct mux_name *ret);
// For changes: looks for hidden names too, and whether a lower layer has the name.
int mux_name_resolve_change(struct mux_op *op, const struct mux_node *dir, const char *name,
                            struct mux_name *ret);
void mux_name_fini(struct mux_op *op, struct mux_name *name);
// The node of a name that is visible.
int mux_name_load(struct mux_op *op, const struct mux_name *name, struct mux_node *ret);

// Whether what is there may be unlinked, renamed or replaced: -ENOENT when absent or hidden,
// -EACCES below write.
int mux_name_check_removable(const struct mux_name *name);

#endif
