// The server's own .proto files in binary form, and which of them says what.
//
// The set is made by protoc at build time and is part of the program; parsed once, at the first
// use, then constant. Any thread. Read next: descriptors.c, reflection_service.c.
#ifndef AF_API_SERVICES_DESCRIPTORS_H
#define AF_API_SERVICES_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

struct descriptor_file; // a google.protobuf.FileDescriptorProto

// NULL: there is none. `name` need not be NUL-terminated.
const struct descriptor_file *descriptors_by_name(const char *name, size_t len);
// The file that declares a message, enum, service, method, field or enum value, by its full name
// without a leading dot.
const struct descriptor_file *descriptors_by_symbol(const char *symbol, size_t len);

// Calls fn for the file and everything it imports, each once, imports first.
void descriptors_closure(const struct descriptor_file *file,
                         void (*fn)(void *arg, const uint8_t *bytes, size_t len), void *arg);

// Calls fn for every service with the path of its first method. The strings last until the return.
void descriptors_services(void (*fn)(void *arg, const char *service, const char *method_path),
                          void *arg);

#endif
