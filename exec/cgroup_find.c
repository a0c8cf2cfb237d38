// Which control group hierarchies there are, and which group of each the daemon is in.
//
// From /proc/self/mountinfo (where they are mounted, and which part of them) and /proc/self/cgroup
// (our group in each). A container or a service sees a part only: the mount's root is taken off the
// group's path.
// Owns: nothing but what it fills. Locks: none. Fails: af_error. Read next: cgroup.c.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec/cgroup_priv.h"
#include "mux/base/cleanup.h"

const char *const exec_cgroup_names[CGROUP_CONTROLLERS] = {"memory", "cpu", "pids"};

static void cleanup_file(FILE **file)
{
    if (*file)
        fclose(*file);
}

// Whether a list has a word, between separators.
static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t len = strlen(word);
    while (*list) {
        size_t n = strcspn(list, separators);
        if (n == len && memcmp(list, word, len) == 0)
            return true;
        list += n + (list[n] != '\0');
    }
    return false;
}

// Our group in the hierarchy of a v1 controller, or of v2 (NULL). False: there is none.
static bool own_path(const char *proc_dir, const char *controller, char path[PATH_MAX])
{
    char name[PATH_MAX], line[PATH_MAX];
    snprintf(name, sizeof(name), "%s/cgroup", proc_dir);
    AF_CLEANUP(cleanup_file) FILE *file = fopen(name, "re");
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        controllers++;
        if (controller ? !has_word(controllers, controller, ",") : *controllers)
            continue;
        snprintf(path, PATH_MAX, "%s", group);
        return true;
    }
    return false;
}

struct mount {
    char root[PATH_MAX], point[PATH_MAX];
    bool v2;
    char options[512]; // of the superblock: v1 names its controllers here
};

static bool parse_mount(const char *line, struct mount *mount)
{
    char type[64];
    const char *dash = strstr(line, " - ");
    if (!dash || sscanf(line, "%*s %*s %*s %4095s %4095s", mount->root, mount->point) != 2 ||
        sscanf(dash + 3, "%63s %*s %511s", type, mount->options) != 2)
        return false;
    mount->v2 = strcmp(type, "cgroup2") == 0;
    return mount->v2 || strcmp(type, "cgroup") == 0;
}

// The directory of our group (or of the configured one) in a mounted hierarchy. False: it does not
// lie in the mounted part.
static bool base_of(const char *root, const char *point, const char *group, char base[PATH_MAX])
{
    size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(group, root, len) != 0 || (group[len] && group[len] != '/'))
        return false;
    const char *below = strcmp(group + len, "/") == 0 ? "" : group + len;
    return snprintf(base, PATH_MAX, "%s%s", point, below) < PATH_MAX;
}

bool exec_cgroup_path(const struct cgroup_hierarchy *hierarchy, pid_t pid, char path[PATH_MAX])
{
    char proc_dir[32], group[PATH_MAX];
    snprintf(proc_dir, sizeof(proc_dir), "/proc/%d", (int)pid);
    const char *name =
        hierarchy->v2 ? NULL : exec_cgroup_names[__builtin_ctz(hierarchy->controllers)];
    return own_path(proc_dir, name, group) &&
           base_of(hierarchy->root, hierarchy->point, group, path);
}

// The controllers that a v2 group may hand down.
static unsigned v2_controllers(const char *base)
{
    char path[PATH_MAX + 32], text[512];
    snprintf(path, sizeof(path), "%s/cgroup.controllers", base);
    AF_CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = '\0';
    unsigned found = 0;
    for (int i = 0; i < CGROUP_CONTROLLERS; i++)
        if (has_word(text, exec_cgroup_names[i], " \n"))
            found |= 1u << i;
    return found;
}

static unsigned v1_controllers(const struct mount *mount)
{
    unsigned found = 0;
    for (int i = 0; i < CGROUP_CONTROLLERS; i++)
        if (has_word(mount->options, exec_cgroup_names[i], ","))
            found |= 1u << i;
    return found;
}

static void add_mount(struct exec_cgroups *cgroups, const struct exec_cgroups_options *options,
                      const struct mount *mount, unsigned *taken)
{
    unsigned v1 = mount->v2 ? 0 : v1_controllers(mount) & ~*taken;
    if ((!mount->v2 && !v1) || cgroups->count == CGROUP_CONTROLLERS)
        return;
    const char *name = mount->v2 ? NULL : exec_cgroup_names[__builtin_ctz(v1)];
    struct cgroup_hierarchy *hierarchy = &cgroups->hierarchies[cgroups->count];
    char own[PATH_MAX];
    if (options->parent)
        snprintf(own, sizeof(own), "%s", options->parent);
    else if (!own_path(options->proc_dir, name, own))
        return;
    if (!base_of(mount->root, mount->point, own, hierarchy->base))
        return;
    strcpy(hierarchy->root, mount->root);
    strcpy(hierarchy->point, mount->point);
    hierarchy->v2 = mount->v2;
    hierarchy->controllers = mount->v2 ? v2_controllers(hierarchy->base) & ~*taken : v1;
    hierarchy->own_fd = -1;
    *taken |= hierarchy->controllers;
    cgroups->count += hierarchy->controllers != 0;
}

int exec_cgroups_new(const struct exec_cgroups_options *options, struct exec_cgroups **ret,
                     struct af_error *err)
{
    struct exec_cgroups *cgroups = calloc(1, sizeof(*cgroups));
    char *run_dir = strdup(options->run_dir);
    char *parent = options->parent ? strdup(options->parent) : NULL;
    if (!cgroups || !run_dir || (options->parent && !parent)) {
        free(cgroups);
        free(run_dir);
        free(parent);
        return af_error_errno(err, ENOMEM, "cannot look for control groups");
    }
    cgroups->run_dir = run_dir;
    cgroups->parent = parent;
    pthread_mutex_init(&cgroups->lock, NULL);
    struct af_id id;
    af_id_new("cg", &id);
    snprintf(cgroups->own, sizeof(cgroups->own), CGROUP_OWN_PREFIX "%s", id.text);
    unsigned taken = 0;
    // v2 first: a controller is in one hierarchy at a time.
    for (int v2 = 1; v2 >= 0; v2--) {
        char name[PATH_MAX], line[3 * PATH_MAX];
        struct mount mount;
        snprintf(name, sizeof(name), "%s/mountinfo", options->proc_dir);
        AF_CLEANUP(cleanup_file) FILE *file = fopen(name, "re");
        while (file && fgets(line, sizeof(line), file))
            if (parse_mount(line, &mount) && mount.v2 == v2)
                add_mount(cgroups, options, &mount, &taken);
    }
    *ret = cgroups;
    return 0;
}

void exec_cgroups_describe(const struct exec_cgroups *cgroups, char *text, size_t size)
{
    size_t used = 0;
    for (int c = 0; c < CGROUP_CONTROLLERS; c++) {
        const char *how = "none";
        for (unsigned i = 0; i < cgroups->count; i++)
            if (cgroups->hierarchies[i].controllers & 1u << c)
                how = cgroups->hierarchies[i].v2 ? "v2" : "v1";
        int n =
            snprintf(text + used, size - used, "%s%s %s", c ? ", " : "", exec_cgroup_names[c], how);
        used = n < 0 || (size_t)n >= size - used ? size - 1 : used + (size_t)n;
    }
}
