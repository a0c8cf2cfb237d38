// Stores of older schemas: which ones this program reads as they are, and their upgrade.
//
// Schema 10 has a journal of another form than 9 (journal.c), 9 one more form of a sandbox's value
// than 8, 8 one more of an inode's and of a blob's than 7 (schema.h), 7 a journal that 6 has not: a
// store of any of them is one of schema 10 with another number, and its journal says its own.
// synced.meta gets the new number with the first sync point of a start, before anything is written:
// from then on an older program refuses the directory. A crash before the database has it, too, is
// made up for at the next start. A check (fsck_only) changes no number. Errors: -errno. Read next:
// env.c.
#include "mux/store/store_priv.h"

#include <errno.h>
#include <inttypes.h>

int store_check_schema(const struct store *store, uint64_t found, struct af_error *err)
{
    if (found >= STORE_SCHEMA_OLDEST && found <= STORE_SCHEMA_VERSION)
        return 0;
    return af_error_set(err, AF_FAILED_PRECONDITION,
                        "the state directory %s has schema version %" PRIu64
                        ", this program needs %d (or one from %d on, to upgrade it); it was left "
                        "untouched",
                        store->dir, found, STORE_SCHEMA_VERSION, STORE_SCHEMA_OLDEST);
}

static int put_version(struct store_txn *txn, bool *ret_changed)
{
    uint64_t version = 0;
    MDB_val key = store_val("schema", 6), value;
    int rc = store_get(txn, STORE_DBI_META, key, &value);
    if (rc == 0 && value.mv_size == sizeof version)
        memcpy(&version, value.mv_data, sizeof version);
    *ret_changed = version != STORE_SCHEMA_VERSION;
    if (rc < 0 || !*ret_changed)
        return rc;
    version = STORE_SCHEMA_VERSION;
    return store_put(txn, STORE_DBI_META, key, store_val(&version, sizeof version));
}

int store_upgrade(struct store *store)
{
    struct store_txn *txn;
    bool changed = false;
    int rc = store_write_begin(store, &txn);
    if (rc < 0)
        return rc;
    rc = put_version(txn, &changed);
    if (rc == 0 && changed)
        rc = store_commit(txn);
    else
        store_abort(txn);
    // On a full disk the store must open, so that something can be deleted; synced.meta has it.
    return rc == -ENOSPC ? 0 : rc;
}
