// The groups of boxes: made, filled, asked, removed.
//
//   <the daemon's group>/agentfense-ID/<box>        in each hierarchy that a bound needs
// The group of the daemon is that of each hierarchy, or the configured parent. On v2 a group with
// processes cannot hand controllers down: there the daemon moves into <its group>/daemon when it
// starts, before it has children that would have to come along, and only if it is alone in it.
// Our own group is made with the first bound that is asked for, and noted
// in <run_dir>/exec.cgroups before, so that the groups of a crashed daemon are found whatever group
// the next one runs in.
// Killing a box does not need its group: the kernel ends a pid namespace with its process 1, and
// nothing can fork its way out of that. v2's cgroup.kill comes on top.
// Owns: the groups. Locks: cgroups->lock over making our own group, cgroup->lock over reading the
// kernel's counts, which waits for no disk. Fails: af_error.
// Read next: cgroup_find.c (which hierarchies there are).
#include "exec/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/attach.h"
#include "exec/cgroup_priv.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"

#define NOTE_NAME    "exec.cgroups"
#define LEAF_NAME    "daemon"
#define PERIOD_US    100000
#define EMPTY_MS     2000 // how long a killed group may take to be empty
#define SUBGROUP_MAX 255

struct exec_cgroup {
    struct exec_cgroups *cgroups;
    unsigned used;                    // bit per hierarchy
    char *outside;                    // directory of a group that is not ours; then `used` is 0
    pthread_mutex_t lock;             // a leaf
    int events_fd;                    // lock; -1: not opened yet
    struct exec_memory_events memory; // lock; as read last
    char name[AF_ID_TEXT_MAX + 32];
};

// ---- files ------------------------------------------------------------------------------

static int write_text(int dir_fd, const char *name, const char *text)
{
    // A control file is there or cannot be made: O_CREAT only matters for trees of plain files.
    AF_CLEANUP_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

static int write_number(int dir_fd, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRIu64, value);
    return write_text(dir_fd, name, text);
}

static int open_dir(int dir_fd, const char *name)
{
    return openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

// Kills what is in a group. Returns how many.
static unsigned kill_all(int dir_fd)
{
    int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (!file) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    unsigned count = 0;
    long pid;
    while (fscanf(file, "%ld", &pid) == 1)
        // 0 stands for one outside of our pid namespace; kill() takes it for our own process group.
        count += pid > 0 && kill((pid_t)pid, SIGKILL) == 0;
    fclose(file);
    if (count > 0)
        write_text(dir_fd, "cgroup.kill", "1"); // v2; elsewhere refused
    return count;
}

// Removes a group with what is in it. Returns how many processes were killed; false in *ret_gone
// when it stayed.
static unsigned remove_group(int parent_fd, const char *name, bool *ret_gone)
{
    unsigned killed = 0;
    for (int waited_ms = 0;; waited_ms++) {
        *ret_gone = unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
        if (*ret_gone || errno != EBUSY || waited_ms > EMPTY_MS)
            return killed;
        AF_CLEANUP_FD int fd = open_dir(parent_fd, name);
        if (fd >= 0)
            killed += kill_all(fd);
        poll(NULL, 0, 1); // an ended process leaves its group a moment later
    }
}

// ---- our own group ----------------------------------------------------------------------

static int note_groups(struct exec_cgroups *cgroups)
{
    AF_CLEANUP_FD int dir = open(cgroups->run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    AF_CLEANUP_FD int fd =
        openat(dir, NOTE_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    for (unsigned i = 0; i < cgroups->count; i++)
        if (dprintf(fd, "%s/%s\n", cgroups->hierarchies[i].base, cgroups->own) < 0)
            return -errno;
    return 0;
}

static void forget_groups(const char *run_dir)
{
    AF_CLEANUP_FD int dir = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0)
        unlinkat(dir, NOTE_NAME, 0);
}

// Hands the controllers of a v2 group down to its children.
static int hand_down(int dir_fd, unsigned controllers)
{
    int e = 0;
    for (int i = 0; e == 0 && i < CGROUP_CONTROLLERS; i++) {
        char text[32];
        snprintf(text, sizeof(text), "+%s", exec_cgroup_names[i]);
        if (controllers & 1u << i)
            e = write_text(dir_fd, "cgroup.subtree_control", text);
    }
    return e;
}

// Whether we are the only process of a group.
static bool is_alone_in(int dir_fd)
{
    AF_CLEANUP_FD int fd = openat(dir_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    char text[32], own[32];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
    int len = snprintf(own, sizeof(own), "%d\n", (int)getpid());
    return n == len && memcmp(text, own, (size_t)len) == 0;
}

// Failures show when a limit is asked for, and are told then.
void exec_cgroups_settle(struct exec_cgroups *cgroups)
{
    for (unsigned i = 0; i < cgroups->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &cgroups->hierarchies[i];
        AF_CLEANUP_FD int base =
            hierarchy->v2 ? open(hierarchy->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (base < 0 || !is_alone_in(base))
            continue;
        mkdirat(base, LEAF_NAME, 0755);
        AF_CLEANUP_FD int leaf = open_dir(base, LEAF_NAME);
        int e = leaf < 0 ? -errno : write_number(leaf, "cgroup.procs", (uint64_t)getpid());
        if (e < 0)
            af_log(AF_LOG_WARN, "exec", "the daemon cannot leave its control group free for limits",
                   "group=%s errno=%d", hierarchy->base, -e);
    }
}

static int open_own(struct exec_cgroups *cgroups, struct cgroup_hierarchy *hierarchy,
                    struct af_error *err)
{
    AF_CLEANUP_FD int base = open(hierarchy->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "cannot use the control group %s: %s",
                            hierarchy->base, strerror(errno));
    int e = hierarchy->v2 ? hand_down(base, hierarchy->controllers) : 0;
    if (e == -EBUSY)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "resource limits need a control group of the daemon's own, and %s has "
                            "other processes: start it as a service with Delegate=yes, or name a "
                            "group in exec.cgroup",
                            hierarchy->base);
    if (e == 0 && mkdirat(base, cgroups->own, 0755) < 0)
        e = -errno;
    if (e == 0) {
        hierarchy->own_fd = open_dir(base, cgroups->own);
        e = hierarchy->own_fd < 0 ? -errno : 0;
    }
    if (e == 0 && hierarchy->v2)
        e = hand_down(hierarchy->own_fd, hierarchy->controllers);
    if (e < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "cannot make a control group below %s: %s",
                            hierarchy->base, strerror(-e));
    return 0;
}

static int need_own(struct exec_cgroups *cgroups, unsigned index, struct af_error *err)
{
    int e = 0;
    pthread_mutex_lock(&cgroups->lock);
    if (cgroups->hierarchies[index].own_fd < 0) {
        int noted = cgroups->noted ? 0 : note_groups(cgroups);
        cgroups->noted = noted == 0;
        e = noted < 0 ? af_error_errno(err, noted, "cannot note the control groups in %s",
                                       cgroups->run_dir)
                      : open_own(cgroups, &cgroups->hierarchies[index], err);
    }
    pthread_mutex_unlock(&cgroups->lock);
    return e;
}

void exec_cgroups_free(struct exec_cgroups *cgroups)
{
    if (!cgroups)
        return;
    for (unsigned i = 0; i < cgroups->count; i++) {
        struct cgroup_hierarchy *hierarchy = &cgroups->hierarchies[i];
        AF_CLEANUP_FD int base = open(hierarchy->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        bool gone = true;
        if (hierarchy->own_fd >= 0) {
            close(hierarchy->own_fd);
            remove_group(base, cgroups->own, &gone);
        }
        if (!gone)
            af_log(AF_LOG_WARN, "exec", "a control group could not be removed",
                   "group=%s/%s errno=%d", hierarchy->base, cgroups->own, errno);
    }
    if (cgroups->noted)
        forget_groups(cgroups->run_dir);
    pthread_mutex_destroy(&cgroups->lock);
    free(cgroups->run_dir);
    free(cgroups->parent);
    free(cgroups);
}

// ---- recovery ---------------------------------------------------------------------------

// A group of ours with all that are in it. The note is root's own, but a path in it is only
// followed to what can be one of our groups.
static unsigned recover_group(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || strncmp(slash + 1, CGROUP_OWN_PREFIX, strlen(CGROUP_OWN_PREFIX)) != 0)
        return 0;
    *slash = '\0';
    AF_CLEANUP_FD int base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int own = base < 0 ? -1 : open_dir(base, slash + 1);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    unsigned killed = 0;
    bool gone;
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            killed += remove_group(own, entry->d_name, &gone);
    if (dir) {
        closedir(dir);
        killed += remove_group(base, slash + 1, &gone);
    }
    return killed;
}

unsigned exec_cgroups_recover(const char *run_dir)
{
    char path[4096 + 32], line[4096 + 64];
    snprintf(path, sizeof(path), "%s/" NOTE_NAME, run_dir);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    unsigned killed = 0;
    while (fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        killed += recover_group(line);
    }
    fclose(file);
    forget_groups(run_dir);
    return killed;
}

// ---- one box ----------------------------------------------------------------------------

static unsigned wanted(const struct exec_resources *resources)
{
    return (resources->memory_bytes ? 1u << CGROUP_MEMORY : 0) |
           (resources->cpu_quota_us || resources->cpu_shares ? 1u << CGROUP_CPU : 0) |
           (resources->pids_max ? 1u << CGROUP_PIDS : 0);
}

int exec_cgroups_check(const struct exec_cgroups *cgroups, const struct exec_resources *resources,
                       struct af_error *err)
{
    unsigned missing = wanted(resources);
    for (unsigned i = 0; i < cgroups->count; i++)
        missing &= ~cgroups->hierarchies[i].controllers;
    for (int i = 0; i < CGROUP_CONTROLLERS; i++)
        if (missing & 1u << i)
            return af_error_set(err, AF_FAILED_PRECONDITION,
                                "this server cannot enforce a limit of %s: %s%s has not that "
                                "controller; leave the limit unset",
                                exec_cgroup_names[i],
                                cgroups->parent ? "the configured control group "
                                                : "no control group hierarchy",
                                cgroups->parent ? cgroups->parent : "");
    return 0;
}

// 2..262144, of which 1024 is normal, to 1..10000, of which 100 is: in the same proportions.
static uint64_t weight_of(uint64_t cpu_shares)
{
    uint64_t weight = cpu_shares * 100 / 1024;
    return weight < 1 ? 1 : weight > 10000 ? 10000 : weight;
}

static int set_v2(int fd, const struct exec_resources *r, unsigned controllers)
{
    int e = 0;
    if (controllers & 1u << CGROUP_MEMORY) {
        e = write_number(fd, "memory.max", r->memory_bytes);
        if (e == 0) // without it swap would double the limit; where there is none it is missing
            write_text(fd, "memory.swap.max", "0");
    }
    if (e == 0 && controllers & 1u << CGROUP_CPU && r->cpu_quota_us) {
        char text[64];
        snprintf(text, sizeof(text), "%" PRIu64 " %d", r->cpu_quota_us, PERIOD_US);
        e = write_text(fd, "cpu.max", text);
    }
    if (e == 0 && controllers & 1u << CGROUP_CPU && r->cpu_shares)
        e = write_number(fd, "cpu.weight", weight_of(r->cpu_shares));
    if (e == 0 && controllers & 1u << CGROUP_PIDS)
        e = write_number(fd, "pids.max", r->pids_max);
    return e;
}

static int set_v1(int fd, const struct exec_resources *r, unsigned controllers)
{
    int e = 0;
    if (controllers & 1u << CGROUP_MEMORY) {
        e = write_number(fd, "memory.limit_in_bytes", r->memory_bytes);
        if (e == 0) // memory and swap together; missing where swap is not counted
            write_number(fd, "memory.memsw.limit_in_bytes", r->memory_bytes);
    }
    if (e == 0 && controllers & 1u << CGROUP_CPU && r->cpu_quota_us) {
        e = write_number(fd, "cpu.cfs_period_us", PERIOD_US);
        if (e == 0)
            e = write_number(fd, "cpu.cfs_quota_us", r->cpu_quota_us);
    }
    if (e == 0 && controllers & 1u << CGROUP_CPU && r->cpu_shares)
        e = write_number(fd, "cpu.shares", r->cpu_shares);
    if (e == 0 && controllers & 1u << CGROUP_PIDS)
        e = write_number(fd, "pids.max", r->pids_max);
    return e;
}

static int open_box(const struct exec_cgroup *cgroup, unsigned index)
{
    return open_dir(cgroup->cgroups->hierarchies[index].own_fd, cgroup->name);
}

static int add_hierarchy(struct exec_cgroup *cgroup, unsigned index,
                         const struct exec_resources *resources, struct af_error *err)
{
    struct exec_cgroups *cgroups = cgroup->cgroups;
    if (need_own(cgroups, index, err) < 0)
        return -1;
    const struct cgroup_hierarchy *hierarchy = &cgroups->hierarchies[index];
    int e = mkdirat(hierarchy->own_fd, cgroup->name, 0755) < 0 ? -errno : 0;
    if (e == 0) {
        cgroup->used |= 1u << index;
        AF_CLEANUP_FD int fd = open_box(cgroup, index);
        unsigned controllers = hierarchy->controllers & wanted(resources);
        e = fd < 0          ? -errno
            : hierarchy->v2 ? set_v2(fd, resources, controllers)
                            : set_v1(fd, resources, controllers);
    }
    if (e == -EINVAL || e == -ERANGE)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the kernel refuses these resource limits: they are too small or too "
                            "large");
    return e < 0 ? af_error_errno(err, e, "cannot set the resource limits") : 0;
}

static struct exec_cgroup *group_alloc(struct exec_cgroups *cgroups)
{
    struct exec_cgroup *cgroup = calloc(1, sizeof(*cgroup));
    if (!cgroup)
        return NULL;
    cgroup->cgroups = cgroups;
    cgroup->events_fd = -1;
    pthread_mutex_init(&cgroup->lock, NULL);
    return cgroup;
}

int exec_cgroup_new(struct exec_cgroups *cgroups, const char *name,
                    const struct exec_resources *resources, struct exec_cgroup **ret,
                    struct af_error *err)
{
    unsigned controllers = wanted(resources);
    *ret = NULL;
    if (!controllers)
        return 0;
    if (exec_cgroups_check(cgroups, resources, err) < 0)
        return -1;
    struct exec_cgroup *cgroup = group_alloc(cgroups);
    if (!cgroup)
        return af_error_errno(err, ENOMEM, "cannot set the resource limits");
    snprintf(cgroup->name, sizeof(cgroup->name), "%s", name);
    for (unsigned i = 0; i < cgroups->count; i++)
        if (cgroups->hierarchies[i].controllers & controllers &&
            add_hierarchy(cgroup, i, resources, err) < 0) {
            exec_cgroup_free(cgroup);
            return -1;
        }
    *ret = cgroup;
    return 0;
}

int exec_cgroup_add(struct exec_cgroup *cgroup, pid_t pid, struct af_error *err)
{
    for (unsigned i = 0; i < cgroup->cgroups->count; i++) {
        if (!(cgroup->used & 1u << i))
            continue;
        AF_CLEANUP_FD int fd = open_box(cgroup, i);
        int e = fd < 0 ? -errno : write_number(fd, "cgroup.procs", (uint64_t)pid);
        if (e < 0)
            return exec_attach_error(err, e, "cannot put the sandbox under its resource limits");
    }
    return 0;
}

int exec_cgroup_watch(struct exec_cgroups *cgroups, pid_t pid, struct exec_cgroup **ret,
                      struct af_error *err)
{
    *ret = NULL;
    for (unsigned i = 0; i < cgroups->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &cgroups->hierarchies[i];
        char path[PATH_MAX];
        if (!(hierarchy->controllers & 1u << CGROUP_MEMORY) ||
            !exec_cgroup_path(hierarchy, pid, path))
            continue;
        struct exec_cgroup *cgroup = group_alloc(cgroups);
        if (cgroup)
            cgroup->outside = strdup(path);
        if (!cgroup || !cgroup->outside) {
            exec_cgroup_free(cgroup);
            return af_error_errno(err, ENOMEM, "cannot watch the sandbox's memory");
        }
        *ret = cgroup;
    }
    return 0;
}

// The file that counts the kills, which stays open: it is read twice for each command. -1: none.
static int open_events(const struct exec_cgroup *cgroup)
{
    for (unsigned i = 0; i < cgroup->cgroups->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &cgroup->cgroups->hierarchies[i];
        if (!(hierarchy->controllers & 1u << CGROUP_MEMORY) ||
            (!cgroup->outside && !(cgroup->used & 1u << i)))
            continue;
        AF_CLEANUP_FD int dir = cgroup->outside
                                    ? open(cgroup->outside, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                    : open_box(cgroup, i);
        return dir < 0 ? -1
                       : openat(dir, hierarchy->v2 ? "memory.events" : "memory.oom_control",
                                O_RDONLY | O_CLOEXEC);
    }
    return -1;
}

// The number on the line of that name, or what it was before.
static uint64_t counter(const char *text, const char *name, uint64_t before)
{
    size_t len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, len) == 0 && line[len] == ' ')
            return strtoull(line + len, NULL, 10);
    }
    return before;
}

struct exec_memory_events exec_cgroup_memory_events(struct exec_cgroup *cgroup)
{
    if (!cgroup)
        return (struct exec_memory_events){0};
    pthread_mutex_lock(&cgroup->lock);
    if (cgroup->events_fd < 0)
        cgroup->events_fd = open_events(cgroup);
    char text[1024];
    ssize_t n = cgroup->events_fd < 0 ? -1 : pread(cgroup->events_fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    cgroup->memory.kills = counter(text, "oom_kill", cgroup->memory.kills);
    // v1 tells nothing of the kind: its failcnt counts what was reclaimed as well.
    cgroup->memory.failures = counter(text, "oom", cgroup->memory.failures);
    struct exec_memory_events memory = cgroup->memory;
    pthread_mutex_unlock(&cgroup->lock);
    return memory;
}

bool exec_cgroup_ran_out(struct exec_cgroup *cgroup, const struct exec_memory_events *since,
                         bool failed)
{
    struct exec_memory_events now = exec_cgroup_memory_events(cgroup);
    return now.kills > since->kills || (failed && now.failures > since->failures);
}

void exec_cgroup_free(struct exec_cgroup *cgroup)
{
    if (!cgroup)
        return;
    for (unsigned i = 0; i < cgroup->cgroups->count; i++) {
        const struct cgroup_hierarchy *hierarchy = &cgroup->cgroups->hierarchies[i];
        bool gone = true;
        if (cgroup->used & 1u << i)
            remove_group(hierarchy->own_fd, cgroup->name, &gone);
        if (!gone)
            af_log(AF_LOG_WARN, "exec", "a control group could not be removed", "group=%s errno=%d",
                   cgroup->name, errno);
    }
    if (cgroup->events_fd >= 0)
        close(cgroup->events_fd);
    pthread_mutex_destroy(&cgroup->lock);
    free(cgroup->outside);
    free(cgroup);
}
