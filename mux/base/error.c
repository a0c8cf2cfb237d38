// The error object: formatting, and which gRPC status an errno stands for.
//
// Owns nothing, takes no locks, cannot fail. Read next: error.h.
#include "mux/base/error.h"

#include "mux/base/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int af_error_vset(struct af_error *err, enum af_status status, const char *fmt, va_list ap)
{
    err->status = status;
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    af_text_make_printable(err->text);
    return -1;
}

int af_error_set(struct af_error *err, enum af_status status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    af_error_vset(err, status, fmt, ap);
    va_end(ap);
    return -1;
}

int af_error_errno(struct af_error *err, int errnum, const char *fmt, ...)
{
    if (errnum < 0)
        errnum = -errnum;
    va_list ap;
    va_start(ap, fmt);
    af_error_vset(err, af_status_of_errno(errnum), fmt, ap);
    va_end(ap);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(errnum));
    return -1;
}

enum af_status af_status_of_errno(int errnum)
{
    switch (errnum < 0 ? -errnum : errnum) {
    case 0:
        return AF_OK;
    case ENOENT:
    case ESRCH:
        return AF_NOT_FOUND;
    case EEXIST:
        return AF_ALREADY_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return AF_PERMISSION_DENIED;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case EILSEQ:
    case ENXIO: // opening a FIFO or a socket for writing
        return AF_INVALID_ARGUMENT;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case E2BIG:
    case EFBIG:
    case EMLINK:
        return AF_RESOURCE_EXHAUSTED;
    case EBUSY:
    case ENOTEMPTY:
    case ETXTBSY:
        return AF_FAILED_PRECONDITION;
    case ESTALE: // it was replaced or removed meanwhile
        return AF_ABORTED;
    case ETIMEDOUT:
        return AF_DEADLINE_EXCEEDED;
    case ECANCELED:
        return AF_CANCELLED;
    case EAGAIN:
    case ENOTCONN:
    case ECONNREFUSED:
        return AF_UNAVAILABLE;
    case ENOSYS:
    case EOPNOTSUPP:
        return AF_UNIMPLEMENTED;
    default:
        return AF_INTERNAL;
    }
}

const char *af_status_name(enum af_status status)
{
    static const char *const names[] = {
        [AF_OK] = "OK",
        [AF_CANCELLED] = "CANCELLED",
        [AF_UNKNOWN] = "UNKNOWN",
        [AF_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
        [AF_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
        [AF_NOT_FOUND] = "NOT_FOUND",
        [AF_ALREADY_EXISTS] = "ALREADY_EXISTS",
        [AF_PERMISSION_DENIED] = "PERMISSION_DENIED",
        [AF_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
        [AF_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
        [AF_ABORTED] = "ABORTED",
        [AF_OUT_OF_RANGE] = "OUT_OF_RANGE",
        [AF_UNIMPLEMENTED] = "UNIMPLEMENTED",
        [AF_INTERNAL] = "INTERNAL",
        [AF_UNAVAILABLE] = "UNAVAILABLE",
        [AF_DATA_LOSS] = "DATA_LOSS",
        [AF_UNAUTHENTICATED] = "UNAUTHENTICATED",
    };
    size_t count = sizeof names / sizeof names[0];
    return (size_t)status < count && names[status] ? names[status] : "UNKNOWN";
}
