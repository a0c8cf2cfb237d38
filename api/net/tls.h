// TLS on TCP connections: HTTP/2 by ALPN, on OpenSSL. The network thread's, but for the context.
//
// A connection either has a struct net_tls or none; the two functions that move bytes have recv's
// and send's results. Owns: the SSL objects. Locks: none.
// Failure: a peer that speaks no TLS, or no HTTP/2 in it, is an error of its connection.
// Read next: tls.c, conn.c.
#ifndef AF_API_NET_TLS_H
#define AF_API_NET_TLS_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct net_tls_context; // certificate and key
struct net_tls;         // a connection's

// Reads a certificate chain and its private key, both PEM. FAILED_PRECONDITION names the file that
// is missing, unreadable, readable by others (the key), or does not belong to the other.
int net_tls_context_new(const char *certificate, const char *key, struct net_tls_context **ret,
                        struct af_error *err);
void net_tls_context_free(struct net_tls_context *context); // NULL is allowed

// For an accepted, non-blocking socket, which stays the caller's. NULL: no memory.
struct net_tls *net_tls_new(struct net_tls_context *context, int fd);
void net_tls_free(struct net_tls *tls); // says goodbye if it can at once; NULL is allowed

// As recv and send on a non-blocking socket: -1 with errno EAGAIN when the other side has to do
// something first, EPROTO when it broke the protocol. The handshake happens inside.
ssize_t net_tls_recv(struct net_tls *tls, void *buffer, size_t size);
ssize_t net_tls_send(struct net_tls *tls, const void *bytes, size_t len);

// Whether the last EAGAIN of either function waits for room to write.
bool net_tls_wants_write(const struct net_tls *tls);
// Whether the last EAGAIN of net_tls_send waits for the peer's bytes: watching for room is no use.
bool net_tls_send_wants_read(const struct net_tls *tls);

#endif
