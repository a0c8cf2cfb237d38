// Names of multi-linked files: candidates from the index, checked against the entries.
// Read next: links.h, link.c.
#include "mux/links.h"

#include <errno.h>
#include <string.h>

struct finder {
    struct store_txn *txn;
    struct mux_layers layers;
    uint64_t fid;
    int (*fn)(void *arg, const struct mux_link *link);
    void *arg;
};

static int look(void *arg, uint64_t parent, const char *name, size_t name_len)
{
    const struct finder *finder = arg;
    struct mux_link link = {.parent = parent, .name = name, .name_len = name_len};
    struct store_entry entry;
    int rc = mux_resolve_entry(finder->txn, finder->layers, parent, name, name_len, &entry, NULL);
    if (rc == -ENOENT || (rc == 0 && entry.fid != finder->fid))
        return 0;
    return rc < 0 ? rc : finder->fn(finder->arg, &link);
}

int mux_links_walk(struct store_txn *txn, struct mux_layers layers, const struct store_inode *inode,
                   int (*fn)(void *arg, const struct mux_link *link), void *arg)
{
    struct finder finder = {txn, layers, inode->fid, fn, arg};
    int rc = look(&finder, inode->parent, inode->name, inode->name_len);
    for (size_t i = 0; rc == 0 && i < layers.count; i++)
        rc = store_link_walk(txn, layers.ids[i], inode->fid, look, &finder);
    return rc;
}

static int stop(void *arg, const struct mux_link *link)
{
    (void)arg;
    (void)link;
    return 1;
}

int mux_links_any(struct store_txn *txn, struct mux_layers layers, const struct store_inode *inode,
                  bool *ret)
{
    int rc = mux_links_walk(txn, layers, inode, stop, NULL);
    if (rc >= 0)
        *ret = rc == 1;
    return rc < 0 ? rc : 0;
}

static bool is_same(const struct mux_link *a, uint64_t parent, const char *name, size_t name_len)
{
    return a->parent == parent && a->name_len == name_len && memcmp(a->name, name, name_len) == 0;
}

struct other {
    const struct mux_link *except;
    struct mux_link found;
};

static int take_other(void *arg, const struct mux_link *link)
{
    struct other *other = arg;
    if (is_same(other->except, link->parent, link->name, link->name_len))
        return 0;
    other->found = *link;
    return 1;
}

int mux_links_other(struct store_txn *txn, struct mux_layers layers,
                    const struct store_inode *inode, const struct mux_link *except,
                    struct mux_link *ret)
{
    struct other other = {.except = except};
    int rc = mux_links_walk(txn, layers, inode, take_other, &other);
    if (rc == 1)
        *ret = other.found;
    return rc == 1 ? 0 : rc < 0 ? rc : -ENOENT;
}

int mux_links_lose(struct store_txn *txn, struct mux_layers layers, struct store_inode *inode,
                   const struct mux_link *link, char *buf)
{
    int rc = 0;
    if (inode->nlink <= 1)
        return 0; // the last one: an orphan keeps the hint, nobody follows it
    if (is_same(link, inode->parent, inode->name, inode->name_len)) {
        struct mux_link other;
        rc = mux_links_other(txn, layers, inode, link, &other);
        if (rc == 0) {
            memmove(buf, other.name, other.name_len);
            inode->name = buf;
            inode->name_len = (uint8_t)other.name_len;
            inode->parent = other.parent;
        }
        if (rc == -ENOENT)
            rc = 0; // the index lacks it: lookups find the file, and removing must stay possible
    }
    if (rc == 0 && inode->nlink == 2)
        return store_link_clear(txn, layers.ids[0], inode->fid);
    return rc < 0 ? rc
                  : store_link_del(txn, layers.ids[0], inode->fid, link->parent, link->name,
                                   link->name_len);
}
