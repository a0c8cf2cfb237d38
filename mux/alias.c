// Directories that became one. Read next: alias.h.
#include "mux/alias.h"

void mux_alias_fini(struct mux_alias *alias)
{
    mux_fid_map_fini(&alias->shown);
    mux_fid_map_fini(&alias->inside);
    mux_fid_map_fini(&alias->doubled);
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

bool mux_alias_doubles(const struct mux_alias *alias, uint64_t to, bool is_known)
{
    return is_known || mux_fid_map_get(&alias->shown, to, NULL);
}

static uint64_t count_numbers(const struct mux_alias *alias, uint64_t fid)
{
    uint64_t count = 1;
    mux_fid_map_get(&alias->doubled, fid, &count);
    return count;
}

size_t mux_alias_others(const struct mux_alias *alias, uint64_t fid,
                        uint64_t ret[MUX_ALIAS_NUMBERS])
{
    uint64_t shown = mux_alias_shown(alias, fid), number, inside;
    size_t position = 0, count = 0;
    if (!mux_alias_is_doubled(alias, fid))
        return 0;
    if (shown != fid)
        ret[count++] = fid;
    while (count < MUX_ALIAS_NUMBERS &&
           mux_fid_map_next(&alias->inside, &position, &number, &inside))
        if (inside == fid && number != shown)
            ret[count++] = number;
    return count;
}

void mux_alias_join(struct mux_alias *alias, uint64_t from, uint64_t to, bool is_known)
{
    uint64_t number = mux_alias_shown(alias, from);
    bool is_new = !mux_fid_map_get(&alias->inside, number, NULL);
    uint64_t numbers = count_numbers(alias, from);
    if (mux_alias_doubles(alias, to, is_known))
        numbers += count_numbers(alias, to);
    if (numbers >= MUX_ALIAS_NUMBERS ||
        (numbers > 1 && mux_fid_map_put(&alias->doubled, to, numbers) < 0))
        return;
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

void mux_alias_part(struct mux_alias *alias, uint64_t fid)
{
    uint64_t to = mux_alias_inside(alias, fid);
    if (to == fid)
        return;
    mux_fid_map_del(&alias->inside, fid);
    alias->count--;
    if (mux_alias_shown(alias, to) == fid)
        mux_fid_map_del(&alias->shown, to);
}
