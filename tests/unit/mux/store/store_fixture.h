// A store in a temporary directory, for the tests of mux/store.
#ifndef AF_TESTS_STORE_FIXTURE_H
#define AF_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mux/base/cleanup.h"
#include "mux/store/store.h"

struct fixture {
    char dir[64];
    struct store *store;
};

#ifndef FIXTURE_SYNC_INTERVAL_NS
#define FIXTURE_SYNC_INTERVAL_NS 0 // the store's own
#endif

static inline void fixture_open(struct fixture *f)
{
    struct af_error err;
    struct store_options options = {
        .dir = f->dir, .map_bytes = 1ULL << 30, .sync_interval_ns = FIXTURE_SYNC_INTERVAL_NS};
    if (store_open(&options, &f->store, &err) < 0)
        fail_msg("store_open: %s", err.text);
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/af-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    fixture_open(f);
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];
    store_close(f->store);
    snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    int rc = system(command);
    free(f);
    return rc;
}

static inline void fixture_reopen(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
    fixture_open(f);
}

static inline struct store_txn *begin(struct fixture *f)
{
    struct store_txn *txn;
    assert_int_equal(store_write_begin(f->store, &txn), 0);
    return txn;
}

static inline void commit(struct store_txn *txn)
{
    assert_int_equal(store_commit(txn), 0);
}

static inline struct store_txn *begin_read(struct fixture *f)
{
    struct store_txn *txn;
    assert_int_equal(store_read_begin(f->store, &txn), 0);
    return txn;
}

static inline int count_files(const char *dir, const char *sub)
{
    char command[200], line[32] = "";
    snprintf(command, sizeof command, "find '%s/%s' -type f 2>/dev/null | wc -l", dir, sub);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    pclose(pipe);
    return atoi(line);
}

static inline uint64_t new_id(struct fixture *f)
{
    uint64_t id;
    assert_int_equal(store_new_id(f->store, &id), 0);
    return id;
}

static inline struct store_inode regular(struct fixture *f, uint64_t fid, const char *content)
{
    return (struct store_inode){
        .fid = fid,
        .version = new_id(f),
        .mode = S_IFREG | 0644,
        .nlink = 1,
        .size = strlen(content),
        .parent = 7,
        .name = "name",
        .name_len = 4,
        .content = STORE_CONTENT_INLINE,
        .inline_data = content,
        .inline_len = strlen(content),
    };
}

#endif
