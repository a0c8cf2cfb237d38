// What a command did, as JSON on stdout for --json; for people those commands print nothing.
//
// Without --json every function does nothing, so that commands call them in any case.
// Owns nothing. Thread: one. Failure: stdout's.
#ifndef AF_TOOLS_AGENTFENSE_REPORT_H
#define AF_TOOLS_AGENTFENSE_REPORT_H

#include "tools/agentfense/changes.h"
#include "tools/agentfense/options.h"
#include "tools/common/json.h"

#include "proto/agentfense_process.pb-c.h"
#include "proto/agentfense_sandbox.pb-c.h"

// An array with an object for each thing that the command was asked for.
struct report {
    bool on;
    struct json json;
};
void report_begin(struct report *report, const struct options *options);
void report_sandbox(struct report *report, const char *id, const char *status);
void report_process(struct report *report, const Agentfense__V1__Process *process);
// `name`: as it was given.
void report_failed(struct report *report, const char *name, const char *text, size_t len);
// The same of a failure, which stderr hears as well. Returns the exit code, as complain (run.h).
int report_error(struct report *report, const char *name, const struct af_error *err, int code);
void report_end(struct report *report);

// One sandbox with its settings: an object of its own.
void report_info(const struct options *options, const Agentfense__V1__SandboxInfo *info);

// "running"
const char *report_status(Sandbox__V1__SandboxStatus status);

// Parts of larger values.
void report_changes(struct json *json, const char *key, const struct changes *changes);
void report_exit(struct json *json, const Agentfense__V1__ProcessExit *exit);
void report_one_process(struct json *json, const Agentfense__V1__Process *process);

#endif
