/* SPDX-License-Identifier: Apache-2.0 */
/* Which way is up: the orientation tag, found as Pillow finds it, because the released processors'
 * pictures pass through ImageOps.exif_transpose:
 *
 *   PNG   the last eXIf chunk, before or after the pixels; else XMP in an iTXt chunk
 *   JPEG  the first APP1 "Exif" segment before the scan; else XMP in an APP1 segment
 *
 * An orientation tag in EXIF beats XMP even where its value is nonsense. What cannot be parsed
 * counts as missing (Pillow raises there); compressed XMP and ImageMagick's hexadecimal profiles
 * in text chunks are not looked at.
 *
 * Nothing is loaded: the code seeks in the file and reads a few bytes at a time, each position
 * checked against the end of its chunk, so a hostile file can only waste a bounded time. */
#include <stdbool.h>
#include <string.h>

#include "image_internal.h"

#define XMP_SEARCH_BYTES_MAX (1u << 20)
#define TAG_ORIENTATION      0x0112

struct found {
    int exif; /* 0: no such tag */
    int xmp;
};

static int orientation_of(const struct found *found)
{
    int o = found->exif != 0 ? found->exif : found->xmp;
    return o >= 1 && o <= 8 ? o : 1;
}

static uint32_t number(const uint8_t *bytes, int size, bool big_endian)
{
    uint32_t value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | bytes[big_endian ? i : size - 1 - i];
    return value;
}

static bool read_at(FILE *stream, long position, void *out, size_t bytes)
{
    return fseek(stream, position, SEEK_SET) == 0 && fread(out, 1, bytes, stream) == bytes;
}

/* The value of a 12-byte directory entry that holds an integer, -1 if it holds none. -1 is also
 * what nonsense becomes: a tag that is there, but turns nothing. */
static int entry_value(const uint8_t *entry, bool big_endian)
{
    uint32_t type = number(entry + 2, 2, big_endian);
    uint32_t count = number(entry + 4, 4, big_endian);
    int size;
    switch (type) {
    case 6: /* SBYTE */
        size = 1;
        break;
    case 3: /* SHORT */
    case 8: /* SSHORT */
        size = 2;
        break;
    case 4: /* LONG */
    case 9: /* SLONG */
        size = 4;
        break;
    default:
        return -1;
    }
    if (count == 0 || count > 4u / (uint32_t)size)
        return -1;
    uint32_t value = number(entry + 8, size, big_endian);
    return value >= 1 && value <= 8 ? (int)value : -1;
}

/* Looks the tag up in the first directory of a TIFF structure at [start, start + bytes). */
static int tiff_orientation(FILE *stream, long start, uint32_t bytes)
{
    uint8_t head[8];
    if (bytes < sizeof head || !read_at(stream, start, head, sizeof head))
        return 0;
    bool big_endian = head[0] == 'M';
    if (memcmp(head, "II*\0", 4) != 0 && memcmp(head, "MM\0*", 4) != 0)
        return 0;
    uint32_t offset = number(head + 4, 4, big_endian);
    uint8_t two[2];
    if (offset > bytes - 2 || !read_at(stream, start + (long)offset, two, sizeof two))
        return 0;
    uint32_t count = number(two, 2, big_endian);
    uint32_t left = bytes - 2 - offset;
    for (uint32_t i = 0; i < count && left >= 12; i++, left -= 12) {
        uint8_t entry[12];
        if (fread(entry, 1, sizeof entry, stream) != sizeof entry)
            return 0;
        if (number(entry, 2, big_endian) == TAG_ORIENTATION)
            return entry_value(entry, big_endian);
    }
    return 0;
}

/* EXIF data may repeat the JPEG prefix. */
static int exif_orientation(FILE *stream, long start, uint32_t bytes)
{
    char prefix[6];
    if (bytes >= sizeof prefix && read_at(stream, start, prefix, sizeof prefix) &&
        memcmp(prefix, "Exif\0\0", sizeof prefix) == 0)
        return tiff_orientation(stream, start + 6, bytes - 6);
    return tiff_orientation(stream, start, bytes);
}

/* The first tiff:Orientation="d" or tiff:Orientation>d in the text, by a window that slides over
 * it. */
static int xmp_orientation(FILE *stream, long start, uint32_t bytes)
{
    static const char attribute[] = "tiff:Orientation=\"";
    static const char element[] = "tiff:Orientation>";
    enum { WINDOW = sizeof attribute }; /* the longer pattern and the digit */
    char window[WINDOW] = {0};
    if (fseek(stream, start, SEEK_SET) != 0)
        return 0;
    uint32_t limit = bytes < XMP_SEARCH_BYTES_MAX ? bytes : XMP_SEARCH_BYTES_MAX;
    for (uint32_t i = 0; i < limit; i++) {
        int c = fgetc(stream);
        if (c == EOF)
            return 0;
        memmove(window, window + 1, WINDOW - 1);
        window[WINDOW - 1] = (char)c;
        if (c < '0' || c > '9')
            continue;
        if (memcmp(window, attribute, sizeof attribute - 1) == 0 ||
            memcmp(window + 1, element, sizeof element - 1) == 0)
            return c - '0';
    }
    return 0;
}

static void png_chunk(FILE *stream, const uint8_t *type, long start, uint32_t bytes,
                      struct found *found)
{
    static const char xmp_keyword[] = "XML:com.adobe.xmp"; /* its 0 ends the keyword */
    if (memcmp(type, "eXIf", 4) == 0) {
        found->exif = exif_orientation(stream, start, bytes);
    } else if (memcmp(type, "iTXt", 4) == 0) {
        char keyword[sizeof xmp_keyword];
        if (bytes >= sizeof keyword && read_at(stream, start, keyword, sizeof keyword) &&
            memcmp(keyword, xmp_keyword, sizeof keyword) == 0)
            found->xmp = xmp_orientation(stream, start, bytes);
    }
}

int qwen_png_orientation(FILE *stream)
{
    struct found found = {0, 0};
    long position = 8;
    uint8_t head[8]; /* length, type */
    while (read_at(stream, position, head, sizeof head)) {
        uint32_t bytes = number(head, 4, true);
        if (bytes > INT32_MAX || memcmp(head + 4, "IEND", 4) == 0)
            break;
        png_chunk(stream, head + 4, position + 8, bytes, &found);
        position += 12 + (long)bytes;
    }
    return orientation_of(&found);
}

static void jpeg_app1(FILE *stream, long start, uint32_t bytes, struct found *found)
{
    static const char exif_prefix[6] = "Exif\0"; /* and the literal's own 0 */
    static const char xmp_prefix[] = "http://ns.adobe.com/xap/1.0/";
    char prefix[sizeof xmp_prefix];
    if (found->exif == 0 && bytes >= 6 && read_at(stream, start, prefix, 6) &&
        memcmp(prefix, exif_prefix, 6) == 0)
        found->exif = exif_orientation(stream, start + 6, bytes - 6);
    else if (bytes >= sizeof prefix && read_at(stream, start, prefix, sizeof prefix) &&
             memcmp(prefix, xmp_prefix, sizeof prefix) == 0)
        found->xmp = xmp_orientation(stream, start, bytes);
}

int qwen_jpeg_orientation(FILE *stream)
{
    enum { TEM = 0x01, RST0 = 0xd0, SOI = 0xd8, EOI = 0xd9, SOS = 0xda, APP1 = 0xe1 };
    struct found found = {0, 0};
    if (fseek(stream, 0, SEEK_SET) != 0)
        return 1;
    int c;
    while ((c = fgetc(stream)) != EOF) {
        if (c != 0xff) /* stray bytes between segments: libjpeg skips them too */
            continue;
        while (c == 0xff) /* padding */
            c = fgetc(stream);
        if (c == EOF || c == EOI || c == SOS)
            break;
        if (c == 0 || c == TEM || (c >= RST0 && c <= SOI))
            continue;
        uint8_t length[2];
        if (fread(length, 1, 2, stream) != 2 || number(length, 2, true) < 2)
            break;
        uint32_t bytes = number(length, 2, true) - 2;
        long start = ftell(stream);
        if (start < 0)
            break;
        if (c == APP1)
            jpeg_app1(stream, start, bytes, &found);
        if (fseek(stream, start + (long)bytes, SEEK_SET) != 0)
            break;
    }
    return orientation_of(&found);
}
