// The pair of directories: see apply_fixture.h.
#include "tests/unit/tools/agentfense/apply_fixture.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "tools/agentfense/beneath.h"
#include "tools/common/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct origin {
    ino_t ino;
    const struct manifest_entry *entry;
    char *content; // of a regular file, as it was imported
};

typedef void (*visit)(void *arg, int root, const char *path, const struct stat *st);

// Calls fn for everything below `path`, in path order.
static void walk(int root, const char *path, visit fn, void *arg)
{
    char **names;
    size_t count;
    assert_int_equal(beneath_list(root, path, &names, &count), 0);
    for (size_t i = 0; i < count; i++) {
        char child[4200];
        struct stat st;
        snprintf(child, sizeof child, "%s%s%s", path, *path ? "/" : "", names[i]);
        assert_int_equal(beneath_stat(root, child, &st), 0);
        fn(arg, root, child, &st);
        if (S_ISDIR(st.st_mode))
            walk(root, child, fn, arg);
    }
    beneath_free_names(names, count);
}

static int sub_dir(const char *dir, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(mkdir(path, 0755), 0);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

struct pair *pair_new(void)
{
    struct pair *pair = tool_alloc(sizeof *pair);
    strcpy(pair->dir, "/tmp/agentfense-test-XXXXXX");
    assert_non_null(mkdtemp(pair->dir));
    pair->base = sub_dir(pair->dir, "base");
    pair->view = sub_dir(pair->dir, "view");
    close(sub_dir(pair->dir, "grave"));
    close(sub_dir(pair->dir, "out"));
    return pair;
}

void pair_free(struct pair *pair)
{
    int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(beneath_remove(tmp, strrchr(pair->dir, '/') + 1), 0);
    close(tmp);
    close(pair->base);
    close(pair->view);
    manifest_fini(&pair->manifest);
    for (size_t i = 0; i < pair->n_origins; i++)
        free(pair->origins[i].content);
    free(pair->origins);
    free(pair);
}

void pair_file(int root, const char *path, const char *content, mode_t mode)
{
    AF_CLEANUP_FD int fd = beneath_open(root, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    assert_int_equal(fchmod(fd, mode), 0);
}

void pair_dir(int root, const char *path, mode_t mode)
{
    assert_int_equal(beneath_mkdir(root, path, 0700), 0);
    AF_CLEANUP_FD int fd = beneath_open(root, path, O_RDONLY | O_DIRECTORY, 0);
    assert_int_equal(fchmod(fd, mode), 0);
}

void pair_link(int root, const char *path, const char *target)
{
    const char *name;
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    assert_int_equal(symlinkat(target, parent, name), 0);
}

static void copy_times(int root, const char *path, const struct stat *st)
{
    const char *name;
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    AF_CLEANUP_FD int parent = beneath_parent(root, path, &name);
    assert_int_equal(utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void import_one(void *arg, int root, const char *path, const struct stat *st)
{
    struct pair *pair = arg;
    char content[4096];
    manifest_add(&pair->manifest, path, st, S_ISSOCK(st->st_mode));
    if (S_ISDIR(st->st_mode)) {
        pair_dir(pair->view, path, st->st_mode & 07777);
    } else if (S_ISLNK(st->st_mode)) {
        AF_CLEANUP_FD int fd = beneath_open(root, path, O_PATH, 0);
        ssize_t len = readlinkat(fd, "", content, sizeof content - 1);
        content[len] = '\0';
        pair_link(pair->view, path, content);
    } else if (S_ISREG(st->st_mode)) {
        AF_CLEANUP_FD int fd = beneath_open(root, path, O_RDONLY, 0);
        ssize_t len = read(fd, content, sizeof content - 1);
        content[len] = '\0';
        pair_file(pair->view, path, content, st->st_mode & 07777);
    } else {
        return;
    }
    copy_times(pair->view, path, st);
}

static char *read_text(int root, const char *path)
{
    char content[4096];
    AF_CLEANUP_FD int fd = beneath_open(root, path, O_RDONLY, 0);
    ssize_t len = read(fd, content, sizeof content);
    assert_true(len >= 0);
    return tool_copy(content, (size_t)len);
}

static void note_origin(void *arg, int root, const char *path, const struct stat *st)
{
    struct pair *pair = arg;
    pair->origins =
        tool_grow(pair->origins, pair->n_origins, &pair->max_origins, sizeof *pair->origins);
    pair->origins[pair->n_origins++] =
        (struct origin){st->st_ino, manifest_find(&pair->manifest, path),
                        S_ISREG(st->st_mode) ? read_text(root, path) : NULL};
}

void pair_import(struct pair *pair)
{
    walk(pair->base, "", import_one, pair);
    walk(pair->view, "", note_origin, pair);
}

void pair_remove(struct pair *pair, const char *path)
{
    char grave[128];
    const char *name;
    snprintf(grave, sizeof grave, "%s/grave/%u", pair->dir, pair->graves++);
    AF_CLEANUP_FD int parent = beneath_parent(pair->view, path, &name);
    assert_int_equal(renameat(parent, name, AT_FDCWD, grave), 0);
}

void pair_rename(struct pair *pair, const char *from, const char *to)
{
    assert_int_equal(beneath_rename(pair->view, from, to, RENAME_NOREPLACE), 0);
}

// ---- what changed

static const struct origin *origin_of(const struct pair *pair, ino_t ino)
{
    for (size_t i = 0; i < pair->n_origins; i++) {
        if (pair->origins[i].ino == ino)
            return &pair->origins[i];
    }
    return NULL;
}

// Where in the view the inode of a base path is; false when it is nowhere.
struct search {
    const struct pair *pair;
    const struct manifest_entry *entry;
    char path[4200];
    bool found;
};

static void match_origin(void *arg, int root, const char *path, const struct stat *st)
{
    struct search *search = arg;
    (void)root;
    const struct origin *origin = origin_of(search->pair, st->st_ino);
    if (!search->found && origin && origin->entry == search->entry) {
        search->found = true;
        snprintf(search->path, sizeof search->path, "%s", path);
    }
}

// The view's path of a base path's name: of its directory, wherever that is now.
static bool name_in_view(const struct pair *pair, const char *base_path, char out[4500])
{
    const char *slash = strrchr(base_path, '/');
    if (!slash) {
        strcpy(out, base_path);
        return true;
    }
    AF_CLEANUP_FREE char *parent = tool_copy(base_path, (size_t)(slash - base_path));
    struct search search = {.pair = pair, .entry = manifest_find(&pair->manifest, parent)};
    walk(pair->view, "", match_origin, &search);
    if (search.found)
        snprintf(out, 4500, "%s%s", search.path, slash);
    return search.found;
}

static void add(struct changes *changes, enum change_type type, const char *path,
                const char *old_path, int root, const struct stat *st)
{
    char target[4096] = "";
    if (S_ISLNK(st->st_mode) && root >= 0) {
        AF_CLEANUP_FD int fd = beneath_open(root, path, O_PATH, 0);
        assert_true(readlinkat(fd, "", target, sizeof target - 1) > 0);
    }
    changes->list = tool_grow(changes->list, changes->count, &changes->max, sizeof *changes->list);
    changes->list[changes->count++] = (struct change){
        .type = type,
        .path = tool_copy_text(path),
        .old_path = old_path ? tool_copy_text(old_path) : NULL,
        .target = *target ? tool_copy_text(target) : NULL,
        .mode = st->st_mode,
        .size = (uint64_t)st->st_size,
        .has_mtime = true,
        .mtime_ns = af_ns_of_timespec(st->st_mtim),
    };
}

struct comparison {
    struct pair *pair;
    struct changes *changes;
};

static bool same_bytes(struct pair *pair, const struct origin *origin, const char *path)
{
    AF_CLEANUP_FREE char *content = read_text(pair->view, path);
    return strcmp(content, origin->content) == 0;
}

static void compare_one(void *arg, int root, const char *path, const struct stat *st)
{
    struct comparison *comparison = arg;
    struct pair *pair = comparison->pair;
    const struct origin *origin = origin_of(pair, st->st_ino);
    const struct manifest_entry *entry = origin ? origin->entry : NULL;
    if (!entry) {
        // A new file in the place of one of the same kind that is gone counts as modified.
        for (size_t i = 0; i < pair->manifest.count; i++) {
            const struct manifest_entry *old = &pair->manifest.entries[i];
            struct search search = {.pair = pair, .entry = old};
            char name[4500];
            if ((old->mode & S_IFMT) != (st->st_mode & S_IFMT) || S_ISDIR(old->mode) ||
                !name_in_view(pair, old->path, name) || strcmp(name, path) != 0)
                continue;
            walk(pair->view, "", match_origin, &search);
            if (search.found)
                continue;
            add(comparison->changes, CHANGE_MODIFIED, path, NULL, root, st);
            return;
        }
        add(comparison->changes, CHANGE_ADDED, path, NULL, root, st);
        return;
    }
    char name[4500];
    if (!name_in_view(pair, entry->path, name) || strcmp(name, path) != 0)
        add(comparison->changes, CHANGE_RENAMED, path, entry->path, root, st);
    bool same_times = S_ISDIR(st->st_mode) || entry->mtime_ns == af_ns_of_timespec(st->st_mtim);
    if (S_ISREG(st->st_mode) && !same_bytes(pair, origin, path))
        add(comparison->changes, CHANGE_MODIFIED, path, NULL, root, st);
    else if (entry->mode != st->st_mode || !same_times)
        add(comparison->changes, CHANGE_METADATA, path, NULL, root, st);
}

struct changes pair_changes(struct pair *pair)
{
    struct changes changes = {0};
    struct comparison comparison = {pair, &changes};
    walk(pair->view, "", compare_one, &comparison);
    for (size_t i = 0; i < pair->manifest.count; i++) {
        const struct manifest_entry *entry = &pair->manifest.entries[i];
        struct search search = {.pair = pair, .entry = entry};
        char name[4500];
        struct stat st = {.st_mode = entry->mode};
        walk(pair->view, "", match_origin, &search);
        if (search.found || entry->skipped || !name_in_view(pair, entry->path, name))
            continue;
        bool replaced = false;
        for (size_t j = 0; j < changes.count; j++)
            replaced |=
                changes.list[j].type == CHANGE_MODIFIED && strcmp(changes.list[j].path, name) == 0;
        if (!replaced)
            add(&changes, CHANGE_DELETED, name, NULL, -1, &st);
    }
    changes_sort(&changes);
    return changes;
}

// ---- applying

static int fetch(void *arg, const char *path, int fd, struct af_error *err)
{
    struct pair *pair = arg;
    char content[4096];
    (void)err;
    AF_CLEANUP_FD int from = beneath_open(pair->view, path, O_RDONLY, 0);
    assert_true(from >= 0);
    ssize_t len = read(from, content, sizeof content);
    assert_int_equal(write(fd, content, (size_t)len), len);
    return 0;
}

int pair_apply(struct pair *pair, size_t fail_after, size_t *ret_conflicts, struct af_error *err)
{
    struct changes changes = pair_changes(pair);
    struct plan plan;
    struct apply apply;
    assert_int_equal(plan_make(&changes, &pair->manifest, &plan, err), 0);
    apply_init(&apply, pair->base, &plan, fetch, pair);
    apply.fail_after = fail_after;
    int rc = apply_prepare(&apply, err);
    if (rc == 0)
        rc = apply_commit(&apply, err);
    assert_int_equal(apply.stuck.count, 0);
    if (ret_conflicts)
        *ret_conflicts = apply.conflicts.count;
    apply_fini(&apply);
    plan_fini(&plan);
    changes_fini(&changes);
    return rc;
}

static void print_one(void *arg, int root, const char *path, const struct stat *st)
{
    FILE *file = arg;
    char content[4096] = "";
    fprintf(file, "%s %o", path, st->st_mode);
    if (!S_ISDIR(st->st_mode))
        fprintf(file, " %" PRId64, af_ns_of_timespec(st->st_mtim));
    AF_CLEANUP_FD int fd = beneath_open(root, path, S_ISREG(st->st_mode) ? O_RDONLY : O_PATH, 0);
    ssize_t len = S_ISREG(st->st_mode)   ? read(fd, content, sizeof content - 1)
                  : S_ISLNK(st->st_mode) ? readlinkat(fd, "", content, sizeof content - 1)
                                         : 0;
    assert_true(len >= 0);
    fprintf(file, " %s\n", content);
}

char *pair_snapshot(int root)
{
    char *text = NULL;
    size_t len;
    FILE *file = open_memstream(&text, &len);
    walk(root, "", print_one, file);
    fclose(file);
    return text;
}

void pair_expect_equal(struct pair *pair)
{
    AF_CLEANUP_FREE char *base = pair_snapshot(pair->base);
    AF_CLEANUP_FREE char *view = pair_snapshot(pair->view);
    assert_string_equal(base, view);
}
