// A tree into a codebase, all or nothing: the side that takes the entries.
//
// Entries are checked and queued; a full queue goes into a layer of the import's own (see
// import_apply.c), which becomes the codebase's head at the commit. So an entry that clashes with
// an earlier one is refused by this call or by one that follows within the batch. After a failure
// every call repeats it; nothing of a failed, aborted or crashed import is ever seen.
// Owns the layer, the queue and the open sink. No transaction is held between calls. Errors: an
// af_error. Thread: one at a time per import. Read next: import_apply.c.
#include "mux/import_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static void clear_queue(struct mux_import *import)
{
    for (size_t i = 0; i < import->n_items; i++) {
        mux_import_copy_free(import->items[i].copy);
        free(import->items[i].path);
        free(import->items[i].link_target);
        mux_content_fini(&import->items[i].content, 0);
    }
    import->n_items = 0;
}

static void free_import(struct mux_import *import)
{
    mux_import_copies_free(import->copies); // nothing writes into what the queue holds
    clear_queue(import);
    mux_content_sink_fini(&import->sink);
    mux_fid_map_fini(&import->implied);
    mux_fid_map_fini(&import->ancestors);
    mux_fid_map_fini(&import->kept);
    mux_layer_list_fini(&import->layers);
    import->magic = 0;
    free(import);
}

int mux_import_fail(struct mux_import *import, const struct af_error *err)
{
    import->failed = true;
    import->failure = *err;
    return -1;
}

// The failure of an earlier call, if there was one.
static int check_alive(struct mux_import *import, struct af_error *err)
{
    AF_CHECK_MAGIC(import, MUX_IMPORT_MAGIC);
    if (!import->failed)
        return 0;
    *err = import->failure;
    return -1;
}

int mux_import_begin(struct mux *mux, const char *codebase_id, struct mux_import **ret,
                     struct af_error *err)
{
    if (mux_check_codebase_id(codebase_id, err) < 0)
        return -1;
    struct mux_import *import = calloc(1, sizeof *import);
    if (!import)
        return mux_fail(err, -ENOMEM, "starting the import");
    import->magic = MUX_IMPORT_MAGIC;
    import->clones = true;
    import->mux = mux;
    import->store = mux_store(mux);
    strcpy(import->codebase_id.text, codebase_id);
    int rc = mux_content_sink_init(&import->sink, import->store, false);
    if (rc < 0)
        mux_fail(err, rc, "starting the import");
    else
        rc = mux_import_open_layer(import, mux, err);
    if (rc < 0) {
        free_import(import);
        return -1;
    }
    *ret = import;
    return 0;
}

// The data of the last entry is complete.
static int finish_data(struct mux_import *import, struct af_error *err)
{
    if (!import->is_receiving)
        return 0;
    struct mux_import_item *item = &import->items[import->n_items - 1];
    import->totals.bytes += import->sink.size;
    if (import->totals.bytes > AF_CODEBASE_SIZE_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the tree's files have more than %lld bytes in all",
                            AF_CODEBASE_SIZE_MAX);
    int rc = mux_content_sink_finish(&import->sink, &item->content, NULL);
    if (rc < 0)
        return mux_fail(err, rc, "storing the data");
    if (!item->content.blob)
        import->batch_bytes += item->content.size;
    import->is_receiving = false;
    return 0;
}

static int flush_if_full(struct mux_import *import, struct af_error *err)
{
    if (import->n_items < MUX_IMPORT_BATCH_ENTRIES && import->batch_bytes < MUX_IMPORT_BATCH_BYTES)
        return 0;
    return mux_import_flush(import, err);
}

int mux_import_ready(struct mux_import *import, const void *path, size_t path_len,
                     struct mux_path *ret, struct af_error *err)
{
    if (check_alive(import, err) < 0)
        return -1;
    if (mux_check_path(path, path_len, false, ret, err) < 0 || finish_data(import, err) < 0 ||
        flush_if_full(import, err) < 0)
        return mux_import_fail(import, err);
    return 0;
}

static int check_kind(const struct mux_path *path, mode_t mode, const void *target,
                      size_t target_len, struct af_error *err)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFIFO:
    case S_IFSOCK:
        break;
    case S_IFLNK:
        if (target_len == 0 || target_len > AF_SYMLINK_MAX || memchr(target, '\0', target_len))
            return af_error_set(err, AF_INVALID_ARGUMENT,
                                "the target of the symbolic link '%.*s' is %s",
                                MUX_SHOW(path->text, path->len),
                                target_len == 0               ? "empty"
                                : target_len > AF_SYMLINK_MAX ? "too long (at most 4095 bytes)"
                                                              : "not text: it holds a NUL byte");
        break;
    case S_IFCHR:
    case S_IFBLK:
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "'%.*s' is a device; codebases hold none, leave it out",
                            MUX_SHOW(path->text, path->len));
    default:
        return af_error_set(err, AF_INVALID_ARGUMENT, "'%.*s' has no known file type (mode 0%o)",
                            MUX_SHOW(path->text, path->len), (unsigned)mode);
    }
    if (path->len == 0 && !S_ISDIR(mode))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the empty path is the root directory, it cannot become a file");
    return 0;
}

static void count_entry(struct mux_import *import, mode_t mode)
{
    if (S_ISREG(mode))
        import->totals.files++;
    else if (S_ISDIR(mode))
        import->totals.directories++;
    else if (S_ISLNK(mode))
        import->totals.symlinks++;
}

static int queue_entry(struct mux_import *import, const struct mux_path *path, mode_t mode,
                       int64_t mtime_ns, const void *target, size_t target_len)
{
    struct mux_import_item item = {
        .path_len = path->len,
        .mode = mode & (S_IFMT | 07777),
        .mtime_ns = mtime_ns,
    };
    item.path = malloc(path->len + 1);
    if (!item.path)
        return -ENOMEM;
    memcpy(item.path, path->text, path->len + 1);
    if (S_ISLNK(mode)) {
        item.content.size = target_len;
        item.content.inline_data = malloc(target_len);
        if (!item.content.inline_data) {
            free(item.path);
            return -ENOMEM;
        }
        memcpy(item.content.inline_data, target, target_len);
    }
    import->items[import->n_items++] = item;
    import->batch_bytes += path->len + item.content.size;
    import->is_receiving = S_ISREG(mode);
    count_entry(import, mode);
    return 0;
}

int mux_import_entry(struct mux_import *import, const void *path, size_t path_len, mode_t mode,
                     int64_t mtime_ns, const void *symlink_target, size_t target_len,
                     struct af_error *err)
{
    struct mux_path parsed;
    if (mux_import_ready(import, path, path_len, &parsed, err) < 0)
        return -1;
    if (check_kind(&parsed, mode, symlink_target, target_len, err) < 0)
        return mux_import_fail(import, err);
    int rc = queue_entry(import, &parsed, mode, mtime_ns, symlink_target, target_len);
    if (rc < 0) {
        mux_fail(err, rc, "importing");
        return mux_import_fail(import, err);
    }
    return 0;
}

int mux_import_link(struct mux_import *import, const void *path, size_t path_len,
                    const void *target, size_t target_len, struct af_error *err)
{
    struct mux_path parsed, leads_to;
    if (mux_import_ready(import, path, path_len, &parsed, err) < 0)
        return -1;
    if (mux_check_path(target, target_len, false, &leads_to, err) < 0)
        return mux_import_fail(import, err);
    if (parsed.len == 0 || leads_to.len == 0) {
        af_error_set(err, AF_INVALID_ARGUMENT, "the root directory is no hard link");
        return mux_import_fail(import, err);
    }
    struct mux_import_item item = {
        .path = strdup(parsed.text),
        .path_len = parsed.len,
        .link_target = strdup(leads_to.text),
        .link_target_len = leads_to.len,
    };
    if (!item.path || !item.link_target) {
        free(item.path);
        free(item.link_target);
        mux_fail(err, -ENOMEM, "importing");
        return mux_import_fail(import, err);
    }
    import->items[import->n_items++] = item;
    import->batch_bytes += item.path_len + item.link_target_len;
    import->totals.hard_links++;
    return 0;
}

int mux_import_remove(struct mux_import *import, const void *path, size_t path_len,
                      struct af_error *err)
{
    struct mux_path parsed;
    if (check_alive(import, err) < 0)
        return -1;
    if (mux_check_path(path, path_len, false, &parsed, err) < 0 || finish_data(import, err) < 0 ||
        mux_import_flush(import, err) < 0 ||
        mux_import_remove_tree(import, parsed.text, parsed.len, err) < 0)
        return mux_import_fail(import, err);
    return 0;
}

int mux_import_expect(struct mux_import *import, int64_t updated_ns, struct af_error *err)
{
    if (check_alive(import, err) < 0)
        return -1;
    if (import->base_updated_ns == updated_ns)
        return 0;
    af_error_set(err, AF_ABORTED,
                 "the codebase is another version than the import is for, so nothing was imported; "
                 "send the whole tree");
    return mux_import_fail(import, err);
}

int mux_import_replace(struct mux_import *import, const void *path, size_t path_len,
                       struct af_error *err)
{
    if (check_alive(import, err) < 0)
        return -1;
    if (mux_check_path(path, path_len, false, &import->replaced, err) < 0)
        return mux_import_fail(import, err);
    import->replace = true;
    return 0;
}

static int check_receiving(struct mux_import *import, struct af_error *err)
{
    if (check_alive(import, err) < 0)
        return -1;
    if (import->is_receiving)
        return 0;
    af_error_set(err, AF_INVALID_ARGUMENT,
                 "data without a regular file: send the file's entry before its data");
    return mux_import_fail(import, err);
}

// Tells what the sink answered.
static int received(struct mux_import *import, int rc, struct af_error *err)
{
    if (rc == -EFBIG) {
        const struct mux_import_item *item = &import->items[import->n_items - 1];
        af_error_set(err, AF_INVALID_ARGUMENT, "'%.*s' is larger than %lld bytes",
                     MUX_SHOW(item->path, item->path_len), AF_FILE_SIZE_MAX);
    } else if (rc < 0) {
        mux_fail(err, rc, "storing the data");
    }
    return rc < 0 ? mux_import_fail(import, err) : 0;
}

int mux_import_data(struct mux_import *import, const void *data, size_t len, struct af_error *err)
{
    if (check_receiving(import, err) < 0)
        return -1;
    return received(import, mux_content_sink_write(&import->sink, data, len), err);
}

int mux_import_hole(struct mux_import *import, uint64_t len, struct af_error *err)
{
    if (check_receiving(import, err) < 0)
        return -1;
    return received(import, mux_content_sink_hole(&import->sink, len), err);
}

int mux_import_commit(struct mux_import *import, struct mux_import_totals *ret,
                      struct af_error *err)
{
    if (check_alive(import, err) < 0 || finish_data(import, err) < 0 ||
        mux_import_flush(import, err) < 0 ||
        // Nothing but the root was there before.
        (import->replace && !import->base_is_empty && mux_import_remove_rest(import, err) < 0) ||
        mux_import_adopt(import, err) < 0) {
        mux_import_abort(import);
        return -1;
    }
    *ret = import->totals;
    free_import(import);
    return 0;
}

void mux_import_abort(struct mux_import *import)
{
    AF_CHECK_MAGIC(import, MUX_IMPORT_MAGIC);
    mux_import_drop_layer(import);
    free_import(import);
}
