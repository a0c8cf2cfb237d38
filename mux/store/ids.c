// The one counter that fids, versions, layers, stacks and blobs get their ids from.
//
// Ids are reserved in blocks of STORE_ID_BLOCK in DIR/store/ids, synced before the first of a
// block is given out: neither a kill -9 nor a power cut, which takes the database back to its
// last sync point, makes an id come twice. A counter in the database would be taken back too, and
// one that needs a transaction could wait for the caller's own. Lock: ids.lock (a leaf), held
// during the sync of a new block: one in a million calls takes milliseconds.
// Fails: -errno of that sync; -ENOSPC when 44 bits are used up. Read next: env.c.
#include "mux/store/store_priv.h"

#include <errno.h>

#define ID_MAX (UINT64_C(1) << AF_FID_BITS)

int store_ids_open(struct store *store, int store_dir, uint64_t first)
{
    uint64_t next;
    int rc = sidefile_open(store_dir, "ids", &store->ids.file, &next, sizeof next);
    if (rc == -ENOENT && first != 0) {
        rc = sidefile_create(store_dir, "ids", &first, sizeof first);
        if (rc == 0)
            rc = sidefile_open(store_dir, "ids", &store->ids.file, &next, sizeof next);
    }
    if (rc < 0)
        return rc;
    store->ids.next = store->ids.limit = next;
    return 0;
}

int store_ids_restart(struct store *store, uint64_t next)
{
    struct sidefile made;
    uint64_t check;
    if (next > ID_MAX)
        return -ENOSPC;
    int rc = sidefile_create(store->store_fd, "ids", &next, sizeof next);
    if (rc == 0)
        rc = sidefile_open(store->store_fd, "ids", &made, &check, sizeof check);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&store->ids.lock);
    sidefile_close(&store->ids.file);
    store->ids.file = made;
    store->ids.next = store->ids.limit = next;
    pthread_mutex_unlock(&store->ids.lock);
    return 0;
}

static int reserve(struct store *store)
{
    uint64_t limit = store->ids.limit + STORE_ID_BLOCK;
    if (limit > ID_MAX)
        return -ENOSPC;
    int rc = sidefile_write(&store->ids.file, &limit, sizeof limit);
    if (rc == 0)
        store->ids.limit = limit;
    return rc;
}

int store_new_id(struct store *store, uint64_t *ret)
{
    pthread_mutex_lock(&store->ids.lock);
    int rc = store->ids.next == store->ids.limit ? reserve(store) : 0;
    if (rc == 0)
        *ret = store->ids.next++;
    pthread_mutex_unlock(&store->ids.lock);
    return rc;
}
