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
