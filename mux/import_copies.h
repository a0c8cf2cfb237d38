// Large files of an import, several copied at once. Internal to mux.
//
// The kernel copies a file on the thread that asks it to, and holds the file's lock meanwhile: so
// one copy is as fast as one processor moves bytes, and only other files can be copied beside it.
// An import's large files are queued, taken by threads of its own, and waited for before the batch
// that records them; who waits helps. Owns the threads and the descriptors that it reads from;
// those that it writes to must stay until the wait or the stop is over. Lock: a leaf.
// Errors: -errno, one for each copy. Read next: import_copies.c, import_host.c.
#ifndef AF_MUX_IMPORT_COPIES_H
#define AF_MUX_IMPORT_COPIES_H

#include <stdbool.h>
#include <sys/stat.h>

struct mux_import_copies;

struct mux_import_copy {
    struct stat st;
    int from, to;
    int rc; // once it is waited for
    struct mux_import_copy *next;
};

// All of a regular file, holes as holes; one that has become shorter is taken as it is.
int mux_import_copy_file(const struct stat *st, int from, int to);

// Begun with the first copy. 0: *copies and *ret_copy are the caller's.
int mux_import_copies_add(struct mux_import_copies **copies, const struct stat *st, int from,
                          int to, struct mux_import_copy **ret_copy);
// Every copy that was added has ended. NULL is ignored.
void mux_import_copies_wait(struct mux_import_copies *copies);
// Those that have begun have ended, the others are not done any more. NULL is ignored.
void mux_import_copies_free(struct mux_import_copies *copies);
void mux_import_copy_free(struct mux_import_copy *copy); // after that; NULL is ignored

#endif
