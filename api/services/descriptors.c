// The server's own .proto files in binary form. Read next: descriptors.h.
//
// The set is a google.protobuf.FileDescriptorSet: field 1, once for each file. Its files are kept
// both as bytes (they are what reflection hands out) and decoded (to look symbols up). Lookups go
// through all files: there are a dozen, and nobody asks often.
#include "api/services/descriptors.h"

#include "mux/base/cleanup.h"

#include <google/protobuf/descriptor.pb-c.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX  64
#define FILE_FIELD 0x0a // field 1, length-delimited
#define SYMBOL_MAX 256

typedef Google__Protobuf__FileDescriptorProto file_proto;
typedef Google__Protobuf__DescriptorProto message_proto;
typedef Google__Protobuf__EnumDescriptorProto enum_proto;
typedef Google__Protobuf__ServiceDescriptorProto service_proto;

// The program carries the file that protoc made.
__asm__(".section .rodata\n"
        ".global af_descriptor_set\naf_descriptor_set:\n.incbin \"" DESCRIPTOR_SET "\"\n"
        ".global af_descriptor_set_end\naf_descriptor_set_end:\n.byte 0\n"
        ".previous\n");
extern const uint8_t af_descriptor_set[], af_descriptor_set_end[];

struct descriptor_file {
    const uint8_t *bytes;
    size_t len;
    file_proto *proto;
};

static struct descriptor_file files[FILES_MAX];
static size_t n_files;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void free_all(void)
{
    for (size_t i = 0; i < n_files; i++)
        google__protobuf__file_descriptor_proto__free_unpacked(files[i].proto, NULL);
    n_files = 0;
}

// protoc's output is trusted, so a flaw in it is a flaw of the build.
static void load(void)
{
    const uint8_t *at = af_descriptor_set;
    while (at < af_descriptor_set_end) {
        if (*at++ != FILE_FIELD || n_files == FILES_MAX)
            abort();
        size_t len = 0;
        for (unsigned shift = 0;; shift += 7) {
            len |= (size_t)(*at & 0x7f) << shift;
            if (!(*at++ & 0x80))
                break;
        }
        struct descriptor_file *file = &files[n_files];
        *file = (struct descriptor_file){
            .bytes = at,
            .len = len,
            .proto = google__protobuf__file_descriptor_proto__unpack(NULL, len, at)};
        if (!file->proto)
            abort();
        n_files++;
        at += len;
    }
    atexit(free_all);
}

static bool same(const char *text, const char *name, size_t len)
{
    return strlen(text) == len && memcmp(text, name, len) == 0;
}

const struct descriptor_file *descriptors_by_name(const char *name, size_t len)
{
    pthread_once(&once, load);
    for (size_t i = 0; i < n_files; i++)
        if (same(files[i].proto->name, name, len))
            return &files[i];
    return NULL;
}

// ---- symbols: a name is looked for below a prefix that matched already

// Takes "part" or "part." off the front of *name; *ret_end: nothing is left.
static bool take(const char *part, const char **name, size_t *len, bool *ret_end)
{
    size_t n = strlen(part);
    if (*len < n || memcmp(*name, part, n) != 0 || (*len > n && (*name)[n] != '.'))
        return false;
    *ret_end = *len == n;
    *name += *ret_end ? n : n + 1;
    *len -= *ret_end ? n : n + 1;
    return true;
}

// Values of an enum are named beside it, not in it; protoc's own tools accept both.
static bool enum_has(const enum_proto *type, const char *name, size_t len)
{
    for (size_t i = 0; i < type->n_value; i++)
        if (same(type->value[i]->name, name, len))
            return true;
    bool end;
    return take(type->name, &name, &len, &end) && (end || enum_has(type, name, len));
}

static bool message_has(const message_proto *type, const char *name, size_t len)
{
    bool end;
    if (!take(type->name, &name, &len, &end))
        return false;
    if (end)
        return true;
    for (size_t i = 0; i < type->n_field; i++)
        if (same(type->field[i]->name, name, len))
            return true;
    for (size_t i = 0; i < type->n_nested_type; i++)
        if (message_has(type->nested_type[i], name, len))
            return true;
    for (size_t i = 0; i < type->n_enum_type; i++)
        if (enum_has(type->enum_type[i], name, len))
            return true;
    return false;
}

static bool service_has(const service_proto *service, const char *name, size_t len)
{
    bool end;
    if (!take(service->name, &name, &len, &end))
        return false;
    for (size_t i = 0; !end && i < service->n_method; i++)
        end = same(service->method[i]->name, name, len);
    return end;
}

static bool file_has(const file_proto *file, const char *name, size_t len)
{
    bool end = false;
    if (file->package && *file->package && !take(file->package, &name, &len, &end))
        return false;
    if (end)
        return false; // a package is no symbol
    for (size_t i = 0; i < file->n_message_type; i++)
        if (message_has(file->message_type[i], name, len))
            return true;
    for (size_t i = 0; i < file->n_enum_type; i++)
        if (enum_has(file->enum_type[i], name, len))
            return true;
    for (size_t i = 0; i < file->n_service; i++)
        if (service_has(file->service[i], name, len))
            return true;
    return false;
}

const struct descriptor_file *descriptors_by_symbol(const char *symbol, size_t len)
{
    pthread_once(&once, load);
    for (size_t i = 0; len <= SYMBOL_MAX && i < n_files; i++)
        if (file_has(files[i].proto, symbol, len))
            return &files[i];
    return NULL;
}

// ---- walks

static void visit(const struct descriptor_file *file, bool seen[FILES_MAX],
                  void (*fn)(void *arg, const uint8_t *bytes, size_t len), void *arg)
{
    if (seen[file - files])
        return;
    seen[file - files] = true;
    for (size_t i = 0; i < file->proto->n_dependency; i++) {
        const char *name = file->proto->dependency[i];
        visit(descriptors_by_name(name, strlen(name)), seen, fn, arg);
    }
    fn(arg, file->bytes, file->len);
}

void descriptors_closure(const struct descriptor_file *file,
                         void (*fn)(void *arg, const uint8_t *bytes, size_t len), void *arg)
{
    bool seen[FILES_MAX] = {false};
    visit(file, seen, fn, arg);
}

void descriptors_services(void (*fn)(void *arg, const char *service, const char *method_path),
                          void *arg)
{
    pthread_once(&once, load);
    for (size_t i = 0; i < n_files; i++) {
        const file_proto *file = files[i].proto;
        for (size_t j = 0; j < file->n_service; j++) {
            const service_proto *service = file->service[j];
            char name[SYMBOL_MAX], path[2 * SYMBOL_MAX];
            snprintf(name, sizeof name, "%s.%s", file->package, service->name);
            snprintf(path, sizeof path, "/%s/%s", name, service->method[0]->name);
            fn(arg, name, path);
        }
    }
}
