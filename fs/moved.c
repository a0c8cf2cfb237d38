// Directories that others have moved while somebody is in them: the kernel meets them again.
//
// Problem: the kernel has one dentry of a directory, and somebody's working directory, descriptor
// or open file below keeps it where the directory was. A lookup of the new name moves it; but that
// needs a lock which every rename of the mount holds, and is ESTALE while it is taken, always so
// when the call is itself a rename of that directory.
// Idea: look the new name up here, until it works, before the next command of the view starts.
//
// This touches our own mount: on a thread of its own, which a process that holds a directory's lock
// may keep waiting. So nobody waits for it but who has changed a view from outside and flushes
// (fs_invalidate_flush), and not for long; the end of the connection ends it. Names are followed as
// in a hostile tree: no links, no mounts, nothing above the view.
//
// Owns the queue and the thread. One mutex, a leaf, not held while looking up. Fails: what cannot
// be looked up is met whenever somebody else looks it up. Read next: invalidate.c, mux/locate.h.
#include "fs/session_priv.h"

#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "mux/locate.h"
#include "mux/sandbox.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_MAX 1024
#define TRIES     32 // of one directory, until it is the next one's turn
#define TURNS_MAX 64
#define PAUSE_NS  (100 * 1000LL)      // from one try to the next
#define WAIT_NS   (AF_NS_PER_SEC / 2) // of a command, at most

struct directory {
    uint64_t nodeid;
    unsigned turns; // that it has had
};

struct fs_moved {
    struct fs_session *session;
    pthread_mutex_t lock;
    pthread_cond_t added, met;
    struct directory queue[QUEUE_MAX]; // a ring; the first one is under way
    unsigned first, count;
    bool stopping;
    pthread_t thread;
    bool has_thread;
};

// -1 with errno.
static int view_root(const struct fs_session *session, const char *sandbox_id)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", session->mountpoint, sandbox_id);
    if (n < 0 || (size_t)n >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

// Whether it is to be tried again.
static bool meet(struct fs_session *session, uint64_t nodeid)
{
    struct mux_place place;
    if (mux_locate(session->mux, nodeid, 0, NULL, false, &place) < 0 || place.is_cut ||
        place.len == 0)
        return false;
    AF_CLEANUP_FD int root = view_root(session, place.sandbox_id.text);
    if (root < 0)
        return false;
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS |
                                      RESOLVE_NO_SYMLINKS};
    struct timespec pause = af_timespec_of_ns(PAUSE_NS);
    for (int i = 0; i < TRIES; i++) {
        AF_CLEANUP_FD int fd = (int)syscall(SYS_openat2, root, place.path, &how, sizeof how);
        if (fd >= 0 || errno != ESTALE)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static void put(struct fs_moved *moved, struct directory directory)
{
    moved->queue[(moved->first + moved->count++) % QUEUE_MAX] = directory;
}

static void *moved_thread(void *arg)
{
    struct fs_moved *moved = arg;
    pthread_setname_np(pthread_self(), "af-fs-moved");
    pthread_mutex_lock(&moved->lock);
    while (!moved->stopping) {
        if (moved->count == 0) {
            pthread_cond_wait(&moved->added, &moved->lock);
            continue;
        }
        struct directory directory = moved->queue[moved->first];
        pthread_mutex_unlock(&moved->lock);
        bool again = meet(moved->session, directory.nodeid);
        pthread_mutex_lock(&moved->lock);
        moved->first = (moved->first + 1) % QUEUE_MAX;
        moved->count--;
        if (again && ++directory.turns < TURNS_MAX)
            put(moved, directory);
        pthread_cond_broadcast(&moved->met);
    }
    pthread_mutex_unlock(&moved->lock);
    return NULL;
}

void fs_moved_add(struct fs_session *session, uint64_t nodeid)
{
    struct fs_moved *moved = session->moved;
    pthread_mutex_lock(&moved->lock);
    if (!moved->stopping && moved->count < QUEUE_MAX) {
        put(moved, (struct directory){.nodeid = nodeid});
        pthread_cond_signal(&moved->added);
    }
    pthread_mutex_unlock(&moved->lock);
}

static bool has_of(const struct fs_moved *moved, uint32_t slot)
{
    for (unsigned i = 0; i < moved->count; i++)
        if (mux_nodeid_slot(moved->queue[(moved->first + i) % QUEUE_MAX].nodeid) == slot)
            return true;
    return false;
}

void fs_moved_wait(struct fs_session *session, const char *sandbox_id)
{
    struct fs_moved *moved = session->moved;
    struct timespec until = af_timespec_of_ns(af_monotonic_ns() + WAIT_NS);
    uid_t uid;
    if (!mux_view_uid(session->mux, sandbox_id, &uid))
        return;
    pthread_mutex_lock(&moved->lock);
    while (!moved->stopping && has_of(moved, uid - session->uid_base))
        if (pthread_cond_clockwait(&moved->met, &moved->lock, CLOCK_MONOTONIC, &until) != 0)
            break;
    pthread_mutex_unlock(&moved->lock);
}

int fs_moved_new(struct fs_session *session)
{
    struct fs_moved *moved = calloc(1, sizeof *moved);
    if (!moved)
        return -ENOMEM;
    moved->session = session;
    pthread_mutex_init(&moved->lock, NULL);
    pthread_cond_init(&moved->added, NULL);
    pthread_cond_init(&moved->met, NULL);
    session->moved = moved;
    return 0;
}

int fs_moved_start(struct fs_session *session)
{
    struct fs_moved *moved = session->moved;
    int rc = pthread_create(&moved->thread, NULL, moved_thread, moved);
    moved->has_thread = rc == 0;
    return -rc;
}

void fs_moved_close(struct fs_session *session)
{
    struct fs_moved *moved = session->moved;
    if (!moved)
        return;
    pthread_mutex_lock(&moved->lock);
    moved->stopping = true;
    pthread_cond_broadcast(&moved->added);
    pthread_cond_broadcast(&moved->met);
    pthread_mutex_unlock(&moved->lock);
}

void fs_moved_join(struct fs_session *session)
{
    struct fs_moved *moved = session->moved;
    if (!moved)
        return;
    if (moved->has_thread)
        pthread_join(moved->thread, NULL);
    moved->has_thread = false;
}

void fs_moved_free(struct fs_session *session)
{
    struct fs_moved *moved = session->moved;
    if (!moved)
        return;
    pthread_cond_destroy(&moved->added);
    pthread_cond_destroy(&moved->met);
    pthread_mutex_destroy(&moved->lock);
    free(moved);
    session->moved = NULL;
}
