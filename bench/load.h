// What the programs that load the API share: how they end, connect and call.
//
// A header of static functions, for programs of one file each.
#ifndef AF_BENCH_LOAD_H
#define AF_BENCH_LOAD_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/client/client.h"

static const char *endpoint;

// A figure of a load that failed is none: the program ends.
static void die(const char *what, const struct af_error *err)
{
    const char *why = err ? err->text : strerror(errno);
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, why);
    exit(1);
}

static struct af_client *connect_client(void)
{
    struct af_client *client;
    struct af_error err;
    if (af_client_connect(endpoint, 0, &client, &err) < 0)
        die("connect", &err);
    return client;
}

// The reply is the caller's.
static ProtobufCMessage *unary(struct af_client *client, const char *path,
                               const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *reply)
{
    ProtobufCMessage *message;
    struct af_error err;
    if (af_client_unary(client, path, request, reply, 0, &message, &err) < 0)
        die(path, &err);
    return message;
}

#endif
