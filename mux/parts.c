// Merged layers and their parts. Read next: parts.h, compact.c.
#include "mux/parts.h"

#include "mux/compact.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

struct part {
    uint64_t merged, pin;
    size_t count;
    uint64_t run[STORE_MERGE_MAX];
};

// Changed with both the turn of compaction and the lock held, read with either.
struct mux_parts {
    pthread_mutex_t lock;
    struct part list[MUX_PARTS_MAX]; // oldest first
    size_t count;
};

int mux_parts_new(struct mux *mux)
{
    mux->parts = calloc(1, sizeof *mux->parts);
    if (!mux->parts)
        return -ENOMEM;
    pthread_mutex_init(&mux->parts->lock, NULL);
    return 0;
}

void mux_parts_free(struct mux *mux)
{
    if (!mux->parts)
        return;
    pthread_mutex_destroy(&mux->parts->lock);
    free(mux->parts);
    mux->parts = NULL;
}

// ---- keeping

// References to a layer that are the parts' own.
static uint32_t count_own(const struct mux_parts *parts, uint64_t layer)
{
    uint32_t own = 0;
    for (size_t i = 0; i < parts->count; i++)
        for (size_t k = 0; k < parts->list[i].count; k++)
            own += parts->list[i].run[k] == layer;
    return own;
}

// Whether a stack, or anything else but the parts and `others`, holds a layer of the run.
static int is_stood_on(const struct mux_parts *parts, struct store_txn *txn, const uint64_t *run,
                       size_t count, uint32_t others, bool *ret)
{
    struct store_layer layer;
    int rc = 0;
    *ret = false;
    for (size_t i = 0; rc == 0 && !*ret && i < count; i++) {
        rc = store_layer_get(txn, run[i], &layer);
        *ret = rc == 0 && layer.refs > count_own(parts, run[i]) + others;
    }
    return rc;
}

// Out of the list first: whoever finds it there reads a state in which its layers are.
static int forget(struct mux *mux, size_t at)
{
    struct mux_parts *parts = mux->parts;
    struct store_txn *txn;
    pthread_mutex_lock(&parts->lock);
    uint64_t pin = parts->list[at].pin;
    parts->count--;
    memmove(&parts->list[at], &parts->list[at + 1], (parts->count - at) * sizeof *parts->list);
    pthread_mutex_unlock(&parts->lock);
    int rc = store_write_begin(mux->store, &txn);
    if (rc < 0)
        return rc; // the next start lets go of it
    rc = store_layers_unpin(txn, pin);
    if (rc == 0)
        return store_commit(txn);
    store_abort(txn);
    return rc;
}

// One reference to each layer is the merge's.
static int pin(struct mux *mux, const uint64_t *run, size_t count, uint64_t *ret)
{
    struct store_txn *txn;
    bool wanted;
    *ret = 0;
    int rc = store_write_begin(mux->store, &txn);
    if (rc < 0)
        return rc;
    rc = is_stood_on(mux->parts, txn, run, count, 1, &wanted);
    if (rc == 0 && wanted)
        rc = store_layers_pin(txn, run, count, ret);
    if (rc == 0 && wanted)
        return store_commit(txn);
    store_abort(txn);
    return rc;
}

int mux_parts_note(struct mux *mux, const uint64_t *run, size_t count, uint64_t merged)
{
    struct mux_parts *parts = mux->parts;
    struct part part = {.merged = merged, .count = count};
    int rc = count <= STORE_MERGE_MAX ? pin(mux, run, count, &part.pin) : -EINVAL;
    if (rc == 0 && part.pin != 0 && parts->count == MUX_PARTS_MAX)
        rc = forget(mux, 0);
    if (rc < 0 || part.pin == 0)
        return rc;
    memcpy(part.run, run, count * sizeof *run);
    pthread_mutex_lock(&parts->lock);
    parts->list[parts->count++] = part;
    pthread_mutex_unlock(&parts->lock);
    return 0;
}

bool mux_parts_has(struct mux *mux, uint64_t layer)
{
    struct mux_parts *parts = mux->parts;
    bool has = false;
    pthread_mutex_lock(&parts->lock);
    for (size_t i = 0; !has && i < parts->count; i++)
        has = parts->list[i].merged == layer;
    pthread_mutex_unlock(&parts->lock);
    return has;
}

int mux_parts_sweep(struct mux *mux)
{
    struct mux_parts *parts = mux->parts;
    int rc = 0;
    for (size_t i = parts->count; rc == 0 && i-- > 0;) {
        const struct part *part = &parts->list[i];
        struct store_txn *txn;
        bool wanted;
        rc = store_read_begin(mux->store, &txn);
        if (rc < 0)
            return rc;
        rc = is_stood_on(parts, txn, part->run, part->count, 0, &wanted);
        store_read_end(txn);
        if (rc == 0 && !wanted)
            rc = forget(mux, i);
    }
    return rc;
}

void mux_parts_wake(struct mux *mux)
{
    pthread_mutex_lock(&mux->parts->lock);
    bool any = mux->parts->count > 0;
    pthread_mutex_unlock(&mux->parts->lock);
    if (any)
        mux_compact_wake(mux);
}

// ---- taking apart

static int add(struct mux_layer_list *list, size_t *capacity, uint64_t id)
{
    if (list->count == *capacity) {
        size_t bigger = *capacity ? *capacity * 2 : 64;
        uint64_t *ids = realloc(list->ids, bigger * sizeof *ids);
        if (!ids)
            return -ENOMEM;
        list->ids = ids;
        *capacity = bigger;
    }
    list->ids[list->count++] = id;
    return 0;
}

// A part may be a merged layer itself, of an older merge: those before `end`. Under the lock.
static int take_apart(const struct mux_parts *parts, size_t end, uint64_t id,
                      struct mux_layer_list *list, size_t *capacity)
{
    for (size_t i = end; i-- > 0;) {
        const struct part *part = &parts->list[i];
        if (part->merged != id)
            continue;
        int rc = 0;
        for (size_t k = 0; rc == 0 && k < part->count; k++)
            rc = take_apart(parts, i, part->run[k], list, capacity);
        return rc;
    }
    return add(list, capacity, id);
}

int mux_parts_expand(struct mux *mux, struct mux_layers layers, struct mux_layer_list *ret)
{
    struct mux_parts *parts = mux->parts;
    struct mux_layer_list list = {0};
    size_t capacity = 0;
    int rc = 0;
    pthread_mutex_lock(&parts->lock);
    for (size_t i = 0; rc == 0 && i < layers.count; i++)
        rc = take_apart(parts, parts->count, layers.ids[i], &list, &capacity);
    pthread_mutex_unlock(&parts->lock);
    if (rc < 0)
        mux_layer_list_fini(&list);
    else
        *ret = list;
    return rc;
}
