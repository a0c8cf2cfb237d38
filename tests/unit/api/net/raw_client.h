// An HTTP/2 client that is free to misbehave: frames by hand, headers as literals.
#ifndef AF_TESTS_API_RAW_CLIENT_H
#define AF_TESTS_API_RAW_CLIENT_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RAW_NONE (-1)

struct raw_client {
    int fd;
    nghttp2_hd_inflater *inflater;
    // What raw_read has seen so far.
    bool closed;
    int goaway;                          // error code, or RAW_NONE
    int32_t stream;                      // the stream that the next three are about
    int grpc_status, http_status, reset; // or RAW_NONE
    int statuses[17];                    // how many calls ended with each gRPC status
    uint8_t buffer[1 << 20];
    size_t len;
};

struct raw_bytes {
    uint8_t bytes[200000];
    size_t len;
};

enum { DATA = 0, HEADERS = 1, RST = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW = 8, CONT = 9 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct raw_client *raw_connect(const char *path); // the socket alone
struct raw_client *raw_open(const char *path);    // with preface, SETTINGS and its ACK
void raw_close(struct raw_client *raw);

// False when the server has closed, or does not read for 20 s.
bool raw_send(struct raw_client *raw, const void *bytes, size_t len);
bool raw_frame(struct raw_client *raw, int type, int flags, int32_t stream, const void *payload,
               size_t len);

void raw_add_frame(struct raw_bytes *out, int type, int flags, int32_t stream, const void *payload,
                   size_t len);
void raw_add_header(struct raw_bytes *out, const char *name, const char *value);

// The header block of a call; NULL leaves a field out.
void raw_add_request(struct raw_bytes *out, const char *method, const char *path,
                     const char *content_type);

// Opens a call of this path on a stream with a good header block.
bool raw_call(struct raw_client *raw, int32_t stream, const char *path, int flags);

// Reads until the stream has a status or is reset, or the connection is closed.
void raw_read(struct raw_client *raw, int32_t stream);
// Reads until some call has ended with this gRPC status.
void raw_read_status(struct raw_client *raw, int status);
// Reads until the connection is closed. False when that does not happen in 20 s.
bool raw_read_to_end(struct raw_client *raw);

#endif
