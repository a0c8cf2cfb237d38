// Sandboxes are made: one, or many in one transaction.
//
// A sandbox holds a reference to its codebase's stack and to a delta layer of its own, so it does
// not need the codebase any more. Creating one costs the same whatever the codebase's size: at most
// the head is frozen. Takes no locks. What can be refused is refused before the first change of an
// item, so that one item's failure leaves nothing of it; what the store refuses fails all.
// Errors: an af_error. Read next: sandbox.h, codebase.c (freezing a head), docs/CODEBASES.md.
#include "mux/base/clock.h"
#include "mux/base/metrics.h"
#include "mux/codebase_priv.h"
#include "mux/compact.h"
#include "mux/host_call.h"
#include "mux/sandbox.h"
#include "mux/sandbox_priv.h"

#include <errno.h>
#include <string.h>

int mux_compile_rules(const struct store_rule *list, size_t n, struct rules **ret,
                      struct af_error *err)
{
    if (n > AF_RULES_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%zu rules, at most %d fit one sandbox", n,
                            AF_RULES_MAX);
    AF_CLEANUP_FREE struct rules_input *inputs = calloc(n + 1, sizeof *inputs);
    if (!inputs)
        return mux_fail(err, -ENOMEM, "compiling the rules");
    for (size_t i = 0; i < n; i++)
        inputs[i] = (struct rules_input){
            .pattern = list[i].pattern,
            .pattern_len = list[i].pattern_len,
            .type = list[i].type,
            .level = list[i].level,
            .priority = list[i].priority,
        };
    return rules_compile(inputs, n, ret, err);
}

// The sandboxes of one owner, counted where no other can be made meanwhile. In a batch they are
// counted once for all that follow each other.
struct owner_count {
    char owner[AF_NAME_TEXT_MAX + 1];
    bool known;
    uint32_t count, max;
};

static int count_owner(void *arg, const struct store_sandbox *sandbox)
{
    struct owner_count *count = arg;
    if (sandbox->owner_len == strlen(count->owner) &&
        memcmp(sandbox->owner, count->owner, sandbox->owner_len) == 0)
        count->count++;
    return count->count >= count->max;
}

static int check_owner(struct store_txn *txn, struct owner_count *count, const char *owner,
                       uint32_t max, struct af_error *err)
{
    if (max == 0)
        return 0;
    if (!count->known || count->max != max || strcmp(count->owner, owner) != 0) {
        *count = (struct owner_count){.known = true, .max = max};
        strcpy(count->owner, owner); // both of AF_NAME_TEXT_MAX
        int rc = store_sandbox_list(txn, NULL, count_owner, count);
        if (rc < 0)
            return mux_fail(err, rc, "counting the owner's sandboxes");
    }
    if (count->count >= max)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "the owner '%s' has %u sandboxes, as many as this server allows one "
                            "owner; destroy one first",
                            owner, (unsigned)max);
    return 0;
}

// *ret_refused: the item is refused, the transaction is as it was.
static int create_in_txn(struct store_txn *txn, const struct mux_sandbox_spec *spec,
                         struct store_sandbox *sandbox, struct owner_count *owners,
                         bool *ret_refused, struct af_error *err)
{
    struct store_codebase codebase;
    *ret_refused = true;
    int rc = store_codebase_get(txn, spec->codebase_id, &codebase);
    if (rc < 0)
        return mux_fail_codebase(err, rc, spec->codebase_id);
    if (check_owner(txn, owners, codebase.owner, spec->owner_max, err) < 0)
        return -1;
    rc = mux_codebase_freeze_head(txn, &codebase);
    *ret_refused = false;
    if (rc == MUX_STACK_FULL)
        return rc;
    sandbox->owner = codebase.owner;
    sandbox->owner_len = strlen(codebase.owner);
    sandbox->root_fid = codebase.root_fid;
    sandbox->stack = codebase.stack;
    if (rc == 0)
        rc = store_stack_ref(txn, sandbox->stack);
    if (rc == 0)
        rc = store_layer_new(txn, &sandbox->delta);
    if (rc == 0)
        rc = store_sandbox_put(txn, sandbox);
    owners->count++;
    return rc < 0 ? mux_fail(err, rc, "creating the sandbox") : 0;
}

static bool same_rules(const struct mux_sandbox_spec *a, const struct mux_sandbox_spec *b)
{
    if (!a || a->n_rules != b->n_rules)
        return false;
    for (size_t i = 0; i < a->n_rules; i++) {
        const struct store_rule *x = &a->rules[i], *y = &b->rules[i];
        if (x->pattern_len != y->pattern_len || x->type != y->type || x->level != y->level ||
            x->priority != y->priority || memcmp(x->pattern, y->pattern, x->pattern_len) != 0)
            return false;
    }
    return true;
}

// The rules are only checked: attaching compiles them again, from the record. checked: a spec whose
// rules are known to be good, or NULL.
static int check(const struct mux_sandbox_spec *spec, const struct mux_sandbox_spec *checked,
                 struct af_error *err)
{
    struct rules *rules;
    if (mux_check_codebase_id(spec->codebase_id, err) < 0)
        return -1;
    if (same_rules(checked, spec))
        return 0;
    if (mux_compile_rules(spec->rules, spec->n_rules, &rules, err) < 0)
        return -1;
    rules_unref(rules);
    return 0;
}

static int create_one(struct store_txn *txn, const struct mux_sandbox_spec *spec,
                      struct owner_count *owners, struct mux_sandbox_made *made,
                      struct af_error *err)
{
    bool refused;
    struct store_sandbox sandbox = {
        .status = STORE_SANDBOX_PENDING,
        .access = STORE_ACCESS_NORMAL,
        .created_ns = af_wall_ns(),
        .expires_ns = spec->expires_ns,
        .quota_bytes = spec->quota_bytes,
        .quota_inodes = spec->quota_inodes,
        .iops = spec->iops,
        .bandwidth = spec->bandwidth,
        .rules = spec->rules,
        .n_rules = spec->n_rules,
        .user_data = spec->user_data,
        .user_data_len = spec->user_data_len,
    };
    af_id_new("sb", &sandbox.id);
    strcpy(sandbox.codebase_id.text, spec->codebase_id);
    int rc = create_in_txn(txn, spec, &sandbox, owners, &refused, &made->error);
    if (rc == 0) {
        made->ok = true;
        made->id = sandbox.id;
    }
    if (rc < 0 && !refused)
        *err = made->error;
    return refused || rc == 0 ? 0 : rc;
}

// In one transaction. MUX_STACK_FULL: nothing was done.
static int create_all(struct mux *mux, const struct mux_sandbox_spec *const *specs, const bool *fit,
                      size_t count, struct mux_sandbox_made *made, struct af_error *err)
{
    struct owner_count owners = {0};
    struct store_txn *txn;
    int rc = store_write_begin(mux_store(mux), &txn);
    if (rc < 0)
        return mux_fail(err, rc, "creating the sandboxes");
    for (size_t i = 0; i < count; i++) {
        made[i].ok = made[i].ok && !fit[i];
        rc = fit[i] ? create_one(txn, specs[i], &owners, &made[i], err) : 0;
        if (rc < 0) {
            store_abort(txn);
            return rc;
        }
    }
    rc = store_commit(txn);
    return rc < 0 ? mux_fail(err, rc, "creating the sandboxes") : 0;
}

int mux_sandbox_create_many(struct mux *mux, const struct mux_sandbox_spec *const *specs,
                            size_t count, struct mux_sandbox_made *made, struct af_error *err)
{
    const struct mux_sandbox_spec *checked = NULL;
    AF_CLEANUP_FREE bool *fit = calloc(count + 1, sizeof *fit);
    if (!fit)
        return mux_fail(err, -ENOMEM, "creating the sandboxes");
    for (size_t i = 0; i < count; i++) {
        made[i].ok = false;
        fit[i] = specs[i] && check(specs[i], checked, &made[i].error) == 0;
        if (fit[i])
            checked = specs[i];
    }
    if (!checked)
        return 0;
    bool more = true;
    int rc;
    while ((rc = create_all(mux, specs, fit, count, made, err)) == MUX_STACK_FULL) {
        rc = more ? mux_compact_relieve(mux, &more) : -EUCLEAN;
        if (rc < 0)
            return mux_fail(err, rc, "merging the layers of a codebase");
    }
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        if (made[i].ok)
            af_metric_add(AF_METRIC_SANDBOXES_CREATED, 1);
    return 0;
}

int mux_sandbox_create(struct mux *mux, const struct mux_sandbox_spec *spec, struct af_id *ret_id,
                       struct af_error *err)
{
    struct mux_sandbox_made made;
    if (mux_sandbox_create_many(mux, &spec, 1, &made, err) < 0)
        return -1;
    if (!made.ok) {
        *err = made.error;
        return -1;
    }
    *ret_id = made.id;
    return 0;
}
