// agentfensed: options, signals, and the one line `ready`.
//
// Stays in the foreground. SIGTERM and SIGINT stop it cleanly (exit code 0); it also stops, with
// exit code 1, when somebody unmounts its file system under it. Signals are blocked before any
// thread starts and taken from a signalfd. Read next: daemon.c.
#include "api/daemon.h"

#include "exec/exec.h"
#include "mux/base/cleanup.h"
#include "mux/base/log.h"
#include "mux/base/streams.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

// Every view, connection and open blob may need a descriptor: take what the hard limit gives.
static void raise_fd_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

// Blocks the signals that are for the daemon and returns a descriptor that they arrive on.
static int take_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP); // reload; also the end of the terminal, which is no reason to stop
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// Whether the daemon has to stop.
static bool take_signal(struct daemon *daemon, int signals)
{
    struct signalfd_siginfo info;
    if (read(signals, &info, sizeof info) != (ssize_t)sizeof info)
        return false;
    if (info.ssi_signo != SIGHUP)
        return true;
    daemon_reload(daemon);
    return false;
}

// Returns when the daemon has to stop: 0 on a signal, 1 when the mount has gone.
static int serve(struct daemon *daemon, int signals)
{
    struct pollfd fds[] = {
        {.fd = signals, .events = POLLIN},
        {.fd = fs_session_end_fd(daemon->fs), .events = POLLIN},
    };
    for (;;) {
        if (poll(fds, AF_ARRAY_LEN(fds), -1) < 0) {
            if (errno == EINTR)
                continue;
            return 1;
        }
        if (fds[0].revents && take_signal(daemon, signals))
            return 0;
        if (fds[1].revents) {
            af_log(AF_LOG_ERROR, "daemon", "the mount has gone; stopping", "mount=%s",
                   daemon->config.mount);
            return 1;
        }
    }
}

int main(int argc, char **argv)
{
    struct af_config config;
    enum af_config_action action;
    struct af_error err;
    af_streams_init();
    if (af_config_load(argc, argv, &config, &action, &err) < 0) {
        fprintf(stderr, "agentfensed: %s\n", err.text);
        return 2;
    }
    if (action != AF_CONFIG_RUN) {
        if (action == AF_CONFIG_HELP)
            af_config_usage(stdout);
        else if (action == AF_CONFIG_VERSION)
            puts("agentfensed " AF_VERSION);
        af_config_fini(&config);
        return 0;
    }
    af_log_set_level(config.log_level);
    af_log_find_journal();
    raise_fd_limit();
    exec_short_slices();
    AF_CLEANUP_FD int signals = take_signals();
    struct daemon *daemon;
    if (signals < 0 || daemon_start(&config, &daemon, &err) < 0) {
        fprintf(stderr, "agentfensed: %s\n", signals < 0 ? strerror(errno) : err.text);
        return 1;
    }
    puts("ready");
    fflush(stdout);
    sd_notify(0, "READY=1");
    int code = serve(daemon, signals);
    sd_notify(0, "STOPPING=1");
    daemon_stop(daemon);
    return code;
}
