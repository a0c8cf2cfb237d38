// A table of files with several names: see hardlinks.h.
#include "tools/agentfense/hardlinks.h"

#include "tools/common/memory.h"

#include <stdint.h>
#include <string.h>

static struct hardlink *slot_of(const struct hardlinks *links, dev_t dev, ino_t ino)
{
    size_t at = (size_t)((uint64_t)ino * 0x9e3779b97f4a7c15u >> 32) & (links->capacity - 1);
    while (links->slots[at].path && (links->slots[at].ino != ino || links->slots[at].dev != dev))
        at = (at + 1) & (links->capacity - 1);
    return &links->slots[at];
}

// At most half of it is used; made anew, it is a quarter full of those still to be met.
static void make_room(struct hardlinks *links)
{
    struct hardlinks grown = {.capacity = 64};
    size_t live = 0;
    if (2 * (links->used + 1) <= links->capacity)
        return;
    for (size_t i = 0; i < links->capacity; i++)
        live += links->slots[i].path && links->slots[i].left > 0;
    while (grown.capacity < 4 * live)
        grown.capacity *= 2;
    grown.slots = tool_alloc(grown.capacity * sizeof *grown.slots);
    for (size_t i = 0; i < links->capacity; i++) {
        const struct hardlink *old = &links->slots[i];
        if (!old->path || old->left == 0) {
            free(old->path);
            continue;
        }
        *slot_of(&grown, old->dev, old->ino) = *old;
        grown.used++;
    }
    free(links->slots);
    *links = grown;
}

const char *hardlinks_meet(struct hardlinks *links, const struct stat *st, const char *path)
{
    make_room(links);
    struct hardlink *link = slot_of(links, st->st_dev, st->st_ino);
    if (link->path) {
        link->left -= link->left > 0;
        return link->path;
    }
    *link = (struct hardlink){.dev = st->st_dev,
                              .ino = st->st_ino,
                              .left = st->st_nlink - 1,
                              .path = tool_copy_text(path)};
    links->used++;
    return NULL;
}

void hardlinks_fini(struct hardlinks *links)
{
    for (size_t i = 0; i < links->capacity; i++)
        free(links->slots[i].path);
    free(links->slots);
    memset(links, 0, sizeof *links);
}
