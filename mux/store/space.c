// Headroom: blocks of the database file reserved ahead, so that a full disk still allows deletions.
//
// LMDB needs fresh pages for every change, also for one that frees space. So the file always has
// STORE_HEADROOM bytes of blocks past its last page; when those cannot be topped up the store is
// full: it takes in nothing new (-ENOSPC from store_inode_put and the like), while what removes or
// shrinks goes through. Called after each commit; no lock. Read next: txn.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <fcntl.h>

#define STORE_HEADROOM (2u << 20)
#define GROWTH_MIN     (512u << 10)
#define GROWTH_MAX     (128u << 20)

static uint64_t used_bytes(struct store *store)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(store->env, &info);
    mdb_env_stat(store->env, &stat);
    return (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
}

void store_limit_growth(struct store *store)
{
    uint64_t total, available, growth = GROWTH_MIN;
    if (store_statfs(store, &total, &available) == 0) {
        growth = available / 16;
        growth = growth < GROWTH_MIN ? GROWTH_MIN : growth > GROWTH_MAX ? GROWTH_MAX : growth;
    }
    atomic_store(&store->growth_end, used_bytes(store) + growth);
}

bool store_has_outgrown(struct store *store)
{
    return used_bytes(store) > atomic_load(&store->growth_end);
}

void store_reserve_space(struct store *store)
{
    mdb_filehandle_t fd;
    uint64_t used = used_bytes(store);
    mdb_env_get_fd(store->env, &fd);
    if (used + STORE_HEADROOM / 2 <= atomic_load(&store->reserved_end))
        return;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)used, STORE_HEADROOM) == 0) {
        atomic_store(&store->reserved_end, used + STORE_HEADROOM);
        atomic_store(&store->full, false);
    } else if (errno == ENOSPC || errno == EDQUOT) {
        atomic_store(&store->full, true);
    } else { // a file system that cannot reserve: commits report ENOSPC by themselves
        atomic_store(&store->reserved_end, UINT64_MAX);
    }
}
