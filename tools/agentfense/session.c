// Connection, import, sandbox, command: see session.h.
#include "tools/agentfense/session.h"
#include "tools/agentfense/batch.h"

#include "tools/agentfense/import.h"
#include "tools/agentfense/interrupt.h"

#include "mux/base/cleanup.h"
#include "mux/base/limits.h"
#include "mux/base/text.h"
#include "proto/agentfense_sandbox.pb-c.h"
#include "tools/common/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// On a sandbox whose codebase was made for it alone.
#define OWNED_LABEL "agentfense.codebase"
#define OWNED_VALUE "owned"

static int connect_session(struct session *session, struct af_error *err)
{
    session->fd = -1;
    if (rpc_connect(session->socket, &session->client, &session->fd, err) < 0)
        return -1;
    interrupt_set_fd(session->fd);
    return 0;
}

static void disconnect(struct session *session)
{
    interrupt_set_fd(-1);
    if (session->fd >= 0)
        close(session->fd);
    session->fd = -1;
    af_client_free(AF_TAKE_PTR(session->client));
}

int session_open(struct session *session, const char *socket, struct af_error *err)
{
    memset(session, 0, sizeof *session);
    session->fd = -1;
    session->socket = socket;
    if (!socket) {
        if (keeper_start(&session->keeper, err) < 0)
            return -1;
        session->socket = session->keeper.socket;
    }
    if (interrupt_check(err) < 0)
        return -1;
    return connect_session(session, err);
}

static int take_id(const char *prefix, ProtobufCBinaryData id, struct af_id *ret,
                   struct af_error *err)
{
    if (af_id_parse(prefix, id.data, id.len, ret))
        return 0;
    return af_error_set(err, AF_INTERNAL, "the daemon sent a malformed id");
}

static int create_codebase(struct session *session, const char *dir, const struct options *options,
                           struct af_error *err)
{
    Sandbox__V1__CreateCodebaseRequest request = SANDBOX__V1__CREATE_CODEBASE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Codebase *reply = NULL;
    AF_CLEANUP_FREE char *name = tool_copy(dir, strnlen(dir, AF_NAME_TEXT_MAX));
    af_text_make_printable(name);
    request.name = af_client_text(name);
    request.owner_id =
        af_client_text(options->creation.owner ? options->creation.owner : "agentfense");
    if (rpc_unary(session->client, "/sandbox.v1.CodebaseService/CreateCodebase", &request.base,
                  &sandbox__v1__codebase__descriptor, &reply, err) < 0)
        return -1;
    return take_id("cb", reply->id, &session->codebase_id, err);
}

static void set_rule(Sandbox__V1__PermissionRule *rule, const struct permission *from)
{
    sandbox__v1__permission_rule__init(rule);
    rule->pattern = af_client_text(from->pattern);
    rule->type = SANDBOX__V1__PATTERN_TYPE__PATTERN_TYPE_GLOB;
    rule->permission = (Sandbox__V1__Permission)(int)from->level; // the same numbers
    rule->priority = from->priority;
}

struct label {
    Sandbox__V1__CreateSandboxRequest__LabelsEntry entry;
};

static void set_label(struct label *label, const char *key, size_t key_len, const char *value)
{
    sandbox__v1__create_sandbox_request__labels_entry__init(&label->entry);
    label->entry.key = af_client_text(key);
    label->entry.key.len = key_len;
    label->entry.value = af_client_text(value);
}

// Returns how many there are.
static size_t set_labels(const struct options *options, bool is_owned, struct label *labels,
                         struct label **pointers)
{
    size_t count = 0;
    for (; count < options->n_labels; count++) {
        const char *text = options->labels[count];
        size_t key_len = strcspn(text, "=");
        set_label(&labels[count], text, key_len, text + key_len + 1);
    }
    if (is_owned)
        set_label(&labels[count++], OWNED_LABEL, strlen(OWNED_LABEL), OWNED_VALUE);
    for (size_t i = 0; i < count; i++)
        pointers[i] = &labels[i];
    return count;
}

// The messages that carry a creation's options; the request points into them.
struct wishes {
    Agentfense__V1__SandboxOptions options;
    Agentfense__V1__Quota quota;
    Agentfense__V1__IoLimit io_limit;
    Sandbox__V1__ResourceLimits limits;
    Google__Protobuf__Duration expires_in;
};

static void set_wishes(const struct creation *from, Sandbox__V1__CreateSandboxRequest *request,
                       struct wishes *ret)
{
    agentfense__v1__sandbox_options__init(&ret->options);
    agentfense__v1__quota__init(&ret->quota);
    agentfense__v1__io_limit__init(&ret->io_limit);
    sandbox__v1__resource_limits__init(&ret->limits);
    google__protobuf__duration__init(&ret->expires_in);
    // Its changes stay its own unless asked otherwise: to be looked at, applied to the directory,
    // committed when told to.
    ret->options.commit_policy = from->commit_policy
                                     ? from->commit_policy
                                     : AGENTFENSE__V1__COMMIT_POLICY__COMMIT_POLICY_MANUAL;
    ret->options.conflict_policy = from->conflicts;
    ret->options.network = from->network;
    ret->quota.bytes = from->quota_bytes;
    ret->quota.inodes = from->quota_inodes;
    ret->options.quota = &ret->quota;
    ret->io_limit.iops = from->iops > 0 ? (uint64_t)from->iops : 0;
    ret->io_limit.bandwidth = from->bandwidth > 0 ? (uint64_t)from->bandwidth : 0;
    ret->options.io_limit = &ret->io_limit;
    ret->limits.memory_bytes = from->memory_bytes;
    ret->limits.cpu_quota = from->cpu_quota_us;
    ret->limits.cpu_shares = from->cpu_shares;
    ret->limits.pids_limit = from->pids;
    ret->expires_in.seconds = from->expires_in_ns / AF_NS_PER_SEC;
    ret->expires_in.nanos = (int32_t)(from->expires_in_ns % AF_NS_PER_SEC);
    request->resources = &ret->limits;
    request->runtime = from->runtime;
    request->image = af_client_text(from->image);
    if (from->expires_in_ns > 0)
        request->expires_in = &ret->expires_in;
}

static int create_sandbox(struct session *session, const struct options *options, bool is_owned,
                          struct af_error *err)
{
    size_t count = options->preset->count + options->permissions.count;
    AF_CLEANUP_FREE Sandbox__V1__PermissionRule *rules = tool_alloc(count * sizeof *rules);
    AF_CLEANUP_FREE Sandbox__V1__PermissionRule **pointers = tool_alloc(count * sizeof(void *));
    for (size_t i = 0; i < count; i++) {
        bool is_preset = i < options->preset->count;
        set_rule(&rules[i], is_preset ? &options->preset->rules[i]
                                      : &options->permissions.list[i - options->preset->count]);
        pointers[i] = &rules[i];
    }
    AF_CLEANUP_FREE struct label *labels = tool_alloc((options->n_labels + 1) * sizeof *labels);
    AF_CLEANUP_FREE struct label **label_pointers =
        tool_alloc((options->n_labels + 1) * sizeof(void *));
    Sandbox__V1__CreateSandboxRequest request = SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    request.codebase_id = af_client_text(session->codebase_id.text);
    request.n_permissions = count;
    request.permissions = pointers;
    request.n_labels = set_labels(options, is_owned, labels, label_pointers);
    request.labels = (void *)label_pointers;
    struct wishes wishes;
    set_wishes(&options->creation, &request, &wishes);
    Agentfense__V1__CreateRequest create = AGENTFENSE__V1__CREATE_REQUEST__INIT;
    create.sandbox = &request;
    create.options = &wishes.options;
    if (options->copies)
        return batch_create(session, &create, options->copies, options->json, err);
    AF_CLEANUP(rpc_cleanup) Agentfense__V1__SandboxInfo *reply = NULL;
    if (rpc_unary(session->client, "/agentfense.v1.SandboxService/Create", &create.base,
                  &agentfense__v1__sandbox_info__descriptor, &reply, err) < 0)
        return -1;
    if (!reply->sandbox)
        return af_error_set(err, AF_INTERNAL, "the daemon's answer names no sandbox");
    return take_id("sb", reply->sandbox->id, &session->sandbox_id, err);
}

int session_start(struct session *session, struct af_error *err)
{
    Sandbox__V1__StartSandboxRequest request = SANDBOX__V1__START_SANDBOX_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Sandbox *reply = NULL;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    return rpc_unary(session->client, "/sandbox.v1.SandboxService/StartSandbox", &request.base,
                     &sandbox__v1__sandbox__descriptor, &reply, err);
}

int session_create(struct session *session, int root, const char *dir,
                   const struct options *options, struct manifest *manifest, struct af_error *err)
{
    struct stat st;
    bool has_own_dir = session->keeper.pid != 0 && stat(session->keeper.dir, &st) == 0;
    if (!session->codebase_is_given &&
        (create_codebase(session, dir, options, err) < 0 ||
         import_directory(session->client, session->codebase_id.text, root,
                          has_own_dir ? &st : NULL, manifest, err) < 0))
        return -1;
    if (create_sandbox(session, options, !session->codebase_is_given, err) < 0)
        return -1;
    return options->copies ? 0 : session_start(session, err);
}

// ---- the end

int session_stop(struct session *session, struct af_error *err)
{
    Sandbox__V1__StopSandboxRequest request = SANDBOX__V1__STOP_SANDBOX_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Sandbox *reply = NULL;
    request.sandbox_id = af_client_text(session->sandbox_id.text);
    return rpc_unary(session->client, "/sandbox.v1.SandboxService/StopSandbox", &request.base,
                     &sandbox__v1__sandbox__descriptor, &reply, err);
}

static int delete_codebase(struct af_client *client, ProtobufCBinaryData id, struct af_error *err)
{
    Sandbox__V1__DeleteCodebaseRequest request = SANDBOX__V1__DELETE_CODEBASE_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Empty *reply = NULL;
    request.codebase_id = id;
    return rpc_unary(client, "/sandbox.v1.CodebaseService/DeleteCodebase", &request.base,
                     &sandbox__v1__empty__descriptor, &reply, err);
}

static bool is_owner(const Sandbox__V1__Sandbox *sandbox)
{
    for (size_t i = 0; i < sandbox->n_labels; i++) {
        const Sandbox__V1__Sandbox__LabelsEntry *label = sandbox->labels[i];
        if (label->key.len == strlen(OWNED_LABEL) && label->value.len == strlen(OWNED_VALUE) &&
            memcmp(label->key.data, OWNED_LABEL, label->key.len) == 0 &&
            memcmp(label->value.data, OWNED_VALUE, label->value.len) == 0)
            return true;
    }
    return false;
}

static int note_one(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    (void)message;
    *(bool *)arg = true;
    return af_error_set(err, AF_CANCELLED, "one is enough");
}

// Another sandbox may be on the codebase still: it stays for that one.
static int is_in_use(struct af_client *client, ProtobufCBinaryData id, bool *ret,
                     struct af_error *err)
{
    Agentfense__V1__ListRequest request = AGENTFENSE__V1__LIST_REQUEST__INIT;
    *ret = false;
    request.codebase_id = id;
    int rc = rpc_stream(client, "/agentfense.v1.SandboxService/List", &request.base,
                        &agentfense__v1__sandbox_info__descriptor, note_one, ret, err);
    return *ret ? 0 : rc;
}

int session_delete_owned(struct af_client *client, const Sandbox__V1__Sandbox *sandbox,
                         struct af_error *err)
{
    bool in_use;
    if (!is_owner(sandbox))
        return 0;
    if (is_in_use(client, sandbox->codebase_id, &in_use, err) < 0)
        return -1;
    if (in_use || delete_codebase(client, sandbox->codebase_id, err) == 0)
        return 0;
    return err->status == AF_NOT_FOUND ? 0 : -1;
}

int session_destroy(struct af_client *client, const char *sandbox_id, struct af_error *err)
{
    Sandbox__V1__GetSandboxRequest get = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    Sandbox__V1__DestroySandboxRequest destroy = SANDBOX__V1__DESTROY_SANDBOX_REQUEST__INIT;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Sandbox *sandbox = NULL;
    AF_CLEANUP(rpc_cleanup) Sandbox__V1__Empty *reply = NULL;
    get.sandbox_id = destroy.sandbox_id = af_client_text(sandbox_id);
    if (rpc_unary(client, "/sandbox.v1.SandboxService/GetSandbox", &get.base,
                  &sandbox__v1__sandbox__descriptor, &sandbox, err) < 0 ||
        rpc_unary(client, "/sandbox.v1.SandboxService/DestroySandbox", &destroy.base,
                  &sandbox__v1__empty__descriptor, &reply, err) < 0)
        return -1;
    return session_delete_owned(client, sandbox, err);
}

static bool remove_made(struct session *session)
{
    struct af_error err;
    int rc = 0;
    bool is_nothing =
        session->codebase_is_given ? !*session->sandbox_id.text : !*session->codebase_id.text;
    if (session->keep || is_nothing)
        return true;
    // An interrupt has broken the connection: removing takes a new one, that no signal breaks.
    disconnect(session);
    rc = rpc_connect(session->socket, &session->client, NULL, &err);
    if (rc == 0 && *session->sandbox_id.text)
        rc = session_destroy(session->client, session->sandbox_id.text, &err);
    else if (rc == 0)
        rc = delete_codebase(session->client, af_client_text(session->codebase_id.text), &err);
    if (rc == 0)
        return true;
    fprintf(stderr, "agentfense: left behind: %s %s: %s\n", session->codebase_id.text,
            session->sandbox_id.text, err.text);
    return false;
}

bool session_close(struct session *session)
{
    bool clean = session->keeper.pid ? true : remove_made(session);
    disconnect(session);
    return keeper_stop(&session->keeper) && clean;
}
