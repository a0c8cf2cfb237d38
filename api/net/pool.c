// Worker threads over one queue. Owns its threads; lock rank 90. Read next: pool.h.
#include "api/net/pool.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

void net_pool_init(struct net_pool *pool, void (*run)(struct net_pool_item *item))
{
    *pool = (struct net_pool){.run = run};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
}

void net_pool_fini(struct net_pool *pool)
{
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
}

static void *worker(void *arg)
{
    struct net_pool *pool = arg;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct net_pool_item *item = pool->head;
        if (item) {
            pool->head = item->next;
            if (!pool->head)
                pool->tail = NULL;
            pthread_mutex_unlock(&pool->lock);
            pool->run(item);
            pthread_mutex_lock(&pool->lock);
            continue;
        }
        if (pool->stop)
            break;
        pool->idle++;
        pthread_cond_wait(&pool->wake, &pool->lock);
        pool->idle--;
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int net_pool_start(struct net_pool *pool, unsigned count)
{
    pool->threads = calloc(count, sizeof *pool->threads);
    if (!pool->threads)
        return -ENOMEM;
    // Signals belong to the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (pool->thread_count < count && error == 0) {
        error = pthread_create(&pool->threads[pool->thread_count], NULL, worker, pool);
        if (error == 0)
            pool->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        net_pool_stop(pool);
    return -error;
}

void net_pool_stop(struct net_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pool->thread_count = 0;
    free(pool->threads);
    pool->threads = NULL;
}

void net_pool_submit(struct net_pool *pool, struct net_pool_item *item)
{
    item->next = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->tail)
        pool->tail->next = item;
    else
        pool->head = item;
    pool->tail = item;
    bool wake = pool->idle > 0;
    pthread_mutex_unlock(&pool->lock);
    if (wake)
        pthread_cond_signal(&pool->wake);
}
