// Looking through /proc for what a box's processes hold. They stand still (members.c).
//
// Threads may have descriptor tables and directories of their own, so tasks are looked through, not
// processes. Files are looked at without asking their file system (AT_STATX_DONT_SYNC): the number
// is what counts, and it never changes. Owns nothing between calls; no locks.
// Read next: holders.h.
#include "exec/holders.h"

#include "exec/members.h"
#include "mux/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_forbidden(const struct exec_holders_spec *spec, uint32_t major, uint32_t minor,
                         uint64_t ino)
{
    return major == spec->dev_major && minor == spec->dev_minor && spec->forbids(spec->arg, ino);
}

// Follows a link of /proc to the object itself. *ret_mode may be NULL.
static bool link_is_forbidden(const struct exec_holders_spec *spec, int dir, const char *name,
                              mode_t *ret_mode)
{
    struct statx st;
    if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE, &st) < 0)
        return false;
    if (ret_mode)
        *ret_mode = st.stx_mode;
    return is_forbidden(spec, st.stx_dev_major, st.stx_dev_minor, st.stx_ino);
}

// Descriptors that were sent and not yet received keep their files open, and nobody lists them.
static bool carries_descriptors(int task, const char *fd)
{
    char path[64], line[256];
    unsigned count = 0;
    snprintf(path, sizeof path, "fdinfo/%.16s", fd);
    int info = openat(task, path, O_RDONLY | O_CLOEXEC);
    FILE *file = info >= 0 ? fdopen(info, "re") : NULL;
    if (!file) {
        if (info >= 0)
            close(info);
        return false;
    }
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "scm_fds: %u", &count) == 1)
            break;
    fclose(file);
    return count > 0;
}

static bool task_holds(const struct exec_holders_spec *spec, int task)
{
    if (link_is_forbidden(spec, task, "cwd", NULL) || link_is_forbidden(spec, task, "root", NULL) ||
        link_is_forbidden(spec, task, "exe", NULL))
        return true;
    int fds = openat(task, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fds >= 0 ? fdopendir(fds) : NULL;
    if (!dir) {
        if (fds >= 0)
            close(fds);
        return false; // it has ended
    }
    const struct dirent *entry;
    bool holds = false;
    while (!holds && (entry = readdir(dir))) {
        mode_t mode = 0;
        if (entry->d_name[0] == '.')
            continue;
        holds = link_is_forbidden(spec, dirfd(dir), entry->d_name, &mode) ||
                (S_ISSOCK(mode) && carries_descriptors(task, entry->d_name));
    }
    closedir(dir);
    return holds;
}

static bool maps_forbidden(const struct exec_holders_spec *spec, pid_t pid)
{
    char path[64];
    AF_CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    bool holds = false;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (!holds && getline(&line, &size, file) > 0) {
        unsigned major, minor;
        uint64_t ino;
        if (sscanf(line, "%*x-%*x %*4s %*x %x:%x %" SCNu64, &major, &minor, &ino) == 3 && ino != 0)
            holds = is_forbidden(spec, major, minor, ino);
    }
    fclose(file);
    return holds;
}

static bool process_holds(const struct exec_holders_spec *spec, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    const struct dirent *entry;
    bool holds = maps_forbidden(spec, pid);
    while (!holds && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        int task = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (task < 0)
            continue;
        holds = task_holds(spec, task);
        close(task);
    }
    closedir(dir);
    return holds;
}

int exec_end_holders(const struct exec_holders_spec *spec, uint32_t *ret_ended,
                     struct af_error *err)
{
    struct exec_members members;
    uint32_t ended = 0;
    int moving = exec_members_stop(spec->init, spec->uid, &members);
    if (moving < 0)
        return af_error_set(err, AF_UNAVAILABLE,
                            "cannot list the sandbox's processes (%s): those that hold forbidden "
                            "files were not ended, try again",
                            strerror(-moving));
    for (size_t i = 0; i < members.count; i++) {
        struct exec_member *member = &members.list[i];
        if (member->state == 'Z' || member->state == 'X')
            continue;
        if (exec_member_is_still(member) && !process_holds(spec, member->pid))
            continue;
        exec_member_kill(member);
        ended++;
    }
    exec_members_resume(&members);
    *ret_ended = ended;
    return 0;
}
