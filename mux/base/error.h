// An error object for api and exec: a gRPC status and a sentence that says what to do.
//
// fs and mux return -errno; api and exec, whose callers are people, fill an af_error.
// A function that takes `struct af_error *err` returns 0 or a negative value and sets
// *err on failure only; err may not be NULL. An error is logged once, by the caller who
// gives up, never by the one who passes it on.
// Thread: an af_error belongs to one thread. Read next: error.c for the errno mapping.
#ifndef AF_BASE_ERROR_H
#define AF_BASE_ERROR_H

#include <stdarg.h>

// Values are those of the gRPC protocol (grpc status codes), so that they go on the wire
// as they are.
enum af_status {
    AF_OK = 0,
    AF_CANCELLED = 1,
    AF_UNKNOWN = 2,
    AF_INVALID_ARGUMENT = 3,
    AF_DEADLINE_EXCEEDED = 4,
    AF_NOT_FOUND = 5,
    AF_ALREADY_EXISTS = 6,
    AF_PERMISSION_DENIED = 7,
    AF_RESOURCE_EXHAUSTED = 8,
    AF_FAILED_PRECONDITION = 9,
    AF_ABORTED = 10,
    AF_OUT_OF_RANGE = 11,
    AF_UNIMPLEMENTED = 12,
    AF_INTERNAL = 13,
    AF_UNAVAILABLE = 14,
    AF_DATA_LOSS = 15,
    AF_UNAUTHENTICATED = 16,
};

#define AF_ERROR_TEXT_MAX 512

struct af_error {
    enum af_status status;
    char text[AF_ERROR_TEXT_MAX]; // valid UTF-8, no control characters, NUL-terminated
};

// Sets *err. Bytes of the formatted text that are not printable UTF-8 become '?', so that
// a hostile name can be quoted in a message. Always returns -1, for `return af_error_set()`.
int af_error_set(struct af_error *err, enum af_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int af_error_vset(struct af_error *err, enum af_status status, const char *fmt, va_list ap);

// Sets *err from an errno value (positive or negative) with the given context before it.
// Returns -1.
int af_error_errno(struct af_error *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// The status that an errno value (positive or negative) stands for.
enum af_status af_status_of_errno(int errnum);

// The upper-case name of a status ("NOT_FOUND").
const char *af_status_name(enum af_status status);

#endif
