// How long a turn on a busy CPU the scheduler gives to a thread, and so how soon.
//
// A start and a command are chains of short steps in several threads and processes, each of which
// begins with a wake-up. On a CPU that others use fully, every one of them would wait for the end
// of a turn of those: some 3 ms. Who asks for shorter turns gets them earlier (EEVDF, from
// Linux 6.12 on; older kernels ignore the wish), with the same share of the CPU, not more. The wish
// is inherited by threads and processes. Commands give it back before their program runs. Needs no
// privilege. Header only: the init has it, too. Read next: init/command.c.
#ifndef AF_EXEC_SLICE_H
#define AF_EXEC_SLICE_H

#include <stdint.h>

#include "exec/raw.h"

#define EXEC_SLICE_SHORT_NS  200000 // enough for most of the steps
#define EXEC_SLICE_NORMAL_NS 0

// Of the calling thread; its policy and nice value stay. Fails without harm.
static inline void exec_slice_set(uint64_t slice_ns)
{
    // As linux/sched/types.h has it, which cannot be included beside sched.h.
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr;
    if (raw(SYS_sched_getattr, 0, (long)&attr, sizeof(attr), 0) < 0)
        return;
    attr.runtime_ns = slice_ns;
    raw(SYS_sched_setattr, 0, (long)&attr, 0, 0);
}

#endif
