// Surviving a power cut without syncing every commit.
//
// LMDB runs with MDB_NOSYNC: pages of later transactions may reach the disk in any order, so after
// a power cut the newest meta page may point at pages that never arrived. At each sync point
// therefore, in this order: (1) with the writer lock held, a reader is begun at the last committed
// transaction T, so that no page of T is reused, and T's meta page is copied; (2) the data of the
// blobs that were written to since the last one is synced, for a file system may cut a file to what
// it has of it, and T's record would say more; (3) the database is synced; (4) the copy goes to
// DIR/store/synced.meta, with the boot id, and is synced; (5) the reader of the sync point before
// is let go. When the boot id has changed, the copy is put back over both meta pages before LMDB
// opens the file: the store is then exactly T. There is no "closed cleanly" flag to be wrong: the
// last sync point of a clean close is the newest transaction, and where it is not, what a killed
// run wrote to its blobs is synced as a whole. No transaction may commit before this run's first
// sync point: the reader that kept T's pages died with the last process. Locks: sync.point. A
// failed sync of the database is final (sync.error): the kernel has dropped what it could not
// write, and a second sync would say all is well; the store then refuses writes. Read next:
// background.c, which makes the sync points.
#include "mux/store/store_priv.h"

#include "mux/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define SYNC_EVERY_COMMITS 5000
#define BEHIND_FACTOR      8 // times the growth that makes a sync point due: then writers wait

int store_read_boot_id(char ret[BOOT_ID_LEN])
{
    const char *override = getenv("AGENTFENSE_TEST_BOOT_ID"); // tests fake a reboot
    if (override && strlen(override) == BOOT_ID_LEN) {
        memcpy(ret, override, BOOT_ID_LEN);
        return 0;
    }
    AF_CLEANUP_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, ret, BOOT_ID_LEN) == BOOT_ID_LEN ? 0 : -EIO;
}

// ---- at open

static bool copy_is_sound(const struct synced_copy *copy)
{
    uint32_t magic;
    uint64_t txnid;
    memcpy(&magic, copy->page + META_AT_MAGIC, sizeof magic);
    memcpy(&txnid, copy->page + META_AT_TXNID, sizeof txnid);
    return magic == META_MAGIC && txnid == copy->txnid && copy->page_bytes >= META_BYTES &&
           copy->page_bytes <= 65536;
}

static int put_back(int dir_fd, struct synced_copy *copy)
{
    AF_CLEANUP_FD int data = openat(dir_fd, "data.mdb", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (data < 0)
        return -errno;
    for (uint64_t number = 0; number < 2; number++) {
        memcpy(copy->page, &number, sizeof number); // the page's own number
        off_t at = (off_t)(number * copy->page_bytes);
        if (pwrite(data, copy->page, META_BYTES, at) != META_BYTES)
            return errno ? -errno : -EIO;
    }
    return fsync(data) < 0 ? -errno : 0;
}

int store_synced_open(struct store *store, int dir_fd, struct af_error *err)
{
    struct synced_copy copy;
    char boot[BOOT_ID_LEN];
    int rc = sidefile_open(dir_fd, "synced.meta", &store->sync.file, &copy, sizeof copy);
    if (rc == -ENOENT)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s is no state directory of this program (no store/synced.meta in "
                            "it); it was left untouched",
                            store->dir);
    bool damaged = rc == -EUCLEAN || (rc == 0 && !copy_is_sound(&copy));
    if (damaged && store->fsck_only) { // which says so, and makes it again
        sidefile_close(&store->sync.file);
        store->synced_damaged = true;
        return 0;
    }
    if (damaged)
        return af_error_set(err, AF_DATA_LOSS,
                            "%s/store/synced.meta is damaged: restore the directory from a backup",
                            store->dir);
    if (rc < 0)
        return af_error_errno(err, rc, "cannot read %s/store/synced.meta", store->dir);
    if (store_check_schema(store, copy.schema, err) < 0)
        return -1;
    if (store_read_boot_id(boot) < 0)
        return af_error_set(err, AF_INTERNAL, "this kernel shows no boot id");
    store->found_synced = copy.txnid;
    if (memcmp(copy.boot_id, boot, BOOT_ID_LEN) == 0)
        return 0;
    rc = put_back(dir_fd, &copy);
    return rc < 0 ? af_error_errno(err, rc, "cannot restore the database in %s", store->dir) : 0;
}

// ---- sync points

// With the writer lock held: nothing commits between the reader and its meta page, nor between
// either and the lists of blobs.
static int take_snapshot(struct store *store, struct sync_snapshot *ret)
{
    MDB_stat stat;
    MDB_envinfo info;
    mdb_filehandle_t data;
    mdb_env_stat(store->env, &stat);
    mdb_env_get_fd(store->env, &data);
    *ret = (struct sync_snapshot){.copy = {.schema = STORE_SCHEMA_VERSION}};
    int rc = store_read_boot_id(ret->copy.boot_id);
    if (rc == 0)
        rc = store_writer_lock(store);
    if (rc < 0)
        return rc;
    rc = store_errno(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &ret->reader));
    if (rc == 0) {
        mdb_env_info(store->env, &info);
        ret->pages = info.me_last_pgno + 1;
        ret->copy.txnid = mdb_txn_id(ret->reader);
        ret->copy.page_bytes = stat.ms_psize;
        off_t at = (off_t)(ret->copy.txnid & 1) * (off_t)stat.ms_psize;
        if (pread(data, ret->copy.page, META_BYTES, at) != META_BYTES)
            rc = -EIO;
        else if (!copy_is_sound(&ret->copy))
            rc = -EUCLEAN;
    }
    if (rc == 0) {
        pthread_mutex_lock(&store->blobs.lock);
        ret->fresh = store->blobs.fresh;
        store->blobs.fresh = (struct idset){0};
        ret->dirty = store->blobs.dirty;
        store->blobs.dirty = (struct idset){0};
        pthread_mutex_unlock(&store->blobs.lock);
        ret->commits = atomic_exchange(&store->dirty_commits, 0);
    } else if (ret->reader) {
        mdb_txn_abort(ret->reader);
    }
    store_writer_unlock(store);
    return rc;
}

static int write_copy(struct store *store, const struct synced_copy *copy)
{
    if (store->sync.file.fd >= 0)
        return sidefile_write(&store->sync.file, copy, sizeof *copy);
    struct synced_copy check;
    int rc = sidefile_create(store->store_fd, "synced.meta", copy, sizeof *copy);
    if (rc == 0)
        rc = sidefile_open(store->store_fd, "synced.meta", &store->sync.file, &check, sizeof check);
    return rc;
}

// The blobs could not be synced: they are to be tried again with the next sync point.
static void give_back(struct store *store, struct sync_snapshot *snapshot)
{
    pthread_mutex_lock(&store->blobs.lock);
    idset_merge(&store->blobs.fresh, &snapshot->fresh);
    idset_merge(&store->blobs.dirty, &snapshot->dirty);
    pthread_mutex_unlock(&store->blobs.lock);
    atomic_fetch_add(&store->dirty_commits, snapshot->commits + 1);
    mdb_txn_abort(snapshot->reader);
}

static int make_durable(struct store *store, struct sync_snapshot *snapshot)
{
    int rc = store_blobs_sync(store, &snapshot->fresh, &snapshot->dirty);
    if (rc < 0) {
        give_back(store, snapshot);
        return rc;
    }
    rc = store_errno(mdb_env_sync(store->env, 1));
    if (rc == 0)
        rc = write_copy(store, &snapshot->copy);
    if (rc < 0) {
        // Either copy may be found after a power cut: both readers stay, and nothing is written.
        store->sync.pinned_too = snapshot->reader;
        atomic_store(&store->sync.error, rc);
        af_log(AF_LOG_ERROR, "store", "cannot sync; the store takes no more writes", "errno=%d",
               -rc);
        return rc;
    }
    if (store->sync.pinned)
        mdb_txn_abort(store->sync.pinned);
    store->sync.pinned = snapshot->reader;
    atomic_store(&store->sync.pinned_pages, snapshot->pages);
    store_limit_growth(store);
    atomic_store(&store->sync.synced, snapshot->copy.txnid);
    atomic_fetch_add(&store->syncs, 1);
    store_blobs_settle(store, &snapshot->fresh);
    return 0;
}

int store_sync_point(struct store *store, uint64_t at_least)
{
    pthread_mutex_lock(&store->sync.point);
    int rc = atomic_load(&store->sync.error);
    bool covered = store->sync.pinned && atomic_load(&store->sync.synced) >= at_least;
    if (rc == 0 && !covered) {
        struct sync_snapshot snapshot;
        rc = take_snapshot(store, &snapshot);
        if (rc == 0) {
            rc = make_durable(store, &snapshot);
            idset_clear(&snapshot.fresh);
            idset_clear(&snapshot.dirty);
        }
    }
    pthread_mutex_unlock(&store->sync.point);
    return rc;
}

void store_sync_left_behind(struct store *store, uint64_t last)
{
    if (last == store->found_synced || store->read_only || syncfs(store->blobs_fd) == 0)
        return;
    // Of whatever on that disk, and told once: refusing the start would bring nothing back.
    af_log(AF_LOG_ERROR, "store", "the disk has lost writes of before the start", "errno=%d",
           errno);
}

int store_sync(struct store *store)
{
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    // In this order: what pended a moment ago is in the last commit.
    uint64_t pending = atomic_load(&store->batch.pending);
    uint64_t last = atomic_load(&store->last_txn);
    return store_sync_point(store, pending > last ? pending : last);
}

void store_unpin(struct store *store)
{
    MDB_txn **pins[] = {&store->sync.pinned, &store->sync.pinned_too};
    for (size_t i = 0; i < AF_ARRAY_LEN(pins); i++) {
        if (*pins[i])
            mdb_txn_abort(*pins[i]);
        *pins[i] = NULL;
    }
}

// ---- when

static uint64_t growth_bytes(struct store *store)
{
    MDB_envinfo info;
    mdb_env_info(store->env, &info);
    uint64_t pages = info.me_last_pgno + 1, pinned = atomic_load(&store->sync.pinned_pages);
    return pages > pinned ? (pages - pinned) * store->page_bytes : 0;
}

bool store_sync_is_due(struct store *store)
{
    return atomic_load(&store->dirty_commits) > SYNC_EVERY_COMMITS ||
           growth_bytes(store) > atomic_load(&store->growth_max);
}

bool store_sync_is_behind(struct store *store)
{
    return growth_bytes(store) > BEHIND_FACTOR * atomic_load(&store->growth_max);
}
