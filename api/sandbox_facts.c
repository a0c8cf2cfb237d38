// A sandbox's facts as a packed message. Read next: sandbox_facts.h.
#include "api/sandbox_facts.h"

#include "api/net/grpc.h"

#include <errno.h>
#include <stdlib.h>

int sandbox_options_parse(const Agentfense__V1__SandboxOptions *message,
                          struct sandbox_options *ret, struct af_error *err)
{
    static const Agentfense__V1__SandboxOptions none = AGENTFENSE__V1__SANDBOX_OPTIONS__INIT;
    if (!message)
        message = &none;
    if (grpc_check_enum(&agentfense__v1__commit_policy__descriptor, (int)message->commit_policy,
                        "options.commit_policy", err) < 0 ||
        grpc_check_enum(&agentfense__v1__conflict_policy__descriptor, (int)message->conflict_policy,
                        "options.conflict_policy", err) < 0 ||
        grpc_check_enum(&agentfense__v1__network__descriptor, (int)message->network,
                        "options.network", err) < 0)
        return -1;
    *ret = (struct sandbox_options){
        .commit_policy = message->commit_policy
                             ? message->commit_policy
                             : AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_ON_EXEC,
        .conflict_policy = message->conflict_policy
                               ? message->conflict_policy
                               : AGENTFENSE__V1__CONFLICT_POLICY__CONFLICT_POLICY_LAST_WRITER_WINS,
        .network = message->network ? message->network : AGENTFENSE__V1__NETWORK__NETWORK_NONE,
    };
    return 0;
}

Agentfense__V1__SandboxInfo *sandbox_facts_unpack(const struct store_sandbox *record)
{
    Agentfense__V1__SandboxInfo *facts =
        agentfense__v1__sandbox_info__unpack(NULL, record->user_data_len, record->user_data);
    if (facts && facts->sandbox && facts->options)
        return facts;
    sandbox_facts_free(facts);
    return NULL;
}

void sandbox_facts_free(Agentfense__V1__SandboxInfo *facts)
{
    if (facts)
        agentfense__v1__sandbox_info__free_unpacked(facts, NULL);
}

int sandbox_options_of(const struct store_sandbox *record, struct sandbox_options *ret)
{
    struct af_error damaged;
    Agentfense__V1__SandboxInfo *facts = sandbox_facts_unpack(record);
    int rc = facts ? sandbox_options_parse(facts->options, ret, &damaged) : -1;
    sandbox_facts_free(facts);
    return rc;
}

// ---- by id

static int read_options(void *arg, const struct store_sandbox *record)
{
    return sandbox_options_of(record, arg) < 0;
}

static int fail_damaged(struct af_error *err, const char *id)
{
    return af_error_set(err, AF_INTERNAL, "the record of sandbox %s cannot be read", id);
}

int sandbox_options_get(struct mux *mux, const char *id, struct sandbox_options *ret,
                        struct af_error *err)
{
    int rc = mux_sandbox_get(mux, id, read_options, ret, err);
    return rc > 0 ? fail_damaged(err, id) : rc;
}

struct change {
    sandbox_options_fn fn;
    void *arg;
    uint8_t *packed;
};

static int change_options(void *arg, struct store_sandbox *record, struct af_error *err)
{
    struct change *change = arg;
    struct sandbox_options options;
    Agentfense__V1__SandboxInfo *facts = sandbox_facts_unpack(record);
    if (!facts || sandbox_options_parse(facts->options, &options, err) < 0) {
        sandbox_facts_free(facts);
        return fail_damaged(err, record->id.text);
    }
    change->fn(change->arg, &options);
    facts->options->commit_policy = options.commit_policy;
    facts->options->conflict_policy = options.conflict_policy;
    facts->options->network = options.network;
    size_t size = agentfense__v1__sandbox_info__get_packed_size(facts);
    change->packed = malloc(size + 1);
    if (change->packed)
        agentfense__v1__sandbox_info__pack(facts, change->packed);
    sandbox_facts_free(facts);
    if (!change->packed)
        return af_error_errno(err, ENOMEM, "cannot change sandbox %s", record->id.text);
    record->user_data = change->packed;
    record->user_data_len = size;
    return 0;
}

int sandbox_options_change(struct mux *mux, const char *id, sandbox_options_fn fn, void *arg,
                           struct af_error *err)
{
    struct change change = {.fn = fn, .arg = arg};
    int rc = mux_sandbox_change(mux, id, change_options, &change, err);
    free(change.packed);
    return rc;
}
