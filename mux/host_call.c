// Arguments and errors of the calls that the api makes. Read next: host_call.h.
#include "mux/host_call.h"

#include "mux/base/id.h"
#include "mux/base/text.h"

#include <errno.h>
#include <string.h>

static int check_id(const char *prefix, const char *what, const char *id, struct af_error *err)
{
    if (id && af_id_parse(prefix, id, strlen(id), NULL))
        return 0;
    if (!id || !*id)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the %s id is missing", what);
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "'%.*s' is no %s id: pass the id that creating the %s returned (%s_...)",
                        MUX_SHOW(id, strlen(id)), what, what, prefix);
}

int mux_check_codebase_id(const char *id, struct af_error *err)
{
    return check_id("cb", "codebase", id, err);
}

int mux_check_sandbox_id(const char *id, struct af_error *err)
{
    return check_id("sb", "sandbox", id, err);
}

int mux_check_path(const void *path, size_t len, bool lenient, struct mux_path *ret,
                   struct af_error *err)
{
    const char *text = len > 0 ? path : "";
    int rc = af_path_normalize(text, len, lenient, ret->text, &ret->len);
    if (rc == 0)
        return 0;
    if (rc == -ENAMETOOLONG)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the path is too long: at most %d bytes, and %d in one name (it begins "
                            "'%.*s')",
                            AF_PATH_MAX, AF_NAME_MAX, MUX_SHOW(text, len));
    if (memchr(text, '\0', len))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the path holds a NUL byte, which no file name can");
    if (!lenient && len > 0 && text[0] == '/')
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the path '%.*s' is absolute: give it relative to the root, without a "
                            "leading slash",
                            MUX_SHOW(text, len));
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "the path '%.*s' has a component that is no name ('..', '.' or an empty "
                        "one): give plain names joined by single slashes",
                        MUX_SHOW(text, len));
}

int mux_fail(struct af_error *err, int rc, const char *what)
{
    switch (-rc) {
    case ENOSPC:
    case EDQUOT:
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%s: the disk of the state directory is full; free space there, or "
                            "destroy sandboxes and codebases that are no longer needed",
                            what);
    case EUCLEAN:
        return af_error_set(err, AF_DATA_LOSS,
                            "%s: a record of the store is damaged; run agentfense-fsctl fsck",
                            what);
    case ENOMEM:
    case E2BIG:
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "%s: too large for the memory one call may "
                            "use; ask for a part of it (a directory below)",
                            what);
    default:
        return af_error_errno(err, rc, "%s", what);
    }
}

int mux_fail_codebase(struct af_error *err, int rc, const char *id)
{
    if (rc == -ENOENT)
        return af_error_set(err, AF_NOT_FOUND,
                            "there is no codebase %s: it was deleted or never made here", id);
    return mux_fail(err, rc, "reading the codebase");
}

int mux_fail_sandbox(struct af_error *err, int rc, const char *id)
{
    if (rc == -ENOENT)
        return af_error_set(err, AF_NOT_FOUND,
                            "there is no sandbox %s: it was destroyed or never made here", id);
    return mux_fail(err, rc, "reading the sandbox");
}

int mux_fail_path(struct af_error *err, int rc, const struct mux_path *path)
{
    if (rc == -ENOENT)
        return af_error_set(err, AF_NOT_FOUND, "there is no '%.*s'",
                            MUX_SHOW(path->text, path->len));
    if (rc == -ENOTDIR)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a parent of '%.*s' is no directory (symbolic links are not followed)",
                            MUX_SHOW(path->text, path->len));
    return mux_fail(err, rc, "resolving the path");
}
