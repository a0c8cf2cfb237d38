// A call that outlives its handler takes along what its arguments point to.
//
// For the slow pool and for what is held back. Data of a WRITE that came over io_uring stays where
// it is: in the request's own buffer, until it is answered. Owns nothing, locks nothing, fails
// never: the caller allocates. Read next: slow.c, held.c.
#include "fs/session_priv.h"

#include <string.h>

static bool data_stays(const struct fs_call *call)
{
    char *payload;
    size_t size;
    return fs_call_payload(call, &payload, &size) && call->data >= payload &&
           call->data < payload + size;
}

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

static size_t data_bytes(const struct fs_call *call)
{
    return call->data && !data_stays(call) ? call->size : 0;
}

size_t fs_call_copy_bytes(const struct fs_call *call)
{
    return text_bytes(call->name) + text_bytes(call->new_name) + data_bytes(call);
}

static const char *copy_bytes(char **to, const void *from, size_t size)
{
    if (!from)
        return NULL;
    char *at = *to;
    memcpy(at, from, size);
    *to += size;
    return at;
}

void fs_call_copy(const struct fs_call *call, struct fs_call *ret, struct stat *attr, char *storage)
{
    *ret = *call;
    ret->name = copy_bytes(&storage, call->name, text_bytes(call->name));
    ret->new_name = copy_bytes(&storage, call->new_name, text_bytes(call->new_name));
    if (data_bytes(call) > 0)
        ret->data = copy_bytes(&storage, call->data, call->size);
    if (call->attr) {
        *attr = *call->attr;
        ret->attr = attr;
    }
}
