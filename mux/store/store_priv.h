// struct store and what the files of mux/store share. Internal to mux/store.
//
// Lock ranks, outermost first: LMDB writer > readers.lock, blobs.lock, sync.lock (leaves, never
// one inside another). Read next: schema.h, env.c.
#ifndef AF_MUX_STORE_PRIV_H
#define AF_MUX_STORE_PRIV_H

#include "mux/base/cleanup.h"
#include "mux/store/schema.h"
#include "mux/store/store.h"

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>

#define STORE_MAGIC          0x73746f72u
#define STORE_TXN_MAGIC      0x73747874u
#define STORE_READERS_POOLED 128
#define STORE_ID_BLOCK       (1u << 20)

struct store_txn {
    uint32_t magic;
    struct store *store;
    MDB_txn *mdb;
    bool write;
    struct store_blob *adopted; // new blobs that this transaction refers to first
    struct store_txn *next;     // pooled readers
};

struct store_blob {
    uint64_t id;
    int fd;
    unsigned refs;
    bool fresh;   // in new/: no committed record refers to it
    bool adopted; // a record of the running write transaction refers to it
    struct store *store;
    struct store_blob *next_adopted;
    struct store_blob *lru_prev, *lru_next; // unused ones, oldest first
    struct store_blob *hash_next;
};

#define STORE_BLOB_BUCKETS 4096

struct store {
    uint32_t magic;
    char *dir;
    int dir_fd, blobs_fd, new_fd, lock_fd;
    MDB_env *env;
    MDB_dbi dbi[STORE_DBI_COUNT];
    uint64_t hash_key[2]; // of names, random per store

    _Atomic uint64_t next_id, id_limit; // ids in [next_id, id_limit) are reserved durably

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
    } blobs;

    struct {
        pthread_mutex_t lock;
        pthread_cond_t wake, done;
        uint64_t wanted, finished; // tickets of store_sync
        bool stop, running;
        bool gc_wanted;
        uint64_t gc_removed; // records removed since the start
        bool gc_idle;
        int last_rc;
        MDB_txn *pinned; // reader at the last synced transaction
        pthread_t thread;
        int64_t interval_ns;
    } sync;

    _Atomic uint64_t commits, syncs, dirty_commits;

    _Atomic uint64_t reserved_end; // data.mdb has blocks up to here (space.c)
    _Atomic uint64_t growth_end;   // a sync point is due when the file passes this
    _Atomic bool full;             // and no more are to be had: nothing new is taken in
};

// -errno of an LMDB return code.
int store_errno(int mdb_rc);

static inline MDB_val store_val(const void *bytes, size_t len)
{
    return (MDB_val){.mv_size = len, .mv_data = (void *)(uintptr_t)bytes};
}

int store_get(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val *ret);
int store_put(struct store_txn *txn, enum store_dbi dbi, MDB_val key, MDB_val value);
int store_del(struct store_txn *txn, enum store_dbi dbi, MDB_val key);

// env.c
int store_reserve_ids(struct store_txn *txn, uint64_t *ret_limit);
// durability.c
int store_restore_synced_meta(const char *dir_path, int dir_fd, struct af_error *err);
int store_mark_open(struct store *store);
int store_mark_clean(struct store *store);
int store_sync_point(struct store *store);
// background.c
int store_background_start(struct store *store);
void store_background_stop(struct store *store);
void store_background_wake(struct store *store);
void store_gc_wake(struct store *store);
// gc.c: removes at most `max` records of garbage; *ret_removed 0 when there is none.
int store_gc_step(struct store *store, unsigned max, uint64_t *ret_removed);
int store_gc_unlink(struct store *store);
// blob.c
int store_blobs_open(struct store *store, struct af_error *err);
void store_blobs_close(struct store *store);
int store_blob_take(struct store_txn *txn, uint64_t id); // a record refers to it now
int store_blob_drop(struct store_txn *txn, uint64_t id); // a record no longer does
void store_blobs_committed(struct store_txn *txn);
void store_blobs_aborted(struct store_txn *txn);
int store_blob_unlink(struct store *store, uint64_t id);
// space.c
void store_reserve_space(struct store *store);
void store_limit_growth(struct store *store); // at a sync point
bool store_has_outgrown(struct store *store);
// layer.c
int store_layer_count(struct store_txn *txn, uint64_t id, int64_t bytes, int64_t inodes);

#endif
