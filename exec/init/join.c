// How an init that somebody else has started comes to its engine: by the path of a socket.
//
// bubblewrap hands the descriptors down and loads the system call filters before the init runs. A
// container manager does neither, so the engine's first packet (EXEC_MSG_SETUP) brings the run
// directory's lock and the two filters. Nothing else runs in the container before HELLO.
// Owns: nothing. Fails: by exiting. Read next: protocol.h, exec/docker.c (the other end).
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "exec/init/init.h"

static void load_filter(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        init_die("filter");
    struct sock_filter *code = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const struct sock_fprog program = {
        .len = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter)), .filter = code};
    if (code == MAP_FAILED || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        init_die("filter");
    munmap(code, (size_t)st.st_size);
}

static void receive_setup(int socket_fd, int fds[EXEC_SETUP_FDS])
{
    struct exec_msg_head head;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * EXEC_SETUP_FDS)];
    } control;
    struct iovec iov = {&head, sizeof(head)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC);
    if (n == 0)
        _exit(0); // the engine does not want us any more
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (n != (ssize_t)sizeof(head) || head.kind != EXEC_MSG_SETUP || !c ||
        c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int) * EXEC_SETUP_FDS)) {
        errno = EBADMSG;
        init_die("SETUP");
    }
    memcpy(fds, CMSG_DATA(c), sizeof(int) * EXEC_SETUP_FDS);
}

void init_join(const char *path, int *ret_socket_fd, int *ret_lock_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fds[EXEC_SETUP_FDS];
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        init_die("connect");
    receive_setup(fd, fds);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        init_die("PR_SET_NO_NEW_PRIVS");
    load_filter(fds[1]);
    load_filter(fds[2]);
    *ret_socket_fd = fd;
    *ret_lock_fd = fds[0];
}
