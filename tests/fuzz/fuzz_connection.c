// Fuzzes a whole connection: bytes at a living server, HTTP/2 and gRPC together.
//
// Input: what a client sends after the connection preface and its SETTINGS; bit 0 of the first byte
// says whether the two are sent at all. The server is the tests' own, with small limits. Promise
// checked, besides those of the sanitisers: the connection ends, and the server then serves a
// well-behaved client still (every 256 inputs). Read next: api/net/server.h.
#include "api/client/client.h"
#include "proto/sandbox.pb-c.h"
#include "tests/unit/api/net/echo_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PROBE_EVERY 256

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

static struct echo_server *echo;

static void probe(void)
{
    struct af_client *client;
    struct af_error err;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.command = af_client_text("cat");
    request.stdin = af_client_text("x");
    ProtobufCMessage *reply;
    if (af_client_connect(echo->path, 0, &client, &err) ||
        af_client_unary(client, "/sandbox.v1.SandboxService/Exec", &request.base,
                        &sandbox__v1__exec_result__descriptor, 0, &reply, &err)) {
        fprintf(stderr, "the server serves nobody any more: %s\n", err.text);
        abort();
    }
    protobuf_c_message_free_unpacked(reply, NULL);
    af_client_free(client);
}

static int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(address.sun_path, echo->path, strlen(echo->path) + 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        abort();
    return fd;
}

static void send_all(int fd, const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n <= 0)
            return; // cut by the server, which is its right
        at += n;
        len -= (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;
    if (!echo) {
        const struct net_limits limits = {.message_bytes_max = 65536,
                                          .streams_per_conn = 16,
                                          .conn_buffer_bytes = 1u << 20,
                                          .total_buffer_bytes = 4u << 20};
        echo = echo_server_start(&limits);
    }
    if (size == 0)
        return 0;
    int fd = dial();
    if (data[0] & 1)
        send_all(fd, preface, sizeof preface - 1);
    send_all(fd, data + 1, size - 1);
    shutdown(fd, SHUT_WR);
    char sink[4096];
    while (recv(fd, sink, sizeof sink, 0) > 0)
        continue;
    close(fd);
    if (++runs % PROBE_EVERY == 0)
        probe();
    return 0;
}
