// Small texts of the gRPC protocol. Pure functions, no state. Read next: wire.h.
#include "api/net/wire.h"

#define DIGITS_MAX 8

static const struct {
    char letter;
    int64_t ns;
} units[] = {
    {'n', 1},          {'u', 1000},        {'m', 1000000},
    {'S', 1000000000}, {'M', 60000000000}, {'H', 3600000000000},
};
#define UNIT_COUNT (sizeof units / sizeof units[0])

bool grpc_timeout_parse(const void *text, size_t len, int64_t *ret_ns)
{
    const char *p = text;
    if (len < 2 || len > DIGITS_MAX + 1)
        return false;
    int64_t value = 0;
    for (size_t i = 0; i + 1 < len; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        value = value * 10 + (p[i] - '0');
    }
    for (size_t i = 0; i < UNIT_COUNT; i++) {
        if (units[i].letter != p[len - 1])
            continue;
        int64_t max = INT64_MAX / 2;
        *ret_ns = value > max / units[i].ns ? max : value * units[i].ns;
        return true;
    }
    return false;
}

size_t grpc_percent_encode(const char *text, char *out)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t used = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p >= 0x20 && *p <= 0x7e && *p != '%') {
            out[used++] = (char)*p;
            continue;
        }
        out[used++] = '%';
        out[used++] = hex[*p >> 4];
        out[used++] = hex[*p & 15];
    }
    out[used] = '\0';
    return used;
}
