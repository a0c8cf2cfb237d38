// Who is at the other end of a connection, and may they call?
//
// The kernel's word alone counts: SO_PEERCRED and SO_PEERGROUPS over the unix socket (as of the
// peer's connect), the owner of the peer's socket over loopback TCP. Over TCP the group's members
// are those of the user database, for sockets have no groups. Of a peer beyond this machine the
// kernel knows nothing: it needs TLS and a token (token.h), checked with each call.
// Runs once per connection on the network thread. Locks: none. Failure: refused, with the reason.
// Read next: sock_diag.c.
#include "api/net/net_priv.h"

#include "mux/base/cleanup.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define GROUPS_MAX   65536
#define PASSWD_BYTES 16384

static bool has_supplementary_group(int fd, gid_t group)
{
    gid_t few[32];
    socklen_t size = sizeof few;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, few, &size) == 0) {
        for (size_t i = 0; i < size / sizeof few[0]; i++)
            if (few[i] == group)
                return true;
        return false;
    }
    if (errno != ERANGE || size > GROUPS_MAX * sizeof(gid_t))
        return false;
    AF_CLEANUP_FREE gid_t *many = malloc(size);
    if (!many || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, many, &size) != 0)
        return false;
    for (size_t i = 0; i < size / sizeof many[0]; i++)
        if (many[i] == group)
            return true;
    return false;
}

static bool is_member_in_database(uid_t uid, gid_t group)
{
    char buffer[PASSWD_BYTES];
    struct passwd entry, *found;
    if (getpwuid_r(uid, &entry, buffer, sizeof buffer, &found) != 0 || !found)
        return false;
    gid_t groups[1024];
    int count = AF_ARRAY_LEN(groups);
    if (getgrouplist(found->pw_name, found->pw_gid, groups, &count) < 0)
        return false;
    for (int i = 0; i < count; i++)
        if (groups[i] == group)
            return true;
    return false;
}

static void deny(struct net_conn *conn)
{
    const struct net_server *server = conn->server;
    if (server->options.check_group)
        snprintf(conn->denied, NET_DENIED_TEXT,
                 "uid %u may not call this daemon: only root and members of the group %s may",
                 (unsigned)conn->peer.uid, server->group_name);
    else
        snprintf(conn->denied, NET_DENIED_TEXT,
                 "uid %u may not call this daemon: only root may, as no group is configured",
                 (unsigned)conn->peer.uid);
}

// A sandbox with the host's network reaches the daemon's sockets, whatever groups its uid may have
// got: its agent must not command the daemon that confines it.
static bool is_sandbox(const struct net_server *server, uid_t uid)
{
    return uid >= server->options.refused_uid &&
           uid - server->options.refused_uid < server->options.refused_uid_count;
}

static bool is_admin(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

// A TCP peer: on this machine judged by its uid; from elsewhere, over TLS, by its token.
static void check_tcp(struct net_conn *conn, int fd, bool tls)
{
    const struct net_server *server = conn->server;
    int error = net_sock_diag_uid(fd, &conn->peer.uid);
    conn->token_admits = tls && server->tokens;
    if (error) {
        conn->peer.uid = (uid_t)-1;
        if (conn->token_admits)
            snprintf(conn->denied, NET_DENIED_TEXT,
                     "send a token of this server: metadata \"authorization: Bearer TOKEN\"");
        else
            snprintf(conn->denied, NET_DENIED_TEXT,
                     "cannot tell which user makes this TCP connection (%s): use the unix socket",
                     strerror(-error));
        return;
    }
    gid_t group = server->options.group;
    uid_t uid = conn->peer.uid;
    if (is_sandbox(server, uid))
        conn->token_admits = false;
    else
        conn->permitted =
            is_admin(uid) || (server->options.check_group && is_member_in_database(uid, group));
    deny(conn);
}

static void check_local(struct net_conn *conn, int fd)
{
    const struct net_server *server = conn->server;
    struct ucred cred;
    socklen_t size = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) {
        snprintf(conn->denied, NET_DENIED_TEXT, "the kernel does not say who is calling: %s",
                 strerror(errno));
        return;
    }
    conn->peer.uid = cred.uid;
    conn->peer.gid = cred.gid;
    conn->peer.pid = cred.pid;
    gid_t group = server->options.group;
    if (!is_sandbox(server, cred.uid))
        conn->permitted =
            is_admin(cred.uid) || (server->options.check_group &&
                                   (cred.gid == group || has_supplementary_group(fd, group)));
    deny(conn);
}

void net_peer_check(struct net_conn *conn, int fd, const struct net_listener *from)
{
    conn->peer = (struct grpc_peer){.uid = (uid_t)-1, .gid = (gid_t)-1, .local = from->local};
    if (from->local)
        check_local(conn, fd);
    else
        check_tcp(conn, fd, from->tls);
}
