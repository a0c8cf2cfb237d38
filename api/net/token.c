// Bearer tokens. Read next: token.h.
#include "api/net/token.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

struct net_tokens {
    size_t count;
    uint8_t digests[NET_TOKENS_MAX][NET_TOKEN_DIGEST];
};

static int refuse(struct af_error *err, const char *path, unsigned line, const char *why)
{
    return af_error_set(err, AF_FAILED_PRECONDITION, "token_file: %s:%u: %s", path, line, why);
}

static int add(struct net_tokens *tokens, const char *path, unsigned line, const char *text,
               size_t len, struct af_error *err)
{
    if (len < NET_TOKEN_MIN)
        return refuse(err, path, line, "a token needs at least 16 characters");
    if (len > NET_TOKEN_MAX)
        return refuse(err, path, line, "a token has at most 512 characters");
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return refuse(err, path, line, "a token is printable ASCII without spaces");
    if (tokens->count == NET_TOKENS_MAX)
        return refuse(err, path, line, "there are more than 256 tokens");
    SHA256((const uint8_t *)text, len, tokens->digests[tokens->count++]);
    return 0;
}

static int parse(FILE *file, const char *path, struct net_tokens *tokens, struct af_error *err)
{
    AF_CLEANUP_FREE char *line = NULL;
    size_t capacity = 0;
    ssize_t len;
    int rc = 0;
    for (unsigned number = 1; rc == 0 && (len = getline(&line, &capacity, file)) >= 0; number++) {
        while (len > 0 && strchr(" \t\r\n", line[len - 1]))
            len--;
        if (len > 0 && line[0] != '#')
            rc = add(tokens, path, number, line, (size_t)len, err);
    }
    if (line)
        OPENSSL_cleanse(line, capacity);
    if (rc == 0 && ferror(file))
        rc = af_error_errno(err, errno, "token_file: cannot read %s", path);
    if (rc == 0 && tokens->count == 0)
        rc = af_error_set(err, AF_FAILED_PRECONDITION, "token_file: %s holds no token", path);
    return rc;
}

static int open_private(const char *path, FILE **ret, struct af_error *err)
{
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return af_error_errno(err, errno, "token_file: cannot use %s", path);
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "token_file: %s must be a file that its owner alone can read: chmod "
                            "600 it",
                            path);
    *ret = fdopen(fd, "r");
    if (!*ret)
        return af_error_errno(err, errno, "token_file: cannot use %s", path);
    af_take_fd(&fd);
    return 0;
}

int net_tokens_load(const char *path, struct net_tokens **ret, struct af_error *err)
{
    FILE *file;
    if (open_private(path, &file, err) < 0)
        return -1;
    struct net_tokens *tokens = calloc(1, sizeof *tokens);
    int rc = tokens ? parse(file, path, tokens, err)
                    : af_error_errno(err, ENOMEM, "token_file: cannot read %s", path);
    fclose(file);
    if (rc < 0) {
        net_tokens_free(tokens);
        return -1;
    }
    *ret = tokens;
    return 0;
}

void net_tokens_free(struct net_tokens *tokens)
{
    free(tokens);
}

bool net_token_digest(const uint8_t *value, size_t len, uint8_t ret[NET_TOKEN_DIGEST])
{
    static const char scheme[] = "Bearer ";
    const size_t prefix = sizeof scheme - 1;
    if (len <= prefix || strncasecmp((const char *)value, scheme, prefix) != 0)
        return false;
    SHA256(value + prefix, len - prefix, ret);
    return true;
}

bool net_tokens_have(const struct net_tokens *tokens, const uint8_t digest[NET_TOKEN_DIGEST])
{
    bool found = false;
    for (size_t i = 0; i < tokens->count; i++) // all of them: the time says nothing
        found |= CRYPTO_memcmp(tokens->digests[i], digest, NET_TOKEN_DIGEST) == 0;
    return found;
}
