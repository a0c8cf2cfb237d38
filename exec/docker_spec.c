// What a box's container is: the body of POST /containers/create.
//
// The same promises as in bubblewrap: an unprivileged uid of the box's own, no capability,
// no_new_privs, no network, a read-only root, sized tmpfs. Docker's own seccomp profile is switched
// off, because the init loads the same two filters that bubblewrap boxes have, and the engine
// checks that it has. /workspace is an empty read-only tmpfs, over which the view is attached.
// An image can ask for two things that would go round these promises: a health check is a process
// that Docker starts inside, under no filter of ours and with the agent's uid; it is switched off.
// A volume is a writable directory on the host's disk without a bound; it is a sized tmpfs here.
// Owns: nothing. Locks: none. Read next: docker.c, seccomp.c.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "exec/docker_priv.h"
#include "mux/base/cleanup.h"

#define INIT_PATH   "/.agentfense-init"
#define SOCKET_DIR  "/.agentfense"
#define TMPFS_FLAGS "rw,nosuid,nodev,exec,"

static json_t *bind(const char *target, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static json_t *bind(const char *target, const char *fmt, ...)
{
    char source[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(source, sizeof(source), fmt, ap);
    va_end(ap);
    return json_pack("{s:s, s:s, s:s, s:b}", "Type", "bind", "Source", source, "Target", target,
                     "ReadOnly", 1);
}

bool docker_is_tmpfs(const char *path)
{
    static const char *const paths[] = {"/tmp", EXEC_INSIDE_HOME, "/workspace", "/run"};
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    for (size_t i = 0; i < AF_ARRAY_LEN(paths); i++)
        if (strlen(paths[i]) == len && memcmp(paths[i], path, len) == 0)
            return true;
    return false;
}

// Docker would make a directory of the host's disk of what the image calls a volume, which takes
// any amount. A volume is a place to write, so there is one: in memory, as /tmp is.
static void add_volumes(json_t *list, const struct exec_box *box, json_t *volumes)
{
    const char *path;
    json_t *nothing;
    json_object_foreach(volumes, path, nothing)
    {
        if (docker_is_tmpfs(path))
            continue;
        json_array_append_new(list, json_pack("{s:s, s:s, s:{s:I, s:i}}", "Type", "tmpfs", "Target",
                                              path, "TmpfsOptions", "SizeBytes",
                                              (json_int_t)box->limits.tmp_bytes, "Mode", 01777));
    }
}

static json_t *mounts(const struct exec_box *box, const char *dir_name, json_t *volumes)
{
    const struct exec_engine *e = box->engine;
    json_t *list = json_array();
    json_array_append_new(list, bind(INIT_PATH, "%s", e->init_path));
    json_array_append_new(list,
                          bind(SOCKET_DIR, "%s/" DOCKER_DIR_NAME "/%s", e->run_dir, dir_name));
    json_array_append_new(list, bind("/etc/passwd", "%s/" DOCKER_DIR_NAME "/%s/" DOCKER_PASSWD_NAME,
                                     e->run_dir, dir_name));
    json_array_append_new(list, bind("/etc/group", "%s/" DOCKER_DIR_NAME "/%s/" DOCKER_GROUP_NAME,
                                     e->run_dir, dir_name));
    if (box->network != EXEC_NETWORK_HOST)
        json_array_append_new(list,
                              bind("/etc/hosts", "%s/" DOCKER_DIR_NAME "/%s/" DOCKER_HOSTS_NAME,
                                   e->run_dir, dir_name));
    add_volumes(list, box, volumes);
    return list;
}

static json_t *tmpfs(const struct exec_box *box)
{
    char tmp[128], home[160];
    snprintf(tmp, sizeof(tmp), TMPFS_FLAGS "mode=1777,size=%" PRIu64, box->limits.tmp_bytes);
    snprintf(home, sizeof(home), TMPFS_FLAGS "mode=0700,uid=%u,gid=%u,size=%" PRIu64,
             (unsigned)box->uid, (unsigned)box->gid, box->limits.home_bytes);
    return json_pack("{s:s, s:s, s:s, s:s}", "/tmp", tmp, EXEC_INSIDE_HOME, home, "/workspace",
                     "ro,nosuid,nodev,mode=0755,size=4096", "/run", "ro,nosuid,nodev,size=4096");
}

static json_t *host_config(const struct exec_box *box, const char *dir_name, json_t *volumes)
{
    const struct exec_resources *r = &box->resources;
    json_t *config =
        json_pack("{s:s, s:b, s:[s], s:[s, s], s:o, s:o, s:I, s:s, s:{s:s}, s:b, s:s}", //
                  "NetworkMode", box->network == EXEC_NETWORK_HOST ? "host" : "none",   //
                  "ReadonlyRootfs", 1,                                                  //
                  "CapDrop", "ALL",                                                     //
                  "SecurityOpt", "no-new-privileges:true", "seccomp=unconfined",        //
                  "Mounts", mounts(box, dir_name, volumes),                             //
                  "Tmpfs", tmpfs(box),                                                  //
                  "ShmSize", (json_int_t)box->limits.shm_bytes,                         //
                  "IpcMode", "private",                                                 //
                  "LogConfig", "Type", "none",                                          //
                  "Init", 0,                                                            //
                  "CgroupnsMode", "private");
    if (!config)
        return NULL;
    if (r->memory_bytes) {
        json_object_set_new(config, "Memory", json_integer((json_int_t)r->memory_bytes));
        json_object_set_new(config, "MemorySwap", json_integer((json_int_t)r->memory_bytes));
    }
    if (r->cpu_quota_us) {
        json_object_set_new(config, "CpuPeriod", json_integer(100000));
        json_object_set_new(config, "CpuQuota", json_integer((json_int_t)r->cpu_quota_us));
    }
    if (r->cpu_shares)
        json_object_set_new(config, "CpuShares", json_integer((json_int_t)r->cpu_shares));
    if (r->pids_max)
        json_object_set_new(config, "PidsLimit", json_integer((json_int_t)r->pids_max));
    return config;
}

json_t *docker_container(const struct exec_box *box, const char *dir_name, json_t *volumes)
{
    char user[32], processes[16], files[16];
    snprintf(user, sizeof(user), "%u:%u", (unsigned)box->uid, (unsigned)box->gid);
    snprintf(processes, sizeof(processes), "%u", (unsigned)box->limits.processes_max);
    snprintf(files, sizeof(files), "%u", (unsigned)box->limits.open_files_max);
    return json_pack("{s:s, s:[s], s:[s, s, s, s], s:s, s:s, s:s, s:b, s:{s:[s]}, s:{s:s, s:s}, "
                     "s:o}",
                     "Image", box->image,                                                         //
                     "Entrypoint", INIT_PATH,                                                     //
                     "Cmd", SOCKET_DIR "/" DOCKER_SOCKET_NAME, "-", processes, files,             //
                     "User", user,                                                                //
                     "WorkingDir", "/",                                                           //
                     "Hostname", box->hostname,                                                   //
                     "NetworkDisabled", box->network != EXEC_NETWORK_HOST,                        //
                     "Healthcheck", "Test", "NONE",                                               //
                     "Labels", DOCKER_LABEL, box->engine->run_dir, "agentfense.sandbox", box->id, //
                     "HostConfig", host_config(box, dir_name, volumes));
}
