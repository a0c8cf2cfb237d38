// A view attached on a real store, and file operations on it by path: mux's op table without a
// mount. Functions return 0 or -errno as the operation did, an absent name being -ENOENT; those
// that return something else assert that they work. An operation that answers MUX_SLOW is called
// again with may_block, as fs does.
#ifndef AF_TESTS_MUX_OPS_FIXTURE_H
#define AF_TESTS_MUX_OPS_FIXTURE_H

#include "mux/commit.h"
#include "mux/ops.h"
#include "tests/unit/mux/fixture.h"

struct view {
    struct fixture *fixture;
    struct af_id codebase, sandbox;
    struct mux_attachment at;
    uint64_t root;
    struct mux_ctx ctx;
    unsigned slow; // operations that answered MUX_SLOW first
};

struct base_file {
    const char *path;
    mode_t mode; // with type; 0: a regular file, 0644
    const char *text;
};

// Closes mux and opens it again with another bound on the node cache.
void ops_reopen_sized(struct fixture *fixture, size_t nodes_max);
// An imported codebase. Files end at one without a path.
struct af_id ops_codebase(struct fixture *fixture, const struct base_file *files);
// A regular file of `size` bytes: ops_byte(seed, i) at offset i.
void ops_upload_big(struct fixture *fixture, struct af_id codebase, const char *path, size_t size,
                    unsigned seed);
unsigned char ops_byte(unsigned seed, size_t offset);

// A sandbox on the codebase, attached. rules: "PATTERN=level[@priority]", separated by spaces.
struct view ops_view(struct fixture *fixture, struct af_id codebase, const char *rules);
struct view ops_view_quota(struct fixture *fixture, struct af_id codebase, const char *rules,
                           uint64_t bytes, uint64_t inodes);
void ops_attach(struct view *view);
void ops_detach(struct view *view);

int ops_lookup(struct view *view, const char *path, struct mux_entry *ret);
uint64_t ops_nodeid(struct view *view, const char *path); // exists
struct stat ops_stat(struct view *view, const char *path);
bool ops_exists(struct view *view, const char *path);
int ops_create(struct view *view, const char *path, mode_t mode);
int ops_mkdir(struct view *view, const char *path, mode_t mode);
int ops_symlink(struct view *view, const char *target, const char *path);
int ops_mkfifo(struct view *view, const char *path, mode_t mode);
int ops_unlink(struct view *view, const char *path);
int ops_rmdir(struct view *view, const char *path);
int ops_link(struct view *view, const char *from, const char *to);
int ops_rename(struct view *view, const char *from, const char *to, unsigned flags);
int ops_write_node(struct view *view, uint64_t nodeid, const void *data, size_t len, off_t offset);
int ops_write(struct view *view, const char *path, const void *data, size_t len, off_t offset);
int ops_setattr(struct view *view, uint64_t nodeid, unsigned set, const struct stat *attr,
                struct stat *ret);
int ops_truncate(struct view *view, const char *path, off_t size);
int ops_chmod(struct view *view, const char *path, mode_t mode);
// Creates or truncates, then writes the text.
void ops_put(struct view *view, const char *path, const char *text);
// -errno, or the number of bytes read into buf.
ssize_t ops_read_node(struct view *view, uint64_t nodeid, void *buf, size_t size, off_t offset);
ssize_t ops_read(struct view *view, const char *path, void *buf, size_t size, off_t offset);
void assert_text(struct view *view, const char *path, const char *text);
// The names of a directory, "." and ".." left out, sorted, separated by blanks; to be freed. Asks
// for `batch` names at a time; when that is even with attributes, which must be a lookup's, and
// when it is divisible by 4 also those that are found with empty caches, which it empties.
char *ops_list(struct view *view, const char *path, size_t batch);
void assert_names(struct view *view, const char *path, const char *names);
// Commit and rebase with the last writer winning.
struct mux_commit_result ops_commit(struct view *view);
struct mux_commit_result ops_rebase(struct view *view);
struct mux_commit_state ops_look(struct view *view);
void assert_download(struct view *view, const char *path, const char *text);
// Used bytes and inodes of the delta equal a recount (B3).
void assert_accounting(struct view *view);

#endif
