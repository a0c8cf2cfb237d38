// Files with several names. Internal to mux.
//
// A record remembers one name, the hint, from which its level follows. The names of files with
// more than one are indexed in the store (store_link_*): candidates, each of which counts only
// when its entry leads to the file. So nothing has to be undone when a name goes in a lower layer.
// Within a caller's transaction; nothing is owned. Errors: -errno. Read next: links.c, link.c.
#ifndef AF_MUX_LINKS_H
#define AF_MUX_LINKS_H

#include "mux/resolve.h"

struct mux_link {
    uint64_t parent;
    const char *name; // lives as long as the transaction, or until the next write
    size_t name_len;
};

// Calls fn for each name that leads to the fid, the hint among them where it is one; the same
// name may come more than once. Ends when fn returns other than 0, and returns that.
int mux_links_walk(struct store_txn *txn, struct mux_layers layers, const struct store_inode *inode,
                   int (*fn)(void *arg, const struct mux_link *link), void *arg);

// Whether any name leads to the fid.
int mux_links_any(struct store_txn *txn, struct mux_layers layers, const struct store_inode *inode,
                  bool *ret);

// Some name of the fid other than the given one. -ENOENT when there is none.
int mux_links_other(struct store_txn *txn, struct mux_layers layers,
                    const struct store_inode *inode, const struct mux_link *except,
                    struct mux_link *ret);

// `inode` loses the name `link` (its entry still there or not): what its record and the index must
// say afterwards, in layers.ids[0]. A hint that names it moves to another name, in buf, which
// holds AF_NAME_MAX bytes; the record is not put. nlink must still count the name.
int mux_links_lose(struct store_txn *txn, struct mux_layers layers, struct store_inode *inode,
                   const struct mux_link *link, char *buf);

#endif
