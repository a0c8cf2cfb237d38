// The database's pages, looked at before LMDB follows them.
//
// LMDB trusts its file: a page number or a size that a failing disk has changed is a wild pointer
// in it, and keys out of order are a walk without an end. So the tree that the newest meta page
// leads to is walked here first, with every number checked against the file: that pages are what
// their parent says, in range and used once, nodes inside of their pages, keys in order, and that
// the lists of free pages name none that is in use. What records say is for fsck's passes. Memory:
// two bits a page, and one page a level. Fails: -EUCLEAN, with a sentence. The file is only read,
// and nobody else has it open. Read next: env.c.
#include "mux/store/store_priv.h"

#include "mux/base/whole.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES  16 // of a page
#define NODE_BYTES  8  // of a node, before its key
#define DB_BYTES    48
#define LEVELS_MAX  32 // LMDB's CURSOR_STACK
#define KEY_MAX     511
#define BUFFERS     (2 * LEVELS_MAX + 1)
#define NO_PAGE     UINT64_MAX
#define INTEGER_KEY 0x08
#define LIST_WORDS  512 // of a list of free pages, read at once

enum { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4 };
enum { NODE_BIG = 1, NODE_TREE = 2 };
enum { AT_DB_FREE = 40, AT_DB_MAIN = 88, AT_LAST_PAGE = 136 };

struct key {
    uint8_t bytes[KEY_MAX];
    size_t len;
};

// One B+ tree, being walked in the order of its keys.
struct tree {
    const char *name;
    bool is_free_list, is_main;
    unsigned above; // levels of buffers that are in use by the tree that it is named in
    unsigned depth;
    bool has_last, has_floor;
    struct key last, floor; // the last key seen; what the next one may not be below
};

struct pages {
    int fd;
    size_t page_bytes;
    uint64_t count;
    uint8_t *used;    // a bit a page: in a tree
    uint8_t *listed;  // a bit a page: in a list of free ones
    uint8_t *buffers; // a page a level
    struct af_error *err;
};

static uint16_t get16(const uint8_t *at)
{
    uint16_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static int fault(struct pages *p, const struct tree *tree, uint64_t page, const char *what)
{
    af_error_set(p->err, AF_DATA_LOSS,
                 "the database is damaged: page %" PRIu64
                 " of data.mdb, of its part \"%.20s\", %s; "
                 "restore the state directory from a backup",
                 page, tree->name, what);
    return -EUCLEAN;
}

static int read_at(struct pages *p, void *buf, size_t len, uint64_t at)
{
    ssize_t n = af_read_whole(p->fd, buf, len, (off_t)at);
    return n < 0 ? (int)n : n == (ssize_t)len ? 0 : -EUCLEAN;
}

static bool test_bit(const uint8_t *bits, uint64_t page)
{
    return bits[page / 8] & (1u << (page % 8));
}

static void set_bit(uint8_t *bits, uint64_t page)
{
    bits[page / 8] |= (uint8_t)(1u << (page % 8));
}

// A page takes its place in a tree: in range, and in no other place.
static int take(struct pages *p, const struct tree *tree, uint64_t from, uint64_t page)
{
    if (page < 2 || page >= p->count)
        return fault(p, tree, from, "leads out of the file");
    if (test_bit(p->used, page))
        return fault(p, tree, from, "leads to a page that is in use elsewhere");
    set_bit(p->used, page);
    return 0;
}

// ---- keys

static int compare(const struct tree *tree, const struct key *a, const struct key *b)
{
    if (tree->is_free_list) {
        uint64_t x = get64(a->bytes), y = get64(b->bytes);
        return x < y ? -1 : x > y;
    }
    int order = memcmp(a->bytes, b->bytes, a->len < b->len ? a->len : b->len);
    return order != 0 ? order : a->len < b->len ? -1 : a->len > b->len;
}

static bool get_key(const struct tree *tree, const uint8_t *node, struct key *ret)
{
    ret->len = get16(node + 6);
    if (ret->len == 0 || ret->len > KEY_MAX || (tree->is_free_list && ret->len != sizeof(uint64_t)))
        return false;
    memcpy(ret->bytes, node + NODE_BYTES, ret->len);
    return true;
}

// Keys ascend through the whole tree, and a branch's key parts what is left of it from the rest.
static bool follows(struct tree *tree, const struct key *key, bool is_branch)
{
    if (tree->has_last && compare(tree, key, &tree->last) <= 0)
        return false;
    if (tree->has_floor && compare(tree, key, &tree->floor) < 0)
        return false;
    struct key *to = is_branch ? &tree->floor : &tree->last;
    *to = *key;
    if (is_branch)
        tree->has_floor = true;
    else
        tree->has_last = true;
    return true;
}

// ---- free pages

static int check_list(struct pages *p, const struct tree *tree, uint64_t page, uint64_t at,
                      uint64_t len)
{
    uint64_t words[LIST_WORDS], entries = 0;
    int rc = len < sizeof entries ? -EUCLEAN : read_at(p, &entries, sizeof entries, at);
    if (rc < 0 || entries > len / sizeof entries - 1)
        return fault(p, tree, page, "has a list of free pages of an impossible length");
    for (uint64_t done = 0, n; done < entries; done += n) {
        n = entries - done < LIST_WORDS ? entries - done : LIST_WORDS;
        rc = read_at(p, words, n * sizeof *words, at + (1 + done) * sizeof *words);
        for (uint64_t i = 0; rc == 0 && i < n; i++) {
            if (words[i] < 2 || words[i] >= p->count)
                rc = -EUCLEAN;
            else
                set_bit(p->listed, words[i]);
        }
        if (rc < 0)
            return fault(p, tree, page, "has a list of free pages that leads out of the file");
    }
    return 0;
}

// ---- pages

static int check_tree(struct pages *p, const uint8_t *db, struct tree *tree);

// Content too large for a leaf: pages of its own, one after another.
static int check_big(struct pages *p, struct tree *tree, uint64_t from, const uint8_t *data,
                     uint64_t len)
{
    uint8_t head[HEAD_BYTES];
    uint64_t first = get64(data), needed = (HEAD_BYTES - 1 + len) / p->page_bytes + 1;
    int rc = take(p, tree, from, first);
    if (rc < 0)
        return rc;
    rc = read_at(p, head, sizeof head, first * p->page_bytes);
    if (rc < 0)
        return rc;
    uint64_t pages = get32(head + 12);
    if (get64(head) != first || get16(head + 10) != PAGE_OVERFLOW || pages < needed)
        return fault(p, tree, first, "should hold a large value and does not");
    for (uint64_t i = 1; i < pages; i++)
        if ((rc = take(p, tree, first, first + i)) < 0)
            return rc;
    return tree->is_free_list ? check_list(p, tree, first, first * p->page_bytes + HEAD_BYTES, len)
                              : 0;
}

// `node` lies in the page as far as its key reaches; `room` is what is left of the page behind
// that. Returns the bytes that its data takes there, or -errno.
static int check_data(struct pages *p, struct tree *tree, uint64_t page, const uint8_t *node,
                      size_t room, uint64_t at)
{
    uint64_t len = get16(node) | (uint64_t)get16(node + 2) << 16;
    unsigned flags = get16(node + 4);
    const uint8_t *data = node + NODE_BYTES + get16(node + 6);
    size_t here = flags & NODE_BIG ? sizeof(uint64_t) : len;
    int rc = 0;
    if (flags > NODE_TREE || here > room || (flags == NODE_TREE && len != DB_BYTES))
        return fault(p, tree, page, "has a value of an impossible size");
    if (flags == NODE_BIG) {
        rc = check_big(p, tree, page, data, len);
    } else if (flags == NODE_TREE) {
        char name[32] = "";
        size_t key_len = get16(node + 6);
        if (!tree->is_main)
            return fault(p, tree, page, "has a tree in the place of a value");
        memcpy(name, node + NODE_BYTES, key_len < sizeof name ? key_len : sizeof name - 1);
        struct tree *inner = calloc(1, sizeof *inner);
        if (!inner)
            return -ENOMEM;
        inner->name = name;
        inner->above = LEVELS_MAX;
        rc = check_tree(p, data, inner);
        free(inner);
    } else if (tree->is_free_list) {
        rc = check_list(p, tree, page, at + (uint64_t)(data - node), len);
    }
    return rc < 0 ? rc : (int)here;
}

static int check_page(struct pages *p, struct tree *tree, uint64_t page, unsigned level);

static int check_node(struct pages *p, struct tree *tree, uint64_t page, unsigned level,
                      unsigned index, size_t *bytes)
{
    const uint8_t *buf = p->buffers + (tree->above + level) * p->page_bytes;
    size_t offset = get16(buf + HEAD_BYTES + 2 * index), upper = get16(buf + 14);
    const uint8_t *node = buf + offset;
    struct key key;
    bool is_leaf = level == tree->depth;
    if (offset < upper || offset % 2 != 0 || offset + NODE_BYTES > p->page_bytes ||
        offset + NODE_BYTES + get16(node + 6) > p->page_bytes)
        return fault(p, tree, page, "has a record outside of itself");
    // The first key of a branch stands for everything below.
    if ((is_leaf || index > 0) && (!get_key(tree, node, &key) || !follows(tree, &key, !is_leaf)))
        return fault(p, tree, page, "has keys out of order");
    size_t end = offset + NODE_BYTES + get16(node + 6);
    *bytes += end - offset;
    if (!is_leaf) {
        uint64_t child =
            get16(node) | (uint64_t)get16(node + 2) << 16 | (uint64_t)get16(node + 4) << 32;
        int rc = take(p, tree, page, child);
        return rc < 0 ? rc : check_page(p, tree, child, level + 1);
    }
    int here = check_data(p, tree, page, node, p->page_bytes - end, page * p->page_bytes + offset);
    if (here > 0)
        *bytes += (size_t)here;
    return here < 0 ? here : 0;
}

static int check_page(struct pages *p, struct tree *tree, uint64_t page, unsigned level)
{
    uint8_t *buf = p->buffers + (tree->above + level) * p->page_bytes;
    int rc = read_at(p, buf, p->page_bytes, page * p->page_bytes);
    if (rc < 0)
        return rc;
    size_t lower = get16(buf + 12), upper = get16(buf + 14), bytes = 0;
    bool is_leaf = level == tree->depth;
    if (get64(buf) != page || get16(buf + 10) != (is_leaf ? PAGE_LEAF : PAGE_BRANCH))
        return fault(p, tree, page, "is not the page that should be there");
    if (lower <= HEAD_BYTES || lower % 2 != 0 || lower > upper || upper > p->page_bytes)
        return fault(p, tree, page, "has an impossible number of records");
    unsigned count = (unsigned)(lower - HEAD_BYTES) / 2;
    if (!is_leaf && count < 2 && !tree->is_free_list)
        return fault(p, tree, page, "leads to one page only");
    for (unsigned i = 0; rc == 0 && i < count; i++) {
        rc = check_node(p, tree, page, level, i, &bytes);
        bytes += bytes % 2;
    }
    if (rc == 0 && bytes > p->page_bytes - upper)
        return fault(p, tree, page, "has records that overlap");
    return rc;
}

// `db` is its description: 48 bytes, root last.
static int check_tree(struct pages *p, const uint8_t *db, struct tree *tree)
{
    uint8_t copy[DB_BYTES]; // the page that it is in is left now
    memcpy(copy, db, sizeof copy);
    uint64_t root = get64(copy + 40);
    tree->depth = get16(copy + 6);
    if (get16(copy + 4) != (tree->is_free_list ? INTEGER_KEY : 0))
        return fault(p, tree, root, "belongs to a tree of another kind");
    if (root == NO_PAGE)
        return tree->depth == 0 ? 0 : fault(p, tree, 0, "leads to a tree that is lost");
    if (tree->depth == 0 || tree->depth > LEVELS_MAX)
        return fault(p, tree, root, "is the root of a tree of an impossible depth");
    int rc = take(p, tree, 0, root);
    return rc < 0 ? rc : check_page(p, tree, root, 1);
}

// ---- the whole

// The newer of the two, as LMDB chooses. 0: neither is one, which LMDB says itself.
static int read_meta(struct pages *p, uint8_t ret[META_BYTES])
{
    uint8_t other[META_BYTES];
    if (read_at(p, ret, META_BYTES, 0) < 0 || get32(ret + META_AT_MAGIC) != META_MAGIC)
        return 0;
    p->page_bytes = get32(ret + AT_DB_FREE);
    if (p->page_bytes < 512 || p->page_bytes > 65536 || (p->page_bytes & (p->page_bytes - 1)) != 0)
        return 0;
    if (read_at(p, other, META_BYTES, p->page_bytes) < 0 ||
        get32(other + META_AT_MAGIC) != META_MAGIC)
        return 0;
    if (get64(other + META_AT_TXNID) > get64(ret + META_AT_TXNID))
        memcpy(ret, other, META_BYTES);
    return 1;
}

static int check_all(struct pages *p, const uint8_t *meta)
{
    struct tree *trees = calloc(2, sizeof *trees);
    if (!trees)
        return -ENOMEM;
    trees[0] = (struct tree){.name = "names", .is_main = true};
    trees[1] = (struct tree){.name = "free pages", .is_free_list = true};
    int rc = check_tree(p, meta + AT_DB_MAIN, &trees[0]);
    if (rc == 0)
        rc = check_tree(p, meta + AT_DB_FREE, &trees[1]);
    for (uint64_t page = 0; rc == 0 && page < p->count; page++)
        if (test_bit(p->used, page) && test_bit(p->listed, page))
            rc = fault(p, &trees[1], page, "is in use and listed as free");
    free(trees);
    return rc;
}

int store_check_pages(int store_dir, uint64_t pages_max, struct af_error *err)
{
    uint8_t meta[META_BYTES];
    struct stat st;
    AF_CLEANUP_FD int fd = openat(store_dir, "data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct pages p = {.fd = fd, .err = err};
    if (fd < 0 || fstat(fd, &st) < 0)
        return af_error_errno(err, errno, "cannot read store/data.mdb");
    if (read_meta(&p, meta) == 0)
        return 0;
    uint64_t last = get64(meta + AT_LAST_PAGE);
    if (last >= (uint64_t)st.st_size / p.page_bytes) // LMDB's own figure of it is looked at again
        return af_error_set(err, AF_DATA_LOSS,
                            "store/data.mdb is cut short: restore the state directory from a "
                            "backup");
    p.count = last + 1;
    if (p.count > pages_max)
        return 0;
    AF_CLEANUP_FREE uint8_t *bits = calloc(2, p.count / 8 + 1);
    AF_CLEANUP_FREE uint8_t *buffers = malloc(BUFFERS * p.page_bytes);
    if (!bits || !buffers)
        return af_error_errno(err, ENOMEM, "checking store/data.mdb");
    p.used = bits;
    p.listed = bits + p.count / 8 + 1;
    p.buffers = buffers;
    int rc = check_all(&p, meta);
    if (rc < 0 && rc != -EUCLEAN)
        return af_error_errno(err, rc, "checking store/data.mdb");
    if (rc < 0 && err->status != AF_DATA_LOSS)
        return af_error_set(err, AF_DATA_LOSS,
                            "store/data.mdb cannot be read to its end: restore "
                            "the state directory from a backup");
    return rc;
}
