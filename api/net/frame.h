// gRPC's length-prefixed messages: one byte of flags, four of length (big endian), the bytes.
//
// The decoder takes DATA as it comes, split anywhere, and hands out whole messages. It allocates
// as bytes arrive, never what a prefix merely announces.
// Threads: a decoder belongs to one thread. Read next: call_in.c.
#ifndef AF_API_NET_FRAME_H
#define AF_API_NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GRPC_PREFIX_BYTES 5

// A message as received, in a list of its call.
struct grpc_frame {
    struct grpc_frame *next;
    size_t len;
    size_t cap;
    uint8_t bytes[];
};

struct grpc_decoder {
    size_t len_max;
    uint8_t prefix[GRPC_PREFIX_BYTES];
    size_t prefix_len;
    size_t want;                // bytes of the message, once the prefix is complete
    struct grpc_frame *partial; // NULL between messages
};

enum grpc_decoded {
    GRPC_DECODE_MORE,       // everything was taken, no message is complete
    GRPC_DECODE_MESSAGE,    // *ret_frame is a message, to be freed with free()
    GRPC_DECODE_TOO_LARGE,  // decoder->want is over len_max
    GRPC_DECODE_COMPRESSED, // the compressed flag is set
    GRPC_DECODE_BAD_FLAG,   // a flag byte that no version of gRPC knows
    GRPC_DECODE_NO_MEMORY,
};

void grpc_decoder_init(struct grpc_decoder *decoder, size_t len_max);
void grpc_decoder_fini(struct grpc_decoder *decoder);

// Takes bytes from *bytes/*len, which it advances. To be called until it returns other than
// GRPC_DECODE_MESSAGE; after an error the decoder is only good for fini.
enum grpc_decoded grpc_decode(struct grpc_decoder *decoder, const uint8_t **bytes, size_t *len,
                              struct grpc_frame **ret_frame);

// Whether the bytes so far end inside a message or its prefix.
bool grpc_decoder_is_inside(const struct grpc_decoder *decoder);

// Bytes it holds for the unfinished message.
size_t grpc_decoder_held(const struct grpc_decoder *decoder);

// Writes the five bytes before an uncompressed message.
void grpc_prefix_write(uint8_t out[GRPC_PREFIX_BYTES], uint32_t len);

#endif
