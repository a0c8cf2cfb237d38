// The node cache: a sharded hash over a fixed array, evicting by clock. Pure: see node.h.
//
// Each shard owns its nodes and, for directories, a reference to their state and rules. Locks: the
// shard's mutex, a leaf but for the rules' own mutex. Fails only in mux_node_cache_new.
// Read next: node.c.
#include "mux/node.h"
#include "mux/nodeid.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define SHARDS_MAX      64
#define NODES_PER_SHARD 64 // fewer nodes than this each, and there is only one shard

struct cached {
    struct mux_node node;
    struct rules *rules; // with node.state, or NULL
    uint32_t next;       // in the bucket's chain or the free list: index + 1, 0 ends it
    bool used, recent;
};

struct shard {
    pthread_mutex_t lock;
    struct cached *nodes;
    uint32_t *buckets;                          // index + 1
    uint32_t capacity, mask, free, hand, fresh; // fresh: nodes never used yet begin here
    uint64_t count, hits, misses, evictions;
} __attribute__((aligned(64)));

struct mux_node_cache {
    uint32_t n_shards; // power of two
    struct shard shards[SHARDS_MAX];
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    return x ^ x >> 32;
}

static int shard_init(struct shard *shard, uint32_t capacity)
{
    uint32_t buckets = 1;
    while (buckets < capacity)
        buckets *= 2;
    pthread_mutex_init(&shard->lock, NULL);
    shard->nodes = calloc(capacity, sizeof *shard->nodes);
    shard->buckets = calloc(buckets, sizeof *shard->buckets);
    shard->capacity = capacity;
    shard->mask = buckets - 1;
    return shard->nodes && shard->buckets ? 0 : -ENOMEM;
}

int mux_node_cache_new(size_t nodes_max, struct mux_node_cache **ret)
{
    struct mux_node_cache *cache;
    if (posix_memalign((void **)&cache, 64, sizeof *cache) != 0)
        return -ENOMEM;
    memset(cache, 0, sizeof *cache);
    cache->n_shards = nodes_max >= (size_t)SHARDS_MAX * NODES_PER_SHARD ? SHARDS_MAX : 1;
    uint32_t each = (uint32_t)(nodes_max / cache->n_shards);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < cache->n_shards; i++)
        rc = shard_init(&cache->shards[i], each > 0 ? each : 1);
    if (rc < 0) {
        mux_node_cache_free(cache);
        return rc;
    }
    *ret = cache;
    return 0;
}

static void release(struct cached *slot)
{
    if (slot->rules) {
        rules_state_release(slot->rules, slot->node.state);
        rules_unref(slot->rules);
        slot->rules = NULL;
    }
}

void mux_node_cache_free(struct mux_node_cache *cache)
{
    if (!cache)
        return;
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct shard *shard = &cache->shards[i];
        for (uint32_t n = 0; shard->nodes && n < shard->fresh; n++)
            release(&shard->nodes[n]);
        free(shard->nodes);
        free(shard->buckets);
        pthread_mutex_destroy(&shard->lock);
    }
    free(cache);
}

static struct shard *lock_shard(struct mux_node_cache *cache, uint64_t nodeid, uint32_t *ret_bucket)
{
    uint64_t hash = mix(nodeid);
    struct shard *shard = &cache->shards[(hash >> 48) & (cache->n_shards - 1)];
    *ret_bucket = (uint32_t)hash & shard->mask;
    pthread_mutex_lock(&shard->lock);
    return shard;
}

static struct cached *find(struct shard *shard, uint32_t bucket, uint64_t nodeid)
{
    for (uint32_t i = shard->buckets[bucket]; i != 0; i = shard->nodes[i - 1].next)
        if (shard->nodes[i - 1].node.nodeid == nodeid)
            return &shard->nodes[i - 1];
    return NULL;
}

static void unlink_node(struct shard *shard, struct cached *slot)
{
    uint32_t index = (uint32_t)(slot - shard->nodes) + 1;
    uint32_t *link = &shard->buckets[(uint32_t)mix(slot->node.nodeid) & shard->mask];
    while (*link != index)
        link = &shard->nodes[*link - 1].next;
    *link = slot->next;
    release(slot);
    slot->used = false;
    shard->count--;
}

// A slot to fill: a free one, else the first that was not looked at since the hand last came by.
static struct cached *take(struct shard *shard)
{
    if (shard->free != 0) {
        struct cached *slot = &shard->nodes[shard->free - 1];
        shard->free = slot->next;
        return slot;
    }
    if (shard->fresh < shard->capacity)
        return &shard->nodes[shard->fresh++];
    for (;;) {
        struct cached *slot = &shard->nodes[shard->hand];
        shard->hand = (shard->hand + 1) % shard->capacity;
        if (slot->recent) {
            slot->recent = false;
            continue;
        }
        unlink_node(shard, slot);
        shard->evictions++;
        return slot;
    }
}

bool mux_node_cache_get(struct mux_node_cache *cache, struct rules *rules, uint64_t nodeid,
                        uint64_t stamp, struct mux_node *ret)
{
    uint32_t bucket;
    struct shard *shard = lock_shard(cache, nodeid, &bucket);
    struct cached *slot = find(shard, bucket, nodeid);
    bool hit = slot && slot->node.stamp == stamp;
    *(hit ? &shard->hits : &shard->misses) += 1;
    if (hit) {
        slot->recent = true;
        *ret = slot->node;
        if (ret->state != RULES_STATE_INVALID)
            rules_state_ref(rules, ret->state);
    }
    pthread_mutex_unlock(&shard->lock);
    return hit;
}

void mux_node_cache_put(struct mux_node_cache *cache, struct rules *rules,
                        const struct mux_node *node)
{
    uint32_t bucket;
    struct shard *shard = lock_shard(cache, node->nodeid, &bucket);
    struct cached *slot = find(shard, bucket, node->nodeid);
    if (slot) {
        release(slot);
    } else {
        slot = take(shard);
        slot->used = true;
        slot->next = shard->buckets[bucket];
        shard->buckets[bucket] = (uint32_t)(slot - shard->nodes) + 1;
        shard->count++;
    }
    slot->node = *node;
    slot->recent = true;
    if (node->state != RULES_STATE_INVALID) {
        slot->rules = rules_ref(rules);
        rules_state_ref(rules, node->state);
    }
    pthread_mutex_unlock(&shard->lock);
}

void mux_node_cache_update(struct mux_node_cache *cache, const struct mux_node *node)
{
    uint32_t bucket;
    struct shard *shard = lock_shard(cache, node->nodeid, &bucket);
    struct cached *slot = find(shard, bucket, node->nodeid);
    if (slot) {
        struct mux_node now = *node;
        now.state = slot->node.state;
        now.level = slot->node.level;
        now.stamp = slot->node.stamp;
        slot->node = now;
    }
    pthread_mutex_unlock(&shard->lock);
}

void mux_node_cache_drop(struct mux_node_cache *cache, uint64_t nodeid)
{
    uint32_t bucket;
    struct shard *shard = lock_shard(cache, nodeid, &bucket);
    struct cached *slot = find(shard, bucket, nodeid);
    if (slot) {
        unlink_node(shard, slot);
        slot->next = shard->free;
        shard->free = (uint32_t)(slot - shard->nodes) + 1;
    }
    pthread_mutex_unlock(&shard->lock);
}

uint64_t mux_node_cache_clear(struct mux_node_cache *cache, uint32_t route)
{
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct shard *shard = &cache->shards[i];
        pthread_mutex_lock(&shard->lock);
        for (uint32_t n = 0; n < shard->fresh; n++) {
            struct cached *slot = &shard->nodes[n];
            if (!slot->used || (route != 0 && (mux_nodeid_is_shared(slot->node.nodeid) ||
                                               mux_nodeid_route(slot->node.nodeid) != route)))
                continue;
            unlink_node(shard, slot);
            slot->next = shard->free;
            shard->free = n + 1;
            dropped++;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    return dropped;
}

void mux_node_cache_stats(struct mux_node_cache *cache, struct mux_node_cache_stats *ret)
{
    *ret = (struct mux_node_cache_stats){0};
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct shard *shard = &cache->shards[i];
        pthread_mutex_lock(&shard->lock);
        ret->count += shard->count;
        ret->capacity += shard->capacity;
        ret->hits += shard->hits;
        ret->misses += shard->misses;
        ret->evictions += shard->evictions;
        pthread_mutex_unlock(&shard->lock);
    }
}

uint64_t mux_node_cache_count_route(struct mux_node_cache *cache, uint32_t route)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < cache->n_shards; i++) {
        struct shard *shard = &cache->shards[i];
        pthread_mutex_lock(&shard->lock);
        for (uint32_t n = 0; n < shard->fresh; n++) {
            const struct cached *slot = &shard->nodes[n];
            count += slot->used && !mux_nodeid_is_shared(slot->node.nodeid) &&
                     mux_nodeid_route(slot->node.nodeid) == route;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    return count;
}
