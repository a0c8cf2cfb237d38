// agentfense run: import, run, show what changed, and bring it back when asked to.
//
// The exit code is the command's unless the tool failed. Everything the tool says itself is on
// stderr. Owns the session; whatever happens, session_close removes what was made.
// Read next: session.h, changes.h, apply.h.
#include "tools/agentfense/run.h"

#include "mux/base/cleanup.h"
#include "tools/agentfense/apply.h"
#include "tools/agentfense/interrupt.h"
#include "tools/agentfense/report.h"
#include "tools/agentfense/session.h"
#include "tools/agentfense/showdiff.h"
#include "tools/agentfense/stream.h"
#include "tools/common/escape.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_LINES_MAX 200

struct run {
    const struct options *options;
    struct session session;
    struct manifest manifest;
    struct changes changes;
    struct outcome outcome;
    int root;
    bool listed; // the changes are known
    bool applied;
    char *dir; // as the user gave it, escaped
};

static void print_lines(const struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        fprintf(stderr, "  %s\n", lines->list[i]);
}

static void print_count(const struct run *run)
{
    fprintf(stderr, "\n%zu %s in %s ", run->changes.count,
            run->changes.count == 1 ? "change" : "changes", run->dir);
}

// What became of the changes, in a heading over their list.
static void print_changes(const struct run *run, const char *what, size_t max_lines)
{
    if (run->options->json)
        return; // print_json tells
    if (run->changes.count == 0) {
        fprintf(stderr, "\nno changes in %s\n", run->dir);
        return;
    }
    print_count(run);
    fprintf(stderr, "(%s):\n", what);
    changes_print(&run->changes, &run->manifest, max_lines, stderr);
}

static int report_apply_failure(const struct run *run, const struct apply *apply,
                                const struct af_error *err)
{
    fprintf(stderr, "\nagentfense: %s. %s\n", err->text,
            apply->stuck.count ? "Not everything could be put back:"
                               : "Nothing was applied; the directory is as it was.");
    print_lines(&apply->stuck);
    if (apply->stuck.count)
        fprintf(stderr, "The files are in %s/%s\n", run->dir, apply->stage);
    print_lines(&apply->conflicts);
    print_changes(run, "NOT applied", 0);
    return -1;
}

static int apply(struct run *run, struct view_source *source, struct af_error *err)
{
    struct plan plan;
    struct apply apply;
    if (plan_make(&run->changes, &run->manifest, &plan, err) < 0) {
        fprintf(stderr, "agentfense: %s. Nothing was applied.\n", err->text);
        return -1;
    }
    apply_init(&apply, run->root, &plan, view_fetch, source);
    int rc = apply_prepare(&apply, err);
    if (rc == 0) {
        interrupt_hold();
        rc = apply_commit(&apply, err);
        interrupt_release();
    }
    if (rc < 0) {
        report_apply_failure(run, &apply, err);
    } else {
        run->applied = true;
        print_changes(run, "applied", LIST_LINES_MAX);
        print_lines(&apply.notes);
        if (run->outcome.exit_code != 0 && run->changes.count > 0)
            fprintf(stderr, "They were applied although the command failed (exit code %d).\n",
                    run->outcome.exit_code);
    }
    apply_fini(&apply);
    plan_fini(&plan);
    return rc;
}

// After the command: the list, the diffs, the directory. Prints what fails.
static int finish(struct run *run, struct af_error *err)
{
    struct view_source source = {run->session.client, run->session.sandbox_id.text};
    const struct options *options = run->options;
    if (changes_fetch(run->session.client, source.sandbox_id, &run->changes, err) < 0) {
        fprintf(stderr, "agentfense: cannot list the changes: %s\n", err->text);
        return -1;
    }
    run->listed = true;
    if (run->changes.too_long > 0) {
        fprintf(
            stderr,
            "agentfense: %zu more changes lie at paths of over %d bytes; they are not listed%s\n",
            run->changes.too_long, AF_PATH_MAX, options->apply ? ", and nothing is applied" : "");
        if (options->apply) {
            print_changes(run, "NOT applied", LIST_LINES_MAX);
            return -1;
        }
    }
    if (options->diff &&
        show_diffs(&source, run->root, &run->changes, &run->manifest, stderr, err) < 0) {
        fprintf(stderr, "agentfense: cannot show the changes: %s\n", err->text);
        return -1;
    }
    if (options->apply && run->outcome.timed_out) {
        print_changes(run, "NOT applied: the command ran out of time", 0);
        return 0;
    }
    if (options->apply && run->changes.count > 0)
        return apply(run, &source, err);
    print_changes(run,
                  options->diff ? "untouched; --apply brings them there"
                                : "untouched; --apply brings them there, --diff shows them",
                  LIST_LINES_MAX);
    return 0;
}

// --json: the last line, after the command's output and end. Prints what fails.
static int print_json(const struct run *run)
{
    struct json json;
    json_init(&json, stdout);
    json.one_line = true;
    json_begin_object(&json, NULL);
    if (run->session.keep)
        json_text(&json, "sandbox_id", run->session.sandbox_id.text);
    json_bool(&json, "applied", run->applied);
    report_changes(&json, "changes", &run->changes);
    json_uint(&json, "too_long", run->changes.too_long);
    json_end(&json);
    json_finish(&json);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "agentfense: cannot write the output: %s\n", strerror(errno));
    return -1;
}

static int open_dir(const char *dir, int *ret, struct af_error *err)
{
    *ret = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? af_error_errno(err, errno, "cannot open the directory '%s'", dir) : 0;
}

// Up to the end of the command. *err is to be printed.
static int perform(struct run *run, struct af_error *err)
{
    const struct options *options = run->options;
    const char *dir = options->args[0];
    if (open_dir(dir, &run->root, err) < 0 || session_open(&run->session, options->socket, err) < 0)
        return -1;
    char absolute[4096];
    const char *name = realpath(dir, absolute) ? absolute : dir;
    run->dir = tool_escaped(name, strlen(name));
    if (session_create(&run->session, run->root, name, options, &run->manifest, err) < 0 ||
        stream_run(run->session.client, options, run->session.sandbox_id.text, &run->outcome, err) <
            0)
        return -1;
    return session_stop(&run->session, err);
}

static int exit_code(const struct run *run, int rc)
{
    if (interrupt_signal())
        return 128 + interrupt_signal();
    return rc < 0 ? EXIT_TOOL : run->outcome.timed_out ? EXIT_TIMED_OUT : run->outcome.exit_code;
}

int command_run(const struct options *options)
{
    struct run run = {.options = options, .root = -1, .session = {.fd = -1}};
    struct af_error err;
    int rc = perform(&run, &err);
    if (rc == 0) {
        rc = finish(&run, &err);
        run.session.keep = rc == 0 && options->keep;
        if (options->json && run.listed && print_json(&run) < 0)
            rc = -1;
    } else {
        struct af_error signal;
        bool interrupted = interrupt_check(&signal) < 0;
        fprintf(stderr, "agentfense: %s\n", interrupted ? signal.text : err.text);
        if (options->apply)
            fputs("agentfense: nothing was applied\n", stderr);
    }
    if (run.session.keep) {
        fprintf(stderr, "kept: %s\n", run.session.sandbox_id.text);
    }
    if (!session_close(&run.session) && rc == 0)
        rc = -1;
    int code = exit_code(&run, rc);
    manifest_fini(&run.manifest);
    changes_fini(&run.changes);
    free(run.dir);
    if (run.root >= 0)
        close(run.root);
    return code;
}
