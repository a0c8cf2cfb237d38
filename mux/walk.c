// The tree walk: a stack of directories, each with its sorted names. Names are not copied: in a
// read transaction they live in the map until it ends. Read next: walk.h.
#include "mux/walk.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define FRAMES_FIRST 16
#define NAMES_FIRST  32
#define PATH_FIRST   512

struct name {
    const char *text;
    uint64_t fid;
    uint8_t len;
};

struct frame {
    struct name *names;
    size_t count, next;
    size_t path_len; // of the directory
};

struct walk {
    struct store_txn *txn;
    struct mux_layers layers;
    struct frame *frames;
    size_t depth, frames_capacity;
    char *path;
    size_t path_len, path_capacity;
    size_t names_held;
};

static int compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t common = a_len < b_len ? a_len : b_len;
    int order = common > 0 ? memcmp(a, b, common) : 0;
    if (order != 0)
        return order;
    return a_len < b_len ? -1 : a_len > b_len;
}

int mux_path_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
    for (;;) {
        const char *a_end = memchr(a, '/', a_len);
        const char *b_end = memchr(b, '/', b_len);
        size_t a_part = a_end ? (size_t)(a_end - a) : a_len;
        size_t b_part = b_end ? (size_t)(b_end - b) : b_len;
        int order = compare_bytes(a, a_part, b, b_part);
        if (order != 0)
            return order;
        if (!a_end || !b_end)
            return a_end ? 1 : b_end ? -1 : 0;
        a += a_part + 1;
        a_len -= a_part + 1;
        b += b_part + 1;
        b_len -= b_part + 1;
    }
}

static int compare_names(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    return compare_bytes(x->text, x->len, y->text, y->len);
}

// All names of one merged directory, unsorted. *names may be set also on failure: the frame's
// owner frees it.
static int read_names(struct walk *walk, uint64_t dir, struct frame *frame)
{
    struct store_dir_iter *iter;
    int rc = store_dir_open(walk->txn, walk->layers.ids, walk->layers.count, dir, 0, &iter);
    if (rc < 0)
        return rc;
    size_t capacity = 0;
    struct store_entry entry;
    while ((rc = store_dir_next(iter, &entry, NULL)) == 0) {
        if (walk->names_held + frame->count >= MUX_WALK_NAMES_MAX) {
            rc = -E2BIG;
            break;
        }
        if (frame->count == capacity) {
            capacity = capacity ? capacity * 2 : NAMES_FIRST;
            struct name *bigger = realloc(frame->names, capacity * sizeof *bigger);
            if (!bigger) {
                rc = -ENOMEM;
                break;
            }
            frame->names = bigger;
        }
        frame->names[frame->count++] =
            (struct name){.text = entry.name, .fid = entry.fid, .len = entry.name_len};
    }
    store_dir_close(iter);
    return rc == -ENOENT ? 0 : rc;
}

static int push(struct walk *walk, uint64_t dir)
{
    if (walk->depth == walk->frames_capacity) {
        size_t capacity = walk->frames_capacity ? walk->frames_capacity * 2 : FRAMES_FIRST;
        struct frame *bigger = realloc(walk->frames, capacity * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        walk->frames = bigger;
        walk->frames_capacity = capacity;
    }
    struct frame *frame = &walk->frames[walk->depth];
    *frame = (struct frame){.path_len = walk->path_len};
    walk->depth++; // owned from here on
    int rc = read_names(walk, dir, frame);
    if (rc == 0 && frame->count > 1)
        qsort(frame->names, frame->count, sizeof *frame->names, compare_names);
    walk->names_held += frame->count;
    return rc;
}

static void pop(struct walk *walk)
{
    struct frame *frame = &walk->frames[--walk->depth];
    walk->names_held -= frame->count;
    free(frame->names);
}

static int reserve_path(struct walk *walk, size_t len)
{
    if (len > MUX_WALK_PATH_MAX)
        return -E2BIG;
    if (len < walk->path_capacity)
        return 0;
    size_t capacity = len * 2 > PATH_FIRST ? len * 2 : PATH_FIRST;
    char *bigger = realloc(walk->path, capacity);
    if (!bigger)
        return -ENOMEM;
    walk->path = bigger;
    walk->path_capacity = capacity;
    return 0;
}

// Sets the path to `dir_len` bytes of what it is, a slash where needed, and the name.
static int set_path(struct walk *walk, size_t dir_len, const struct name *name, size_t *ret_start)
{
    int rc = reserve_path(walk, dir_len + 1 + name->len);
    if (rc < 0)
        return rc;
    size_t start = dir_len;
    if (dir_len > 0)
        walk->path[start++] = '/';
    memcpy(walk->path + start, name->text, name->len);
    walk->path_len = start + name->len;
    walk->path[walk->path_len] = '\0';
    *ret_start = start;
    return 0;
}

static int step(struct walk *walk, mux_walk_fn fn, void *arg, bool *ret_stopped)
{
    struct frame *frame = &walk->frames[walk->depth - 1];
    const struct name name = frame->names[frame->next++];
    struct store_inode inode;
    size_t start;
    int rc = mux_resolve_inode(walk->txn, walk->layers, name.fid, &inode, NULL);
    if (rc < 0)
        return rc == -ENOENT ? -EUCLEAN : rc;
    rc = set_path(walk, frame->path_len, &name, &start);
    if (rc < 0)
        return rc;
    struct mux_walk_node node = {
        .path = walk->path,
        .path_len = walk->path_len,
        .name = walk->path + start,
        .name_len = name.len,
        .depth = (uint32_t)walk->depth,
        .inode = &inode,
    };
    enum mux_walk_next next = fn(arg, &node);
    *ret_stopped = next == MUX_WALK_STOP;
    if (next == MUX_WALK_ON && S_ISDIR(inode.mode))
        rc = push(walk, name.fid);
    return rc;
}

int mux_walk(struct store_txn *txn, struct mux_layers layers, uint64_t dir, const char *path,
             size_t path_len, mux_walk_fn fn, void *arg)
{
    struct walk walk = {.txn = txn, .layers = layers, .path_len = path_len};
    bool stopped = false;
    int rc = reserve_path(&walk, path_len);
    if (rc == 0) {
        memcpy(walk.path, path, path_len);
        walk.path[path_len] = '\0';
        rc = push(&walk, dir);
    }
    while (rc == 0 && !stopped && walk.depth > 0) {
        const struct frame *frame = &walk.frames[walk.depth - 1];
        if (frame->next == frame->count)
            pop(&walk);
        else
            rc = step(&walk, fn, arg, &stopped);
    }
    while (walk.depth > 0)
        pop(&walk);
    free(walk.frames);
    free(walk.path);
    return rc;
}
