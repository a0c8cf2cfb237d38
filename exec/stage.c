// Where boxes are made: a mount namespace of the daemon's own for each root.
//
// bubblewrap looks at the whole table of mounts once for everything it binds, and copies and drops
// all of it for each box. On a stage that table is short, and the root is there already, put
// together and sealed: it is bound as a whole, with one look. A box has seen nothing of the machine
// but that, not even while it is made.
// A stage is made by a thread that gets a mount namespace, leaves everything behind that is not
// needed and ends: the namespace lives by its descriptor. Mounts that the machine adds to what is
// lent come along (the stage is a slave), nothing goes back.
// Owns: the namespaces. Locks: none, one thread. Fails: af_error; what was made is gone with its
// thread. Read next: root.c, bwrap.c.
#include "exec/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec/engine_priv.h"
#include "mux/base/cleanup.h"

#define STAGES_MAX 16 // kept; the one that was not used for longest gives way

struct stage {
    bool used;
    struct exec_root root; // its path is ours
    struct exec_root_marks marks;
    int ns_fd;
    unsigned long last_use;
};

struct exec_stages {
    char *dir, *program;
    struct stage list[STAGES_MAX];
    unsigned long uses;
};

// ---- making one ---------------------------------------------------------------------------

struct making {
    const struct exec_stages *stages;
    const struct exec_root *root;
    int ns_fd;
    bool failed;
    struct af_error error;
};

static int refuse(struct making *making, const char *what)
{
    return af_error_errno(&making->error, errno, "cannot make a place for sandboxes: %s", what);
}

// Everything of the machine but what has been lent is left behind.
static int leave_machine(struct making *making, const char *dir)
{
    if (chdir(dir) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
        chdir("/") < 0)
        return refuse(making, "pivot_root");
    return 0;
}

static int make(struct making *making)
{
    const char *dir = making->stages->dir;
    char root[PATH_MAX], proc[PATH_MAX], tmp[PATH_MAX];
    snprintf(root, sizeof(root), "%s" EXEC_STAGE_ROOT, dir);
    snprintf(proc, sizeof(proc), "%s/proc", dir);
    snprintf(tmp, sizeof(tmp), "%s/tmp", dir); // bubblewrap builds there
    umask(022);                                // of this thread alone, from here on
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return refuse(making, "a mount namespace");
    if (mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k") < 0 ||
        mkdir(root, 0755) < 0 || mkdir(proc, 0755) < 0 ||
        mount("/proc", proc, NULL, MS_BIND, NULL) < 0)
        return refuse(making, dir);
    if (exec_root_build(making->root, root, &making->error) < 0 ||
        exec_root_lend_host(dir, making->stages->program, &making->error) < 0)
        return -1;
    if (mkdir(tmp, 0755) < 0 && errno != EEXIST) // lent, when bubblewrap itself lies in it
        return refuse(making, tmp);
    if (leave_machine(making, dir) < 0)
        return -1;
    making->ns_fd = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return making->ns_fd < 0 ? refuse(making, "its descriptor") : 0;
}

static void *making_main(void *arg)
{
    struct making *making = arg;
    making->failed = make(making) < 0;
    return NULL;
}

static int make_apart(const struct exec_stages *stages, const struct exec_root *root, int *ret_fd,
                      struct af_error *err)
{
    struct making making = {.stages = stages, .root = root, .ns_fd = -1};
    pthread_t thread;
    int e = exec_thread_start(&thread, making_main, &making);
    if (e)
        return af_error_errno(err, e, "cannot make a place for sandboxes");
    pthread_join(thread, NULL);
    if (making.failed) {
        *err = making.error;
        return -1;
    }
    *ret_fd = making.ns_fd;
    return 0;
}

// ---- keeping them -------------------------------------------------------------------------

static void drop(struct stage *stage)
{
    if (!stage->used)
        return;
    close(stage->ns_fd);
    free((char *)stage->root.rootfs);
    *stage = (struct stage){0};
}

static bool is_for(const struct stage *stage, const struct exec_root *root)
{
    const char *a = stage->root.rootfs, *b = root->rootfs;
    return stage->used && stage->root.resolver == root->resolver && !a == !b &&
           (!a || strcmp(a, b) == 0);
}

// The one for this root, else a place for it.
static struct stage *find(struct exec_stages *stages, const struct exec_root *root)
{
    struct stage *place = &stages->list[0];
    for (size_t i = 0; i < STAGES_MAX; i++) {
        struct stage *stage = &stages->list[i];
        if (is_for(stage, root))
            return stage;
        if (place->used && (!stage->used || stage->last_use < place->last_use))
            place = stage;
    }
    drop(place);
    return place;
}

static int fill(struct exec_stages *stages, struct stage *stage, const struct exec_root *root,
                const struct exec_root_marks *marks, struct af_error *err)
{
    AF_CLEANUP_FREE char *copy = root->rootfs ? strdup(root->rootfs) : NULL;
    if (root->rootfs && !copy)
        return af_error_errno(err, ENOMEM, "cannot make a place for sandboxes");
    int fd = -1;
    if (make_apart(stages, root, &fd, err) < 0)
        return -1;
    *stage = (struct stage){
        .used = true, .root = {AF_TAKE_PTR(copy), root->resolver}, .marks = *marks, .ns_fd = fd};
    return 0;
}

int exec_stages_get(struct exec_stages *stages, const struct exec_root *root, int *ret_fd,
                    struct af_error *err)
{
    struct stage *stage = find(stages, root);
    struct exec_root_marks marks;
    exec_root_look(root, &marks); // before it is made: what changes meanwhile is seen next time
    if (stage->used && !exec_root_same(&stage->marks, &marks))
        drop(stage);
    if (!stage->used && fill(stages, stage, root, &marks, err) < 0)
        return -1;
    stage->last_use = ++stages->uses;
    *ret_fd = stage->ns_fd;
    return 0;
}

int exec_stages_new(const char *dir, const char *program, struct exec_stages **ret,
                    struct af_error *err)
{
    struct exec_stages *stages = calloc(1, sizeof(*stages));
    if (stages) {
        stages->dir = strdup(dir);
        stages->program = strdup(program);
    }
    if (!stages || !stages->dir || !stages->program) {
        exec_stages_free(stages);
        return af_error_errno(err, ENOMEM, "cannot set up commands");
    }
    *ret = stages;
    return 0;
}

void exec_stages_free(struct exec_stages *stages)
{
    if (!stages)
        return;
    for (size_t i = 0; i < STAGES_MAX; i++)
        drop(&stages->list[i]);
    free(stages->dir);
    free(stages->program);
    free(stages);
}
