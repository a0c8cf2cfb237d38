// Blobs copied, whole. Read next: copy_up.h, copy_file.h.
#include "mux/copy_up.h"

#include "mux/copy_file.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

static int copy_content(int from, int to, uint64_t bytes)
{
    struct stat st;
    if (fstat(from, &st) < 0)
        return -errno;
    if (mux_clone_file(from, to)) // of what its owner has appended by now, too
        return ftruncate(to, (off_t)bytes) < 0 ? -errno : 0;
    if ((uint64_t)st.st_size < bytes)
        return -EIO; // cut since it was opened
    int rc = mux_copy_extents(from, to, 0, (off_t)bytes);
    return rc == 0 && ftruncate(to, (off_t)bytes) < 0 ? -errno : rc; // a hole at the end
}

static bool is_in_memory(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

// What is in the page cache, without waiting for a disk; MUX_SLOW when something is not. A file
// system that cannot tell whether it would wait is asked once whether it is memory.
static int copy_cached(struct mux *mux, int from, int to, uint64_t bytes)
{
    AF_CLEANUP_FREE char *buf = malloc(bytes);
    if (!buf)
        return -ENOMEM;
    int flags = atomic_load(&mux->blobs_in_memory) ? 0 : RWF_NOWAIT;
    for (uint64_t have = 0; have < bytes;) {
        struct iovec iov = {.iov_base = buf + have, .iov_len = bytes - have};
        ssize_t n = preadv2(from, &iov, 1, (off_t)have, flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EOPNOTSUPP && flags != 0 && is_in_memory(from)) {
            atomic_store(&mux->blobs_in_memory, true);
            flags = 0;
            continue;
        }
        if (n < 0)
            return errno == EAGAIN || errno == EOPNOTSUPP ? MUX_SLOW : -errno;
        if (n == 0)
            return -EIO; // cut since it was opened
        have += (uint64_t)n;
    }
    return af_write_whole(to, buf, bytes, 0);
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
        rc = may_block ? copy_content(in, out, bytes) : copy_cached(mux, in, out, bytes);
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
