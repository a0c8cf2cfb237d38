// Tests of the op table without a mount: messages as the kernel writes them go in through a
// socket pair, answers come back, byte for byte. Deterministic: everything that is not slow runs
// on this thread. Needs a libfuse built with custom io; skipped otherwise.
#include "tests/unit/fs/fake_mux.h"

#include "fs/fs.h"
#include "fs/session_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define ANSWER_MAX (FS_IO_MAX + 4096)

static struct fs_session *session;
static int kernel = -1; // our end: the kernel's
static uint64_t view;
static uint64_t unique;
static char *answer; // of the last request: header and body
static size_t answer_len;

#if FS_FUSE_HAS_RING

static ssize_t io_read(int fd, void *buf, size_t size, void *userdata)
{
    (void)userdata;
    return read(fd, buf, size);
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
    (void)userdata;
    return writev(fd, iov, count);
}

static int attach(int fd)
{
    static const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};
    return fuse_session_custom_io(session->fuse, &io, sizeof io, fd);
}

#else

static int attach(int fd)
{
    (void)fd;
    return -1;
}

#endif

// Sends one request and takes its answer; returns the answer's error (0 or -errno).
static int request(uint32_t opcode, uint64_t nodeid, const void *arg, size_t arg_len,
                   const void *arg2, size_t arg2_len)
{
    static char message[ANSWER_MAX];
    struct fuse_in_header *in = (void *)message;
    size_t len = sizeof *in + arg_len + arg2_len;
    memset(in, 0, sizeof *in);
    in->len = (uint32_t)len;
    in->opcode = opcode;
    in->unique = ++unique;
    in->nodeid = nodeid;
    in->uid = 1000;
    in->gid = 1000;
    in->pid = 77;
    if (arg_len > 0)
        memcpy(message + sizeof *in, arg, arg_len);
    if (arg2_len > 0)
        memcpy(message + sizeof *in + arg_len, arg2, arg2_len);
    struct fuse_buf buf = {.size = len, .mem = message};
    fuse_session_process_buf(session->fuse, &buf);
    const struct fuse_out_header *out = (void *)answer;
    ssize_t n;
    do { // notifications (unique 0) come on the same socket, from a thread of their own
        n = read(kernel, answer, ANSWER_MAX);
        assert_true(n >= (ssize_t)sizeof(struct fuse_out_header));
    } while (out->unique == 0);
    answer_len = (size_t)n;
    assert_int_equal(out->len, n);
    assert_int_equal(out->unique, unique);
    return out->error;
}

static void *body(void)
{
    return answer + sizeof(struct fuse_out_header);
}

static int request_name(uint32_t opcode, uint64_t nodeid, const char *name)
{
    return request(opcode, nodeid, name, strlen(name) + 1, NULL, 0);
}

static const struct fuse_init_out *init_connection(uint32_t flags)
{
    struct fuse_init_in in = {.major = 7, .minor = 38, .max_readahead = 1 << 20, .flags = flags};
    assert_int_equal(request(FUSE_INIT, 0, &in, sizeof in, NULL, 0), 0);
    return body();
}

static int setup(void **state)
{
    (void)state;
    fake_reset();
    view = fake_add(MUX_NODEID_TOP, "v", S_IFDIR | 0755, NULL);
    struct af_error err;
    struct fs_options options = {
        .mux = &fake, .mountpoint = "/tmp/not-mounted", .transport = FS_TRANSPORT_DEV_FUSE};
    if (fs_session_new(&options, &session, &err) != 0 || fs_session_start_parts(session, &err) != 0)
        return -1;
    int pair[2];
    int room = 4 << 20;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    kernel = pair[1];
    answer = malloc(ANSWER_MAX);
    if (attach(pair[0]) != 0) { // the session closes it
        close(pair[0]);
        return 0;
    }
    init_connection(FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_POSIX_LOCKS |
                    FUSE_FLOCK_LOCKS | FUSE_EXPORT_SUPPORT | FUSE_WRITEBACK_CACHE |
                    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_PARALLEL_DIROPS |
                    FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_ASYNC_READ | FUSE_DONT_MASK |
                    FUSE_POSIX_ACL | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fs_session_free(session);
    close(kernel);
    free(answer);
    unique = 0;
    return 0;
}

static void need_custom_io(void)
{
    if (unique > 0)
        return;
    print_message("skipped: needs libfuse >= 3.18, to be asked by others than the kernel\n");
    skip();
}

static void test_init_negotiates_what_the_policy_needs(void **state)
{
    (void)state;
    need_custom_io();
    const struct fuse_init_out *out = body();
    uint32_t off = FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_POSIX_LOCKS |
                   FUSE_FLOCK_LOCKS | FUSE_EXPORT_SUPPORT | FUSE_WRITEBACK_CACHE | FUSE_DONT_MASK |
                   FUSE_POSIX_ACL;
    uint32_t on = FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_PARALLEL_DIROPS |
                  FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_ASYNC_READ;
    assert_int_equal(out->flags & off, 0);
    assert_int_equal(out->flags & on, on);
    assert_int_equal(out->max_write, FS_IO_MAX);
    assert_int_equal(out->max_pages, FS_IO_MAX / 4096);
    assert_int_equal(out->max_background, FS_BACKGROUND);
}

static void test_opens_are_answered_enosys(void **state)
{
    (void)state;
    need_custom_io();
    struct fuse_open_in open_in = {0};
    struct fuse_flush_in flush_in = {0};
    assert_int_equal(request(FUSE_OPEN, 2, &open_in, sizeof open_in, NULL, 0), -ENOSYS);
    assert_int_equal(request(FUSE_OPENDIR, 1, &open_in, sizeof open_in, NULL, 0), -ENOSYS);
    assert_int_equal(request(FUSE_FLUSH, 2, &flush_in, sizeof flush_in, NULL, 0), -ENOSYS);
}

static void test_lookup_carries_identity_and_timeouts(void **state)
{
    (void)state;
    need_custom_io();
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0640, "hello");
    assert_int_equal(request_name(FUSE_LOOKUP, view, "f"), 0);
    const struct fuse_entry_out *out = body();
    assert_int_equal(out->nodeid, nodeid);
    assert_int_equal(out->generation, 1);
    assert_int_equal(out->entry_valid, 3600);
    assert_int_equal(out->attr_valid, 3600);
    assert_int_equal(out->attr.mode, S_IFREG | 0640);
    assert_int_equal(out->attr.size, 5);
    assert_int_equal(out->attr.ino, mux_nodeid_fid(nodeid));
    // Absent: no error, nodeid 0, and a time to remember it for.
    assert_int_equal(request_name(FUSE_LOOKUP, view, "absent"), 0);
    assert_int_equal(out->nodeid, 0);
    assert_int_equal(out->entry_valid, 3600);
}

static void test_names_over_255_bytes_are_refused_by_every_operation(void **state)
{
    (void)state;
    need_custom_io();
    char name[300], good_then_long[310] = "ok";
    memset(name, 'n', sizeof name);
    name[256] = '\0';
    memcpy(good_then_long + 3, name, 257);
    struct fuse_mkdir_in mkdir_in = {.mode = 0755};
    struct fuse_mknod_in mknod_in = {.mode = S_IFREG | 0644};
    struct fuse_create_in create_in = {.mode = S_IFREG | 0644};
    struct fuse_rename_in rename_in = {.newdir = view};
    fake_add(view, "ok", S_IFREG | 0644, NULL);
    assert_int_equal(request(FUSE_LOOKUP, view, name, 257, NULL, 0), -ENAMETOOLONG);
    assert_int_equal(request(FUSE_UNLINK, view, name, 257, NULL, 0), -ENAMETOOLONG);
    assert_int_equal(request(FUSE_RMDIR, view, name, 257, NULL, 0), -ENAMETOOLONG);
    assert_int_equal(request(FUSE_MKDIR, view, &mkdir_in, sizeof mkdir_in, name, 257),
                     -ENAMETOOLONG);
    assert_int_equal(request(FUSE_MKNOD, view, &mknod_in, sizeof mknod_in, name, 257),
                     -ENAMETOOLONG);
    assert_int_equal(request(FUSE_CREATE, view, &create_in, sizeof create_in, name, 257),
                     -ENAMETOOLONG);
    assert_int_equal(request(FUSE_SYMLINK, view, name, 257, "t", 2), -ENAMETOOLONG);
    assert_int_equal(request(FUSE_RENAME, view, &rename_in, sizeof rename_in, good_then_long, 260),
                     -ENAMETOOLONG);
}

static void test_a_view_that_is_gone_is_estale_for_every_operation(void **state)
{
    (void)state;
    need_custom_io();
    struct fuse_getattr_in getattr_in = {0};
    struct fuse_setattr_in setattr_in = {.valid = FATTR_MODE, .mode = 0600};
    struct fuse_read_in read_in = {.size = 4096};
    struct fuse_create_in create_in = {.mode = S_IFREG | 0644};
    fake_get(view)->stale = true;
    assert_int_equal(request_name(FUSE_LOOKUP, view, "x"), -ESTALE);
    assert_int_equal(request(FUSE_GETATTR, view, &getattr_in, sizeof getattr_in, NULL, 0), -ESTALE);
    assert_int_equal(request(FUSE_SETATTR, view, &setattr_in, sizeof setattr_in, NULL, 0), -ESTALE);
    assert_int_equal(request(FUSE_READ, view, &read_in, sizeof read_in, NULL, 0), -ESTALE);
    assert_int_equal(request(FUSE_READDIR, view, &read_in, sizeof read_in, NULL, 0), -ESTALE);
    assert_int_equal(request(FUSE_CREATE, view, &create_in, sizeof create_in, "x", 2), -ESTALE);
    assert_int_equal(request(FUSE_READLINK, view, NULL, 0, NULL, 0), -ESTALE);
}

static void test_create_of_an_existing_name(void **state)
{
    (void)state;
    need_custom_io();
    fake_add(view, "f", S_IFREG | 0644, NULL);
    struct fuse_create_in in = {.mode = S_IFREG | 0644, .flags = O_CREAT | O_RDWR};
    // The kernel must look again, and check the permissions that it has not checked.
    assert_int_equal(request(FUSE_CREATE, view, &in, sizeof in, "f", 2), -ESTALE);
    in.flags |= O_EXCL;
    assert_int_equal(request(FUSE_CREATE, view, &in, sizeof in, "f", 2), -EEXIST);
    assert_int_equal(request(FUSE_CREATE, view, &in, sizeof in, "g", 2), 0);
    const struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } *out = body();
    assert_int_equal(out->entry.attr.uid, 1000); // the caller
    assert_int_equal(out->open.open_flags & FOPEN_KEEP_CACHE, FOPEN_KEEP_CACHE);
}

static void test_write_to_a_shared_nodeid_is_refused_and_counted(void **state)
{
    (void)state;
    need_custom_io();
    struct fuse_write_in in = {.size = 3};
    uint64_t shared = mux_nodeid_shared(MUX_CLASS_READ, 5);
    assert_int_equal(request(FUSE_WRITE, shared, &in, sizeof in, "abc", 3), -EACCES);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_int_equal(counters.shared_writes, 1);
    assert_int_equal(counters.op[FS_OP_WRITE].errors, 1);
}

static void test_readdir_continues_where_the_buffer_ended(void **state)
{
    (void)state;
    need_custom_io();
    char name[32];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "name-%d", i);
        fake_add(view, name, S_IFREG | 0644, NULL);
    }
    unsigned seen = 0, answers = 0;
    struct fuse_read_in in = {.size = 256};
    for (;; answers++) {
        assert_int_equal(request(FUSE_READDIR, view, &in, sizeof in, NULL, 0), 0);
        const char *at = body(), *end = answer + answer_len;
        if (at == end)
            break;
        while (at < end) {
            const struct fuse_dirent *entry = (const void *)at;
            in.offset = entry->off;
            at += FUSE_DIRENT_SIZE(entry);
            seen++;
        }
    }
    assert_int_equal(seen, 42);
    assert_true(answers > 4);
}

static void test_readdirplus_gives_entries_but_no_dots(void **state)
{
    (void)state;
    need_custom_io();
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    struct fuse_read_in in = {.size = 4096};
    assert_int_equal(request(FUSE_READDIRPLUS, view, &in, sizeof in, NULL, 0), 0);
    const char *at = body(), *end = answer + answer_len;
    for (int i = 0; at < end; i++) {
        const struct fuse_direntplus *entry = (const void *)at;
        assert_int_equal(entry->entry_out.nodeid, i < 2 ? 0 : nodeid);
        if (i == 2) {
            assert_int_equal(entry->entry_out.attr.size, 5);
            assert_int_equal(entry->dirent.namelen, 1);
        }
        at += FUSE_DIRENTPLUS_SIZE(entry);
        assert_true(at < end || i == 2);
    }
}

static void test_setattr_flags_reach_mux(void **state)
{
    (void)state;
    need_custom_io();
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 06755, "hello");
    struct fuse_setattr_in in = {.valid = FATTR_SIZE | FATTR_KILL_SUIDGID | FATTR_FH, .size = 2};
    assert_int_equal(request(FUSE_SETATTR, nodeid, &in, sizeof in, NULL, 0), 0);
    const struct fuse_attr_out *out = body();
    assert_int_equal(out->attr.size, 2);
    assert_int_equal(out->attr.mode & 07777, 0755);
    assert_int_equal(out->attr_valid, 3600);
    assert_int_equal(fake.kills, 1);
}

static void test_reads_end_where_the_file_ends(void **state)
{
    (void)state;
    need_custom_io();
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    struct fuse_read_in in = {.size = 4096};
    assert_int_equal(request(FUSE_READ, nodeid, &in, sizeof in, NULL, 0), 0);
    assert_int_equal(answer_len, sizeof(struct fuse_out_header) + 5);
    in.offset = 3;
    assert_int_equal(request(FUSE_READ, nodeid, &in, sizeof in, NULL, 0), 0);
    assert_memory_equal(body(), "lo", 2);
    in.offset = 5;
    assert_int_equal(request(FUSE_READ, nodeid, &in, sizeof in, NULL, 0), 0);
    assert_int_equal(answer_len, sizeof(struct fuse_out_header));
}

static void test_slow_requests_are_answered_by_the_pool(void **state)
{
    (void)state;
    need_custom_io();
    struct fuse_fsync_in in = {0};
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    assert_int_equal(request(FUSE_FSYNC, nodeid, &in, sizeof in, NULL, 0), 0);
    assert_int_equal(request(FUSE_FSYNCDIR, view, &in, sizeof in, NULL, 0), 0);
    assert_int_equal(request(FUSE_FSYNC, 12345, &in, sizeof in, NULL, 0), -ENOENT);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_int_equal(counters.slow_requests, 3);
    assert_true(counters.op[FS_OP_FSYNC].latency_ns > 0);
}

static void test_extended_attributes_are_never_enosys(void **state)
{
    (void)state;
    need_custom_io();
    uint64_t nodeid = fake_add(view, "f", S_IFREG | 0644, "hello");
    struct fuse_getxattr_in in = {0};
    static const char known[] = "user.known", unknown[] = "user.unknown";
    static const char caps[] = "security.capability";
    assert_int_equal(request(FUSE_GETXATTR, nodeid, &in, sizeof in, known, sizeof known), 0);
    assert_int_equal(((const struct fuse_getxattr_out *)body())->size, 5);
    in.size = 4;
    assert_int_equal(request(FUSE_GETXATTR, nodeid, &in, sizeof in, known, sizeof known), -ERANGE);
    in.size = 100;
    assert_int_equal(request(FUSE_GETXATTR, nodeid, &in, sizeof in, known, sizeof known), 0);
    assert_memory_equal(body(), "value", 5);
    assert_int_equal(request(FUSE_GETXATTR, nodeid, &in, sizeof in, unknown, sizeof unknown),
                     -ENODATA);
    assert_int_equal(request(FUSE_GETXATTR, nodeid, &in, sizeof in, caps, sizeof caps),
                     -EOPNOTSUPP);
}

static void test_unimplemented_operations_do_not_crash(void **state)
{
    (void)state;
    need_custom_io();
    static const struct {
        uint32_t opcode;
        int error;
    } cases[] = {
        {FUSE_GETXATTR, -EOPNOTSUPP}, {FUSE_SETXATTR, -EOPNOTSUPP}, {FUSE_LISTXATTR, 0},
        {FUSE_ACCESS, -ENOSYS},       {FUSE_REMOVEXATTR, -ENODATA}, {FUSE_FALLOCATE, -ENOSYS},
        {FUSE_LSEEK, -ENOSYS},        {FUSE_IOCTL, -ENOSYS},        {FUSE_POLL, -ENOSYS},
        {FUSE_BMAP, -ENOSYS},         {FUSE_GETLK, -ENOSYS},        {FUSE_COPY_FILE_RANGE, -ENOSYS},
        {FUSE_SYNCFS, -ENOSYS},       {FUSE_LINK, -EPERM},          {999, -ENOSYS},
    };
    static const char zeros[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(request(cases[i].opcode, view, zeros, sizeof zeros, NULL, 0),
                         cases[i].error);
    struct fs_counters counters;
    fs_session_counters(session, &counters);
    assert_int_equal(counters.op[FS_OP_IOCTL].requests, 1); // each one comes: it counts
    assert_int_equal(counters.op[FS_OP_IOCTL].errors, 0);
}

#define TABLE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TABLE(test_init_negotiates_what_the_policy_needs),
        TABLE(test_opens_are_answered_enosys),
        TABLE(test_lookup_carries_identity_and_timeouts),
        TABLE(test_names_over_255_bytes_are_refused_by_every_operation),
        TABLE(test_a_view_that_is_gone_is_estale_for_every_operation),
        TABLE(test_create_of_an_existing_name),
        TABLE(test_write_to_a_shared_nodeid_is_refused_and_counted),
        TABLE(test_readdir_continues_where_the_buffer_ended),
        TABLE(test_readdirplus_gives_entries_but_no_dots),
        TABLE(test_setattr_flags_reach_mux),
        TABLE(test_reads_end_where_the_file_ends),
        TABLE(test_slow_requests_are_answered_by_the_pool),
        TABLE(test_extended_attributes_are_never_enosys),
        TABLE(test_unimplemented_operations_do_not_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
