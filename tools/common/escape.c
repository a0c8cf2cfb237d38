// Escaping for people: see escape.h. Owns nothing; cannot fail but for memory.
#include "tools/common/escape.h"

#include "tools/common/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Decodes one character; returns its length, 0 when the bytes are not well-formed UTF-8.
static size_t decode(const unsigned char *bytes, size_t len, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = bytes[0] < 0x80             ? 1
                  : (bytes[0] & 0xE0) == 0xC0 ? 2
                  : (bytes[0] & 0xF0) == 0xE0 ? 3
                  : (bytes[0] & 0xF8) == 0xF0 ? 4
                                              : 0;
    if (size == 0 || size > len)
        return 0;
    uint32_t code = size == 1 ? bytes[0] : bytes[0] & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (bytes[i] & 0x3Fu);
    }
    if (code < least[size] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0;
    *ret = code;
    return size;
}

// Control characters of C0 and C1, invisible ones, and those that turn the direction of writing.
static bool is_hostile(uint32_t code)
{
    return code < 0x20 || (code >= 0x7F && code <= 0x9F) || code == 0xAD || code == 0x61C ||
           (code >= 0x200B && code <= 0x200F) || (code >= 0x2028 && code <= 0x202E) ||
           (code >= 0x2060 && code <= 0x206F) || code == 0xFEFF ||
           (code >= 0xFFF9 && code <= 0xFFFB) || (code >= 0xE0000 && code <= 0xE007F);
}

// Escapes one character of `size` bytes (or one byte that is none) and returns the end of it.
static char *put_escaped(char *out, const unsigned char *bytes, size_t size)
{
    static const char hex[] = "0123456789abcdef";
    const char *known = bytes[0] ? strchr("\nn\tt\rr", bytes[0]) : NULL;
    if (known && bytes[0] < 0x20) {
        *out++ = '\\';
        *out++ = known[1];
        return out;
    }
    for (size_t i = 0; i < size; i++) {
        *out++ = '\\';
        *out++ = 'x';
        *out++ = hex[bytes[i] >> 4];
        *out++ = hex[bytes[i] & 15];
    }
    return out;
}

static size_t escape(const void *data, size_t len, bool keep_lines, char *out)
{
    const unsigned char *bytes = data;
    char *start = out;
    for (size_t at = 0; at < len;) {
        uint32_t code = 0;
        size_t size = decode(bytes + at, len - at, &code);
        bool kept = keep_lines && (bytes[at] == '\n' || bytes[at] == '\t');
        if (!kept && (size == 0 || is_hostile(code))) {
            size = size ? size : 1;
            out = put_escaped(out, bytes + at, size);
        } else {
            if (bytes[at] == '\\' && !keep_lines)
                *out++ = '\\';
            memcpy(out, bytes + at, size);
            out += size;
        }
        at += size;
    }
    *out = '\0';
    return (size_t)(out - start);
}

size_t tool_escape(const void *bytes, size_t len, char *out)
{
    return escape(bytes, len, false, out);
}

char *tool_escaped(const void *bytes, size_t len)
{
    char *out = tool_alloc(TOOL_ESCAPED_MAX(len));
    tool_escape(bytes, len, out);
    return out;
}

void tool_print_escaped(FILE *file, const void *bytes, size_t len)
{
    char *text = tool_escaped(bytes, len);
    fputs(text, file);
    free(text);
}

void tool_print_text(FILE *file, const void *bytes, size_t len)
{
    char *text = tool_alloc(TOOL_ESCAPED_MAX(len));
    escape(bytes, len, true, text);
    fputs(text, file);
    free(text);
}

size_t tool_columns(const char *text)
{
    size_t columns = 0;
    for (; *text; text++)
        columns += ((unsigned char)*text & 0xC0) != 0x80;
    return columns;
}
