// See boxes.h. Owns the pool. No locks of its own. Read next: exec/exec.h (pool).
#include "api/boxes.h"

#include "api/sandbox_facts.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOXES_MAGIC 0x424f5845

struct boxes {
    uint32_t magic;
    struct mux *mux;
    struct exec_engine *engine;
    const struct af_config *config;
    struct exec_pool *pools[2]; // by exec_runtime; or NULL
};

// ---- the pool

static int uid_take(void *arg, uid_t *ret_uid)
{
    const struct boxes *boxes = arg;
    struct af_error err;
    return mux_uid_reserve(boxes->mux, ret_uid, &err);
}

static void uid_give(void *arg, uid_t uid)
{
    const struct boxes *boxes = arg;
    mux_uid_release(boxes->mux, uid);
}

static struct exec_limits limits_of(const struct af_config *config)
{
    return (struct exec_limits){
        .tmp_bytes = config->exec.tmp_bytes,
        .home_bytes = config->exec.home_bytes,
        .shm_bytes = config->exec.shm_bytes,
    };
}

static int start_pool(struct boxes *boxes, enum exec_runtime runtime, unsigned wanted,
                      struct af_error *err)
{
    const struct af_config *config = boxes->config;
    // Members hold uids: a small range is for sandboxes.
    unsigned size = wanted < config->uid_count / 4 ? wanted : config->uid_count / 4;
    if (size == 0)
        return 0;
    bool docker = runtime == EXEC_RUNTIME_DOCKER;
    const struct exec_pool_options options = {
        .size = size,
        .runtime = runtime,
        .image = docker ? config->exec.docker_image : NULL,
        .rootfs = docker ? NULL : config->exec.rootfs,
        .limits = limits_of(config),
        .resources = boxes_resources(config, NULL),
        .uid_take = uid_take,
        .uid_give = uid_give,
        .arg = boxes,
    };
    return exec_pool_new(boxes->engine, &options, &boxes->pools[runtime], err);
}

static int start_pools(struct boxes *boxes, struct af_error *err)
{
    const struct af_config *config = boxes->config;
    bool docker =
        exec_engine_features(boxes->engine)->docker_version[0] && config->exec.docker_image;
    if (start_pool(boxes, EXEC_RUNTIME_BWRAP, config->exec.pool, err) < 0)
        return -1;
    return docker ? start_pool(boxes, EXEC_RUNTIME_DOCKER, config->exec.docker_pool, err) : 0;
}

// ---- life

int boxes_new(const struct boxes_options *options, struct boxes **ret, struct af_error *err)
{
    struct boxes *boxes = calloc(1, sizeof *boxes);
    if (!boxes)
        return af_error_errno(err, ENOMEM, "boxes");
    boxes->magic = BOXES_MAGIC;
    boxes->mux = options->mux;
    boxes->engine = options->engine;
    boxes->config = options->config;
    if (start_pools(boxes, err) < 0) {
        boxes_free(boxes);
        return -1;
    }
    *ret = boxes;
    return 0;
}

void boxes_free(struct boxes *boxes)
{
    if (!boxes)
        return;
    AF_CHECK_MAGIC(boxes, BOXES_MAGIC);
    for (size_t i = 0; i < AF_ARRAY_LEN(boxes->pools); i++)
        exec_pool_free(boxes->pools[i]);
    boxes->magic = 0;
    free(boxes);
}

// ---- one start

int boxes_root(const struct af_config *config, const char *name, char ret_path[PATH_MAX])
{
    size_t len = strlen(name);
    for (const char *at = config->exec.roots; at && *at; at += strcspn(at, ","), at += *at == ',') {
        size_t item = strcspn(at, ",");
        if (len == 0 || item <= len + 1 || item - len > PATH_MAX || strncmp(at, name, len) != 0 ||
            at[len] != '=')
            continue;
        snprintf(ret_path, PATH_MAX, "%.*s", (int)(item - len - 1), at + len + 1);
        return 0;
    }
    return -1;
}

struct exec_resources boxes_resources(const struct af_config *config,
                                      const Sandbox__V1__ResourceLimits *limits)
{
    const Sandbox__V1__ResourceLimits none = SANDBOX__V1__RESOURCE_LIMITS__INIT;
    const Sandbox__V1__ResourceLimits *l = limits ? limits : &none;
    return (struct exec_resources){
        .memory_bytes = l->memory_bytes ? (uint64_t)l->memory_bytes : config->exec.memory_max,
        .cpu_quota_us = l->cpu_quota ? (uint64_t)l->cpu_quota : config->exec.cpu_quota_max,
        .cpu_shares = (uint64_t)l->cpu_shares,
        .pids_max = l->pids_limit ? (uint64_t)l->pids_limit : config->exec.pids_max,
    };
}

struct reading {
    const struct boxes *boxes;
    struct box_plan *plan;
};

// What the record says about the box.
static int read_record(void *arg, const struct store_sandbox *record)
{
    struct reading *reading = arg;
    Agentfense__V1__SandboxInfo *facts = sandbox_facts_unpack(record);
    if (!facts)
        return 1;
    struct box_plan *plan = reading->plan;
    const Sandbox__V1__Sandbox none = SANDBOX__V1__SANDBOX__INIT;
    const Sandbox__V1__Sandbox *sandbox = facts->sandbox ? facts->sandbox : &none;
    plan->resources = boxes_resources(reading->boxes->config, sandbox->resources);
    plan->runtime = sandbox->runtime == SANDBOX__V1__RUNTIME_TYPE__RUNTIME_TYPE_DOCKER
                        ? EXEC_RUNTIME_DOCKER
                        : EXEC_RUNTIME_BWRAP;
    plan->network =
        facts->options && facts->options->network == AGENTFENSE__V1__NETWORK__NETWORK_HOST
            ? EXEC_NETWORK_HOST
            : EXEC_NETWORK_NONE;
    snprintf(plan->image, sizeof plan->image, "%.*s", (int)sandbox->image.len,
             (const char *)sandbox->image.data);
    sandbox_facts_free(facts);
    return 0;
}

// What cannot be changed on a member: its root and network; the sizes of /tmp and HOME, which
// follow from the memory bound; and of a container every bound.
static bool fits_pool(const struct boxes *boxes, const struct box_plan *plan)
{
    const struct af_config *config = boxes->config;
    const struct exec_resources usual = boxes_resources(config, NULL);
    if (plan->network != EXEC_NETWORK_NONE)
        return false;
    if (plan->runtime == EXEC_RUNTIME_DOCKER)
        return config->exec.docker_image && strcmp(plan->image, config->exec.docker_image) == 0 &&
               memcmp(&plan->resources, &usual, sizeof usual) == 0;
    return !plan->image[0] && plan->resources.memory_bytes == usual.memory_bytes;
}

// The configuration may have changed since the sandbox was made.
static int check_plan(const struct boxes *boxes, const struct box_plan *plan, const char *id,
                      struct af_error *err)
{
    char path[PATH_MAX];
    if (plan->network == EXEC_NETWORK_HOST && !boxes->config->exec.network_host)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "sandbox %s needs the host's network, which this server does not give "
                            "any more",
                            id);
    if (plan->runtime == EXEC_RUNTIME_DOCKER &&
        !exec_engine_features(boxes->engine)->docker_version[0])
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "sandbox %s needs the Docker runtime, which this server does not have",
                            id);
    if (plan->runtime == EXEC_RUNTIME_BWRAP && plan->image[0] &&
        boxes_root(boxes->config, plan->image, path) < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "sandbox %s needs the root directory '%s', which this server does not "
                            "have any more",
                            id, plan->image);
    return 0;
}

int boxes_plan(struct boxes *boxes, const char *id, struct box_plan *plan, struct af_error *err)
{
    AF_CHECK_MAGIC(boxes, BOXES_MAGIC);
    *plan = (struct box_plan){.lazy = boxes->config->exec.lazy};
    struct reading reading = {boxes, plan};
    int rc = mux_sandbox_get(boxes->mux, id, read_record, &reading, err);
    if (rc > 0)
        af_error_set(err, AF_INTERNAL, "the record of sandbox %s cannot be read", id);
    if (rc != 0 || check_plan(boxes, plan, id, err) < 0)
        return -1;
    if (asprintf(&plan->view_path, "%s/%s", boxes->config->mount, id) < 0) {
        plan->view_path = NULL;
        return af_error_errno(err, ENOMEM, "cannot start sandbox %s", id);
    }
    if (!plan->lazy && fits_pool(boxes, plan))
        plan->member = exec_pool_take(boxes->pools[plan->runtime], &plan->uid);
    struct mux_attachment attachment;
    if (mux_view_attach_as(boxes->mux, id, plan->uid, &attachment, err) < 0) {
        if (plan->member) {
            exec_pool_return(boxes->pools[plan->runtime], plan->member);
            plan->member = NULL;
        }
        free(AF_TAKE_PTR(plan->view_path));
        return -1;
    }
    plan->uid = attachment.uid;
    return 0;
}

void boxes_fetch(struct boxes *boxes, const char *id, struct box_plan *plan)
{
    AF_CHECK_MAGIC(boxes, BOXES_MAGIC);
    struct exec_pool *pool = boxes->pools[plan->runtime];
    struct af_error err;
    uid_t uid;
    plan->lazy = false;
    if (!fits_pool(boxes, plan) || !mux_view_can_move(boxes->mux, id))
        return;
    struct exec_box *member = exec_pool_take(pool, &uid);
    if (!member)
        return;
    if (mux_view_move(boxes->mux, id, uid, &err) < 0) {
        exec_pool_return(pool, member); // somebody has looked at it just now
        return;
    }
    plan->member = member;
    plan->uid = uid;
}

int boxes_start(struct boxes *boxes, const char *id, struct box_plan *plan,
                const struct box_callbacks *callbacks, struct exec_box **ret_box,
                struct af_error *err)
{
    AF_CHECK_MAGIC(boxes, BOXES_MAGIC);
    char root[PATH_MAX];
    bool docker = plan->runtime == EXEC_RUNTIME_DOCKER;
    bool named = !docker && plan->image[0] &&
                 boxes_root(boxes->config, plan->image, root) == 0; // checked by the plan
    const struct exec_box_spec spec = {
        .id = id,
        .view_path = plan->view_path,
        .uid = plan->uid,
        .gid = (gid_t)plan->uid,
        .runtime = plan->runtime,
        .image = docker ? plan->image : NULL,
        .rootfs = docker  ? NULL
                  : named ? root
                          : boxes->config->exec.rootfs,
        .network = plan->network,
        .limits = limits_of(boxes->config),
        .resources = plan->resources,
        .idle_ns = boxes->config->exec.idle_end_ns,
        .idle = callbacks->idle,
    };
    if (!plan->member)
        return exec_box_start(boxes->engine, &spec, callbacks->started, callbacks->died,
                              callbacks->arg, ret_box, err);
    if (exec_box_adopt(plan->member, &spec, callbacks->started, callbacks->died, callbacks->arg,
                       err) < 0)
        return -1;
    *ret_box = AF_TAKE_PTR(plan->member);
    return 0;
}

bool boxes_drop(struct box_plan *plan, exec_box_stopped stopped, void *arg)
{
    free(AF_TAKE_PTR(plan->view_path));
    struct exec_box *member = AF_TAKE_PTR(plan->member);
    if (member)
        exec_box_stop(member, stopped, arg);
    return member != NULL;
}
