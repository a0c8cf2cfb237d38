// A fixed version of one regular file's content, for downloads.
//
// Owns a copy of inline content or a reference to the open blob: what replaces or deletes the file
// later cannot take the bytes away (the blob's file stays open though unlinked). The exception is
// a file that a running sandbox itself wrote: its delta blob is written in place, so a reader sees
// the command's writes as they come, within the size at the time of opening. Thread: reads may run
// at once. Read next: codebase.h.
#include "mux/file_priv.h"

#include "mux/layer_list.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAGIC    0x6d66696c
#define OPEN_ATTEMPTS 16 // each lost one means that another writer committed in between

struct mux_file {
    uint32_t magic;
    uint64_t size;
    struct store_blob *blob; // or NULL
    size_t inline_len;
    char inline_data[];
};

int mux_file_open_inode(struct store *store, const struct store_inode *inode, struct mux_file **ret)
{
    if (S_ISDIR(inode->mode))
        return -EISDIR;
    if (!S_ISREG(inode->mode))
        return -EINVAL;
    size_t inline_len = inode->content == STORE_CONTENT_INLINE ? inode->inline_len : 0;
    AF_CLEANUP_FREE struct mux_file *file = calloc(1, sizeof *file + inline_len);
    if (!file)
        return -ENOMEM;
    file->magic = FILE_MAGIC;
    file->size = inode->size;
    file->inline_len = inline_len;
    if (inline_len > 0)
        memcpy(file->inline_data, inode->inline_data, inline_len);
    if (inode->content == STORE_CONTENT_BLOB) {
        int rc = store_blob_open_sized(store, inode->blob, inode->size, &file->blob);
        if (rc < 0)
            return rc;
    }
    *ret = AF_TAKE_PTR(file);
    return 0;
}

static int open_once(struct store *store, mux_file_load_fn load, const char *id,
                     const struct mux_path *path, struct mux_file **ret, bool *ret_stale,
                     struct af_error *err)
{
    struct store_txn *txn;
    int rc = store_read_begin(store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "opening the file");
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    uint64_t live, stack, root;
    struct store_inode inode;
    rc = load(txn, id, &live, &stack, &root);
    if (rc < 0) {
        store_read_end(txn);
        return strncmp(id, "cb_", 3) == 0 ? mux_fail_codebase(err, rc, id)
                                          : mux_fail_sandbox(err, rc, id);
    }
    rc = mux_layer_list_load(txn, live, stack, &layers);
    if (rc == 0)
        rc = mux_resolve_path(txn, mux_layer_list_all(&layers), root, path->text, path->len, &inode,
                              NULL);
    if (rc < 0) {
        store_read_end(txn);
        return mux_fail_path(err, rc, path);
    }
    rc = mux_file_open_inode(store, &inode, ret);
    store_read_end(txn);
    *ret_stale = rc == -ENOENT || rc == -EIO; // replaced, or cut, since the record was read
    if (rc == -EISDIR || rc == -EINVAL)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is %s; only regular files can be read",
                            MUX_SHOW(path->text, path->len),
                            rc == -EISDIR         ? "a directory"
                            : S_ISLNK(inode.mode) ? "a symbolic link, which is not followed here"
                                                  : "a special file");
    return rc < 0 ? mux_fail(err, rc == -ENOENT ? -EIO : rc, "opening the file's content") : 0;
}

int mux_file_open_path(struct mux *mux, mux_file_load_fn load, const char *id,
                       const struct mux_path *path, struct mux_file **ret, struct af_error *err)
{
    int rc = -1;
    bool stale = true;
    for (int i = 0; i < OPEN_ATTEMPTS && stale; i++) {
        stale = false;
        rc = open_once(mux_store(mux), load, id, path, ret, &stale, err);
    }
    return rc;
}

static int load_codebase(struct store_txn *txn, const char *id, uint64_t *ret_live,
                         uint64_t *ret_stack, uint64_t *ret_root)
{
    struct store_codebase codebase;
    int rc = store_codebase_get(txn, id, &codebase);
    if (rc < 0)
        return rc;
    *ret_live = codebase.head;
    *ret_stack = codebase.stack;
    *ret_root = codebase.root_fid;
    return 0;
}

int mux_codebase_open_file(struct mux *mux, const char *codebase_id, const void *path,
                           size_t path_len, struct mux_file **ret, struct af_error *err)
{
    struct mux_path parsed;
    if (mux_check_codebase_id(codebase_id, err) < 0 ||
        mux_check_path(path, path_len, false, &parsed, err) < 0)
        return -1;
    return mux_file_open_path(mux, load_codebase, codebase_id, &parsed, ret, err);
}

uint64_t mux_file_size(const struct mux_file *file)
{
    AF_CHECK_MAGIC(file, FILE_MAGIC);
    return file->size;
}

ssize_t mux_file_read(struct mux_file *file, void *buf, size_t size, uint64_t offset)
{
    AF_CHECK_MAGIC(file, FILE_MAGIC);
    if (offset >= file->size)
        return 0;
    if (size > file->size - offset)
        size = (size_t)(file->size - offset);
    if (size > SSIZE_MAX)
        size = SSIZE_MAX;
    size_t got = 0;
    if (!file->blob && offset < file->inline_len) {
        got = file->inline_len - (size_t)offset < size ? file->inline_len - (size_t)offset : size;
        memcpy(buf, file->inline_data + offset, got);
    }
    if (file->blob) {
        ssize_t n = af_read_whole(store_blob_fd(file->blob), buf, size, (off_t)offset);
        if (n < 0)
            return n;
        got = (size_t)n;
    }
    memset((char *)buf + got, 0, size - got); // cut since it was opened, by its own sandbox
    return (ssize_t)size;
}

uint64_t mux_file_hole(struct mux_file *file, uint64_t offset)
{
    AF_CHECK_MAGIC(file, FILE_MAGIC);
    if (offset >= file->size || (!file->blob && offset < file->inline_len))
        return 0;
    uint64_t data = file->size;
    if (file->blob) { // its descriptor's offset, which this moves, is nobody's
        off_t found = lseek(store_blob_fd(file->blob), (off_t)offset, SEEK_DATA);
        if (found < 0 && errno != ENXIO) // ENXIO: no more data
            return 0;
        if (found >= 0 && (uint64_t)found < data)
            data = (uint64_t)found;
    }
    return data - offset;
}

void mux_file_close(struct mux_file *file)
{
    AF_CHECK_MAGIC(file, FILE_MAGIC);
    if (file->blob)
        store_blob_release(file->blob);
    file->magic = 0;
    free(file);
}
