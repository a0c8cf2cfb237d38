// A tree as a tar stream (pax). Read next: archive.h.
//
// What there is is gathered first (names, kinds, attributes: one consistent state; of a delta, what
// a renamed directory holds is looked up after the diff); contents are opened when it is their
// turn. A file that has gone by then is left out; one that has another size is written with what it
// has now, its beginning and end from one version. Of a file with several names the first is the
// file, the others are hard links to it. A delta's removed names are empty files with the extended
// attribute ARCHIVE_REMOVED. Owns the gathered list, bounded as mux bounds it (MUX_ARENA_CAP).
#include "api/services/archive.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uthash.h>

#define WRITE_BYTES (64u << 10)

struct item {
    struct item *next;
    mode_t mode;
    uint64_t size, fid;
    uint32_t nlink;
    int64_t mtime_ns;
    const char *target; // behind the path, or NULL
    bool removed;
    char path[];
};

struct first_name {
    uint64_t fid;
    const struct item *item;
    UT_hash_handle hh;
};

struct archive_writer {
    struct mux *mux;
    char *codebase_id, *sandbox_id; // one of the two
    struct archive *archive;
    archive_sink sink;
    void *arg;
    struct item *items, **last, *next;
    const struct item *newest; // of items
    const struct item *moved;  // of a delta: the latest directory that came whole
    size_t skip;               // bytes of a path that are the asked-for directory's
    bool readable;             // only what the agent may read
    struct first_name *names;
    struct mux_file *file; // being written, `left` bytes to go
    uint64_t offset, left;
    int64_t now_ns;
};

// ---- gathering

static int add(struct archive_writer *writer, const struct item *facts, const char *path,
               const char *target)
{
    const struct item *newest = writer->newest;
    size_t path_len = strlen(path), target_len = target ? strlen(target) + 1 : 0;
    if (newest && !newest->removed && !facts->removed && strcmp(newest->path, path) == 0)
        return 0; // renamed, and changed as well
    struct item *item = malloc(sizeof *item + path_len + 1 + target_len);
    if (!item)
        return -ENOMEM;
    *item = *facts;
    item->next = NULL;
    memcpy(item->path, path, path_len + 1);
    if (target)
        item->target = memcpy(item->path + path_len + 1, target, target_len);
    *writer->last = item;
    writer->last = &item->next;
    writer->newest = item;
    return 0;
}

static int add_node(void *arg, const struct mux_tree_node *node)
{
    const struct item facts = {.mode = node->mode,
                               .size = node->size,
                               .fid = node->fid,
                               .nlink = node->nlink,
                               .mtime_ns = node->mtime_ns};
    struct archive_writer *writer = arg;
    // What the agent may only see, or pass through, has no content for it.
    if (writer->readable && node->level < RULES_READ && !S_ISDIR(node->mode))
        return 0;
    return add(writer, &facts, node->path, node->symlink_target);
}

static bool is_below(const char *path, const struct item *dir)
{
    size_t len = dir ? strlen(dir->path) : 0;
    return dir && strncmp(path, dir->path, len) == 0 && path[len] == '/';
}

// What a directory that was renamed holds: a diff tells the directory alone.
static int add_moved(struct archive_writer *writer, const char *path)
{
    struct af_error err;
    writer->moved = writer->newest;
    int rc = mux_inspect_tree(writer->mux, writer->sandbox_id, path, strlen(path), 0, true,
                              add_node, writer, &err);
    return rc < 0 && rc != -ENOMEM && err.status == AF_NOT_FOUND ? 0 : rc; // gone since
}

static int add_change(void *arg, const struct mux_diff_entry *entry)
{
    struct archive_writer *writer = arg;
    struct item facts = {.mode = entry->mode,
                         .size = entry->size,
                         .fid = entry->fid,
                         .nlink = 2, // for all that a diff says: others may be told as well
                         .mtime_ns = entry->mtime_ns};
    bool is_there = is_below(entry->path, writer->moved);
    int rc = 0;
    if (entry->change == MUX_RENAMED || (entry->change == MUX_DELETED && !is_there)) {
        struct item gone = {.mode = S_IFREG, .removed = true, .mtime_ns = writer->now_ns};
        rc = add(writer, &gone, entry->old_path ? entry->old_path : entry->path, NULL);
    }
    if (rc < 0 || is_there || entry->change == MUX_DELETED)
        return rc;
    rc = add(writer, &facts, entry->path, entry->symlink_target);
    if (rc == 0 && entry->change == MUX_RENAMED && S_ISDIR(entry->mode))
        rc = add_moved(writer, entry->path);
    return rc;
}

static int gather(struct archive_writer *writer, const struct archive_source *source,
                  struct af_error *err)
{
    int rc;
    if (source->codebase_id)
        rc = mux_codebase_tree(writer->mux, source->codebase_id, source->path, source->path_len, 0,
                               add_node, writer, err);
    else if (source->delta)
        rc = mux_inspect_diff(writer->mux, source->sandbox_id, add_change, writer, err);
    else
        rc = mux_inspect_tree(writer->mux, source->sandbox_id, source->path, source->path_len, 0,
                              source->all, add_node, writer, err);
    return rc == -ENOMEM ? af_error_errno(err, ENOMEM, "cannot gather the archive") : rc;
}

// ---- libarchive's side

static ssize_t write_out(struct archive *archive, void *arg, const void *bytes, size_t len)
{
    struct archive_writer *writer = arg;
    (void)archive;
    writer->sink(writer->arg, bytes, len);
    return (ssize_t)len;
}

static int failed(struct archive_writer *writer, struct af_error *err)
{
    const char *text = archive_error_string(writer->archive);
    return af_error_set(err, AF_INTERNAL, "cannot write the archive: %.200s",
                        text ? text : "no reason given");
}

static void discard(void *arg, const void *bytes, size_t len)
{
    (void)arg;
    (void)bytes;
    (void)len;
}

static int open_archive(struct archive_writer *writer, bool zstd, struct af_error *err)
{
    writer->archive = archive_write_new();
    if (!writer->archive)
        return af_error_errno(err, ENOMEM, "cannot write an archive");
    archive_write_set_format_pax(writer->archive); // times to the nanosecond
    archive_write_set_bytes_per_block(writer->archive, WRITE_BYTES);
    archive_write_set_bytes_in_last_block(writer->archive, 1);
    if ((zstd && archive_write_add_filter_zstd(writer->archive) != ARCHIVE_OK) ||
        archive_write_open(writer->archive, writer, NULL, write_out, NULL) != ARCHIVE_OK)
        return failed(writer, err);
    return 0;
}

int archive_writer_new(struct mux *mux, const struct archive_source *source, archive_sink sink,
                       void *arg, struct archive_writer **ret, struct af_error *err)
{
    struct archive_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return af_error_errno(err, ENOMEM, "cannot write an archive");
    writer->mux = mux;
    writer->sink = sink;
    writer->arg = arg;
    writer->last = &writer->items;
    writer->now_ns = af_wall_ns();
    writer->readable = source->sandbox_id && !source->all;
    if (source->codebase_id)
        writer->codebase_id = strdup(source->codebase_id);
    else
        writer->sandbox_id = strdup(source->sandbox_id);
    locale_t before = archive_enter_utf8();
    int rc = gather(writer, source, err);
    if (rc == 0)
        rc = open_archive(writer, source->zstd, err);
    uselocale(before);
    if (rc < 0) {
        archive_writer_free(writer);
        return -1;
    }
    const char *path = source->path;
    writer->skip = source->delta ? 0 : source->path_len;
    while (writer->skip > 0 && path[writer->skip - 1] == '/')
        writer->skip--;
    writer->next = writer->items;
    *ret = writer;
    return 0;
}

void archive_writer_free(struct archive_writer *writer)
{
    if (!writer)
        return;
    struct first_name *name, *next_name;
    HASH_ITER (hh, writer->names, name, next_name) {
        HASH_DEL(writer->names, name);
        free(name);
    }
    if (writer->file)
        mux_file_close(writer->file);
    if (writer->archive) {
        writer->sink = discard; // what is still to be flushed
        archive_write_free(writer->archive);
    }
    while (writer->items) {
        struct item *next = writer->items->next;
        free(writer->items);
        writer->items = next;
    }
    free(writer->codebase_id);
    free(writer->sandbox_id);
    free(writer);
}

// ---- writing

// The name in the archive: below the directory that was asked for.
static const char *shown(const struct archive_writer *writer, const struct item *item)
{
    const char *path = item->path + writer->skip;
    return writer->skip > 0 && *path == '/' ? path + 1 : path;
}

// The item of an earlier name of the same file, or NULL; remembers the first.
static const struct item *earlier_name(struct archive_writer *writer, const struct item *item)
{
    struct first_name *name;
    if (item->fid == 0 || item->nlink < 2 || S_ISDIR(item->mode))
        return NULL;
    HASH_FIND(hh, writer->names, &item->fid, sizeof item->fid, name);
    if (name)
        return name->item;
    name = calloc(1, sizeof *name);
    if (!name)
        return NULL; // the file is written twice
    name->fid = item->fid;
    name->item = item;
    HASH_ADD(hh, writer->names, fid, sizeof name->fid, name);
    return NULL;
}

static int open_file(struct archive_writer *writer, const struct item *item, struct af_error *err)
{
    size_t len = strlen(item->path);
    return writer->codebase_id ? mux_codebase_open_file(writer->mux, writer->codebase_id,
                                                        item->path, len, &writer->file, err)
                               : mux_inspect_open_file(writer->mux, writer->sandbox_id, item->path,
                                                       len, &writer->file, err);
}

static void describe(struct archive_writer *writer, const struct item *item,
                     const struct item *link, struct archive_entry *entry)
{
    archive_entry_set_pathname(entry, shown(writer, item));
    archive_entry_set_mode(entry, item->mode);
    archive_entry_set_mtime(entry, item->mtime_ns / AF_NS_PER_SEC, item->mtime_ns % AF_NS_PER_SEC);
    if (item->target)
        archive_entry_set_symlink(entry, item->target);
    if (item->removed)
        archive_entry_xattr_add_entry(entry, ARCHIVE_REMOVED, "1", 1);
    if (link)
        archive_entry_set_hardlink(entry, shown(writer, link));
    archive_entry_set_size(entry, writer->file ? (int64_t)writer->left : 0);
}

static int write_header(struct archive_writer *writer, const struct item *item,
                        const struct item *link, struct af_error *err)
{
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return af_error_errno(err, ENOMEM, "cannot write the archive");
    describe(writer, item, link, entry);
    int rc = archive_write_header(writer->archive, entry);
    archive_entry_free(entry);
    return rc == ARCHIVE_OK || rc == ARCHIVE_WARN ? 0 : failed(writer, err);
}

static int begin_item(struct archive_writer *writer, const struct item *item, struct af_error *err)
{
    const struct item *link = earlier_name(writer, item);
    if (!link && !item->removed && S_ISREG(item->mode)) {
        if (open_file(writer, item, err) < 0)
            return err->status == AF_NOT_FOUND || err->status == AF_INVALID_ARGUMENT ? 0 : -1;
        writer->offset = 0;
        writer->left = mux_file_size(writer->file);
    }
    if (S_ISSOCK(item->mode)) // tar has none: they mean nothing elsewhere
        return 0;
    return write_header(writer, item, link, err);
}

// A piece of the file that is being written. What it has lost since it was opened reads as zeros.
static int write_piece(struct archive_writer *writer, struct af_error *err)
{
    char bytes[WRITE_BYTES];
    size_t want = writer->left < sizeof bytes ? (size_t)writer->left : sizeof bytes;
    ssize_t n = want > 0 ? mux_file_read(writer->file, bytes, want, writer->offset) : 0;
    if (n < 0)
        return af_error_errno(err, (int)-n, "cannot read a file of the tree");
    if (n == 0 && want > 0) {
        memset(bytes, 0, want);
        n = (ssize_t)want;
    }
    if (n > 0 && archive_write_data(writer->archive, bytes, (size_t)n) != n)
        return failed(writer, err);
    writer->offset += (uint64_t)n;
    writer->left -= (uint64_t)n;
    if (writer->left == 0) {
        mux_file_close(writer->file);
        writer->file = NULL;
    }
    return 1;
}

static int step(struct archive_writer *writer, struct af_error *err)
{
    if (writer->file)
        return write_piece(writer, err);
    if (writer->next) {
        const struct item *item = writer->next;
        writer->next = item->next;
        return begin_item(writer, item, err) < 0 ? -1 : 1;
    }
    return archive_write_close(writer->archive) == ARCHIVE_OK ? 0 : failed(writer, err);
}

int archive_writer_step(struct archive_writer *writer, struct af_error *err)
{
    locale_t before = archive_enter_utf8();
    int rc = step(writer, err);
    uselocale(before);
    return rc;
}
