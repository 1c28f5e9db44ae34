/* SPDX-License-Identifier: Apache-2.0 */
/* bf16 in 12 bits: sizes, the choice of a table, rows, and the checks of a stranger's panel. The
 * format is drawn in cenote/bf12.h, groups are done by bf12_portable.c and bf12_avx2.c.
 *
 *     sign e e e e e e e | e m m m m m m m      high byte -> code of four bits, low byte as it is
 *
 * Why the low byte takes the exponent's last bit along instead of giving the sign its place: a
 * decoder then has nothing to put together, one lookup and one interleaving make the element. The
 * price is a window of 14 exponents that begins at an even one instead of 15 anywhere: 3 to 7
 * escapes in 10,000 elements of a normal distribution instead of 2 to 4.
 *
 * The table is chosen from a sample of the panel's groups: counting all high bytes one by one would
 * take longer than encoding them. Only where that gives too many escapes all are counted. */
#include <cenote/bf12.h>

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "weights/bf12_codec.h"

#define MAGIC            "BF12"
#define VERSION          1u
#define ALIGN_BYTES      64u
#define TABLE_BYTE       48u
#define TABLE_BYTES      16u
#define SAMPLE_GROUPS    256u
#define ESCAPES_LEAST    16u
#define ESCAPES_PER_1024 3u
#define PAIR_COUNT       128u

/* ---- sizes ---- */

typedef struct bf12_layout {
    uint64_t row_bytes;
    uint64_t groups_byte, escapes_byte; /* from the start of the panel */
    uint64_t escapes_max;
} bf12_layout;

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* False when no panel of that size can be. */
static bool layout_of(uint64_t rows, uint64_t columns, bf12_layout *out)
{
    uint64_t starts, groups, end;
    if (rows == 0 || columns == 0 || columns > CENOTE_BF12_COLUMNS_MAX ||
        !cn_checked_add(rows, 1, &starts) || !cn_checked_mul(starts, 2, &starts) ||
        !cn_checked_round_up(starts, ALIGN_BYTES, &starts))
        return false;
    uint64_t row_bytes = cenote_bf12_row_bytes(columns);
    if (!cn_checked_mul(rows, row_bytes, &groups) ||
        !cn_checked_add(CENOTE_BF12_HEADER_BYTES, starts, &starts) ||
        !cn_checked_add(starts, groups, &end) || !cn_checked_round_up(end, ALIGN_BYTES, &end) ||
        end > UINT64_MAX / 2)
        return false;
    uint64_t elements = groups / CENOTE_BF12_GROUP_BYTES * CENOTE_BF12_GROUP;
    uint64_t most = elements / 1024 * ESCAPES_PER_1024 + ESCAPES_LEAST;
    *out = (bf12_layout){row_bytes, starts, end, least(most, CENOTE_BF12_ESCAPES_MAX)};
    return true;
}

static uint64_t escapes_bytes(uint64_t count)
{
    return (count * 4 + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

uint64_t cenote_bf12_bytes_max(uint64_t rows, uint64_t columns)
{
    bf12_layout layout;
    if (!layout_of(rows, columns, &layout))
        return UINT64_MAX;
    return layout.escapes_byte + escapes_bytes(layout.escapes_max);
}

static uint32_t load_u32(const unsigned char *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint64_t load_u64(const unsigned char *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static uint32_t start_of(const unsigned char *starts, uint64_t row)
{
    uint16_t value;
    memcpy(&value, starts + row * 2, sizeof value);
    return value;
}

const cn_bf12_ops *cn_bf12_ops_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return &cn_bf12_avx2;
#endif
    return &cn_bf12_portable;
}

/* ---- the table ---- */

typedef struct bf12_counts {
    uint32_t of_high[256];
} bf12_counts;

/* Counts the high bytes of every @p step th group of the panel, in the order of memory. */
static void count_high(const unsigned char *data, uint64_t rows, uint64_t columns, uint64_t step,
                       bf12_counts *counts)
{
    uint64_t row_groups = (columns + CENOTE_BF12_GROUP - 1) / CENOTE_BF12_GROUP;
    memset(counts, 0, sizeof *counts);
    for (uint64_t i = 0; i < rows * row_groups; i += step) {
        uint64_t first = i % row_groups * CENOTE_BF12_GROUP;
        uint64_t count = least(columns - first, CENOTE_BF12_GROUP);
        const unsigned char *from = data + (i / row_groups * columns + first) * 2;
        for (uint64_t e = 0; e < count; e++)
            counts->of_high[from[2 * e + 1]]++;
    }
}

/* The window of pairs that covers most, the lowest of equals, and the commonest byte outside;
 * returns how many of those counted have no code. */
static uint64_t choose_code(const bf12_counts *counts, cn_bf12_code *code)
{
    uint64_t covered = 0, most = 0, total = 0;
    code->base = 0;
    for (unsigned pair = 0; pair < PAIR_COUNT; pair++) {
        uint64_t both = (uint64_t)counts->of_high[pair] + counts->of_high[pair | 0x80];
        total += both;
        covered += both;
        if (pair >= CN_BF12_PAIRS)
            covered -= (uint64_t)counts->of_high[pair - CN_BF12_PAIRS] +
                       counts->of_high[(pair - CN_BF12_PAIRS) | 0x80];
        if (pair + 1 >= CN_BF12_PAIRS && covered > most) {
            most = covered;
            code->base = (uint8_t)(pair + 1 - CN_BF12_PAIRS);
        }
    }
    memset(code->of_high, CENOTE_BF12_ESCAPE, sizeof code->of_high);
    for (unsigned i = 0; i < CN_BF12_PAIRS; i++) {
        code->of_high[code->base + i] = (uint8_t)i;
        code->of_high[(code->base + i) | 0x80] = (uint8_t)(i + 8);
    }
    int extra = -1;
    for (int high = 0; high < 256; high++)
        if (code->of_high[high] == CENOTE_BF12_ESCAPE &&
            (extra < 0 || counts->of_high[high] > counts->of_high[extra]))
            extra = high;
    code->extra = (uint8_t)extra;
    code->of_high[extra] = CN_BF12_EXTRA;
    return total - most - counts->of_high[extra];
}

static void write_header(const cn_bf12_code *code, uint64_t rows, uint64_t columns,
                         uint32_t escape_count, unsigned char *out)
{
    const uint32_t version = VERSION;
    memset(out, 0, CENOTE_BF12_HEADER_BYTES);
    memcpy(out, MAGIC, 4);
    memcpy(out + 4, &version, 4);
    memcpy(out + 8, &rows, 8);
    memcpy(out + 16, &columns, 8);
    memcpy(out + 24, &escape_count, 4);
    for (unsigned high = 0; high < 256; high++)
        if (code->of_high[high] != CENOTE_BF12_ESCAPE)
            out[TABLE_BYTE + code->of_high[high]] = (unsigned char)high;
}

/* ---- encoding ---- */

/* The rest of a row as a group of its own, filled up with elements that have code 0. */
static void encode_tail(const cn_bf12_ops *ops, const cn_bf12_code *code, const unsigned char *from,
                        uint64_t count, uint64_t column, unsigned char *out,
                        cn_bf12_escapes *escapes)
{
    unsigned char padded[CENOTE_BF12_GROUP * 2] = {0};
    memcpy(padded, from, count * 2);
    for (uint64_t e = count; e < CENOTE_BF12_GROUP; e++)
        padded[2 * e + 1] = code->base;
    ops->encode(code, padded, 1, column, out, escapes);
}

/* False when the escapes do not fit. */
static bool encode_rows(const cn_bf12_ops *ops, const cn_bf12_code *code, const bf12_layout *layout,
                        const unsigned char *data, uint64_t rows, uint64_t columns,
                        unsigned char *out, cn_bf12_escapes *escapes)
{
    unsigned char *starts = out + CENOTE_BF12_HEADER_BYTES;
    uint64_t whole = columns / CENOTE_BF12_GROUP, rest = columns % CENOTE_BF12_GROUP;
    escapes->count = 0;
    for (uint64_t row = 0; row < rows; row++) {
        uint16_t start = (uint16_t)escapes->count;
        memcpy(starts + row * 2, &start, 2);
        const unsigned char *from = data + row * columns * 2;
        unsigned char *to = out + layout->groups_byte + row * layout->row_bytes;
        ops->encode(code, from, whole, 0, to, escapes);
        if (rest != 0)
            encode_tail(ops, code, from + whole * CENOTE_BF12_GROUP * 2, rest,
                        whole * CENOTE_BF12_GROUP, to + whole * CENOTE_BF12_GROUP_BYTES, escapes);
        if (escapes->count > escapes->limit)
            return false;
    }
    uint16_t end = (uint16_t)escapes->count;
    memcpy(starts + rows * 2, &end, 2);
    return true;
}

/* Zeros between the parts, so that equal panels have equal bytes. */
static void fill_gaps(const bf12_layout *layout, uint64_t rows, uint32_t escape_count,
                      unsigned char *out)
{
    uint64_t starts_end = CENOTE_BF12_HEADER_BYTES + (rows + 1) * 2;
    uint64_t groups_end = layout->groups_byte + rows * layout->row_bytes;
    uint64_t list_bytes = (uint64_t)escape_count * 4;
    memset(out + starts_end, 0, layout->groups_byte - starts_end);
    memset(out + groups_end, 0, layout->escapes_byte - groups_end);
    memset(out + layout->escapes_byte + list_bytes, 0, escapes_bytes(escape_count) - list_bytes);
}

cenote_status cn_bf12_encode_by(const cn_bf12_ops *ops, const void *data, uint64_t rows,
                                uint64_t columns, void *out, uint64_t room_bytes,
                                uint64_t *out_bytes)
{
    bf12_layout layout;
    if (rows == 0 || columns == 0)
        return CENOTE_E_INVAL;
    if (!layout_of(rows, columns, &layout) || room_bytes < layout.escapes_byte)
        return CENOTE_E_UNSUPPORTED;
    unsigned char *to = out;
    uint64_t escapes_room = (room_bytes - layout.escapes_byte) / ALIGN_BYTES * ALIGN_BYTES;
    cn_bf12_escapes escapes = {to + layout.escapes_byte, 0,
                               (uint32_t)least(layout.escapes_max, escapes_room / 4)};
    uint64_t groups = rows * (layout.row_bytes / CENOTE_BF12_GROUP_BYTES);
    /* odd, so that it does not meet the same columns of every row */
    uint64_t step = groups <= SAMPLE_GROUPS ? 1 : groups / SAMPLE_GROUPS | 1;
    bf12_counts counts;
    cn_bf12_code code;
    count_high(data, rows, columns, step, &counts);
    choose_code(&counts, &code);
    if (!encode_rows(ops, &code, &layout, data, rows, columns, to, &escapes)) {
        if (step == 1)
            return CENOTE_E_UNSUPPORTED;
        count_high(data, rows, columns, 1, &counts);
        if (choose_code(&counts, &code) > escapes.limit ||
            !encode_rows(ops, &code, &layout, data, rows, columns, to, &escapes))
            return CENOTE_E_UNSUPPORTED;
    }
    write_header(&code, rows, columns, escapes.count, to);
    fill_gaps(&layout, rows, escapes.count, to);
    *out_bytes = layout.escapes_byte + escapes_bytes(escapes.count);
    return CENOTE_OK;
}

cenote_status cenote_bf12_encode(const void *data, uint64_t rows, uint64_t columns, void *out,
                                 uint64_t *out_bytes)
{
    return cn_bf12_encode_by(cn_bf12_ops_best(), data, rows, columns, out, UINT64_MAX, out_bytes);
}

/* ---- decoding ---- */

cenote_bf12_view cenote_bf12_view_of(const void *data)
{
    const unsigned char *from = data;
    bf12_layout layout = {0};
    bool sound = layout_of(load_u64(from + 8), load_u64(from + 16), &layout);
    (void)sound; /* encode and check made sure of it */
    return (cenote_bf12_view){
        .table = from + TABLE_BYTE,
        .starts = from + CENOTE_BF12_HEADER_BYTES,
        .groups = from + layout.groups_byte,
        .escapes = from + layout.escapes_byte,
        .row_bytes = layout.row_bytes,
    };
}

/* The first of a row's escapes [at, end) that is at @p column or behind it. */
static uint32_t escape_from(const unsigned char *escapes, uint32_t at, uint32_t end,
                            uint64_t column)
{
    while (at < end) {
        uint32_t middle = at + (end - at) / 2;
        if (load_u32(escapes + (uint64_t)middle * 4) >> 8 < column)
            at = middle + 1;
        else
            end = middle;
    }
    return at;
}

static void patch(const cenote_bf12_view *view, uint64_t row, uint64_t first, uint64_t count,
                  unsigned char *out)
{
    uint32_t end = start_of(view->starts, row + 1);
    uint32_t i = escape_from(view->escapes, start_of(view->starts, row), end, first);
    for (; i < end; i++) {
        uint32_t entry = load_u32(view->escapes + (uint64_t)i * 4);
        uint64_t place = (entry >> 8) - first;
        if (place >= count)
            return;
        out[2 * place + 1] = (unsigned char)(out[2 * place + 1] | entry);
    }
}

/* Elements [first, first + count) of one group. */
static void decode_part(const cn_bf12_ops *ops, const cenote_bf12_view *view,
                        const unsigned char *group, uint64_t first, uint64_t count,
                        unsigned char *out)
{
    unsigned char elements[CENOTE_BF12_GROUP * 2];
    ops->decode(view->table, group, 1, elements);
    memcpy(out, elements + first * 2, count * 2);
}

void cn_bf12_decode_by(const cn_bf12_ops *ops, const void *data, uint64_t row, uint64_t first,
                       uint64_t count, unsigned char *out)
{
    const cenote_bf12_view view = cenote_bf12_view_of(data);
    const unsigned char *group =
        view.groups + row * view.row_bytes + first / CENOTE_BF12_GROUP * CENOTE_BF12_GROUP_BYTES;
    unsigned char *to = out;
    uint64_t left = count, ahead = first % CENOTE_BF12_GROUP;
    if (ahead != 0) {
        uint64_t part = least(CENOTE_BF12_GROUP - ahead, left);
        decode_part(ops, &view, group, ahead, part, to);
        group += CENOTE_BF12_GROUP_BYTES;
        to += part * 2;
        left -= part;
    }
    uint64_t whole = left / CENOTE_BF12_GROUP, rest = left % CENOTE_BF12_GROUP;
    ops->decode(view.table, group, whole, to);
    if (rest != 0)
        decode_part(ops, &view, group + whole * CENOTE_BF12_GROUP_BYTES, 0, rest,
                    to + whole * CENOTE_BF12_GROUP * 2);
    patch(&view, row, first, count, out);
}

void cenote_bf12_decode(const void *data, uint64_t columns, uint64_t row, uint64_t first,
                        uint64_t count, void *out)
{
    (void)columns; /* the header has it too */
    cn_bf12_decode_by(cn_bf12_ops_best(), data, row, first, count, out);
}

/* ---- checks ---- */

static cenote_status check_header(const unsigned char *data, uint64_t size_bytes, uint64_t rows,
                                  uint64_t columns, const bf12_layout *layout, cenote_error *err)
{
    static const unsigned char none[20];
    if (memcmp(data, MAGIC, 4) != 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT, "a packed panel does not begin with BF12");
    uint32_t version = load_u32(data + 4);
    if (version != VERSION)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "a packed panel has version %" PRIu32 ", known is %u", version,
                                VERSION);
    uint64_t own_rows = load_u64(data + 8), own_columns = load_u64(data + 16);
    if (own_rows != rows || own_columns != columns)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "a packed panel is %" PRIu64 " x %" PRIu64 ", expected %" PRIu64
                                " x %" PRIu64,
                                own_rows, own_columns, rows, columns);
    uint32_t count = load_u32(data + 24);
    uint64_t expected = layout->escapes_byte + escapes_bytes(count);
    if (count > CENOTE_BF12_ESCAPES_MAX || size_bytes != expected)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "a packed panel of %" PRIu64 " x %" PRIu64 " with %" PRIu32
                                " escapes has %" PRIu64 " bytes, expected %" PRIu64,
                                rows, columns, count, size_bytes, expected);
    if (memcmp(data + 28, none, sizeof none) != 0 || data[TABLE_BYTE + CENOTE_BF12_ESCAPE] != 0)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "a packed panel's header is not zero where "
                                "it must be");
    return CENOTE_OK;
}

/* The code of one element. */
static unsigned code_at(const unsigned char *row, uint64_t column)
{
    const unsigned char *group = row + column / CENOTE_BF12_GROUP * CENOTE_BF12_GROUP_BYTES;
    unsigned e = column % CENOTE_BF12_GROUP;
    return group[CENOTE_BF12_CODES_BYTE + cenote_bf12_element(e % 32)] >> (e / 32 * 4) & 15;
}

static cenote_status check_row(const cenote_bf12_view *view, uint64_t row, uint64_t columns,
                               uint32_t escape_count, cenote_error *err)
{
    uint32_t at = start_of(view->starts, row), end = start_of(view->starts, row + 1);
    if (at > end || end > escape_count)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "row %" PRIu64 " of a packed panel has escapes %" PRIu32
                                " to %" PRIu32 " of %" PRIu32,
                                row, at, end, escape_count);
    const unsigned char *groups = view->groups + row * view->row_bytes;
    uint64_t least_column = 0;
    for (; at < end; at++) {
        uint64_t column = load_u32(view->escapes + (uint64_t)at * 4) >> 8;
        if (column < least_column || column >= columns ||
            code_at(groups, column) != CENOTE_BF12_ESCAPE)
            return cenote_error_set(err, CENOTE_E_CORRUPT,
                                    "row %" PRIu64
                                    " of a packed panel: an escape at column %" PRIu64
                                    " of %" PRIu64 ", after %" PRIu64 ", is none",
                                    row, column, columns, least_column);
        least_column = column + 1;
    }
    return CENOTE_OK;
}

cenote_status cenote_bf12_check(const void *data, uint64_t size_bytes, uint64_t rows,
                                uint64_t columns, cenote_error *err)
{
    bf12_layout layout;
    if (!layout_of(rows, columns, &layout) || size_bytes < layout.escapes_byte)
        return cenote_error_set(err, CENOTE_E_CORRUPT,
                                "%" PRIu64 " bytes are too few for a packed panel of %" PRIu64
                                " x %" PRIu64,
                                size_bytes, rows, columns);
    cenote_status status = check_header(data, size_bytes, rows, columns, &layout, err);
    if (status != CENOTE_OK)
        return status;
    const cenote_bf12_view view = cenote_bf12_view_of(data);
    uint32_t escape_count = load_u32((const unsigned char *)data + 24);
    if (start_of(view.starts, 0) != 0 || start_of(view.starts, rows) != escape_count)
        return cenote_error_set(
            err, CENOTE_E_CORRUPT,
            "the rows of a packed panel have escapes %" PRIu32 " to %" PRIu32 " of %" PRIu32,
            start_of(view.starts, 0), start_of(view.starts, rows), escape_count);
    for (uint64_t row = 0; row < rows && status == CENOTE_OK; row++)
        status = check_row(&view, row, columns, escape_count, err);
    return status;
}
