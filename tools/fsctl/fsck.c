// agentfense-fsctl fsck: checks the store, of a running daemon or in a state directory.
//
// With a directory it opens the store itself, the one command that does: no daemon may have it
// open, and only so it can repair. Exit codes are those of e2fsck: 0 clean, 1 repaired, 4 something
// is left, 8 the check could not be done. See fsctl.h; read next: mux/store/fsck.h.
#include "mux/store/fsck.h"
#include "tools/fsctl/fsctl.h"

#include "mux/base/cleanup.h"
#include "proto/agentfense_monitor.pb-c.h"
#include "tools/common/escape.h"
#include "tools/common/json.h"

#include <inttypes.h>
#include <string.h>

enum { EXIT_CLEAN = 0, EXIT_REPAIRED = 1, EXIT_LEFT = 4 };

struct report {
    struct fsctl *ctl;
    struct json json;
    bool begun;
    uint64_t findings, records;
};

struct finding {
    const char *kind, *text;
    size_t kind_len, text_len;
    bool repairable, repaired;
};

// A check that fails before its first finding prints nothing.
static void begin(struct report *report)
{
    if (report->begun || !report->ctl->json)
        return;
    report->begun = true;
    json_init(&report->json, report->ctl->out);
    json_begin_object(&report->json, NULL);
    json_begin_array(&report->json, "findings");
}

static void print_finding(struct report *report, const struct finding *finding)
{
    FILE *out = report->ctl->out;
    report->findings++;
    begin(report);
    if (report->ctl->json) {
        json_begin_object(&report->json, NULL);
        json_bytes(&report->json, "kind", finding->kind, finding->kind_len);
        json_bytes(&report->json, "text", finding->text, finding->text_len);
        json_bool(&report->json, "repairable", finding->repairable);
        json_bool(&report->json, "repaired", finding->repaired);
        json_end(&report->json);
        return;
    }
    tool_print_escaped(out, finding->kind, finding->kind_len);
    fputs(": ", out);
    tool_print_escaped(out, finding->text, finding->text_len);
    fputs(finding->repaired     ? " (repaired)\n"
          : finding->repairable ? "\n"
                                : " (cannot be repaired)\n",
          out);
}

static void finish(struct report *report, uint64_t repaired, uint64_t left)
{
    FILE *out = report->ctl->out;
    begin(report);
    if (report->ctl->json) {
        json_end(&report->json);
        json_uint(&report->json, "records", report->records);
        json_uint(&report->json, "repaired", repaired);
        json_uint(&report->json, "left", left);
        json_end(&report->json);
        json_finish(&report->json);
    } else if (left == 0 && repaired == 0) {
        fprintf(out, "clean, %" PRIu64 " records\n", report->records);
    } else {
        fprintf(out, "%" PRIu64 " repaired, %" PRIu64 " left, %" PRIu64 " records\n", repaired,
                left, report->records);
    }
}

// ---- a state directory

static int offline_finding(void *arg, const struct store_finding *from)
{
    struct finding finding = {
        .kind = from->kind,
        .text = from->text,
        .kind_len = strlen(from->kind),
        .text_len = strlen(from->text),
        .repairable = from->repairable,
        .repaired = from->repaired,
    };
    print_finding(arg, &finding);
    return 0;
}

static int check_directory(struct fsctl *ctl, const char *dir, struct af_error *err)
{
    struct report report = {.ctl = ctl};
    struct store *store;
    struct store_fsck_result result;
    struct store_fsck_options options = {
        .repair = ctl->repair, .deep = ctl->deep, .fn = offline_finding, .arg = &report};
    if (store_open_for_fsck(dir, ctl->repair, &store, err) < 0)
        return -1;
    int rc = store_fsck(store, &options, &result);
    store_close(store);
    if (rc < 0)
        return af_error_errno(err, rc, "%s could not be checked to the end", dir);
    report.records = result.records;
    finish(&report, result.repaired, result.left);
    ctl->exit_code = result.left > 0 ? EXIT_LEFT : result.repaired > 0 ? EXIT_REPAIRED : EXIT_CLEAN;
    return 0;
}

// ---- a running daemon

static int online_finding(void *arg, const ProtobufCMessage *message, struct af_error *err)
{
    struct report *report = arg;
    const Agentfense__V1__FsckFinding *from = (const void *)message;
    (void)err;
    if (from->done) {
        report->records = from->records;
        return 0;
    }
    struct finding finding = {
        .kind = (const char *)from->kind.data,
        .text = (const char *)from->text.data,
        .kind_len = from->kind.len,
        .text_len = from->text.len,
        .repairable = from->repairable,
    };
    print_finding(report, &finding);
    return 0;
}

static int check_daemon(struct fsctl *ctl, struct af_error *err)
{
    struct report report = {.ctl = ctl};
    Agentfense__V1__FsckRequest request = AGENTFENSE__V1__FSCK_REQUEST__INIT;
    if (rpc_stream(ctl->client, "/agentfense.v1.MonitorService/Fsck", &request.base,
                   &agentfense__v1__fsck_finding__descriptor, online_finding, &report, err) < 0)
        return -1;
    finish(&report, 0, report.findings);
    ctl->exit_code = report.findings > 0 ? EXIT_LEFT : EXIT_CLEAN;
    return 0;
}

int fsctl_fsck(struct fsctl *ctl, struct af_error *err)
{
    if (ctl->argc == 1)
        return check_directory(ctl, ctl->argv[0], err);
    if (ctl->repair || ctl->deep)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "--repair and --deep need the state directory of a stopped daemon");
    return check_daemon(ctl, err);
}
