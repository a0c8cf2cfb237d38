// Keys and values of every database, byte by byte. docs/STORE.md tells the same in words.
//
// Integers in keys are big-endian, so that a layer's or directory's records stand together; in
// values they are little-endian packed structures that begin with a format byte.
// Changing anything here means a new STORE_SCHEMA_VERSION. Read next: inode.c, upgrade.c.
#ifndef AF_MUX_STORE_SCHEMA_H
#define AF_MUX_STORE_SCHEMA_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define STORE_SCHEMA_VERSION 10
#define STORE_SCHEMA_OLDEST  6 // readable as it is: nothing says who owns a blob's end
#define STORE_FORMAT         1 // first byte of every value, but for the next
#define STORE_FORMAT_LIMITED 2 // of a sandbox: a value_limit comes before the texts

enum store_dbi {
    STORE_DBI_META,     // "schema", "hash_key"
    STORE_DBI_ENTRY,    // layer parent hash name -> value_entry
    STORE_DBI_INODE,    // layer fid -> value_inode name inline
    STORE_DBI_VERSION,  // version layer -> fid
    STORE_DBI_ORPHAN,   // layer fid -> format byte
    STORE_DBI_LAYER,    // layer -> value_layer
    STORE_DBI_STACK,    // stack -> value_stack ids
    STORE_DBI_BLOB,     // blob -> value_blob
    STORE_DBI_DIGEST,   // sha256 -> blob
    STORE_DBI_CODEBASE, // id text -> value_codebase
    STORE_DBI_SANDBOX,  // id text -> value_sandbox rules user_data
    STORE_DBI_GARBAGE,  // layer -> format byte: waits for the collector
    STORE_DBI_UNLINK,   // blob -> format byte: its file goes after the next sync
    STORE_DBI_PENDING,  // layer -> format byte: named by no record yet
    STORE_DBI_LINK,     // layer fid parent name -> format byte: a name of a multi-linked file
    STORE_DBI_XATTR,    // layer fid -> extended attributes (mux/xattr_set.h)
    STORE_DBI_COUNT,
};

struct value_entry {
    uint8_t format, type;
    uint64_t fid;
} __attribute__((packed));

struct value_inode {
    uint8_t format, content, blob_owned, name_len;
    uint32_t mode, nlink, xattr_bytes;
    uint64_t version, size, parent, blob, origin;
    int64_t atime_ns, mtime_ns, ctime_ns, btime_ns;
} __attribute__((packed)); // then the name, then the inline content, or blob_shared (8 bytes)

// value_inode.blob_owned: what of the blob is this record's alone.
enum {
    VALUE_OWNS_NOTHING = 0,
    VALUE_OWNS_ALL = 1,
    VALUE_OWNS_TAIL = 2
}; // TAIL: blob_shared follows

enum { STORE_NEVER_FROZEN = 0, STORE_FROZEN = 1, STORE_THAWED = 2 };

struct value_layer {
    uint8_t format, frozen; // one of the above
    uint32_t refs;
    uint64_t bytes, inodes;
    int64_t tree_files, tree_bytes;
} __attribute__((packed));

struct value_stack {
    uint8_t format;
    uint32_t refs, count;
} __attribute__((packed)); // then count ids

struct value_blob {
    uint8_t format, has_digest;
    uint32_t refs;
    uint8_t sha256[32];
    uint64_t owner_layer; // of the last record that might write it; left out when there is none
} __attribute__((packed));

struct value_codebase {
    uint8_t format, head_dirty;
    uint16_t name_len, owner_len;
    uint64_t root_fid, stack, head, size_bytes, files;
    int64_t created_ns, updated_ns;
} __attribute__((packed)); // then name, owner

struct value_sandbox {
    uint8_t format, status, access;
    uint16_t codebase_len, owner_len;
    uint32_t n_rules, user_data_len;
    uint64_t root_fid, stack, delta, quota_bytes, quota_inodes;
    int64_t created_ns, started_ns, stopped_ns, expires_ns;
} __attribute__((packed)); // then codebase id, owner, n_rules value_rule with patterns, user_data

struct value_limit {
    uint64_t iops, bandwidth;
} __attribute__((packed));

struct value_rule {
    uint16_t pattern_len;
    uint8_t type, level;
    int32_t priority;
} __attribute__((packed)); // then the pattern

struct key_id {
    uint64_t be;
} __attribute__((packed));

struct key_inode {
    uint64_t layer_be, fid_be;
} __attribute__((packed));

struct key_version {
    uint64_t version_be, layer_be;
} __attribute__((packed));

struct key_entry {
    uint64_t layer_be, parent_be, hash_be;
    char name[255];
} __attribute__((packed));

#define KEY_ENTRY_PREFIX 24u // bytes before the name

struct key_link {
    uint64_t layer_be, fid_be, parent_be;
    char name[255];
} __attribute__((packed));

#define KEY_LINK_PREFIX 24u // bytes before the name

static inline struct key_id key_of_id(uint64_t id)
{
    return (struct key_id){.be = htobe64(id)};
}

static inline struct key_version key_of_version(uint64_t version, uint64_t layer)
{
    return (struct key_version){.version_be = htobe64(version), .layer_be = htobe64(layer)};
}

static inline struct key_inode key_of_inode(uint64_t layer, uint64_t fid)
{
    return (struct key_inode){.layer_be = htobe64(layer), .fid_be = htobe64(fid)};
}

#endif
