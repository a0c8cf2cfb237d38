// Directories that a view shows under the number they had before they became one with another's.
// Internal to mux.
//
// Two writers who make a directory of one name get one directory, the first writer's. The later one
// may be standing in his own: so his view goes on showing it under the fid that the kernel has of
// it, in nodeids and st_ino, until the view is detached. Everything inside of mux goes by the real
// fid; only here are the two translated. Two maps in memory, one pair for each such directory.
//
// A directory that the kernel has under two numbers at once (the view had both before) is two to
// it: a change by one number leaves what it remembers by the other. So of such a doubled one it may
// remember nothing (attr.c), and that it has forgotten one of the numbers tells nothing of the
// directory: once it has lost its name, its record stays until the view is detached (unlink.c).
// Under the view's lock. Read next: alias.c, merge.h.
#ifndef AF_MUX_ALIAS_H
#define AF_MUX_ALIAS_H

#include "mux/fid_map.h"

#include <stddef.h>
#include <stdint.h>

#define MUX_ALIAS_MAX     65536u // pairs; a further directory is as if removed
#define MUX_ALIAS_NUMBERS 16u    // of one directory; one with a further number is as if removed

struct mux_alias {
    struct mux_fid_map shown;   // fid -> the one in nodeids
    struct mux_fid_map inside;  // the one in nodeids -> fid
    struct mux_fid_map doubled; // fid -> how many numbers the kernel may have it by, if several
    size_t count;               // of `inside`
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

static inline bool mux_alias_is_doubled(const struct mux_alias *alias, uint64_t fid)
{
    return alias->count > 0 && mux_fid_map_get(&alias->doubled, fid, NULL);
}

// All of them but the one that it is shown by; how many.
size_t mux_alias_others(const struct mux_alias *alias, uint64_t fid,
                        uint64_t ret[MUX_ALIAS_NUMBERS]);
// Whether mux_alias_join would make `to` a doubled one.
bool mux_alias_doubles(const struct mux_alias *alias, uint64_t to, bool is_known);
// The directory `from` has become one with `to`. is_known: the view had `to` before, so the kernel
// may have it by its own number, and it keeps that.
void mux_alias_join(struct mux_alias *alias, uint64_t from, uint64_t to, bool is_known);
// The directory has a name of its own again, for others have kept it: its number leads to it, and
// the one it had become one with goes by its own.
void mux_alias_part(struct mux_alias *alias, uint64_t fid);
void mux_alias_fini(struct mux_alias *alias);

#endif
