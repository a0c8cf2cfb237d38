// Signals: see interrupt.h.
#include "tools/agentfense/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

static volatile sig_atomic_t came;
static volatile sig_atomic_t connection = -1;

static void on_signal(int number)
{
    int saved = errno;
    came = number;
    if (connection >= 0)
        shutdown(connection, SHUT_RDWR);
    errno = saved;
}

static void fill(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

void interrupt_init(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};
    fill(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        // nohup(1) and background jobs of a shell ignore some of them: leave that so.
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

void interrupt_set_fd(int fd)
{
    connection = fd;
    if (came && fd >= 0)
        shutdown(fd, SHUT_RDWR);
}

int interrupt_signal(void)
{
    return came;
}

int interrupt_check(struct af_error *err)
{
    if (!came)
        return 0;
    return af_error_set(err, AF_CANCELLED, "interrupted by signal %d (%s)", (int)came,
                        strsignal(came));
}

void interrupt_hold(void)
{
    sigset_t set;
    fill(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

void interrupt_release(void)
{
    sigset_t set;
    fill(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}
