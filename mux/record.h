// An inode record taken out of the database, to be changed and put into the view's delta.
//
// Internal to mux; within an operation's write transaction. A record copied up from a frozen layer
// gets a new version and no longer owns its blob: what others may be reading is never written.
// Nothing is owned but memory on the stack (about 5 KiB each). Errors: -errno. Read next: record.c.
#ifndef AF_MUX_RECORD_H
#define AF_MUX_RECORD_H

#include "mux/view.h"

struct mux_record {
    struct store_inode inode; // its pointers lead to the buffers below, or to the caller's
    size_t index;             // of the layer it was found in; 0: the delta
    bool gone;                // no name leads to it any more since a rebase: becomes an orphan
    int64_t counted_files, counted_bytes; // what it was in the view's tree when it was loaded
    char name[AF_NAME_MAX];
    char data[AF_SYMLINK_MAX > AF_INLINE_CONTENT_MAX ? AF_SYMLINK_MAX : AF_INLINE_CONTENT_MAX];
};

// -ESTALE when there is none.
int mux_record_load(struct mux_op *op, uint64_t fid, struct mux_record *ret);
// The same for what the kernel has by its nodeid, so that no name was looked up: a file that others
// have removed while it was open here is an orphan from its first change on. Before any change.
int mux_record_load_held(struct mux_op *op, uint64_t fid, struct mux_record *ret);
// Puts it into the delta, and has the cached node follow on commit.
int mux_record_put(struct mux_op *op, struct mux_record *record);
// One of its names, to find the way up by.
void mux_record_set_name(struct mux_record *record, uint64_t parent, const char *name,
                         size_t name_len);
// A directory in which a name came or went: mtime and ctime.
int mux_record_touch_dir(struct mux_op *op, uint64_t fid);
// Takes one name away from what it leads to: the last one makes it an orphan.
int mux_record_drop_link(struct mux_op *op, uint64_t fid, uint64_t parent, const char *name,
                         size_t name_len);

// The bytes that putting this record with another file size adds to the delta's (0: it shrinks).
uint64_t mux_record_growth(const struct mux_record *record, uint64_t new_size);

#endif
