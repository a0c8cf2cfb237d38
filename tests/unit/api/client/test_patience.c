// Calls without a deadline: they last as long as the server is alive, however long that takes, and
// end when it is silent. The server here is a thread that speaks frames by hand.
#include "api/client/client_priv.h"
#include "proto/sandbox.pb-c.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT          "/sandbox.v1.SandboxService/GetSandbox"
#define PREFACE_BYTES 24

enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, ACK = 1, END_STREAM = 1, END_HEADERS = 4 };

struct server {
    int fd;
    pthread_t thread;
    unsigned pings_to_reply; // it answers so many PINGs, then the call; 0: nothing at all
    unsigned pings;
};

static void send_frame(int fd, int type, int flags, int stream, const void *payload, size_t len)
{
    uint8_t frame[64] = {0, (uint8_t)(len >> 8), (uint8_t)len, (uint8_t)type, (uint8_t)flags};
    frame[8] = (uint8_t)stream;
    memcpy(frame + 9, payload, len);
    ssize_t sent = send(fd, frame, 9 + len, MSG_NOSIGNAL); // the client may have gone
    (void)sent;
}

static void send_reply(int fd)
{
    static const uint8_t status_200[] = {0x88};
    static const uint8_t empty_message[5] = {0};
    static const char trailers[] = "\x00\x0bgrpc-status\x01"
                                   "0";
    send_frame(fd, HEADERS, END_HEADERS, 1, status_200, sizeof status_200);
    send_frame(fd, DATA, 0, 1, empty_message, sizeof empty_message);
    send_frame(fd, HEADERS, END_HEADERS | END_STREAM, 1, trailers, sizeof trailers - 1);
}

static bool receive(int fd, void *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = recv(fd, (char *)buf + have, len - have, 0);
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

static void *serve(void *arg)
{
    struct server *server = arg;
    uint8_t head[9], payload[16384];
    receive(server->fd, payload, PREFACE_BYTES);
    send_frame(server->fd, SETTINGS, 0, 0, "", 0);
    while (receive(server->fd, head, sizeof head)) {
        size_t len = (size_t)head[1] << 8 | head[2];
        if (!receive(server->fd, payload, len))
            break;
        if (head[3] == SETTINGS && !(head[4] & ACK))
            send_frame(server->fd, SETTINGS, ACK, 0, "", 0);
        if (head[3] != PING || server->pings_to_reply == 0)
            continue;
        send_frame(server->fd, PING, ACK, 0, payload, len);
        if (++server->pings == server->pings_to_reply)
            send_reply(server->fd);
    }
    return NULL;
}

static struct af_client *connect_to(struct server *server, unsigned pings_to_reply)
{
    struct af_client *client;
    struct af_error err;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    *server = (struct server){.fd = fds[0], .pings_to_reply = pings_to_reply};
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
    if (af_client_adopt(fds[1], 0, &client, &err) < 0)
        fail_msg("%s", err.text);
    return client;
}

static void end(struct server *server, struct af_client *client)
{
    af_client_free(client);
    pthread_join(server->thread, NULL);
    close(server->fd);
}

static int call(struct af_client *client, int64_t timeout_ns, struct af_error *err)
{
    Sandbox__V1__GetSandboxRequest request = SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    ProtobufCMessage *reply;
    int rc = af_client_unary(client, WAIT, &request.base, &sandbox__v1__sandbox__descriptor,
                             timeout_ns, &reply, err);
    if (rc == 0)
        protobuf_c_message_free_unpacked(reply, NULL);
    return rc;
}

static void a_call_lasts_while_the_server_answers_pings(void **state)
{
    (void)state;
    struct server server;
    struct af_error err;
    struct af_client *client = connect_to(&server, 5);
    client->quiet_ns = 1000000;
    if (call(client, 0, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(server.pings, 5);
    end(&server, client);
}

static void a_server_that_is_silent_is_unavailable(void **state)
{
    (void)state;
    struct server server;
    struct af_error err;
    struct af_client *client = connect_to(&server, 0);
    client->quiet_ns = client->answer_ns = 1000000;
    assert_int_equal(call(client, 0, &err), -1);
    assert_int_equal(err.status, AF_UNAVAILABLE);
    assert_non_null(strstr(err.text, "does not answer"));
    assert_int_equal(call(client, 0, &err), -1); // and stays so
    assert_int_equal(err.status, AF_UNAVAILABLE);
    end(&server, client);
}

static void a_deadline_of_the_caller_s_still_ends_a_call(void **state)
{
    (void)state;
    struct server server;
    struct af_error err;
    struct af_client *client = connect_to(&server, 0);
    assert_int_equal(call(client, 1000000, &err), -1);
    assert_int_equal(err.status, AF_DEADLINE_EXCEEDED);
    end(&server, client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_lasts_while_the_server_answers_pings),
        cmocka_unit_test(a_server_that_is_silent_is_unavailable),
        cmocka_unit_test(a_deadline_of_the_caller_s_still_ends_a_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
