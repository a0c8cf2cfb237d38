// Decoded listings of frozen directories: making and keeping them. Read next: listings.h.
#include "mux/listings.h"

#include "mux/base/cleanup.h"
#include "mux/fid_map.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1 // what could not be added has no table
#include <uthash.h>

#define SHARDS    16  // a power of two
#define NAMES_MAX 512 // of a directory that is kept: made in a few hundred microseconds

#define TREES_MAX 65536u // numbers that are remembered; then all stacks get new ones

// A name looked for in the store takes about as long as two are decoded: so many before the rest is
// decoded as well. How many, of the directories that were last asked for.
#define ASKED_DUE   4
#define ASKED_BITS  10
#define ASKED_COUNT 8 // bits of the number; above it the hash of the directory

struct key {
    uint64_t tree, dir;
};

struct kept {
    struct key key;
    struct mux_listing *listing; // NULL: too large to be kept
    size_t bytes;
    bool recent;       // used since it was last at the head of the order
    UT_hash_handle hh; // in the order they came
};

struct shard {
    pthread_mutex_t lock;
    struct kept *kept;
    size_t bytes;
    uint64_t hits, misses;
} __attribute__((aligned(64)));

struct mux_listings {
    pthread_mutex_t lock;     // of the next two
    struct mux_fid_map trees; // by stack
    uint64_t last_tree, n_trees;
    size_t shard_bytes_max;
    _Atomic uint64_t asked[1u << ASKED_BITS]; // by hash; each forgets the one before
    struct shard shards[SHARDS];
};

int mux_listings_new(size_t bytes_max, struct mux_listings **ret)
{
    struct mux_listings *listings;
    if (posix_memalign((void **)&listings, 64, sizeof *listings) != 0)
        return -ENOMEM;
    memset(listings, 0, sizeof *listings);
    listings->shard_bytes_max = bytes_max / SHARDS;
    pthread_mutex_init(&listings->lock, NULL);
    for (size_t i = 0; i < SHARDS; i++)
        pthread_mutex_init(&listings->shards[i].lock, NULL);
    *ret = listings;
    return 0;
}

static void let_go(struct shard *shard, struct kept *kept)
{
    shard->bytes -= kept->bytes;
    mux_listing_unref(kept->listing);
    free(kept);
}

static void drop(struct shard *shard, struct kept *kept)
{
    HASH_DEL(shard->kept, kept);
    let_go(shard, kept);
}

// To the end of the order. For want of memory it goes.
static void append(struct shard *shard, struct kept *kept)
{
    HASH_ADD(hh, shard->kept, key, sizeof kept->key, kept);
    if (!kept->hh.tbl)
        let_go(shard, kept);
}

void mux_listings_free(struct mux_listings *listings)
{
    if (!listings)
        return;
    for (size_t i = 0; i < SHARDS; i++) {
        while (listings->shards[i].kept)
            drop(&listings->shards[i], listings->shards[i].kept);
        pthread_mutex_destroy(&listings->shards[i].lock);
    }
    mux_fid_map_fini(&listings->trees);
    pthread_mutex_destroy(&listings->lock);
    free(listings);
}

void mux_listing_unref(struct mux_listing *listing)
{
    if (listing && atomic_fetch_sub_explicit(&listing->refs, 1, memory_order_acq_rel) == 1)
        free(listing);
}

static uint64_t hash_of(const struct key *key)
{
    return (key->tree ^ key->dir << 1) * 0x9e3779b97f4a7c15u;
}

static struct shard *lock_shard(struct mux_listings *listings, const struct key *key)
{
    struct shard *shard = &listings->shards[hash_of(key) >> 32 & (SHARDS - 1)];
    pthread_mutex_lock(&shard->lock);
    return shard;
}

// ---- which tree

uint64_t mux_listings_tree(struct mux_listings *listings, uint64_t stack)
{
    uint64_t tree;
    pthread_mutex_lock(&listings->lock);
    if (!mux_fid_map_get(&listings->trees, stack, &tree)) {
        tree = ++listings->last_tree;
        if (listings->n_trees == TREES_MAX) {
            mux_fid_map_fini(&listings->trees);
            listings->n_trees = 0;
        }
        // For want of memory the next view on it has another number, and keeps its own.
        if (mux_fid_map_put(&listings->trees, stack, tree) == 0)
            listings->n_trees++;
    }
    pthread_mutex_unlock(&listings->lock);
    return tree;
}

void mux_listings_tree_changes(struct mux_listings *listings, uint64_t stack)
{
    pthread_mutex_lock(&listings->lock);
    if (mux_fid_map_get(&listings->trees, stack, NULL)) {
        mux_fid_map_del(&listings->trees, stack);
        listings->n_trees--;
    }
    pthread_mutex_unlock(&listings->lock);
}

// ---- making one

// The names as the store has them, in the order of their cookies; text in the database's memory.
struct draft {
    struct store_entry entries[NAMES_MAX];
    uint16_t by_fid[NAMES_MAX]; // indices of entries, in the order of their fids
    uint32_t count;
    size_t text_bytes;
};

// -E2BIG: more names than are kept.
static int gather(struct store_txn *txn, struct mux_layers base, uint64_t dir, struct draft *draft)
{
    struct store_dir_iter *iter;
    struct store_entry entry;
    int rc = store_dir_open(txn, base.ids, base.count, dir, 0, &iter);
    if (rc < 0)
        return rc;
    while ((rc = store_dir_next(iter, &entry, NULL)) == 0) {
        if (draft->count == NAMES_MAX) {
            rc = -E2BIG;
            break;
        }
        draft->by_fid[draft->count] = (uint16_t)draft->count;
        draft->entries[draft->count++] = entry;
        draft->text_bytes += entry.name_len;
    }
    store_dir_close(iter);
    return rc == -ENOENT ? 0 : rc;
}

static int order_by_fid(const void *a, const void *b, void *arg)
{
    const struct draft *draft = arg;
    uint64_t x = draft->entries[*(const uint16_t *)a].fid;
    uint64_t y = draft->entries[*(const uint16_t *)b].fid;
    return (x > y) - (x < y);
}

static void copy_names(const struct draft *draft, struct mux_listing *listing, char *text)
{
    listing->count = draft->count;
    for (uint32_t i = 0; i < draft->count; i++) {
        struct store_entry *entry = &listing->names[i].entry;
        *entry = draft->entries[i];
        memcpy(text, entry->name, entry->name_len);
        entry->name = text;
        text += entry->name_len;
    }
}

static int add_nodes(struct store_txn *txn, struct mux_layers base, const struct draft *draft,
                     struct mux_listing *listing)
{
    struct store_inode_run *run;
    struct store_inode inode;
    int rc =
        store_inode_run_open(txn, base.ids, base.count, listing->fid_min, listing->fid_max, &run);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; rc == 0 && i < draft->count; i++) {
        struct mux_listing_name *name = &listing->names[draft->by_fid[i]];
        rc = store_inode_run_find(run, name->entry.fid, &inode);
        if (rc == 0) // of the layers below the delta one is as another
            mux_node_of_inode(0, &inode, 1, &name->node);
    }
    store_inode_run_close(run);
    return rc; // an entry that leads nowhere: whoever asks the store says so
}

static int make_listing(struct store_txn *txn, struct mux_layers base, uint64_t dir,
                        struct mux_listing **ret, size_t *ret_bytes)
{
    struct draft draft;
    draft.count = 0;
    draft.text_bytes = 0;
    int rc = gather(txn, base, dir, &draft);
    if (rc < 0)
        return rc;
    qsort_r(draft.by_fid, draft.count, sizeof draft.by_fid[0], order_by_fid, &draft);
    size_t names = sizeof(struct mux_listing) + draft.count * sizeof(struct mux_listing_name);
    AF_CLEANUP_FREE struct mux_listing *listing = malloc(names + draft.text_bytes);
    if (!listing)
        return -ENOMEM;
    atomic_init(&listing->refs, 1);
    listing->fid_min = draft.count > 0 ? draft.entries[draft.by_fid[0]].fid : 0;
    listing->fid_max = draft.count > 0 ? draft.entries[draft.by_fid[draft.count - 1]].fid : 0;
    copy_names(&draft, listing, (char *)listing + names);
    rc = draft.count > 0 ? add_nodes(txn, base, &draft, listing) : 0;
    if (rc < 0)
        return rc;
    *ret = AF_TAKE_PTR(listing);
    *ret_bytes = names + draft.text_bytes;
    return 0;
}

// ---- keeping them

static bool find(struct mux_listings *listings, const struct key *key, struct mux_listing **ret)
{
    struct kept *kept;
    struct shard *shard = lock_shard(listings, key);
    HASH_FIND(hh, shard->kept, key, sizeof *key, kept);
    *(kept ? &shard->hits : &shard->misses) += 1;
    if (kept) {
        kept->recent = true;
        *ret = kept->listing;
        if (kept->listing)
            atomic_fetch_add_explicit(&kept->listing->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&shard->lock);
    return kept != NULL;
}

// Drops the oldest that was not used since it last was the oldest.
static void evict(struct shard *shard)
{
    struct kept *kept;
    while ((kept = shard->kept) && kept->recent) {
        kept->recent = false;
        HASH_DEL(shard->kept, kept);
        append(shard, kept);
    }
    if (kept)
        drop(shard, kept);
}

// Takes a reference of its own. For want of memory nothing is kept.
static void keep(struct mux_listings *listings, const struct key *key, struct mux_listing *listing,
                 size_t bytes)
{
    struct kept *other, *kept = malloc(sizeof *kept);
    if (!kept)
        return;
    *kept = (struct kept){.key = *key, .listing = listing, .bytes = bytes + sizeof *kept};
    struct shard *shard = lock_shard(listings, key);
    HASH_FIND(hh, shard->kept, key, sizeof *key, other);
    if (other || kept->bytes > listings->shard_bytes_max) {
        free(kept);
    } else {
        if (listing)
            atomic_fetch_add_explicit(&listing->refs, 1, memory_order_relaxed);
        shard->bytes += kept->bytes;
        append(shard, kept);
        while (shard->bytes > listings->shard_bytes_max)
            evict(shard);
    }
    pthread_mutex_unlock(&shard->lock);
}

struct mux_listing *mux_listings_find(struct mux_listings *listings, uint64_t tree, uint64_t dir)
{
    struct key key = {.tree = tree, .dir = dir};
    struct mux_listing *listing = NULL;
    find(listings, &key, &listing);
    return listing;
}

struct mux_listing *mux_listings_make(struct mux_listings *listings, struct store_txn *txn,
                                      uint64_t tree, struct mux_layers base, uint64_t dir)
{
    struct key key = {.tree = tree, .dir = dir};
    struct mux_listing *listing = NULL;
    size_t bytes = 0;
    if (find(listings, &key, &listing))
        return listing;
    int rc = make_listing(txn, base, dir, &listing, &bytes);
    if (rc == 0 || rc == -E2BIG)
        keep(listings, &key, listing, bytes);
    return listing;
}

bool mux_listings_is_due(struct mux_listings *listings, uint64_t tree, uint64_t dir)
{
    uint64_t hash = hash_of(&(struct key){.tree = tree, .dir = dir});
    _Atomic uint64_t *place = &listings->asked[hash >> (64 - ASKED_BITS)];
    uint64_t was = atomic_load_explicit(place, memory_order_relaxed);
    uint64_t count =
        was >> ASKED_COUNT == hash >> ASKED_COUNT ? was & ((1u << ASKED_COUNT) - 1) : 0;
    bool due = ++count == ASKED_DUE;
    // What two write at a time is lost for one of them.
    atomic_store_explicit(place, hash >> ASKED_COUNT << ASKED_COUNT | (due ? 0 : count),
                          memory_order_relaxed);
    return due;
}

uint32_t mux_listing_after(const struct mux_listing *listing, uint64_t cookie)
{
    uint32_t low = 0, high = listing->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (listing->names[middle].entry.cookie <= cookie)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct mux_listing_name *mux_listing_find(const struct mux_listing *listing, uint64_t cookie,
                                                const char *name, size_t name_len)
{
    // Names that share a cookie stand together.
    for (uint32_t i = mux_listing_after(listing, cookie - 1); i < listing->count; i++) {
        const struct mux_listing_name *found = &listing->names[i];
        if (found->entry.cookie != cookie)
            break;
        if (found->entry.name_len == name_len && memcmp(found->entry.name, name, name_len) == 0)
            return found;
    }
    return NULL;
}

void mux_listings_stats(struct mux_listings *listings, struct mux_listings_stats *ret)
{
    *ret = (struct mux_listings_stats){0};
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &listings->shards[i];
        pthread_mutex_lock(&shard->lock);
        ret->count += HASH_COUNT(shard->kept);
        ret->bytes += shard->bytes;
        ret->hits += shard->hits;
        ret->misses += shard->misses;
        pthread_mutex_unlock(&shard->lock);
    }
}
