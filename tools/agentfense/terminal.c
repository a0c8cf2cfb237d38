// The user's terminal: see terminal.h.
//
// Everything that handlers touch is written before they are installed. tcsetattr, tcgetattr and
// write may be called from a handler. Owns: the saved settings. Fails: af_error.
#include "tools/agentfense/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved, raw;
static volatile sig_atomic_t is_raw;
static int resized[2] = {-1, -1};

void terminal_restore(void)
{
    if (!is_raw)
        return;
    is_raw = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
}

// A fault of ours: the terminal first, then the signal's own effect.
static void on_fault(int number)
{
    if (is_raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    signal(number, SIG_DFL);
    raise(number);
}

// Stopped from elsewhere: a raw terminal has no key for it.
static void on_stop(int number)
{
    int before = errno, was_raw = is_raw;
    if (was_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
    (void)number;
    raise(SIGSTOP);
    if (was_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    errno = before;
}

static void install(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags}, old;
    sigemptyset(&action.sa_mask);
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        (void)sigaction(number, &action, NULL); // as the first did
}

static void install_handlers(void)
{
    static const int faults[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGQUIT};
    static bool installed;
    if (installed)
        return;
    installed = true;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        install(faults[i], on_fault, 0);
    install(SIGTSTP, on_stop, SA_RESTART);
    atexit(terminal_restore);
}

int terminal_raw(struct af_error *err)
{
    if (!isatty(STDIN_FILENO) || is_raw)
        return 0;
    if (tcgetattr(STDIN_FILENO, &saved) < 0)
        return af_error_errno(err, errno, "cannot read the terminal's settings");
    raw = saved;
    cfmakeraw(&raw);
    install_handlers();
    is_raw = 1;
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0)
        return 0;
    is_raw = 0;
    return af_error_errno(err, errno, "cannot make the terminal raw");
}

bool terminal_size(uint32_t *ret_rows, uint32_t *ret_columns)
{
    struct winsize size;
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (ioctl(fd, TIOCGWINSZ, &size) < 0)
            continue;
        *ret_rows = size.ws_row;
        *ret_columns = size.ws_col;
        return true;
    }
    return false;
}

// ---- size -------------------------------------------------------------------------------

static void on_resize(int number)
{
    int before = errno;
    (void)number;
    if (write(resized[1], "", 1) < 0 && errno != EAGAIN)
        abort(); // a pipe of our own
    errno = before;
}

int terminal_watch(void)
{
    if (resized[0] < 0 && pipe2(resized, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    install(SIGWINCH, on_resize, SA_RESTART);
    return resized[0];
}

void terminal_watched(int fd)
{
    char bytes[64];
    while (read(fd, bytes, sizeof bytes) > 0)
        ;
}
