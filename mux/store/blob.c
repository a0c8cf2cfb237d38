// Blob files: content too large for its record.
//
// A blob is made in DIR/new and moves to DIR/blobs/xx once the transaction that first refers to it
// has committed; what DIR/new holds at start is moved or removed by what the records say. A file is
// unlinked only after the transaction that dropped its last reference is synced (gc.c). Host access
// is by directory fd and id alone. Lock: blobs.lock (a leaf) over the table of open blobs.
#include "mux/store/store_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#define BLOB_NAME_MAX 32

static void new_name(uint64_t id, char name[BLOB_NAME_MAX])
{
    snprintf(name, BLOB_NAME_MAX, "%016" PRIx64, id);
}

static void blob_name(uint64_t id, char name[BLOB_NAME_MAX])
{
    snprintf(name, BLOB_NAME_MAX, "%02x/%016" PRIx64, (unsigned)(id & 0xff), id);
}

// ---- records

static int get_record(struct store_txn *txn, uint64_t id, struct value_blob *ret)
{
    struct key_id key = key_of_id(id);
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_BLOB, store_val(&key, sizeof key), &value);
    if (rc < 0)
        return rc;
    if (value.mv_size != sizeof *ret)
        return -EUCLEAN;
    memcpy(ret, value.mv_data, sizeof *ret);
    return 0;
}

static int put_record(struct store_txn *txn, uint64_t id, const struct value_blob *value)
{
    struct key_id key = key_of_id(id);
    return store_put(txn, STORE_DBI_BLOB, store_val(&key, sizeof key),
                     store_val(value, sizeof *value));
}

static struct store_blob *find_open(struct store *store, uint64_t id)
{
    struct store_blob *blob = store->blobs.buckets[id % STORE_BLOB_BUCKETS];
    while (blob && blob->id != id)
        blob = blob->hash_next;
    return blob;
}

int store_blob_take(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc == -ENOENT) {
        struct store *store = txn->store;
        pthread_mutex_lock(&store->blobs.lock);
        struct store_blob *blob = find_open(store, id);
        bool fresh = blob && blob->fresh;
        if (fresh && !blob->adopted) {
            blob->adopted = true;
            blob->refs++;
            blob->next_adopted = txn->adopted;
            txn->adopted = blob;
        }
        pthread_mutex_unlock(&store->blobs.lock);
        if (!fresh)
            return -EUCLEAN; // neither recorded nor just made
        value = (struct value_blob){.format = STORE_FORMAT};
        rc = 0;
    }
    if (rc < 0)
        return rc;
    value.refs++;
    return put_record(txn, id, &value);
}

int store_blob_drop(struct store_txn *txn, uint64_t id)
{
    struct value_blob value;
    int rc = get_record(txn, id, &value);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    if (value.refs > 1) {
        value.refs--;
        return put_record(txn, id, &value);
    }
    struct key_id key = key_of_id(id);
    uint8_t format = STORE_FORMAT;
    rc = store_del(txn, STORE_DBI_BLOB, store_val(&key, sizeof key));
    if (rc == 0 && value.has_digest)
        rc = store_del(txn, STORE_DBI_DIGEST, store_val(value.sha256, sizeof value.sha256));
    if (rc == 0)
        rc = store_put(txn, STORE_DBI_UNLINK, store_val(&key, sizeof key), store_val(&format, 1));
    return rc;
}

int store_digest_find(struct store_txn *txn, const uint8_t sha256[32], uint64_t *ret_blob)
{
    MDB_val value;
    int rc = store_get(txn, STORE_DBI_DIGEST, store_val(sha256, 32), &value);
    if (rc < 0)
        return rc;
    if (value.mv_size != sizeof *ret_blob)
        return -EUCLEAN;
    memcpy(ret_blob, value.mv_data, sizeof *ret_blob);
    return 0;
}

int store_digest_put(struct store_txn *txn, const uint8_t sha256[32], uint64_t blob)
{
    struct value_blob value;
    int rc = get_record(txn, blob, &value);
    if (rc < 0)
        return rc;
    value.has_digest = 1;
    memcpy(value.sha256, sha256, sizeof value.sha256);
    rc = put_record(txn, blob, &value);
    if (rc == 0)
        rc = store_put(txn, STORE_DBI_DIGEST, store_val(sha256, 32), store_val(&blob, sizeof blob));
    return rc;
}

// ---- the table of open blobs, under blobs.lock

static void unhash(struct store *store, struct store_blob *blob)
{
    struct store_blob **place = &store->blobs.buckets[blob->id % STORE_BLOB_BUCKETS];
    while (*place != blob)
        place = &(*place)->hash_next;
    *place = blob->hash_next;
    store->blobs.open--;
}

static void hash(struct store *store, struct store_blob *blob)
{
    struct store_blob **bucket = &store->blobs.buckets[blob->id % STORE_BLOB_BUCKETS];
    blob->hash_next = *bucket;
    *bucket = blob;
    store->blobs.open++;
}

static void free_blob(struct store_blob *blob)
{
    close(blob->fd);
    free(blob);
}

// Closes the unused blob that was used longest ago when there are too many.
static struct store_blob *evict(struct store *store)
{
    struct store_blob *oldest = store->blobs.lru;
    if (store->blobs.open <= store->blobs.max || !oldest)
        return NULL;
    DL_DELETE2(store->blobs.lru, oldest, lru_prev, lru_next);
    unhash(store, oldest);
    return oldest;
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
    struct store_blob *other = find_open(store, id), *victim = NULL;
    if (other) { // opened by another thread meanwhile
        if (other->refs++ == 0)
            DL_DELETE2(store->blobs.lru, other, lru_prev, lru_next);
        victim = blob;
        blob = other;
    } else {
        hash(store, blob);
        victim = evict(store);
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (victim)
        free_blob(victim);
    *ret = blob;
    return 0;
}

int store_blob_new(struct store *store, struct store_blob **ret)
{
    uint64_t id;
    int rc = store_new_id(store, &id);
    if (rc < 0)
        return rc;
    char name[BLOB_NAME_MAX];
    new_name(id, name);
    int fd = openat(store->new_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : add_open(store, id, fd, true, ret);
}

int store_blob_open(struct store *store, uint64_t id, struct store_blob **ret)
{
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *blob = find_open(store, id);
    if (blob && blob->refs++ == 0)
        DL_DELETE2(store->blobs.lru, blob, lru_prev, lru_next);
    pthread_mutex_unlock(&store->blobs.lock);
    if (blob) {
        *ret = blob;
        return 0;
    }
    char name[BLOB_NAME_MAX];
    blob_name(id, name);
    int fd = openat(store->blobs_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : add_open(store, id, fd, false, ret);
}

void store_blob_release(struct store_blob *blob)
{
    struct store *store = blob->store;
    struct store_blob *victim = NULL;
    pthread_mutex_lock(&store->blobs.lock);
    if (--blob->refs == 0) {
        DL_APPEND2(store->blobs.lru, blob, lru_prev, lru_next);
        victim = evict(store);
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (victim)
        free_blob(victim);
}

void store_blob_discard(struct store_blob *blob)
{
    struct store *store = blob->store;
    if (blob->fresh) {
        char name[BLOB_NAME_MAX];
        new_name(blob->id, name);
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

// ---- new -> blobs

static int move_in(struct store *store, uint64_t id)
{
    char from[BLOB_NAME_MAX], to[BLOB_NAME_MAX];
    new_name(id, from);
    blob_name(id, to);
    return renameat(store->new_fd, from, store->blobs_fd, to) < 0 ? -errno : 0;
}

static void settle_adopted(struct store_txn *txn, bool committed)
{
    struct store_blob *blob = txn->adopted, *next;
    for (; blob; blob = next) {
        next = blob->next_adopted;
        // A failed rename is mended at the next start; the open handle works meanwhile.
        bool moved = committed && move_in(txn->store, blob->id) == 0;
        pthread_mutex_lock(&txn->store->blobs.lock);
        blob->adopted = false;
        if (moved)
            blob->fresh = false;
        pthread_mutex_unlock(&txn->store->blobs.lock);
        store_blob_release(blob);
    }
}

void store_blobs_committed(struct store_txn *txn)
{
    settle_adopted(txn, true);
}

void store_blobs_aborted(struct store_txn *txn)
{
    settle_adopted(txn, false);
}

int store_blob_unlink(struct store *store, uint64_t id)
{
    char name[BLOB_NAME_MAX];
    blob_name(id, name);
    pthread_mutex_lock(&store->blobs.lock);
    struct store_blob *blob = find_open(store, id);
    if (blob && blob->refs == 0) {
        DL_DELETE2(store->blobs.lru, blob, lru_prev, lru_next);
        unhash(store, blob);
    } else {
        blob = NULL; // still in use: the file's data lives until its last handle goes
    }
    pthread_mutex_unlock(&store->blobs.lock);
    if (blob)
        free_blob(blob);
    return unlinkat(store->blobs_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

// Moves what a committed record refers to, removes the rest.
static int sweep_new(struct store *store)
{
    int fd = dup(store->new_fd);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -errno;
    }
    struct store_txn *txn;
    int rc = store_read_begin(store, &txn);
    struct dirent *entry;
    while (rc == 0 && (entry = readdir(dir))) {
        char *end;
        uint64_t id = strtoull(entry->d_name, &end, 16);
        struct value_blob value;
        if (*end != '\0' || entry->d_name[0] == '.')
            continue;
        if (get_record(txn, id, &value) == 0)
            rc = move_in(store, id);
        else if (unlinkat(store->new_fd, entry->d_name, 0) < 0)
            rc = -errno;
    }
    if (rc == 0)
        store_read_end(txn);
    closedir(dir);
    return rc;
}

int store_blobs_open(struct store *store, struct af_error *err)
{
    int rc = 0;
    if ((mkdirat(store->dir_fd, "blobs", 0700) < 0 && errno != EEXIST) ||
        (mkdirat(store->dir_fd, "new", 0700) < 0 && errno != EEXIST))
        rc = -errno;
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
    if (rc == 0 && ((store->blobs_fd = openat(store->dir_fd, "blobs", flags)) < 0 ||
                    (store->new_fd = openat(store->dir_fd, "new", flags)) < 0))
        rc = -errno;
    for (unsigned i = 0; rc == 0 && i < 256; i++) {
        char name[4];
        snprintf(name, sizeof name, "%02x", i);
        if (mkdirat(store->blobs_fd, name, 0700) < 0 && errno != EEXIST)
            rc = -errno;
    }
    if (rc == 0)
        rc = sweep_new(store);
    return rc < 0 ? af_error_errno(err, rc, "cannot use the blobs in %s", store->dir) : 0;
}

void store_blobs_close(struct store *store)
{
    for (size_t i = 0; i < STORE_BLOB_BUCKETS; i++)
        while (store->blobs.buckets[i]) {
            struct store_blob *blob = store->blobs.buckets[i];
            store->blobs.buckets[i] = blob->hash_next;
            free_blob(blob);
        }
}
