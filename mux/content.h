// Bytes on their way into a file of a codebase: in memory while small, in a blob file beyond.
//
// Internal to mux (uploads, imports). A sink takes the bytes, hashes them on the way and, when
// finished, yields a mux_content: what an inode record needs. No transaction is open meanwhile.
// A hole costs neither space nor time, whatever its size. Content with more than
// MUX_HOLES_HASHED_MAX of holes has no digest, for hashing zeros takes time, so it is not shared.
// Owns the blob until a committed record refers to it. Errors: -errno. Thread: one at a time.
// Read next: tree_edit.h.
#ifndef AF_MUX_CONTENT_H
#define AF_MUX_CONTENT_H

#include "mux/base/limits.h"
#include "mux/store/store.h"

#define MUX_SHA256_BYTES 32
#define MUX_MD5_HEX      33 // with the NUL

#define MUX_HOLES_HASHED_MAX (1u << 20) // bytes of holes in one content

// The content of one object, complete. A zeroed one is empty content.
struct mux_content {
    uint64_t size;
    void *inline_data;       // malloc'd, `size` bytes, or NULL
    struct store_blob *blob; // ours, or NULL
    bool has_digest;
    uint8_t sha256[MUX_SHA256_BYTES]; // of a blob, when has_digest
};

// Sets the content fields of an inode record, preferring a blob that the store has already. To be
// followed, once the record is put, by mux_content_register in the same transaction.
int mux_content_describe(struct store_txn *txn, const struct mux_content *content,
                         struct store_inode *inode);
int mux_content_register(struct store_txn *txn, const struct mux_content *content,
                         const struct store_inode *inode);
// committed_blob: the blob that a committed record refers to (0: none). Another blob of the
// content's own is unlinked. Leaves the content empty.
void mux_content_fini(struct mux_content *content, uint64_t committed_blob);

struct mux_content_sink {
    struct store *store;
    struct store_blob *blob;
    struct evp_md_ctx_st *md5, *sha256; // sha256: once there is a blob
    uint64_t size;
    uint64_t hole_bytes;
    bool want_md5;
    uint8_t buf[AF_INLINE_CONTENT_MAX]; // the first bytes, all of them while there is no blob
};

int mux_content_sink_init(struct mux_content_sink *sink, struct store *store, bool want_md5);
// -EFBIG beyond AF_FILE_SIZE_MAX, -ENOSPC.
int mux_content_sink_write(struct mux_content_sink *sink, const void *data, size_t len);
// `len` zeros. Not for a sink with MD5, which has no way around hashing them: -EINVAL.
int mux_content_sink_hole(struct mux_content_sink *sink, uint64_t len);
// Yields the content and readies the sink for the next one. md5_hex may be NULL.
int mux_content_sink_finish(struct mux_content_sink *sink, struct mux_content *ret,
                            char md5_hex[MUX_MD5_HEX]);
// Begins with "#!" or is an ELF file: an executable. Ask before finishing.
bool mux_content_sink_is_executable(const struct mux_content_sink *sink);
// Drops what was written.
void mux_content_sink_fini(struct mux_content_sink *sink);

#endif
