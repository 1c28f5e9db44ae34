/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles: text files that say what a machine is like, so that code made for one behaves the same
 * on another. A flat table names every member that a file may set, with the numbers it may have. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "os/hardware_limits.h"
#include "os/hardware_profile.h"

#define PROFILE_BYTES_MAX 16384u
#define CPUS_MAX          UINT64_C(1048576)

struct member {
    const char *name;
    size_t offset;
    size_t size_bytes;
    uint64_t min, max;
    bool power_of_two;
};

#define MEMBER(path, ...)                                                                          \
    {                                                                                              \
#path, offsetof(cenote_hardware, path), sizeof((cenote_hardware *)NULL)->path, __VA_ARGS__ \
    }
#define CACHE(level)                                                                               \
    MEMBER(level.size_bytes, 0, CN_CACHE_BYTES_MAX, false),                                        \
        MEMBER(level.line_bytes, 16, CN_LINE_BYTES_MAX, true),                                     \
        MEMBER(level.ways, 0, CN_WAYS_MAX, false), MEMBER(level.cpus, 1, CPUS_MAX, false)

static const struct member members[] = {
    MEMBER(cores, 1, CPUS_MAX, false),
    MEMBER(cpus, 1, CPUS_MAX, false),
    MEMBER(vector_bytes, 16, 64, true),
    CACHE(l1d),
    CACHE(l2),
    CACHE(l3),
    MEMBER(page_bytes, 1024, CN_PAGE_BYTES_MAX, true),
    MEMBER(huge_page_bytes, 0, CN_PAGE_BYTES_MAX, true),
    MEMBER(device.compute_capability, 0, 1000, false),
    MEMBER(device.warp_threads, 1, 1024, false),
    MEMBER(device.block_threads_max, 1, 65536, false),
    MEMBER(device.block_shared_bytes, 1, UINT32_MAX, false),
};
#define MEMBER_COUNT (sizeof members / sizeof *members)

static_assert(MEMBER_COUNT <= 32, "a bit for each");

/* A part of the text. */
struct span {
    const char *at;
    size_t length;
};
/* What a message shows of one: hostile text is long. */
#define SHOWN(span) (int)((span).length < 48 ? (span).length : 48), (span).at

struct profile {
    const char *path;
    unsigned line;
    bool named;
    uint32_t seen; /* members that were set, a bit each */
    cenote_hardware hardware;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct span trim(const char *at, const char *end)
{
    while (at < end && is_blank(*at))
        at++;
    while (end > at && is_blank(end[-1]))
        end--;
    return (struct span){at, (size_t)(end - at)};
}

static bool span_is(struct span span, const char *text)
{
    return strlen(text) == span.length && memcmp(text, span.at, span.length) == 0;
}

/* Decimal digits and nothing else. */
static bool span_number(struct span span, uint64_t *out_number)
{
    uint64_t number = 0;
    for (size_t i = 0; i < span.length; i++) {
        unsigned digit = (unsigned)span.at[i] - '0';
        if (digit > 9 || !cn_checked_mul(number, 10, &number) ||
            !cn_checked_add(number, digit, &number))
            return false;
    }
    *out_number = number;
    return span.length > 0;
}

static cenote_status set_name(struct profile *profile, struct span value, cenote_error *err)
{
    if (profile->named || value.length == 0 || value.length >= CENOTE_HARDWARE_NAME_BYTES)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s:%u: a profile has one name of 1 to %d bytes", profile->path,
                                profile->line, CENOTE_HARDWARE_NAME_BYTES - 1);
    profile->named = true;
    memset(profile->hardware.name, 0, sizeof profile->hardware.name);
    memcpy(profile->hardware.name, value.at, value.length);
    return CENOTE_OK;
}

static cenote_status set_member(struct profile *profile, const struct member *member,
                                struct span value, cenote_error *err)
{
    uint32_t bit = UINT32_C(1) << (member - members);
    uint64_t number;
    if ((profile->seen & bit) != 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s:%u: %s is given twice", profile->path,
                                profile->line, member->name);
    if (!span_number(value, &number) || number < member->min || number > member->max ||
        (member->power_of_two && (number & (number - 1)) != 0))
        return cenote_error_set(
            err, CENOTE_E_CORRUPT, "%s:%u: %s is \"%.*s\"; it may be %s%" PRIu64 " to %" PRIu64,
            profile->path, profile->line, member->name, SHOWN(value),
            member->power_of_two ? "a power of two, " : "", member->min, member->max);
    profile->seen |= bit;
    char *to = (char *)&profile->hardware + member->offset;
    if (member->size_bytes == sizeof number)
        memcpy(to, &number, sizeof number);
    else
        memcpy(to, &(uint32_t){(uint32_t)number}, sizeof(uint32_t));
    return CENOTE_OK;
}

/* "member = value", blank, or "# remark" */
static cenote_status take_line(struct profile *profile, const char *at, const char *end,
                               cenote_error *err)
{
    const char *remark = memchr(at, '#', (size_t)(end - at));
    struct span line = trim(at, remark != NULL ? remark : end);
    if (line.length == 0)
        return CENOTE_OK;
    const char *equals = memchr(line.at, '=', line.length);
    if (equals == NULL)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s:%u: \"%.*s\" is not member = value",
                                profile->path, profile->line, SHOWN(line));
    struct span name = trim(line.at, equals);
    struct span value = trim(equals + 1, line.at + line.length);
    if (span_is(name, "name"))
        return set_name(profile, value, err);
    for (size_t i = 0; i < MEMBER_COUNT; i++)
        if (span_is(name, members[i].name))
            return set_member(profile, &members[i], value, err);
    return cenote_error_set(err, CENOTE_E_CORRUPT, "%s:%u: hardware has no \"%.*s\"", profile->path,
                            profile->line, SHOWN(name));
}

cenote_status cn_hardware_profile_parse(const char *path, const char *text, size_t size_bytes,
                                        cenote_hardware *hardware, cenote_error *err)
{
    struct profile profile = {.path = path, .line = 1, .hardware = *hardware};
    const char *end = text + size_bytes;
    for (const char *at = text, *next; at < end; at = next, profile.line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *line_end = newline != NULL ? newline : end;
        next = newline != NULL ? newline + 1 : end;
        cenote_status status = take_line(&profile, at, line_end, err);
        if (status != CENOTE_OK)
            return status;
    }
    if (profile.hardware.cores > profile.hardware.cpus)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "%s: %u cores cannot have only %u CPUs",
                                path, profile.hardware.cores, profile.hardware.cpus);
    *hardware = profile.hardware;
    return CENOTE_OK;
}

/* All of a file that is not too long for a profile: it may be a device without an end. */
static cenote_status read_profile(const char *path, char *text, size_t *out_size_bytes,
                                  cenote_error *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(errno));
    errno = 0;
    size_t size_bytes = fread(text, 1, PROFILE_BYTES_MAX + 1, file);
    int error = ferror(file) ? errno : 0;
    fclose(file);
    if (error != 0)
        return cenote_error_set(err, CENOTE_E_IO, "%s: %s", path, strerror(error));
    if (size_bytes > PROFILE_BYTES_MAX)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%s is longer than the %u bytes of a hardware profile", path,
                                PROFILE_BYTES_MAX);
    *out_size_bytes = size_bytes;
    return CENOTE_OK;
}

cenote_status cenote_hardware_load(const char *path, cenote_hardware *hardware, cenote_error *err)
{
    char text[PROFILE_BYTES_MAX + 1];
    size_t size_bytes = 0;
    cenote_status status = read_profile(path, text, &size_bytes, err);
    if (status != CENOTE_OK)
        return status;
    return cn_hardware_profile_parse(path, text, size_bytes, hardware, err);
}

cenote_status cenote_hardware_get(cenote_hardware *out_hardware, cenote_error *err)
{
    cenote_hardware hardware;
    cn_hardware_machine(&hardware);
    uint32_t machine_vector_bytes = hardware.vector_bytes;
    const char *path = secure_getenv("CENOTE_HARDWARE");
    if (path != NULL && path[0] != '\0') {
        cenote_status status = cenote_hardware_load(path, &hardware, err);
        if (status != CENOTE_OK)
            return status;
    }
    if (hardware.vector_bytes > machine_vector_bytes)
        hardware.vector_bytes = machine_vector_bytes;
    *out_hardware = hardware;
    return CENOTE_OK;
}
