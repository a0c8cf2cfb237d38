// Two directories for the apply engine: the user's, and a copy that stands for the sandbox's view.
//
// `base` is imported (a manifest is made of it), `view` begins as its copy and is then changed by
// the test with the functions below. changes_of_view() finds out what changed as the daemon does:
// an inode that came from the base and has another name was renamed, and so on. Files removed from
// the view are kept in `grave`, so that no inode number is used twice.
// Fails by cmocka's assertions. Thread: one.
#ifndef AF_TESTS_TOOLS_APPLY_FIXTURE_H
#define AF_TESTS_TOOLS_APPLY_FIXTURE_H

#include "tools/agentfense/apply.h"

struct pair {
    char dir[64];   // holds base, view, grave and out
    int base, view; // directory descriptors
    struct manifest manifest;
    struct origin *origins; // of the view's inodes
    size_t n_origins, max_origins;
    unsigned graves;
};

// An empty pair. Fill base with pair_file and the like, then call pair_import.
struct pair *pair_new(void);
void pair_free(struct pair *pair);
void pair_import(struct pair *pair);

// In base or view, by descriptor.
void pair_file(int root, const char *path, const char *content, mode_t mode);
void pair_dir(int root, const char *path, mode_t mode);
void pair_link(int root, const char *path, const char *target);
// Only for the view.
void pair_remove(struct pair *pair, const char *path);
void pair_rename(struct pair *pair, const char *from, const char *to);

struct changes pair_changes(struct pair *pair);

// Makes the plan and applies it to base. Returns apply's result; *ret_conflicts may be NULL.
int pair_apply(struct pair *pair, size_t fail_after, size_t *ret_conflicts, struct af_error *err);

// All names, kinds, modes, targets, contents and (of files) mtimes below a directory as one text.
char *pair_snapshot(int root);
// Both directories are equal.
void pair_expect_equal(struct pair *pair);

#endif
