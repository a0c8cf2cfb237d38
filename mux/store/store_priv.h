// struct store and what the files of mux/store share. Internal to mux/store.
//
// Lock ranks, outermost first: gc.lock > sync.point > batch.lock, the writer lock > readers.lock,
// blobs.lock, sync.lock, ids.lock, deep.lock, kept.lock (leaves, never one inside another).
// Read next: schema.h, env.c.
#ifndef AF_MUX_STORE_PRIV_H
#define AF_MUX_STORE_PRIV_H

#include "mux/base/cleanup.h"
#include "mux/store/batch.h"
#include "mux/store/idset.h"
#include "mux/store/schema.h"
#include "mux/store/sidefile.h"
#include "mux/store/store.h"

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#define STORE_MAGIC          0x73746f72u
#define STORE_TXN_MAGIC      0x73747874u
#define STORE_READERS_POOLED 128
#define GC_RECORDS_PER_STEP  256 // removed in one transaction of the collector
#define STORE_ID_BLOCK       (1u << 20)
#define BOOT_ID_LEN          36
#define META_BYTES           512 // of an LMDB meta page: all that it uses, and more
// In it: a page header of 16 bytes, then magic 4, version 4, address 8, map size 8, two database
// records of 48, last page 8, transaction id 8.
#define META_AT_MAGIC 16
#define META_AT_TXNID 144
#define META_MAGIC    0xBEEFC0DEu

// DIR/store/synced.meta: the meta page of the last synced transaction.
struct synced_copy {
    char boot_id[BOOT_ID_LEN];
    uint32_t schema, page_bytes, unused;
    uint64_t txnid;
    uint8_t page[META_BYTES];
};

// What a sync point makes durable.
struct sync_snapshot {
    MDB_txn *reader;
    uint64_t pages, commits;
    struct synced_copy copy;
    struct idset fresh, dirty;
};

struct store_txn {
    uint32_t magic;
    struct store *store;
    MDB_txn *mdb;
    MDB_cursor **cursors; // one a database, or NULL: opened when needed. NULL: of what is committed
    bool write;
    bool batched;     // mdb is the batch's: of a change, or, without `write`, of a look at it
    bool changed;     // has written something: worth a commit
    bool garbage;     // has left something to the collector
    int error;        // sticky: the first write that failed; such a transaction is never committed
    uint64_t deep[4]; // stacks of STORE_STACK_DEEP layers or more that it made; n_deep may be more
    size_t n_deep;
    uint64_t *kept; // versions that it keeps (kept.c)
    size_t n_kept, kept_capacity;
    struct store_blob *adopted;               // new blobs that this transaction refers to first
    struct store_txn *next;                   // pooled readers
    MDB_cursor *own_cursors[STORE_DBI_COUNT]; // of a transaction of its own
};

struct store_blob {
    uint64_t id;
    int fd;
    unsigned refs;
    bool fresh;                  // no committed record refers to it
    bool adopted;                // a record of the running write transaction refers to it
    bool discarded;              // its file is gone
    bool gone;                   // out of the table: freed at the last release
    _Atomic uint64_t seen_bytes; // that its file is known to have; it never gets shorter
    struct store *store;
    struct store_blob *next_adopted;
    struct store_blob *lru_prev, *lru_next; // unused ones, oldest first
    struct store_blob *hash_next;
};

#define STORE_BLOB_BUCKETS 4096

struct store {
    uint32_t magic;
    char *dir;
    bool fsck_only;        // opened for fsck: no background thread, nothing swept
    bool read_only;        // and nothing written
    bool synced_damaged;   // found so by fsck
    uint64_t found_synced; // the last sync point's transaction, as the start found or made it
    int dir_fd, store_fd, blobs_fd, new_fd, lock_fd;
    uint32_t page_bytes;
    uint64_t map_bytes;
    MDB_env *env;
    MDB_dbi dbi[STORE_DBI_COUNT];
    uint64_t hash_key[2]; // of names, random per store

    struct {
        pthread_mutex_t lock;
        struct sidefile file;
        uint64_t next, limit; // ids in [next, limit) are reserved on the disk
    } ids;

    struct {
        pthread_mutex_t lock;
        struct store_txn *pool;
        unsigned pooled;
    } readers;

    struct {
        pthread_mutex_t lock;
        struct store_blob *buckets[STORE_BLOB_BUCKETS];
        struct store_blob *lru; // utlist head of blobs with refs 0
        unsigned open, max;
        uint64_t hits, misses; // of what was asked for
        struct idset fresh;    // first referred to by a commit since the last sync point: in new/
        _Atomic unsigned damaged; // seen since the start
        struct idset dirty;       // recorded again since: their data may have changed
    } blobs;

    struct {
        pthread_mutex_t lock;
        pthread_cond_t wake;
        bool stop, running;
        bool gc_wanted;
        pthread_t thread;
        int64_t interval_ns;

        pthread_mutex_t point;   // one sync point at a time; guards what follows
        struct sidefile file;    // DIR/store/synced.meta
        MDB_txn *pinned;         // reader at the last synced transaction
        MDB_txn *pinned_too;     // after a failed sync point: at the one that may be on the disk
        _Atomic uint64_t synced; // id of that transaction
        _Atomic uint64_t pinned_pages; // length of the database then
        _Atomic int error;             // sticky: what a failed fdatasync dropped stays lost
    } sync;

    struct {
        pthread_mutex_t lock;   // one collector at a time
        uint64_t unlinked_to;   // last blob unlinked of the queue that ...
        uint64_t unlinked_sync; // ... this synced transaction shows
    } gc;

    struct {
        pthread_mutex_t lock;
        uint64_t ids[STORE_DEEP_MAX]; // stacks, oldest first
        size_t count;
        bool missed;
        void (*fn)(void *arg);
        void *arg;
    } deep;

    struct {
        pthread_mutex_t lock; // a leaf, held while fn is called
        void (*fn)(void *arg, const uint64_t *versions, size_t count);
        void *arg;
        _Atomic bool wanted;
        _Atomic uint64_t layer; // of kept versions, 0: none yet; changed under the writer lock
    } kept;

    struct store_batch batch; // batch.h; its lock is the writer lock

    _Atomic unsigned writers;              // that have or want the writer lock
    _Atomic uint64_t last_txn;             // id of the last commit
    _Atomic uint64_t commits;              // changes and transactions of one's own
    _Atomic uint64_t syncs, dirty_commits; // dirty: transactions since the last sync point
    _Atomic uint64_t reads;                // transactions, for docs/COSTS.md

    _Atomic uint64_t growth_max;   // bytes the file may grow between sync points
    _Atomic uint64_t reserved_end; // data.mdb has blocks up to here (space.c)
    _Atomic bool full;             // and no more are to be had: nothing new is taken in
};

// -errno of an LMDB return code.
int store_errno(int mdb_rc);

static inline MDB_val store_val(const void *bytes, size_t len)
{
    return (MDB_val){.mv_size = len, .mv_data = (void *)(uintptr_t)bytes};
}

int store_get(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val *ret);
// The first key from *key on. -ENOENT.
int store_seek(struct store_txn *txn, enum store_dbi dbi, MDB_val *key);
int store_put(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val value);
int store_del(struct store_txn *txn, enum store_dbi dbi, MDB_val key);

// Keeps the first error of a write for store_commit. Returns rc.
int store_keep_error(struct store_txn *txn, int rc);

// entry.c: a name's place in its directory
// inode.c, records.c: -EUCLEAN when the value is none
int store_inode_decode(MDB_val value, uint64_t layer, uint64_t fid, struct store_inode *ret);
int store_codebase_decode(MDB_val key, MDB_val value, struct store_codebase *ret);
int store_sandbox_decode(MDB_val key, MDB_val value, struct store_sandbox *ret);

// upgrade.c: whether this program can use it; and the new number, after the first sync point
int store_check_schema(const struct store *store, uint64_t found, struct af_error *err);
int store_upgrade(struct store *store);
// ids.c
// A missing file is made when `first` is not 0.
int store_ids_open(struct store *store, int store_dir, uint64_t first);
int store_ids_restart(struct store *store, uint64_t next); // for a repair
// txn.c
void store_note_commit(struct store *store, uint64_t id); // of LMDB's transaction
// pages.c
// Whether LMDB may follow the pages of data.mdb: -1 and a sentence when not. A database of more
// than `pages_max` pages is not looked at.
int store_check_pages(int store_dir, uint64_t pages_max, struct af_error *err);
// durability.c
int store_read_boot_id(char ret[BOOT_ID_LEN]);
int store_synced_open(struct store *store, int dir_fd, struct af_error *err);
// Makes a sync point unless one covers the transaction `at_least` already.
int store_sync_point(struct store *store, uint64_t at_least);
// At a start, before its first sync point: what a killed run had written to its blobs, if the
// transaction `last` is not the one of the last sync point. Which blobs these are died with it.
void store_sync_left_behind(struct store *store, uint64_t last);
void store_unpin(struct store *store);
// Whether so much is unsynced that writers must let a sync point pass first.
bool store_sync_is_behind(struct store *store);
bool store_sync_is_due(struct store *store); // by commits or by growth
// background.c
int store_background_start(struct store *store);
void store_background_stop(struct store *store);
void store_background_wake(struct store *store, bool garbage);
// gc.c, under gc.lock. Removes at most `max` records of garbage; *ret_removed 0: there is none.
int store_gc_step(struct store *store, unsigned max, uint64_t *ret_removed);
// Unlinks the files of a batch of dropped blobs; returns how many, 0 at the end of the queue.
int store_gc_unlink(struct store *store);
// layer.c: layers of imports that a crash interrupted.
int store_layers_drop_pending(struct store *store);
// blob.c
#define STORE_BLOB_PATH_MAX 32
// Where its file is, in new/ or in blobs/.
int store_blob_refs(struct store_txn *txn, uint64_t id, uint32_t *ret_refs);
void store_blob_path(uint64_t id, bool fresh, char path[STORE_BLOB_PATH_MAX]);
// A file of the store's own, opened without waiting for anything: -EIO unless it is a regular file.
int store_open_regular(int dir_fd, const char *name, int flags);
// blob_settle.c
int store_blobs_open_folders(struct store *store);
int store_blobs_open(struct store *store, struct af_error *err);
// The files in new/ that a former run left; before and after this run's first sync point.
int store_blobs_sweep(struct store *store, bool is_synced);
void store_blobs_close(struct store *store);
int store_blob_take(struct store_txn *txn, uint64_t id);  // a record refers to it now
int store_blob_adopt(struct store_txn *txn, uint64_t id); // -ENOENT unless just made
int store_blob_touch(struct store_txn *txn, uint64_t id); // its data may have changed
int store_blob_drop(struct store_txn *txn, uint64_t id);  // a record no longer does
int store_blob_own(struct store_txn *txn, uint64_t id, uint64_t layer);
int store_blob_decode(MDB_val value, struct value_blob *ret);
MDB_val store_blob_encode(const struct value_blob *value);
int store_blobs_prepare(struct store_txn *txn); // before the commit
void store_blobs_committed(struct store_txn *txn);
void store_blobs_aborted(struct store_txn *txn);
int store_blob_unlink(struct store *store, uint64_t id);
// Syncs the data of the blobs of both sets, which the records about to be synced refer to.
int store_blobs_sync(struct store *store, const struct idset *fresh, const struct idset *dirty);
// Their records are on the disk: moves them from new/ to blobs/.
void store_blobs_settle(struct store *store, const struct idset *fresh);
// blob_record.c
int store_blob_is_recorded(struct store_txn *txn, uint64_t id); // 1, 0 or -errno
// space.c
void store_make_room(struct store *store);     // for a batch, and the next one
uint64_t store_room_left(struct store *store); // bytes that a batch may grow the database by
void store_reserve_space(struct store *store);
void store_limit_growth(struct store *store); // at a sync point
// Looks whether space has come back; makes a sync point when deletions run out of headroom.
void store_space_when_full(struct store *store);
int store_space_for_growth(struct store_txn *txn); // -ENOSPC when full
// xattr.c
int store_xattr_copy(struct store_txn *txn, uint64_t from_layer, uint64_t to_layer, uint64_t fid,
                     size_t len);
int store_xattr_del(struct store_txn *txn, uint64_t layer, uint64_t fid);
// deep.c
void store_note_deep(struct store_txn *txn, uint64_t stack);
void store_deep_committed(struct store_txn *txn);
// kept.c. Before a record of layer and fid loses its version: keeps it when it is the last.
int store_kept_save(struct store_txn *txn, uint64_t layer, uint64_t fid, uint64_t version);
// Before a transaction that keeps some is committed, under the writer lock: tells who listens.
void store_kept_tell(struct store_txn *txn);
// layer.c
// A pending layer that a deletion on a full disk may make.
int store_layer_new_kept(struct store_txn *txn, uint64_t *ret_id);
// Adds to a layer's references, which must not end: store_layer_unref is for that.
int store_layer_change_refs(struct store_txn *txn, uint64_t id, int64_t change);
// The same stack told by other layers, whose references are the caller's to count.
int store_stack_replace(struct store_txn *txn, uint64_t id, const uint64_t *layers, size_t count);
// Marks a layer as pending; it goes with the references to the layers of `run`.
int store_pending_put(struct store_txn *txn, uint64_t id, const uint64_t *run, size_t count);
// Takes the mark and all its references away.
int store_pending_end(struct store_txn *txn, uint64_t id);
struct store_layer_change {
    int64_t bytes, inodes, tree_files, tree_bytes;
};
int store_layer_count(struct store_txn *txn, uint64_t id, const struct store_layer_change *change);

#endif
