// Headroom: room kept for deletions when the disk or the map is full.
//
// LMDB needs fresh pages for every change, also for one that frees space. So the file always has
// STORE_HEADROOM bytes of blocks past its last page, and the map as much address space; when they
// cannot be topped up, and LMDB has not that much to reuse either, the store is full: it takes in
// nothing new (-ENOSPC from store_inode_put and the like), while what removes or shrinks goes
// through. Pages freed since the last sync point cannot be reused yet: when the headroom runs down,
// writers make a sync point. Looked at after each commit and, while full, before each transaction.
// No lock; the figures are atomic and may be a commit old. Read next: txn.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>

#define STORE_HEADROOM (2u << 20)
#define GROWTH_MIN     (512u << 10)
#define GROWTH_MAX     (64u << 20)
#define TOP_UPS_MAX    8
#define BATCH_ROOM     (16u << 20) // for changes that are acknowledged before they are committed

static uint64_t used_bytes(struct store *store)
{
    MDB_envinfo info;
    mdb_env_info(store->env, &info);
    return (info.me_last_pgno + 1) * store->page_bytes;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// A sixteenth of the free disk, so that what a sync point would free never fills it.
void store_limit_growth(struct store *store)
{
    uint64_t total, available, growth = smaller(GROWTH_MAX, store->map_bytes / 32);
    if (store_statfs(store, &total, &available) == 0)
        growth = smaller(growth, available / 16);
    atomic_store(&store->growth_max, growth > GROWTH_MIN ? growth : GROWTH_MIN);
}

static uint64_t headroom_wanted(struct store *store)
{
    return smaller(store->map_bytes / 8, STORE_HEADROOM);
}

// Pages that LMDB's list of free ones holds and that the sync point's reader does not protect.
static uint64_t reusable_bytes(struct store *store)
{
    MDB_txn *reader;
    MDB_cursor *cursor;
    if (mdb_txn_begin(store->env, NULL, MDB_RDONLY, &reader) != 0)
        return 0;
    uint64_t pages = 0, synced = atomic_load(&store->sync.synced);
    if (mdb_cursor_open(reader, 0, &cursor) == 0) { // database 0: transaction id -> page numbers
        MDB_val key, value;
        size_t freed_by, count;
        while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0 &&
               key.mv_size == sizeof freed_by && value.mv_size >= sizeof count) {
            memcpy(&freed_by, key.mv_data, sizeof freed_by);
            memcpy(&count, value.mv_data, sizeof count);
            if (freed_by > synced)
                break;
            pages += count;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(reader);
    return pages * store->page_bytes;
}

// Bytes past the last page that are certain to be there: blocks on the disk, inside the map.
static uint64_t bytes_left(struct store *store)
{
    uint64_t used = used_bytes(store), end = atomic_load(&store->reserved_end);
    if (end > store->map_bytes)
        end = store->map_bytes;
    return end > used ? end - used : 0;
}

// Several threads reserve after their commits; the end never goes back.
static void raise_end(struct store *store, uint64_t end)
{
    uint64_t before = atomic_load(&store->reserved_end);
    while (before < end && !atomic_compare_exchange_weak(&store->reserved_end, &before, end))
        continue;
}

// Tops the headroom up. False: the disk has no more, or the map.
static bool top_up(struct store *store, uint64_t wanted)
{
    mdb_filehandle_t fd;
    mdb_env_get_fd(store->env, &fd);
    for (int i = 0; i < TOP_UPS_MAX && bytes_left(store) < wanted / 2; i++) {
        uint64_t used = used_bytes(store);
        if (used + wanted / 2 > store->map_bytes)
            return false;
        // The file's length grows along: a page that a transaction takes and gives up again is
        // never written, so the last page could lie beyond the end, as if the file had been cut.
        if (fallocate(fd, 0, (off_t)used, (off_t)wanted) == 0)
            raise_end(store, used + wanted);
        else if (errno == ENOSPC || errno == EDQUOT)
            return false;
        else if (errno != EINTR)
            raise_end(store, UINT64_MAX); // cannot reserve here: commits will tell
    }
    return true; // or others commit faster than this: they top up, too
}

void store_reserve_space(struct store *store)
{
    uint64_t wanted = headroom_wanted(store);
    bool full = bytes_left(store) < wanted / 2 && !top_up(store, wanted) &&
                reusable_bytes(store) + bytes_left(store) < wanted / 2;
    atomic_store(&store->full, full);
}

void store_make_room(struct store *store)
{
    uint64_t room = smaller(BATCH_ROOM, atomic_load(&store->growth_max));
    top_up(store, headroom_wanted(store) + room);
}

uint64_t store_room_left(struct store *store)
{
    uint64_t left = bytes_left(store), kept = headroom_wanted(store) / 4;
    return left > kept ? left - kept : 0;
}

void store_space_when_full(struct store *store)
{
    store_reserve_space(store);
    if (!atomic_load(&store->full))
        return;
    if (bytes_left(store) + reusable_bytes(store) < headroom_wanted(store) / 4 &&
        atomic_load(&store->last_txn) > atomic_load(&store->sync.synced)) {
        store_sync_point(store, atomic_load(&store->last_txn));
        store_reserve_space(store);
    }
}

int store_space_for_growth(struct store_txn *txn)
{
    return atomic_load(&txn->store->full) ? store_keep_error(txn, -ENOSPC) : 0;
}
