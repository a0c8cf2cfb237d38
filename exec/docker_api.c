// See docker_api.h. Bounded replies; libcurl's handle lives for one request.
#include "exec/docker_api.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define REPLY_BYTES_MAX (8u << 20)
#define STREAM_KEPT     (64u << 10) // last bytes of a stream
#define CONNECT_MS      5000
#define UNWANTED_NS     (5 * AF_NS_PER_SEC)
#define SILENCE_S       300     // of a pull, which tells how far it is all the time
#define API_VERSION     "v1.41" // 20.10, the oldest that Debian has

struct bytes {
    char *data;
    size_t len, capacity;
    bool streams; // the end is enough
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t on_bytes(char *data, size_t size, size_t count, void *arg)
{
    struct bytes *bytes = arg;
    size_t n = size * count;
    if (bytes->len + n > REPLY_BYTES_MAX) // never a stream
        return 0;
    if (bytes->len + n + 1 > bytes->capacity) {
        size_t capacity = (bytes->len + n + 1) * 2;
        char *grown = realloc(bytes->data, capacity);
        if (!grown)
            return 0;
        bytes->data = grown;
        bytes->capacity = capacity;
    }
    memcpy(bytes->data + bytes->len, data, n);
    bytes->len += n;
    if (bytes->streams && bytes->len > 2 * STREAM_KEPT) {
        memmove(bytes->data, bytes->data + bytes->len - STREAM_KEPT, STREAM_KEPT);
        bytes->len = STREAM_KEPT;
    }
    bytes->data[bytes->len] = '\0';
    return n;
}

struct patience {
    const struct docker_request *request;
    int64_t since_ns; // when the answer was seen to be unwanted; 0: not yet
};

// Called about once a second while nothing comes.
static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    (void)down_total, (void)down, (void)up_total, (void)up;
    struct patience *patience = arg;
    const struct docker_request *request = patience->request;
    if (request->waits)
        request->waits(request->arg);
    if (!patience->since_ns && request->unwanted && atomic_load(request->unwanted))
        patience->since_ns = af_monotonic_ns();
    return patience->since_ns && af_monotonic_ns() > patience->since_ns + UNWANTED_NS;
}

static void set_patience(CURL *curl, struct patience *patience)
{
    if (!patience->request->unwanted && !patience->request->waits)
        return;
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, patience);
}

static void set_options(CURL *curl, const char *socket_path, const char *method, const char *url,
                        const char *text, long timeout_ms, struct bytes *bytes)
{
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, timeout_ms ? 0L : 1L); // bytes a second
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, timeout_ms ? 0L : (long)SILENCE_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, bytes);
    if (text || strcmp(method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text ? text : "");
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)(text ? strlen(text) : 0));
    }
}

static int fail(CURLcode code, const char *socket_path, struct af_error *err)
{
    if (code == CURLE_OPERATION_TIMEDOUT)
        return af_error_set(err, AF_DEADLINE_EXCEEDED,
                            "the Docker daemon at %s did not answer in time", socket_path);
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return af_error_set(err, AF_CANCELLED,
                            "the Docker daemon at %s did not answer before the sandbox was to end",
                            socket_path);
    if (code == CURLE_WRITE_ERROR)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "the answer of the Docker daemon at %s is longer than %u bytes, or "
                            "there is no memory for it",
                            socket_path, REPLY_BYTES_MAX);
    return af_error_set(err, AF_UNAVAILABLE,
                        "the Docker daemon at %s does not answer (%s): is dockerd running?",
                        socket_path, curl_easy_strerror(code));
}

// What a stream ends with; of another answer, all of it.
static const char *last_value(const struct bytes *bytes, size_t *ret_len)
{
    size_t end = bytes->len;
    while (bytes->streams && end > 0 && strchr("\r\n", bytes->data[end - 1]))
        end--;
    const char *before = bytes->streams && end > 0 ? memrchr(bytes->data, '\n', end) : NULL;
    const char *value = before ? before + 1 : bytes->data;
    *ret_len = end - (size_t)(value - bytes->data);
    return value;
}

static void read_reply(const struct bytes *bytes, struct docker_reply *reply)
{
    size_t len;
    const char *value = last_value(bytes, &len);
    reply->body = len ? json_loadb(value, len, 0, NULL) : NULL;
    const char *message = json_string_value(json_object_get(reply->body, "message"));
    const char *error = json_string_value(json_object_get(reply->body, "error"));
    if (reply->status >= 400)
        snprintf(reply->text, sizeof(reply->text), "%s", message ? message : "it gave no reason");
    else if (bytes->streams && error)
        snprintf(reply->text, sizeof(reply->text), "%s", error);
}

int docker_request(const char *socket_path, const char *path, const struct docker_request *request,
                   struct docker_reply *reply, struct af_error *err)
{
    pthread_once(&once, init_curl);
    *reply = (struct docker_reply){0};
    AF_CLEANUP_FREE char *text = request->body ? json_dumps(request->body, JSON_COMPACT) : NULL;
    AF_CLEANUP_FREE char *url = NULL;
    if (asprintf(&url, "http://docker/" API_VERSION "%s", path) < 0)
        url = NULL;
    CURL *curl = curl_easy_init();
    if (!curl || !url || (request->body && !text)) {
        curl_easy_cleanup(curl);
        reply->unsent = true;
        return af_error_errno(err, ENOMEM, "cannot ask the Docker daemon");
    }
    struct bytes bytes = {.streams = request->streams};
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    set_options(curl, socket_path, request->method, url, text, request->timeout_ms, &bytes);
    struct patience patience = {.request = request};
    set_patience(curl, &patience);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply->status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    reply->unsent = code == CURLE_COULDNT_CONNECT;
    if (code == CURLE_OK)
        read_reply(&bytes, reply);
    free(bytes.data);
    return code == CURLE_OK ? 0 : fail(code, socket_path, err);
}

void docker_reply_fini(struct docker_reply *reply)
{
    json_decref(reply->body);
    reply->body = NULL;
}

char *docker_encode(const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~";
    char *encoded = malloc(3 * strlen(text) + 1), *at = encoded;
    for (; encoded && *text; text++)
        if (strchr(plain, *text))
            *at++ = *text;
        else
            at += sprintf(at, "%%%02X", (unsigned char)*text);
    if (encoded)
        *at = '\0';
    return encoded;
}
