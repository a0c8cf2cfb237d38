// Opening and closing the store: directory, lock, schema, ids.
//
// Order at open: lock, schema version, restore after a power cut (durability.c), LMDB, the first
// sync point, and only then the first write. A directory of another schema version, or of another
// program, is left as it is: the lock file made for it is removed again. Errors: an af_error.
// Read next: txn.c.
#include "mux/store/fsck.h"
#include "mux/store/store_priv.h"

#include "mux/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define MAP_BYTES_DEFAULT     (64ULL << 30)
#define SYNC_INTERVAL_DEFAULT (2 * AF_NS_PER_SEC)
#define LOCK_WAIT_NS          (5 * AF_NS_PER_SEC) // for children that a killed daemon left at fork
#define LOCK_RETRY_NS         2000000
#define PAGES_AT_START        16384 // a database of more is looked at by fsck alone
#define FIRST_ID              64    // small numbers are kept for FUSE's own nodeids

static const char *const dbi_names[STORE_DBI_COUNT] = {
    [STORE_DBI_META] = "meta",       [STORE_DBI_ENTRY] = "entry",
    [STORE_DBI_INODE] = "inode",     [STORE_DBI_VERSION] = "version",
    [STORE_DBI_ORPHAN] = "orphan",   [STORE_DBI_LAYER] = "layer",
    [STORE_DBI_STACK] = "stack",     [STORE_DBI_BLOB] = "blob",
    [STORE_DBI_DIGEST] = "digest",   [STORE_DBI_CODEBASE] = "codebase",
    [STORE_DBI_SANDBOX] = "sandbox", [STORE_DBI_GARBAGE] = "garbage",
    [STORE_DBI_UNLINK] = "unlink",   [STORE_DBI_PENDING] = "pending",
    [STORE_DBI_LINK] = "link",       [STORE_DBI_XATTR] = "xattr",
};

// ---- the directory

static int make_directories(const char *path)
{
    AF_CLEANUP_FREE char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int open_subdir(int dir_fd, const char *name)
{
    if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static bool read_pid(int lock_fd, char pid[16])
{
    ssize_t n = pread(lock_fd, pid, 15, 0);
    pid[n > 0 ? n : 0] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    return pid[0] != '\0';
}

// Whether a process that opened the store is there. A lock of fcntl is the process's own and not
// inherited; of our own process its pid tells.
static bool is_held_by_its_opener(int lock_fd)
{
    struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char pid[16];
    if (fcntl(lock_fd, F_GETLK, &probe) < 0 || probe.l_type != F_UNLCK)
        return true;
    return read_pid(lock_fd, pid) && atoi(pid) == getpid();
}

// One instance per directory: flock, and a lock of fcntl that tells whether the one who took it is
// there. For flock is inherited: a child that a killed daemon had just forked holds it until its
// exec, which is waited for. The holder's pid in the file is written last, so that a directory that
// is refused is left as it was.
static int take_lock(struct store *store, bool *ret_made, struct af_error *err)
{
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
    store->lock_fd = openat(store->dir_fd, "lock", flags);
    *ret_made = store->lock_fd < 0 && errno == ENOENT;
    if (*ret_made)
        store->lock_fd = openat(store->dir_fd, "lock", flags | O_CREAT, 0600);
    if (store->lock_fd < 0)
        return af_error_errno(err, errno, "cannot open %s/lock", store->dir);
    int64_t deadline_ns = af_monotonic_ns() + LOCK_WAIT_NS;
    while (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        char pid[16];
        if (errno != EWOULDBLOCK && errno != EINTR)
            return af_error_errno(err, errno, "cannot lock %s/lock", store->dir);
        if (is_held_by_its_opener(store->lock_fd) || af_monotonic_ns() > deadline_ns) {
            *ret_made = false;
            return af_error_set(err, AF_FAILED_PRECONDITION,
                                "the state directory %s is in use by process %s", store->dir,
                                read_pid(store->lock_fd, pid) ? pid : "?");
        }
        nanosleep(&(struct timespec){.tv_nsec = LOCK_RETRY_NS}, NULL);
    }
    struct flock own = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(store->lock_fd, F_SETLK, &own) < 0)
        return af_error_errno(err, errno, "cannot lock %s/lock", store->dir);
    return 0;
}

static int write_pid(struct store *store, struct af_error *err)
{
    char pid[16];
    int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (pwrite(store->lock_fd, pid, (size_t)len, 0) != len || ftruncate(store->lock_fd, len) < 0)
        return af_error_errno(err, errno, "cannot write %s/lock", store->dir);
    return 0;
}

// Whoever may rename things in it could put a database of his own in the place of this one.
static int check_owner(struct store *store, struct af_error *err)
{
    struct stat st;
    if (fstat(store->dir_fd, &st) < 0)
        return af_error_errno(err, errno, "cannot use the state directory %s", store->dir);
    if ((st.st_uid == 0 || st.st_uid == geteuid()) && !(st.st_mode & (S_IWGRP | S_IWOTH)))
        return 0;
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "others than its user may write to the state directory %s (owner %u, mode "
                        "%04o): give it to root, with mode 0700",
                        store->dir, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
}

static int open_directory(struct store *store, const struct store_options *options,
                          struct af_error *err)
{
    int rc = options->must_exist ? 0 : make_directories(store->dir);
    if (rc == 0) {
        store->dir_fd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rc = store->dir_fd < 0 ? -errno : 0;
    }
    if (rc == 0 && options->must_exist && faccessat(store->dir_fd, "store", F_OK, 0) < 0)
        rc = -errno;
    if (rc < 0)
        return af_error_errno(err, rc, "cannot use the state directory %s", store->dir);
    return check_owner(store, err);
}

// ---- schema

// Reading a page that the file does not have is SIGBUS: a database that lost its end, or all of it,
// is refused before its pages are looked at. `env` is open; only its meta pages have been read.
static int check_length(MDB_env *env, const char *path, struct af_error *err)
{
    MDB_stat stat;
    MDB_envinfo info;
    mdb_filehandle_t fd;
    struct stat st;
    mdb_env_stat(env, &stat);
    mdb_env_info(env, &info);
    if (mdb_env_get_fd(env, &fd) != 0 || fstat(fd, &st) < 0)
        return af_error_errno(err, errno, "cannot read %s/data.mdb", path);
    if ((uint64_t)st.st_size >= (info.me_last_pgno + 1) * stat.ms_psize)
        return 0;
    return af_error_set(err, AF_DATA_LOSS,
                        "%s/data.mdb is cut short: restore the state directory from a backup",
                        path);
}

// A store that was in use has a database: an empty one in its place would be the loss of
// everything. LMDB follows symlinks, and would write to where one leads.
static int check_files(struct store *store, const char *path, struct af_error *err)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "journal"};
    struct stat st;
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++) {
        bool there = fstatat(store->store_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) == 0;
        if (there && !S_ISREG(st.st_mode))
            return af_error_set(err, AF_DATA_LOSS,
                                "%s/%s is no regular file: put the state directory in order, or "
                                "restore it from a backup",
                                path, names[i]);
        if (i == 0 && (!there || st.st_size == 0))
            return af_error_set(err, AF_DATA_LOSS,
                                "%s/data.mdb is missing or empty, though this directory was in "
                                "use: restore the state directory from a backup, or choose an "
                                "empty one",
                                path);
    }
    return 0;
}

// Reads the version with LMDB's read-only mode and without its lock file: nothing is changed.
static int check_schema(struct store *store, const char *path, struct af_error *err)
{
    MDB_env *env;
    MDB_txn *mdb = NULL;
    MDB_dbi meta;
    MDB_val key = store_val("schema", 6), value;
    uint64_t version = 0;
    int rc = mdb_env_create(&env);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env, STORE_DBI_COUNT);
    if (rc == 0)
        rc = mdb_env_open(env, path, MDB_RDONLY | MDB_NOLOCK | MDB_NOTLS, 0600);
    if (rc == 0 && check_length(env, path, err) < 0) {
        mdb_env_close(env);
        return -1;
    }
    if (rc == 0)
        rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &mdb);
    if (rc == 0)
        rc = mdb_dbi_open(mdb, "meta", 0, &meta);
    if (rc == 0)
        rc = mdb_get(mdb, meta, &key, &value);
    if (rc == 0 && value.mv_size == sizeof version)
        memcpy(&version, value.mv_data, sizeof version);
    if (mdb)
        mdb_txn_abort(mdb);
    mdb_env_close(env);
    if (rc != 0)
        return af_error_errno(err, store_errno(rc), "cannot read the database in %s", path);
    return store_check_schema(store, version, err);
}

static int open_env(struct store *store, const char *path, struct af_error *err)
{
    int rc = mdb_env_create(&store->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(store->env, store->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(store->env, STORE_DBI_COUNT);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(store->env, 1024);
    // No MDB_WRITEMAP: on a full disk a store to a hole would be SIGBUS, not an error.
    if (rc == 0)
        rc = mdb_env_open(store->env, path, MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD, 0600);
    if (rc != 0)
        return af_error_errno(err, store_errno(rc), "cannot open the database in %s", path);
    mdb_reader_check(store->env, NULL);
    MDB_stat stat;
    MDB_envinfo info;
    mdb_env_stat(store->env, &stat);
    mdb_env_info(store->env, &info);
    store->page_bytes = stat.ms_psize;
    store->map_bytes = info.me_mapsize;
    atomic_store(&store->last_txn, info.me_last_txnid);
    return 0;
}

// Opens the databases, and makes them with the schema version and a hash key in a new store. In an
// existing one nothing is written: that must wait for the first sync point.
static int open_databases(struct store *store, bool create)
{
    MDB_txn *mdb;
    int rc = mdb_txn_begin(store->env, NULL, create ? 0 : MDB_RDONLY, &mdb);
    if (rc != 0)
        return store_errno(rc);
    for (int i = 0; rc == 0 && i < STORE_DBI_COUNT; i++)
        rc = mdb_dbi_open(mdb, dbi_names[i], create ? MDB_CREATE : 0, &store->dbi[i]);
    MDB_dbi meta = store->dbi[STORE_DBI_META];
    MDB_val schema_key = store_val("schema", 6), hash_key = store_val("hash_key", 8), value;
    if (rc == 0 && create) {
        uint64_t version = STORE_SCHEMA_VERSION;
        uint64_t key[2];
        MDB_val schema = store_val(&version, sizeof version), hash = store_val(key, sizeof key);
        if (getrandom(key, sizeof key, 0) != sizeof key)
            rc = EIO;
        if (rc == 0)
            rc = mdb_put(mdb, meta, &schema_key, &schema, 0);
        if (rc == 0)
            rc = mdb_put(mdb, meta, &hash_key, &hash, 0);
    }
    if (rc == 0)
        rc = mdb_get(mdb, meta, &hash_key, &value);
    if (rc == 0 && value.mv_size != sizeof store->hash_key)
        rc = MDB_CORRUPTED;
    if (rc == 0)
        memcpy(store->hash_key, value.mv_data, sizeof store->hash_key);
    if (rc != 0) {
        mdb_txn_abort(mdb);
        return store_errno(rc);
    }
    uint64_t id = mdb_txn_id(mdb);
    rc = store_errno(mdb_txn_commit(mdb)); // of a reader too: it keeps the database handles
    if (rc == 0 && create)
        atomic_store(&store->last_txn, id);
    return rc;
}

// ---- the parts, in order

// A folder that was never finished: nothing in it was ever acknowledged.
static int remove_unfinished(struct store *store)
{
    static const char *const names[] = {"data.mdb", "lock.mdb",    "ids",
                                        "ids.tmp",  "synced.meta", "synced.meta.tmp"};
    AF_CLEANUP_FD int dir = openat(store->dir_fd, "store.new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return errno == ENOENT ? 0 : -errno;
    for (size_t i = 0; i < AF_ARRAY_LEN(names); i++)
        unlinkat(dir, names[i], 0);
    return unlinkat(store->dir_fd, "store.new", AT_REMOVEDIR) < 0 ? -errno : 0;
}

// Makes everything in store.new and renames it when it is complete and synced: a store that
// exists is whole.
static int create_store(struct store *store, struct af_error *err)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/store.new", store->dir);
    // Made after the first store: what is in it was somebody's content.
    if (faccessat(store->dir_fd, "blobs", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return af_error_set(err, AF_DATA_LOSS,
                            "%s/store is missing, though %s/blobs is there: restore the state "
                            "directory from a backup, or choose an empty one",
                            store->dir, store->dir);
    int rc = remove_unfinished(store);
    if (rc == 0)
        store->store_fd = open_subdir(store->dir_fd, "store.new");
    if (rc == 0 && store->store_fd < 0)
        rc = store->store_fd;
    if (rc < 0)
        return af_error_errno(err, rc, "cannot create %s", path);
    if (open_env(store, path, err) < 0)
        return -1;
    rc = open_databases(store, true);
    if (rc == 0)
        rc = store_ids_open(store, store->store_fd, FIRST_ID);
    if (rc == 0)
        rc = store_sync_point(store, 0);
    if (rc == 0)
        store->found_synced = atomic_load(&store->last_txn);
    if (rc == 0 && (renameat(store->dir_fd, "store.new", store->dir_fd, "store") < 0 ||
                    fsync(store->dir_fd) < 0))
        rc = -errno;
    // The state directory itself may be as new.
    AF_CLEANUP_FD int parent = openat(store->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && parent >= 0)
        fsync(parent);
    return rc < 0 ? af_error_errno(err, rc, "cannot create the store in %s", store->dir) : 0;
}

static int open_store(struct store *store, struct af_error *err)
{
    char path[4096];
    if (faccessat(store->dir_fd, "store", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? create_store(store, err)
                               : af_error_errno(err, errno, "cannot use %s/store", store->dir);
    snprintf(path, sizeof path, "%s/store", store->dir);
    store->store_fd =
        openat(store->dir_fd, "store", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (store->store_fd < 0)
        return af_error_errno(err, errno, "cannot use %s", path);
    if (store_synced_open(store, store->store_fd, err) < 0 || check_files(store, path, err) < 0 ||
        store_check_pages(store->store_fd, store->fsck_only ? UINT64_MAX : PAGES_AT_START, err) <
            0 ||
        check_schema(store, path, err) < 0 || open_env(store, path, err) < 0)
        return -1;
    int rc = open_databases(store, false);
    if (rc == 0)
        rc = store_ids_open(store, store->store_fd, 0);
    if (store->fsck_only && (rc == -EUCLEAN || rc == -ENOENT))
        rc = 0; // the counter's: fsck says so, and makes it again
    return rc < 0 ? af_error_errno(err, rc, "cannot read the store in %s", store->dir) : 0;
}

static void free_store(struct store *store)
{
    while (store->readers.pool) {
        struct store_txn *txn = store->readers.pool;
        store->readers.pool = txn->next;
        mdb_txn_abort(txn->mdb);
        free(txn);
    }
    store_unpin(store);
    store_batch_fini(store);
    if (store->env)
        mdb_env_close(store->env);
    store_blobs_close(store);
    sidefile_close(&store->sync.file);
    sidefile_close(&store->ids.file);
    int fds[] = {store->blobs_fd, store->new_fd, store->store_fd, store->lock_fd, store->dir_fd};
    for (size_t i = 0; i < AF_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(store->dir);
    store->magic = 0;
    free(store);
}

static struct store *new_store(const struct store_options *options)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store || !(store->dir = strdup(options->dir))) {
        free(store);
        return NULL;
    }
    store->magic = STORE_MAGIC;
    store->dir_fd = store->store_fd = store->blobs_fd = store->new_fd = store->lock_fd = -1;
    store->sync.file.fd = store->ids.file.fd = -1;
    store->map_bytes = options->map_bytes ? options->map_bytes : MAP_BYTES_DEFAULT;
    store->blobs.max = options->blob_fds;
    store->batch.after = options->batch_after ? options->batch_after : STORE_BATCH_AFTER;
    store->batch.journal_fd = -1;
    store->sync.interval_ns =
        options->sync_interval_ns ? options->sync_interval_ns : SYNC_INTERVAL_DEFAULT;
    pthread_mutex_init(&store->batch.lock, NULL);
    pthread_mutex_init(&store->readers.lock, NULL);
    pthread_mutex_init(&store->blobs.lock, NULL);
    pthread_mutex_init(&store->sync.lock, NULL);
    pthread_mutex_init(&store->sync.point, NULL);
    pthread_mutex_init(&store->gc.lock, NULL);
    pthread_mutex_init(&store->ids.lock, NULL);
    pthread_mutex_init(&store->deep.lock, NULL);
    pthread_mutex_init(&store->kept.lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&store->sync.wake, &attr);
    pthread_cond_init(&store->batch.wake, &attr);
    pthread_cond_init(&store->batch.turned, &attr);
    pthread_condattr_destroy(&attr);
    return store;
}

// Commits what a killed run has acknowledged and not committed, after a sync point.
static int recover(struct store *store)
{
    MDB_txn *mdb;
    int rc = store_journal_replay(store, &mdb);
    if (rc < 0 || !mdb)
        return rc;
    uint64_t id = mdb_txn_id(mdb);
    if (store->read_only) { // seen by every reader of this process, and gone with it
        store->batch.mdb = mdb;
        atomic_store(&store->batch.pending, id);
        return 0;
    }
    rc = store_errno(mdb_txn_commit(mdb));
    if (rc == 0)
        store_note_commit(store, id);
    if (rc < 0)
        return rc;
    store_sync_left_behind(store, id);
    return store_sync_point(store, UINT64_MAX);
}

// Whatever the last run left unsynced becomes durable, and pinned, before anything is written.
static int first_sync_point(struct store *store)
{
    store_sync_left_behind(store, atomic_load(&store->last_txn));
    return store_sync_point(store, UINT64_MAX);
}

static int start(struct store *store)
{
    int rc = first_sync_point(store);
    if (rc == 0)
        rc = recover(store);
    if (rc == 0)
        rc = store_blobs_sweep(store, true);
    store_reserve_space(store);
    if (rc == 0)
        rc = store_upgrade(store);
    if (rc == 0)
        rc = store_layers_drop_pending(store);
    store_journal_open(store); // without room for it now, when a batch is opened
    if (rc == 0)
        rc = store_batch_start(store);
    if (rc == 0 && (rc = store_background_start(store)) < 0)
        store_batch_stop(store);
    return rc;
}

int store_open(const struct store_options *options, struct store **ret, struct af_error *err)
{
    struct store *store = new_store(options);
    if (!store)
        return af_error_errno(err, ENOMEM, "store");
    bool made_lock = false;
    int rc = open_directory(store, options, err);
    if (rc == 0)
        rc = take_lock(store, &made_lock, err);
    if (rc == 0)
        rc = open_store(store, err);
    if (rc == 0)
        rc = write_pid(store, err);
    if (rc == 0)
        rc = store_blobs_open(store, err);
    if (rc == 0 && (rc = start(store)) < 0)
        af_error_errno(err, rc, "cannot start the store in %s", options->dir);
    if (rc < 0) {
        if (made_lock)
            unlinkat(store->dir_fd, "lock", 0);
        free_store(store);
        return -1;
    }
    *ret = store;
    return 0;
}

int store_open_for_fsck(const char *dir, bool repair, struct store **ret, struct af_error *err)
{
    struct store_options options = {.dir = dir, .must_exist = true};
    struct store *store = new_store(&options);
    if (!store)
        return af_error_errno(err, ENOMEM, "store");
    bool made_lock = false;
    store->fsck_only = true;
    store->read_only = !repair;
    int rc = open_directory(store, &options, err);
    if (rc == 0)
        rc = take_lock(store, &made_lock, err);
    if (rc == 0)
        rc = open_store(store, err);
    if (rc == 0)
        rc = write_pid(store, err);
    if (rc == 0 && (rc = store_blobs_open_folders(store)) < 0)
        af_error_errno(err, rc, "cannot use the blobs in %s", dir);
    if (rc == 0 && repair && (rc = first_sync_point(store)) < 0)
        af_error_errno(err, rc, "cannot sync the store in %s", dir);
    if (rc == 0 && (rc = recover(store)) < 0)
        af_error_errno(err, rc, "cannot read the journal in %s", dir);
    if (rc < 0) {
        if (made_lock)
            unlinkat(store->dir_fd, "lock", 0);
        free_store(store);
        return -1;
    }
    *ret = store;
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    AF_CHECK_MAGIC(store, STORE_MAGIC);
    store_background_stop(store);
    store_batch_stop(store);
    // When it fails, the next start finds what a kill -9 leaves.
    if (!store->read_only)
        store_sync_point(store, atomic_load(&store->last_txn));
    free_store(store);
}

int store_statfs(struct store *store, uint64_t *ret_total_bytes, uint64_t *ret_free_bytes)
{
    struct statvfs st;
    if (fstatvfs(store->dir_fd, &st) < 0)
        return -errno;
    *ret_total_bytes = (uint64_t)st.f_blocks * st.f_frsize;
    *ret_free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}
