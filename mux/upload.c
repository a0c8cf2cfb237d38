// One file into a codebase: the bytes stream to memory or disk, then one transaction puts the file.
//
// An upload owns its bytes until the commit; no transaction and no lock is held while they arrive
// (O4). Two uploads of one path: the later commit wins, both are whole. A crash before the commit
// leaves a blob file that the store sweeps. Thread: one at a time per upload. Read next: content.c,
// tree_edit.c.
#include "mux/codebase_priv.h"

#include "mux/base/clock.h"
#include "mux/layer_list.h"
#include "mux/news_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define UPLOAD_MAGIC 0x75706c64

struct mux_upload {
    uint32_t magic;
    struct mux *mux;
    struct store *store;
    struct af_id codebase_id;
    struct mux_path path;
    int64_t total_size; // as announced; <= 0: unknown (sandbox.v1 cannot tell 0 from unset)
    struct mux_content_sink sink;
};

static int check_total(struct store *store, int64_t total_size, struct af_error *err)
{
    if (total_size > AF_FILE_SIZE_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "total_size is %lld bytes, one file holds at most %lld",
                            (long long)total_size, AF_FILE_SIZE_MAX);
    uint64_t total, available;
    int rc = store_statfs(store, &total, &available);
    if (rc < 0)
        return mux_fail(err, rc, "asking for the free space of the state directory");
    if (total_size > 0 && (uint64_t)total_size > available)
        return mux_fail(err, -ENOSPC, "uploading the file");
    return 0;
}

// Refuses early what the commit would refuse, before the client sends the data.
static int check_target(struct mux_upload *upload, struct af_error *err)
{
    struct store_txn *txn;
    int rc = store_read_begin(upload->store, &txn);
    if (rc < 0)
        return mux_fail(err, rc, "reading the codebase");
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    struct store_codebase codebase;
    struct store_inode inode;
    rc = store_codebase_get(txn, upload->codebase_id.text, &codebase);
    if (rc == 0)
        rc = mux_layer_list_load(txn, codebase.head, codebase.stack, &layers);
    if (rc < 0) {
        store_read_end(txn);
        return mux_fail_codebase(err, rc, upload->codebase_id.text);
    }
    rc = mux_resolve_path(txn, mux_layer_list_all(&layers), codebase.root_fid, upload->path.text,
                          upload->path.len, &inode, NULL);
    store_read_end(txn);
    if (rc == 0 && S_ISDIR(inode.mode))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is a directory, not a file; choose another name",
                            MUX_SHOW(upload->path.text, upload->path.len));
    if (rc < 0 && rc != -ENOENT)
        return mux_fail_path(err, rc, &upload->path);
    return 0;
}

int mux_upload_begin(struct mux *mux, const char *codebase_id, const void *path, size_t path_len,
                     int64_t total_size, struct mux_upload **ret, struct af_error *err)
{
    if (mux_check_codebase_id(codebase_id, err) < 0)
        return -1;
    AF_CLEANUP_FREE struct mux_upload *upload = calloc(1, sizeof *upload);
    if (!upload)
        return mux_fail(err, -ENOMEM, "starting the upload");
    upload->magic = UPLOAD_MAGIC;
    upload->mux = mux;
    upload->store = mux_store(mux);
    upload->total_size = total_size;
    strcpy(upload->codebase_id.text, codebase_id);
    if (mux_check_path(path, path_len, false, &upload->path, err) < 0)
        return -1;
    if (upload->path.len == 0)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the path is empty: name the file within the codebase");
    if (check_total(upload->store, total_size, err) < 0 || check_target(upload, err) < 0)
        return -1;
    int rc = mux_content_sink_init(&upload->sink, upload->store, true);
    if (rc < 0)
        return mux_fail(err, rc, "starting the upload");
    *ret = AF_TAKE_PTR(upload);
    return 0;
}

int mux_upload_write(struct mux_upload *upload, const void *data, size_t len, struct af_error *err)
{
    AF_CHECK_MAGIC(upload, UPLOAD_MAGIC);
    if (upload->total_size > 0 && len > (uint64_t)upload->total_size - upload->sink.size)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "more data than the %lld bytes that total_size announced",
                            (long long)upload->total_size);
    int rc = mux_content_sink_write(&upload->sink, data, len);
    if (rc == -EFBIG)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the file is larger than %lld bytes",
                            AF_FILE_SIZE_MAX);
    return rc < 0 ? mux_fail(err, rc, "storing the upload's data") : 0;
}

void mux_upload_abort(struct mux_upload *upload)
{
    AF_CHECK_MAGIC(upload, UPLOAD_MAGIC);
    mux_content_sink_fini(&upload->sink);
    upload->magic = 0;
    free(upload);
}

// ---- for who watches the codebase

// What was there before the file.
struct before {
    size_t known; // so many bytes of the path lead to something
    mode_t mode;  // of what was at the path itself, 0: nothing
};

static int look_before(const struct mux_path *path, const struct mux_tree_edit *edit,
                       struct before *ret)
{
    struct store_inode inode;
    *ret = (struct before){0};
    for (size_t end = 0; end < path->len; end++) {
        while (++end < path->len && path->text[end] != '/')
            ;
        int rc = mux_resolve_path(edit->txn, edit->layers, edit->root_fid, path->text, end, &inode,
                                  NULL);
        if (rc < 0)
            return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc;
        ret->known = end;
    }
    ret->mode = inode.mode;
    return 0;
}

static void tell(const struct mux_news_turn *news, enum mux_change change, const char *path,
                 mode_t mode, uint64_t size)
{
    const struct mux_diff_entry entry = {
        .change = change, .path = path, .mode = mode, .size = size};
    mux_news_tell(news, &entry);
}

static void tell_all(const struct mux_upload *upload, const struct mux_news_turn *news,
                     const struct before *before, const struct mux_tree_object *object)
{
    struct mux_path path = upload->path;
    uint64_t size = object->content->size;
    if (!mux_news_wanted(news))
        return;
    for (size_t end = before->known + 1; end < path.len; end++) {
        if (path.text[end] != '/')
            continue;
        path.text[end] = '\0';
        tell(news, MUX_ADDED, path.text, S_IFDIR | 0755, 0);
        path.text[end] = '/';
    }
    bool replaces = before->mode != 0 && !S_ISREG(before->mode);
    if (replaces)
        tell(news, MUX_DELETED, path.text, before->mode, 0);
    tell(news, S_ISREG(before->mode) ? MUX_MODIFIED : MUX_ADDED, path.text, object->mode, size);
}

// ---- the commit

// Everything that the file changes in the store, in the caller's transaction.
static int put_file(struct mux_upload *upload, struct store_txn *txn,
                    const struct mux_tree_object *object, struct before *before, uint64_t *ret_blob,
                    struct af_error *err)
{
    AF_CLEANUP_LAYER_LIST struct mux_layer_list layers = {0};
    struct store_codebase codebase;
    int rc = store_codebase_get(txn, upload->codebase_id.text, &codebase);
    if (rc == 0)
        rc = mux_codebase_thaw_head(upload->mux, txn, &codebase);
    if (rc == 0)
        rc = mux_layer_list_load(txn, codebase.head, codebase.stack, &layers);
    if (rc < 0)
        return mux_fail_codebase(err, rc, upload->codebase_id.text);
    struct mux_tree_edit edit = {
        .store = upload->store,
        .txn = txn,
        .layers = mux_layer_list_all(&layers),
        .root_fid = codebase.root_fid,
        .now_ns = object->mtime_ns,
    };
    const struct mux_path *path = &upload->path;
    uint64_t parent;
    if (before && (rc = look_before(path, &edit, before)) < 0)
        return mux_fail(err, rc, "resolving the path");
    if (mux_tree_edit_parent(&edit, path->text, path->len, &parent, err) < 0 ||
        mux_tree_edit_put(&edit, parent, path->text, path->len, object, ret_blob, err) < 0)
        return -1;
    rc = mux_codebase_apply_edit(txn, &codebase, &edit);
    return rc < 0 ? mux_fail(err, rc, "updating the codebase") : 0;
}

static int commit_content(struct mux_upload *upload, struct mux_content *content, mode_t mode,
                          struct af_error *err)
{
    struct mux_tree_object object = {
        .mode = S_IFREG | mode,
        .mtime_ns = af_wall_ns(),
        .content = content,
    };
    struct mux_news_turn news;
    struct before before = {0};
    struct store_txn *txn;
    uint64_t blob = 0;
    mux_news_begin(upload->mux, upload->codebase_id.text, &news);
    int rc = store_write_begin(upload->store, &txn);
    if (rc < 0) {
        mux_fail(err, rc, "storing the file");
    } else if (put_file(upload, txn, &object, mux_news_wanted(&news) ? &before : NULL, &blob, err) <
               0) {
        store_abort(txn);
        rc = -1;
    } else {
        rc = store_commit(txn);
        if (rc < 0)
            mux_fail(err, rc, "storing the file");
        else
            tell_all(upload, &news, &before, &object);
    }
    mux_news_end(&news, false);
    mux_content_fini(content, rc == 0 ? blob : 0);
    return rc < 0 ? -1 : 0;
}

int mux_upload_commit(struct mux_upload *upload, struct mux_upload_result *ret,
                      struct af_error *err)
{
    AF_CHECK_MAGIC(upload, UPLOAD_MAGIC);
    struct mux_upload_result result = {.size = upload->sink.size};
    struct mux_content content;
    int rc;
    memcpy(result.path, upload->path.text, upload->path.len + 1);
    mode_t mode = mux_content_sink_is_executable(&upload->sink) ? 0755 : 0644;
    if (upload->total_size > 0 && upload->sink.size != (uint64_t)upload->total_size) {
        rc = af_error_set(err, AF_INVALID_ARGUMENT,
                          "the upload ended after %llu of the %lld bytes that total_size announced",
                          (unsigned long long)upload->sink.size, (long long)upload->total_size);
    } else {
        rc = mux_content_sink_finish(&upload->sink, &content, result.md5_hex);
        if (rc < 0)
            mux_fail(err, rc, "storing the file");
        else
            rc = commit_content(upload, &content, mode, err);
    }
    mux_upload_abort(upload);
    if (rc < 0)
        return -1;
    *ret = result;
    return 0;
}
