// Terminals: a pair in the box's own devpts, opened by the engine.
//
// The launcher keeps the devpts of a box as a descriptor: it has mounted it there, or has found it
// in a container when only the init ran in it. A
// terminal is opened through that descriptor and its slave through the master (TIOCGPTPEER):
// nothing inside the box is asked or trusted, no path is looked up that the box could change,
// and opening costs a few microseconds of memory work, which the event thread may do itself.
// The slave belongs to the box's uid, so that /dev/tty and /dev/pts/N can be opened again; the
// leader makes it its controlling terminal (init/command.c). What the box writes to it is bytes
// for the reader, never interpreted here. Forging input (TIOCSTI) is refused by the filter.
// Owns: nothing; the descriptors are the command's. Fails: -errno. Read next: input.c, stream.c.
#include "exec/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include "mux/base/cleanup.h"

#define ROWS_DEFAULT    24
#define COLUMNS_DEFAULT 80

// One box cannot use up the machine's terminals. Options that are not named get their defaults,
// also in a devpts that is there already.
static int configure(int context, enum fsconfig_command command)
{
    char max[16];
    snprintf(max, sizeof(max), "%u", AF_TERMINALS_MAX);
    if (fsconfig(context, FSCONFIG_SET_STRING, "ptmxmode", "666", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "mode", "620", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "max", max, 0) < 0 ||
        fsconfig(context, command, NULL, NULL, 0) < 0)
        return -errno;
    return 0;
}

int exec_pty_mount_new(int *ret_fd)
{
    AF_CLEANUP_FD int context = fsopen("devpts", FSOPEN_CLOEXEC);
    int e = context < 0 ? -errno : configure(context, FSCONFIG_CMD_CREATE);
    if (e < 0)
        return e;
    *ret_fd = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    return *ret_fd < 0 ? -errno : 0;
}

int exec_pty_locate(pid_t init_pid, int init_pidfd, int *ret_fd, struct af_error *err)
{
    char path[64];
    struct statfs fs;
    *ret_fd = -1;
    snprintf(path, sizeof(path), "/proc/%d/root/dev/pts", (int)init_pid);
    AF_CLEANUP_FD int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int failed = fd < 0 ? errno : 0;
    // Still there: the path was about the process that the pidfd names.
    if (pidfd_send_signal(init_pidfd, 0, NULL, 0) < 0)
        return af_error_set(err, AF_UNAVAILABLE, "the sandbox's init ended at its start");
    if (failed == ENOENT || failed == ENOTDIR || failed == ELOOP)
        return 0;
    if (failed)
        return af_error_errno(err, failed, "cannot look at the sandbox's /dev/pts");
    if (fstatfs(fd, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC)
        return 0;
    AF_CLEANUP_FD int context = fspick(fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
    if (context >= 0)
        configure(context, FSCONFIG_CMD_RECONFIGURE); // as far as it goes: the image's own
    *ret_fd = af_take_fd(&fd);
    return 0;
}

// ---- size -------------------------------------------------------------------------------

void exec_pty_want(struct exec_command *command, const struct exec_window *window)
{
    unsigned rows = window->rows ? window->rows : ROWS_DEFAULT;
    unsigned columns = window->columns ? window->columns : COLUMNS_DEFAULT;
    atomic_store(&command->window, rows << 16 | columns);
}

static void set_size(const struct exec_command *command, int master)
{
    unsigned window = atomic_load(&command->window);
    const struct winsize size = {.ws_row = (unsigned short)(window >> 16),
                                 .ws_col = (unsigned short)(window & 0xffff)};
    ioctl(master, TIOCSWINSZ, &size); // of a master of ours: cannot fail
}

static void on_resize(struct exec_post *post)
{
    struct exec_command *command = EXEC_CONTAINER_OF(post, struct exec_command, resize_post);
    atomic_store(&command->resize_posted, false);
    if (command->out.watch.fd >= 0)
        set_size(command, command->out.watch.fd);
    exec_command_unref(command);
}

int exec_command_resize(struct exec_command *command, const struct exec_window *window,
                        struct af_error *err)
{
    AF_CHECK_MAGIC(command, EXEC_COMMAND_MAGIC);
    if (!command->terminal)
        return af_error_set(err, AF_FAILED_PRECONDITION, "the command has no terminal");
    exec_pty_want(command, window);
    if (atomic_load(&command->over) || atomic_exchange(&command->resize_posted, true))
        return 0;
    atomic_fetch_add(&command->refs, 1);
    exec_post(command->engine, &command->resize_post, on_resize);
    return 0;
}

// ---- open -------------------------------------------------------------------------------

static int open_pair(const struct exec_box *box, int *ret_master, int *ret_slave)
{
    if (box->launch.pts_fd < 0)
        return -ENODEV;
    AF_CLEANUP_FD int master =
        openat(box->launch.pts_fd, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    const int unlocked = 0;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0)
        return -errno;
    AF_CLEANUP_FD int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios termios;
    if (slave < 0 || fchown(slave, box->uid, box->gid) < 0 || tcgetattr(slave, &termios) < 0)
        return -errno;
    termios.c_iflag |= IUTF8; // so that erasing takes a character, not a byte
    if (tcsetattr(slave, TCSANOW, &termios) < 0)
        return -errno;
    *ret_master = af_take_fd(&master);
    *ret_slave = af_take_fd(&slave);
    return 0;
}

// The slave three times, after the status socket.
static int add_slave(struct exec_command *command, int slave)
{
    int rest = command->fd_count - 1;
    memmove(command->fds + 4, command->fds + 1, (size_t)rest * sizeof(int));
    command->fds[1] = slave;
    command->fds[2] = fcntl(slave, F_DUPFD_CLOEXEC, 0);
    command->fds[3] = fcntl(slave, F_DUPFD_CLOEXEC, 0);
    command->fd_count += 3;
    return command->fds[2] < 0 || command->fds[3] < 0 ? -EMFILE : 0;
}

int exec_pty_open(struct exec_command *command)
{
    int slave = -1;
    int e = open_pair(command->box, &command->out.watch.fd, &slave);
    if (e < 0)
        return e;
    set_size(command, command->out.watch.fd);
    e = add_slave(command, slave);
    if (e < 0)
        return e;
    // A second one: epoll knows a descriptor once, and reading and writing wait apart.
    command->stdin_watch.fd = fcntl(command->out.watch.fd, F_DUPFD_CLOEXEC, 0);
    return command->stdin_watch.fd < 0 ? -errno : 0;
}

// ---- input ------------------------------------------------------------------------------

int exec_pty_end_input(int master)
{
    struct termios termios;
    if (tcgetattr(master, &termios) < 0 || termios.c_cc[VEOF] == _POSIX_VDISABLE)
        return 0;
    ssize_t n = write(master, &termios.c_cc[VEOF], 1);
    return n < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

// What a slave has to read, its master cannot tell.
bool exec_pty_is_read(int master)
{
    AF_CLEANUP_FD int slave =
        ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct pollfd polled = {.fd = slave, .events = POLLIN};
    return slave >= 0 && poll(&polled, 1, 0) == 0;
}
