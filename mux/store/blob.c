// Blob files: content too large for its record.
//
// A blob is made in DIR/new. It moves to DIR/blobs/xx after a sync point that covers the
// transaction which first refers to it: so after a kill -9 or a power cut every file that no
// record refers to is either in DIR/new, which is swept at start, or queued for the collector, and
// no commit waits for a rename. Host access is by directory fd and id alone. Open files are kept,
// at most blobs.max of them beside those in use. Lock: blobs.lock (a leaf) over the table, the
// flags of handles and the two sets; never held across a system call on a file.
// Read next: blob_record.c, durability.c.
#include "mux/store/store_priv.h"

#include "mux/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

#define DAMAGE_LOGGED_MAX 100 // lines in the log since the start

void store_blob_path(uint64_t id, bool fresh, char path[STORE_BLOB_PATH_MAX])
{
    if (fresh)
        snprintf(path, STORE_BLOB_PATH_MAX, "%016" PRIx64, id);
    else
        snprintf(path, STORE_BLOB_PATH_MAX, "%02x/%016" PRIx64, (unsigned)(id & 0xff), id);
}

// ---- the table of open blobs, under blobs.lock

static struct store_blob *find_open(struct store *store, uint64_t id)
{
    struct store_blob *blob = store->blobs.buckets[id % STORE_BLOB_BUCKETS];
    while (blob && blob->id != id)
        blob = blob->hash_next;
    return blob;
}

static void unhash(struct store *store, struct store_blob *blob)
{
    struct store_blob **place = &store->blobs.buckets[blob->id % STORE_BLOB_BUCKETS];
    while (*place != blob)
        place = &(*place)->hash_next;
    *place = blob->hash_next;
    blob->gone = true;
    store->blobs.open--;
}

static void hash(struct store *store, struct store_blob *blob)
{
    struct store_blob **bucket = &store->blobs.buckets[blob->id % STORE_BLOB_BUCKETS];
    blob->hash_next = *bucket;
    *bucket = blob;
    store->blobs.open++;
}

// Whether an unused handle stands in the list of those that may be closed: a fresh one is what
// says that its blob may be recorded, and stays.
static bool is_listed(const struct store_blob *blob)
{
    return blob->refs == 0 && !blob->fresh && !blob->gone;
}

static void reuse(struct store *store, struct store_blob *blob)
{
    if (is_listed(blob))
        DL_DELETE2(store->blobs.lru, blob, lru_prev, lru_next);
    blob->refs++;
}

static void free_blob(struct store_blob *blob)
{
    close(blob->fd);
    free(blob);
}

// Takes out the unused blob that was used longest ago when more than `max` are open.
static struct store_blob *evict(struct store *store, unsigned max)
{
    struct store_blob *oldest = store->blobs.lru;
    if (store->blobs.open <= max || !oldest)
        return NULL;
    DL_DELETE2(store->blobs.lru, oldest, lru_prev, lru_next);
    unhash(store, oldest);
    return oldest;
}

static void close_unused(struct store *store, unsigned max)
{
    for (;;) {
        pthread_mutex_lock(&store->blobs.lock);
        struct store_blob *victim = evict(store, max);
        pthread_mutex_unlock(&store->blobs.lock);
        if (!victim)
            return;
        free_blob(victim);
    }
}

static int add_open(struct store *store, uint64_t id, int fd, bool fresh, struct store_blob **ret)
{
    struct store_blob *blob = calloc(1, sizeof *blob);
    if (!blob) {
        close(fd);
        return -ENOMEM;
    }
    *blob = (struct store_blob){.id = id, .fd = fd, .refs = 1, .fresh = fresh, .store = store};
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *other = find_open(store, id), *victim;
    if (other) { // opened by another thread meanwhile
        reuse(store, other);
        victim = blob;
        blob = other;
    } else {
        hash(store, blob);
        victim = evict(store, store->blobs.max);
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (victim)
        free_blob(victim);
    *ret = blob;
    return 0;
}

// ---- files

// Opens below a folder, through no symlink.
static int open_once(int dir_fd, const char *name, int flags)
{
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
        .mode = flags & O_CREAT ? 0600 : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) // an old kernel, or a filter before us
        fd = openat(dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0)
        return (int)fd;
    // What is there is no file of ours.
    return errno == ELOOP || errno == ENXIO || errno == EISDIR || errno == ENOTDIR ? -EIO : -errno;
}

int store_open_regular(int dir_fd, const char *name, int flags)
{
    struct stat st;
    int fd = open_once(dir_fd, name, flags | O_NONBLOCK); // waits for nobody: a FIFO would be one
    if (fd < 0)
        return fd;
    int rc = fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? 0 : -EIO;
    if (rc == 0 && fcntl(fd, F_SETFL, 0) < 0) // io_uring takes O_NONBLOCK as a wish
        rc = -errno;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

static int open_file(struct store *store, int dir_fd, const char *name, int flags)
{
    int fd = store_open_regular(dir_fd, name, flags);
    if (fd == -EMFILE || fd == -ENFILE) {
        close_unused(store, 0);
        fd = store_open_regular(dir_fd, name, flags);
    }
    return fd;
}

// A new file is a regular one.
static int make_file(struct store *store, const char *name)
{
    int fd = open_once(store->new_fd, name, O_RDWR | O_CREAT | O_EXCL);
    if (fd == -EMFILE || fd == -ENFILE) {
        close_unused(store, 0);
        fd = open_once(store->new_fd, name, O_RDWR | O_CREAT | O_EXCL);
    }
    return fd;
}

int store_blob_new(struct store *store, struct store_blob **ret)
{
    uint64_t id;
    int rc = store_new_id(store, &id);
    if (rc < 0)
        return rc;
    char name[STORE_BLOB_PATH_MAX];
    store_blob_path(id, true, name);
    int fd = make_file(store, name);
    if (fd < 0)
        return fd;
    rc = add_open(store, id, fd, true, ret);
    if (rc < 0)
        unlinkat(store->new_fd, name, 0);
    return rc;
}

// It may move from new/ to blobs/ between two looks.
static int open_existing(struct store *store, uint64_t id)
{
    char settled[STORE_BLOB_PATH_MAX], fresh[STORE_BLOB_PATH_MAX];
    store_blob_path(id, false, settled);
    store_blob_path(id, true, fresh);
    int fd = open_file(store, store->blobs_fd, settled, O_RDWR);
    if (fd == -ENOENT)
        fd = open_file(store, store->new_fd, fresh, O_RDWR);
    if (fd == -ENOENT)
        fd = open_file(store, store->blobs_fd, settled, O_RDWR);
    return fd;
}

int store_blob_open(struct store *store, uint64_t id, struct store_blob **ret)
{
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *blob = find_open(store, id);
    *(blob ? &store->blobs.hits : &store->blobs.misses) += 1;
    if (blob)
        reuse(store, blob);
    pthread_mutex_unlock(&store->blobs.lock);
    if (blob) {
        *ret = blob;
        return 0;
    }
    int fd = open_existing(store, id);
    return fd < 0 ? fd : add_open(store, id, fd, false, ret);
}

int store_blob_check(struct store_blob *blob, uint64_t size)
{
    struct store *store = blob->store;
    struct stat st;
    if (fstat(blob->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size >= size)
        return 0;
    if (atomic_fetch_add(&store->blobs.damaged, 1) < DAMAGE_LOGGED_MAX)
        af_log(AF_LOG_ERROR, "store", "content has lost its end: stop the daemon and run fsck",
               "blob=%" PRIu64 " bytes=%" PRIu64 " expected=%" PRIu64, blob->id,
               (uint64_t)st.st_size, size);
    return -EIO;
}

int store_blob_open_sized(struct store *store, uint64_t id, uint64_t size, struct store_blob **ret)
{
    struct store_blob *blob;
    int rc = store_blob_open(store, id, &blob);
    if (rc < 0)
        return rc;
    rc = store_blob_check(blob, size);
    if (rc < 0)
        store_blob_release(blob);
    else
        *ret = blob;
    return rc;
}

void store_blob_extended(struct store_blob *blob, uint64_t size)
{
    uint64_t seen = atomic_load(&blob->seen_bytes);
    while (seen < size && !atomic_compare_exchange_weak(&blob->seen_bytes, &seen, size))
        ;
}

int store_blob_open_owned(struct store *store, uint64_t id, uint64_t size, struct store_blob **ret)
{
    struct store_blob *blob;
    int rc = store_blob_open(store, id, &blob);
    if (rc < 0)
        return rc;
    if (atomic_load(&blob->seen_bytes) < size) {
        rc = store_blob_check(blob, size);
        if (rc < 0) {
            store_blob_release(blob);
            return rc;
        }
        store_blob_extended(blob, size);
    }
    *ret = blob;
    return 0;
}

void store_blob_release(struct store_blob *blob)
{
    struct store *store = blob->store;
    struct store_blob *victim = NULL;
    pthread_mutex_lock(&store->blobs.lock);
    if (--blob->refs == 0) {
        if (blob->gone) {
            victim = blob;
        } else if (!blob->fresh) {
            DL_APPEND2(store->blobs.lru, blob, lru_prev, lru_next);
            victim = evict(store, store->blobs.max);
        }
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (victim)
        free_blob(victim);
}

void store_blob_discard(struct store_blob *blob)
{
    struct store *store = blob->store;
    pthread_mutex_lock(&store->blobs.lock);
    bool unlinks = blob->fresh && !blob->adopted && !blob->gone;
    if (unlinks)
        unhash(store, blob); // nobody can open or record it from now on
    pthread_mutex_unlock(&store->blobs.lock);
    if (unlinks) {
        char name[STORE_BLOB_PATH_MAX];
        store_blob_path(blob->id, true, name);
        unlinkat(store->new_fd, name, 0);
    }
    store_blob_release(blob);
}

int store_blob_fd(const struct store_blob *blob)
{
    return blob->fd;
}

uint64_t store_blob_id(const struct store_blob *blob)
{
    return blob->id;
}

int store_blob_unlink(struct store *store, uint64_t id)
{
    char settled[STORE_BLOB_PATH_MAX], fresh[STORE_BLOB_PATH_MAX];
    store_blob_path(id, false, settled);
    store_blob_path(id, true, fresh);
    struct store_blob *victim = NULL;
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *blob = find_open(store, id);
    if (blob) { // one in use keeps its data until the last handle goes
        if (is_listed(blob)) {
            DL_DELETE2(store->blobs.lru, blob, lru_prev, lru_next);
            victim = blob;
        }
        unhash(store, blob);
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (victim)
        free_blob(victim);
    // As in open_existing, it may be moving.
    if (unlinkat(store->blobs_fd, settled, 0) == 0 || unlinkat(store->new_fd, fresh, 0) == 0 ||
        unlinkat(store->blobs_fd, settled, 0) == 0 || errno == ENOENT)
        return 0;
    return -errno;
}

// ---- what transactions refer to

int store_blob_adopt(struct store_txn *txn, uint64_t id)
{
    struct store *store = txn->store;
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *blob = find_open(store, id);
    bool fresh = blob && blob->fresh;
    if (fresh && !blob->adopted) {
        blob->adopted = true;
        reuse(store, blob);
        blob->next_adopted = txn->adopted;
        txn->adopted = blob;
    }
    pthread_mutex_unlock(&store->blobs.lock);
    return fresh ? 0 : -ENOENT;
}

int store_blob_touch(struct store_txn *txn, uint64_t id)
{
    pthread_mutex_lock(&txn->store->blobs.lock);
    int rc = idset_add(&txn->store->blobs.dirty, id);
    pthread_mutex_unlock(&txn->store->blobs.lock);
    return store_keep_error(txn, rc);
}

// Before the commit, so that no sync point has the records without the blobs.
int store_blobs_prepare(struct store_txn *txn)
{
    int rc = 0;
    pthread_mutex_lock(&txn->store->blobs.lock);
    for (struct store_blob *blob = txn->adopted; rc == 0 && blob; blob = blob->next_adopted)
        rc = idset_add(&txn->store->blobs.fresh, blob->id);
    pthread_mutex_unlock(&txn->store->blobs.lock);
    return rc;
}

static void end_adoption(struct store_txn *txn, bool committed)
{
    struct store_blob *blob = txn->adopted, *next;
    for (; blob; blob = next) {
        next = blob->next_adopted;
        pthread_mutex_lock(&txn->store->blobs.lock);
        blob->adopted = false;
        if (committed)
            blob->fresh = false;
        pthread_mutex_unlock(&txn->store->blobs.lock);
        store_blob_release(blob);
    }
}

void store_blobs_committed(struct store_txn *txn)
{
    end_adoption(txn, true);
}

void store_blobs_aborted(struct store_txn *txn)
{
    end_adoption(txn, false);
}
