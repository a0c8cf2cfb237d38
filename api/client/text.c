// Small texts of the gRPC protocol, the client's half. Pure functions. Read next: client_priv.h.
#include "api/client/client_priv.h"

#include <stdio.h>

#define VALUE_MAX 99999999 // eight digits

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

// Malformed escapes stay as they are.
size_t client_percent_decode(const void *text, size_t len, char *out)
{
    const char *p = text;
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        if (p[i] == '%' && i + 2 < len && hex_value(p[i + 1]) >= 0 && hex_value(p[i + 2]) >= 0) {
            out[used++] = (char)(hex_value(p[i + 1]) << 4 | hex_value(p[i + 2]));
            i += 2;
            continue;
        }
        out[used++] = p[i];
    }
    out[used] = '\0';
    return used;
}

// Rounded up to what eight digits and a unit can say.
void client_timeout_format(int64_t timeout_ns, char out[16])
{
    static const struct {
        char letter;
        int64_t ns;
    } units[] = {
        {'n', 1},          {'u', 1000},        {'m', 1000000},
        {'S', 1000000000}, {'M', 60000000000}, {'H', 3600000000000},
    };
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        int64_t value = timeout_ns / units[i].ns + (timeout_ns % units[i].ns != 0);
        if (value <= VALUE_MAX) {
            snprintf(out, 16, "%u%c", (unsigned)value, units[i].letter);
            return;
        }
    }
    snprintf(out, 16, "%dH", VALUE_MAX);
}
