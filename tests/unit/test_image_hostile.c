/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are broken, not pictures, or made to harm: one clear error each, no crash, nothing on
 * stderr, no file left open, no waiting. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "image_files.h"
#include "image_internal.h"

#define IMAGES  TEST_DATA_DIR "/images/"
#define SCRATCH TEST_SCRATCH_DIR "/image_hostile"
#define SIDE    40

static uint8_t *read_image(const char *name, size_t *out_bytes)
{
    char path[512];
    snprintf(path, sizeof path, IMAGES "%s", name);
    return image_file_read(path, out_bytes);
}

static cenote_status load_stream(FILE *stream, cenote_error *err)
{
    static uint8_t rgb[SIDE * SIDE * 3];
    qwen_picture picture = {.stream = stream, .name = "memory"};
    cenote_status status = qwen_picture_open(&picture, err);
    if (status == CENOTE_OK)
        status = qwen_picture_load(&picture, SIDE, SIDE, rgb, err);
    return status;
}

static cenote_status load_bytes(const uint8_t *bytes, size_t count, cenote_error *err)
{
    /* A copy of exact size, so that a sanitizer sees the first byte read past the end. */
    uint8_t *copy = malloc(count > 0 ? count : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, count);
    FILE *stream = fmemopen(copy, count, "rb");
    assert_non_null(stream);
    cenote_status status = load_stream(stream, err);
    fclose(stream);
    free(copy);
    return status;
}

static void expect_path(const char *path, cenote_status want, const char *said)
{
    qwen_image_info info;
    uint8_t rgb[3];
    uint64_t bytes;
    cenote_error err = {.status = CENOTE_OK};
    assert_int_equal(qwen_image_probe(path, &info, &err), want);
    if (strstr(err.message, path) == NULL || strstr(err.message, said) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.message, said);
    assert_int_equal(qwen_image_load_bytes(path, 1, 1, &bytes, NULL), want);
    assert_int_equal(qwen_image_load(path, 1, 1, rgb, NULL), want);
}

static void expect_file(const void *bytes, size_t count, cenote_status want, const char *said)
{
    image_file_write(SCRATCH, bytes, count);
    expect_path(SCRATCH, want, said);
    remove(SCRATCH);
}

static const char *const sample[] = {
    "rgb8.png", "palette4.png", "grey16_interlaced.png",  "turn3_late.png", "one.png",
    "cmyk.jpg", "grey.jpg",     "ycc420_progressive.jpg", "restart.jpg",    "turn6.jpg",
};
#define SAMPLES (sizeof sample / sizeof sample[0])

static void every_prefix_is_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t bytes;
        uint8_t *file = read_image(sample[i], &bytes);
        for (size_t n = 1; n < bytes; n++) {
            cenote_error err = {.status = CENOTE_OK};
            cenote_status status = load_bytes(file, n, &err);
            if (status != CENOTE_E_CORRUPT)
                fail_msg("the first %zu of %zu bytes of %s give %d: %s", n, bytes, sample[i],
                         status, err.message);
            assert_int_equal(err.status, status);
            assert_true(strlen(err.message) > strlen("memory: "));
        }
        assert_int_equal(load_bytes(file, bytes, NULL), CENOTE_OK);
        free(file);
    }
}

/* PNG has checksums: no flip may pass. JPEG has none; there the sanitizers judge. */
static void flipped_bits(void **state)
{
    (void)state;
    uint32_t random = 7;
    int errors = 0, rounds = 0;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t bytes;
        uint8_t *file = read_image(sample[i], &bytes);
        bool png = strstr(sample[i], ".png") != NULL;
        for (int round = 0; round < 400; round++) {
            random = random * 1664525u + 1013904223u;
            size_t at = (random >> 8) % bytes;
            uint8_t mask = (uint8_t)(1u << (random >> 5 & 7));
            file[at] ^= mask;
            cenote_status status = load_bytes(file, bytes, NULL);
            file[at] ^= mask;
            if (png && status == CENOTE_OK)
                fail_msg("bit %02x of byte %zu of %s may be flipped", mask, at, sample[i]);
            errors += status != CENOTE_OK;
            rounds++;
        }
        free(file);
    }
    assert_true(errors > rounds / 2);
}

static void not_pictures(void **state)
{
    (void)state;
    expect_path(TEST_SCRATCH_DIR "/no such file.png", CENOTE_E_NOTFOUND, "No such file");
    expect_path(IMAGES "rgb8.png/x", CENOTE_E_NOTFOUND, "Not a directory");
    expect_path(IMAGES, CENOTE_E_IO, "not a regular file");
    expect_path("/dev/null", CENOTE_E_IO, "not a regular file");
    expect_file("", 0, CENOTE_E_CORRUPT, "empty");
    expect_file("P", 1, CENOTE_E_CORRUPT, "neither PNG nor JPEG");
    expect_file("plain text, not pixels", 22, CENOTE_E_CORRUPT, "neither PNG nor JPEG");
    expect_file("GIF89a\1\0\1\0\0\0\0", 13, CENOTE_E_CORRUPT, "neither PNG nor JPEG");
    expect_file("\x89PNG\r\n\x1a\n", 8, CENOTE_E_CORRUPT, "ends in its header");
    expect_file("\xff\xd8\xff", 3, CENOTE_E_CORRUPT, "JPEG");
}

/* A name from a stranger may not reach the terminal raw. */
static void names_are_cleaned(void **state)
{
    (void)state;
    cenote_error err;
    qwen_image_info info;
    assert_int_equal(qwen_image_probe("a\x1b[2J\n.png", &info, &err), CENOTE_E_NOTFOUND);
    assert_null(strchr(err.message, '\x1b'));
    assert_null(strchr(err.message, '\n'));
}

static void fifo_does_not_block(void **state)
{
    (void)state;
    remove(SCRATCH);
    assert_int_equal(mkfifo(SCRATCH, 0600), 0);
    alarm(20); /* ends the test if it hangs */
    expect_path(SCRATCH, CENOTE_E_IO, "not a regular file");
    alarm(0);
    remove(SCRATCH);
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Refused by the numbers alone: there is no pixel, and not even a valid CRC, in these files. */
static void bombs(void **state)
{
    (void)state;
    uint8_t png[100] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    png[24] = 8;
    png[25] = 2;
    static const struct {
        uint32_t w, h;
        const char *said;
    } sizes[] = {{60000, 60000, "60000x60000 = 3600000000 pixels; the limit is 268435456"},
                 {16385, 16384, "16385x16384 = 268451840 pixels"},
                 {65501, 1, "65501x1 pixels; the limit is 65500 a side"},
                 {1, UINT32_MAX, "1x4294967295"},
                 {UINT32_MAX, UINT32_MAX, "the limit is 65500 a side"},
                 {0, 7, "an empty picture, 0x7"},
                 {7, 0, "an empty picture, 7x0"}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        put_u32(png + 16, sizes[i].w);
        put_u32(png + 20, sizes[i].h);
        expect_file(png, sizeof png, CENOTE_E_CORRUPT, sizes[i].said);
    }

    size_t bytes;
    uint8_t *jpeg = read_image("ycc444.jpg", &bytes);
    uint8_t *frame = memmem(jpeg, bytes, "\xff\xc0", 2);
    assert_non_null(frame);
    memcpy(frame + 5, "\xea\x60\xea\x60", 4);
    expect_file(jpeg, bytes, CENOTE_E_CORRUPT, "60000x60000 = 3600000000 pixels");
    memcpy(frame + 5, "\xff\xff\x00\x01", 4);
    expect_file(jpeg, bytes, CENOTE_E_CORRUPT, "65500");
    memcpy(frame + 5, "\0\0\0\1", 4);
    expect_file(jpeg, bytes, CENOTE_E_CORRUPT, "Empty JPEG image");
    free(jpeg);
}

static void unsupported_kinds(void **state)
{
    (void)state;
    size_t bytes;
    uint8_t *jpeg = read_image("ycc444.jpg", &bytes);
    uint8_t *frame = memmem(jpeg, bytes, "\xff\xc0", 2);
    assert_non_null(frame);
    frame[4] = 12; /* bits */
    expect_file(jpeg, bytes, CENOTE_E_UNSUPPORTED, "12");
    frame[4] = 8;
    frame[1] = 0xc3; /* lossless */
    expect_file(jpeg, bytes, CENOTE_E_UNSUPPORTED, "JPEG");
    free(jpeg);

    image_jpeg_options two = {.width = 16, .height = 16, .components = 2, .h_samp = 1, .v_samp = 1};
    image_file_make_jpeg(SCRATCH, &two);
    expect_path(SCRATCH, CENOTE_E_UNSUPPORTED, "neither 1, 3 nor 4 components");

    image_jpeg_options many = {
        .width = 16, .height = 16, .components = 1, .h_samp = 1, .v_samp = 1, .many_scans = true};
    image_file_make_jpeg(SCRATCH, &many);
    cenote_error err;
    assert_int_equal(qwen_image_load(SCRATCH, 1, 1, (uint8_t[3]){0}, &err), CENOTE_E_CORRUPT);
    assert_non_null(strstr(err.message, "more than 100 scans"));
    remove(SCRATCH);
}

static void bad_sizes_asked_for(void **state)
{
    (void)state;
    const char *path = IMAGES "one.png";
    uint64_t bytes = 5;
    uint8_t rgb[3] = {1, 2, 3};
    cenote_error err;
    assert_int_equal(qwen_image_load_bytes(path, 0, 1, &bytes, &err), CENOTE_E_INVAL);
    assert_int_equal(qwen_image_load(path, 1, 0, rgb, &err), CENOTE_E_INVAL);
    assert_int_equal(qwen_image_load(path, UINT32_MAX, 1, rgb, &err), CENOTE_E_INVAL);
    assert_int_equal(bytes, 5);
    assert_int_equal(rgb[0], 1);
}

/* EXIF segments as large, as empty and as wrong as the format admits. The picture itself is fine,
 * so it loads, unturned. */
static void hostile_exif(void **state)
{
    (void)state;
    size_t bytes;
    uint8_t *jpeg = read_image("turn6.jpg", &bytes);
    uint8_t *tiff = memmem(jpeg, bytes, "Exif\0\0", 6);
    assert_non_null(tiff);
    tiff += 6;
    size_t tiff_bytes = 8 + 2 + 24 + 4;
    uint8_t *copy = malloc(bytes);
    assert_non_null(copy);
    /* Every byte of the structure takes every value of a telling set. */
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    for (size_t at = 0; at < tiff_bytes; at++)
        for (size_t v = 0; v < sizeof values; v++) {
            memcpy(copy, jpeg, bytes);
            copy[tiff - jpeg + (ptrdiff_t)at] = values[v];
            assert_int_equal(load_bytes(copy, bytes, NULL), CENOTE_OK);
        }
    free(copy);

    /* 65,533 bytes of entries that are not the tag; many such segments. */
    enum { SEGMENTS = 20, SEGMENT = 2 + 65535 };
    uint8_t *huge = calloc(1, SEGMENTS * SEGMENT + bytes);
    assert_non_null(huge);
    memcpy(huge, jpeg, 2);
    uint8_t *end = huge + 2;
    for (int i = 0; i < SEGMENTS; i++, end += SEGMENT)
        memcpy(end,
               "\xff\xe1\xff\xff"
               "Exif\0\0MM\0*\0\0\0\x8\xff\xff",
               20);
    memcpy(end, jpeg + 2, bytes - 2);
    end += bytes - 2;
    image_file_write(SCRATCH, huge, (size_t)(end - huge));
    qwen_image_info info;
    assert_int_equal(qwen_image_probe(SCRATCH, &info, NULL), CENOTE_OK);
    assert_int_equal(info.width,
                     13); /* the true segment comes last, but no earlier one had a tag */
    assert_int_equal(info.height, 21);
    assert_int_equal(load_bytes(huge, (size_t)(end - huge), NULL), CENOTE_OK);
    remove(SCRATCH);
    free(huge);
    free(jpeg);
}

/* A disk that fails after some bytes, at every position. */
struct failing_file {
    const uint8_t *bytes;
    size_t count;
    size_t fails_at;
    size_t position;
};

static ssize_t failing_read(void *cookie, char *out, size_t size)
{
    struct failing_file *f = cookie;
    if (f->position + size > f->fails_at && f->fails_at <= f->count) {
        errno = EIO;
        return -1;
    }
    if (size > f->count - f->position)
        size = f->count - f->position;
    memcpy(out, f->bytes + f->position, size);
    f->position += size;
    return (ssize_t)size;
}

static int failing_seek(void *cookie, off64_t *offset, int whence)
{
    struct failing_file *f = cookie;
    int64_t base = whence == SEEK_SET ? 0 : (int64_t)(whence == SEEK_CUR ? f->position : f->count);
    int64_t position = base + *offset;
    if (position < 0 || (size_t)position > f->count)
        return -1;
    f->position = (size_t)position;
    *offset = position;
    return 0;
}

static void read_errors_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        struct failing_file f = {0};
        uint8_t *bytes = read_image(sample[i], &f.count);
        f.bytes = bytes;
        for (f.fails_at = 0; f.fails_at < f.count; f.fails_at += 13) {
            f.position = 0;
            cookie_io_functions_t io = {.read = failing_read, .seek = failing_seek};
            FILE *stream = fopencookie(&f, "rb", io);
            assert_non_null(stream);
            char buffer[16]; /* small reads, so that the failure comes at its place */
            setvbuf(stream, buffer, _IOFBF, sizeof buffer);
            cenote_error err;
            cenote_status status = load_stream(stream, &err);
            if (status != CENOTE_E_IO)
                fail_msg("%s failing at %zu gives %d: %s", sample[i], f.fails_at, status,
                         err.message);
            fclose(stream);
        }
        free(bytes);
    }
}

/* Another picture under the same open file. */
static void change_under_way(void **state)
{
    (void)state;
    static const char *const names[] = {"rgb8.png", "ycc420.jpg"};
    uint8_t rgb[3];
    for (int i = 0; i < 2; i++) {
        size_t bytes;
        uint8_t *file = read_image(names[i], &bytes);
        FILE *stream = fmemopen(file, bytes, "rb");
        qwen_picture picture = {.stream = stream, .name = names[i]};
        assert_int_equal(qwen_picture_open(&picture, NULL), CENOTE_OK);
        picture.height--;
        assert_int_equal(qwen_picture_load(&picture, 1, 1, rgb, NULL), CENOTE_E_CHANGED);
        fclose(stream);
        free(file);
    }
}

static int saved_stderr;
static int first_free_fd;

static int silence_begin(void **state)
{
    (void)state;
    saved_stderr = dup(STDERR_FILENO);
    int fd = open(SCRATCH ".stderr", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (saved_stderr < 0 || fd < 0)
        return -1;
    dup2(fd, STDERR_FILENO);
    close(fd);
    first_free_fd = open("/dev/null", O_RDONLY);
    close(first_free_fd);
    return 0;
}

/* Nothing was printed, and the lowest free descriptor is the same as before. */
static int silence_end(void **state)
{
    (void)state;
    int fd = open("/dev/null", O_RDONLY);
    close(fd);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    size_t printed;
    uint8_t *text = image_file_read(SCRATCH ".stderr", &printed);
    fwrite(text, 1, printed, stderr); /* a failed check's own words, if nothing else */
    free(text);
    remove(SCRATCH ".stderr");
    if (fd != first_free_fd)
        print_error("a file was left open\n");
    return printed == 0 && fd == first_free_fd ? 0 : -1;
}

#define SILENT(test) cmocka_unit_test_setup_teardown(test, silence_begin, silence_end)

int main(void)
{
    remove(SCRATCH); /* a FIFO that a killed run left would block its next user */
    const struct CMUnitTest tests[] = {
        SILENT(every_prefix_is_an_error), SILENT(flipped_bits),        SILENT(not_pictures),
        SILENT(names_are_cleaned),        SILENT(fifo_does_not_block), SILENT(bombs),
        SILENT(unsupported_kinds),        SILENT(bad_sizes_asked_for), SILENT(hostile_exif),
        SILENT(read_errors_are_told),     SILENT(change_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
