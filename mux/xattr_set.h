// The extended attributes of one file as bytes: how they lie in the store. Internal to mux.
//
//   set    = entry*
//   entry  = name length (1 byte), value length (4 bytes, little-endian), name, value
// Names are unique, in the order in which they were first set. Pure functions on memory, but for
// the last one; an entry that does not fit its set is -EUCLEAN. Read next: xattr_set.c, xattr.c.
#ifndef AF_MUX_XATTR_SET_H
#define AF_MUX_XATTR_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store_inode;
struct store_txn;

struct mux_xattr {
    const char *name; // not NUL-terminated
    size_t name_len;
    const void *value;
    size_t value_len;
    size_t end; // offset of the next entry
};

// A whole set.
struct mux_xattr_bytes {
    const void *bytes;
    size_t len;
};

// The entry at an offset; -ENODATA at the end of the set.
int mux_xattr_at(const void *set, size_t len, size_t offset, struct mux_xattr *ret);
// The entry of a name, -ENODATA.
int mux_xattr_find(const void *set, size_t len, const char *name, size_t name_len,
                   struct mux_xattr *ret);
// A set with this value under the name, or without the name when value is NULL: malloc'd, to be
// freed; *ret is NULL when nothing is left. -ENOSPC beyond the limits of limits.h, -ENOMEM.
int mux_xattr_change(const void *set, size_t len, const char *name, size_t name_len,
                     const void *value, size_t value_len, void **ret, size_t *ret_len);
// What two writers have made of a set, together: of each name what one of them has changed against
// `base`, and what both have changed differently is mine; *ret_conflict says whether there was any.
// Sets as in mux_xattr_change, `base` may be empty. O(n log n). -ENOSPC when both together are
// beyond the limits, -ENOMEM, -EUCLEAN.
int mux_xattr_merge(struct mux_xattr_bytes base, struct mux_xattr_bytes mine,
                    struct mux_xattr_bytes theirs, void **ret, size_t *ret_len, bool *ret_conflict);
// Names with their NULs; buf may be NULL with size 0. Returns the length, or -ERANGE, -EUCLEAN.
long mux_xattr_names(const void *set, size_t len, char *buf, size_t size);

// The set of a record, empty when it has none (xattr.c): it lies in the store until that is written
// to. -EUCLEAN when the record says that it has one, and there is none.
int mux_xattr_load(struct store_txn *txn, const struct store_inode *inode,
                   struct mux_xattr_bytes *ret);

#endif
