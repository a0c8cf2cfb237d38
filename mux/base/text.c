// Checks on bytes that come from outside. Pure functions. Read next: text.h.
#include "mux/base/text.h"

#include "mux/base/limits.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

// Length of the well-formed UTF-8 sequence at p (1 to 4), or 0. Ranges: RFC 3629, section 4.
static size_t utf8_sequence(const uint8_t *p, size_t len)
{
    if (len == 0 || p[0] == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t need = p[0] >= 0xC2 && p[0] <= 0xDF   ? 2
                  : p[0] >= 0xE0 && p[0] <= 0xEF ? 3
                  : p[0] >= 0xF0 && p[0] <= 0xF4 ? 4
                                                 : 0;
    if (need == 0 || len < need)
        return 0;
    uint8_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++)
        if (p[i] < 0x80 || p[i] > 0xBF)
            return 0;
    return need;
}

bool af_text_is_utf8(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(p + i, len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

void af_text_make_printable(char *text)
{
    uint8_t *p = (uint8_t *)text;
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(p + i, len - i);
        if (n == 0 || (n == 1 && (p[i] < 0x20 || p[i] == 0x7F))) {
            p[i] = '?';
            n = 1;
        }
        i += n;
    }
}

size_t af_text_replace_invalid_utf8(const void *bytes, size_t len, char *out)
{
    static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};
    const uint8_t *p = bytes;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        size_t n = p[i] == 0 ? 1 : utf8_sequence(p + i, len - i);
        if (n == 0) {
            memcpy(out + used, replacement, sizeof replacement);
            used += sizeof replacement;
            i++;
            continue;
        }
        memcpy(out + used, p + i, n);
        used += n;
        i += n;
    }
    out[used] = '\0';
    return used;
}

bool af_name_is_valid(const void *name, size_t len)
{
    const char *p = name;
    if (len == 0 || len > AF_NAME_MAX)
        return false;
    if (p[0] == '.' && (len == 1 || (len == 2 && p[1] == '.')))
        return false;
    return !memchr(p, '/', len) && !memchr(p, '\0', len);
}

int af_path_normalize(const void *path, size_t len, bool lenient, char *out, size_t *ret_len)
{
    const char *p = path;
    if (len > AF_PATH_MAX)
        return -ENAMETOOLONG;
    if (len > 0 && memchr(p, '\0', len)) // an empty path may have no bytes at all
        return -EINVAL;
    size_t used = 0;
    for (size_t i = 0; i < len;) {
        size_t n = 0;
        while (i + n < len && p[i + n] != '/')
            n++;
        bool skip = n == 0 || (n == 1 && p[i] == '.');
        if (skip && !lenient)
            return -EINVAL;
        if (!skip) {
            if (n > AF_NAME_MAX)
                return -ENAMETOOLONG;
            if (!af_name_is_valid(p + i, n))
                return -EINVAL;
            if (used > 0)
                out[used++] = '/';
            memcpy(out + used, p + i, n);
            used += n;
        }
        i += n;
        if (i < len) { // a separator; one that ends the path closes an empty component
            i++;
            if (i == len && !lenient)
                return -EINVAL;
        }
    }
    out[used] = '\0';
    *ret_len = used;
    return 0;
}
