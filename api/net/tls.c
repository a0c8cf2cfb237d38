// TLS on TCP connections. Read next: tls.h.
//
// At least TLS 1.2, no renegotiation, no compression, session tickets as OpenSSL has them. A client
// that offers ALPN without h2 is refused in the handshake (RFC 9113, section 3.3).
#include "api/net/tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/stat.h>

struct net_tls_context {
    SSL_CTX *ctx;
};

struct net_tls {
    SSL *ssl;
    bool recv_wants_write, send_wants_write, send_wants_read;
    bool broken; // after a fatal error OpenSSL must not be called again
};

static const char *reason(void)
{
    unsigned long code = ERR_get_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return text ? text : "unknown reason";
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char h2[] = {2, 'h', '2'};
    (void)ssl;
    (void)arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_len, h2, sizeof h2, in, in_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int check_key_file(const char *key, struct af_error *err)
{
    struct stat st;
    if (stat(key, &st) != 0)
        return af_error_errno(err, errno, "tls_key: cannot use %s", key);
    if (st.st_mode & 077)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "tls_key: %s can be read by others than its owner: chmod 600 it", key);
    return 0;
}

static int load(SSL_CTX *ctx, const char *certificate, const char *key, struct af_error *err)
{
    if (check_key_file(key, err) < 0)
        return -1;
    if (SSL_CTX_use_certificate_chain_file(ctx, certificate) != 1)
        return af_error_set(err, AF_FAILED_PRECONDITION, "tls_cert: cannot use %s: %s", certificate,
                            reason());
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return af_error_set(err, AF_FAILED_PRECONDITION, "tls_key: cannot use %s: %s", key,
                            reason());
    if (SSL_CTX_check_private_key(ctx) != 1)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "tls_key: %s does not belong to the certificate %s", key, certificate);
    return 0;
}

int net_tls_context_new(const char *certificate, const char *key, struct net_tls_context **ret,
                        struct af_error *err)
{
    struct net_tls_context *context = calloc(1, sizeof *context);
    if (!context || !(context->ctx = SSL_CTX_new(TLS_server_method()))) {
        free(context);
        return af_error_errno(err, ENOMEM, "cannot prepare TLS");
    }
    SSL_CTX *ctx = context->ctx;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    // A send that took a part may go on from elsewhere: the output buffer moves.
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    if (load(ctx, certificate, key, err) < 0) {
        net_tls_context_free(context);
        return -1;
    }
    *ret = context;
    return 0;
}

void net_tls_context_free(struct net_tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->ctx);
    free(context);
}

struct net_tls *net_tls_new(struct net_tls_context *context, int fd)
{
    struct net_tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        return NULL;
    tls->ssl = SSL_new(context->ctx);
    if (!tls->ssl || SSL_set_fd(tls->ssl, fd) != 1) {
        tls->broken = true;
        net_tls_free(tls);
        ERR_clear_error();
        return NULL;
    }
    SSL_set_accept_state(tls->ssl);
    return tls;
}

void net_tls_free(struct net_tls *tls)
{
    if (!tls)
        return;
    if (!tls->broken && SSL_is_init_finished(tls->ssl))
        SSL_shutdown(tls->ssl);
    ERR_clear_error();
    SSL_free(tls->ssl);
    free(tls);
}

// Translates OpenSSL's verdict on a failed call. The error queue is the thread's: it was cleared
// before the call, and is cleared again.
static ssize_t failed(struct net_tls *tls, int rc, bool *wants_read, bool *wants_write)
{
    int error = SSL_get_error(tls->ssl, rc);
    int system_errno = errno;
    ERR_clear_error();
    switch (error) {
    case SSL_ERROR_WANT_READ:
        *wants_read = true;
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_WANT_WRITE:
        *wants_write = true;
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        tls->broken = true;
        errno = error == SSL_ERROR_SYSCALL && system_errno ? system_errno : EPROTO;
        if (errno == EAGAIN || errno == EINTR)
            errno = EPROTO;
        return -1;
    }
}

ssize_t net_tls_recv(struct net_tls *tls, void *buffer, size_t size)
{
    bool ignored;
    tls->recv_wants_write = false;
    if (tls->broken) {
        errno = EPROTO;
        return -1;
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_read(tls->ssl, buffer, size > INT_MAX ? INT_MAX : (int)size);
    return n > 0 ? n : failed(tls, n, &ignored, &tls->recv_wants_write);
}

ssize_t net_tls_send(struct net_tls *tls, const void *bytes, size_t len)
{
    tls->send_wants_write = tls->send_wants_read = false;
    if (tls->broken) {
        errno = EPROTO;
        return -1;
    }
    ERR_clear_error();
    errno = 0;
    int n = SSL_write(tls->ssl, bytes, len > INT_MAX ? INT_MAX : (int)len);
    if (n > 0)
        return n;
    ssize_t rc = failed(tls, n, &tls->send_wants_read, &tls->send_wants_write);
    if (rc == 0) { // the peer has closed its side of TLS: nothing can be said any more
        errno = EPIPE;
        rc = -1;
    }
    return rc;
}

bool net_tls_wants_write(const struct net_tls *tls)
{
    return tls->recv_wants_write || tls->send_wants_write;
}

bool net_tls_send_wants_read(const struct net_tls *tls)
{
    return tls->send_wants_read;
}
