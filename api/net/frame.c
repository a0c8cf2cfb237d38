// gRPC's length-prefixed messages. Owns the unfinished message of a decoder; no locks.
// Read next: frame.h.
#include "api/net/frame.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAP_BYTES 4096

void grpc_decoder_init(struct grpc_decoder *decoder, size_t len_max)
{
    memset(decoder, 0, sizeof *decoder);
    decoder->len_max = len_max;
}

void grpc_decoder_fini(struct grpc_decoder *decoder)
{
    free(decoder->partial);
    decoder->partial = NULL;
}

bool grpc_decoder_is_inside(const struct grpc_decoder *decoder)
{
    return decoder->prefix_len > 0;
}

size_t grpc_decoder_held(const struct grpc_decoder *decoder)
{
    return decoder->partial ? decoder->partial->len : 0;
}

void grpc_prefix_write(uint8_t out[GRPC_PREFIX_BYTES], uint32_t len)
{
    out[0] = 0;
    out[1] = (uint8_t)(len >> 24);
    out[2] = (uint8_t)(len >> 16);
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
}

static enum grpc_decoded read_prefix(struct grpc_decoder *decoder)
{
    const uint8_t *p = decoder->prefix;
    decoder->want = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (p[0] == 1)
        return GRPC_DECODE_COMPRESSED;
    if (p[0] != 0)
        return GRPC_DECODE_BAD_FLAG;
    return decoder->want > decoder->len_max ? GRPC_DECODE_TOO_LARGE : GRPC_DECODE_MORE;
}

// Makes room for `more` bytes: all that is wanted when that has arrived, else at least double.
static bool reserve(struct grpc_decoder *decoder, size_t more)
{
    struct grpc_frame *frame = decoder->partial;
    size_t need = (frame ? frame->len : 0) + more;
    if (frame && frame->cap >= need)
        return true;
    size_t cap = frame ? frame->cap * 2 : FIRST_CAP_BYTES;
    if (cap < need)
        cap = need;
    if (cap > decoder->want)
        cap = decoder->want;
    struct grpc_frame *grown = realloc(frame, sizeof *frame + cap);
    if (!grown)
        return false;
    if (!frame) {
        grown->next = NULL;
        grown->len = 0;
    }
    grown->cap = cap;
    decoder->partial = grown;
    return true;
}

enum grpc_decoded grpc_decode(struct grpc_decoder *decoder, const uint8_t **bytes, size_t *len,
                              struct grpc_frame **ret_frame)
{
    if (decoder->prefix_len < GRPC_PREFIX_BYTES) {
        size_t n = GRPC_PREFIX_BYTES - decoder->prefix_len;
        if (n > *len)
            n = *len;
        if (n > 0)
            memcpy(decoder->prefix + decoder->prefix_len, *bytes, n);
        decoder->prefix_len += n;
        *bytes += n;
        *len -= n;
        if (decoder->prefix_len < GRPC_PREFIX_BYTES)
            return GRPC_DECODE_MORE;
        enum grpc_decoded refused = read_prefix(decoder);
        if (refused != GRPC_DECODE_MORE)
            return refused;
    }
    size_t have = decoder->partial ? decoder->partial->len : 0;
    size_t n = decoder->want - have;
    if (n > *len)
        n = *len;
    if (!reserve(decoder, n))
        return GRPC_DECODE_NO_MEMORY;
    struct grpc_frame *frame = decoder->partial;
    if (n > 0)
        memcpy(frame->bytes + frame->len, *bytes, n);
    frame->len += n;
    *bytes += n;
    *len -= n;
    if (frame->len < decoder->want)
        return GRPC_DECODE_MORE;
    decoder->partial = NULL;
    decoder->prefix_len = 0;
    *ret_frame = frame;
    return GRPC_DECODE_MESSAGE;
}
