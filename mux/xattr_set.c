// Extended attributes as bytes. Read next: xattr_set.h.
#include "mux/xattr_set.h"

#include "mux/base/limits.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 5u

int mux_xattr_at(const void *set, size_t len, size_t offset, struct mux_xattr *ret)
{
    const unsigned char *at = (const unsigned char *)set + offset;
    uint32_t value_len;
    if (offset == len)
        return -ENODATA;
    if (offset > len || len - offset < HEAD)
        return -EUCLEAN;
    size_t left = len - offset - HEAD;
    memcpy(&value_len, at + 1, sizeof value_len);
    value_len = le32toh(value_len);
    if (at[0] == 0 || at[0] > left || value_len > left - at[0])
        return -EUCLEAN;
    *ret = (struct mux_xattr){
        .name = (const char *)at + HEAD,
        .name_len = at[0],
        .value = at + HEAD + at[0],
        .value_len = value_len,
        .end = offset + HEAD + at[0] + value_len,
    };
    return 0;
}

int mux_xattr_find(const void *set, size_t len, const char *name, size_t name_len,
                   struct mux_xattr *ret)
{
    struct mux_xattr entry = {0};
    int rc;
    while ((rc = mux_xattr_at(set, len, entry.end, &entry)) == 0) {
        if (entry.name_len == name_len && memcmp(entry.name, name, name_len) == 0) {
            *ret = entry;
            return 0;
        }
    }
    return rc;
}

static unsigned char *put_entry(unsigned char *to, const char *name, size_t name_len,
                                const void *value, size_t value_len)
{
    uint32_t le = htole32((uint32_t)value_len);
    to[0] = (unsigned char)name_len;
    memcpy(to + 1, &le, sizeof le);
    memcpy(to + HEAD, name, name_len);
    if (value_len > 0)
        memcpy(to + HEAD + name_len, value, value_len);
    return to + HEAD + name_len + value_len;
}

int mux_xattr_change(const void *set, size_t len, const char *name, size_t name_len,
                     const void *value, size_t value_len, void **ret, size_t *ret_len)
{
    unsigned char *bytes = malloc(len + HEAD + name_len + value_len), *end = bytes;
    struct mux_xattr entry = {0};
    size_t names = 0;
    bool placed = !value;
    int rc;
    if (!bytes)
        return -ENOMEM;
    while ((rc = mux_xattr_at(set, len, entry.end, &entry)) == 0) {
        if (entry.name_len == name_len && memcmp(entry.name, name, name_len) == 0) {
            if (!value)
                continue;
            end = put_entry(end, name, name_len, value, value_len);
            placed = true;
        } else {
            end = put_entry(end, entry.name, entry.name_len, entry.value, entry.value_len);
        }
        names += entry.name_len + 1;
    }
    if (!placed) {
        end = put_entry(end, name, name_len, value, value_len);
        names += name_len + 1;
    }
    size_t total = (size_t)(end - bytes);
    if (rc == -ENODATA)
        rc = value && (total > AF_XATTR_TOTAL_MAX || names > AF_XATTR_NAMES_MAX) ? -ENOSPC : 0;
    if (rc < 0 || total == 0) {
        free(bytes);
        bytes = NULL;
    }
    if (rc == 0) {
        *ret = bytes;
        *ret_len = total;
    }
    return rc;
}

// ---- merging

struct names {
    struct mux_xattr *entries; // in their order
    struct mux_xattr **sorted; // by name
    size_t count;
};

static void free_names(struct names *names)
{
    free(names->entries);
    free(names->sorted);
}

static int compare_names(const struct mux_xattr *a, const struct mux_xattr *b)
{
    int order = memcmp(a->name, b->name, a->name_len < b->name_len ? a->name_len : b->name_len);
    return order != 0 ? order : (a->name_len > b->name_len) - (a->name_len < b->name_len);
}

static int compare(const void *a, const void *b)
{
    return compare_names(*(struct mux_xattr *const *)a, *(struct mux_xattr *const *)b);
}

static int sort_names(struct mux_xattr_bytes set, struct names *ret)
{
    size_t room = set.len / HEAD + 1; // an entry is longer than its head
    struct mux_xattr entry = {0};
    int rc;
    *ret = (struct names){.entries = calloc(room, sizeof *ret->entries),
                          .sorted = calloc(room, sizeof(*ret->sorted))};
    if (!ret->entries || !ret->sorted)
        return -ENOMEM;
    while ((rc = mux_xattr_at(set.bytes, set.len, entry.end, &entry)) == 0) {
        ret->entries[ret->count] = entry;
        ret->sorted[ret->count] = &ret->entries[ret->count];
        ret->count++;
    }
    if (rc != -ENODATA)
        return rc;
    qsort(ret->sorted, ret->count, sizeof(*ret->sorted), compare);
    return 0;
}

static const struct mux_xattr *find(const struct names *names, const struct mux_xattr *name)
{
    struct mux_xattr *const *found =
        bsearch(&name, names->sorted, names->count, sizeof(*names->sorted), compare);
    return found ? *found : NULL;
}

static bool is_same(const struct mux_xattr *a, const struct mux_xattr *b)
{
    if (!a || !b)
        return a == b;
    return a->value_len == b->value_len && memcmp(a->value, b->value, a->value_len) == 0;
}

struct merging {
    struct names base, mine, theirs;
    unsigned char *bytes, *end;
    size_t names;
    bool conflict;
};

static void merge_one(struct merging *merging, const struct mux_xattr *mine,
                      const struct mux_xattr *theirs)
{
    const struct mux_xattr *base = find(&merging->base, mine ? mine : theirs);
    const struct mux_xattr *kept = is_same(mine, base) ? theirs : mine;
    if (kept == mine && !is_same(theirs, base) && !is_same(mine, theirs))
        merging->conflict = true;
    if (!kept)
        return;
    merging->end =
        put_entry(merging->end, kept->name, kept->name_len, kept->value, kept->value_len);
    merging->names += kept->name_len + 1;
}

int mux_xattr_merge(struct mux_xattr_bytes base, struct mux_xattr_bytes mine,
                    struct mux_xattr_bytes theirs, void **ret, size_t *ret_len, bool *ret_conflict)
{
    struct merging merging = {.bytes = malloc(mine.len + theirs.len + 1)};
    merging.end = merging.bytes;
    int rc = merging.bytes ? sort_names(base, &merging.base) : -ENOMEM;
    if (rc == 0)
        rc = sort_names(mine, &merging.mine);
    if (rc == 0)
        rc = sort_names(theirs, &merging.theirs);
    for (size_t i = 0; rc == 0 && i < merging.theirs.count; i++)
        merge_one(&merging, find(&merging.mine, &merging.theirs.entries[i]),
                  &merging.theirs.entries[i]);
    for (size_t i = 0; rc == 0 && i < merging.mine.count; i++)
        if (!find(&merging.theirs, &merging.mine.entries[i]))
            merge_one(&merging, &merging.mine.entries[i], NULL);
    size_t total = (size_t)(merging.end - merging.bytes);
    if (rc == 0 && (total > AF_XATTR_TOTAL_MAX || merging.names > AF_XATTR_NAMES_MAX))
        rc = -ENOSPC;
    free_names(&merging.base);
    free_names(&merging.mine);
    free_names(&merging.theirs);
    if (rc < 0 || total == 0) {
        free(merging.bytes);
        merging.bytes = NULL;
    }
    if (rc == 0) {
        *ret = merging.bytes;
        *ret_len = total;
        *ret_conflict = merging.conflict;
    }
    return rc;
}

long mux_xattr_names(const void *set, size_t len, char *buf, size_t size)
{
    struct mux_xattr entry = {0};
    size_t used = 0;
    int rc;
    while ((rc = mux_xattr_at(set, len, entry.end, &entry)) == 0) {
        if (size > 0 && entry.name_len + 1 > size - used)
            return -ERANGE;
        if (size > 0) {
            memcpy(buf + used, entry.name, entry.name_len);
            buf[used + entry.name_len] = '\0';
        }
        used += entry.name_len + 1;
    }
    return rc == -ENODATA ? (long)used : rc;
}
