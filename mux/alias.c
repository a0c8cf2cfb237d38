// Directories that became one. Read next: alias.h.
#include "mux/alias.h"

void mux_alias_fini(struct mux_alias *alias)
{
    mux_fid_map_fini(&alias->shown);
    mux_fid_map_fini(&alias->inside);
    alias->count = 0;
}

// What led to `from` leads to `to`.
static void redirect(struct mux_alias *alias, uint64_t from, uint64_t to)
{
    uint64_t shown, fid;
    size_t position = 0;
    while (mux_fid_map_next(&alias->inside, &position, &shown, &fid))
        if (fid == from)
            mux_fid_map_put(&alias->inside, shown, to); // in place: cannot fail
}

void mux_alias_join(struct mux_alias *alias, uint64_t from, uint64_t to, bool is_known)
{
    uint64_t number = mux_alias_shown(alias, from);
    bool is_new = !mux_fid_map_get(&alias->inside, number, NULL);
    if (is_new && (alias->count == MUX_ALIAS_MAX ||
                   mux_fid_map_put(&alias->inside, number, to) < 0)) // for want of memory as well
        return;
    if (is_new)
        alias->count++;
    redirect(alias, from, to);
    mux_fid_map_del(&alias->shown, from);
    // Without this it can be used by who stands in it, but is found under another number.
    if (!is_known && !mux_fid_map_get(&alias->shown, to, NULL))
        mux_fid_map_put(&alias->shown, to, number);
}
