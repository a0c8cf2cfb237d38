// JSON written as it comes, valid whatever the bytes.
//
//   struct json json;
//   json_init(&json, stdout);
//   json_begin_array(&json, NULL);
//   json_begin_object(&json, NULL);
//   json_bytes(&json, "path", name, name_len);
//   json_end(&json);
//   json_end(&json);
//   json_finish(&json);
//
// A JSON string is Unicode, a file name is bytes. json_bytes writes `"path": "..."` with every
// ill-formed byte as U+FFFD, and where that lost something also `"path_hex": "..."`, all the
// bytes in hexadecimal. Readers that must be exact look for the _hex member first.
// Keys are constants of the program. Not a library in use elsewhere, because trees of a million
// entries must not be built in memory first. No locks. Failure: the stream's (ferror).
#ifndef AF_TOOLS_COMMON_JSON_H
#define AF_TOOLS_COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH_MAX 16

struct json {
    FILE *file;
    bool one_line; // set after json_init: no newline but the last; for streams of values
    unsigned depth;
    bool is_array[JSON_DEPTH_MAX];
    bool has_members[JSON_DEPTH_MAX];
};

void json_init(struct json *json, FILE *file);

// `key` is NULL inside an array and at the top.
void json_begin_object(struct json *json, const char *key);
void json_begin_array(struct json *json, const char *key);
void json_end(struct json *json);
// A newline after the value; every object and array must have been ended.
void json_finish(struct json *json);

void json_text(struct json *json, const char *key, const char *text);
void json_bytes(struct json *json, const char *key, const void *bytes, size_t len);
void json_int(struct json *json, const char *key, int64_t value);
void json_uint(struct json *json, const char *key, uint64_t value);
// null when it is no finite number.
void json_number(struct json *json, const char *key, double value);
void json_bool(struct json *json, const char *key, bool value);
// A key that is not a constant: a label's name. The bytes get no _hex member.
void json_bytes_named(struct json *json, const void *key, size_t key_len, const void *bytes,
                      size_t len);
// Seconds and nanoseconds since 1970 as "2026-01-31T12:00:00.000000000Z".
void json_time(struct json *json, const char *key, int64_t seconds, int32_t nanos);

#endif
