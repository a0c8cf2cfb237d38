// A tree of processes that does not want to end: chains of processes that fork, leave their session
// and exit, for ever; the first few links of each leave one behind that stops itself.
//
//   fork_bomb CHAINS MARK     (MARK is for whoever looks through command lines)
// Each link of a chain lives for some microseconds, as a child of whoever adopts it: a list of
// processes is old when it has been read. Prints "going" once it has begun.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Noreturn void chain(void)
{
    for (unsigned link = 0;; link++) {
        pid_t pid = fork();
        if (pid > 0)
            _exit(0);
        if (pid < 0)
            continue; // at the limit: until there is room
        setsid();
        if (link < 4 && fork() == 0)
            for (;;)
                raise(SIGSTOP);
    }
}

int main(int argc, char **argv)
{
    for (int i = argc < 2 ? 0 : atoi(argv[1]); i > 0; i--)
        if (fork() == 0)
            chain();
    printf("going\n");
    fflush(stdout);
    for (;;)
        pause();
}
