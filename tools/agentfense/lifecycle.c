// agentfense start, stop, diff: sandboxes of a daemon that runs already. See run.h.
//
// A name that is no sandbox's, or a call that fails, does not keep the others from being tried; the
// exit code is then 1. Owns the connection.
#include "tools/agentfense/run.h"

#include "tools/agentfense/changes.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/session.h"
#include "tools/common/json.h"
#include "tools/common/words.h"

#include <stdio.h>
#include <string.h>

typedef int each_fn(struct session *session, struct af_error *err);

static int for_each(const struct options *options, each_fn *fn)
{
    struct session session = {.fd = -1};
    struct af_error err;
    int code = 0;
    if (session_open(&session, options_socket(options), &err) < 0)
        code = complain(&err, 1);
    session.keep = true;
    for (int i = 0; session.client && i < options->n_args && !interrupt_signal(); i++)
        if (rpc_find_view(session.client, options->args[i], &session.sandbox_id, &err) < 0 ||
            fn(&session, &err) < 0)
            code = complain(&err, 1);
    session_close(&session);
    return code;
}

int command_start(const struct options *options)
{
    return for_each(options, session_start);
}

int command_stop(const struct options *options)
{
    return for_each(options, session_stop);
}

// ---- diff

static const char *kind_word(mode_t mode)
{
    return S_ISDIR(mode)    ? "directory"
           : S_ISLNK(mode)  ? "symlink"
           : S_ISFIFO(mode) ? "fifo"
           : S_ISSOCK(mode) ? "socket"
           : S_ISREG(mode)  ? "file"
                            : "unknown";
}

static void print_json(const struct changes *changes)
{
    struct json json;
    json_init(&json, stdout);
    json_begin_array(&json, NULL);
    for (size_t i = 0; i < changes->count; i++) {
        const struct change *change = &changes->list[i];
        json_begin_object(&json, NULL);
        json_bytes(&json, "path", change->path, strlen(change->path));
        json_text(&json, "change",
                  tool_change_word((Agentfense__V1__DiffEntry__Change)(int)change->type));
        if (change->old_path)
            json_bytes(&json, "old_path", change->old_path, strlen(change->old_path));
        if (change->type != CHANGE_DELETED) {
            json_text(&json, "kind", kind_word(change->mode));
            json_uint(&json, "size", change->size);
            json_uint(&json, "mode", change->mode & 07777);
        }
        if (change->target)
            json_bytes(&json, "symlink_target", change->target, strlen(change->target));
        json_end(&json);
    }
    json_end(&json);
    json_finish(&json);
}

int command_diff(const struct options *options)
{
    struct session session = {.fd = -1, .keep = true};
    struct changes changes = {0};
    struct manifest nothing = {0};
    struct af_error err;
    int rc = session_open(&session, options_socket(options), &err);
    session.keep = true;
    if (rc == 0)
        rc = rpc_find_view(session.client, options->args[0], &session.sandbox_id, &err);
    if (rc == 0)
        rc = changes_fetch(session.client, session.sandbox_id.text, &changes, &err);
    int code = rc < 0 ? complain(&err, 1) : 0;
    if (rc == 0 && options->json)
        print_json(&changes);
    else if (rc == 0)
        changes_print(&changes, &nothing, 0, stdout);
    if (changes.too_long > 0) {
        fprintf(stderr, "agentfense: %zu more changes lie at paths that are too long to list\n",
                changes.too_long);
        code = 1;
    }
    changes_fini(&changes);
    session_close(&session);
    return code;
}
