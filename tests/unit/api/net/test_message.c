// Decoding of requests: budget, text fields, raw fields, enum values.
#include "api/net/grpc.h"
#include "api/net/message.h"
#include "api/net/raw_fields.h"
#include "proto/agentfense.pb-c.h"
#include "proto/sandbox.pb-c.h"

#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES(literal) ((ProtobufCBinaryData){sizeof(literal) - 1, (uint8_t *)(literal)})

// Packs a message and decodes it again as the server would; returns the status, fills err.
static enum af_status round_trip(const ProtobufCMessage *message, size_t budget,
                                 struct af_error *err)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(len + 1);
    protobuf_c_message_pack(message, bytes);
    struct grpc_arena arena;
    ProtobufCMessage *decoded;
    err->status = AF_OK;
    grpc_arena_init(&arena, budget);
    grpc_message_decode(message->descriptor, bytes, len, &arena, &decoded, err);
    grpc_arena_fini(&arena);
    free(bytes);
    return err->status;
}

static void nul_in_a_string_is_refused_by_name(void **state)
{
    (void)state;
    struct af_error err;
    Sandbox__V1__ExecRequest request = SANDBOX__V1__EXEC_REQUEST__INIT;
    request.command = BYTES("cat ok\0; rm -rf /");
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field command contains a NUL byte");
    request.command = BYTES("cat ok");
    request.stdin = BYTES("data \0 is data");
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_OK);
}

static void invalid_utf8_is_refused_by_name(void **state)
{
    (void)state;
    struct af_error err;
    Sandbox__V1__CreateCodebaseRequest request = SANDBOX__V1__CREATE_CODEBASE_REQUEST__INIT;
    request.name = BYTES("caf\xc3\xa9");
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_OK);
    request.owner_id = BYTES("caf\xe9");
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field owner_id is not valid UTF-8");
}

static void nested_repeated_and_map_fields_are_walked(void **state)
{
    (void)state;
    struct af_error err;
    Sandbox__V1__PermissionRule good = SANDBOX__V1__PERMISSION_RULE__INIT;
    Sandbox__V1__PermissionRule bad = SANDBOX__V1__PERMISSION_RULE__INIT;
    Sandbox__V1__PermissionRule *rules[] = {&good, &good, &bad};
    Sandbox__V1__CreateSandboxRequest request = SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    good.pattern = BYTES("**/*");
    bad.pattern = BYTES("a\0b");
    request.permissions = rules;
    request.n_permissions = 2;
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_OK);
    request.n_permissions = 3;
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field permissions.pattern contains a NUL byte");

    Sandbox__V1__CreateSandboxRequest__LabelsEntry label =
        SANDBOX__V1__CREATE_SANDBOX_REQUEST__LABELS_ENTRY__INIT;
    Sandbox__V1__CreateSandboxRequest__LabelsEntry *labels[] = {&label};
    label.key = BYTES("\xff");
    request.n_permissions = 0;
    request.labels = labels;
    request.n_labels = 1;
    assert_int_equal(round_trip(&request.base, 1 << 20, &err), AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field labels.key is not valid UTF-8");
}

static void raw_bytes_may_hold_anything(void **state)
{
    (void)state;
    struct af_error err;
    ProtobufCBinaryData argv[] = {BYTES("a\0b"), BYTES("\xff\xfe")};
    Agentfense__V1__RunRequest run = AGENTFENSE__V1__RUN_REQUEST__INIT;
    run.argv = argv;
    run.n_argv = 2;
    assert_int_equal(round_trip(&run.base, 1 << 20, &err), AF_OK);
    run.sandbox_id = BYTES("sb\0");
    assert_int_equal(round_trip(&run.base, 1 << 20, &err), AF_INVALID_ARGUMENT);

    Sandbox__V1__UploadChunk chunk = SANDBOX__V1__UPLOAD_CHUNK__INIT;
    chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_DATA;
    chunk.data = BYTES("\0\xff\0");
    assert_int_equal(round_trip(&chunk.base, 1 << 20, &err), AF_OK);
    Sandbox__V1__UploadChunk__Metadata metadata = SANDBOX__V1__UPLOAD_CHUNK__METADATA__INIT;
    metadata.file_path = BYTES("a\0b");
    chunk.content_case = SANDBOX__V1__UPLOAD_CHUNK__CONTENT_METADATA;
    chunk.metadata = &metadata;
    assert_int_equal(round_trip(&chunk.base, 1 << 20, &err), AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field metadata.file_path contains a NUL byte");
}

static void a_small_message_cannot_unpack_into_much_memory(void **state)
{
    (void)state;
    enum { RULES = 200000 }; // two bytes each on the wire, far more in memory
    uint8_t *bytes = malloc(RULES * 2);
    for (size_t i = 0; i < RULES; i++) {
        bytes[2 * i] = 2 << 3 | 2;
        bytes[2 * i + 1] = 0;
    }
    struct grpc_arena arena;
    struct af_error err;
    ProtobufCMessage *decoded;
    grpc_arena_init(&arena, 4 << 20);
    assert_int_equal(grpc_message_decode(&sandbox__v1__create_sandbox_request__descriptor, bytes,
                                         RULES * 2, &arena, &decoded, &err),
                     -1);
    assert_int_equal(err.status, AF_RESOURCE_EXHAUSTED);
    grpc_arena_fini(&arena);
    grpc_arena_init(&arena, 64 << 20);
    assert_int_equal(grpc_message_decode(&sandbox__v1__create_sandbox_request__descriptor, bytes,
                                         RULES * 2, &arena, &decoded, &err),
                     0);
    grpc_arena_fini(&arena);
    free(bytes);
}

static void garbage_is_invalid(void **state)
{
    (void)state;
    struct grpc_arena arena;
    struct af_error err;
    ProtobufCMessage *decoded;
    grpc_arena_init(&arena, 1 << 20);
    assert_int_equal(grpc_message_decode(&sandbox__v1__exec_request__descriptor,
                                         (const uint8_t *)"\x0a\xff\xff\xff", 4, &arena, &decoded,
                                         &err),
                     -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    grpc_arena_fini(&arena);
}

static void the_arena_keeps_its_budget_and_alignment(void **state)
{
    (void)state;
    struct grpc_arena arena;
    grpc_arena_init(&arena, 100000);
    ProtobufCAllocator *allocator = &arena.allocator;
    size_t given = 0;
    for (size_t size = 1;; size = size * 3 % 5000 + 1) {
        uint8_t *p = allocator->alloc(allocator->allocator_data, size);
        if (!p)
            break;
        assert_int_equal((uintptr_t)p % 16, 0);
        memset(p, 0xAA, size);
        given += size;
    }
    assert_true(arena.exceeded);
    assert_true(given <= 100000);
    grpc_arena_fini(&arena);
}

static void unknown_enum_values_are_named(void **state)
{
    (void)state;
    struct af_error err;
    assert_int_equal(grpc_check_enum(&sandbox__v1__permission__descriptor, 4, "permission", &err),
                     0);
    assert_int_equal(grpc_check_enum(&sandbox__v1__permission__descriptor, 5, "permission", &err),
                     -1);
    assert_int_equal(err.status, AF_INVALID_ARGUMENT);
    assert_string_equal(err.text, "field permission has the unknown sandbox.v1.Permission value 5");
}

// ---- the table of raw fields against the .proto files ----------------------------------

struct scan {
    char package[64];
    char messages[8][64]; // nesting; "" for what is no message
    int depth;
    size_t found;
};

static bool in_table(const char *name)
{
    for (size_t i = 0; i < grpc_raw_field_count; i++)
        if (strcmp(grpc_raw_fields[i], name) == 0)
            return true;
    return false;
}

static void check_raw(struct scan *scan, const char *field)
{
    char name[256];
    snprintf(name, sizeof name, "%s", scan->package);
    for (int i = 0; i < scan->depth; i++)
        if (scan->messages[i][0])
            snprintf(name + strlen(name), sizeof name - strlen(name), ".%s", scan->messages[i]);
    snprintf(name + strlen(name), sizeof name - strlen(name), ".%s", field);
    if (!in_table(name))
        fail_msg("%s is bytes in the .proto but not in api/net/raw_fields.c", name);
    scan->found++;
}

// Words and braces of one .proto file, comments left out.
static void scan_proto(struct scan *scan, FILE *in)
{
    char line[512], before[64] = "", last[64] = "";
    while (fgets(line, sizeof line, in)) {
        char *comment = strstr(line, "//");
        if (comment)
            *comment = '\0';
        for (char *p = line; *p;) {
            size_t n =
                strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789.");
            if (n > 0) {
                memcpy(before, last, sizeof before);
                snprintf(last, sizeof last, "%.*s", (int)n, p);
                if (strcmp(before, "package") == 0)
                    memcpy(scan->package, last, sizeof last);
                if (strcmp(before, "bytes") == 0 && (last[0] < '0' || last[0] > '9'))
                    check_raw(scan, last);
                p += n;
                continue;
            }
            if (*p == '{') {
                bool message = strcmp(before, "message") == 0;
                memcpy(scan->messages[scan->depth++], message ? last : "", message ? 64 : 1);
            }
            if (*p == '}')
                scan->depth--;
            p++;
        }
    }
}

static void the_raw_fields_are_those_of_the_protos(void **state)
{
    (void)state;
    glob_t files;
    size_t found = 0;
    if (glob("proto/*.proto", 0, NULL, &files) != 0 ||
        glob("proto/grpc/*.proto", GLOB_APPEND, NULL, &files) != 0) {
        print_message("skipped: not run from the top of the source tree\n");
        skip();
    }
    for (size_t i = 0; i < files.gl_pathc; i++) {
        struct scan scan = {0};
        FILE *in = fopen(files.gl_pathv[i], "r");
        assert_non_null(in);
        scan_proto(&scan, in);
        fclose(in);
        found += scan.found;
    }
    globfree(&files);
    // One more: sandbox.v1.ExecRequest.stdin is a string there, and data.
    assert_int_equal(found + 1, grpc_raw_field_count);
    for (size_t i = 1; i < grpc_raw_field_count; i++)
        assert_true(strcmp(grpc_raw_fields[i - 1], grpc_raw_fields[i]) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nul_in_a_string_is_refused_by_name),
        cmocka_unit_test(invalid_utf8_is_refused_by_name),
        cmocka_unit_test(nested_repeated_and_map_fields_are_walked),
        cmocka_unit_test(raw_bytes_may_hold_anything),
        cmocka_unit_test(a_small_message_cannot_unpack_into_much_memory),
        cmocka_unit_test(garbage_is_invalid),
        cmocka_unit_test(the_arena_keeps_its_budget_and_alignment),
        cmocka_unit_test(unknown_enum_values_are_named),
        cmocka_unit_test(the_raw_fields_are_those_of_the_protos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
