/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Nanoseconds in a time of seconds; more would be noise. */
#define REAL_DIGITS 9

/* Length of the well-formed UTF-8 character at @p c (RFC 3629: no surrogates, no overlong forms,
 * nothing above U+10FFFF), 0 when there is none. */
static size_t utf8_length(const unsigned char *c)
{
    if (c[0] < 0x80)
        return 1;
    size_t length = c[0] >= 0xf0 ? 4 : c[0] >= 0xe0 ? 3 : 2;
    if (c[0] < 0xc2 || c[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((c[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xf0 && c[1] < 0x90);
    bool surrogate = c[0] == 0xed && c[1] > 0x9f;
    bool beyond = c[0] == 0xf4 && c[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : length;
}

json_t *cli_json_text(const char *text)
{
    char *clean = malloc(strlen(text) * 3 + 1);
    if (clean == NULL)
        return NULL;
    char *out = clean;
    while (*text != '\0') {
        size_t length = utf8_length((const unsigned char *)text);
        if (length == 0) {
            memcpy(out, "\xef\xbf\xbd", 3);
            out += 3;
            text++;
            continue;
        }
        memcpy(out, text, length);
        out += length;
        text += length;
    }
    *out = '\0';
    json_t *string = json_string(clean);
    free(clean);
    return string;
}

json_t *cli_json_count(uint64_t count)
{
    return json_integer(count > INT64_MAX ? INT64_MAX : (json_int_t)count);
}

json_t *cli_json_real(double real)
{
    return isfinite(real) ? json_real(real) : json_null();
}

json_t *cli_json_ids(const uint32_t *ids, uint64_t count)
{
    json_t *array = json_array();
    for (uint64_t i = 0; i < count; i++)
        if (json_array_append_new(array, json_integer(ids[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

bool cli_json_print(json_t *object)
{
    if (object == NULL) {
        cli_say("the system gave no memory for the report");
        return false;
    }
    int failed = json_dumpf(object, stdout, JSON_REAL_PRECISION(REAL_DIGITS));
    json_decref(object);
    if (failed != 0 || fputc('\n', stdout) == EOF || fflush(stdout) != 0) {
        cli_say("cannot write the report");
        return false;
    }
    return true;
}
