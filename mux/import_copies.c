// A queue of copies and the threads that do them. See import_copies.h.
#include "mux/import_copies.h"

#include "mux/copy_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define HELPERS_MAX 3 // beside the thread that waits

struct mux_import_copies {
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    struct mux_import_copy *first, **last; // queued
    unsigned left;                         // queued or under way
    bool stopping;
    pthread_t helpers[HELPERS_MAX];
    unsigned n_helpers;
};

int mux_import_copy_file(const struct stat *st, int from, int to)
{
    struct stat now;
    bool is_sparse = st->st_blocks * 512 < st->st_size;
    int rc = is_sparse ? mux_copy_extents(from, to, 0, st->st_size)
                       : mux_copy_bytes(from, to, 0, (size_t)st->st_size);
    if (rc < 0)
        return rc;
    // A hole at the end; or it has become shorter: what is there is taken.
    off_t size = st->st_size;
    if (fstat(from, &now) == 0 && now.st_size < size)
        size = now.st_size;
    return ftruncate(to, size) < 0 ? -errno : 0;
}

// ---- one copy after the other, on any of the threads

static struct mux_import_copy *take_locked(struct mux_import_copies *copies)
{
    struct mux_import_copy *copy = copies->first;
    if (!copy)
        return NULL;
    copies->first = copy->next;
    if (!copies->first)
        copies->last = &copies->first;
    return copy;
}

// Lets go of the lock while it copies.
static void do_one_locked(struct mux_import_copies *copies, struct mux_import_copy *copy)
{
    pthread_mutex_unlock(&copies->lock);
    copy->rc = mux_import_copy_file(&copy->st, copy->from, copy->to);
    pthread_mutex_lock(&copies->lock);
    if (--copies->left == 0)
        pthread_cond_broadcast(&copies->done);
}

static void *help(void *arg)
{
    struct mux_import_copies *copies = arg;
    pthread_setname_np(pthread_self(), "af-import-copy");
    pthread_mutex_lock(&copies->lock);
    while (!copies->stopping) {
        struct mux_import_copy *copy = take_locked(copies);
        if (copy)
            do_one_locked(copies, copy);
        else
            pthread_cond_wait(&copies->more, &copies->lock);
    }
    pthread_mutex_unlock(&copies->lock);
    return NULL;
}

// ---- for the import

static struct mux_import_copies *begin(void)
{
    struct mux_import_copies *copies = calloc(1, sizeof *copies);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!copies)
        return NULL;
    pthread_mutex_init(&copies->lock, NULL);
    pthread_cond_init(&copies->more, NULL);
    pthread_cond_init(&copies->done, NULL);
    copies->last = &copies->first;
    // With fewer helpers than wanted, or none, whoever waits does the rest.
    while (copies->n_helpers < HELPERS_MAX && copies->n_helpers + 1 < cpus &&
           pthread_create(&copies->helpers[copies->n_helpers], NULL, help, copies) == 0)
        copies->n_helpers++;
    return copies;
}

int mux_import_copies_add(struct mux_import_copies **copies, const struct stat *st, int from,
                          int to, struct mux_import_copy **ret_copy)
{
    if (!*copies)
        *copies = begin();
    struct mux_import_copy *copy = calloc(1, sizeof *copy);
    if (!*copies || !copy) {
        free(copy);
        return -ENOMEM;
    }
    *copy = (struct mux_import_copy){.st = *st, .to = to};
    copy->from = fcntl(from, F_DUPFD_CLOEXEC, 3);
    if (copy->from < 0) {
        int rc = -errno;
        free(copy);
        return rc;
    }
    pthread_mutex_lock(&(*copies)->lock);
    *(*copies)->last = copy;
    (*copies)->last = &copy->next;
    (*copies)->left++;
    pthread_cond_signal(&(*copies)->more);
    pthread_mutex_unlock(&(*copies)->lock);
    *ret_copy = copy;
    return 0;
}

void mux_import_copies_wait(struct mux_import_copies *copies)
{
    struct mux_import_copy *copy;
    if (!copies)
        return;
    pthread_mutex_lock(&copies->lock);
    while ((copy = take_locked(copies)))
        do_one_locked(copies, copy);
    while (copies->left > 0)
        pthread_cond_wait(&copies->done, &copies->lock);
    pthread_mutex_unlock(&copies->lock);
}

void mux_import_copies_free(struct mux_import_copies *copies)
{
    if (!copies)
        return;
    pthread_mutex_lock(&copies->lock);
    copies->stopping = true;
    pthread_cond_broadcast(&copies->more);
    pthread_mutex_unlock(&copies->lock);
    for (unsigned i = 0; i < copies->n_helpers; i++)
        pthread_join(copies->helpers[i], NULL);
    pthread_cond_destroy(&copies->more);
    pthread_cond_destroy(&copies->done);
    pthread_mutex_destroy(&copies->lock);
    free(copies);
}

void mux_import_copy_free(struct mux_import_copy *copy)
{
    if (!copy)
        return;
    close(copy->from);
    free(copy);
}
