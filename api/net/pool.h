// A fixed number of worker threads and one queue of items that want to run.
//
// An item is in the queue at most once; who submits it sees to that.
// Lock: net_pool.lock (rank 90), never held while an item runs.
// Failure: only at start. Read next: pool.c, call.c.
#ifndef AF_API_NET_POOL_H
#define AF_API_NET_POOL_H

#include <pthread.h>
#include <stdbool.h>

struct net_pool_item {
    struct net_pool_item *next;
};

struct net_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct net_pool_item *head, *tail;
    void (*run)(struct net_pool_item *item);
    pthread_t *threads;
    unsigned thread_count, idle;
    bool stop;
};

// Makes an empty pool without threads. `run` handles one item on a worker.
void net_pool_init(struct net_pool *pool, void (*run)(struct net_pool_item *item));
void net_pool_fini(struct net_pool *pool); // after stop

// Starts `count` threads. 0 or -errno; on failure none are left.
int net_pool_start(struct net_pool *pool, unsigned count);

// Runs everything that is queued, then ends the threads. Harmless when not started.
void net_pool_stop(struct net_pool *pool);

// Any thread.
void net_pool_submit(struct net_pool *pool, struct net_pool_item *item);

#endif
