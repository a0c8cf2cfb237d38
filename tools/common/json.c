// The streaming JSON writer: see json.h. Owns nothing; failures stay in the stream.
#include "tools/common/json.h"

#include "tools/common/memory.h"
#include "tools/common/when.h"
#include "mux/base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void json_init(struct json *json, FILE *file)
{
    memset(json, 0, sizeof *json);
    json->file = file;
}

// The characters of a string, the bytes being UTF-8 without NUL.
static void put_string(struct json *json, const char *text, size_t len)
{
    fputc('"', json->file);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            fprintf(json->file, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            fprintf(json->file, "\\u%04x", c);
        else
            fputc(c, json->file);
    }
    fputc('"', json->file);
}

// Any bytes as a string.
static void put_bytes(struct json *json, const void *bytes, size_t len)
{
    if (len == 0 || af_text_is_utf8(bytes, len)) {
        put_string(json, bytes, len);
        return;
    }
    char *text = tool_alloc(3 * len + 1);
    size_t text_len = af_text_replace_invalid_utf8(bytes, len, text);
    put_string(json, text, text_len);
    free(text);
}

// What comes before a value: the comma, the line, the key.
static void before(struct json *json, const void *key, size_t key_len)
{
    if (json->depth == 0)
        return;
    unsigned at = json->depth - 1;
    assert(json->is_array[at] == (key == NULL));
    fputs(json->has_members[at] ? "," : "", json->file);
    if (!json->one_line && (json->depth == 1 || !json->is_array[at]))
        fprintf(json->file, "\n%*s", (int)(2 * json->depth), "");
    else
        fputs(json->has_members[at] ? " " : "", json->file);
    json->has_members[at] = true;
    if (key) {
        put_bytes(json, key, key_len);
        fputs(": ", json->file);
    }
}

static void before_text(struct json *json, const char *key)
{
    before(json, key, key ? strlen(key) : 0);
}

static void begin(struct json *json, const char *key, bool is_array)
{
    before_text(json, key);
    assert(json->depth < JSON_DEPTH_MAX);
    json->is_array[json->depth] = is_array;
    json->has_members[json->depth++] = false;
    fputc(is_array ? '[' : '{', json->file);
}

void json_begin_object(struct json *json, const char *key)
{
    begin(json, key, false);
}

void json_begin_array(struct json *json, const char *key)
{
    begin(json, key, true);
}

void json_end(struct json *json)
{
    assert(json->depth > 0);
    json->depth--;
    bool is_array = json->is_array[json->depth];
    if (json->has_members[json->depth] && (!is_array || json->depth == 0) && !json->one_line)
        fprintf(json->file, "\n%*s", (int)(2 * json->depth), "");
    fputc(is_array ? ']' : '}', json->file);
}

void json_finish(struct json *json)
{
    assert(json->depth == 0);
    fputc('\n', json->file);
}

void json_text(struct json *json, const char *key, const char *text)
{
    before_text(json, key);
    put_bytes(json, text, strlen(text));
}

void json_bytes(struct json *json, const char *key, const void *bytes, size_t len)
{
    before_text(json, key);
    put_bytes(json, bytes, len);
    if (!key || len == 0 || af_text_is_utf8(bytes, len))
        return;
    if (json->one_line)
        fprintf(json->file, ", \"%s_hex\": \"", key);
    else
        fprintf(json->file, ",\n%*s\"%s_hex\": \"", (int)(2 * json->depth), "", key);
    for (size_t i = 0; i < len; i++)
        fprintf(json->file, "%02x", ((const unsigned char *)bytes)[i]);
    fputc('"', json->file);
}

void json_int(struct json *json, const char *key, int64_t value)
{
    before_text(json, key);
    fprintf(json->file, "%" PRId64, value);
}

void json_uint(struct json *json, const char *key, uint64_t value)
{
    before_text(json, key);
    fprintf(json->file, "%" PRIu64, value);
}

void json_bytes_named(struct json *json, const void *key, size_t key_len, const void *bytes,
                      size_t len)
{
    before(json, key ? key : "", key_len);
    put_bytes(json, bytes, len);
}

void json_number(struct json *json, const char *key, double value)
{
    before_text(json, key);
    if (isfinite(value))
        fprintf(json->file, "%.15g", value);
    else
        fputs("null", json->file);
}

void json_bool(struct json *json, const char *key, bool value)
{
    before_text(json, key);
    fputs(value ? "true" : "false", json->file);
}

void json_time(struct json *json, const char *key, int64_t seconds, int32_t nanos)
{
    char text[TOOL_WHEN_MAX];
    tool_when_utc(seconds, nanos, text);
    json_text(json, key, text);
}
