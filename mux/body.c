// The content of a file that changes: inline while small, else in a blob of its own.
// Under the view's exclusive lock, outside of any write transaction. Read next: edit.h, edit.c.
#include "mux/edit.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK_MAX (64u << 10) // of any file system

// What an edit means for one file's content.
struct change {
    uint64_t old_size, new_size;
    uint64_t keep; // bytes from the start of the old content that stay
};

static bool makes_zeros(const struct mux_edit *edit)
{
    return edit->space == MUX_SPACE_PUNCH || edit->space == MUX_SPACE_ZERO;
}

static struct change plan(const struct mux_edit *edit, uint64_t old_size)
{
    struct change change = {.old_size = old_size};
    if (!edit->data && edit->space == MUX_SPACE_NONE) {
        change.new_size = (uint64_t)edit->attr->st_size;
        change.keep = change.new_size < old_size ? change.new_size : old_size;
        return change;
    }
    uint64_t end = edit->offset + edit->len;
    bool grows = end > old_size && edit->space != MUX_SPACE_PUNCH;
    change.new_size = grows ? end : old_size;
    change.keep = old_size;
    if (end >= old_size && edit->offset < old_size && edit->space != MUX_SPACE_RESERVE)
        change.keep = edit->offset;
    return change;
}

// The part of the range that is in the file afterwards.
static uint64_t clip(const struct mux_edit *edit, const struct change *change)
{
    if (edit->offset >= change->new_size)
        return 0;
    uint64_t left = change->new_size - edit->offset;
    return edit->len < left ? edit->len : left;
}

// Zeros where the blob has bytes; what is behind its end is zeros already.
static int zero_by_hand(int fd, uint64_t offset, uint64_t len)
{
    static const char zeros[65536];
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    if ((uint64_t)end <= offset)
        return 0;
    if (len > (uint64_t)end - offset)
        len = (uint64_t)end - offset;
    int rc = 0;
    while (rc == 0 && len > 0) {
        size_t n = len < sizeof zeros ? (size_t)len : sizeof zeros;
        rc = af_write_whole(fd, zeros, n, (off_t)offset);
        offset += n;
        len -= n;
    }
    return rc;
}

// A hole over the end takes the last block whole: what that has behind the end is void.
static uint64_t hole_len(const struct mux_edit *edit, uint64_t clipped)
{
    return edit->len - clipped < BLOCK_MAX ? edit->len : clipped + BLOCK_MAX;
}

static int set_space(int fd, const struct mux_edit *edit, const struct change *change)
{
    uint64_t len = clip(edit, change);
    int mode = makes_zeros(edit) ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0;
    if (len == 0)
        return 0;
    if (makes_zeros(edit))
        len = hole_len(edit, len);
    if (fallocate(fd, mode, (off_t)edit->offset, (off_t)len) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    return makes_zeros(edit) ? zero_by_hand(fd, edit->offset, len) : 0;
}

static void set_inline(const struct mux_edit *edit, const struct change *change,
                       struct mux_record *record)
{
    struct store_inode *inode = &record->inode;
    uint64_t had = inode->content == STORE_CONTENT_INLINE ? change->keep : 0;
    memset(record->data + had, 0, sizeof record->data - had);
    if (edit->data)
        memcpy(record->data + edit->offset, edit->data, edit->len);
    else if (makes_zeros(edit) && edit->offset < change->new_size)
        memset(record->data + edit->offset, 0, clip(edit, change));
    inode->content = change->new_size > 0 ? STORE_CONTENT_INLINE : STORE_CONTENT_NONE;
    inode->inline_data = change->new_size > 0 ? record->data : NULL;
    inode->inline_len = change->new_size;
    inode->blob = 0;
    inode->blob_owned = false;
}

// Void bytes behind the end must not come to light when the file grows over them. They become a
// hole, and the file keeps its length: after a power cut the record may be one again that says
// more, and a blob that is shorter than its record says has lost its end.
static int clear_behind(int fd, uint64_t size)
{
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    if ((uint64_t)end <= size || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                           (off_t)size, end - (off_t)size) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    return ftruncate(fd, (off_t)size) < 0 ? -errno : 0; // a file system without holes
}

static int open_own(struct mux_op *op, const struct mux_edit *edit, const struct change *change,
                    const struct mux_record *record, struct mux_body *body)
{
    int rc =
        store_blob_open_owned(op->mux->store, record->inode.blob, change->old_size, &body->blob);
    if (rc < 0)
        return rc == -ENOENT ? -EIO : rc;
    bool gap = edit->data ? edit->offset > change->old_size : change->new_size > change->old_size;
    body->cut = change->new_size < change->old_size;
    if (gap)
        rc = clear_behind(store_blob_fd(body->blob), change->old_size);
    return rc;
}

// A blob of the file's own with the bytes that stay.
static int make_own(struct mux_op *op, const struct change *change, const struct mux_record *record,
                    struct mux_copy *copy, struct mux_body *body)
{
    const struct store_inode *inode = &record->inode;
    body->fresh = true;
    if (inode->content == STORE_CONTENT_BLOB && change->keep > 0) {
        body->blob = copy->blob;
        copy->blob = NULL;
        if (copy->bytes == change->keep)
            return 0;
        return ftruncate(store_blob_fd(body->blob), (off_t)change->keep) < 0 ? -errno : 0;
    }
    int rc = store_blob_new(op->mux->store, &body->blob);
    if (rc == 0 && inode->content == STORE_CONTENT_INLINE)
        rc = af_write_whole(store_blob_fd(body->blob), record->data, change->keep, 0);
    return rc;
}

static bool copy_serves(const struct mux_copy *copy, const struct mux_record *record,
                        const struct change *change)
{
    return copy->blob && copy->source == record->inode.blob && copy->bytes >= change->keep;
}

static bool changes_nothing(const struct mux_edit *edit, const struct change *change, bool own)
{
    if (edit->data || change->new_size != change->old_size)
        return false;
    if (makes_zeros(edit))
        return clip(edit, change) == 0;
    return edit->space != MUX_SPACE_RESERVE || !own;
}

// Whether the edit leaves those bytes of the blob alone that other records have, and the file at
// most twice as large: what a sandbox adds and abandons is freed no sooner than the blob.
static bool spares(const struct mux_op *op, const struct mux_edit *edit,
                   const struct change *change, uint64_t shared)
{
    if (shared == 0)
        return true;
    if (atomic_load_explicit(&op->mux->content_fixed, memory_order_relaxed) ||
        change->new_size < shared || change->new_size > 2 * shared)
        return false;
    return (edit->data || makes_zeros(edit)) ? edit->offset >= shared : true;
}

// Whether the end of the blob is free (tail.c). 0, 1, -errno. Drops a read transaction.
static int may_take_over(struct mux_op *op, const struct store_inode *inode)
{
    struct store_blob *blob;
    struct stat st;
    int rc = mux_op_read(op);
    if (rc == 0)
        rc = store_blob_may_own(op->txn, inode->blob);
    mux_op_end_read(op);
    if (rc <= 0)
        return rc;
    rc = store_blob_open(op->mux->store, inode->blob, &blob);
    if (rc < 0)
        return rc == -ENOENT ? -EIO : rc;
    rc = fstat(store_blob_fd(blob), &st) < 0 ? -errno : (uint64_t)st.st_size == inode->size;
    store_blob_release(blob);
    return rc;
}

// Whether the end of the blob must change hands first: to be taken over, which saves a copy, or to
// be given up, since a copy may only be made of what nobody writes. 0, 1, -errno.
static int needs_tail(struct mux_op *op, const struct mux_edit *edit, const struct change *change,
                      const struct store_inode *inode)
{
    if (inode->content != STORE_CONTENT_BLOB || change->keep == 0 || change->new_size == 0)
        return 0;
    if (inode->blob_owned)
        return !spares(op, edit, change, inode->blob_shared);
    if (edit->copies || inode->size <= MUX_COPY_FAST_BYTES ||
        !spares(op, edit, change, inode->size))
        return 0;
    return may_take_over(op, inode);
}

// The file gets as many bytes as its record will say, as a hole where nothing was written: one that
// has fewer has lost its end, and reading it is an error.
static int extend(int fd, uint64_t size)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    return (uint64_t)st.st_size < size && ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

static int fill(int fd, const struct mux_edit *edit, const struct change *change)
{
    int rc = 0;
    if (edit->data) // ends at the new size, or before the old one, up to which there are bytes
        return af_write_whole(fd, edit->data, (size_t)edit->len, (off_t)edit->offset);
    if (edit->space != MUX_SPACE_NONE)
        rc = set_space(fd, edit, change);
    return rc == 0 ? extend(fd, change->new_size) : rc;
}

// A record that chmod, rename or link has brought into the delta counts there, unasked, while its
// bytes are still those of the base: the copy is what has to have room.
static int check_quota(struct mux_op *op, const struct mux_record *record,
                       const struct change *change, bool own)
{
    uint64_t growth = mux_record_growth(record, change->new_size);
    bool copies = record->inode.content == STORE_CONTENT_BLOB && !own && change->new_size > 0;
    if (!copies || growth > 0)
        return mux_op_check_quota(op, growth, 0);
    return mux_op_check_within_quota(op, change->old_size - change->new_size);
}

int mux_body_change(struct mux_op *op, const struct mux_edit *edit, struct mux_record *record,
                    struct mux_copy *copy, struct mux_body *ret, struct mux_copy *need)
{
    struct store_inode *inode = &record->inode;
    struct change change = plan(edit, inode->size);
    bool is_blob = inode->content == STORE_CONTENT_BLOB;
    bool own = is_blob && inode->blob_owned && spares(op, edit, &change, inode->blob_shared);
    struct mux_body body = {.size = change.new_size};
    if (changes_nothing(edit, &change, own)) {
        *ret = body; // nothing to copy for
        return 0;
    }
    int rc = check_quota(op, record, &change, own);
    if (rc < 0)
        return rc;
    rc = needs_tail(op, edit, &change, inode);
    mux_op_end_read(op);
    if (rc != 0)
        return rc < 0 ? rc : MUX_BODY_TAIL;
    if (change.new_size == 0 ||
        (change.new_size <= AF_INLINE_CONTENT_MAX && !(own || (is_blob && change.keep > 0)))) {
        set_inline(edit, &change, record);
    } else {
        if (is_blob && !own && change.keep > 0 && !copy_serves(copy, record, &change)) {
            *need = (struct mux_copy){.source = inode->blob, .bytes = change.keep};
            return MUX_BODY_COPY;
        }
        rc = own ? open_own(op, edit, &change, record, &body)
                 : make_own(op, &change, record, copy, &body);
        if (rc == 0)
            rc = fill(store_blob_fd(body.blob), edit, &change);
        if (rc == 0)
            store_blob_extended(body.blob, change.new_size);
        if (rc < 0) {
            if (own && body.blob) // room for a part may have been taken where nobody sees it
                clear_behind(store_blob_fd(body.blob), change.old_size);
            mux_body_finish(&body, false);
            return rc;
        }
        inode->content = STORE_CONTENT_BLOB;
        inode->blob = store_blob_id(body.blob);
        inode->blob_owned = true;
        inode->blob_shared = own ? inode->blob_shared : 0;
        inode->inline_data = NULL;
        inode->inline_len = 0;
    }
    inode->size = change.new_size;
    *ret = body;
    return 0;
}

void mux_body_finish(struct mux_body *body, bool committed)
{
    if (!body->blob)
        return;
    // When this fails the bytes behind the end stay void: they are cleared before the file grows.
    if (committed && body->cut && clear_behind(store_blob_fd(body->blob), body->size) < 0)
        body->cut = false;
    if (body->fresh && !committed)
        store_blob_discard(body->blob);
    else
        store_blob_release(body->blob);
    body->blob = NULL;
}
