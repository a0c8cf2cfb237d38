// JSON of what commands did: see report.h.
#include "tools/agentfense/report.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "tools/agentfense/run.h"
#include "tools/common/words.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

void report_begin(struct report *report, const struct options *options)
{
    *report = (struct report){.on = options->json};
    if (!report->on)
        return;
    json_init(&report->json, stdout);
    json_begin_array(&report->json, NULL);
}

void report_sandbox(struct report *report, const char *id, const char *status)
{
    if (!report->on)
        return;
    json_begin_object(&report->json, NULL);
    json_text(&report->json, "sandbox_id", id);
    json_text(&report->json, "status", status);
    json_end(&report->json);
}

void report_process(struct report *report, const Agentfense__V1__Process *process)
{
    if (report->on)
        report_one_process(&report->json, process);
}

void report_failed(struct report *report, const char *name, const char *text, size_t len)
{
    if (!report->on)
        return;
    json_begin_object(&report->json, NULL);
    json_bytes(&report->json, "name", name, strlen(name));
    json_bytes(&report->json, "error", text, len);
    json_end(&report->json);
}

int report_error(struct report *report, const char *name, const struct af_error *err, int code)
{
    report_failed(report, name, err->text, strlen(err->text));
    return complain(err, code);
}

void report_end(struct report *report)
{
    if (!report->on)
        return;
    json_end(&report->json);
    json_finish(&report->json);
}

// ---- sandboxes --------------------------------------------------------------------------

const char *report_status(Sandbox__V1__SandboxStatus status)
{
    static const char *const words[] = {"unknown", "pending", "running", "stopped", "error"};
    return (int)status >= 0 && (size_t)status < AF_ARRAY_LEN(words) ? words[status] : "unknown";
}

static void print_options(struct json *json, const Agentfense__V1__SandboxOptions *options)
{
    json_text(json, "commit_policy", tool_policy_word(options->commit_policy));
    json_text(json, "conflicts", tool_conflict_word(options->conflict_policy));
    json_uint(json, "quota_bytes", options->quota ? options->quota->bytes : 0);
    json_uint(json, "quota_inodes", options->quota ? options->quota->inodes : 0);
    json_uint(json, "iops", options->io_limit ? options->io_limit->iops : 0);
    json_uint(json, "bandwidth", options->io_limit ? options->io_limit->bandwidth : 0);
}

void report_info(const struct options *options, const Agentfense__V1__SandboxInfo *info)
{
    struct json json;
    if (!options->json || !info->sandbox)
        return;
    const Sandbox__V1__Sandbox *sandbox = info->sandbox;
    json_init(&json, stdout);
    json_begin_object(&json, NULL);
    json_bytes(&json, "sandbox_id", sandbox->id.data, sandbox->id.len);
    json_text(&json, "status", report_status(sandbox->status));
    json_text(&json, "access", tool_access_word(info->access));
    if (sandbox->expires_at)
        json_time(&json, "expires_at", sandbox->expires_at->seconds, sandbox->expires_at->nanos);
    if (info->options)
        print_options(&json, info->options);
    json_uint(&json, "delta_bytes", info->delta_bytes);
    json_uint(&json, "delta_inodes", info->delta_inodes);
    json_end(&json);
    json_finish(&json);
}

// ---- changes ----------------------------------------------------------------------------

static const char *kind_word(mode_t mode)
{
    return S_ISDIR(mode)    ? "directory"
           : S_ISLNK(mode)  ? "symlink"
           : S_ISFIFO(mode) ? "fifo"
           : S_ISSOCK(mode) ? "socket"
           : S_ISREG(mode)  ? "file"
                            : "unknown";
}

void report_changes(struct json *json, const char *key, const struct changes *changes)
{
    json_begin_array(json, key);
    for (size_t i = 0; i < changes->count; i++) {
        const struct change *change = &changes->list[i];
        json_begin_object(json, NULL);
        json_bytes(json, "path", change->path, strlen(change->path));
        json_text(json, "change",
                  tool_change_word((Agentfense__V1__DiffEntry__Change)(int)change->type));
        if (change->old_path)
            json_bytes(json, "old_path", change->old_path, strlen(change->old_path));
        if (change->type != CHANGE_DELETED) {
            json_text(json, "kind", kind_word(change->mode));
            json_uint(json, "size", change->size);
            json_uint(json, "mode", change->mode & 07777);
        }
        if (change->target)
            json_bytes(json, "symlink_target", change->target, strlen(change->target));
        json_end(json);
    }
    json_end(json);
}

// ---- processes --------------------------------------------------------------------------

void report_exit(struct json *json, const Agentfense__V1__ProcessExit *exit)
{
    json_int(json, "exit_code", exit->exit_code);
    json_int(json, "signal", exit->signal);
    json_bool(json, "timed_out", exit->timed_out);
    json_bool(json, "out_of_memory", exit->out_of_memory);
    if (exit->duration)
        json_int(json, "duration_ns",
                 exit->duration->seconds * AF_NS_PER_SEC + exit->duration->nanos);
    if (exit->error.len > 0)
        json_bytes(json, "error", exit->error.data, exit->error.len);
}

void report_one_process(struct json *json, const Agentfense__V1__Process *process)
{
    json_begin_object(json, NULL);
    json_bytes(json, "id", process->id.data, process->id.len);
    json_bytes(json, "sandbox_id", process->sandbox_id.data, process->sandbox_id.len);
    if (process->n_argv > 0) {
        json_begin_array(json, "argv");
        for (size_t i = 0; i < process->n_argv; i++)
            json_bytes(json, NULL, process->argv[i].data, process->argv[i].len);
        json_end(json);
    }
    if (process->command.len > 0)
        json_bytes(json, "command", process->command.data, process->command.len);
    json_bool(json, "running", process->running);
    json_bool(json, "background", process->background);
    json_bool(json, "terminal", process->terminal);
    json_bool(json, "stdin", process->stdin);
    if (process->started_at)
        json_time(json, "started_at", process->started_at->seconds, process->started_at->nanos);
    if (process->ended_at)
        json_time(json, "ended_at", process->ended_at->seconds, process->ended_at->nanos);
    if (process->exit) {
        json_begin_object(json, "exit");
        report_exit(json, process->exit);
        json_end(json);
    }
    json_end(json);
}
