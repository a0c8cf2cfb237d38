// The record of an import: see manifest.h.
#include "tools/agentfense/manifest.h"

#include "mux/base/clock.h"
#include "tools/common/memory.h"

#include <string.h>

int manifest_compare_paths(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    // The end sorts first, then the slash, then the bytes.
    int left = !*a ? -2 : *a == '/' ? -1 : (unsigned char)*a;
    int right = !*b ? -2 : *b == '/' ? -1 : (unsigned char)*b;
    return (left > right) - (left < right);
}

void manifest_add(struct manifest *manifest, const char *path, const struct stat *st, bool skipped)
{
    manifest->entries =
        tool_grow(manifest->entries, manifest->count, &manifest->max, sizeof *manifest->entries);
    manifest->entries[manifest->count++] = (struct manifest_entry){
        .path = tool_copy_text(path),
        .mode = st->st_mode,
        .size = (uint64_t)st->st_size,
        .mtime_ns = af_ns_of_timespec(st->st_mtim),
        .ctime_ns = af_ns_of_timespec(st->st_ctim),
        .dev = st->st_dev,
        .ino = st->st_ino,
        .skipped = skipped,
    };
}

void manifest_fini(struct manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->entries[i].path);
    free(manifest->entries);
    memset(manifest, 0, sizeof *manifest);
}

const struct manifest_entry *manifest_find(const struct manifest *manifest, const char *path)
{
    size_t low = 0, high = manifest->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = manifest_compare_paths(path, manifest->entries[middle].path);
        if (order == 0)
            return &manifest->entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

bool manifest_is_same(const struct manifest_entry *entry, const struct stat *st, bool moved)
{
    if (entry->dev != st->st_dev || entry->ino != st->st_ino || entry->mode != st->st_mode)
        return false;
    if (S_ISDIR(entry->mode))
        return true;
    return entry->size == (uint64_t)st->st_size &&
           entry->mtime_ns == af_ns_of_timespec(st->st_mtim) &&
           (moved || entry->ctime_ns == af_ns_of_timespec(st->st_ctim));
}
