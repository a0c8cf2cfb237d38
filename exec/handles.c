// Looking through /proc for open files. Files are looked at without asking their file system
// (AT_STATX_DONT_SYNC). A process that ends meanwhile shows less, or nothing. Owns nothing between
// calls; no locks. Read next: handles.h, holders.c (which ends processes by the same signs).
#include "exec/handles.h"

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

static FILE *open_in(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    FILE *file = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!file && fd >= 0)
        close(fd);
    return file;
}

static bool is_ours(const struct exec_handles_spec *spec, int dir, const char *name,
                    uint64_t *ret_ino)
{
    struct statx st;
    if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_INO, &st) < 0 ||
        st.stx_dev_major != spec->dev_major || st.stx_dev_minor != spec->dev_minor)
        return false;
    *ret_ino = st.stx_ino;
    return true;
}

static void read_fdinfo(int process, const char *fd, struct exec_handle *handle)
{
    char path[32], line[256];
    snprintf(path, sizeof path, "fdinfo/%.16s", fd);
    FILE *file = open_in(process, path);
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "pos: %" SCNu64, &handle->offset);
        sscanf(line, "flags: %o", (unsigned *)&handle->flags);
        handle->locks += strncmp(line, "lock:", 5) == 0;
    }
    if (file)
        fclose(file);
}

static int list_fds(const struct exec_handles_spec *spec, int process, struct exec_handle handle)
{
    int fds = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fds >= 0 ? fdopendir(fds) : NULL;
    const struct dirent *entry;
    int rc = 0;
    if (!dir && fds >= 0)
        close(fds);
    while (dir && rc == 0 && (entry = readdir(dir))) {
        struct exec_handle one = handle;
        if (entry->d_name[0] == '.' || !is_ours(spec, dirfd(dir), entry->d_name, &one.ino))
            continue;
        one.kind = EXEC_HANDLE_FD;
        one.fd = atoi(entry->d_name);
        read_fdinfo(process, entry->d_name, &one);
        rc = spec->fn(spec->arg, &one);
    }
    if (dir)
        closedir(dir);
    return rc;
}

static int list_link(const struct exec_handles_spec *spec, int process, const char *name,
                     enum exec_handle_kind kind, struct exec_handle handle)
{
    if (!is_ours(spec, process, name, &handle.ino))
        return 0;
    handle.kind = kind;
    return spec->fn(spec->arg, &handle);
}

// Maps of one file that stand one after the other are one.
static int list_maps(const struct exec_handles_spec *spec, int process, struct exec_handle handle)
{
    AF_CLEANUP_FREE char *line = NULL;
    size_t size = 0;
    uint64_t last = 0;
    int rc = 0;
    FILE *file = open_in(process, "maps");
    handle.kind = EXEC_HANDLE_MAP;
    while (file && rc == 0 && getline(&line, &size, file) > 0) {
        unsigned major, minor;
        char rights[5];
        if (sscanf(line, "%*x-%*x %4s %*x %x:%x %" SCNu64, rights, &major, &minor, &handle.ino) !=
                4 ||
            handle.ino == 0 || handle.ino == last || major != spec->dev_major ||
            minor != spec->dev_minor)
            continue;
        last = handle.ino;
        handle.flags = rights[1] == 'w' && rights[3] == 's' ? O_RDWR : O_RDONLY;
        rc = spec->fn(spec->arg, &handle);
    }
    if (file)
        fclose(file);
    return rc;
}

static int list_process(const struct exec_handles_spec *spec, pid_t pid)
{
    char path[64];
    struct exec_handle handle = {.pid = pid, .fd = -1};
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    AF_CLEANUP_FD int process = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (process < 0)
        return 0;
    FILE *comm = open_in(process, "comm");
    if (comm && fgets(handle.command, sizeof handle.command, comm))
        handle.command[strcspn(handle.command, "\n")] = '\0';
    if (comm)
        fclose(comm);
    int rc = list_link(spec, process, "cwd", EXEC_HANDLE_CWD, handle);
    if (rc == 0)
        rc = list_link(spec, process, "exe", EXEC_HANDLE_EXE, handle);
    if (rc == 0)
        rc = list_fds(spec, process, handle);
    return rc == 0 ? list_maps(spec, process, handle) : rc;
}

int exec_list_handles(const struct exec_handles_spec *spec)
{
    struct exec_members members;
    int rc = exec_members_list(spec->init, spec->uid, &members);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < members.count && rc == 0; i++)
        rc = spec->stop && atomic_load(spec->stop) ? -ECANCELED
                                                   : list_process(spec, members.list[i].pid);
    free(members.list);
    return rc;
}
