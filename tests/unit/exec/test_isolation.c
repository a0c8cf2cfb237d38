// What a command can see and do, tried from inside as an attacker would.
//
// System calls are made through python3's ctypes: nothing else on a plain root lets a test call
// them by number.
#include "tests/unit/exec/fixture.h"

#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Calls one system call inside with the given Python argument list; returns the errno it got.
static int call_errno(struct xt *xt, long number, const char *args)
{
    struct xt_done *done =
        xt_sh(xt,
              "exec python3 -c 'import ctypes,sys; l=ctypes.CDLL(None,use_errno=True); "
              "r=l.syscall(%ld%s%s); sys.exit(0 if r>=0 else ctypes.get_errno())'",
              number, args[0] ? "," : "", args);
    assert_false(done->failed);
    assert_int_equal(done->result.signal, 0);
    if (done->err_len)
        fail_msg("%s", done->err);
    return done->result.exit_code;
}

static void e6_commands_are_unprivileged_and_confined(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "cat /proc/self/status; id");
    xt_expect_exit(done, 0);
    static const char *const lines[] = {"\nUid:\t1000\t1000\t1000\t1000\n",
                                        "\nGid:\t1000\t1000\t1000\t1000\n",
                                        "\nGroups:\t \n",
                                        "\nCapInh:\t0000000000000000\n",
                                        "\nCapPrm:\t0000000000000000\n",
                                        "\nCapEff:\t0000000000000000\n",
                                        "\nCapBnd:\t0000000000000000\n",
                                        "\nCapAmb:\t0000000000000000\n",
                                        "\nNoNewPrivs:\t1\n",
                                        "\nSeccomp:\t2\n",
                                        "uid=1000(agent) gid=1000(agent) groups=1000(agent)\n"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        if (!strstr(done->out, lines[i]))
            fail_msg("no '%s' in:\n%s", lines[i], done->out);
}

static void e6_on_the_host_commands_are_the_boxs_own_user(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {.shell_line =
                                               "echo > /workspace/ready; exec sleep 1000"};
    struct exec_command *command;
    struct xt_done *done = xt_start(xt, &spec, &command);
    xt_wait_file(xt, "ready");
    // Every id of every process of the box is the box's own one, seen from the host.
    char line[1024];
    snprintf(line, sizeof(line),
             "n=0; for p in /proc/[0-9]*; do grep -q '^Uid:.%u' $p/status || continue; "
             "n=$((n+1)); grep -Pq '^Uid:(\\t%u){4}$' $p/status && "
             "grep -Pq '^Gid:(\\t%u){4}$' $p/status || exit 1; done 2>/dev/null; test $n -ge 3",
             XT_UID, XT_UID, XT_UID);
    assert_int_equal(system(line), 0);
    exec_command_cancel(command);
    xt_wait(done);
    exec_command_unref(command);
}

static void e6_the_root_is_read_only_and_stays_so(void **state)
{
    struct xt *xt = *state;
    static const char *const places[] = {"/",        "/usr",     "/usr/bin", "/usr/local", "/etc",
                                         "/bin",     "/dev",     "/run",     "/var",       "/home",
                                         "/etc/ssl", "/dev/pts", "/proc",    "/proc/sys"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct xt_done *done = xt_sh(xt, "echo x > %s/evil", places[i]);
        if (done->result.exit_code == 0)
            fail_msg("%s is writable", places[i]);
    }
    assert_int_equal(xt_sh(xt, "mount -o remount,rw / 2>&1")->result.exit_code != 0, 1);
    assert_int_equal(xt_sh(xt, "mount -o remount,rw,bind /usr 2>&1")->result.exit_code != 0, 1);
    assert_int_equal(call_errno(xt, SYS_mount, "b\"\",b\"/usr\",0,0x1020,0"), EPERM);
    assert_int_equal(call_errno(xt, SYS_umount2, "b\"/workspace\",2"), EPERM);
}

static void what_has_to_be_writable_is(void **state)
{
    struct xt *xt = *state;
    xt_expect_exit(xt_sh(xt,
                         "set -e; for d in /workspace /tmp \"$HOME\" /dev/shm /var/tmp; do "
                         "echo x > $d/f; done; echo x > /dev/null; head -c 1 /dev/zero | wc -c; "
                         "test -e /dev/full -a -e /dev/random -a -e /dev/urandom -a -e "
                         "/dev/tty -a -d /dev/pts; case $HOME in /workspace*) exit 9;; esac"),
                   0);
}

static void private_places_have_a_size(void **state)
{
    struct xt *xt = *state;
    static const char *const places[] = {"/tmp", "/home/agent", "/dev/shm"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct xt_done *done = xt_sh(xt, "df -k --output=size %s | tail -1", places[i]);
        long kib = atol(done->out);
        assert_in_range(kib, 1024, 256 * 1024);
    }
}

static void the_host_is_out_of_sight(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "ls -A /; ls /usr/local; cat /etc/passwd; hostname; "
                                     "ls /sys /root /opt /srv /mnt /var/lib /boot 2>/dev/null; "
                                     "cat /etc/shadow /etc/hostname 2>/dev/null");
    assert_null(strstr(done->out, "boot\n"));
    assert_null(strstr(done->out, "\nroot\n"));
    assert_non_null(strstr(done->out, "workspace\n"));
    assert_non_null(strstr(done->out, "agent:x:1000:1000"));
    assert_non_null(strstr(done->out, "sandbox\nsandbox\n"));
    // Only the box's own processes: the init, a supervisor and the pipeline.
    done = xt_sh(xt, "ls -d /proc/[0-9]* | wc -l");
    assert_in_range(atol(done->out), 3, 6);
}

static void there_is_no_network_but_a_loopback(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '");
    assert_string_equal(done->out, "lo\n");
    done = xt_sh(xt, "exec 3<>/dev/tcp/192.0.2.1/80");
    assert_true(done->result.exit_code != 0);
    // AF_VSOCK reaches the hypervisor around any network namespace; 16 and up, and AF_ALG.
    assert_int_equal(call_errno(xt, SYS_socket, "40,1,0"), EAFNOSUPPORT);
    assert_int_equal(call_errno(xt, SYS_socket, "38,5,0"), EAFNOSUPPORT);
    assert_int_equal(call_errno(xt, SYS_socket, "17,3,0"), EAFNOSUPPORT);
    assert_int_equal(call_errno(xt, SYS_socket, "ctypes.c_long((1<<32)|40),1,0"), EAFNOSUPPORT);
    // socketpair makes the socket, and loads the family's module, before it says that it cannot.
    assert_int_equal(call_errno(xt, SYS_socketpair, "30,1,0,b\"x\"*8"), EAFNOSUPPORT); // TIPC
    assert_int_equal(call_errno(xt, SYS_socketpair, "ctypes.c_long((1<<32)|1),1,0,b\"x\"*8"),
                     EAFNOSUPPORT);
    assert_int_equal(call_errno(xt, SYS_socketpair, "1,1,0,b\"x\"*8"), 0);
    assert_int_equal(call_errno(xt, SYS_socket, "2,1,132"), EPROTONOSUPPORT); // SCTP
    assert_int_equal(call_errno(xt, SYS_socket, "10,6,33"), ESOCKTNOSUPPORT); // DCCP
    assert_int_equal(call_errno(xt, SYS_socket, "2,1,256"), EPROTONOSUPPORT); // SMC
    assert_int_equal(call_errno(xt, SYS_socket, "2,1,ctypes.c_long((1<<32)|256)"), EPROTONOSUPPORT);
    assert_int_equal(call_errno(xt, SYS_socket, "2,6,0"), ESOCKTNOSUPPORT);   // DCCP's alias
    assert_int_equal(call_errno(xt, SYS_socket, "2,10,0"), ESOCKTNOSUPPORT);  // AF_PACKET
    assert_int_equal(call_errno(xt, SYS_socket, "16,3,16"), EPROTONOSUPPORT); // generic netlink
    assert_int_equal(call_errno(xt, SYS_socket, "16,3,4"), EPROTONOSUPPORT);  // sock_diag
    assert_int_equal(call_errno(xt, SYS_socket, "16,3,0"), 0);
    assert_int_equal(call_errno(xt, SYS_socket, "2,2,17"), 0);
    assert_int_equal(call_errno(xt, SYS_socket, "1,1,0"), 0);
    assert_int_equal(call_errno(xt, SYS_socket, "2,1,0"), 0);
}

static void dangerous_system_calls_are_refused(void **state)
{
    struct xt *xt = *state;
    static const struct {
        long number;
        const char *args;
        int error;
    } calls[] = {
        {SYS_mount, "0,0,0,0,0", EPERM},
        {SYS_umount2, "b\"/tmp\",0", EPERM},
        {SYS_pivot_root, "b\"/\",b\"/\"", EPERM},
        {SYS_chroot, "b\"/\"", EPERM},
        {SYS_unshare, "0x10000000", EPERM},
        {SYS_unshare, "0x20000", EPERM},
        {SYS_setns, "0,0", EPERM},
        {SYS_bpf, "0,0,0", EPERM},
        {SYS_keyctl, "0,0,0,0,0", EPERM},
        {SYS_add_key, "0,0,0,0,0", EPERM},
        {SYS_request_key, "0,0,0,0", EPERM},
        {SYS_ptrace, "0,0,0,0", EPERM},
        {SYS_ptrace, "16,1,0,0", EPERM},
        {SYS_process_vm_readv, "1,0,0,0,0,0", EPERM},
        {SYS_process_vm_writev, "1,0,0,0,0,0", EPERM},
        {SYS_userfaultfd, "0", EPERM},
        {425, "8,0", EPERM}, // io_uring_setup
        {SYS_kexec_load, "0,0,0,0", EPERM},
        {SYS_kexec_file_load, "0,0,0,0,0", EPERM},
        {SYS_init_module, "0,0,0", EPERM},
        {SYS_finit_module, "0,0,0", EPERM},
        {SYS_delete_module, "0,0", EPERM},
        {SYS_open_by_handle_at, "0,0,0", EPERM},
        {SYS_name_to_handle_at, "0,0,0,0,0", EPERM},
        {SYS_perf_event_open, "0,0,0,0,0", EPERM},
        {SYS_fanotify_init, "0,0", EPERM},
        {428, "-100,b\"/\",1", EPERM},            // open_tree
        {430, "b\"tmpfs\",0", EPERM},             // fsopen
        {438, "0,0,0", EPERM},                    // pidfd_getfd
        {442, "-100,b\"/\",0,0,0", EPERM},        // mount_setattr
        {SYS_clone, "0x10000011,0,0,0,0", EPERM}, // CLONE_NEWUSER
        {SYS_clone, "0x00020011,0,0,0,0", EPERM}, // CLONE_NEWNS
        {SYS_clone, "0x40000011,0,0,0,0", EPERM}, // CLONE_NEWNET
        {435, "0,0", ENOSYS},                     // clone3
        {SYS_ioctl, "0,0x5412,b\"x\"", EPERM},    // TIOCSTI
        {SYS_ioctl, "0,ctypes.c_long((7<<32)|0x5412),b\"x\"", EPERM},
        {SYS_ioctl, "0,0x541c,b\"x\"", EPERM},              // TIOCLINUX
        {SYS_ioctl, "0,0x5423,b\"\\x15\\0\\0\\0\"", EPERM}, // TIOCSETD
        {SYS_ioctl, "0,0x89a0,b\"x\"*16", EPERM},           // SIOCBRADDBR
        {SYS_ioctl, "0,0x8982,b\"x\"*64", EPERM},           // SIOCGIFVLAN
        {SYS_ioctl, "0,0x5401,b\"x\"*64", ENOTTY},
        {9999, "", ENOSYS},
        {SYS_reboot, "0,0,0,0", EPERM},
        {SYS_swapon, "0,0", EPERM},
        {SYS_syslog, "3,0,0", EPERM},
        {SYS_sethostname, "b\"x\",1", EPERM},
        {SYS_quotactl, "0,0,0,0", EPERM},
        {SYS_prlimit64, "1,7,(ctypes.c_long*2)(3,3),0", EPERM}, // of the init
        {SYS_prlimit64, "ctypes.c_long(1<<32),7,(ctypes.c_long*2)(3,3),0", EPERM},
        {SYS_prlimit64, "1,7,0,(ctypes.c_long*2)()", 0},
        {SYS_prlimit64, "0,7,(ctypes.c_long*2)(30,30),0", 0},
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        int e = call_errno(xt, calls[i].number, calls[i].args);
        if (e != calls[i].error)
            fail_msg("system call %ld(%s) answered %d (%s), not %d", calls[i].number, calls[i].args,
                     e, strerror(e), calls[i].error);
    }
}

static void how_the_init_is_scheduled_is_not_for_its_user_to_say(void **state)
{
    struct xt *xt = *state;
    static const char idle[] = "5,bytes(4)";
    char args[128];
    snprintf(args, sizeof(args), "1,%s", idle);
    assert_int_equal(call_errno(xt, SYS_sched_setscheduler, args), EPERM);
    snprintf(args, sizeof(args), "ctypes.c_long((1<<32)|1),%s", idle);
    assert_int_equal(call_errno(xt, SYS_sched_setscheduler, args), EPERM);
    snprintf(args, sizeof(args), "0,%s", idle);
    assert_int_equal(call_errno(xt, SYS_sched_setscheduler, args), 0);
    assert_int_equal(call_errno(xt, SYS_sched_setaffinity, "1,8,b\"\\1\"+bytes(7)"), EPERM);
    assert_int_equal(call_errno(xt, SYS_setpriority, "0,1,19"), EPERM);
    assert_int_equal(call_errno(xt, SYS_setpriority, "1,1,19"), EPERM);
    assert_int_equal(call_errno(xt, SYS_setpriority, "2,0,19"), EPERM);
    assert_int_equal(call_errno(xt, SYS_setpriority, "0,0,5"), 0);
}

static void the_init_cannot_be_read_or_written(void **state)
{
    struct xt *xt = *state;
    static const char *const refused[] = {
        "cat /proc/1/mem",      "ls /proc/1/fd",         "cat /proc/1/environ",
        "cat /proc/1/maps",     "readlink /proc/1/exe",  "readlink /proc/1/root",
        "cat /proc/1/auxv",     "cat /proc/1/stack",     "readlink /proc/1/cwd",
        "ls /proc/1/map_files", "cat /proc/1/syscall",   "echo 900 > /proc/1/oom_score_adj",
        "echo x > /proc/1/mem", "echo x > /proc/1/comm", "ls /proc/$PPID/fd",
        "cat /proc/$PPID/mem",  "cat /proc/$PPID/maps"};
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct xt_done *done = xt_sh(xt, "%s", refused[i]);
        if (done->failed || done->result.exit_code == 0)
            fail_msg("'%s' was not refused: %s%s", refused[i], done->out, done->err);
    }
}

static void nothing_of_the_daemon_is_open_inside(void **state)
{
    struct xt *xt = *state;
    // A descriptor that someone forgot to mark.
    int forgotten = dup(0);
    struct exec_box *box = xt_box_start(xt, "sb_two", XT_UID + 1);
    struct exec_box *first = xt->box;
    xt->box = box;
    struct xt_done *done = xt_sh(xt, "for f in /proc/self/fd/*; do readlink $f; done");
    xt->box = first;
    xt_box_stop(xt, box);
    close(forgotten);
    assert_null(strstr(done->out, "socket:"));
    assert_null(strstr(done->out, "memfd:"));
    assert_null(strstr(done->out, "exec.lock"));
    assert_null(strstr(done->out, "agentfense-init"));
}

// Such counts of a user namespace are also counts of the user who made it.
static void what_a_box_uses_up_is_missing_to_nobody_else(void **state)
{
    struct xt *xt = *state;
    const struct exec_command_spec spec = {
        .shell_line = "exec python3 -c 'import ctypes, os, signal, time\n"
                      "l = ctypes.CDLL(None)\n"
                      "while l.inotify_init() >= 0: pass\n"
                      "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])\n"
                      "while l.sigqueue(os.getpid(), signal.SIGRTMIN, None) == 0: pass\n"
                      "open(\"/workspace/all\", \"w\")\n"
                      "time.sleep(1000)'"};
    struct exec_command *command;
    struct xt_done *done = xt_start(xt, &spec, &command);
    xt_wait_file(xt, "all");
    assert_int_equal(xt_sh(xt, "python3 -c 'import ctypes, sys;"
                               "sys.exit(ctypes.CDLL(None).inotify_init() < 0)'")
                         ->result.exit_code,
                     1); // all that the box may have
    // What root has, and what another box has.
    int fd = inotify_init1(IN_CLOEXEC);
    int failed = errno;
    close(fd);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    int queued = sigqueue(getpid(), SIGRTMIN, (union sigval){0});
    sigtimedwait(&blocked, NULL, &(const struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    exec_command_cancel(command);
    xt_wait(done);
    exec_command_unref(command);
    if (fd < 0)
        fail_msg("root has no inotify instance left: %s", strerror(failed));
    assert_int_equal(queued, 0);
}

static void commands_are_the_first_to_go_without_memory(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj "
                                     "/proc/1/oom_score_adj");
    assert_string_equal(done->out, "500\n500\n500\n");
    xt_expect_exit(xt_sh(xt, "echo 900 > /proc/$$/oom_score_adj"), 0);
    int lowered = xt_sh(xt, "echo 499 > /proc/$$/oom_score_adj")->result.exit_code;
    // What root says is the least for others; but only root with CAP_SYS_RESOURCE.
    if (prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE, 0, 0, 0) == 1)
        assert_true(lowered != 0);
    else
        print_message("not tried here: root has no CAP_SYS_RESOURCE\n");
}

static void commands_have_no_terminal_to_push_input_into(void **state)
{
    struct xt *xt = *state;
    struct xt_done *done = xt_sh(xt, "echo x > /dev/tty");
    assert_true(done->result.exit_code != 0);
    done = xt_sh(xt, "awk '{print $6, $7, $8}' /proc/self/stat");
    assert_non_null(strstr(done->out, " 0 -1")); // no controlling terminal
}

static void setuid_and_device_files_of_a_view_have_no_power(void **state)
{
    struct xt *xt = *state;
    char line[512];
    snprintf(line, sizeof(line),
             "cp /usr/bin/id %s/suid && chown 0:0 %s/suid && chmod 6755 %s/suid && "
             "mknod -m 666 %s/dev c 1 5",
             xt->view, xt->view, xt->view, xt->view);
    assert_int_equal(system(line), 0);
    struct xt_done *done = xt_sh(xt, "./suid; head -c 1 dev");
    assert_non_null(strstr(done->out, "uid=1000(agent) gid=1000(agent)"));
    assert_null(strstr(done->out, "euid"));
    assert_non_null(strstr(done->err, "Permission denied"));
    done = xt_sh(xt, "grep ' /workspace ' /proc/self/mountinfo");
    assert_non_null(strstr(done->out, "nosuid"));
    assert_non_null(strstr(done->out, "nodev"));
}

static void ordinary_tools_work_under_the_filter(void **state)
{
    struct xt *xt = *state;
    static const char *const lines[] = {
        "python3 -c 'import threading,subprocess,multiprocessing as m; t=threading.Thread("
        "target=print); t.start(); t.join(); p=m.Process(target=print); p.start(); p.join(); "
        "subprocess.run([\"true\"], check=True)'",
        "printf 'int main(void){return 0;}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a",
        "cd /tmp && git init -q g && cd g && echo x > f && git add f && git -c user.name=a -c "
        "user.email=a@b commit -qm m && git gc -q",
        "printf 'all:\\n\\ttrue\\n' > /tmp/Makefile && make -s -j2 -C /tmp",
        "tar cf - /etc/passwd 2>/dev/null | tar tf - && sort -u /etc/passwd | sed -n 1p | awk '{}'",
        "perl -e 'fork; exit 0'",
        "node -e 'const {Worker}=require(\"worker_threads\"),fs=require(\"fs\");"
        "new Worker(\"require(\\\"fs\\\").readFileSync(\\\"/etc/passwd\\\")\",{eval:true})."
        "on(\"exit\",c=>process.exit(c));require(\"child_process\").execSync(\"true\");"
        "fs.writeFileSync(\"/tmp/n\",\"x\")'",
        "curl -sf file:///etc/passwd | grep -q agent",
        "(printf 'HTTP/1.0 200 OK\\r\\n\\r\\nlocal' | python3 -c 'import socket,sys;s=socket."
        "create_server((\"127.0.0.1\",8099));open(\"/tmp/up\",\"w\");c=s.accept()[0];c.recv(999);"
        "c.sendall(sys.stdin.buffer.read())' &) ; while [ ! -e /tmp/up ]; do :; done; "
        "test \"$(curl -s --http0.9 http://127.0.0.1:8099/)\" = local",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct xt_done *done = xt_sh(xt, "%s", lines[i]);
        if (done->failed || (done->result.exit_code != 0 && done->result.exit_code != 127))
            fail_msg("'%s': %d\n%s%s", lines[i], done->result.exit_code, done->out, done->err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        xt_test(e6_commands_are_unprivileged_and_confined),
        xt_test(e6_on_the_host_commands_are_the_boxs_own_user),
        xt_test(e6_the_root_is_read_only_and_stays_so),
        xt_test(what_has_to_be_writable_is),
        xt_test(private_places_have_a_size),
        xt_test(the_host_is_out_of_sight),
        xt_test(there_is_no_network_but_a_loopback),
        xt_test(dangerous_system_calls_are_refused),
        xt_test(how_the_init_is_scheduled_is_not_for_its_user_to_say),
        xt_test(the_init_cannot_be_read_or_written),
        xt_test(nothing_of_the_daemon_is_open_inside),
        xt_test(what_a_box_uses_up_is_missing_to_nobody_else),
        xt_test(commands_are_the_first_to_go_without_memory),
        xt_test(commands_have_no_terminal_to_push_input_into),
        xt_test(setuid_and_device_files_of_a_view_have_no_power),
        xt_test(ordinary_tools_work_under_the_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
