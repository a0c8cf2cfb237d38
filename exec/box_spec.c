// What a caller asks for becomes a box.
//
// Which shell a box has is looked up here, in its root directory as the box will see it, so that
// commands can be given to it before its init is up; the init's word then decides.
// Owns: the box until it is launched. Locks: none. Thread: the caller's. Fails: af_error.
// Read next: box.c.
#include "exec/engine_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec/backend.h"
#include "exec/send.h"
#include "mux/base/cleanup.h"
#include "mux/base/text.h"

#define MEMORY_MIN       (1u << 20)
#define CPU_QUOTA_MIN_US 1000 // the kernel's own bound
#define CPU_SHARES_MAX   262144
#define PIDS_MIN         3

static bool path_is_usable(const char *path)
{
    return path[0] == '/' && strlen(path) <= AF_PATH_MAX;
}

int exec_box_check_spec(const struct exec_box_spec *spec, struct af_error *err)
{
    if (!spec->id || !spec->id[0] || strlen(spec->id) > AF_ID_TEXT_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "a sandbox needs an id of at most %d bytes",
                            AF_ID_TEXT_MAX);
    if (spec->uid == 0 || spec->gid == 0 || spec->uid == (uid_t)-1 || spec->gid == (gid_t)-1)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "sandbox %s: uid %u and gid %u are not unprivileged ids", spec->id,
                            (unsigned)spec->uid, (unsigned)spec->gid);
    if (spec->view_path && !path_is_usable(spec->view_path))
        return af_error_set(err, AF_INVALID_ARGUMENT, "sandbox %s: the view's path is not absolute",
                            spec->id);
    if (spec->rootfs && !path_is_usable(spec->rootfs))
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "sandbox %s: the root directory's path is not absolute", spec->id);
    if (spec->hostname && (!spec->hostname[0] || strlen(spec->hostname) > 64))
        return af_error_set(err, AF_INVALID_ARGUMENT, "sandbox %s: a host name has 1 to 64 bytes",
                            spec->id);
    if (spec->runtime == EXEC_RUNTIME_DOCKER && (!spec->image || !spec->image[0] || spec->rootfs))
        return af_error_set(err, AF_INVALID_ARGUMENT, "sandbox %s: Docker needs an image",
                            spec->id);
    return 0;
}

void exec_box_free(struct exec_box *box)
{
    box->magic = 0;
    exec_sender_fini(&box->sender);
    free(box->view_path);
    free(box->adoption.view_path);
    for (char **env = box->launch.env; env && *env; env++)
        free(*env);
    free(box->launch.env);
    free(box->image);
    free(box->rootfs);
    free(box->hostname);
    free(box);
}

int exec_engine_check_resources(const struct exec_engine *e, const struct exec_resources *resources,
                                struct af_error *err)
{
    if (resources->memory_bytes && resources->memory_bytes < MEMORY_MIN)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a memory limit of %" PRIu64 " bytes is too small for any program: "
                            "give at least %u",
                            resources->memory_bytes, MEMORY_MIN);
    if (resources->cpu_quota_us && resources->cpu_quota_us < CPU_QUOTA_MIN_US)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a CPU quota counts microseconds in each 100000: at least %d",
                            CPU_QUOTA_MIN_US);
    if (resources->cpu_shares == 1 || resources->cpu_shares > CPU_SHARES_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT, "CPU shares lie between 2 and %d",
                            CPU_SHARES_MAX);
    if (resources->pids_max && resources->pids_max < PIDS_MIN)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "a limit of %" PRIu64 " processes leaves none for a command: the "
                            "sandbox itself needs two",
                            resources->pids_max);
    return exec_cgroups_check(e->cgroups, resources, err);
}

// Whether the root has a program there; links in it lead where they will lead inside.
static bool root_has(int root_fd, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    AF_CLEANUP_FD int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
    return fd >= 0;
}

static enum exec_shell find_shell(const char *rootfs)
{
    AF_CLEANUP_FD int root_fd = open(rootfs ? rootfs : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0)
        return EXEC_SHELL_NONE;
    return root_has(root_fd, "bin/bash") ? EXEC_SHELL_BASH
           : root_has(root_fd, "bin/sh") ? EXEC_SHELL_SH
                                         : EXEC_SHELL_NONE;
}

#define OR_DEFAULT(value, fallback) ((value) ? (value) : (fallback))

// Files in memory count as memory. A full /tmp shall be a full disk for the program that fills it,
// not the end of whatever needs memory next, which may be the init.
static void bound_sizes(struct exec_box *box)
{
    uint64_t half = box->resources.memory_bytes / 2;
    uint64_t *const sizes[] = {&box->limits.tmp_bytes, &box->limits.home_bytes,
                               &box->limits.shm_bytes};
    for (size_t i = 0; half && i < AF_ARRAY_LEN(sizes); i++)
        if (*sizes[i] > half)
            *sizes[i] = half;
}

struct exec_box *exec_box_new(struct exec_engine *e, const struct exec_box_spec *spec)
{
    struct exec_box *box = calloc(1, sizeof(*box));
    if (!box)
        return NULL;
    box->magic = EXEC_BOX_MAGIC;
    box->engine = e;
    box->socket.fd = box->bwrap_exit.fd = box->init_exit.fd = -1;
    box->launch.socket_fd = box->launch.words_fd = box->launch.bwrap_pidfd = -1;
    box->launch.pts_fd = -1;
    LIST_INIT(&box->commands);
    STAILQ_INIT(&box->unsent);
    exec_sender_init(&box->sender);
    snprintf(box->id, sizeof(box->id), "%s", spec->id);
    af_text_make_printable(box->id);
    box->uid = spec->uid;
    box->gid = spec->gid;
    const struct exec_limits *own = &spec->limits, *base = &e->options.limits;
    box->limits.tmp_bytes = OR_DEFAULT(own->tmp_bytes, base->tmp_bytes);
    box->limits.home_bytes = OR_DEFAULT(own->home_bytes, base->home_bytes);
    box->limits.shm_bytes = OR_DEFAULT(own->shm_bytes, base->shm_bytes);
    box->limits.processes_max = OR_DEFAULT(own->processes_max, base->processes_max);
    box->limits.open_files_max = OR_DEFAULT(own->open_files_max, base->open_files_max);
    box->resources = spec->resources;
    bound_sizes(box);
    if (spec->resources.pids_max && spec->resources.pids_max < box->limits.processes_max)
        box->limits.processes_max = (uint32_t)spec->resources.pids_max;
    bool docker = spec->runtime == EXEC_RUNTIME_DOCKER; // what its image has, its init will say
    box->shell = docker ? EXEC_SHELL_NONE : find_shell(spec->rootfs);
    atomic_init(&box->open, docker || box->shell != EXEC_SHELL_NONE);
    atomic_init(&box->known, !docker);
    box->backend = docker ? &exec_backend_docker : &exec_backend_bwrap;
    box->network = spec->network;
    box->idle = spec->idle_ns > 0 ? spec->idle : NULL;
    box->idle_ns = spec->idle_ns;
    box->image = spec->image ? strdup(spec->image) : NULL;
    box->hostname = strdup(spec->hostname ? spec->hostname : "sandbox");
    box->view_path = spec->view_path ? strdup(spec->view_path) : NULL;
    box->rootfs = spec->rootfs ? strdup(spec->rootfs) : NULL;
    if (!box->hostname || (spec->image && !box->image) || (spec->view_path && !box->view_path) ||
        (spec->rootfs && !box->rootfs)) {
        exec_box_free(box);
        return NULL;
    }
    return box;
}
