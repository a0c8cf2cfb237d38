// MonitorService/ListHandles: what a sandbox's processes have open in its view.
//
// exec looks through /proc on a job's thread, for that may take long with a hostile sandbox; the
// paths are looked up as each handle is sent, by the inode number, which is the file's id. Owns the
// list, with the call; the job holds a reference. Fails: an af_error.
// Read next: exec/handles.h, mux/locate.h.
#include "api/services/monitor_service.h"

#include "exec/handles.h"
#include "mux/base/cleanup.h"
#include "mux/locate.h"
#include "mux/nodeid.h"
#include "mux/sandbox.h"
#include "mux/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct listing {
    struct job job;
    struct grpc_call *call; // a reference, while the job runs
    struct af_id id;
    struct exec_handles_spec spec;
    atomic_bool cancelled;
    atomic_bool complete; // the list stands, and may be sent
    Agentfense__V1__ViewHeld held;
    uint64_t any_nodeid; // of the view
    struct exec_handle *handles;
    size_t count, capacity, sent;
    bool held_sent;
};

void monitor_handles_free(struct grpc_call *call)
{
    struct listing *list = grpc_call_data(call);
    free(list->handles);
    free(list);
}

void monitor_handles_cancelled(struct grpc_call *call)
{
    struct listing *list = grpc_call_data(call);
    if (list)
        atomic_store(&list->cancelled, true);
}

// ---- on the job's thread

static int keep_handle(void *arg, const struct exec_handle *handle)
{
    struct listing *list = arg;
    if (list->count == AF_HANDLES_MAX)
        return -E2BIG;
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        struct exec_handle *bigger = reallocarray(list->handles, capacity, sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        list->handles = bigger;
        list->capacity = capacity;
    }
    list->handles[list->count++] = *handle;
    return 0;
}

static void run_listing(struct job *job, const atomic_bool *stop)
{
    struct listing *list = (struct listing *)job;
    struct grpc_call *call = list->call;
    struct af_error err;
    int rc = atomic_load(stop) ? -ECANCELED : 0;
    if (rc == 0 && list->spec.init != 0)
        rc = exec_list_handles(&list->spec);
    if (rc == -E2BIG) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED,
                         "the sandbox has more than %u files open, too many to list",
                         AF_HANDLES_MAX);
    } else if (rc < 0) {
        af_error_errno(&err, rc, "cannot list what is open");
        grpc_call_finish_error(call, &err);
    } else {
        atomic_store(&list->complete, true);
        grpc_call_wake(call);
    }
    grpc_call_unref(call);
}

// ---- in the handlers

static int begin(struct daemon *daemon, struct listing *list, struct af_error *err)
{
    struct mux_view_held held;
    struct fs_view_counters counters;
    struct statx st;
    uint64_t nodeid;
    if (mux_view_get_held(daemon->mux, list->id.text, &held, &nodeid, err) < 0)
        return -1;
    if (statx(AT_FDCWD, daemon->config.mount, AT_STATX_DONT_SYNC, STATX_INO, &st) < 0)
        return af_error_errno(err, errno, "cannot look at the mount");
    fs_session_view_counters(daemon->fs, mux_nodeid_slot(nodeid), mux_nodeid_route(nodeid),
                             &counters);
    agentfense__v1__view_held__init(&list->held);
    list->held.kernel_references = counters.references;
    list->held.nodes_cached = held.nodes_cached;
    list->held.unlinked_open = held.unlinked_open;
    list->any_nodeid = nodeid;
    list->spec = (struct exec_handles_spec){
        .dev_major = st.stx_dev_major,
        .dev_minor = st.stx_dev_minor,
        .stop = &list->cancelled,
        .fn = keep_handle,
        .arg = list,
    };
    // A sandbox that was started lazily has no process yet.
    if (!runner_init(daemon->runner, list->id.text, &list->spec.init, &list->spec.uid))
        list->spec.init = 0;
    return 0;
}

void monitor_list_handles(struct grpc_call *call, const ProtobufCMessage *message)
{
    const Agentfense__V1__ListHandlesRequest *request = (const void *)message;
    struct listing *list = calloc(1, sizeof *list);
    struct af_error err;
    if (!list) {
        grpc_call_finish(call, AF_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    grpc_call_set_data(call, list);
    list->job.run = run_listing;
    if (service_check_id("sb", request->sandbox_id, &list->id, &err) < 0 ||
        begin(daemon_of(call), list, &err) < 0) {
        grpc_call_finish_error(call, &err);
        return;
    }
    list->call = grpc_call_ref(call);
    jobs_submit(daemon_of(call)->jobs, &list->job);
}

static enum grpc_sent send_handle(struct grpc_call *call, const struct listing *list,
                                  const struct exec_handle *handle)
{
    Agentfense__V1__ListHandlesReply reply = AGENTFENSE__V1__LIST_HANDLES_REPLY__INIT;
    Agentfense__V1__Handle message = AGENTFENSE__V1__HANDLE__INIT;
    struct mux_place place;
    uint64_t nodeid = mux_nodeid_private(mux_nodeid_route(list->any_nodeid), handle->ino);
    int rc = mux_locate(daemon_of(call)->mux, nodeid, 0, NULL, false, &place);
    int access = handle->flags & O_ACCMODE;
    message.kind = (Agentfense__V1__Handle__Kind)handle->kind;
    message.pid = (uint32_t)handle->pid;
    message.command = service_bytes(handle->command, strlen(handle->command));
    message.fd = handle->fd;
    bool opened = handle->kind == EXEC_HANDLE_FD || handle->kind == EXEC_HANDLE_MAP;
    message.reads = opened && access != O_WRONLY && !(handle->flags & O_PATH);
    message.writes = opened && access != O_RDONLY && !(handle->flags & O_PATH);
    message.offset = handle->offset;
    message.ino = handle->ino;
    message.unlinked = rc < 0;
    if (rc == 0)
        message.path = service_bytes(place.path, place.len);
    message.locks = handle->locks;
    reply.handle = &message;
    return grpc_call_send(call, &reply.base);
}

void monitor_handles_writable(struct grpc_call *call)
{
    struct listing *list = grpc_call_data(call);
    if (!list || !atomic_load(&list->complete))
        return;
    if (!list->held_sent) {
        Agentfense__V1__ListHandlesReply reply = AGENTFENSE__V1__LIST_HANDLES_REPLY__INIT;
        reply.held = &list->held;
        list->held_sent = true;
        if (grpc_call_send(call, &reply.base) != GRPC_SENT)
            return;
    }
    while (list->sent < list->count)
        if (send_handle(call, list, &list->handles[list->sent++]) != GRPC_SENT)
            return;
    grpc_call_finish(call, AF_OK, NULL);
}
