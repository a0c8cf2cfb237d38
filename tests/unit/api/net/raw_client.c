// The misbehaving client. Read next: raw_client.h.
#include "tests/unit/api/net/raw_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define FRAME_HEAD 9

struct raw_client *raw_connect(const char *path)
{
    struct raw_client *raw = calloc(1, sizeof *raw);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 20};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    raw->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(raw->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(raw->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(raw->fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        nghttp2_hd_inflate_new(&raw->inflater) != 0)
        abort();
    raw->goaway = raw->grpc_status = raw->http_status = raw->reset = RAW_NONE;
    return raw;
}

struct raw_client *raw_open(const char *path)
{
    struct raw_client *raw = raw_connect(path);
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    raw_send(raw, preface, sizeof preface - 1);
    raw_frame(raw, SETTINGS, 0, 0, NULL, 0);
    raw_frame(raw, SETTINGS, ACK, 0, NULL, 0);
    return raw;
}

void raw_close(struct raw_client *raw)
{
    nghttp2_hd_inflate_del(raw->inflater);
    close(raw->fd);
    free(raw);
}

bool raw_send(struct raw_client *raw, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    while (len > 0) {
        ssize_t n = send(raw->fd, p, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static void put_bytes(struct raw_bytes *out, const void *bytes, size_t len)
{
    if (out->len + len > sizeof out->bytes)
        abort();
    if (len > 0)
        memcpy(out->bytes + out->len, bytes, len);
    out->len += len;
}

void raw_add_frame(struct raw_bytes *out, int type, int flags, int32_t stream, const void *payload,
                   size_t len)
{
    uint8_t head[FRAME_HEAD] = {
        (uint8_t)(len >> 16),    (uint8_t)(len >> 8),    (uint8_t)len,
        (uint8_t)type,           (uint8_t)flags,         (uint8_t)(stream >> 24),
        (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
    put_bytes(out, head, sizeof head);
    put_bytes(out, payload, len);
}

bool raw_frame(struct raw_client *raw, int type, int flags, int32_t stream, const void *payload,
               size_t len)
{
    static _Thread_local struct raw_bytes frame;
    frame.len = 0;
    raw_add_frame(&frame, type, flags, stream, payload, len);
    return raw_send(raw, frame.bytes, frame.len);
}

// A literal of less than 127 + 128 * 127 bytes, without Huffman coding.
static void add_literal(struct raw_bytes *out, const char *text)
{
    size_t len = strlen(text);
    uint8_t head[3] = {(uint8_t)len};
    size_t count = 1;
    if (len >= 127) {
        head[0] = 127;
        len -= 127;
        head[1] = (uint8_t)(len % 128);
        count = 2;
        if (len >= 128) {
            head[1] |= 128;
            head[2] = (uint8_t)(len / 128);
            count = 3;
        }
    }
    put_bytes(out, head, count);
    put_bytes(out, text, strlen(text));
}

void raw_add_header(struct raw_bytes *out, const char *name, const char *value)
{
    put_bytes(out, "\0", 1); // literal without indexing
    add_literal(out, name);
    add_literal(out, value);
}

void raw_add_request(struct raw_bytes *out, const char *method, const char *path,
                     const char *content_type)
{
    raw_add_header(out, ":method", method);
    raw_add_header(out, ":scheme", "http");
    raw_add_header(out, ":path", path);
    raw_add_header(out, ":authority", "/run/agentfense/a.sock");
    raw_add_header(out, "te", "trailers");
    if (content_type)
        raw_add_header(out, "content-type", content_type);
}

bool raw_call(struct raw_client *raw, int32_t stream, const char *path, int flags)
{
    static _Thread_local struct raw_bytes block;
    block.len = 0;
    raw_add_request(&block, "POST", path, "application/grpc");
    return raw_frame(raw, HEADERS, flags | END_HEADERS, stream, block.bytes, block.len);
}

// ---- reading ----------------------------------------------------------------------------

static uint32_t number(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void take_headers(struct raw_client *raw, bool wanted, uint8_t *block, size_t len)
{
    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd(raw->inflater, &nv, &flags, block, len, 1);
        if (n < 0)
            abort();
        block += n;
        len -= (size_t)n;
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) && nv.namelen == 11 &&
            memcmp(nv.name, "grpc-status", 11) == 0)
            raw->statuses[atoi((const char *)nv.value) % 17]++;
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) && wanted) {
            if (nv.namelen == 7 && memcmp(nv.name, ":status", 7) == 0)
                raw->http_status = atoi((const char *)nv.value);
            if (nv.namelen == 11 && memcmp(nv.name, "grpc-status", 11) == 0)
                raw->grpc_status = atoi((const char *)nv.value);
        }
        if (flags & NGHTTP2_HD_INFLATE_FINAL) {
            nghttp2_hd_inflate_end_headers(raw->inflater);
            return;
        }
    }
}

static void take_frame(struct raw_client *raw, uint8_t *frame, size_t len)
{
    int32_t stream = (int32_t)number(frame + 5);
    uint8_t *payload = frame + FRAME_HEAD;
    bool wanted = stream == raw->stream;
    if (frame[3] == HEADERS)
        take_headers(raw, wanted, payload, len);
    if (frame[3] == RST && wanted)
        raw->reset = (int)number(payload);
    if (frame[3] == GOAWAY)
        raw->goaway = (int)number(payload + 4);
}

// Takes what the buffer holds, then reads once more.
static void read_more(struct raw_client *raw)
{
    ssize_t n = recv(raw->fd, raw->buffer + raw->len, sizeof raw->buffer - raw->len, 0);
    if (n <= 0) {
        raw->closed = n == 0 || errno != EAGAIN;
        if (!raw->closed) {
            fprintf(stderr, "raw client: nothing came for 20 s\n");
            abort();
        }
        return;
    }
    raw->len += (size_t)n;
    size_t at = 0;
    while (raw->len - at >= FRAME_HEAD) {
        uint8_t *p = raw->buffer + at;
        size_t len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
        if (raw->len - at < FRAME_HEAD + len)
            break;
        take_frame(raw, p, len);
        at += FRAME_HEAD + len;
    }
    memmove(raw->buffer, raw->buffer + at, raw->len - at);
    raw->len -= at;
}

void raw_read(struct raw_client *raw, int32_t stream)
{
    raw->stream = stream;
    raw->grpc_status = raw->http_status = raw->reset = RAW_NONE;
    while (!raw->closed && raw->grpc_status == RAW_NONE && raw->reset == RAW_NONE &&
           (raw->http_status == RAW_NONE || raw->http_status == 200))
        read_more(raw);
}

void raw_read_status(struct raw_client *raw, int status)
{
    while (!raw->closed && raw->statuses[status] == 0)
        read_more(raw);
}

bool raw_read_to_end(struct raw_client *raw)
{
    while (!raw->closed)
        read_more(raw);
    return raw->closed;
}
