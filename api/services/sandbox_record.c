// A sandbox's record as the API shows it, and a request to create one. Read next: sandbox_record.h.
#include "api/services/sandbox_record.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct sandbox_reply {
    Sandbox__V1__Sandbox message;
    Agentfense__V1__SandboxInfo *facts;
    struct af_id id, codebase_id;
    Google__Protobuf__Timestamp created, started, stopped, expires;
    Sandbox__V1__PermissionRule *rules;
    Sandbox__V1__PermissionRule **rule_pointers;
    char *patterns; // of all rules, one after the other
};

// ---- the record as a message

static Google__Protobuf__Timestamp *time_or_null(Google__Protobuf__Timestamp *place, int64_t ns)
{
    if (ns == 0)
        return NULL;
    service_set_timestamp(place, ns);
    return place;
}

static bool copy_rules(struct sandbox_reply *reply, const struct store_sandbox *record)
{
    size_t bytes = 0;
    for (size_t i = 0; i < record->n_rules; i++)
        bytes += record->rules[i].pattern_len;
    reply->rules = calloc(record->n_rules + 1, sizeof *reply->rules);
    reply->rule_pointers = calloc(record->n_rules + 1, sizeof *reply->rule_pointers);
    reply->patterns = malloc(bytes + 1);
    if (!reply->rules || !reply->rule_pointers || !reply->patterns)
        return false;
    char *pattern = reply->patterns;
    for (size_t i = 0; i < record->n_rules; i++) {
        const struct store_rule *from = &record->rules[i];
        Sandbox__V1__PermissionRule *to = &reply->rules[i];
        sandbox__v1__permission_rule__init(to);
        memcpy(pattern, from->pattern, from->pattern_len);
        to->pattern = service_bytes(pattern, from->pattern_len);
        to->type = (Sandbox__V1__PatternType)from->type;
        to->permission = (Sandbox__V1__Permission)from->level;
        to->priority = from->priority;
        reply->rule_pointers[i] = to;
        pattern += from->pattern_len;
    }
    return true;
}

struct sandbox_reply *sandbox_reply_new(const struct store_sandbox *record)
{
    struct sandbox_reply *reply = calloc(1, sizeof *reply);
    if (!reply)
        return NULL;
    Sandbox__V1__Sandbox *message = &reply->message;
    sandbox__v1__sandbox__init(message);
    reply->facts = sandbox_facts_unpack(record);
    if (!reply->facts || !copy_rules(reply, record)) {
        sandbox_reply_free(reply);
        return NULL;
    }
    *message = *reply->facts->sandbox;
    reply->id = record->id;
    reply->codebase_id = record->codebase_id;
    message->id = grpc_text(reply->id.text);
    message->codebase_id = grpc_text(reply->codebase_id.text);
    message->permissions = reply->rule_pointers;
    message->n_permissions = record->n_rules;
    message->status = (Sandbox__V1__SandboxStatus)record->status;
    message->created_at = time_or_null(&reply->created, record->created_ns);
    message->started_at = time_or_null(&reply->started, record->started_ns);
    message->stopped_at = time_or_null(&reply->stopped, record->stopped_ns);
    message->expires_at = time_or_null(&reply->expires, record->expires_ns);
    return reply;
}

void sandbox_reply_free(struct sandbox_reply *reply)
{
    if (!reply)
        return;
    sandbox_facts_free(reply->facts);
    free(reply->rules);
    free(reply->rule_pointers);
    free(reply->patterns);
    free(reply);
}

const Sandbox__V1__Sandbox *sandbox_reply_message(const struct sandbox_reply *reply)
{
    return &reply->message;
}

static int keep_reply(void *arg, const struct store_sandbox *record)
{
    struct sandbox_reply **reply = arg;
    *reply = sandbox_reply_new(record);
    return 0;
}

void sandbox_reply_send(struct grpc_call *call, const char *id)
{
    struct af_error err;
    struct sandbox_reply *reply = NULL;
    int rc = mux_sandbox_get(daemon_of(call)->mux, id, keep_reply, &reply, &err);
    if (rc == 0 && !reply)
        rc = af_error_errno(&err, ENOMEM, "cannot describe sandbox %s", id);
    if (rc < 0)
        grpc_call_finish_error(call, &err);
    else
        grpc_call_reply(call, &reply->message.base);
    sandbox_reply_free(reply);
}

// ---- a request as mux takes it

int sandbox_rules_parse(Sandbox__V1__PermissionRule *const *list, size_t count,
                        struct store_rule **ret, struct af_error *err)
{
    if (count > AF_RULES_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%zu rules; at most %d are allowed", count,
                            AF_RULES_MAX);
    AF_CLEANUP_FREE struct store_rule *rules = calloc(count + 1, sizeof *rules);
    if (!rules)
        return af_error_errno(err, ENOMEM, "cannot take the rules");
    for (size_t i = 0; i < count; i++) {
        const Sandbox__V1__PermissionRule *rule = list[i];
        if (grpc_check_enum(&sandbox__v1__pattern_type__descriptor, (int)rule->type,
                            "permissions.type", err) < 0 ||
            grpc_check_enum(&sandbox__v1__permission__descriptor, (int)rule->permission,
                            "permissions.permission", err) < 0)
            return -1;
        if (rule->pattern.len > AF_PATTERN_MAX)
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "the pattern of rule %zu has %zu bytes; at most %d are allowed", i,
                                rule->pattern.len, AF_PATTERN_MAX);
        rules[i] = (struct store_rule){
            .pattern = (const char *)rule->pattern.data,
            .pattern_len = (uint16_t)rule->pattern.len,
            .type = (uint8_t)rule->type,
            .level = (uint8_t)rule->permission,
            .priority = rule->priority,
        };
    }
    *ret = AF_TAKE_PTR(rules);
    return 0;
}

static int parse_rules(const Sandbox__V1__CreateSandboxRequest *message,
                       struct sandbox_request *ret, struct af_error *err)
{
    if (sandbox_rules_parse(message->permissions, message->n_permissions, &ret->rules, err) < 0)
        return -1;
    ret->spec.rules = ret->rules;
    ret->spec.n_rules = message->n_permissions;
    return 0;
}

static int check_labels(const Sandbox__V1__CreateSandboxRequest *message, struct af_error *err)
{
    if (message->n_labels > AF_LABELS_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "%zu labels; at most %d are allowed",
                            message->n_labels, AF_LABELS_MAX);
    for (size_t i = 0; i < message->n_labels; i++) {
        const Sandbox__V1__CreateSandboxRequest__LabelsEntry *label = message->labels[i];
        if (service_check_text("a label's key", label->key, AF_LABEL_BYTES_MAX, true, err) < 0 ||
            service_check_text("a label's value", label->value, AF_LABEL_BYTES_MAX, false, err) < 0)
            return -1;
    }
    return 0;
}

// Which of the two, an unset one being the server's own.
static Sandbox__V1__RuntimeType runtime_of(const struct daemon *daemon,
                                           const Sandbox__V1__CreateSandboxRequest *message)
{
    if (message->runtime != SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_UNSPECIFIED)
        return message->runtime;
    return daemon->config.exec.runtime == EXEC_RUNTIME_DOCKER
               ? SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_DOCKER
               : SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_BWRAP;
}

// A name that can be an image's, and nothing else in a request to Docker.
static bool image_is_usable(ProtobufCBinaryData image)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "./:_@-";
    for (size_t i = 0; i < image.len; i++)
        if (!image.data[i] || !strchr(allowed, image.data[i]))
            return false;
    return image.len <= AF_IMAGE_MAX;
}

static int check_docker(const struct daemon *daemon,
                        const Sandbox__V1__CreateSandboxRequest *message, struct af_error *err)
{
    if (!exec_engine_features(daemon->engine)->docker_version[0])
        return af_error_set(
            err, AF_FAILED_PRECONDITION,
            "this server has no Docker runtime (exec.docker_socket is not set); use "
            "bubblewrap (RUNTIME_TYPE_BWRAP)");
    if (message->image.len == 0 && !daemon->config.exec.docker_image)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "image is required: this server has no default image for Docker");
    if (!image_is_usable(message->image))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "image is no name of an image (as python:3.12 or repo/name@digest)");
    return 0;
}

static int check_runtime(const struct daemon *daemon,
                         const Sandbox__V1__CreateSandboxRequest *message, struct af_error *err)
{
    if (grpc_check_enum(&sandbox__v1__runtime_type__descriptor, (int)message->runtime, "runtime",
                        err) < 0)
        return -1;
    if (runtime_of(daemon, message) == SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_DOCKER)
        return check_docker(daemon, message, err);
    char root[AF_IMAGE_MAX + 1], path[PATH_MAX];
    snprintf(root, sizeof root, "%.*s", (int)message->image.len, (const char *)message->image.data);
    if (message->image.len > 0 && boxes_root(&daemon->config, root, path) < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "this server has no root directory named '%s' (exec.roots); with "
                            "bubblewrap image is the name of one, or unset",
                            root);
    return 0;
}

static int check_limit(const char *name, int64_t wanted, uint64_t max, struct af_error *err)
{
    if (wanted < 0)
        return af_error_set(err, AF_INVALID_ARGUMENT, "resources.%s must not be negative", name);
    if (max && (uint64_t)wanted > max)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "resources.%s is above the %" PRIu64 " that this server allows", name,
                            max);
    return 0;
}

// A limit that cannot be enforced refuses the sandbox, it is never ignored.
static int check_resources(struct daemon *daemon, const Sandbox__V1__ResourceLimits *limits,
                           struct af_error *err)
{
    const struct af_config *config = &daemon->config;
    if (limits &&
        (check_limit("memory_bytes", limits->memory_bytes, config->exec.memory_max, err) < 0 ||
         check_limit("cpu_quota", limits->cpu_quota, config->exec.cpu_quota_max, err) < 0 ||
         check_limit("cpu_shares", limits->cpu_shares, 0, err) < 0 ||
         check_limit("pids_limit", limits->pids_limit, config->exec.pids_max, err) < 0))
        return -1;
    const struct exec_resources resources = boxes_resources(config, limits);
    return exec_engine_check_resources(daemon->engine, &resources, err);
}

static int check_rate(const char *name, uint64_t wanted, uint64_t max, struct af_error *err)
{
    if (wanted <= max)
        return 0;
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "io_limit.%s is above the %" PRIu64 " that this server allows", name, max);
}

int sandbox_io_limit_check(const struct daemon *daemon, const Agentfense__V1__IoLimit *limit,
                           struct af_error *err)
{
    const struct af_config *config = &daemon->config;
    if (!limit)
        return 0;
    uint64_t iops_max = config->iops_max ? config->iops_max : AF_IOPS_MAX;
    uint64_t bandwidth_max = config->bandwidth_max ? config->bandwidth_max : AF_BANDWIDTH_MAX;
    if (check_rate("iops", limit->iops, iops_max, err) < 0 ||
        check_rate("bandwidth", limit->bandwidth, bandwidth_max, err) < 0)
        return -1;
    if (limit->bandwidth > 0 && limit->bandwidth < AF_BANDWIDTH_MIN)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "io_limit.bandwidth is below the least, %u bytes a second; 0 is none",
                            AF_BANDWIDTH_MIN);
    return 0;
}

// Packs what mux has no use for.
static int pack_facts(const struct daemon *daemon, const Sandbox__V1__CreateSandboxRequest *message,
                      const struct sandbox_options *options, struct sandbox_request *ret,
                      struct af_error *err)
{
    size_t count = message->n_labels;
    Agentfense__V1__SandboxInfo facts = AGENTFENSE__V1__SANDBOX_INFO__INIT;
    Agentfense__V1__SandboxOptions packed = AGENTFENSE__V1__SANDBOX_OPTIONS__INIT;
    Sandbox__V1__Sandbox sandbox = SANDBOX__V1__SANDBOX__INIT;
    AF_CLEANUP_FREE Sandbox__V1__Sandbox__LabelsEntry *labels = calloc(count + 1, sizeof *labels);
    AF_CLEANUP_FREE Sandbox__V1__Sandbox__LabelsEntry **pointers =
        calloc(count + 1, sizeof *pointers);
    if (!labels || !pointers)
        return af_error_errno(err, ENOMEM, "cannot take the labels");
    for (size_t i = 0; i < count; i++) {
        sandbox__v1__sandbox__labels_entry__init(&labels[i]);
        labels[i].key = message->labels[i]->key;
        labels[i].value = message->labels[i]->value;
        pointers[i] = &labels[i];
    }
    sandbox.labels = pointers;
    sandbox.n_labels = count;
    sandbox.runtime = runtime_of(daemon, message);
    sandbox.image = message->image;
    if (sandbox.image.len == 0 && sandbox.runtime == SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_DOCKER)
        sandbox.image = grpc_text(daemon->config.exec.docker_image);
    sandbox.resources = message->resources;
    packed.commit_policy = options->commit_policy;
    packed.conflict_policy = options->conflict_policy;
    packed.network = options->network;
    facts.sandbox = &sandbox;
    facts.options = &packed;
    size_t size = agentfense__v1__sandbox_info__get_packed_size(&facts);
    ret->user_data = malloc(size + 1);
    if (!ret->user_data)
        return af_error_errno(err, ENOMEM, "cannot take the labels");
    agentfense__v1__sandbox_info__pack(&facts, ret->user_data);
    ret->spec.user_data = ret->user_data;
    ret->spec.user_data_len = size;
    return 0;
}

static int check_network(const struct daemon *daemon, const struct sandbox_options *options,
                         struct af_error *err)
{
    if (options->network == AGENTFENSE__V1__NETWORK__NETWORK_HOST &&
        !daemon->config.exec.network_host)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "this server gives no sandbox the host's network (exec.network_host); "
                            "use none (NETWORK_NONE)");
    return 0;
}

int sandbox_request_parse(struct daemon *daemon, const Sandbox__V1__CreateSandboxRequest *message,
                          const Agentfense__V1__SandboxOptions *options_message,
                          struct sandbox_request *ret, struct af_error *err)
{
    memset(ret, 0, sizeof *ret);
    int64_t expires_in_ns;
    struct sandbox_options options;
    if (service_check_id("cb", message->codebase_id, &ret->codebase_id, err) < 0 ||
        service_duration_ns("expires_in", message->expires_in, 0, &expires_in_ns, err) < 0 ||
        check_labels(message, err) < 0 || check_runtime(daemon, message, err) < 0 ||
        check_resources(daemon, message->resources, err) < 0 ||
        parse_rules(message, ret, err) < 0 ||
        sandbox_options_parse(options_message, &options, err) < 0 ||
        check_network(daemon, &options, err) < 0 ||
        sandbox_io_limit_check(daemon, options_message ? options_message->io_limit : NULL, err) <
            0 ||
        pack_facts(daemon, message, &options, ret, err) < 0) {
        sandbox_request_fini(ret);
        return -1;
    }
    ret->spec.codebase_id = ret->codebase_id.text;
    if (options_message && options_message->quota) {
        ret->spec.quota_bytes = options_message->quota->bytes;
        ret->spec.quota_inodes = options_message->quota->inodes;
    }
    if (options_message && options_message->io_limit) {
        ret->spec.iops = options_message->io_limit->iops;
        ret->spec.bandwidth = options_message->io_limit->bandwidth;
    }
    ret->spec.owner_max = daemon->config.sandboxes_per_owner_max;
    ret->spec.expires_ns = expires_in_ns > 0 ? af_wall_ns() + expires_in_ns : 0;
    return 0;
}

void sandbox_request_fini(struct sandbox_request *request)
{
    free(request->rules);
    free(request->user_data);
}
