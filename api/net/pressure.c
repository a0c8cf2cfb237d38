// What goes when there is no room, so that nobody can keep the others out.
//
// Connections: those of peers who may not call (other users, sandboxes with the host's network,
// whoever has shown no token yet) have a share of all, and in it the oldest makes room for the
// newest: of the newcomer's own uid when that has an eighth of the share.
// Memory: when what is held comes near the limit, the connections that hold most of it go: at first
// of those that do not move what they hold, in the end of all. So others are refused for moments
// only. The network thread's, but for net_pressure_run. Owns nothing. Failure: none. Read next:
// conn.c (net_conn_sweep), loop.c.
#include "api/net/net_priv.h"

#include <malloc.h>

#define HIGH_BYTES(total) ((total) / 8 * 7)   // from here on who stands still goes
#define LAST_BYTES(total) ((total) / 16 * 15) // from here on anybody
#define STILL_SWEEPS      2                   // seconds in which next to nothing moved
#define STILL_SHARE       16                  // of what is held, moved in a second: not still
#define TRIM_BYTES        (64u << 20)         // of a peak that is worth giving back to the kernel

static bool is_unproven(const struct net_conn *conn)
{
    return !conn->permitted && !conn->known && !conn->cut;
}

void net_pressure_make_room(struct net_server *server, const struct net_conn *newcomer,
                            bool uid_is_full)
{
    unsigned all = 0, same = 0, most = server->limits.conns_unproven;
    struct net_conn *oldest = NULL, *oldest_same = NULL; // the list begins with the newest
    for (struct net_conn *conn = server->conns; conn; conn = conn->next) {
        if (!is_unproven(conn))
            continue;
        oldest = conn;
        all++;
        if (conn->peer.uid == newcomer->peer.uid) {
            oldest_same = conn;
            same++;
        }
    }
    if (all < most || !oldest)
        return;
    struct net_conn *victim = same > most / 8 ? oldest_same : oldest;
    if (uid_is_full && victim->peer.uid != newcomer->peer.uid)
        return; // the newcomer could not stay all the same
    net_conn_cut(victim, "room for others who may not call");
}

static size_t held_by(const struct net_conn *conn)
{
    return conn->held_in + conn->held_out;
}

void net_pressure_sweep(struct net_conn *conn)
{
    if (conn->moved_bytes < held_by(conn) / STILL_SHARE)
        conn->still_sweeps += conn->still_sweeps < STILL_SWEEPS;
    else
        conn->still_sweeps = 0;
    conn->moved_bytes = 0;
}

void net_pressure_relieve(struct net_server *server)
{
    size_t total = server->limits.total_buffer_bytes, held;
    while ((held = atomic_load(&server->buffered)) > HIGH_BYTES(total)) {
        struct net_conn *victim = NULL;
        for (struct net_conn *conn = server->conns; conn; conn = conn->next)
            if (!conn->lingering && held_by(conn) > (victim ? held_by(victim) : 0) &&
                (conn->still_sweeps >= STILL_SWEEPS || held > LAST_BYTES(total)))
                victim = conn;
        if (!victim)
            return;
        net_conn_cut(victim, "it holds most while memory is short");
    }
}

// One for the process, as the heap is. The item is the pool's while it is queued.
static struct net_pool_item trim_item;
static atomic_bool trim_queued;

void net_pressure_run(struct net_pool_item *item)
{
    if (item != &trim_item) {
        grpc_call_run(item);
        return;
    }
    malloc_trim(0);
    atomic_store(&trim_queued, false);
}

// It takes as long as the heap is large: on the network thread all connections would wait for it.
void net_pressure_trim(struct net_server *server)
{
    size_t held = atomic_load(&server->buffered);
    if (held > server->held_peak)
        server->held_peak = held;
    if (server->held_peak < TRIM_BYTES || held > server->held_peak / 4)
        return;
    if (!atomic_exchange(&trim_queued, true)) {
        net_pool_submit(&server->pool, &trim_item);
        server->held_peak = held;
    }
}
