// SipHash with a 64-bit result (Aumasson and Bernstein, 2012): a keyed hash, so that nobody without
// the key can choose names that collide, or bytes that pass for a record of the journal. 2-4 is
// for what others see results of; 1-3, in half the time, where nobody ever does. Pure.
#ifndef AF_MUX_STORE_SIPHASH_H
#define AF_MUX_STORE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t store_rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static inline void store_sipround(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = store_rotl(v[1], 13) ^ v[0];
    v[0] = store_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = store_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = store_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = store_rotl(v[1], 17) ^ v[2];
    v[2] = store_rotl(v[2], 32);
}

// The rounds are constants wherever this is inlined.
static inline uint64_t store_siphash_rounds(const uint64_t key[2], const void *data, size_t len,
                                            int rounds, int last_rounds)
{
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575ULL, key[1] ^ 0x646f72616e646f6dULL,
                     key[0] ^ 0x6c7967656e657261ULL, key[1] ^ 0x7465646279746573ULL};
    const unsigned char *p = data;
    uint64_t last = (uint64_t)len << 56, word;
    for (; len >= 8; p += 8, len -= 8) {
        memcpy(&word, p, 8);
        v[3] ^= word;
        for (int i = 0; i < rounds; i++)
            store_sipround(v);
        v[0] ^= word;
    }
    for (size_t i = 0; i < len; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    for (int i = 0; i < rounds; i++)
        store_sipround(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < last_rounds; i++)
        store_sipround(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static inline uint64_t store_siphash(const uint64_t key[2], const void *data, size_t len)
{
    return store_siphash_rounds(key, data, len, 2, 4);
}

static inline uint64_t store_siphash_fast(const uint64_t key[2], const void *data, size_t len)
{
    return store_siphash_rounds(key, data, len, 1, 3);
}

#endif
