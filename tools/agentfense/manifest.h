// What a directory held when it was imported: the memory against which --apply checks.
//
// Entries are kept in path order (by components: a directory is followed by all that it holds), so
// that a lookup is a binary search and a subtree is a range.
// Owns its entries. Thread: one. Out of memory ends the tool. Read next: import.h, plan.h.
#ifndef AF_TOOLS_AGENTFENSE_MANIFEST_H
#define AF_TOOLS_AGENTFENSE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

struct manifest_entry {
    char *path;
    mode_t mode; // type and permission bits
    uint64_t size;
    int64_t mtime_ns, ctime_ns;
    dev_t dev;
    ino_t ino;
    bool skipped; // in the directory, but not imported: a socket, a device, a mount point
};

struct manifest {
    struct manifest_entry *entries;
    size_t count, max;
};

// By components: '/' sorts before every other byte.
int manifest_compare_paths(const char *a, const char *b);

// In path order.
void manifest_add(struct manifest *manifest, const char *path, const struct stat *st, bool skipped);
void manifest_fini(struct manifest *manifest);

const struct manifest_entry *manifest_find(const struct manifest *manifest, const char *path);

// Whether a file is still the one that was imported. A directory: the same inode and mode, for
// what it holds has entries of its own. Other files: inode, size, mode and mtime, and, unless
// `moved` (a rename changes it), ctime, so that an edit that puts the mtime back is noticed too.
bool manifest_is_same(const struct manifest_entry *entry, const struct stat *st, bool moved);

#endif
