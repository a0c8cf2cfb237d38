// Bearer tokens: how a caller from beyond this machine shows that it may call.
//
// A file of tokens, one a line, empty lines and lines that begin with '#' left out. Kept and
// compared as SHA-256 digests, in constant time. Read as a whole. Locks: none (constant after
// loading). Read next: token.c, call_in.c.
#ifndef AF_API_NET_TOKEN_H
#define AF_API_NET_TOKEN_H

#include "mux/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_TOKEN_MIN    16 // bytes of a token; shorter ones can be guessed
#define NET_TOKEN_MAX    512
#define NET_TOKENS_MAX   256
#define NET_TOKEN_DIGEST 32

struct net_tokens;

// FAILED_PRECONDITION, with the file and line: it is readable by others than its owner, has no
// token, or one that is too short, too long or not printable ASCII.
int net_tokens_load(const char *path, struct net_tokens **ret, struct af_error *err);
void net_tokens_free(struct net_tokens *tokens); // NULL is allowed

// The digest of the token in an `authorization` header's value ("Bearer TOKEN", RFC 6750, section
// 2.1). False when the value is of another form.
bool net_token_digest(const uint8_t *value, size_t len, uint8_t ret[NET_TOKEN_DIGEST]);

bool net_tokens_have(const struct net_tokens *tokens, const uint8_t digest[NET_TOKEN_DIGEST]);

#endif
