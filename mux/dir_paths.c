// Paths of directories by parent hints. The climb is a loop, not a recursion: a sandbox can nest
// directories without end. Owns the table of what it has met. Read next: dir_paths.h.
#include "mux/dir_paths.h"

#include <errno.h>
#include <string.h>

#define CLIMB_MAX (1u << 20) // more levels than MUX_WALK_PATH_MAX has room for: a damaged store

struct step {
    uint64_t fid;
    const char *name;
    uint8_t name_len;
};

struct climb {
    struct step *steps; // from the directory asked for upwards
    size_t count, capacity;
};

void mux_dir_paths_init(struct mux_dir_paths *paths, struct store_txn *txn,
                        struct mux_layers layers, uint64_t root_fid, struct mux_arena *arena)
{
    *paths = (struct mux_dir_paths){
        .txn = txn,
        .layers = layers,
        .root_fid = root_fid,
        .arena = arena,
    };
}

void mux_dir_paths_fini(struct mux_dir_paths *paths)
{
    mux_fid_map_fini(&paths->known);
}

static int add_step(struct climb *climb, const struct store_inode *inode)
{
    if (climb->count == CLIMB_MAX)
        return -EUCLEAN;
    if (climb->count == climb->capacity) {
        size_t capacity = climb->capacity ? climb->capacity * 2 : 32;
        struct step *bigger = realloc(climb->steps, capacity * sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        climb->steps = bigger;
        climb->capacity = capacity;
    }
    climb->steps[climb->count++] =
        (struct step){.fid = inode->fid, .name = inode->name, .name_len = inode->name_len};
    return 0;
}

// The directory's parent, if the name that its record hints at still leads to it; else 0.
static int parent_of(struct mux_dir_paths *paths, const struct store_inode *inode, uint64_t *ret)
{
    struct store_entry entry;
    *ret = 0;
    if (inode->parent == 0 || inode->name_len == 0)
        return 0;
    int rc = mux_resolve_entry(paths->txn, paths->layers, inode->parent, inode->name,
                               inode->name_len, &entry, NULL);
    if (rc == 0 && entry.fid == inode->fid)
        *ret = inode->parent;
    return rc == -ENOENT ? 0 : rc;
}

static int child_path(struct mux_dir_paths *paths, const struct mux_dir_path *dir,
                      const struct step *step, const struct mux_dir_path **ret)
{
    struct mux_dir_path *path = mux_arena_alloc(paths->arena, sizeof *path);
    char *text = mux_arena_alloc(paths->arena, dir->len + step->name_len + 2);
    if (!path || !text)
        return -E2BIG;
    size_t len = dir->len;
    memcpy(text, dir->text, len);
    if (len > 0)
        text[len++] = '/';
    memcpy(text + len, step->name, step->name_len);
    len += step->name_len;
    text[len] = '\0';
    *path = (struct mux_dir_path){.text = text, .len = len};
    *ret = path;
    return 0;
}

// Climbs until a directory whose answer is known; *ret_top is that answer.
static int climb_up(struct mux_dir_paths *paths, uint64_t fid, struct climb *climb,
                    const struct mux_dir_path **ret_top)
{
    static const struct mux_dir_path root = {.text = "", .len = 0};
    for (;;) {
        uint64_t known;
        if (fid == paths->root_fid || fid == 0) {
            *ret_top = fid == 0 ? NULL : &root;
            return 0;
        }
        if (mux_fid_map_get(&paths->known, fid, &known)) {
            *ret_top = (const struct mux_dir_path *)(uintptr_t)known;
            return 0;
        }
        struct store_inode inode;
        int rc = mux_resolve_inode(paths->txn, paths->layers, fid, &inode, NULL);
        if (rc == -ENOENT) {
            *ret_top = NULL;
            return 0;
        }
        if (rc == 0)
            rc = add_step(climb, &inode);
        if (rc == 0)
            rc = parent_of(paths, &inode, &fid);
        if (rc < 0)
            return rc;
    }
}

int mux_dir_paths_get(struct mux_dir_paths *paths, uint64_t fid, const struct mux_dir_path **ret)
{
    struct climb climb = {0};
    const struct mux_dir_path *path = NULL;
    int rc = climb_up(paths, fid, &climb, &path);
    for (size_t i = climb.count; rc == 0 && i-- > 0;) {
        const struct mux_dir_path *below = NULL;
        if (path)
            rc = child_path(paths, path, &climb.steps[i], &below);
        if (rc == 0)
            rc = mux_fid_map_put(&paths->known, climb.steps[i].fid, (uint64_t)(uintptr_t)below);
        path = below;
    }
    free(climb.steps);
    if (rc == 0)
        *ret = path;
    return rc;
}

int mux_dir_paths_has(struct mux_dir_paths *paths, uint64_t parent, const char *name,
                      size_t name_len, uint64_t fid, bool *ret)
{
    *ret = false;
    if (parent == 0 || name_len == 0)
        return 0;
    struct store_entry entry;
    int rc = mux_resolve_entry(paths->txn, paths->layers, parent, name, name_len, &entry, NULL);
    if (rc == -ENOENT || (rc == 0 && entry.fid != fid))
        return 0;
    const struct mux_dir_path *dir = NULL;
    if (rc == 0)
        rc = mux_dir_paths_get(paths, parent, &dir);
    if (rc == 0)
        *ret = dir != NULL;
    return rc;
}

int mux_dir_paths_join(struct mux_dir_paths *paths, uint64_t parent, const char *name,
                       size_t name_len, const char **ret_text, size_t *ret_len)
{
    const struct mux_dir_path *dir = NULL, *path = NULL;
    int rc = mux_dir_paths_get(paths, parent, &dir);
    struct step step = {.name = name, .name_len = (uint8_t)name_len};
    if (rc == 0 && dir)
        rc = child_path(paths, dir, &step, &path);
    if (rc < 0)
        return rc;
    *ret_text = path ? path->text : NULL;
    *ret_len = path ? path->len : 0;
    return 0;
}
