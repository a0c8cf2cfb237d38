// Archives as trees: between libarchive and mux. For archive_service.c.
//
// Names in archives are bytes here as everywhere; paths that leave the tree are refused. What is
// kept: kinds (but devices), modes, mtimes, symbolic and hard links, holes, empty directories.
// Functions block and are called on threads of the calls' own. Errors: an af_error.
// Read next: archive_read.c, archive_write.c, archive_directory.c.
#ifndef AF_API_SERVICES_ARCHIVE_H
#define AF_API_SERVICES_ARCHIVE_H

#include "api/services/feed.h"
#include "mux/codebase.h"
#include "mux/inspect.h"

#include <locale.h>

// libarchive turns names between pax (UTF-8) and the thread's character set. Gives the thread
// UTF-8, so that nothing is turned; returns what it had, for uselocale.
locale_t archive_enter_utf8(void);

// The extended attribute of an entry that stands for a removed name, in the archive of a delta.
#define ARCHIVE_REMOVED "user.agentfense.removed"

struct archive_target {
    struct mux_import *import;
    char *prefix; // "" or a path without slashes at its ends: everything goes below it
};

// A tar stream, as it is or compressed by gzip, bzip2, xz or zstd. INVALID_ARGUMENT for what is
// none.
int archive_read(struct feed *feed, const struct archive_target *target, struct af_error *err);
// Says why feed_read failed with -error.
int archive_no_more(int error, struct af_error *err);

// The path of an entry below the target, to be freed. INVALID_ARGUMENT when it leaves the tree.
int archive_path(const struct archive_target *target, const char *name, char **ret,
                 struct af_error *err);

// ---- a directory of the host

struct ignore_list; // ignore.h

struct archive_directory {
    const char *path; // absolute
    uid_t uid;        // whose rights count; their groups are those of the user database
    gid_t gid;
    dev_t refused_dev;                 // of the daemon's own mount: it must never read itself (B1)
    const struct ignore_list *exclude; // or NULL
    bool honour_ignore_files;
    bool (*cancelled)(void *arg);
    void *arg;
};
// On a thread of its own, whose supplementary groups it changes. INVALID_ARGUMENT for what is no
// directory or lies in the daemon's mount, PERMISSION_DENIED for what the caller may not read.
int archive_read_directory(const struct archive_directory *directory, struct mux_import *import,
                           struct af_error *err);

// ---- out

struct archive_writer;
// Where the bytes go. Never blocks.
typedef void (*archive_sink)(void *arg, const void *bytes, size_t len);

// What to write: gathered at once, contents opened one by one while writing.
struct archive_source {
    const char *codebase_id; // one of the two
    const char *sandbox_id;
    bool delta; // of a sandbox: its changes alone
    bool all;   // of a sandbox: also what its rules hide
    const void *path;
    size_t path_len;
    bool zstd;
};
int archive_writer_new(struct mux *mux, const struct archive_source *source, archive_sink sink,
                       void *arg, struct archive_writer **ret, struct af_error *err);
// Some bytes on: 1 while there is more, 0 at the end.
int archive_writer_step(struct archive_writer *writer, struct af_error *err);
void archive_writer_free(struct archive_writer *writer); // NULL is allowed

#endif
