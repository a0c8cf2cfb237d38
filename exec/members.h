// The processes of a box, as the kernel lists them, and making them stand still. Internal to exec.
//
// A process belongs to a box when its parents lead to the box's init (orphans in the init's pid
// namespace become children of the init or of a supervisor below it) and it has the box's uid,
// which it cannot change. Read next: members.c.
#ifndef AF_EXEC_MEMBERS_H
#define AF_EXEC_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct exec_member {
    pid_t pid, parent;
    pid_t moving_task;    // when it does not stand still
    char state;           // as in /proc/PID/stat; of a task that moves, if there is one
    uint64_t start_ticks; // with the pid: who it is
    unsigned depth;       // below the init
    int pidfd;            // -1 until it is signalled
    bool stopped_by_us;
};

struct exec_members {
    struct exec_member *list; // parents before their children
    size_t count;
};

// Every process below the init, as it runs; the list is to be freed. -errno.
int exec_members_list(pid_t init, uid_t uid, struct exec_members *ret);
// Stops every process below the init. Returns how many do not stand still when the time is over;
// those have state 'D' or 'R' or 'S' in the list. -errno.
int exec_members_stop(pid_t init, uid_t uid, struct exec_members *ret);
// Kills one; its end is waited for, for a bounded time.
void exec_member_kill(struct exec_member *member);
// Lets those that we stopped go on, children first, and frees.
void exec_members_resume(struct exec_members *members);

static inline bool exec_member_is_still(const struct exec_member *member)
{
    return member->state == 'T' || member->state == 't' || member->state == 'Z' ||
           member->state == 'X';
}

#endif
