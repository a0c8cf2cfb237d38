// Who is at the other end of a connection, and may they call?
//
// The kernel's word alone counts: SO_PEERCRED and SO_PEERGROUPS over the unix socket (as of the
// peer's connect), the owner of the peer's socket over loopback TCP. Over TCP the group's members
// are those of the user database, for sockets have no groups.
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

static bool deny(const struct net_server *server, const struct grpc_peer *peer, char *denied)
{
    if (server->options.check_group)
        snprintf(denied, NET_DENIED_TEXT,
                 "uid %u may not call this daemon: only root and members of the group %s may",
                 (unsigned)peer->uid, server->group_name);
    else
        snprintf(denied, NET_DENIED_TEXT,
                 "uid %u may not call this daemon: only root may, as no group is configured",
                 (unsigned)peer->uid);
    return false;
}

static bool check_tcp(const struct net_server *server, int fd, struct grpc_peer *peer, char *denied)
{
    int error = net_sock_diag_uid(fd, &peer->uid);
    if (error) {
        peer->uid = (uid_t)-1;
        snprintf(denied, NET_DENIED_TEXT,
                 "cannot tell which user makes this TCP connection (%s): use the unix socket",
                 strerror(-error));
        return false;
    }
    peer->gid = (gid_t)-1;
    if (peer->uid == 0 || peer->uid == geteuid())
        return true;
    if (server->options.check_group && is_member_in_database(peer->uid, server->options.group))
        return true;
    return deny(server, peer, denied);
}

bool net_peer_check(const struct net_server *server, int fd, bool local, struct grpc_peer *ret_peer,
                    char *denied)
{
    *ret_peer = (struct grpc_peer){.uid = (uid_t)-1, .gid = (gid_t)-1, .local = local};
    if (!local)
        return check_tcp(server, fd, ret_peer, denied);
    struct ucred cred;
    socklen_t size = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) {
        snprintf(denied, NET_DENIED_TEXT, "the kernel does not say who is calling: %s",
                 strerror(errno));
        return false;
    }
    ret_peer->uid = cred.uid;
    ret_peer->gid = cred.gid;
    ret_peer->pid = cred.pid;
    if (cred.uid == 0 || cred.uid == geteuid())
        return true;
    gid_t group = server->options.group;
    if (server->options.check_group && (cred.gid == group || has_supplementary_group(fd, group)))
        return true;
    return deny(server, ret_peer, denied);
}
