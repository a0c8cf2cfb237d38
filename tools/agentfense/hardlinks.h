// Names of one file among those that are imported or copied: so that the second one goes as a hard
// link.
//
// By inode and device number. A file is forgotten some time after all of its names have
// been met. Owns its copies of paths. Thread: one. Out of memory ends the tool.
// Read next: import.c, copy_in.c.
#ifndef AF_TOOLS_AGENTFENSE_HARDLINKS_H
#define AF_TOOLS_AGENTFENSE_HARDLINKS_H

#include <stddef.h>
#include <sys/stat.h>

struct hardlink {
    dev_t dev;
    ino_t ino;
    nlink_t left;
    char *path; // NULL: free
};

struct hardlinks {
    struct hardlink *slots; // open addressing
    size_t used, capacity;
};

// The path under which the file was met before, or NULL, when this is the first one. Valid until
// the next call. Files with one name are not asked about.
const char *hardlinks_meet(struct hardlinks *links, const struct stat *st, const char *path);
void hardlinks_fini(struct hardlinks *links);

#endif
