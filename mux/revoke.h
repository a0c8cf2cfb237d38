// Making a revocation. Internal to mux. Read next: revoke.c.
#ifndef AF_MUX_REVOKE_H
#define AF_MUX_REVOKE_H

#include "mux/view_change.h"

struct rules;

struct mux_revoke *mux_revoke_new(struct mux *mux); // NULL: no memory
// What is different under other rules. Takes over both references.
void mux_revoke_rules(struct mux_revoke *revoke, uint64_t root_nodeid, struct rules *before,
                      struct rules *after);
// Everything.
void mux_revoke_all(struct mux_revoke *revoke, uint64_t root_nodeid);

#endif
