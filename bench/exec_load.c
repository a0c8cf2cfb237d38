// Times commands and the life of sandboxes beside a bare bubblewrap, without the cost of a client
// in a slow language.
//
//   exec_load SOCKET serial ROUNDS       one command at a time, and the peer
//   exec_load SOCKET parallel SECONDS    4 clients, and 4 shells that start the peer
//   exec_load SOCKET mass SANDBOXES      many sandboxes over 8 clients
//   exec_load SOCKET starts ROUNDS       create, start, destroy, and the peer
// With a further PEER ARGUMENT..., that program is the peer of serial and starts.
// Prints one line a figure: NAME VALUE UNIT (medians for times). Ours and the peer take turns in
// one loop, so that a busy machine slows both. Read next: bench/exec.py.
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD_NAME "exec_load"
#include "bench/load.h"
#include "mux/base/cleanup.h"
#include "mux/base/clock.h"
#include "proto/agentfense.pb-c.h"
#include "proto/sandbox.pb-c.h"

#define CLIENTS      4
#define MASS_CLIENTS 8
#define SAMPLES_MAX  100000

static char *bare[] = {"bwrap", "--unshare-all", "--ro-bind", "/", "/", "true", NULL};
static char **peer = bare;
static char codebase[80];

struct samples {
    size_t count;
    int64_t ns[SAMPLES_MAX];
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

static void run_peer(void)
{
    pid_t pid;
    int status;
    char *bare_env[] = {"PATH=/usr/bin:/bin", NULL};
    if (posix_spawnp(&pid, peer[0], NULL, NULL, peer, peer == bare ? bare_env : environ) != 0)
        die(peer[0], NULL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status != 0)
        die("the peer does not run here", NULL);
}

// ---- one at a time ----------------------------------------------------------------------

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void note(struct samples *samples, int64_t begun_ns)
{
    if (samples->count < SAMPLES_MAX)
        samples->ns[samples->count++] = af_monotonic_ns() - begun_ns;
}

static void print(const char *name, struct samples *samples)
{
    qsort(samples->ns, samples->count, sizeof samples->ns[0], compare);
    double p50 = (double)samples->ns[samples->count / 2] / 1e6;
    double p99 = (double)samples->ns[samples->count * 99 / 100] / 1e6;
    printf("%s %.4f ms %.4f\n", name, p50, p99);
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
        note(&samples[kind], begun_ns);                                                            \
    } while (0)
    for (int i = 0; i < rounds; i++) {
        TIMED(PEER, run_peer());
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
        if (samples[i].count > 0)
            print(names[i], &samples[i]);
    destroy(client, warm);
    af_client_free(client);
    free(samples);
}

// ---- side by side -----------------------------------------------------------------------

static atomic_bool stop_all;
static atomic_uint done_count;
static void (*parallel_fn)(struct af_client *, const char *);

static void *parallel_main(void *arg)
{
    (void)arg;
    struct af_client *client = connect_client();
    char id[80];
    create(client, id);
    start(client, id);
    while (!atomic_load(&stop_all)) {
        parallel_fn(client, id);
        atomic_fetch_add(&done_count, 1);
    }
    destroy(client, id);
    af_client_free(client);
    return NULL;
}

static double rate_of(void (*fn)(struct af_client *, const char *), unsigned seconds)
{
    pthread_t threads[CLIENTS];
    parallel_fn = fn;
    atomic_store(&stop_all, false);
    for (int i = 0; i < CLIENTS; i++)
        pthread_create(&threads[i], NULL, parallel_main, NULL);
    usleep(200000); // the sandboxes are up
    unsigned before = atomic_load(&done_count);
    int64_t begun_ns = af_monotonic_ns();
    usleep(seconds * 1000000u);
    double rate =
        (double)(atomic_load(&done_count) - before) * 1e9 / (double)(af_monotonic_ns() - begun_ns);
    atomic_store(&stop_all, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(threads[i], NULL);
    return rate;
}

// Shells that start the peer, a fixed number of times.
static double peer_rate(int each)
{
    pid_t pids[CLIENTS];
    char script[256];
    snprintf(script, sizeof script,
             "i=0; while [ $i -lt %d ]; do bwrap --unshare-all --ro-bind / / true || exit 1; "
             "i=$((i+1)); done",
             each);
    char *argv[] = {"sh", "-c", script, NULL}, *env[] = {"PATH=/usr/bin:/bin", NULL};
    int64_t begun_ns = af_monotonic_ns();
    for (int i = 0; i < CLIENTS; i++)
        if (posix_spawn(&pids[i], "/bin/sh", NULL, NULL, argv, env) != 0)
            die("sh", NULL);
    for (int i = 0; i < CLIENTS; i++)
        waitpid(pids[i], NULL, 0);
    return (double)(CLIENTS * each) * 1e9 / (double)(af_monotonic_ns() - begun_ns);
}

static void parallel(unsigned seconds)
{
    // Ours lies between two runs of the peer.
    double before = peer_rate(150), argv = rate_of(exec_argv, seconds);
    double middle = peer_rate(150), shell = rate_of(exec_shell, seconds);
    double after = peer_rate(150);
    printf("rate_peer %.1f /s\n", (before + middle + after) / 3);
    printf("rate_exec_argv %.1f /s\n", argv);
    printf("rate_exec_shell %.1f /s\n", shell);
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
    struct af_client *clients[MASS_CLIENTS];
    for (int i = 0; i < MASS_CLIENTS; i++)
        clients[i] = connect_client();
    mass_count = count;
    mass_ids = calloc(count, sizeof *mass_ids);
    for (unsigned i = 0; i < count; i++)
        create(clients[0], mass_ids[i]);
    double started = mass_seconds(clients, start), ran = mass_seconds(clients, exec_shell);
    double direct = mass_seconds(clients, exec_argv);
    double gone = mass_seconds(clients, destroy);
    printf("mass_start %.1f /s\n", count / started);
    printf("mass_exec %.1f /s\n", count / ran);
    printf("mass_exec_argv %.1f /s\n", count / direct);
    printf("mass_destroy %.3f s\n", gone);
    for (int i = 0; i < MASS_CLIENTS; i++)
        af_client_free(clients[i]);
    free(mass_ids);
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
    struct af_client *client = connect_client();
    make_codebase(client);
    af_client_free(client);
    if (strcmp(argv[2], "serial") == 0 || strcmp(argv[2], "starts") == 0)
        serial(number, strcmp(argv[2], "serial") == 0);
    else if (strcmp(argv[2], "parallel") == 0)
        parallel((unsigned)number);
    else
        mass((unsigned)number);
    return 0;
}
