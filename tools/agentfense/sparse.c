// Holes found by lseek and made by not writing: see sparse.h.
#include "tools/agentfense/sparse.h"

#include "mux/base/whole.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES 4096

void sparse_next(int fd, off_t at, off_t size, off_t *ret_data, off_t *ret_end)
{
    off_t data = lseek(fd, at, SEEK_DATA);
    if (data < 0) // ENXIO: nothing but a hole follows
        data = errno == ENXIO ? size : at;
    off_t end = data < size ? lseek(fd, data, SEEK_HOLE) : size;
    *ret_data = data < size ? data : size;
    *ret_end = end < 0 || end > size ? size : end;
}

static bool is_zeros(const uint8_t *data, size_t len)
{
    return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

int sparse_write(int fd, const void *data, size_t len, off_t offset)
{
    const uint8_t *bytes = data;
    size_t from = 0, at = 0; // [from, at) is to be written
    while (at < len) {
        size_t block = BLOCK_BYTES - (size_t)(offset + (off_t)at) % BLOCK_BYTES;
        block = block < len - at ? block : len - at;
        if (is_zeros(bytes + at, block)) {
            int rc = af_write_whole(fd, bytes + from, at - from, offset + (off_t)from);
            if (rc < 0)
                return rc;
            from = at + block;
        }
        at += block;
    }
    return from < len ? af_write_whole(fd, bytes + from, len - from, offset + (off_t)from) : 0;
}
