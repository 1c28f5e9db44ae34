/* SPDX-License-Identifier: Apache-2.0 */
/* Reads sizes and numbers from the command line.
 *
 * A size is digits [. digits] unit. It is kept as an integer and a count of decimals and multiplied
 * out in 128 bits, so that 1.5G is exact and 99999999999G is refused and not wrapped. strtoull()
 * would take "-1", " 7" and "0x10"; none of them is a number that a user means here. */
#include "size.h"

#include <string.h>
#include <strings.h>

#define SIZE_MAX_BYTES ((uint64_t)INT64_MAX)
/* More digits than this are no size that a machine has; it also keeps the products in 128 bits. */
#define DIGITS_MAX 18u

static const struct unit {
    const char *name;
    uint64_t bytes;
} units[] = {
    {"", 1},
    {"B", 1},
    {"K", 1ull << 10},
    {"KiB", 1ull << 10},
    {"KB", 1000ull},
    {"M", 1ull << 20},
    {"MiB", 1ull << 20},
    {"MB", 1000000ull},
    {"G", 1ull << 30},
    {"GiB", 1ull << 30},
    {"GB", 1000000000ull},
    {"T", 1ull << 40},
    {"TiB", 1ull << 40},
    {"TB", 1000000000000ull},
};

/* Digits with at most one point among them: value = digits / 10^decimals. */
struct decimal {
    uint64_t digits;
    uint64_t scale; /* 10^decimals */
};

/* @return the first character after the decimal, or NULL when there is none or it is too long. */
static const char *decimal_read(const char *text, struct decimal *out)
{
    struct decimal value = {0, 1};
    unsigned digit_count = 0;
    bool point = false;
    const char *c = text;
    for (; (*c >= '0' && *c <= '9') || (*c == '.' && !point); c++) {
        if (*c == '.') {
            point = true;
            continue;
        }
        if (++digit_count > DIGITS_MAX)
            return NULL;
        value.digits = value.digits * 10 + (uint64_t)(*c - '0');
        if (point)
            value.scale *= 10;
    }
    if (digit_count == 0)
        return NULL;
    *out = value;
    return c;
}

static cenote_status not_a_size(const char *text, cenote_error *err)
{
    return cenote_error_set(err, CENOTE_E_INVAL,
                            "'%s' is not a size (like 2GiB, 512MiB, 1.5G or 60%%)", text);
}

static cenote_status percent_apply(const char *text, struct decimal value, uint64_t whole_bytes,
                                   uint64_t *out_bytes, cenote_error *err)
{
    if (value.digits > 100 * (unsigned __int128)value.scale)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is more than 100%% of the memory", text);
    unsigned __int128 bytes = (unsigned __int128)whole_bytes * value.digits / 100 / value.scale;
    if (bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is no memory at all", text);
    *out_bytes = (uint64_t)bytes;
    return CENOTE_OK;
}

static cenote_status unit_apply(const char *text, struct decimal value, uint64_t unit_bytes,
                                uint64_t *out_bytes, cenote_error *err)
{
    unsigned __int128 bytes = (unsigned __int128)value.digits * unit_bytes / value.scale;
    if (bytes == 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is no memory at all", text);
    if (bytes > SIZE_MAX_BYTES)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is more than the largest size, %lluB",
                                text, (unsigned long long)SIZE_MAX_BYTES);
    *out_bytes = (uint64_t)bytes;
    return CENOTE_OK;
}

cenote_status cli_size_parse(const char *text, uint64_t whole_bytes, uint64_t *out_bytes,
                             cenote_error *err)
{
    struct decimal value;
    const char *unit = decimal_read(text, &value);
    if (unit == NULL)
        return not_a_size(text, err);
    if (strcmp(unit, "%") == 0)
        return percent_apply(text, value, whole_bytes, out_bytes, err);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcasecmp(unit, units[i].name) == 0)
            return unit_apply(text, value, units[i].bytes, out_bytes, err);
    return not_a_size(text, err);
}

/* Decimal digits up to @p end, which they must reach. */
static bool digits_read(const char *text, const char *end, uint64_t *out_number)
{
    uint64_t number = 0;
    if (text == end)
        return false;
    for (const char *c = text; c < end; c++) {
        if (*c < '0' || *c > '9')
            return false;
        if (__builtin_mul_overflow(number, 10u, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return false;
    }
    *out_number = number;
    return true;
}

cenote_status cli_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out_number,
                               cenote_error *err)
{
    uint64_t number;
    if (!digits_read(text, text + strlen(text), &number) || number < min || number > max)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is not a number from %llu to %llu", text,
                                (unsigned long long)min, (unsigned long long)max);
    *out_number = number;
    return CENOTE_OK;
}

cenote_status cli_pixels_parse(const char *text, uint32_t max, uint32_t *out_width,
                               uint32_t *out_height, cenote_error *err)
{
    const char *x = strchr(text, 'x');
    uint64_t width, height;
    if (x == NULL || !digits_read(text, x, &width) || !digits_read(x + 1, x + strlen(x), &height) ||
        width == 0 || height == 0 || width > max || height > max)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "'%s' is not WIDTHxHEIGHT with sides from 1 to %u pixels", text,
                                max);
    *out_width = (uint32_t)width;
    *out_height = (uint32_t)height;
    return CENOTE_OK;
}

cenote_status cli_real_parse(const char *text, double max, double *out_real, cenote_error *err)
{
    struct decimal value;
    const char *end = decimal_read(text, &value);
    double real = end != NULL ? (double)value.digits / (double)value.scale : 0;
    if (end == NULL || *end != '\0' || real > max)
        return cenote_error_set(err, CENOTE_E_INVAL, "'%s' is not a number from 0 to %g", text,
                                max);
    *out_real = real;
    return CENOTE_OK;
}

cenote_status cli_time_parse(const char *text, double *out_s, cenote_error *err)
{
    static const struct {
        const char *name;
        double s;
    } times[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"min", 60}, {"h", 3600}};
    struct decimal value;
    const char *unit = decimal_read(text, &value);
    for (size_t i = 0; unit != NULL && i < sizeof times / sizeof times[0]; i++) {
        double s = (double)value.digits / (double)value.scale * times[i].s;
        if (strcmp(unit, times[i].name) == 0 && s <= 366 * 86400.0) {
            *out_s = s;
            return CENOTE_OK;
        }
    }
    return cenote_error_set(err, CENOTE_E_INVAL,
                            "'%s' is not a time of up to a year, such as 10s, 500ms or 2min", text);
}
