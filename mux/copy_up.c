// Blobs copied: FICLONE, copy_file_range, read and write, in this order. Read next: copy_up.h.
#include "mux/copy_up.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CHUNK_BYTES (1u << 20)

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
        for (ssize_t done = 0; done < got;) {
            ssize_t put = pwrite(to, buf + done, (size_t)(got - done), offset + done);
            if (put < 0 && errno == EINTR)
                continue;
            if (put < 0)
                return -errno;
            done += put;
        }
        offset += got;
        len -= (size_t)got;
    }
    return 0;
}

static int copy_extent(int from, int to, off_t offset, size_t len)
{
    while (len > 0) {
        off_t in = offset, out = offset;
        ssize_t n = copy_file_range(from, &in, to, &out, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != ENOSPC && errno != EIO && errno != EDQUOT)
            return copy_by_hand(from, to, offset, len);
        if (n <= 0)
            return n < 0 ? -errno : 0;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

// Data extents only, so that a sparse file stays sparse.
static int copy_extents(int from, int to, off_t end)
{
    for (off_t at = 0; at < end;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return 0; // nothing but a hole follows
        if (data < 0)
            return copy_extent(from, to, at, (size_t)(end - at));
        off_t hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0 || hole > end)
            hole = end;
        int rc = data < hole ? copy_extent(from, to, data, (size_t)(hole - data)) : 0;
        if (rc < 0)
            return rc;
        at = hole;
    }
    return 0;
}

static int copy_content(int from, int to, uint64_t bytes)
{
    struct stat st;
    if (fstat(from, &st) < 0)
        return -errno;
    if (ioctl(to, FICLONE, from) == 0)
        return (uint64_t)st.st_size > bytes && ftruncate(to, (off_t)bytes) < 0 ? -errno : 0;
    if ((uint64_t)st.st_size < bytes)
        return -EIO; // cut since it was opened
    int rc = copy_extents(from, to, (off_t)bytes);
    return rc == 0 && ftruncate(to, (off_t)bytes) < 0 ? -errno : rc; // a hole at the end
}

static bool is_in_memory(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

// What is in the page cache, without waiting for a disk; MUX_SLOW when something is not.
static int copy_cached(int from, int to, uint64_t bytes)
{
    AF_CLEANUP_FREE char *buf = malloc(bytes);
    if (!buf)
        return -ENOMEM;
    for (uint64_t have = 0; have < bytes;) {
        struct iovec iov = {.iov_base = buf + have, .iov_len = bytes - have};
        ssize_t n = preadv2(from, &iov, 1, (off_t)have, RWF_NOWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EOPNOTSUPP && is_in_memory(from))
            return copy_content(from, to, bytes);
        if (n < 0)
            return errno == EAGAIN || errno == EOPNOTSUPP ? MUX_SLOW : -errno;
        if (n == 0)
            return -EIO; // cut since it was opened
        have += (uint64_t)n;
    }
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pwrite(to, buf + done, bytes - done, (off_t)done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

int mux_copy_blob(struct mux *mux, uint64_t source, uint64_t bytes, bool may_block,
                  struct mux_copy *ret)
{
    struct store_blob *from, *to;
    int rc = store_blob_open_sized(mux->store, source, bytes, &from);
    if (rc < 0)
        return rc;
    rc = store_blob_new(mux->store, &to);
    if (rc == 0) {
        int in = store_blob_fd(from), out = store_blob_fd(to);
        rc = may_block ? copy_content(in, out, bytes) : copy_cached(in, out, bytes);
        if (rc != 0)
            store_blob_discard(to);
    }
    store_blob_release(from);
    if (rc != 0)
        return rc;
    *ret = (struct mux_copy){.blob = to, .source = source, .bytes = bytes};
    return 0;
}

void mux_copy_discard(struct mux_copy *copy)
{
    if (copy->blob)
        store_blob_discard(copy->blob);
    copy->blob = NULL;
}

void mux_copy_adopted(struct mux_copy *copy)
{
    if (copy->blob)
        store_blob_release(copy->blob);
    copy->blob = NULL;
}
