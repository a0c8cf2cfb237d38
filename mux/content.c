// Bytes into memory or a blob file, hashed on the way. Owns a blob until a record refers to it; a
// crash before that leaves a file that the store sweeps at its next start. Read next: content.h.
#include "mux/content.h"

#include "mux/base/cleanup.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

// libcrypto's digest functions fail for want of memory only.
static int digest_begin(EVP_MD_CTX *ctx, const EVP_MD *md)
{
    return EVP_DigestInit_ex(ctx, md, NULL) == 1 ? 0 : -ENOMEM;
}

static int digest_add(EVP_MD_CTX *ctx, const void *data, size_t len)
{
    return EVP_DigestUpdate(ctx, data, len) == 1 ? 0 : -ENOMEM;
}

int mux_content_sink_init(struct mux_content_sink *sink, struct store *store, bool want_md5)
{
    memset(sink, 0, sizeof *sink);
    sink->store = store;
    sink->want_md5 = want_md5;
    sink->sha256 = EVP_MD_CTX_new();
    sink->md5 = EVP_MD_CTX_new();
    if (!sink->sha256 || !sink->md5 || (want_md5 && digest_begin(sink->md5, EVP_md5()) < 0)) {
        mux_content_sink_fini(sink);
        return -ENOMEM;
    }
    return 0;
}

void mux_content_sink_fini(struct mux_content_sink *sink)
{
    EVP_MD_CTX_free(sink->sha256);
    EVP_MD_CTX_free(sink->md5);
    if (sink->blob)
        store_blob_discard(sink->blob);
    sink->sha256 = sink->md5 = NULL;
    sink->blob = NULL;
    sink->size = sink->hole_bytes = 0;
}

static bool has_digest(const struct mux_content_sink *sink)
{
    return sink->hole_bytes <= MUX_HOLES_HASHED_MAX;
}

// The content outgrew memory: moves what there is to a new blob.
static int spill(struct mux_content_sink *sink)
{
    int rc = store_blob_new(sink->store, &sink->blob);
    if (rc < 0)
        return rc;
    rc = digest_begin(sink->sha256, EVP_sha256());
    if (rc == 0)
        rc = digest_add(sink->sha256, sink->buf, (size_t)sink->size);
    if (rc == 0)
        rc = af_write_whole(store_blob_fd(sink->blob), (const char *)sink->buf, (size_t)sink->size,
                            0);
    return rc;
}

int mux_content_sink_write(struct mux_content_sink *sink, const void *data, size_t len)
{
    if (len == 0)
        return 0;
    if (len > (uint64_t)AF_FILE_SIZE_MAX - sink->size)
        return -EFBIG;
    int rc = sink->want_md5 ? digest_add(sink->md5, data, len) : 0;
    if (rc == 0 && !sink->blob && sink->size + len > sizeof sink->buf)
        rc = spill(sink);
    if (rc < 0)
        return rc;
    if (!sink->blob) {
        memcpy(sink->buf + sink->size, data, len);
    } else {
        if (sink->size < 4) // keep the first bytes for mux_content_sink_is_executable
            memcpy(sink->buf + sink->size, data, len < 4 ? len : 4);
        rc = has_digest(sink) ? digest_add(sink->sha256, data, len) : 0;
        if (rc == 0)
            rc = af_write_whole(store_blob_fd(sink->blob), data, len, (off_t)sink->size);
        if (rc < 0)
            return rc;
    }
    sink->size += len;
    return 0;
}

// The first hole beyond what is hashed ends the hashing.
static int digest_add_zeros(struct mux_content_sink *sink, uint64_t len)
{
    static const uint8_t zeros[4096];
    int rc = 0;
    while (rc == 0 && len > 0 && has_digest(sink)) {
        size_t part = len < sizeof zeros ? (size_t)len : sizeof zeros;
        rc = digest_add(sink->sha256, zeros, part);
        len -= part;
    }
    return rc;
}

int mux_content_sink_hole(struct mux_content_sink *sink, uint64_t len)
{
    if (sink->want_md5)
        return -EINVAL;
    if (len > (uint64_t)AF_FILE_SIZE_MAX - sink->size)
        return -EFBIG;
    uint64_t end = sink->size + len;
    if (sink->size < sizeof sink->buf) {
        uint64_t room = sizeof sink->buf - sink->size;
        memset(sink->buf + sink->size, 0, (size_t)(len < room ? len : room));
    }
    int rc = !sink->blob && end > sizeof sink->buf ? spill(sink) : 0;
    if (rc == 0 && sink->blob) {
        sink->hole_bytes += len;
        rc = digest_add_zeros(sink, len);
        if (rc == 0 && ftruncate(store_blob_fd(sink->blob), (off_t)end) < 0)
            rc = -errno;
    }
    if (rc == 0)
        sink->size = end;
    return rc;
}

bool mux_content_sink_is_executable(const struct mux_content_sink *sink)
{
    return (sink->size >= 2 && memcmp(sink->buf, "#!", 2) == 0) ||
           (sink->size >= 4 && memcmp(sink->buf, "\177ELF", 4) == 0);
}

static int finish_md5(struct mux_content_sink *sink, char hex[MUX_MD5_HEX])
{
    uint8_t md5[16];
    if (EVP_DigestFinal_ex(sink->md5, md5, NULL) != 1)
        return -ENOMEM;
    if (hex)
        for (size_t i = 0; i < sizeof md5; i++)
            snprintf(hex + 2 * i, 3, "%02x", md5[i]);
    return digest_begin(sink->md5, EVP_md5());
}

int mux_content_sink_finish(struct mux_content_sink *sink, struct mux_content *ret,
                            char md5_hex[MUX_MD5_HEX])
{
    struct mux_content content = {.size = sink->size};
    if (sink->want_md5) {
        int rc = finish_md5(sink, md5_hex);
        if (rc < 0)
            return rc;
    }
    if (sink->blob) {
        content.has_digest = has_digest(sink);
        if (content.has_digest && EVP_DigestFinal_ex(sink->sha256, content.sha256, NULL) != 1)
            return -ENOMEM;
        content.blob = sink->blob;
    } else if (sink->size > 0) {
        content.inline_data = malloc((size_t)sink->size);
        if (!content.inline_data)
            return -ENOMEM;
        memcpy(content.inline_data, sink->buf, (size_t)sink->size);
    }
    sink->blob = NULL;
    sink->size = sink->hole_bytes = 0;
    *ret = content;
    return 0;
}

int mux_content_describe(struct store_txn *txn, const struct mux_content *content,
                         struct store_inode *inode)
{
    inode->size = content->size;
    inode->content = STORE_CONTENT_NONE;
    inode->blob = 0;
    inode->inline_data = NULL;
    inode->inline_len = 0;
    if (content->blob) {
        inode->content = STORE_CONTENT_BLOB;
        int rc = -ENOENT;
        if (content->has_digest)
            rc = store_digest_find(txn, content->sha256, &inode->blob);
        if (rc == -ENOENT)
            inode->blob = store_blob_id(content->blob);
        else if (rc < 0)
            return rc;
    } else if (content->size > 0) {
        inode->content = STORE_CONTENT_INLINE;
        inode->inline_data = content->inline_data;
        inode->inline_len = (size_t)content->size;
    }
    return 0;
}

int mux_content_register(struct store_txn *txn, const struct mux_content *content,
                         const struct store_inode *inode)
{
    if (!content->has_digest || inode->blob != store_blob_id(content->blob))
        return 0;
    return store_digest_put(txn, content->sha256, inode->blob);
}

void mux_content_fini(struct mux_content *content, uint64_t committed_blob)
{
    if (content->blob) {
        if (committed_blob == store_blob_id(content->blob))
            store_blob_release(content->blob);
        else
            store_blob_discard(content->blob);
    }
    free(content->inline_data);
    *content = (struct mux_content){0};
}
