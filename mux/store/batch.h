// The writer lock, the batch of small changes that share one LMDB transaction, and the journal that
// keeps each of them from the moment it is acknowledged. Internal to mux/store.
//
// Rank: batch.lock is the store's writer lock (store_priv.h). Read next: batch.c, journal.c.
#ifndef AF_MUX_STORE_BATCH_H
#define AF_MUX_STORE_BATCH_H

#include "mux/store/schema.h"

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_txn;

#define STORE_BATCH_AFTER    3          // changes in a row that open a batch
#define STORE_BATCH_PUTS_MAX 2048       // records put or deleted in one batch
#define STORE_REDO_JOIN_MAX  (1u << 20) // bytes of its journal beyond which nothing joins it
#define STORE_JOURNAL_BYTES  (3u << 19) // room that the journal's file has on the disk

// Every change of the open batch, to be done again: the journal's bytes, in memory. Each record is
// one change: a header, then what it put and deleted.
struct store_redo {
    uint8_t *bytes;
    size_t used, room;
    size_t begun;    // where the record of the change under way begins
    uint32_t number; // of that record
};

struct store_batch {
    pthread_mutex_t lock;        // the writer lock
    pthread_cond_t wake, turned; // to the owner; from it
    pthread_t owner;             // begins and commits: LMDB's own lock belongs to a thread
    bool running, stop;
    // ---- under the lock
    MDB_txn *mdb;                         // open, or NULL
    MDB_cursor *cursors[STORE_DBI_COUNT]; // in it (txn.c)
    bool wanted, closing, broken;         // what the owner is asked for: open, commit, do again
    unsigned alone;                       // threads that wait for a transaction of their own
    uint64_t turns;                       // counts what the owner did
    bool wants_room;                      // room is to be made for the next batch
    int error;                            // of its last attempt to commit
    int64_t due_ns, old_ns;               // when it looks again, and when it commits what there is
    unsigned idle;                        // how often it found nothing
    unsigned changes, puts, puts_max;
    unsigned after, streak; // changes in a row, each in a transaction of its own, open a batch
    int64_t last_change_ns;
    struct store_redo redo;
    // ---- the journal
    int journal_fd;
    uint64_t nonce[2]; // of this run: no record of another is taken for one of ours
    uint64_t base;     // the transaction that the batch goes on from
    // ---- read without the lock
    _Atomic uint64_t
        pending; // id of the transaction that holds changes, 0: everything is committed
};

// batch.c
int store_batch_start(struct store *store); // the owner's thread
// Commits what is open. What cannot be committed stays in the journal, for the next start.
void store_batch_stop(struct store *store);
void store_batch_fini(struct store *store);
// Takes the writer lock with no batch open, committing it first. Fails: why it cannot be committed.
int store_writer_lock(struct store *store);
void store_writer_unlock(struct store *store);
// Commits the open batch. Never under the writer lock.
int store_batch_flush(struct store *store);
// Takes the lock for one change. *ret: the batch's transaction, NULL: one of its own.
int store_batch_join(struct store *store, MDB_txn **ret);
// What the change is about to do. `old`: the value in the place of which it puts one, if known.
int store_batch_note_put(struct store *store, int dbi, MDB_val key, const MDB_val *old,
                         MDB_val value);
int store_batch_note_del(struct store *store, int dbi, MDB_val key);
// A change of the batch is complete and acknowledged once this returns 0; else, and with `undo`, it
// is taken back. Gives the lock back.
int store_batch_leave(struct store *store, bool changed, bool undo);
// The lock and the batch's transaction for reading, or *ret NULL without the lock: nothing pends.
int store_batch_look(struct store *store, uint64_t changed_in, MDB_txn **ret);
void store_batch_look_end(struct store *store);
bool store_batch_is_mine(const struct store *store); // this thread has the lock

// journal.c
int store_redo_begin(struct store_redo *redo);
// `old`: what is there, if that is known.
int store_redo_put(struct store_redo *redo, int dbi, MDB_val key, const MDB_val *old,
                   MDB_val value);
int store_redo_del(struct store_redo *redo, int dbi, MDB_val key);
// Does everything in it again.
int store_redo_apply(struct store *store, MDB_txn *mdb, const struct store_redo *redo);
// Room for this run's records; idempotent.
int store_journal_open(struct store *store);
// The change under way is in the kernel's hands when it returns 0.
int store_journal_write(struct store *store);
// What a killed run has acknowledged and not committed; before the first change of this run.
// *ret: the transaction that holds it, the caller's; NULL: there is nothing.
int store_journal_replay(struct store *store, MDB_txn **ret);

#endif
