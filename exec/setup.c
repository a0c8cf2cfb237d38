// What exec_engine_new checks and prepares. One sentence for everything that can be missing.
//
// Owns: nothing itself; fills the engine. Thread: the caller of exec_engine_new, before or (the
// trial box) just after the engine's threads start. Fails: af_error. Read next: engine.c.
#include "exec/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exec/attach.h"
#include "exec/bwrap.h"
#include "exec/docker.h"
#include "exec/recover.h"
#include "exec/seccomp.h"
#include "exec/slice.h"
#include "exec/stage.h"
#include "exec/userns.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"

#define MIB       (1ULL << 20)
#define TRIAL_UID 65534 // nobody: the trial box has no view
#define FD_FLOOR  10    // shared descriptors stay clear of 0 to 2, which children get anew

static void set_defaults(struct exec_options *o)
{
    struct exec_limits *l = &o->limits;
    l->tmp_bytes = l->tmp_bytes ? l->tmp_bytes : 256 * MIB;
    l->home_bytes = l->home_bytes ? l->home_bytes : 256 * MIB;
    l->shm_bytes = l->shm_bytes ? l->shm_bytes : 64 * MIB;
    l->processes_max = l->processes_max ? l->processes_max : 4096;
    l->open_files_max = l->open_files_max ? l->open_files_max : 65536;
    if (o->commands_per_box_max == 0)
        o->commands_per_box_max = 256;
    if (o->commands_per_box_max > EXEC_PROTO_SLOTS_MAX)
        o->commands_per_box_max = EXEC_PROTO_SLOTS_MAX;
    o->start_timeout_ns = o->start_timeout_ns ? o->start_timeout_ns : 10 * AF_NS_PER_SEC;
    o->drain_quiet_ns = o->drain_quiet_ns ? o->drain_quiet_ns : AF_NS_PER_SEC / 10;
    o->drain_max_ns = o->drain_max_ns ? o->drain_max_ns : AF_NS_PER_SEC;
    o->kill_timeout_ns = o->kill_timeout_ns ? o->kill_timeout_ns : 10 * AF_NS_PER_SEC;
}

static int find_bwrap(struct exec_engine *e, const char *path, struct af_error *err)
{
    static const char *const usual[] = {"/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap"};
    for (size_t i = 0; !path && i < AF_ARRAY_LEN(usual); i++)
        if (access(usual[i], X_OK) == 0)
            path = usual[i];
    if (!path)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "bubblewrap is not installed: install the package bubblewrap, or name "
                            "its program in the configuration");
    if (access(path, X_OK) < 0)
        return af_error_set(err, AF_FAILED_PRECONDITION, "cannot execute %s: %s", path,
                            strerror(errno));
    e->bwrap_path = realpath(path, NULL);
    if (!e->bwrap_path)
        return af_error_errno(err, errno, "cannot execute %s", path);
    return exec_bwrap_version(path, e->null_fd, e->features.bwrap_version,
                              sizeof(e->features.bwrap_version), err);
}

// Opens a file clear of the standard descriptors.
static int open_high(const char *path, int flags)
{
    AF_CLEANUP_FD int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_FLOOR);
}

// Where agentfense-init is when nobody says: beside the daemon, as it is built, or in libexec, as
// it is installed.
static void default_init(char *out, size_t size)
{
    char self[PATH_MAX + 1];
    ssize_t n = readlink("/proc/self/exe", self, PATH_MAX);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    int dir_len = slash ? (int)(slash - self) : 0;
    snprintf(out, size, "%.*s/agentfense-init", dir_len, self);
    if (access(out, F_OK) < 0)
        snprintf(out, size, "%.*s/../libexec/agentfense/agentfense-init", dir_len, self);
}

static int find_init(struct exec_engine *e, const char *path, struct af_error *err)
{
    char found[PATH_MAX + 64];
    if (!path) {
        default_init(found, sizeof(found));
        path = found;
    }
    e->init_path = realpath(path, NULL);
    e->init_fd = open_high(path, O_RDONLY);
    struct stat st;
    if (e->init_fd < 0 || fstat(e->init_fd, &st) < 0 || !S_ISREG(st.st_mode))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "cannot find agentfense-init at %s (%s): it is installed beside "
                            "agentfensed, or in ../libexec/agentfense",
                            path, strerror(errno));
    // It is executed by the sandbox's user.
    if ((st.st_mode & 0005) != 0005)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "%s has to be readable and executable by everyone (chmod 755)", path);
    return 0;
}

static int check_run_dir(struct exec_engine *e, const char *path, struct af_error *err)
{
    struct stat st;
    if (!path || path[0] != '/')
        return af_error_set(err, AF_INVALID_ARGUMENT, "commands need an absolute run directory");
    if (stat(path, &st) < 0)
        return af_error_errno(err, errno, "cannot use the run directory %s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022))
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "the run directory %s has to be a directory that only root can write",
                            path);
    e->run_dir = strdup(path);
    if (!e->run_dir)
        return af_error_errno(err, ENOMEM, "cannot set up commands");
    return 0;
}

// Descriptors 0 to 2 must be taken, so that nothing else ever gets these numbers.
static int fill_standard_fds(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR); // not close-on-exec: they are standard streams
    } while (fd >= 0 && fd <= 2);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int check_user_namespaces(struct af_error *err)
{
    if (geteuid() != 0)
        return af_error_set(err, AF_FAILED_PRECONDITION,
                            "commands need the daemon to run as root: it gives every sandbox a "
                            "user of its own");
    int fd;
    if (exec_userns_new(TRIAL_UID, TRIAL_UID, &fd, err) < 0)
        return -1;
    close(fd);
    return 0;
}

// Online CPUs, when none of them is kept from the daemon.
static unsigned all_cpus(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    bool all =
        online > 0 && sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) == online;
    return all ? (unsigned)online : 0;
}

void exec_short_slices(void)
{
    exec_slice_set(EXEC_SLICE_SHORT_NS);
}

int exec_setup(struct exec_engine *e, const struct exec_options *options, struct af_error *err)
{
    e->options = *options;
    set_defaults(&e->options);
    e->cpus = all_cpus();
    if (fill_standard_fds() < 0 || (e->null_fd = open_high("/dev/null", O_RDWR)) < 0)
        return af_error_errno(err, errno, "cannot open /dev/null");
    if (check_user_namespaces(err) < 0 || exec_attach_probe(err) < 0 ||
        check_run_dir(e, options->run_dir, err) < 0 ||
        find_bwrap(e, options->bwrap_path, err) < 0 || find_init(e, options->init_path, err) < 0 ||
        exec_lock_take(e->run_dir, &e->owner_fd, &e->lock_fd, err) < 0 ||
        exec_seccomp_new(e->filter_fds, err) < 0 ||
        exec_stages_new(e->run_dir, e->bwrap_path, &e->stages, err) < 0)
        return -1;
    const struct exec_cgroups_options cgroups = {
        .run_dir = e->run_dir, .parent = options->cgroup_parent, .proc_dir = "/proc/self"};
    if (exec_cgroups_new(&cgroups, &e->cgroups, err) < 0)
        return -1;
    exec_cgroups_settle(e->cgroups);
    if (options->docker.socket) {
        if (exec_docker_new(e, &e->docker, err) < 0)
            return -1;
        snprintf(e->features.docker_version, sizeof(e->features.docker_version), "%s",
                 exec_docker_version(e->docker));
    }
    exec_cgroups_describe(e->cgroups, e->features.cgroups, sizeof(e->features.cgroups));
    e->features.seccomp = true;
    return 0;
}

// ---- trial ------------------------------------------------------------------------------

struct trial {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, stopped, failed;
    struct af_error error;
};

static void on_trial_started(void *arg, const struct af_error *err)
{
    struct trial *trial = arg;
    pthread_mutex_lock(&trial->lock);
    trial->started = true;
    trial->failed = err != NULL;
    if (err)
        trial->error = *err;
    pthread_cond_signal(&trial->changed);
    pthread_mutex_unlock(&trial->lock);
}

static void on_trial_stopped(void *arg)
{
    struct trial *trial = arg;
    pthread_mutex_lock(&trial->lock);
    trial->stopped = true;
    pthread_cond_signal(&trial->changed);
    pthread_mutex_unlock(&trial->lock);
}

int exec_setup_trial(struct exec_engine *e, struct af_error *err)
{
    struct trial trial = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    const struct exec_box_spec spec = {.id = "trial", .uid = TRIAL_UID, .gid = TRIAL_UID};
    struct exec_box *box;
    if (exec_box_start(e, &spec, on_trial_started, NULL, &trial, &box, err) < 0)
        return -1;
    pthread_mutex_lock(&trial.lock);
    while (!trial.started)
        pthread_cond_wait(&trial.changed, &trial.lock);
    pthread_mutex_unlock(&trial.lock);
    exec_box_stop(box, on_trial_stopped, &trial);
    pthread_mutex_lock(&trial.lock);
    while (!trial.stopped)
        pthread_cond_wait(&trial.changed, &trial.lock);
    pthread_mutex_unlock(&trial.lock);
    if (!trial.failed)
        return 0;
    return af_error_set(err, AF_FAILED_PRECONDITION, "this machine cannot run sandboxes: %s",
                        trial.error.text);
}
