// Ids that clients see. Read next: id.h.
#include "mux/base/id.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz"; // Crockford base 32

void af_id_new(const char *prefix, struct af_id *ret)
{
    uint8_t random[AF_ID_RANDOM_CHARS];
    ssize_t n;
    do {
        n = getrandom(random, sizeof random, 0);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof random)
        abort();
    size_t len = strlen(prefix);
    memset(ret, 0, sizeof *ret);
    memcpy(ret->text, prefix, len);
    ret->text[len++] = '_';
    for (size_t i = 0; i < sizeof random; i++)
        ret->text[len++] = alphabet[random[i] & 31];
}

bool af_id_parse(const char *prefix, const void *bytes, size_t len, struct af_id *ret)
{
    const char *p = bytes;
    size_t prefix_len = strlen(prefix);
    if (len != prefix_len + 1 + AF_ID_RANDOM_CHARS || len >= AF_ID_TEXT_MAX)
        return false;
    if (memcmp(p, prefix, prefix_len) != 0 || p[prefix_len] != '_')
        return false;
    for (size_t i = prefix_len + 1; i < len; i++)
        if (p[i] == '\0' || !strchr(alphabet, p[i]))
            return false;
    if (ret) {
        memset(ret, 0, sizeof *ret);
        memcpy(ret->text, p, len);
    }
    return true;
}
