// See fixture.h. One lock and one condition variable serve every waiting test.
#include "tests/unit/exec/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

// Waits until *flag, which a callback sets under the lock.
static void wait_flag(const bool *flag)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += XT_WAIT_NS / XT_SECOND;
    int e = 0;
    pthread_mutex_lock(&lock);
    while (!*flag && e == 0)
        e = pthread_cond_timedwait(&changed, &lock, &until);
    pthread_mutex_unlock(&lock);
    assert_int_equal(e, 0);
}

static void set_flag(bool *flag)
{
    *flag = true;
    pthread_cond_broadcast(&changed);
}

uid_t xt_uid(void)
{
    static uid_t uid; // of the program that set up the test, also in its forks
    if (!uid)
        uid = 1000000 + (uid_t)getpid() * 64;
    return uid;
}

// ---- engine -----------------------------------------------------------------------------

const char *xt_init_path(void)
{
    static char path[PATH_MAX + 64];
    const char *given = getenv("AGENTFENSE_INIT");
    if (given)
        return given;
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    assert_true(n > 0);
    path[n] = '\0';
    char *tests = strstr(path, "/tests/unit/");
    assert_non_null(tests);
    strcpy(tests, "/bin/agentfense-init");
    if (access(path, X_OK) < 0)
        fail_msg("%s is not built: make VARIANT=... bins", path);
    return path;
}

struct exec_options xt_options(const struct xt *xt)
{
    return (struct exec_options){.run_dir = xt->run_dir, .init_path = xt_init_path()};
}

void xt_engine_open(struct xt *xt, const struct exec_options *options)
{
    struct af_error err;
    if (exec_engine_new(options, &xt->engine, &err) < 0)
        fail_msg("exec_engine_new: %s", err.text);
}

void xt_engine_close(struct xt *xt)
{
    exec_engine_free(xt->engine);
    xt->engine = NULL;
    xt->box = NULL;
}

// ---- set-up -----------------------------------------------------------------------------

int xt_setup_dirs(void **state)
{
    struct xt *xt = calloc(1, sizeof(*xt));
    assert_non_null(xt);
    strcpy(xt->dir, "/tmp/agentfense-exec-XXXXXX");
    assert_non_null(mkdtemp(xt->dir));
    assert_int_equal(chmod(xt->dir, 0755), 0);
    snprintf(xt->run_dir, sizeof(xt->run_dir), "%s/run", xt->dir);
    snprintf(xt->view, sizeof(xt->view), "%s/view", xt->dir);
    assert_int_equal(mkdir(xt->run_dir, 0700), 0);
    assert_int_equal(mkdir(xt->view, 0755), 0);
    assert_int_equal(chown(xt->view, XT_UID, XT_UID), 0);
    *state = xt;
    return 0;
}

int xt_setup_engine(void **state)
{
    xt_setup_dirs(state);
    struct xt *xt = *state;
    const struct exec_options options = xt_options(xt);
    xt_engine_open(xt, &options);
    return 0;
}

int xt_setup_box(void **state)
{
    xt_setup_engine(state);
    struct xt *xt = *state;
    xt->box = xt_box_start(xt, "sb_test", XT_UID);
    return 0;
}

int xt_teardown(void **state)
{
    struct xt *xt = *state;
    exec_engine_free(xt->engine);
    while (xt->dones) {
        struct xt_done *done = xt->dones;
        xt->dones = done->next;
        free(done->out);
        free(done->err);
        free(done);
    }
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", xt->dir);
    assert_int_equal(system(command), 0);
    free(xt);
    return 0;
}

// ---- boxes ------------------------------------------------------------------------------

static void on_started(void *arg, const struct af_error *err)
{
    struct xt *xt = arg;
    pthread_mutex_lock(&lock);
    if (err)
        xt->start_error = *err;
    set_flag(&xt->started);
    pthread_mutex_unlock(&lock);
}

static void on_died(void *arg, const struct af_error *why)
{
    struct xt *xt = arg;
    pthread_mutex_lock(&lock);
    xt->died_error = *why;
    set_flag(&xt->died);
    pthread_mutex_unlock(&lock);
}

static void on_stopped(void *arg)
{
    struct xt *xt = arg;
    pthread_mutex_lock(&lock);
    set_flag(&xt->stopped);
    pthread_mutex_unlock(&lock);
}

struct exec_box *xt_box_try(struct xt *xt, const struct exec_box_spec *spec)
{
    struct exec_box *box = NULL;
    struct af_error err;
    xt->started = xt->died = false;
    xt->start_error.status = AF_OK;
    if (exec_box_start(xt->engine, spec, on_started, on_died, xt, &box, &err) < 0)
        fail_msg("exec_box_start: %s", err.text);
    wait_flag(&xt->started);
    return box;
}

void xt_box_begin(struct xt *xt, const struct exec_box_spec *spec)
{
    struct af_error err;
    xt->started = xt->died = false;
    xt->start_error.status = AF_OK;
    if (exec_box_start(xt->engine, spec, on_started, on_died, xt, &xt->box, &err) < 0)
        fail_msg("exec_box_start: %s", err.text);
}

void xt_box_adopt(struct xt *xt, struct exec_box *box, const struct exec_box_spec *spec)
{
    struct af_error err;
    xt->started = xt->died = false;
    xt->start_error.status = AF_OK;
    if (exec_box_adopt(box, spec, on_started, on_died, xt, &err) < 0)
        fail_msg("exec_box_adopt: %s", err.text);
    wait_flag(&xt->started);
}

struct exec_box *xt_box_start(struct xt *xt, const char *id, uid_t uid)
{
    const struct exec_box_spec spec = {.id = id, .view_path = xt->view, .uid = uid, .gid = uid};
    struct exec_box *box = xt_box_try(xt, &spec);
    if (xt->start_error.status != AF_OK)
        fail_msg("box: %s", xt->start_error.text);
    return box;
}

void xt_box_stop(struct xt *xt, struct exec_box *box)
{
    xt->stopped = false;
    exec_box_stop(box, on_stopped, xt);
    wait_flag(&xt->stopped);
    if (box == xt->box)
        xt->box = NULL;
}

void xt_wait_died(struct xt *xt)
{
    wait_flag(&xt->died);
}

// ---- commands ---------------------------------------------------------------------------

static char *copy(const struct exec_output *output)
{
    char *bytes = malloc(output->len + 1);
    assert_non_null(bytes);
    memcpy(bytes, output->bytes, output->len + 1);
    return bytes;
}

static void on_done(void *arg, const struct af_error *err, const struct exec_result *result)
{
    struct xt_done *done = arg;
    pthread_mutex_lock(&lock);
    done->failed = err != NULL;
    if (err)
        done->error = *err;
    done->out = copy(&result->out);
    done->err = copy(&result->err);
    done->out_len = result->out.len;
    done->err_len = result->err.len;
    done->result = *result;
    set_flag(&done->over);
    pthread_mutex_unlock(&lock);
}

struct xt_done *xt_start(struct xt *xt, const struct exec_command_spec *spec,
                         struct exec_command **ret_command)
{
    struct xt_done *done = calloc(1, sizeof(*done));
    assert_non_null(done);
    done->next = xt->dones;
    xt->dones = done;
    struct af_error err;
    if (exec_command_start(xt->box, spec, on_done, done, ret_command, &err) < 0)
        fail_msg("exec_command_start: %s", err.text);
    return done;
}

void xt_wait(struct xt_done *done)
{
    wait_flag(&done->over);
}

struct xt_done *xt_run(struct xt *xt, const struct exec_command_spec *spec)
{
    struct xt_done *done = xt_start(xt, spec, NULL);
    xt_wait(done);
    return done;
}

struct xt_done *xt_sh(struct xt *xt, const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    const struct exec_command_spec spec = {.shell_line = line};
    return xt_run(xt, &spec);
}

void xt_expect_exit(const struct xt_done *done, int code)
{
    if (done->failed)
        fail_msg("the command failed: %s", done->error.text);
    if (done->result.timed_out || done->result.exit_code != code)
        fail_msg("exit code %d, timed out %d, stdout '%s', stderr '%s'", done->result.exit_code,
                 done->result.timed_out, done->out, done->err);
}

// ---- files and processes ----------------------------------------------------------------

static void view_path(struct xt *xt, const char *name, char path[256])
{
    snprintf(path, 256, "%s/%s", xt->view, name);
}

void xt_wait_file(struct xt *xt, const char *name)
{
    char path[256], events[4096];
    view_path(xt, name, path);
    int fd = inotify_init1(IN_CLOEXEC);
    assert_true(fd >= 0 && inotify_add_watch(fd, xt->view, IN_CREATE | IN_MOVED_TO) >= 0);
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    while (access(path, F_OK) < 0) {
        assert_int_equal(poll(&polled, 1, XT_WAIT_NS / 1000000), 1);
        assert_true(read(fd, events, sizeof(events)) > 0);
    }
    close(fd);
}

void xt_write_file(struct xt *xt, const char *name, const char *text)
{
    char path[256];
    view_path(xt, name, path);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

char *xt_read_file(struct xt *xt, const char *name, char *buffer, size_t size)
{
    char path[256];
    view_path(xt, name, path);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    size_t n = fread(buffer, 1, size - 1, file);
    buffer[n] = '\0';
    fclose(file);
    return buffer;
}

// What one process says about itself in /proc; all 0 when it is gone.
struct seen {
    char run_state;
    unsigned uid, inner_pid;
};

static struct seen look(const char *pid)
{
    struct seen seen = {0};
    char path[300], line[256];
    unsigned outer;
    snprintf(path, sizeof(path), "/proc/%s/status", pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
        sscanf(line, "State: %c", &seen.run_state);
        sscanf(line, "Uid: %u", &seen.uid);
        sscanf(line, "NSpid: %u %u", &outer, &seen.inner_pid);
    }
    if (file)
        fclose(file);
    return seen;
}

// Counts living processes of a uid; *ret_init is the one that is process 1 inside.
static unsigned scan(uid_t uid, pid_t *ret_init)
{
    unsigned count = 0;
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    struct dirent *entry;
    while ((entry = readdir(proc))) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9')
            continue;
        struct seen seen = look(entry->d_name);
        if (seen.uid != uid || seen.run_state == 'Z')
            continue;
        count++;
        if (seen.inner_pid == 1)
            *ret_init = (pid_t)atol(entry->d_name);
    }
    closedir(proc);
    return count;
}

unsigned xt_processes_of(uid_t uid)
{
    pid_t init;
    return scan(uid, &init);
}

pid_t xt_init_pid(uid_t uid)
{
    pid_t init = 0;
    scan(uid, &init);
    assert_true(init > 1);
    return init;
}

unsigned xt_open_fds(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

unsigned xt_children(void)
{
    unsigned count = 0;
    DIR *tasks = opendir("/proc/self/task");
    assert_non_null(tasks);
    struct dirent *entry;
    while ((entry = readdir(tasks))) {
        char path[300];
        snprintf(path, sizeof(path), "/proc/self/task/%s/children", entry->d_name);
        FILE *file = entry->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        int pid;
        while (file && fscanf(file, "%d", &pid) == 1)
            count++;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return count;
}
