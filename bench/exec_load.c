// Times commands and the life of sandboxes beside a bare bubblewrap, without the cost of a client
// in a slow language.
//
//   exec_load SOCKET serial ROUNDS       one command at a time, and the peer
//   exec_load SOCKET parallel ROUNDS     4 clients, and 4 shells that start the peer
//   exec_load SOCKET mass SANDBOXES      many sandboxes over 8 clients
//   exec_load SOCKET starts ROUNDS       create, start, destroy, and the peer
// With a further PEER ARGUMENT..., that program is the peer of serial and starts.
// Prints one line a figure: NAME MEDIAN UNIT, then its quartiles and its 99th percentile. Ours and
// the peer take turns in one loop, so that a busy machine slows both.
// A bare bubblewrap looks at every mount that it finds, one by one: it is slower the more others
// have made, and fails when one goes away meanwhile. So the peer runs in a mount namespace of its
// own, with what the machine has but without what tests and daemons have mounted on it; what still
// fails is counted, and is no sample. Read next: bench/exec.py.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/load.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "proto/agentfense.pb-c.h"
#include "proto/sandbox.pb-c.h"

#define CLIENTS      4
#define MASS_CLIENTS 8
#define MASS_ROUNDS  3
#define SAMPLES_MAX  100000
#define PEER_EACH    50 // runs of the peer by each of CLIENTS shells in a round
#define TURN_US      500000
#define STR(x)       #x
#define XSTR(x)      STR(x)

static char *bare[] = {"bwrap", "--unshare-all", "--ro-bind", "/", "/", "true", NULL};
static char **peer = bare;
static char codebase[80];

static unsigned peer_failures;

struct samples {
    size_t count;
    double values[SAMPLES_MAX];
};

// ---- calls ------------------------------------------------------------------------------

static void step(struct af_client *client, const char *path, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *reply)
{
    protobuf_c_message_free_unpacked(unary(client, path, request, reply), NULL);
}

static void make_codebase(struct af_client *client)
{
    Sandbox__V1__CreateCodebaseRequest request = SANDBOX__V1__CREATE_CODEBASE_REQUEST__INIT;
    request.name = af_client_text("bench");
    request.owner_id = af_client_text("bench");
    ProtobufCMessage *reply = unary(client, "/sandbox.v1.CodebaseService/CreateCodebase",
                                    &request.base, &sandbox__v1__codebase__descriptor);
    const Sandbox__V1__Codebase *made = (const void *)reply;
    snprintf(codebase, sizeof codebase, "%.*s", (int)made->id.len, (const char *)made->id.data);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void create(struct af_client *client, char id[80])
{
    Sandbox__V1__CreateSandboxRequest request = SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    Sandbox__V1__PermissionRule rule = SANDBOX__V1__PERMISSION_RULE__INIT, *rules[] = {&rule};
    rule.pattern = af_client_text("**/*");
    rule.permission = SANDBOX__V1__PERMISSION__PERMISSION_WRITE;
    request.codebase_id = af_client_text(codebase);
    request.permissions = rules;
    request.n_permissions = 1;
    ProtobufCMessage *reply = unary(client, "/sandbox.v1.SandboxService/CreateSandbox",
                                    &request.base, &sandbox__v1__sandbox__descriptor);
    const Sandbox__V1__Sandbox *made = (const void *)reply;
    snprintf(id, 80, "%.*s", (int)made->id.len, (const char *)made->id.data);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static void start(struct af_client *client, const char *id)
{
    Sandbox__V1__StartSandboxRequest request = SANDBOX__V1__START_SANDBOX_REQUEST__INIT;
    request.sandbox_id = af_client_text(id);
    step(client, "/sandbox.v1.SandboxService/StartSandbox", &request.base,
         &sandbox__v1__sandbox__descriptor);
}

static void destroy(struct af_client *client, const char *id)
{
    Sandbox__V1__DestroySandboxRequest request = SANDBOX__V1__DESTROY_SANDBOX_REQUEST__INIT;
    request.sandbox_id = af_client_text(id);
    step(client, "/sandbox.v1.SandboxService/DestroySandbox", &request.base,
         &sandbox__v1__empty__descriptor);
}

static void exec_argv(struct af_client *client, const char *id)
{
    Agentfense__V1__RunRequest request = AGENTFENSE__V1__RUN_REQUEST__INIT;
    ProtobufCBinaryData argv[] = {af_client_text("true")};
    request.sandbox_id = af_client_text(id);
    request.argv = argv;
    request.n_argv = 1;
    step(client, "/agentfense.v1.ExecService/Run", &request.base,
         &agentfense__v1__run_response__descriptor);
}

static void exec_shell(struct af_client *client, const char *id)
{
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.sandbox_id = af_client_text(id);
    request.command = af_client_text("true");
    step(client, "/sandbox.v1.SandboxService/Exec", &request.base,
         &sandbox__v1__exec_result__descriptor);
}

// ---- the peer ---------------------------------------------------------------------------

// Whether somebody has mounted this on the machine for a while: a program's file system, or
// something in the directory for temporary files.
static bool is_guest(const char *point, const char *type)
{
    const char *tmp = getenv("TMPDIR");
    tmp = tmp ? tmp : "/tmp";
    size_t len = strlen(tmp);
    return strncmp(type, "fuse", 4) == 0 || (strncmp(point, tmp, len) == 0 && point[len] == '/');
}

// From here on this process, and the peers that it starts, see none of what others mount.
static void leave_mounts(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("a mount namespace", NULL);
    FILE *table = fopen("/proc/self/mountinfo", "re");
    char line[8192], point[4096], type[64];
    if (!table)
        die("/proc/self/mountinfo", NULL);
    while (fgets(line, sizeof line, table)) {
        const char *more = strstr(line, " - ");
        if (more && sscanf(line, "%*s %*s %*s %*s %4095s", point) == 1 &&
            sscanf(more, " - %63s", type) == 1 && is_guest(point, type))
            umount2(point, MNT_DETACH); // one below another goes with it
    }
    fclose(table);
}

// False: it failed, and took no time that counts.
static bool run_peer(void)
{
    pid_t pid;
    int status;
    char *bare_env[] = {"PATH=/usr/bin:/bin", NULL};
    if (posix_spawnp(&pid, peer[0], NULL, NULL, peer, peer == bare ? bare_env : environ) != 0)
        die(peer[0], NULL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    peer_failures += status != 0;
    return status == 0;
}

// ---- one at a time ----------------------------------------------------------------------

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add(struct samples *samples, double value)
{
    if (samples->count < SAMPLES_MAX)
        samples->values[samples->count++] = value;
}

static void add_ms(struct samples *samples, int64_t begun_ns)
{
    add(samples, (double)(af_monotonic_ns() - begun_ns) / 1e6);
}

static void print(const char *name, struct samples *samples, const char *unit)
{
    size_t n = samples->count;
    const double *v = samples->values;
    if (n == 0)
        die("no sample", NULL);
    qsort(samples->values, n, sizeof *v, compare);
    printf("%s %.4f %s %.4f %.4f %.4f\n", name, v[n / 2], unit, v[n / 4], v[n * 3 / 4],
           v[n * 99 / 100]);
}

static void print_failures(void)
{
    printf("peer_failures %u runs\n", peer_failures);
}

enum { PEER, ARGV, SHELL, CREATE, START, DESTROY, KINDS };

static void serial(int rounds, bool execs)
{
    static const char *const names[KINDS] = {"peer",   "exec_argv", "exec_shell",
                                             "create", "start",     "destroy"};
    struct samples *samples = calloc(KINDS, sizeof *samples);
    struct af_client *client = connect_client();
    char warm[80], id[80];
    create(client, warm);
    start(client, warm);
    exec_shell(client, warm);
#define TIMED(kind, statement)                                                                     \
    do {                                                                                           \
        int64_t begun_ns = af_monotonic_ns();                                                      \
        statement;                                                                                 \
        add_ms(&samples[kind], begun_ns);                                                          \
    } while (0)
    for (int i = 0; i < rounds; i++) {
        int64_t peer_ns = af_monotonic_ns();
        if (run_peer())
            add_ms(&samples[PEER], peer_ns);
        if (execs) {
            TIMED(ARGV, exec_argv(client, warm));
            TIMED(SHELL, exec_shell(client, warm));
            continue;
        }
        TIMED(CREATE, create(client, id));
        // An agent thinks between two starts; the peer's run above is not counted into ours.
        usleep(20000);
        TIMED(START, start(client, id));
        exec_argv(client, id);
        TIMED(DESTROY, destroy(client, id));
    }
    for (int i = 0; i < KINDS; i++)
        if (samples[i].count > 0 || i == PEER)
            print(names[i], &samples[i], "ms");
    print_failures();
    destroy(client, warm);
    af_client_free(client);
    free(samples);
}

// ---- side by side -----------------------------------------------------------------------

static atomic_bool stop_all;
static atomic_uint done_count;
static void (*parallel_fn)(struct af_client *, const char *);

struct worker {
    struct af_client *client;
    char id[80];
};

static void *parallel_main(void *arg)
{
    const struct worker *worker = arg;
    while (!atomic_load(&stop_all)) {
        parallel_fn(worker->client, worker->id);
        atomic_fetch_add(&done_count, 1);
    }
    return NULL;
}

static double rate_of(struct worker workers[CLIENTS], void (*fn)(struct af_client *, const char *))
{
    pthread_t threads[CLIENTS];
    parallel_fn = fn;
    atomic_store(&stop_all, false);
    atomic_store(&done_count, 0);
    int64_t begun_ns = af_monotonic_ns();
    for (int i = 0; i < CLIENTS; i++)
        pthread_create(&threads[i], NULL, parallel_main, &workers[i]);
    usleep(TURN_US);
    atomic_store(&stop_all, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    return (double)atomic_load(&done_count) * 1e9 / (double)(af_monotonic_ns() - begun_ns);
}

// Shells that start the peer, a fixed number of times, and say how often it failed.
static double peer_rate(void)
{
    static char script[] = "i=0; f=0; while [ $i -lt " XSTR(
        PEER_EACH) " ]; do bwrap --unshare-all "
                   "--ro-bind / / true || f=$((f+1)); i=$((i+1)); done; exit $f";
    char *argv[] = {"sh", "-c", script, NULL}, *env[] = {"PATH=/usr/bin:/bin", NULL};
    pid_t pids[CLIENTS];
    unsigned failed = 0;
    int64_t begun_ns = af_monotonic_ns();
    for (int i = 0; i < CLIENTS; i++)
        if (posix_spawn(&pids[i], "/bin/sh", NULL, NULL, argv, env) != 0)
            die("sh", NULL);
    for (int i = 0; i < CLIENTS; i++) {
        int status;
        while (waitpid(pids[i], &status, 0) < 0 && errno == EINTR)
            ;
        failed += WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : PEER_EACH;
    }
    peer_failures += failed;
    return (double)(CLIENTS * PEER_EACH - failed) * 1e9 / (double)(af_monotonic_ns() - begun_ns);
}

static void parallel(int rounds)
{
    struct samples *samples = calloc(3, sizeof *samples);
    struct worker workers[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        workers[i].client = connect_client();
        create(workers[i].client, workers[i].id);
        start(workers[i].client, workers[i].id);
    }
    for (int i = 0; i < rounds; i++) {
        double peer_per_second = peer_rate();
        if (peer_per_second > 0) // else none of its runs counts
            add(&samples[0], peer_per_second);
        add(&samples[1], rate_of(workers, exec_argv));
        add(&samples[2], rate_of(workers, exec_shell));
    }
    print("rate_peer", &samples[0], "/s");
    print("rate_exec_argv", &samples[1], "/s");
    print("rate_exec_shell", &samples[2], "/s");
    print_failures();
    for (int i = 0; i < CLIENTS; i++) {
        destroy(workers[i].client, workers[i].id);
        af_client_free(workers[i].client);
    }
    free(samples);
}

// ---- many -------------------------------------------------------------------------------

static char (*mass_ids)[80];
static atomic_uint mass_next;
static unsigned mass_count;
static void (*mass_fn)(struct af_client *, const char *);

static void *mass_main(void *arg)
{
    struct af_client *client = arg;
    for (unsigned i; (i = atomic_fetch_add(&mass_next, 1)) < mass_count;)
        mass_fn(client, mass_ids[i]);
    return NULL;
}

static double mass_seconds(struct af_client *const clients[],
                           void (*fn)(struct af_client *, const char *))
{
    pthread_t threads[MASS_CLIENTS];
    mass_fn = fn;
    atomic_store(&mass_next, 0);
    int64_t begun_ns = af_monotonic_ns();
    for (int i = 0; i < MASS_CLIENTS; i++)
        pthread_create(&threads[i], NULL, mass_main, clients[i]);
    for (int i = 0; i < MASS_CLIENTS; i++)
        pthread_join(threads[i], NULL);
    return (double)(af_monotonic_ns() - begun_ns) / 1e9;
}

static void mass(unsigned count)
{
    static const char *const names[] = {"mass_start", "mass_exec", "mass_exec_argv",
                                        "mass_destroy"};
    struct samples *samples = calloc(4, sizeof *samples);
    struct af_client *clients[MASS_CLIENTS];
    for (int i = 0; i < MASS_CLIENTS; i++)
        clients[i] = connect_client();
    mass_count = count;
    mass_ids = calloc(count, sizeof *mass_ids);
    for (int round = 0; round < MASS_ROUNDS; round++) {
        for (unsigned i = 0; i < count; i++)
            create(clients[0], mass_ids[i]);
        add(&samples[0], count / mass_seconds(clients, start));
        add(&samples[1], count / mass_seconds(clients, exec_shell));
        add(&samples[2], count / mass_seconds(clients, exec_argv));
        add(&samples[3], mass_seconds(clients, destroy));
    }
    for (int i = 0; i < 4; i++)
        print(names[i], &samples[i], i < 3 ? "/s" : "s");
    for (int i = 0; i < MASS_CLIENTS; i++)
        af_client_free(clients[i]);
    free(mass_ids);
    free(samples);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: exec_load SOCKET serial|starts|parallel|mass NUMBER [PEER...]\n");
        return 2;
    }
    if (argc > 4)
        peer = argv + 4;
    endpoint = argv[1];
    int number = atoi(argv[3]);
    leave_mounts();
    struct af_client *client = connect_client();
    make_codebase(client);
    af_client_free(client);
    if (strcmp(argv[2], "serial") == 0 || strcmp(argv[2], "starts") == 0)
        serial(number, strcmp(argv[2], "serial") == 0);
    else if (strcmp(argv[2], "parallel") == 0)
        parallel(number);
    else
        mass((unsigned)number);
    return 0;
}
