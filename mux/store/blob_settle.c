// Blobs on their way from DIR/new to DIR/blobs: what sync points and the start do with them.
//
// Under sync.point, or before any other thread is there. A blob that a power cut may still take
// out of the records stays in new/. Fails: -errno; a rename that fails is tried again at the next
// start, and the file is found in new/ meanwhile. Read next: blob.c, durability.c.
#include "mux/store/store_priv.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_DIGITS 16

static void move_in(struct store *store, uint64_t id)
{
    char from[STORE_BLOB_PATH_MAX], to[STORE_BLOB_PATH_MAX];
    store_blob_path(id, true, from);
    store_blob_path(id, false, to);
    renameat(store->new_fd, from, store->blobs_fd, to);
}

static int sync_data(struct store *store, const struct idset *blobs)
{
    size_t cursor = 0;
    uint64_t id;
    while ((id = idset_next(blobs, &cursor)) != 0) {
        struct store_blob *blob;
        int rc = store_blob_open(store, id, &blob);
        if (rc == -ENOENT) // discarded or collected meanwhile
            continue;
        if (rc == 0) {
            rc = fdatasync(store_blob_fd(blob)) < 0 ? -errno : 0;
            store_blob_release(blob);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

int store_blobs_sync(struct store *store, const struct idset *fresh, const struct idset *dirty)
{
    int rc = sync_data(store, fresh);
    if (rc == 0)
        rc = sync_data(store, dirty);
    if (rc == 0 && fresh->count > 0 && fsync(store->new_fd) < 0)
        rc = -errno;
    return rc;
}

void store_blobs_settle(struct store *store, const struct idset *fresh)
{
    struct store_txn txn = {.store = store, .mdb = store->sync.pinned};
    size_t cursor = 0;
    uint64_t id;
    while ((id = idset_next(fresh, &cursor)) != 0)
        if (store_blob_is_recorded(&txn, id) == 1) // not so after a failed commit
            move_in(store, id);
}

// ---- at start

static bool parse_name(const char *name, uint64_t *ret)
{
    for (int i = 0; i < NAME_DIGITS; i++)
        if (!isxdigit((unsigned char)name[i]))
            return false;
    *ret = strtoull(name, NULL, 16);
    return name[NAME_DIGITS] == '\0';
}

// Whether the collector has the blob in its queue: its file is not ours to remove before that
// transaction is synced.
static int is_queued(struct store_txn *txn, uint64_t id)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_UNLINK, store_val(&key, sizeof key), &value);
    return rc == -ENOENT ? 0 : rc < 0 ? rc : 1;
}

// Before the first sync point: the data of what is recorded is synced. After it: what is recorded
// moves in, what is not goes.
static int sweep_one(struct store_txn *txn, const char *name, uint64_t id, bool is_synced)
{
    struct store *store = txn->store;
    int recorded = store_blob_is_recorded(txn, id);
    int queued = recorded == 0 ? is_queued(txn, id) : 0;
    if (recorded < 0 || queued < 0)
        return recorded < 0 ? recorded : queued;
    if (!is_synced) {
        AF_CLEANUP_FD int fd = recorded ? store_open_regular(store->new_fd, name, O_RDWR) : -1;
        if (fd == -EIO) // something else stands in its place: reading it will fail, not the start
            return 0;
        if (recorded && fd < 0)
            return fd;
        return recorded && fdatasync(fd) < 0 ? -errno : 0;
    }
    if (recorded)
        move_in(store, id);
    else if (!queued && unlinkat(store->new_fd, name, 0) < 0 && errno != ENOENT)
        return -errno;
    return 0;
}

int store_blobs_sweep(struct store *store, bool is_synced)
{
    int fd = openat(store->new_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int rc = -errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    struct store_txn *txn;
    struct dirent *entry;
    uint64_t id;
    int rc = store_read_begin(store, &txn);
    bool has_txn = rc == 0;
    while (rc == 0 && (entry = readdir(dir)))
        if (parse_name(entry->d_name, &id))
            rc = sweep_one(txn, entry->d_name, id, is_synced);
    if (has_txn)
        store_read_end(txn);
    if (rc == 0 && !is_synced && fsync(store->new_fd) < 0)
        rc = -errno;
    closedir(dir);
    return rc;
}

// A quarter of what the process may open: the daemon needs the rest.
static unsigned default_max(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 256)
        return 64;
    return limit.rlim_cur / 4 < 65536 ? (unsigned)(limit.rlim_cur / 4) : 65536;
}

int store_blobs_open_folders(struct store *store)
{
    if (store->blobs.max == 0)
        store->blobs.max = default_max();
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
    if ((store->blobs_fd = openat(store->dir_fd, "blobs", flags)) < 0 ||
        (store->new_fd = openat(store->dir_fd, "new", flags)) < 0)
        return -errno;
    return 0;
}

int store_blobs_open(struct store *store, struct af_error *err)
{
    int rc = 0;
    if ((mkdirat(store->dir_fd, "blobs", 0700) < 0 && errno != EEXIST) ||
        (mkdirat(store->dir_fd, "new", 0700) < 0 && errno != EEXIST))
        rc = -errno;
    if (rc == 0)
        rc = store_blobs_open_folders(store);
    bool made = false;
    for (unsigned i = 0; rc == 0 && i < 256; i++) {
        char name[4];
        snprintf(name, sizeof name, "%02x", i);
        if (mkdirat(store->blobs_fd, name, 0700) == 0)
            made = true;
        else if (errno != EEXIST)
            rc = -errno;
    }
    if (rc == 0 && made && (fsync(store->blobs_fd) < 0 || fsync(store->dir_fd) < 0))
        rc = -errno;
    if (rc == 0)
        rc = store_blobs_sweep(store, false);
    return rc < 0 ? af_error_errno(err, rc, "cannot use the blobs in %s", store->dir) : 0;
}

void store_blobs_close(struct store *store)
{
    for (size_t i = 0; i < STORE_BLOB_BUCKETS; i++)
        while (store->blobs.buckets[i]) {
            struct store_blob *blob = store->blobs.buckets[i];
            store->blobs.buckets[i] = blob->hash_next;
            close(blob->fd);
            free(blob);
        }
    idset_clear(&store->blobs.fresh);
    idset_clear(&store->blobs.dirty);
}
