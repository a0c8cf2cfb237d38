// A tar stream into a codebase. Read next: archive.h.
//
// libarchive reads, mux takes: an import is all or nothing, so a broken archive changes nothing.
// Only the tar family is enabled, and what it may be compressed with.
#include "api/services/archive.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/base/limits.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static locale_t utf8;
static pthread_once_t utf8_once = PTHREAD_ONCE_INIT;

static void make_utf8(void)
{
    utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

locale_t archive_enter_utf8(void)
{
    pthread_once(&utf8_once, make_utf8);
    return uselocale(utf8); // 0 where there is none changes nothing
}

static void close_archive(struct archive **archive)
{
    if (*archive)
        archive_read_free(*archive);
}

// What libarchive pulls from.
struct source {
    struct feed *feed;
    bool in_header;
    int64_t header_at; // where the header at hand began, unpacked
};

static ssize_t read_source(struct archive *archive, void *arg, const void **ret_bytes)
{
    struct source *source = arg;
    if (source->in_header &&
        archive_filter_bytes(archive, 0) - source->header_at > AF_ARCHIVE_HEADER_MAX) {
        archive_set_error(archive, EINVAL, "an entry's header has more than %d bytes",
                          AF_ARCHIVE_HEADER_MAX);
        return -1;
    }
    ssize_t n = feed_read(source->feed, ret_bytes);
    if (n >= 0)
        return n;
    archive_set_error(archive, (int)-n, "no more comes");
    return -1;
}

int archive_no_more(int error, struct af_error *err)
{
    if (error == ETIMEDOUT)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                            "others wait for a place to import (there are %d), and hardly anything "
                            "has come for %d seconds: send the archive again without a pause",
                            AF_ARCHIVE_THREADS_MAX, (int)(AF_FEED_PATIENCE_NS / AF_NS_PER_SEC));
    return af_error_set(err, AF_CANCELLED, "the call was cancelled");
}

static int broken(struct archive *archive, struct af_error *err)
{
    if (archive_errno(archive) == ECANCELED || archive_errno(archive) == ETIMEDOUT)
        return archive_no_more(archive_errno(archive), err);
    if (archive_errno(archive) == ENOMEM)
        return af_error_set(err, AF_RESOURCE_EXHAUSTED, "no memory to read the archive");
    const char *text = archive_error_string(archive);
    return af_error_set(err, AF_INVALID_ARGUMENT,
                        "this is no tar archive that can be read, so nothing was imported: %.200s",
                        text ? text : "no reason given");
}

int archive_path(const struct archive_target *target, const char *name, char **ret,
                 struct af_error *err)
{
    // "./" in front and slashes at the end are how archivers write directories.
    while (name[0] == '.' && name[1] == '/')
        for (name += 2; *name == '/'; name++)
            continue;
    size_t len = strlen(name);
    while (len > 0 && name[len - 1] == '/')
        len--;
    if (len == 1 && name[0] == '.')
        len = 0;
    bool joined = *target->prefix && len > 0;
    if (len == 0 && name[0] == '/')
        return af_error_set(err, AF_INVALID_ARGUMENT, "the archive has an absolute name");
    char *path;
    if (asprintf(&path, "%s%s%.*s", target->prefix, joined ? "/" : "", (int)len, name) < 0)
        return af_error_errno(err, ENOMEM, "cannot take the archive's names");
    *ret = path;
    return 0;
}

// A few bytes must not become a full disk, nor names without end.
static int check_ratio(struct archive *archive, struct af_error *err)
{
    int64_t unpacked = archive_filter_bytes(archive, 0), sent = archive_filter_bytes(archive, -1);
    if (unpacked - AF_ARCHIVE_UNPACKED_FREE <= sent * AF_ARCHIVE_UNPACKED_RATIO)
        return 0;
    return af_error_set(err, AF_RESOURCE_EXHAUSTED,
                        "the archive unpacks to more than %d times its size: send it uncompressed",
                        AF_ARCHIVE_UNPACKED_RATIO);
}

static int take_data(struct archive *archive, struct archive_entry *entry,
                     struct mux_import *import, struct af_error *err)
{
    int64_t at = 0, size = archive_entry_size(entry), offset;
    const void *bytes;
    size_t len;
    int rc;
    while ((rc = archive_read_data_block(archive, &bytes, &len, &offset)) == ARCHIVE_OK ||
           rc == ARCHIVE_WARN) {
        if (check_ratio(archive, err) < 0)
            return -1;
        if (offset > at && mux_import_hole(import, (uint64_t)(offset - at), err) < 0)
            return -1;
        if (len > 0 && mux_import_data(import, bytes, len, err) < 0)
            return -1;
        at = offset + (int64_t)len;
    }
    if (rc != ARCHIVE_EOF)
        return broken(archive, err);
    if (size > at) // a sparse file that ends in a hole
        return mux_import_hole(import, (uint64_t)(size - at), err);
    return 0;
}

static int take_link(struct archive_entry *entry, const struct archive_target *target,
                     const char *path, struct af_error *err)
{
    AF_CLEANUP_FREE char *leads_to = NULL;
    if (archive_path(target, archive_entry_hardlink(entry), &leads_to, err) < 0)
        return -1;
    return mux_import_link(target->import, path, strlen(path), leads_to, strlen(leads_to), err);
}

static int64_t mtime_ns(struct archive_entry *entry)
{
    int64_t seconds = archive_entry_mtime(entry);
    if (!archive_entry_mtime_is_set(entry))
        return af_wall_ns();
    // What 64 bits of nanoseconds cannot say becomes the nearest that they can.
    const int64_t limit = INT64_MAX / AF_NS_PER_SEC - 1;
    seconds = seconds > limit ? limit : seconds < -limit ? -limit : seconds;
    return seconds * AF_NS_PER_SEC + archive_entry_mtime_nsec(entry);
}

static int take_entry(struct archive *archive, struct archive_entry *entry,
                      const struct archive_target *target, struct af_error *err)
{
    AF_CLEANUP_FREE char *path = NULL;
    const char *name = archive_entry_pathname(entry);
    if (!name)
        return af_error_set(err, AF_INVALID_ARGUMENT, "the archive has a name that cannot be read");
    if (archive_path(target, name, &path, err) < 0)
        return -1;
    if (archive_entry_hardlink(entry))
        return take_link(entry, target, path, err);
    mode_t mode = archive_entry_mode(entry);
    const char *symlink = S_ISLNK(mode) ? archive_entry_symlink(entry) : NULL;
    if (mux_import_entry(target->import, path, strlen(path), mode, mtime_ns(entry), symlink,
                         symlink ? strlen(symlink) : 0, err) < 0)
        return -1;
    return S_ISREG(mode) ? take_data(archive, entry, target->import, err) : 0;
}

static int next_header(struct archive *archive, struct source *source, struct archive_entry **ret)
{
    source->header_at = archive_filter_bytes(archive, 0);
    source->in_header = true;
    int rc = archive_read_next_header(archive, ret);
    source->in_header = false;
    return rc;
}

static int read_all(struct feed *feed, const struct archive_target *target, struct af_error *err)
{
    struct source source = {.feed = feed};
    AF_CLEANUP(close_archive) struct archive *archive = archive_read_new();
    if (!archive)
        return af_error_errno(err, ENOMEM, "cannot read the archive");
    archive_read_support_format_tar(archive);
    archive_read_support_format_empty(archive);
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_bzip2(archive);
    archive_read_support_filter_xz(archive);
    archive_read_support_filter_zstd(archive);
    if (archive_read_open(archive, &source, NULL, read_source, NULL) != ARCHIVE_OK)
        return broken(archive, err);
    struct archive_entry *entry;
    int rc;
    while ((rc = next_header(archive, &source, &entry)) == ARCHIVE_OK || rc == ARCHIVE_WARN)
        if (check_ratio(archive, err) < 0 || take_entry(archive, entry, target, err) < 0)
            return -1;
    return rc == ARCHIVE_EOF ? 0 : broken(archive, err);
}

int archive_read(struct feed *feed, const struct archive_target *target, struct af_error *err)
{
    locale_t before = archive_enter_utf8();
    int rc = read_all(feed, target, err);
    uselocale(before);
    return rc;
}
