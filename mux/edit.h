// Changing an inode: bytes, size, attributes, in one step. Internal to mux.
//
// A write and a setattr are the same operation with different parts of struct mux_edit: check the
// level, make the content the view's own where it is not (copy-up), change the record, commit.
// Blob data goes to its file before the record says so; a blob is cut only after the record says
// so. Whatever lies beyond the size of a record that owns its blob is void, and is cut off before a
// file grows over it. So a crash at any point leaves a file whole.
// Locks: the view's, exclusively, for the short part; copies are made outside (copy_up.h).
// Errors: -errno, MUX_SLOW. Read next: edit.c, body.c.
#ifndef AF_MUX_EDIT_H
#define AF_MUX_EDIT_H

#include "mux/copy_up.h"
#include "mux/record.h"

// What fallocate does to the range [offset, offset + len).
enum mux_space {
    MUX_SPACE_NONE = 0,
    MUX_SPACE_RESERVE, // grow the file to the range's end; room for the range where there can be
    MUX_SPACE_PUNCH,   // zeros in the range, up to the end of the file
    MUX_SPACE_ZERO,    // zeros in the range, growing the file
};

struct mux_edit {
    const void *data; // a write of len bytes at offset, or NULL
    enum mux_space space;
    uint64_t len;
    uint64_t offset;
    bool copies;             // the end of the blob is not to be had (mux_tail_settle)
    unsigned set;            // enum mux_set, MUX_SET_SIZE included
    const struct stat *attr; // for set
};

// ret, ret_ttl_ns (may be NULL): the attributes afterwards, and how long the kernel may remember
// them.
int mux_edit(struct mux *mux, const struct mux_ctx *ctx, uint64_t nodeid,
             const struct mux_edit *edit, struct stat *ret, int64_t *ret_ttl_ns);

// setattr.c: everything but the size. -EPERM for owners other than the view's.
int mux_edit_attributes(struct mux_op *op, const struct mux_edit *edit, struct store_inode *inode);

// Who changes a file that runs with its owner's identity takes that away.
void mux_kill_suidgid(struct store_inode *inode);

// ---- the content's part (body.c)

struct mux_body {
    struct store_blob *blob; // written to, or NULL
    bool fresh;              // no committed record refers to it
    bool cut;                // shorten it to `size` after the commit
    uint64_t size;
};

// No errors. COPY: call again with a copy of need->source, need->bytes long. TAIL: call again after
// mux_tail_settle.
#define MUX_BODY_COPY 1
#define MUX_BODY_TAIL 2

// Changes the record's content and size as the edit says, writing blob data. *ret is filled when
// it returns 0: mux_body_finish must follow. Takes copy->blob when it uses it.
int mux_body_change(struct mux_op *op, const struct mux_edit *edit, struct mux_record *record,
                    struct mux_copy *copy, struct mux_body *ret, struct mux_copy *need);
void mux_body_finish(struct mux_body *body, bool committed);

// tail.c: makes the end of the file's blob the view's own, or gives it up; in a transaction of its
// own, which changes no byte of the file. *ret_has: whether it is the view's own now.
int mux_tail_settle(struct mux_op *op, uint64_t fid, bool *ret_has);

#endif
