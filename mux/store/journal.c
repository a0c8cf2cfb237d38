// The journal: changes that are acknowledged, but whose batch is not committed yet.
//
// DIR/store/journal begins with a head (boot id, a random number of the run), and has the records
// of the open batch behind it, each with a keyed checksum, its number, and the transaction that the
// batch goes on from. So what is found is whole and in order, and of a batch that was committed, of
// another run or another database nothing is. A record is written before its change is acknowledged
// and never synced: it is there for a kill -9. After a power cut the boot id differs, and what was
// not synced is lost as it always was (durability.c). A batch's records begin at the head again.
// Where a value takes the place of one as long, the record has the bytes alone that differ: so that
// a file's times do not write its content again. Up to schema 9 it had all, under another checksum.
// Owns the file; under the writer lock, or before any other thread is there. Fails: -errno.
// Read next: batch.c.
#include "mux/store/siphash.h"
#include "mux/store/store_priv.h"
#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES  4096
#define REDO_FIRST  (16u << 10)
#define REPLAY_MAX  (64u << 20)
#define HEAD_MAGIC  "AFJRNL1"
#define CHECK_BYTES sizeof(uint64_t)
#define SCHEMA_FAST 10 // from which on there are patches, and store_siphash_fast checks

struct journal_head {
    uint64_t check; // of what follows, keyed with the nonce
    uint64_t nonce[2];
    char magic[8];
    char boot_id[BOOT_ID_LEN];
    uint32_t schema;
};

_Static_assert(sizeof(struct journal_head) == 72, "written as it is: no padding");

struct record_head {
    uint64_t check; // of what follows, and of the bytes behind the head
    uint64_t base;
    uint32_t number, bytes;
};

enum { ENTRY_PUTS = 0, ENTRY_DELETES = 1, ENTRY_PATCHES = 2 };

struct entry_head {
    uint8_t dbi, does;
    uint16_t key_bytes;
    uint32_t value_bytes; // behind the key; of a patch: where it begins (4 bytes), then its bytes
};

_Static_assert(sizeof(struct record_head) == 24 && sizeof(struct entry_head) == 8, "no padding");

// ---- in memory

static int reserve(struct store_redo *redo, size_t more)
{
    size_t room = redo->room ? redo->room : REDO_FIRST;
    if (redo->room - redo->used >= more)
        return 0;
    while (room - redo->used < more)
        room *= 2;
    uint8_t *bytes = realloc(redo->bytes, room);
    if (!bytes)
        return -ENOMEM;
    redo->bytes = bytes;
    redo->room = room;
    return 0;
}

int store_redo_begin(struct store_redo *redo)
{
    int rc = reserve(redo, sizeof(struct record_head));
    if (rc < 0)
        return rc;
    redo->begun = redo->used;
    redo->used += sizeof(struct record_head);
    return 0;
}

// `at`: of a patch, which goes before its bytes.
static int add(struct store_redo *redo, int dbi, uint8_t does, MDB_val key, MDB_val value,
               uint32_t at)
{
    size_t before = does == ENTRY_PATCHES ? sizeof at : 0, behind = before + value.mv_size;
    struct entry_head head = {.dbi = (uint8_t)dbi,
                              .does = does,
                              .key_bytes = (uint16_t)key.mv_size,
                              .value_bytes = (uint32_t)behind};
    if (key.mv_size > UINT16_MAX || behind > UINT32_MAX)
        return -EFBIG;
    int rc = reserve(redo, sizeof head + key.mv_size + behind);
    if (rc < 0)
        return rc;
    uint8_t *p = redo->bytes + redo->used;
    memcpy(p, &head, sizeof head);
    p += sizeof head;
    memcpy(p, key.mv_data, key.mv_size);
    p += key.mv_size;
    memcpy(p, &at, before);
    if (value.mv_size > 0)
        memcpy(p + before, value.mv_data, value.mv_size);
    redo->used += sizeof head + key.mv_size + behind;
    return 0;
}

static bool same_word(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, sizeof(uint64_t)) == 0;
}

// The bytes that differ, in whole words from either end.
static MDB_val difference(MDB_val old, MDB_val value, uint32_t *ret_at)
{
    const uint8_t *before = old.mv_data, *after = value.mv_data;
    size_t from = 0, to = value.mv_size;
    while (to - from >= sizeof(uint64_t) && same_word(before + from, after + from))
        from += sizeof(uint64_t);
    while (to - from >= sizeof(uint64_t) &&
           same_word(before + to - sizeof(uint64_t), after + to - sizeof(uint64_t)))
        to -= sizeof(uint64_t);
    *ret_at = (uint32_t)from;
    return store_val(after + from, to - from);
}

int store_redo_put(struct store_redo *redo, int dbi, MDB_val key, const MDB_val *old, MDB_val value)
{
    uint32_t at = 0;
    if (!old || old->mv_size != value.mv_size || value.mv_size > UINT32_MAX)
        return add(redo, dbi, ENTRY_PUTS, key, value, 0);
    MDB_val changed = difference(*old, value, &at);
    return add(redo, dbi, ENTRY_PATCHES, key, changed, at);
}

int store_redo_del(struct store_redo *redo, int dbi, MDB_val key)
{
    return add(redo, dbi, ENTRY_DELETES, key, (MDB_val){0}, 0);
}

// ---- doing it again

static int apply_patch(MDB_txn *mdb, MDB_dbi dbi, MDB_val key, MDB_val patch)
{
    uint32_t at;
    MDB_val old;
    int rc = mdb_get(mdb, dbi, &key, &old);
    if (rc != 0)
        return rc;
    if (patch.mv_size < sizeof at)
        return MDB_CORRUPTED;
    memcpy(&at, patch.mv_data, sizeof at);
    size_t len = patch.mv_size - sizeof at;
    if (at > old.mv_size || len > old.mv_size - at)
        return MDB_CORRUPTED;
    AF_CLEANUP_FREE uint8_t *bytes = malloc(old.mv_size + 1); // the put may move the old ones
    if (!bytes)
        return ENOMEM;
    memcpy(bytes, old.mv_data, old.mv_size);
    memcpy(bytes + at, (const uint8_t *)patch.mv_data + sizeof at, len);
    MDB_val value = store_val(bytes, old.mv_size);
    return mdb_put(mdb, dbi, &key, &value, 0);
}

static int apply_entry(MDB_txn *mdb, MDB_dbi dbi, int does, MDB_val key, MDB_val value)
{
    switch (does) {
    case ENTRY_PUTS:
        return mdb_put(mdb, dbi, &key, &value, 0);
    case ENTRY_DELETES:
        return mdb_del(mdb, dbi, &key, NULL);
    case ENTRY_PATCHES:
        return apply_patch(mdb, dbi, key, value);
    default:
        return MDB_CORRUPTED;
    }
}

static int apply_record(struct store *store, MDB_txn *mdb, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        struct entry_head head;
        if ((size_t)(end - p) < sizeof head)
            return -EUCLEAN;
        memcpy(&head, p, sizeof head);
        p += sizeof head;
        if (head.dbi >= STORE_DBI_COUNT ||
            (size_t)(end - p) < (size_t)head.key_bytes + head.value_bytes)
            return -EUCLEAN;
        MDB_val key = store_val(p, head.key_bytes);
        MDB_val value = store_val(p + head.key_bytes, head.value_bytes);
        int rc = apply_entry(mdb, store->dbi[head.dbi], head.does, key, value);
        if (rc != 0)
            return rc == MDB_NOTFOUND ? -EUCLEAN : store_errno(rc);
        p += head.key_bytes + head.value_bytes;
    }
    return 0;
}

int store_redo_apply(struct store *store, MDB_txn *mdb, const struct store_redo *redo)
{
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < redo->used;) {
        struct record_head head;
        memcpy(&head, redo->bytes + at, sizeof head);
        const uint8_t *p = redo->bytes + at + sizeof head;
        rc = apply_record(store, mdb, p, p + head.bytes);
        at += sizeof head + head.bytes;
    }
    return rc;
}

// ---- the file

static uint64_t check_of(uint32_t schema, const uint64_t nonce[2], const void *whole, size_t len)
{
    const uint8_t *checked = (const uint8_t *)whole + CHECK_BYTES;
    return schema < SCHEMA_FAST ? store_siphash(nonce, checked, len - CHECK_BYTES)
                                : store_siphash_fast(nonce, checked, len - CHECK_BYTES);
}

// What the head of a former run says goes with it, and with that all of its records.
static int write_head(struct store *store, int fd)
{
    struct store_batch *batch = &store->batch;
    struct journal_head head = {.magic = HEAD_MAGIC, .schema = STORE_SCHEMA_VERSION};
    if (getrandom(batch->nonce, sizeof batch->nonce, 0) != sizeof batch->nonce)
        return -EIO;
    memcpy(head.nonce, batch->nonce, sizeof head.nonce);
    int rc = store_read_boot_id(head.boot_id);
    if (rc < 0)
        return rc;
    head.check = check_of(head.schema, batch->nonce, &head, sizeof head);
    return af_write_whole(fd, &head, sizeof head, 0);
}

int store_journal_open(struct store *store)
{
    struct store_batch *batch = &store->batch;
    if (batch->journal_fd >= 0)
        return 0;
    int fd = openat(store->store_fd, "journal", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    // Blocks ahead: what frees space must not fail for want of some here.
    int rc = fallocate(fd, 0, 0, STORE_JOURNAL_BYTES) < 0 && errno != EOPNOTSUPP ? -errno : 0;
    if (rc == 0)
        rc = write_head(store, fd);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    batch->journal_fd = fd;
    return 0;
}

int store_journal_write(struct store *store)
{
    struct store_batch *batch = &store->batch;
    struct store_redo *redo = &batch->redo;
    size_t len = redo->used - redo->begun;
    struct record_head head = {
        .base = batch->base, .number = redo->number, .bytes = (uint32_t)(len - sizeof head)};
    uint8_t *record = redo->bytes + redo->begun;
    memcpy(record, &head, sizeof head);
    head.check = check_of(STORE_SCHEMA_VERSION, batch->nonce, record, len);
    memcpy(record, &head, sizeof head);
    int rc = af_write_whole(batch->journal_fd, record, len, (off_t)(HEAD_BYTES + redo->begun));
    if (rc == 0)
        redo->number++;
    return rc;
}

// ---- at start

// The whole file; *ret_len is 0 when there is none worth a look.
static int read_file(struct store *store, uint8_t **ret, size_t *ret_len)
{
    struct stat st;
    *ret_len = 0;
    AF_CLEANUP_FD int fd = store_open_regular(store->store_fd, "journal", O_RDONLY);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < HEAD_BYTES || st.st_size > REPLAY_MAX)
        return 0;
    size_t len = (size_t)st.st_size;
    uint8_t *bytes = malloc(len);
    if (!bytes)
        return -ENOMEM;
    ssize_t n = af_read_whole(fd, bytes, len, 0);
    if (n != (ssize_t)len) {
        free(bytes);
        return n < 0 ? (int)n : -EIO;
    }
    *ret = bytes;
    *ret_len = len;
    return 0;
}

static bool is_of_this_boot(const uint8_t *bytes, struct journal_head *head)
{
    char boot[BOOT_ID_LEN];
    memcpy(head, bytes, sizeof *head);
    return memcmp(head->magic, HEAD_MAGIC, sizeof head->magic) == 0 &&
           head->schema >= STORE_SCHEMA_OLDEST && head->schema <= STORE_SCHEMA_VERSION &&
           head->check == check_of(head->schema, head->nonce, head, sizeof *head) &&
           store_read_boot_id(boot) == 0 && memcmp(boot, head->boot_id, BOOT_ID_LEN) == 0;
}

// How many bytes of records are whole, in order, and go on from the transaction `base`.
static size_t sound_bytes(const struct journal_head *journal, const uint8_t *bytes, size_t len,
                          uint64_t base)
{
    size_t at = 0;
    for (uint32_t number = 0;; number++) {
        struct record_head head;
        if (len - at < sizeof head)
            return at;
        memcpy(&head, bytes + at, sizeof head);
        if (head.base != base || head.number != number || head.bytes > len - at - sizeof head ||
            head.check !=
                check_of(journal->schema, journal->nonce, bytes + at, sizeof head + head.bytes))
            return at;
        at += sizeof head + head.bytes;
    }
}

int store_journal_replay(struct store *store, MDB_txn **ret)
{
    AF_CLEANUP_FREE uint8_t *bytes = NULL;
    size_t len;
    struct journal_head head;
    MDB_envinfo info;
    *ret = NULL;
    int rc = read_file(store, &bytes, &len);
    if (rc < 0 || len == 0 || !is_of_this_boot(bytes, &head))
        return rc;
    mdb_env_info(store->env, &info);
    struct store_redo redo = {.bytes = bytes + HEAD_BYTES};
    redo.used = sound_bytes(&head, redo.bytes, len - HEAD_BYTES, info.me_last_txnid);
    if (redo.used == 0)
        return 0;
    MDB_txn *mdb;
    rc = store_errno(mdb_txn_begin(store->env, NULL, 0, &mdb));
    if (rc < 0)
        return rc;
    rc = store_redo_apply(store, mdb, &redo);
    if (rc < 0)
        mdb_txn_abort(mdb);
    else
        *ret = mdb;
    return rc;
}
