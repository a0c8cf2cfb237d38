// What a file of an import was read from: the state of a file of this host, by its stat.
//
// A record keeps a fingerprint of it, so that a later import of the same file knows without reading
// it that nothing changed. The fingerprint names the record's version as well, so it fits no longer
// once anybody has changed the record. A file whose times are so young that a change within the
// clock's same tick would not show has no fingerprint. Internal to mux. Owns nothing; any thread.
// Errors: -ENOMEM. Read next: import_host.c.
#ifndef AF_MUX_SOURCE_H
#define AF_MUX_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define MUX_SOURCE_SETTLED_NS 2000000000LL // coarser than the clock of any file system in use

struct mux_source {
    uint64_t device, inode, mode, size;
    int64_t mtime_ns, ctime_ns;
};

struct mux_source mux_source_of(const struct stat *st);
// Whether a change from now_ns on would show in the stat.
bool mux_source_is_settled(const struct mux_source *source, int64_t now_ns);
// The fingerprint, never 0. By a cryptographic hash, for the owner of the file chooses its times.
int mux_source_origin(const struct mux_source *source, uint64_t version, uint64_t *ret);

#endif
