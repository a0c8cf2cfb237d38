// Checks on bytes that come from outside: UTF-8, ids, file names, relative paths.
//
// Nothing here allocates or locks; every function may run on any thread.
#ifndef AF_BASE_TEXT_H
#define AF_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

// Whether the bytes are well-formed UTF-8 (RFC 3629: shortest form, no surrogates, up to
// U+10FFFF) without a NUL.
bool af_text_is_utf8(const void *bytes, size_t len);

// Replaces every byte of a NUL-terminated string that is a control character or not part
// of well-formed UTF-8 by '?', in place.
void af_text_make_printable(char *text);

// Copies len bytes to `out` (capacity at least 3 * len + 1) with every ill-formed byte replaced by
// U+FFFD; a NUL is well-formed UTF-8 and stays. Returns the length written; out[length] is NUL.
size_t af_text_replace_invalid_utf8(const void *bytes, size_t len, char *out);

// Whether the bytes can be one file name: 1 to 255 bytes, no '/', no NUL, not "." or "..".
bool af_name_is_valid(const void *name, size_t len);

// Checks a relative path from a client and writes its normal form: components joined by
// single slashes, no leading or trailing slash, "" for the root. Leading slashes, "." and
// empty components are dropped only when `lenient`; otherwise they are errors.
// Returns 0, -EINVAL (NUL, "..", or a component that is no name), -ENAMETOOLONG (a component
// over 255 bytes or the path over AF_PATH_MAX). `out` holds at least len + 1 bytes.
int af_path_normalize(const void *path, size_t len, bool lenient, char *out, size_t *ret_len);

#endif
