// A mux on a real store in a directory of its own, and short words for what tests do with it.
//
// Every helper asserts that it works; tests of failures call the functions themselves and then
// expect_error. Not thread-safe unless a test keeps its helpers to one thread.
#ifndef AF_TESTS_MUX_FIXTURE_H
#define AF_TESTS_MUX_FIXTURE_H

#include "mux/codebase.h"
#include "mux/inspect.h"
#include "mux/sandbox.h"
#include "mux/store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define UNKNOWN_CODEBASE "cb_00000000000000000000000000"
#define UNKNOWN_SANDBOX  "sb_00000000000000000000000000"

struct fixture {
    char dir[512];
    struct mux *mux;
    bool may_be_damaged; // by the test itself: fsck does not look at what it left
};

int fixture_setup(void **state);
int fixture_teardown(void **state);
// Closes and opens again, as a clean restart of the daemon.
void fixture_reopen(struct fixture *fixture);
void fixture_open(struct fixture *fixture);
void fixture_close(struct fixture *fixture);
#define fixture_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

// The call failed with this status and a text that holds `part`.
void expect_error(int rc, const struct af_error *err, enum af_status status, const char *part);

// The store, as it is now, has no damage that fsck finds. Every teardown looks, too.
void assert_fsck_clean(struct fixture *fixture);

struct af_id new_codebase(struct fixture *fixture);
void upload(struct fixture *fixture, struct af_id codebase, const char *path, const char *text);
void upload_bytes(struct fixture *fixture, struct af_id codebase, const void *path, size_t path_len,
                  const void *data, size_t len);
struct store_codebase get_codebase(struct fixture *fixture, struct af_id id);
// A sandbox with full access.
struct af_id new_sandbox(struct fixture *fixture, struct af_id codebase);
// All of a file, NUL-terminated; to be freed.
char *read_all(struct mux_file *file, size_t *ret_len);
char *download(struct fixture *fixture, struct af_id codebase, const char *path);
// "path\n" for each, directories with a slash at the end; to be freed.
char *listing(struct fixture *fixture, struct af_id codebase, const char *path, bool recursive);
void assert_listing(struct fixture *fixture, struct af_id codebase, const char *expected);
// Counters of the codebase's record equal a recount of its tree (B3).
void assert_counters(struct fixture *fixture, struct af_id codebase);
struct store_stats stats_of(struct fixture *fixture);
// The collector has nothing left to do, and everything but the given numbers is gone.
void assert_no_garbage(struct fixture *fixture, uint64_t layers, uint64_t inodes, uint64_t blobs);
// Files in the blobs folder.
size_t count_blob_files(struct fixture *fixture);

// A small generator, so that a history is the same for the same seed.
struct prng {
    uint64_t state;
};
uint64_t prng_next(struct prng *prng);
static inline size_t prng_below(struct prng *prng, size_t bound)
{
    return (size_t)(prng_next(prng) % bound);
}
// A path of one to three of the names a to d, so that changes meet often. `ret`: room for 6.
void prng_path(struct prng *prng, char *ret);

#endif
