// A sandbox's stored rules, compiled. Internal to mux. Read next: sandbox.c.
#ifndef AF_MUX_SANDBOX_PRIV_H
#define AF_MUX_SANDBOX_PRIV_H

#include "mux/rules.h"
#include "mux/store/store.h"

// As rules_compile, from the form that the store keeps.
int mux_compile_rules(const struct store_rule *list, size_t n, struct rules **ret,
                      struct af_error *err);

#endif
