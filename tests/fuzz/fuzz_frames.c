// Fuzzes the cutting of DATA into gRPC messages, with the promises checked: however the bytes are
// split, the same messages come out, none is larger than allowed, and what is held is accounted
// for.
//
// Input: one byte that says how to split (0: whole), then the stream.
// Read next: api/net/frame.h.
#include "api/net/frame.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 4096

struct outcome {
    size_t messages, bytes;
    uint64_t hash;
    enum grpc_decoded last;
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

static struct outcome decode_all(const uint8_t *data, size_t size, size_t step)
{
    struct grpc_decoder decoder;
    struct outcome outcome = {.hash = 1469598103934665603u, .last = GRPC_DECODE_MORE};
    grpc_decoder_init(&decoder, MESSAGE_MAX);
    while (size > 0) {
        size_t part = step && step < size ? step : size, left = part;
        const uint8_t *at = data;
        while (left > 0) {
            struct grpc_frame *frame = NULL;
            outcome.last = grpc_decode(&decoder, &at, &left, &frame);
            check((outcome.last == GRPC_DECODE_MESSAGE) == (frame != NULL));
            check(grpc_decoder_held(&decoder) <= MESSAGE_MAX);
            if (frame) {
                check(frame->len <= MESSAGE_MAX);
                for (size_t i = 0; i < frame->len; i++)
                    outcome.hash = (outcome.hash ^ frame->bytes[i]) * 1099511628211u;
                outcome.messages++;
                outcome.bytes += frame->len;
                free(frame);
            } else if (outcome.last != GRPC_DECODE_MORE) {
                grpc_decoder_fini(&decoder);
                return outcome;
            }
        }
        data += part;
        size -= part;
    }
    grpc_decoder_fini(&decoder);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct outcome whole = decode_all(data + 1, size - 1, 0);
    struct outcome split = decode_all(data + 1, size - 1, data[0]);
    check(whole.messages == split.messages && whole.bytes == split.bytes &&
          whole.hash == split.hash);
    bool refused = whole.last != GRPC_DECODE_MORE && whole.last != GRPC_DECODE_MESSAGE;
    check(!refused || whole.last == split.last);
    return 0;
}
