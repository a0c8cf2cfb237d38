// A tree into a codebase, all or nothing: files of this host, read by their descriptors, and what
// is there already.
//
// Contents are copied by the kernel, shared where the file system can, and not hashed: the store
// may then hold one content twice, which costs space but no time. A second import of a tree leaves
// what has not changed since the first alone: it costs a stat and a look into the store each.
// Errors: an af_error. Thread: one at a time per import. Read next: source.h, copy_file.h.
#include "mux/import_priv.h"

#include "mux/base/clock.h"
#include "mux/copy_file.h"
#include "mux/base/whole.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

// Less is copied faster than shared: the kernel writes a file to the disk before it shares it.
#define CLONE_BYTES_MIN (128u << 10)

static int read_inline(int fd, size_t size, struct mux_content *ret)
{
    char buf[AF_INLINE_CONTENT_MAX];
    ssize_t n = af_read_whole(fd, buf, size, 0);
    if (n <= 0)
        return (int)n;
    ret->inline_data = malloc((size_t)n);
    if (!ret->inline_data)
        return -ENOMEM;
    memcpy(ret->inline_data, buf, (size_t)n);
    ret->size = (uint64_t)n;
    return 0;
}

// What a blob has become by sharing.
static int take_size(struct mux_content *content)
{
    struct stat made;
    if (fstat(store_blob_fd(content->blob), &made) < 0)
        return -errno;
    content->size = (uint64_t)made.st_size;
    return made.st_size > AF_FILE_SIZE_MAX ? -EFBIG : 0;
}

// Into a blob. It is made here, for makers on several threads would wait for their directory.
static int read_to_blob(struct mux_import *import, struct mux_import_item *item,
                        const struct stat *st, int fd)
{
    struct store_blob *blob;
    int rc = st->st_size > AF_FILE_SIZE_MAX ? -EFBIG : store_blob_new(import->store, &blob);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    if (st->st_size >= CLONE_BYTES_MIN && import->clones) {
        item->is_shared = import->clones = mux_clone_file(fd, store_blob_fd(blob));
        if (item->is_shared) {
            close(fd);
            item->content.blob = blob; // goes with the queue when this fails
            rc = take_size(&item->content);
            if (rc == 0 && item->content.size == 0) // it has become empty
                mux_content_fini(&item->content, 0);
            return rc;
        }
    }
    item->content.size = (uint64_t)st->st_size; // until it is settled
    return mux_import_copies_add(&import->copies, st, fd, blob, &item->copy);
}

// Takes fd. What is copied, and not at once, is item->copy's until it is settled.
static int read_content(struct mux_import *import, struct mux_import_item *item,
                        const struct stat *st, int fd)
{
    if (st->st_size > AF_INLINE_CONTENT_MAX)
        return read_to_blob(import, item, st, fd);
    int rc = read_inline(fd, (size_t)st->st_size, &item->content);
    close(fd);
    return rc;
}

static int count_bytes(struct mux_import *import, uint64_t bytes, struct af_error *err)
{
    import->totals.bytes += bytes;
    if (import->totals.bytes <= AF_CODEBASE_SIZE_MAX)
        return 0;
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "the tree's files have more than %lld bytes in all", AF_CODEBASE_SIZE_MAX);
}

static int fail_reading(int rc, const char *path, size_t path_len, struct af_error *err)
{
    if (rc == -EFBIG)
        return af_error_set(err, AF_INVALID_ARGUMENT, "'%.*s' is larger than %lld bytes",
                            MUX_SHOW(path, path_len), AF_FILE_SIZE_MAX);
    return mux_fail(err, rc, "copying a file");
}

static int settle_one(struct mux_import *import, struct mux_import_item *item)
{
    struct mux_import_copy *copy = item->copy;
    int rc = copy->rc;
    if (rc == 0) {
        import->totals.bytes += copy->size - item->content.size;
        item->content.size = copy->size;
        if (copy->size > 0) { // it has not become empty
            item->content.blob = copy->blob;
            copy->blob = NULL;
        }
    }
    mux_import_copy_free(copy);
    item->copy = NULL;
    return rc;
}

int mux_import_settle(struct mux_import *import, struct af_error *err)
{
    mux_import_copies_wait(import->copies);
    for (size_t i = 0; i < import->n_items; i++) {
        struct mux_import_item *item = &import->items[i];
        int rc = item->copy ? settle_one(import, item) : 0;
        if (rc < 0)
            return fail_reading(rc, item->path, item->path_len, err);
    }
    return 0;
}

int mux_import_file(struct mux_import *import, const void *path, size_t path_len,
                    const struct stat *st, int fd, struct af_error *err)
{
    struct mux_path parsed;
    struct mux_source source = mux_source_of(st);
    int64_t now_ns = af_wall_ns();
    if (mux_import_ready(import, path, path_len, &parsed, err) < 0) {
        close(fd);
        return -1;
    }
    struct mux_import_item item = {
        .path = strdup(parsed.text),
        .path_len = parsed.len,
        .mode = st->st_mode & (S_IFREG | 07777),
        .mtime_ns = source.mtime_ns,
        .source = source,
        .has_source = st->st_nlink == 1 && mux_source_is_settled(&source, now_ns),
    };
    int rc = read_content(import, &item, st, fd);
    if (rc == 0 && !item.path)
        rc = -ENOMEM;
    // What goes wrong from here on goes with the queue.
    import->items[import->n_items++] = item;
    if (rc < 0) {
        fail_reading(rc, parsed.text, parsed.len, err);
        return mux_import_fail(import, err);
    }
    import->batch_bytes += parsed.len + (item.content.inline_data ? item.content.size : 0);
    import->totals.files++;
    if (count_bytes(import, item.content.size, err) < 0)
        return mux_import_fail(import, err);
    return 0;
}

// ---- what is there already

// Walks down to a directory of the base. Those on the way hold what is sent, kept or not.
static int walk_to(struct mux_import *import, struct store_txn *txn, const char *path, size_t end,
                   uint64_t *ret)
{
    struct mux_layers base = mux_layer_list_base(&import->layers);
    struct store_entry entry;
    uint64_t dir = import->root_fid;
    for (size_t i = 0; i < end;) {
        const char *slash = memchr(path + i, '/', end - i);
        size_t n = (size_t)(slash - (path + i)); // end is past a slash
        int rc = mux_resolve_entry(txn, base, dir, path + i, n, &entry, NULL);
        if (rc == 0 && entry.type != DT_DIR)
            rc = -ENOTDIR;
        if (rc == 0 && import->replace)
            rc = mux_fid_map_put(&import->ancestors, entry.fid, 1);
        if (rc < 0)
            return rc;
        dir = entry.fid;
        i += n + 1;
    }
    *ret = dir;
    return 0;
}

static int find_kept_parent(struct mux_import *import, struct store_txn *txn,
                            const struct mux_path *path, uint64_t *ret)
{
    size_t end = mux_path_name_start(path->text, path->len);
    struct mux_path *cached = &import->kept_path;
    if (import->kept_parent == 0 || cached->len != end ||
        memcmp(cached->text, path->text, end) != 0) {
        import->kept_parent = 0;
        int rc = walk_to(import, txn, path->text, end, &import->kept_parent);
        if (rc < 0)
            return rc;
        memcpy(cached->text, path->text, end);
        cached->len = end;
    }
    *ret = import->kept_parent;
    return 0;
}

static int find_in_base(struct mux_import *import, struct store_txn *txn,
                        const struct mux_path *path, struct store_inode *ret)
{
    struct mux_layers base = mux_layer_list_base(&import->layers);
    struct store_entry entry;
    uint64_t parent;
    if (path->len == 0)
        return mux_resolve_inode(txn, base, import->root_fid, ret, NULL);
    int rc = find_kept_parent(import, txn, path, &parent);
    size_t start = mux_path_name_start(path->text, path->len);
    if (rc == 0)
        rc = mux_resolve_entry(txn, base, parent, path->text + start, path->len - start, &entry,
                               NULL);
    return rc < 0 ? rc : mux_resolve_inode(txn, base, entry.fid, ret, NULL);
}

static bool is_same(const struct store_inode *inode, const struct mux_source *source,
                    const void *target, size_t target_len)
{
    uint64_t origin;
    if (inode->mode != (source->mode & (S_IFMT | 07777)) || inode->mtime_ns != source->mtime_ns ||
        inode->xattr_bytes > 0)
        return false;
    if (S_ISREG(inode->mode))
        return inode->nlink == 1 && inode->origin != 0 &&
               mux_source_origin(source, inode->version, &origin) == 0 && origin == inode->origin;
    if (S_ISLNK(inode->mode))
        return inode->nlink == 1 && inode->inline_len == target_len &&
               memcmp(inode->inline_data, target, target_len) == 0;
    return S_ISDIR(inode->mode);
}

static int keep_in_txn(struct mux_import *import, struct store_txn *txn,
                       const struct mux_path *path, const struct mux_source *source,
                       const void *target, size_t target_len, bool *ret, struct af_error *err)
{
    struct store_codebase codebase;
    struct store_inode inode;
    if (mux_import_check_base(import, txn, &codebase, err) < 0)
        return -1;
    int rc = find_in_base(import, txn, path, &inode);
    if (rc == -ENOENT || rc == -ENOTDIR)
        return 0;
    if (rc == 0 && is_same(&inode, source, target, target_len)) {
        rc = mux_fid_map_put(&import->kept, inode.fid, 1);
        *ret = true;
    }
    return rc < 0 ? mux_fail(err, rc, "comparing with what the codebase holds") : 0;
}

bool mux_import_may_keep(const struct mux_import *import)
{
    return !import->base_is_empty;
}

int mux_import_keep(struct mux_import *import, const void *path, size_t path_len,
                    const struct stat *st, const void *target, size_t target_len, bool *ret_kept,
                    struct af_error *err)
{
    struct mux_path parsed;
    struct mux_source source = mux_source_of(st);
    struct store_txn *txn;
    *ret_kept = false;
    if (mux_import_ready(import, path, path_len, &parsed, err) < 0)
        return -1;
    if (import->base_is_empty || (st->st_nlink != 1 && !S_ISDIR(st->st_mode)))
        return 0;
    int rc = store_read_begin(import->store, &txn);
    if (rc < 0) {
        mux_fail(err, rc, "importing");
        return mux_import_fail(import, err);
    }
    rc = keep_in_txn(import, txn, &parsed, &source, target, target_len, ret_kept, err);
    store_read_end(txn);
    if (rc < 0)
        return mux_import_fail(import, err);
    if (!*ret_kept)
        return 0;
    if (S_ISREG(st->st_mode)) {
        import->totals.files++;
        import->totals.reused_files++;
        if (count_bytes(import, source.size, err) < 0)
            return mux_import_fail(import, err);
    } else if (S_ISLNK(st->st_mode)) {
        import->totals.symlinks++;
    } else {
        import->totals.directories++;
    }
    return 0;
}
