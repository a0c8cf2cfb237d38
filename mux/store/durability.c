// Surviving a power cut without syncing every commit.
//
// LMDB runs with MDB_NOSYNC: pages of later transactions may reach the disk in any order, so after
// a power cut the newest meta page may point at pages that never arrived. At each sync point
// therefore (1) a reader is begun at the last committed transaction T, so that no page of T is
// reused, (2) the meta page of T is copied while the writer lock is held, (3) the file is synced,
// (4) the copy is written to DIR/store/synced.meta and synced. When the boot id has changed and the
// last close was not clean, the copy is put back over both meta pages before LMDB opens the file:
// the store is then exactly T. The boot id and whether the store is open stand in DIR/store/state.
// Read next: background.c, which makes the sync points.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_ID_LEN       36
#define META_OFFSET_FLAGS 10   // mp_flags of LMDB's MDB_page: 8 bytes page number, 2 bytes padding
#define META_FLAG         0x08 // P_META

static int read_boot_id(char ret[BOOT_ID_LEN])
{
    const char *override = getenv("AGENTFENSE_TEST_BOOT_ID"); // tests fake a reboot
    if (override && strlen(override) == BOOT_ID_LEN) {
        memcpy(ret, override, BOOT_ID_LEN);
        return 0;
    }
    AF_CLEANUP_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, ret, BOOT_ID_LEN) == BOOT_ID_LEN ? 0 : -EIO;
}

// Replaces a small file atomically and durably.
static int write_file(int dir_fd, const char *name, const void *bytes, size_t len)
{
    char tmp[32];
    snprintf(tmp, sizeof tmp, "%s.tmp", name);
    AF_CLEANUP_FD int fd =
        openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, bytes, len);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    if (fdatasync(fd) < 0 || renameat(dir_fd, tmp, dir_fd, name) < 0 || fsync(dir_fd) < 0)
        return -errno;
    return 0;
}

static int store_dir(struct store *store)
{
    int fd = openat(store->dir_fd, "store", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int mark(struct store *store, char word)
{
    char state[BOOT_ID_LEN + 2];
    int rc = read_boot_id(state);
    AF_CLEANUP_FD int dir = store_dir(store);
    if (rc < 0 || dir < 0)
        return rc < 0 ? rc : dir;
    state[BOOT_ID_LEN] = word;
    state[BOOT_ID_LEN + 1] = '\n';
    return write_file(dir, "state", state, sizeof state);
}

int store_mark_open(struct store *store)
{
    int rc = store_sync_point(store); // the copy must exist before the first unsynced commit
    return rc < 0 ? rc : mark(store, 'o');
}

int store_mark_clean(struct store *store)
{
    return mark(store, 'c');
}

static int put_back(const char *dir_path, int dir_fd, struct af_error *err)
{
    AF_CLEANUP_FD int copy = openat(dir_fd, "synced.meta", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AF_CLEANUP_FD int data = openat(dir_fd, "data.mdb", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (copy < 0 || data < 0)
        return af_error_errno(err, errno, "cannot restore the database in %s", dir_path);
    struct stat st;
    if (fstat(copy, &st) < 0 || st.st_size <= 0 || st.st_size > 65536)
        return af_error_set(err, AF_DATA_LOSS, "%s/synced.meta is damaged", dir_path);
    AF_CLEANUP_FREE uint8_t *page = malloc((size_t)st.st_size);
    if (!page)
        return af_error_errno(err, ENOMEM, "cannot restore the database in %s", dir_path);
    uint16_t flags;
    if (pread(copy, page, (size_t)st.st_size, 0) != st.st_size)
        return af_error_set(err, AF_DATA_LOSS, "%s/synced.meta cannot be read", dir_path);
    memcpy(&flags, page + META_OFFSET_FLAGS, sizeof flags);
    if (!(flags & META_FLAG))
        return af_error_set(err, AF_DATA_LOSS, "%s/synced.meta is damaged", dir_path);
    for (uint64_t number = 0; number < 2; number++) {
        memcpy(page, &number, sizeof number);
        if (pwrite(data, page, (size_t)st.st_size, (off_t)number * st.st_size) != st.st_size)
            return af_error_errno(err, errno, "cannot restore the database in %s", dir_path);
    }
    if (fsync(data) < 0)
        return af_error_errno(err, errno, "cannot restore the database in %s", dir_path);
    return 0;
}

int store_restore_synced_meta(const char *dir_path, int dir_fd, struct af_error *err)
{
    char state[BOOT_ID_LEN + 2], boot[BOOT_ID_LEN];
    AF_CLEANUP_FD int fd = openat(dir_fd, "state", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return 0; // never opened before
    if (read(fd, state, sizeof state) != (ssize_t)sizeof state)
        return af_error_set(err, AF_DATA_LOSS, "%s/state is damaged", dir_path);
    if (read_boot_id(boot) < 0)
        return af_error_set(err, AF_INTERNAL, "this kernel shows no boot id");
    if (state[BOOT_ID_LEN] == 'c' || memcmp(state, boot, BOOT_ID_LEN) == 0)
        return 0;
    return put_back(dir_path, dir_fd, err);
}

// The meta page of the newest transaction, copied while no other can commit.
static int copy_meta(struct store *store, MDB_txn **ret_reader, uint8_t **ret_page,
                     size_t *ret_size)
{
    MDB_stat stat;
    mdb_env_stat(store->env, &stat);
    mdb_filehandle_t data;
    mdb_env_get_fd(store->env, &data);
    uint8_t *page = malloc(stat.ms_psize);
    if (!page)
        return -ENOMEM;
    MDB_txn *writer, *reader = NULL;
    int rc = store_errno(mdb_txn_begin(store->env, NULL, 0, &writer));
    if (rc < 0) {
        free(page);
        return rc;
    }
    rc = store_errno(mdb_txn_begin(store->env, NULL, MDB_RDONLY, &reader));
    if (rc == 0) {
        off_t offset = (off_t)(mdb_txn_id(reader) & 1) * (off_t)stat.ms_psize;
        if (pread(data, page, stat.ms_psize, offset) != (ssize_t)stat.ms_psize)
            rc = -EIO;
    }
    mdb_txn_abort(writer);
    if (rc < 0) {
        if (reader)
            mdb_txn_abort(reader);
        free(page);
        return rc;
    }
    *ret_reader = reader;
    *ret_page = page;
    *ret_size = stat.ms_psize;
    return 0;
}

int store_sync_point(struct store *store)
{
    MDB_txn *reader;
    uint8_t *page;
    size_t size;
    atomic_store(&store->dirty_commits, 0);
    int rc = copy_meta(store, &reader, &page, &size);
    if (rc < 0)
        return rc;
    rc = store_errno(mdb_env_sync(store->env, 1));
    AF_CLEANUP_FD int dir = store_dir(store);
    if (rc == 0)
        rc = dir < 0 ? dir : write_file(dir, "synced.meta", page, size);
    free(page);
    if (rc < 0) {
        mdb_txn_abort(reader);
        return rc;
    }
    if (store->sync.pinned)
        mdb_txn_abort(store->sync.pinned);
    store->sync.pinned = reader;
    atomic_fetch_add(&store->syncs, 1);
    return 0;
}
