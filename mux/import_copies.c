// A queue of copies and the threads that do them. See import_copies.h.
#include "mux/import_copies.h"

#include "mux/base/whole.h"
#include "mux/copy_file.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define HELPERS_MAX 3 // beside the thread that waits
// Up to here one read and one write cost less than a copy in the kernel.
#define BUFFER_BYTES (64u << 10)
// From here on a copy is worth waking a helper; of smaller ones it is so many.
#define LARGE_BYTES (1u << 20)
#define SMALL_COUNT 8

struct mux_import_copies {
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    struct mux_import_copy *first, **last; // queued
    unsigned queued;
    unsigned left; // queued or under way
    unsigned idle; // helpers that wait for more
    bool stopping;
    pthread_t helpers[HELPERS_MAX];
    unsigned n_helpers;
};

// ---- one copy

static int copy_small(struct mux_import_copy *copy, int to)
{
    char buf[BUFFER_BYTES];
    ssize_t n = af_read_whole(copy->from, buf, (size_t)copy->st.st_size, 0);
    if (n < 0)
        return (int)n;
    copy->size = (uint64_t)n;
    return af_write_whole(to, buf, (size_t)n, 0);
}

static int copy_large(struct mux_import_copy *copy, int to)
{
    struct stat now;
    off_t size = copy->st.st_size;
    bool is_sparse = copy->st.st_blocks * 512 < size;
    int rc = is_sparse ? mux_copy_extents(copy->from, to, 0, size)
                       : mux_copy_bytes(copy->from, to, 0, (size_t)size);
    if (rc < 0)
        return rc;
    // A hole at the end; or it has become shorter: what is there is taken.
    if (fstat(copy->from, &now) == 0 && now.st_size < size)
        size = now.st_size;
    copy->size = (uint64_t)size;
    return ftruncate(to, size) < 0 ? -errno : 0;
}

static int do_copy(struct mux_import_copy *copy)
{
    int to = store_blob_fd(copy->blob);
    return copy->st.st_size <= BUFFER_BYTES ? copy_small(copy, to) : copy_large(copy, to);
}

// ---- one copy after the other, on any of the threads

static struct mux_import_copy *take_locked(struct mux_import_copies *copies)
{
    struct mux_import_copy *copy = copies->first;
    if (!copy)
        return NULL;
    copies->first = copy->next;
    copies->queued--;
    if (!copies->first)
        copies->last = &copies->first;
    return copy;
}

// Lets go of the lock while it copies.
static void do_one_locked(struct mux_import_copies *copies, struct mux_import_copy *copy)
{
    pthread_mutex_unlock(&copies->lock);
    copy->rc = do_copy(copy);
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
        if (copy) {
            do_one_locked(copies, copy);
            continue;
        }
        copies->idle++;
        pthread_cond_wait(&copies->more, &copies->lock);
        copies->idle--;
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
                          struct store_blob *blob, struct mux_import_copy **ret_copy)
{
    if (!*copies)
        *copies = begin();
    struct mux_import_copy *copy = calloc(1, sizeof *copy);
    if (!*copies || !copy) {
        free(copy);
        close(from);
        store_blob_discard(blob);
        return -ENOMEM;
    }
    *copy = (struct mux_import_copy){.st = *st, .from = from, .blob = blob};
    struct mux_import_copies *queue = *copies;
    pthread_mutex_lock(&queue->lock);
    *queue->last = copy;
    queue->last = &copy->next;
    queue->left++;
    if (++queue->queued >= SMALL_COUNT || st->st_size >= LARGE_BYTES)
        if (queue->idle > 0)
            pthread_cond_signal(&queue->more);
    pthread_mutex_unlock(&queue->lock);
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
    if (copy->blob)
        store_blob_discard(copy->blob);
    free(copy);
}
