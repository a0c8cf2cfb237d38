// Directories that a view shows under the number they had before they became one with another's.
// Internal to mux.
//
// Two writers who make a directory of one name get one directory, the first writer's. The later one
// may be standing in his own: so his view goes on showing it under the fid that the kernel has of
// it, in nodeids and st_ino, until the view is detached. Everything inside of mux goes by the real
// fid; only here are the two translated. Two maps in memory, one pair for each such directory.
// Under the view's lock. Read next: alias.c, merge.h.
#ifndef AF_MUX_ALIAS_H
#define AF_MUX_ALIAS_H

#include "mux/fid_map.h"

#include <stddef.h>
#include <stdint.h>

#define MUX_ALIAS_MAX 65536u // pairs; a further directory is as if removed

struct mux_alias {
    struct mux_fid_map shown;  // fid -> the one in nodeids
    struct mux_fid_map inside; // the one in nodeids -> fid
    size_t count;              // of `inside`
};

static inline uint64_t mux_alias_shown(const struct mux_alias *alias, uint64_t fid)
{
    if (alias->count > 0)
        mux_fid_map_get(&alias->shown, fid, &fid);
    return fid;
}

static inline uint64_t mux_alias_inside(const struct mux_alias *alias, uint64_t shown)
{
    if (alias->count > 0)
        mux_fid_map_get(&alias->inside, shown, &shown);
    return shown;
}

// The directory `from` has become one with `to`. is_known: the view had `to` before, so the kernel
// may have it by its own number, and it keeps that.
void mux_alias_join(struct mux_alias *alias, uint64_t from, uint64_t to, bool is_known);
void mux_alias_fini(struct mux_alias *alias);

#endif
