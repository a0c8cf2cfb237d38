// System calls that touch nothing but registers, and processes that share memory with their maker.
//
// A child of clone(CLONE_VM) without CLONE_THREAD is a process of its own that has our memory and
// our thread's errno: what it calls of libc must neither write errno nor allocate. So it calls raw.
// Header only: the init has it, too. Read next: spawn.c, init/command.c.
#ifndef AF_EXEC_RAW_H
#define AF_EXEC_RAW_H

#include <stddef.h>
#include <sys/syscall.h>

// For functions that such a child runs: instrumented code would write to what it shares.
#if defined(__clang__)
#define RAW_CHILD_CODE __attribute__((noinline, no_sanitize("address", "undefined", "thread")))
#else
#define RAW_CHILD_CODE                                                                             \
    __attribute__((noinline, no_sanitize("address", "undefined", "thread"),                        \
                   optimize("no-stack-protector")))
#endif

// raw: the result, or -errno.
// raw_clone: clone(2) that runs fn(arg), which must not return, on a stack of its own. libc's
// would do, but thread sanitizers intercept it and take the shared memory for a copy. With
// CLONE_PIDFD the descriptor is *pidfd.
#if defined(__x86_64__)
static inline __attribute__((always_inline)) long raw(long number, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}

static inline long raw_clone(unsigned long flags, void *stack_end, int *pidfd, int (*fn)(void *),
                             void *arg)
{
    long ret;
    register void *r12 __asm__("r12") = (void *)fn;
    register void *r13 __asm__("r13") = arg;
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(ret)
                     : "a"((long)SYS_clone), "D"(flags), "S"(stack_end), "d"(pidfd), "r"(r10),
                       "r"(r8), "r"(r12), "r"(r13)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline __attribute__((always_inline)) long raw(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}

static inline long raw_clone(unsigned long flags, void *stack_end, int *pidfd, int (*fn)(void *),
                             void *arg)
{
    register long x8 __asm__("x8") = SYS_clone;
    register long x0 __asm__("x0") = (long)flags;
    register void *x1 __asm__("x1") = stack_end;
    register int *x2 __asm__("x2") = pidfd;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register void *x19 __asm__("x19") = (void *)fn;
    register void *x20 __asm__("x20") = arg;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, 0\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk 1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19), "r"(x20)
                     : "x30", "memory");
    return x0;
}
#else
#error "exec/raw.h: add this architecture's system calls"
#endif

#endif
