// Contents of an import's files, several copied at once. Internal to mux.
//
// The kernel copies a file on the thread that asks it to: so one copy is as fast as one processor
// moves bytes, and only other files can be copied beside it. An import's files that become blobs
// are queued, taken by threads of its own, and waited for before the batch that records them; who
// waits helps. Owns the threads, the descriptors that it reads from, and each blob until it is
// taken. Lock: a leaf. Errors: -errno, one for each copy. Read next: import_copies.c,
// import_host.c.
#ifndef AF_MUX_IMPORT_COPIES_H
#define AF_MUX_IMPORT_COPIES_H

#include "mux/store/store.h"

#include <sys/stat.h>

struct mux_import_copies;

struct mux_import_copy {
    struct stat st;
    int from;
    struct store_blob *blob; // the import takes it out once it is waited for
    // ---- once it is waited for
    int rc;
    uint64_t size; // what was there: less than `st` says where the file has become shorter
    struct mux_import_copy *next;
};

// All of a regular file into an empty blob, holes as holes. Begins the threads with the first copy.
// Takes `from` and `blob`, whatever it returns. *ret_copy is the caller's.
int mux_import_copies_add(struct mux_import_copies **copies, const struct stat *st, int from,
                          struct store_blob *blob, struct mux_import_copy **ret_copy);
// Every copy that was added has ended. NULL is ignored.
void mux_import_copies_wait(struct mux_import_copies *copies);
// Those that have begun have ended, the others are not done any more. NULL is ignored.
void mux_import_copies_free(struct mux_import_copies *copies);
// After that, with the blob if nobody has taken it; NULL is ignored.
void mux_import_copy_free(struct mux_import_copy *copy);

#endif
