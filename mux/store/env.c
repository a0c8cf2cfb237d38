// Opening and closing the store: directory, lock, schema, ids.
//
// Order at open: lock, restore after a power cut (durability.c), LMDB, schema check, background
// thread. A directory of another schema version is left as it is. Errors: an af_error.
// Read next: txn.c.
#include "mux/store/store_priv.h"

#include "mux/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAP_BYTES_DEFAULT     (64ULL << 30)
#define SYNC_INTERVAL_DEFAULT (2 * AF_NS_PER_SEC)
#define FIRST_ID              64 // small numbers are kept for FUSE's own nodeids

static const char *const dbi_names[STORE_DBI_COUNT] = {
    [STORE_DBI_META] = "meta",       [STORE_DBI_ENTRY] = "entry",
    [STORE_DBI_INODE] = "inode",     [STORE_DBI_VERSION] = "version",
    [STORE_DBI_ORPHAN] = "orphan",   [STORE_DBI_LAYER] = "layer",
    [STORE_DBI_STACK] = "stack",     [STORE_DBI_BLOB] = "blob",
    [STORE_DBI_DIGEST] = "digest",   [STORE_DBI_CODEBASE] = "codebase",
    [STORE_DBI_SANDBOX] = "sandbox", [STORE_DBI_GARBAGE] = "garbage",
    [STORE_DBI_UNLINK] = "unlink",   [STORE_DBI_PENDING] = "pending",
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

// One instance per directory: flock, with the holder's pid in the file for the message.
static int take_lock(struct store *store, struct af_error *err)
{
    store->lock_fd = openat(store->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (store->lock_fd < 0)
        return af_error_errno(err, errno, "cannot open %s/lock", store->dir);
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        char pid[16] = "";
        ssize_t n = pread(store->lock_fd, pid, sizeof pid - 1, 0);
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the state directory %s is in use by process %.*s", store->dir,
                            n > 0 ? (int)strcspn(pid, "\n") : 1, n > 0 ? pid : "?");
    }
    char pid[16];
    int len = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if (ftruncate(store->lock_fd, 0) < 0 || pwrite(store->lock_fd, pid, (size_t)len, 0) != len)
        return af_error_errno(err, errno, "cannot write %s/lock", store->dir);
    return 0;
}

static int open_directory(struct store *store, const struct store_options *options,
                          struct af_error *err)
{
    int rc = options->must_exist ? 0 : make_directories(store->dir);
    if (rc == 0) {
        store->dir_fd = open(store->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rc = store->dir_fd < 0 ? -errno : 0;
    }
    if (rc < 0)
        return af_error_errno(err, rc, "cannot use the state directory %s", store->dir);
    return take_lock(store, err);
}

// ---- schema and ids

static int read_meta(struct store_txn *txn, const char *key, void *value, size_t len)
{
    MDB_val found;
    int rc = store_get(txn, STORE_DBI_META, store_val(key, strlen(key)), &found);
    if (rc == 0 && found.mv_size != len)
        rc = -EUCLEAN;
    if (rc == 0)
        memcpy(value, found.mv_data, len);
    return rc;
}

static int write_meta(struct store_txn *txn, const char *key, const void *value, size_t len)
{
    return store_put(txn, STORE_DBI_META, store_val(key, strlen(key)), store_val(value, len));
}

int store_reserve_ids(struct store_txn *txn, uint64_t *ret_limit)
{
    uint64_t limit = atomic_load(&txn->store->id_limit) + STORE_ID_BLOCK;
    uint64_t le = htole64(limit);
    int rc = write_meta(txn, "next_id", &le, sizeof le);
    if (rc == 0)
        *ret_limit = limit;
    return rc;
}

int store_new_id(struct store *store, uint64_t *ret)
{
    for (;;) {
        uint64_t id = atomic_load(&store->next_id);
        if (id >= atomic_load(&store->id_limit)) {
            // A commit reserves half a block ahead, so that this is rare.
            struct store_txn *txn;
            int rc = store_write_begin(store, &txn);
            if (rc == 0)
                rc = store_commit(txn);
            if (rc < 0)
                return rc;
            continue;
        }
        if (atomic_compare_exchange_weak(&store->next_id, &id, id + 1)) {
            *ret = id;
            return 0;
        }
    }
}

static int create_schema(struct store_txn *txn)
{
    uint64_t version = htole64(STORE_SCHEMA_VERSION), next = htole64(FIRST_ID);
    uint64_t key[2];
    if (getrandom(key, sizeof key, 0) != sizeof key)
        return -EIO;
    int rc = write_meta(txn, "schema", &version, sizeof version);
    if (rc == 0)
        rc = write_meta(txn, "next_id", &next, sizeof next);
    if (rc == 0)
        rc = write_meta(txn, "hash_key", key, sizeof key);
    return rc;
}

static int open_databases(struct store *store, MDB_txn *mdb, bool create)
{
    for (int i = 0; i < STORE_DBI_COUNT; i++) {
        int rc = mdb_dbi_open(mdb, dbi_names[i], create ? MDB_CREATE : 0, &store->dbi[i]);
        if (rc != 0)
            return store_errno(rc);
    }
    return 0;
}

// 1: this version; 0: an empty environment; -1 with *err: something else.
static int check_schema(struct store *store, struct af_error *err)
{
    MDB_stat stat;
    mdb_env_stat(store->env, &stat);
    MDB_txn *mdb;
    int rc = store_errno(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &mdb));
    if (rc < 0)
        return af_error_errno(err, rc, "cannot read the store in %s", store->dir);
    MDB_dbi main_dbi, meta;
    MDB_stat main_stat = {0};
    if (mdb_dbi_open(mdb, NULL, 0, &main_dbi) == 0)
        mdb_stat(mdb, main_dbi, &main_stat);
    rc = mdb_dbi_open(mdb, "meta", 0, &meta);
    MDB_val key = store_val("schema", 6), value;
    int found = rc == 0 ? mdb_get(mdb, meta, &key, &value) : rc;
    uint64_t version = 0;
    if (found == 0 && value.mv_size == sizeof version)
        memcpy(&version, value.mv_data, sizeof version);
    mdb_txn_abort(mdb);
    if (found == 0 && le64toh(version) == STORE_SCHEMA_VERSION)
        return 1;
    if (found == 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the state directory %s has schema version %" PRIu64
                            ", this program needs %d; it was left untouched",
                            store->dir, le64toh(version), STORE_SCHEMA_VERSION);
    if (main_stat.ms_entries > 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s is no state directory of this program (no schema version in it); "
                            "it was left untouched",
                            store->dir);
    return 0;
}

static int load_schema(struct store *store, bool create, struct af_error *err)
{
    struct store_txn *txn;
    int rc = store_write_begin(store, &txn);
    if (rc < 0)
        return af_error_errno(err, rc, "cannot open the store in %s", store->dir);
    uint64_t next;
    rc = open_databases(store, txn->mdb, create);
    if (rc == 0 && create)
        rc = create_schema(txn);
    if (rc == 0)
        rc = read_meta(txn, "next_id", &next, sizeof next);
    if (rc == 0)
        rc = read_meta(txn, "hash_key", store->hash_key, sizeof store->hash_key);
    if (rc < 0) {
        store_abort(txn);
        return af_error_errno(err, rc, "cannot read the store in %s", store->dir);
    }
    atomic_store(&store->next_id, le64toh(next));
    atomic_store(&store->id_limit, le64toh(next));
    rc = store_commit(txn);
    return rc < 0 ? af_error_errno(err, rc, "cannot write the store in %s", store->dir) : 0;
}

static int open_env(struct store *store, const struct store_options *options, struct af_error *err)
{
    int dir = open_subdir(store->dir_fd, "store");
    if (dir < 0)
        return af_error_errno(err, dir, "cannot use %s/store", store->dir);
    char path[4096];
    snprintf(path, sizeof path, "%s/store", store->dir);
    int rc = store_restore_synced_meta(path, dir, err);
    close(dir);
    if (rc < 0)
        return -1;
    uint64_t map = options->map_bytes ? options->map_bytes : MAP_BYTES_DEFAULT;
    rc = mdb_env_create(&store->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(store->env, map);
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
    return 0;
}

static void free_store(struct store *store)
{
    while (store->readers.pool) {
        struct store_txn *txn = store->readers.pool;
        store->readers.pool = txn->next;
        mdb_txn_abort(txn->mdb);
        free(txn);
    }
    if (store->env)
        mdb_env_close(store->env);
    store_blobs_close(store);
    int fds[] = {store->blobs_fd, store->new_fd, store->lock_fd, store->dir_fd};
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
    store->dir_fd = store->blobs_fd = store->new_fd = store->lock_fd = -1;
    store->blobs.max = options->blob_fds ? options->blob_fds : 1024;
    store->sync.interval_ns =
        options->sync_interval_ns ? options->sync_interval_ns : SYNC_INTERVAL_DEFAULT;
    pthread_mutex_init(&store->readers.lock, NULL);
    pthread_mutex_init(&store->blobs.lock, NULL);
    pthread_mutex_init(&store->sync.lock, NULL);
    return store;
}

int store_open(const struct store_options *options, struct store **ret, struct af_error *err)
{
    struct store *store = new_store(options);
    if (!store)
        return af_error_errno(err, ENOMEM, "store");
    int schema = -1;
    if (open_directory(store, options, err) < 0 || open_env(store, options, err) < 0 ||
        (schema = check_schema(store, err)) < 0 || load_schema(store, schema == 0, err) < 0 ||
        store_blobs_open(store, err) < 0) {
        free_store(store);
        return -1;
    }
    int rc = store_mark_open(store);
    if (rc == 0)
        rc = store_background_start(store);
    if (rc < 0) {
        free_store(store);
        return af_error_errno(err, rc, "cannot start the store in %s", options->dir);
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
    store_sync_point(store);
    if (store->sync.pinned)
        mdb_txn_abort(store->sync.pinned);
    store_mark_clean(store);
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
