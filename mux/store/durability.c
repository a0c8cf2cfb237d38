// Surviving a power cut without syncing every commit.
//
// LMDB runs with MDB_NOSYNC: pages of later transactions may reach the disk in any order, so after
// a power cut the newest meta page may point at pages that never arrived. At each sync point
// therefore (1) a reader is begun at the last committed transaction T, so that no page of T is
// reused, (2) the meta page of T is copied while the writer lock is held, (3) the blobs and the
// file are synced, (4) the copy is written to DIR/store/synced.meta and synced. When the boot id
// has changed and the last close was not clean, the copy is put back over both meta pages before
// LMDB opens the file: the store is then exactly T. The boot id and whether the store is open stand
// in DIR/store/state. Read next: background.c, which makes the sync points.
#include "mux/store/siphash.h"
#include "mux/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>
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

// synced.meta holds two slots that are written in turn, so that one is whole at any moment; both
// are allocated at open, so that a full disk cannot keep a sync point, and with it the files of
// deleted blobs, from going through.
struct slot {
    uint64_t magic, sequence, checksum;
    uint8_t page[];
};

#define SLOT_MAGIC    0x6174656d636e7973ULL // "syncmeta"
#define PAGE_SIZE_MAX 65536

static uint64_t slot_checksum(const struct slot *slot, size_t page_size)
{
    const uint64_t key[2] = {slot->magic, slot->sequence};
    return store_siphash(key, slot->page, page_size);
}

static off_t slot_offset(uint64_t sequence, size_t page_size)
{
    return (off_t)(sequence % 2) * (off_t)(sizeof(struct slot) + page_size);
}

static int write_slot(int dir_fd, uint64_t sequence, const uint8_t *page, size_t page_size)
{
    size_t len = sizeof(struct slot) + page_size;
    AF_CLEANUP_FREE struct slot *slot = malloc(len);
    AF_CLEANUP_FD int fd =
        openat(dir_fd, "synced.meta", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (!slot || fd < 0)
        return slot ? -errno : -ENOMEM;
    *slot = (struct slot){.magic = SLOT_MAGIC, .sequence = sequence};
    memcpy(slot->page, page, page_size);
    slot->checksum = slot_checksum(slot, page_size);
    int rc = posix_fallocate(fd, 0, (off_t)(2 * len)); // nothing to do after the first time
    if (rc != 0)
        return -rc;
    ssize_t n = pwrite(fd, slot, len, slot_offset(sequence, page_size));
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -ENOSPC;
    return fdatasync(fd) < 0 ? -errno : 0;
}

// The newest whole slot, or NULL. *ret_page_size is that of its page.
static struct slot *read_slots(int dir_fd, size_t *ret_page_size)
{
    AF_CLEANUP_FD int fd = openat(dir_fd, "synced.meta", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return NULL;
    size_t len = (size_t)st.st_size / 2, page_size = len - sizeof(struct slot);
    if (len <= sizeof(struct slot) || page_size > PAGE_SIZE_MAX)
        return NULL;
    struct slot *best = NULL;
    for (off_t at = 0; at < 2; at++) {
        struct slot *slot = malloc(len);
        if (slot && pread(fd, slot, len, at * (off_t)len) == (ssize_t)len &&
            slot->magic == SLOT_MAGIC && slot->checksum == slot_checksum(slot, page_size) &&
            (!best || slot->sequence > best->sequence)) {
            free(best);
            best = slot;
        } else {
            free(slot);
        }
    }
    *ret_page_size = page_size;
    return best;
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
    AF_CLEANUP_FD int fd = openat(dir, "state", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    state[BOOT_ID_LEN] = word;
    state[BOOT_ID_LEN + 1] = '\n';
    // 38 bytes of one sector: they change as one.
    if (pwrite(fd, state, sizeof state, 0) != (ssize_t)sizeof state || fsync(fd) < 0 ||
        fsync(dir) < 0)
        return -EIO;
    return 0;
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
    size_t page_size;
    AF_CLEANUP_FREE struct slot *slot = read_slots(dir_fd, &page_size);
    if (!slot)
        return af_error_set(err, AF_DATA_LOSS,
                            "%s was not closed cleanly before the machine restarted, and its "
                            "synced.meta is damaged: restore the directory from a backup",
                            dir_path);
    uint16_t flags;
    memcpy(&flags, slot->page + META_OFFSET_FLAGS, sizeof flags);
    AF_CLEANUP_FD int data = openat(dir_fd, "data.mdb", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (data < 0 || !(flags & META_FLAG))
        return af_error_set(err, AF_DATA_LOSS, "%s/data.mdb cannot be restored", dir_path);
    for (uint64_t number = 0; number < 2; number++) {
        memcpy(slot->page, &number, sizeof number);
        if (pwrite(data, slot->page, page_size, (off_t)number * (off_t)page_size) !=
            (ssize_t)page_size)
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
    // The whole file system of the state directory: the blobs that T's records refer to have to be
    // on the disk before T may be what a power cut goes back to.
    rc = syncfs(store->dir_fd) < 0 ? -errno : store_errno(mdb_env_sync(store->env, 1));
    AF_CLEANUP_FD int dir = store_dir(store);
    if (rc == 0)
        rc = dir < 0 ? dir : write_slot(dir, mdb_txn_id(reader), page, size);
    free(page);
    if (rc < 0) {
        mdb_txn_abort(reader);
        return rc;
    }
    if (store->sync.pinned)
        mdb_txn_abort(store->sync.pinned);
    store->sync.pinned = reader;
    store_limit_growth(store);
    atomic_fetch_add(&store->syncs, 1);
    return 0;
}
