// The request fields that are `bytes` in the .proto files: any content, NUL included.
//
// Every other field of bytes in the generated code is a `string` and is checked as text; so a
// field that is missing here is checked too strictly, never too little. Sorted; a unit test
// compares the table with the .proto files.
#ifndef AF_API_NET_RAW_FIELDS_H
#define AF_API_NET_RAW_FIELDS_H

#include <stddef.h>

extern const char *const grpc_raw_fields[]; // "package.Message.field", in strcmp order
extern const size_t grpc_raw_field_count;

#endif
