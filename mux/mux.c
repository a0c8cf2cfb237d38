// Opening and closing: the store, the node cache, the view table. Read next: mux_priv.h, view.h.
#include "mux/mux.h"

#include "mux/base/clock.h"
#include "mux/compact.h"
#include "mux/kept.h"
#include "mux/listings.h"
#include "mux/news_priv.h"
#include "mux/parts.h"
#include "mux/mux_priv.h"
#include "mux/node.h"
#include "mux/sandbox.h"
#include "mux/view.h"

#include <errno.h>
#include <inttypes.h>

static int check_options(const struct mux_options *options, struct af_error *err)
{
    if (options->uid_count == 0 || options->uid_count > AF_SLOT_COUNT)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the range of host uids must have 1 to %u of them, not %" PRIu32,
                            AF_SLOT_COUNT, options->uid_count);
    uint64_t first = options->uid_base, last = first + options->uid_count;
    if (first == 0 || last >= UINT32_MAX)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the range of host uids %" PRIu64 " to %" PRIu64
                            " must not contain root nor end beyond the last uid",
                            first, last);
    if (options->reserved_uid >= first && options->reserved_uid <= last)
        return af_error_set(err, AF_INVALID_ARGUMENT,
                            "the reserved uid %u must be outside of the sandboxes' range %" PRIu64
                            " to %" PRIu64,
                            options->reserved_uid, first, last);
    return 0;
}

static int open_parts(struct mux *mux, const struct mux_options *options, size_t nodes_max,
                      struct af_error *err)
{
    int rc = mux_node_cache_new(nodes_max, &mux->nodes);
    if (rc == 0)
        rc = mux_listings_new(AF_LISTINGS_BYTES_MAX, &mux->listings);
    if (rc == 0)
        rc = mux_view_table_new(mux);
    if (rc == 0)
        rc = mux_kept_new(mux);
    if (rc == 0)
        rc = mux_parts_new(mux);
    if (rc == 0)
        rc = mux_news_new(mux);
    if (rc < 0)
        return af_error_errno(err, rc, "making the tables of views and nodes");
    struct store_options store = {.dir = options->state_dir, .batch_after = options->batch_after};
    if (store_open(&store, &mux->store, err) < 0)
        return -1;
    if (mux_sandbox_recover(mux, err) < 0)
        return -1;
    rc = mux_compact_start(mux, !options->no_compaction);
    return rc < 0 ? af_error_errno(err, rc, "starting the compaction of layers") : 0;
}

int mux_open_sized(const struct mux_options *options, size_t nodes_max, struct mux **ret,
                   struct af_error *err)
{
    if (check_options(options, err) < 0)
        return -1;
    struct mux *mux = calloc(1, sizeof *mux);
    if (!mux)
        return af_error_errno(err, ENOMEM, "opening the state directory");
    mux->magic = MUX_MAGIC;
    mux->uid_base = options->uid_base;
    mux->uid_count = options->uid_count;
    mux->reserved_uid = options->reserved_uid;
    mux->no_sharing = options->no_sharing;
    mux->iops_max = options->iops_max;
    mux->bandwidth_max = options->bandwidth_max;
    mux->opened_ns = af_wall_ns();
    mux->absorb_max = MUX_ABSORB_MAX;
    mux->merge_step_max = MUX_MERGE_STEP_MAX;
    mux->merge_batch = MUX_MERGE_BATCH;
    if (open_parts(mux, options, nodes_max, err) < 0) {
        mux_close(mux);
        return -1;
    }
    *ret = mux;
    return 0;
}

int mux_open(const struct mux_options *options, struct mux **ret, struct af_error *err)
{
    return mux_open_sized(options, options->nodes_max ? options->nodes_max : AF_NODE_CACHE_DEFAULT,
                          ret, err);
}

void mux_close(struct mux *mux)
{
    if (!mux)
        return;
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    mux_compact_stop(mux);
    mux_view_table_free(mux);
    mux_node_cache_free(mux->nodes);
    mux_listings_free(mux->listings);
    if (mux->store)
        store_close(mux->store);
    mux_kept_free(mux);
    mux_parts_free(mux);
    mux_news_free(mux);
    mux->magic = 0;
    free(mux);
}

void mux_fix_content(struct mux *mux)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    atomic_store(&mux->content_fixed, true);
}

void mux_set_notifier(struct mux *mux, const struct mux_notifier *notifier, void *arg)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    mux_kept_pause_asking(mux);
    mux->notifier = notifier;
    mux->notifier_arg = arg;
    mux_kept_resume_asking(mux);
}

void mux_get_stats(struct mux *mux, struct mux_stats *ret)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    struct mux_node_cache_stats nodes;
    mux_node_cache_stats(mux->nodes, &nodes);
    *ret = (struct mux_stats){
        .views_attached = mux_view_table_count(mux),
        .nodes_cached = nodes.count,
        .nodes_max = nodes.capacity,
        .node_hits = nodes.hits,
        .node_misses = nodes.misses,
        .node_evictions = nodes.evictions,
        .copy_ups = mux->counters.copy_ups,
        .shared_write_alarms = mux->counters.shared_write_alarms,
        .lookups_hidden = mux->counters.lookups_hidden,
        .merges = mux->counters.merges,
    };
}

struct store *mux_store(struct mux *mux)
{
    AF_CHECK_MAGIC(mux, MUX_MAGIC);
    return mux->store;
}
