// What the calls that the api makes (as opposed to fs) have in common: checking ids and paths, and
// turning -errno of the store into a sentence that says what to do.
//
// Internal to mux. Nothing is owned, nothing locks; every function sets *err and returns -1 on
// failure. Read next: codebase.c.
#ifndef AF_MUX_HOST_CALL_H
#define AF_MUX_HOST_CALL_H

#include "mux/base/error.h"
#include "mux/base/limits.h"

#include <stdbool.h>
#include <stddef.h>

// A normalised relative path; "" is the root.
struct mux_path {
    char text[AF_PATH_MAX + 1];
    size_t len;
};

// A printf pair for "%.*s": what fits into an error text.
#define MUX_PATH_SHOWN 160
#define MUX_SHOW(path, path_len)                                                                   \
    (int)((path_len) > MUX_PATH_SHOWN ? MUX_PATH_SHOWN : (path_len)), (const char *)(path)

// Whether `id` has the form of a codebase's or sandbox's id: INVALID_ARGUMENT when not.
int mux_check_codebase_id(const char *id, struct af_error *err);
int mux_check_sandbox_id(const char *id, struct af_error *err);

// INVALID_ARGUMENT with the reason: NUL, "..", absolute, an empty component, too long. lenient:
// see af_path_normalize.
int mux_check_path(const void *path, size_t len, bool lenient, struct mux_path *ret,
                   struct af_error *err);

// A failure of the store or the disk while doing `what` ("storing the file"). rc: -errno.
int mux_fail(struct af_error *err, int rc, const char *what);
// -ENOENT of a record looked up by id is NOT_FOUND; anything else as mux_fail.
int mux_fail_codebase(struct af_error *err, int rc, const char *id);
int mux_fail_sandbox(struct af_error *err, int rc, const char *id);
// A path that did not resolve: NOT_FOUND, INVALID_ARGUMENT when a parent is no directory.
int mux_fail_path(struct af_error *err, int rc, const struct mux_path *path);

#endif
