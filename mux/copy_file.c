// FICLONE, copy_file_range, read and write, in this order. Read next: copy_file.h.
#include "mux/copy_file.h"

#include "mux/base/cleanup.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)

bool mux_clone_file(int from, int to)
{
    return ioctl(to, FICLONE, from) == 0;
}

static int copy_by_hand(int from, int to, off_t offset, size_t len)
{
    AF_CLEANUP_FREE char *buf = malloc(CHUNK_BYTES);
    if (!buf)
        return -ENOMEM;
    while (len > 0) {
        ssize_t got = pread(from, buf, len < CHUNK_BYTES ? len : CHUNK_BYTES, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : 0; // the rest reads as zeros, there and here
        int rc = af_write_whole(to, buf, (size_t)got, offset);
        if (rc < 0)
            return rc;
        offset += got;
        len -= (size_t)got;
    }
    return 0;
}

int mux_copy_bytes(int from, int to, off_t offset, size_t len)
{
    while (len > 0) {
        off_t in = offset, out = offset;
        ssize_t n = copy_file_range(from, &in, to, &out, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        // Some file systems that make their files up say 0 where they mean that they cannot.
        if (n == 0 || (n < 0 && errno != ENOSPC && errno != EIO && errno != EDQUOT))
            return copy_by_hand(from, to, offset, len);
        if (n < 0)
            return -errno;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

int mux_copy_extents(int from, int to, off_t offset, off_t end)
{
    for (off_t at = offset; at < end;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0; // nothing but a hole follows
        if (data < 0)
            return mux_copy_bytes(from, to, at, (size_t)(end - at));
        off_t hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        int rc = data < hole ? mux_copy_bytes(from, to, data, (size_t)(hole - data)) : 0;
        if (rc < 0)
            return rc;
        at = hole;
    }
    return 0;
}
