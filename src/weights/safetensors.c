/* SPDX-License-Identifier: Apache-2.0 */
/* The header of a safetensors file.
 *
 *   | length: u64 le | { "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
 *   | data: every byte belongs to exactly one tensor |
 *
 * One state machine over JSON events; a tensor enters the table when its object ends. The rules are
 * those of the reference reader (offsets sorted, each begins where the last one ended, the last one
 * ends with the file, size = product of the shape x dtype, unknown keys of a tensor ignored), and
 * stricter where a file can only be a mistake or an attack: duplicate names and keys, control
 * characters, a rank above CENOTE_RANK_MAX. Alignment is nobody's promise: any residue is fine.
 *
 * Format: github.com/huggingface/safetensors, README "Format", and `Metadata::validate`. */
#include "weights/safetensors.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "weights/json.h"
#include "weights/message.h"

enum { LENGTH_BYTES = 8 };

enum state {
    AT_START,
    IN_TOP,
    AT_METADATA,
    IN_METADATA,
    AT_METADATA_VALUE,
    AT_TENSOR,
    IN_TENSOR,
    AT_DTYPE,
    AT_SHAPE,
    IN_SHAPE,
    AT_OFFSETS,
    IN_OFFSETS,
    IN_UNKNOWN, /* the value of a key that only newer writers know */
    AT_END,
};

enum { SEEN_DTYPE = 1, SEEN_SHAPE = 2, SEEN_OFFSETS = 4, SEEN_ALL = 7 };

struct header {
    const struct cn_safetensors_source *source;
    struct cn_table *table;
    uint64_t data_begin; /* in the file */
    uint64_t data_bytes;
    enum state state;
    bool metadata_seen;
    uint32_t unknown_depth;
    /* the tensor whose object is open */
    cenote_tensor_info tensor;
    unsigned seen;
    uint32_t offset_count;
    uint64_t offsets[2];
};

#define BAD(h, err, ...)                                                                           \
    cn_weights_error(err, CENOTE_E_CORRUPT, (h)->source->file->path, (h)->tensor.name, __VA_ARGS__)

static const char *kind_text(enum cn_json_kind kind)
{
    switch (kind) {
    case CN_JSON_NULL:
        return "null";
    case CN_JSON_BOOL:
        return "a boolean";
    case CN_JSON_NUMBER:
        return "a number";
    case CN_JSON_STRING:
        return "a string";
    case CN_JSON_KEY:
        return "a key";
    case CN_JSON_MAP_BEGIN:
    case CN_JSON_MAP_END:
        return "an object";
    case CN_JSON_ARRAY_BEGIN:
    case CN_JSON_ARRAY_END:
        break;
    }
    return "an array";
}

/* Wrong types get one sentence each, with both names: "`shape` must be an array, not a number". */
static cenote_status expect(const struct header *h, const struct cn_json_event *event,
                            enum cn_json_kind wanted, const char *what, cenote_error *err)
{
    if (event->kind == wanted)
        return CENOTE_OK;
    return BAD(h, err, "%s must be %s, not %s", what, kind_text(wanted), kind_text(event->kind));
}

/* ---- the end of a tensor ---- */

/* Elements first and bytes last, left to right, as the reference multiplies: a shape that overflows
 * on the way is refused even where a later zero would make the product small. */
static cenote_status size_from_shape(const struct header *h, uint64_t *out_bytes, cenote_error *err)
{
    uint64_t elements = 1;
    for (uint32_t d = 0; d < h->tensor.rank; d++)
        if (!cn_checked_mul(elements, h->tensor.shape[d], &elements))
            return BAD(h, err, "the product of the shape overflows at dimension %u (%" PRIu64 ")",
                       d, h->tensor.shape[d]);
    if (!cn_checked_mul(elements, cenote_dtype_bytes(h->tensor.dtype), out_bytes))
        return BAD(h, err, "%" PRIu64 " elements of %s overflow 64 bits", elements,
                   cenote_dtype_text(h->tensor.dtype));
    return CENOTE_OK;
}

/* Keys come in any order, so nothing can be judged before the object's end. Each check here makes
 * the next one's arithmetic safe: begin <= end, end inside of the data, then their difference. */
static cenote_status tensor_end(struct header *h, cenote_error *err)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    for (unsigned i = 0; i < 3; i++)
        if ((h->seen & (1u << i)) == 0)
            return BAD(h, err, "key `%s` is missing", keys[i]);
    uint64_t begin = h->offsets[0];
    uint64_t end = h->offsets[1];
    if (begin > end)
        return BAD(h, err, "offsets [%" PRIu64 ", %" PRIu64 ") run backwards", begin, end);
    if (end > h->data_bytes)
        return BAD(h, err,
                   "offsets [%" PRIu64 ", %" PRIu64 ") leave the file's %" PRIu64 " bytes of data",
                   begin, end, h->data_bytes);
    uint64_t size;
    cenote_status status = size_from_shape(h, &size, err);
    if (status != CENOTE_OK)
        return status;
    if (end - begin != size)
        return BAD(h, err,
                   "shape and dtype %s ask for %" PRIu64 " bytes, offsets [%" PRIu64 ", %" PRIu64
                   ") hold %" PRIu64,
                   cenote_dtype_text(h->tensor.dtype), size, begin, end, end - begin);
    h->tensor.offset_bytes = h->data_begin + begin;
    h->tensor.size_bytes = size;
    status = cn_table_add(h->table, &h->tensor, err);
    h->tensor.name = NULL;
    h->state = IN_TOP;
    return status;
}

/* ---- events by state ---- */

/* A key of the header: metadata, or the name of a tensor. The name is copied at once, for the text
 * lives in the parser's buffer and errors about the tensor want to say it. */
static cenote_status top_event(struct header *h, const struct cn_json_event *event,
                               cenote_error *err)
{
    if (event->kind == CN_JSON_MAP_END) {
        h->state = AT_END;
        return CENOTE_OK;
    }
    static const char metadata[] = "__metadata__";
    if (event->length == strlen(metadata) && memcmp(event->text, metadata, event->length) == 0) {
        if (h->metadata_seen)
            return BAD(h, err, "duplicate key `__metadata__`");
        h->metadata_seen = true;
        h->state = AT_METADATA;
        return CENOTE_OK;
    }
    if (event->length > CN_TABLE_NAME_BYTES_MAX)
        return BAD(h, err, "a tensor's name of %zu bytes is over the limit of %u", event->length,
                   CN_TABLE_NAME_BYTES_MAX);
    if (!cn_json_name_clean(event->text, event->length))
        return BAD(h, err, "control character in the tensor name \"%.*s\"",
                   event->length < 80 ? (int)event->length : 80, event->text);
    if (h->table->count == CN_TABLE_TENSORS_MAX)
        return BAD(h, err, "more tensors than the limit of %u", CN_TABLE_TENSORS_MAX);
    memset(&h->tensor, 0, sizeof h->tensor);
    h->tensor.file_index = h->source->file_index;
    h->tensor.name = cn_table_text(h->table, event->text, event->length, err);
    if (h->tensor.name == NULL)
        return err->status;
    h->seen = 0;
    h->offset_count = 0;
    h->state = AT_TENSOR;
    return CENOTE_OK;
}

/* Unknown keys are skipped as the reference skips them: newer writers may add some. Known ones come
 * once; JSON itself would let the last one win, and two readers could then see two tensors. */
static cenote_status tensor_key(struct header *h, const struct cn_json_event *event,
                                cenote_error *err)
{
    static const struct {
        const char *text;
        unsigned seen;
        enum state state;
    } keys[] = {{"dtype", SEEN_DTYPE, AT_DTYPE},
                {"shape", SEEN_SHAPE, AT_SHAPE},
                {"data_offsets", SEEN_OFFSETS, AT_OFFSETS}};
    h->state = IN_UNKNOWN;
    h->unknown_depth = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strlen(keys[i].text) != event->length ||
            memcmp(keys[i].text, event->text, event->length) != 0)
            continue;
        if ((h->seen & keys[i].seen) != 0)
            return BAD(h, err, "duplicate key `%s`", keys[i].text);
        h->seen |= keys[i].seen;
        h->state = keys[i].state;
    }
    return CENOTE_OK;
}

static cenote_status dtype_value(struct header *h, const struct cn_json_event *event,
                                 cenote_error *err)
{
    for (int d = 0; d < CENOTE_DTYPE_COUNT; d++) {
        const char *text = cenote_dtype_text((cenote_dtype)d);
        if (strlen(text) == event->length && memcmp(text, event->text, event->length) == 0) {
            h->tensor.dtype = (cenote_dtype)d;
            h->state = IN_TENSOR;
            return CENOTE_OK;
        }
    }
    return BAD(h, err, "unknown dtype \"%.*s\"", event->length < 40 ? (int)event->length : 40,
               event->text);
}

static cenote_status number(const struct header *h, const struct cn_json_event *event,
                            const char *what, uint64_t *out_value, cenote_error *err)
{
    cenote_status status = expect(h, event, CN_JSON_NUMBER, what, err);
    if (status != CENOTE_OK)
        return status;
    if (!cn_json_u64(event->text, event->length, out_value))
        return BAD(h, err, "%s: %.*s is not a whole number from 0 to 2^64 - 1", what,
                   event->length < 40 ? (int)event->length : 40, event->text);
    return CENOTE_OK;
}

/* Dimensions go straight into the tensor; an endless array ends at the limit of the rank. */
static cenote_status shape_event(struct header *h, const struct cn_json_event *event,
                                 cenote_error *err)
{
    if (event->kind == CN_JSON_ARRAY_END) {
        h->state = IN_TENSOR;
        return CENOTE_OK;
    }
    uint64_t value;
    cenote_status status = number(h, event, "a dimension of `shape`", &value, err);
    if (status != CENOTE_OK)
        return status;
    if (h->tensor.rank == CENOTE_RANK_MAX)
        return BAD(h, err, "more dimensions than the limit of %u", CENOTE_RANK_MAX);
    h->tensor.shape[h->tensor.rank++] = value;
    return CENOTE_OK;
}

/* Exactly two numbers; which of them is larger is judged at the end of the tensor. */
static cenote_status offsets_event(struct header *h, const struct cn_json_event *event,
                                   cenote_error *err)
{
    if (event->kind == CN_JSON_ARRAY_END) {
        h->state = IN_TENSOR;
        if (h->offset_count != 2)
            return BAD(h, err, "`data_offsets` has %u numbers, not 2", h->offset_count);
        return CENOTE_OK;
    }
    uint64_t value;
    cenote_status status = number(h, event, "a number of `data_offsets`", &value, err);
    if (status != CENOTE_OK)
        return status;
    if (h->offset_count == 2)
        return BAD(h, err, "`data_offsets` has more than 2 numbers");
    h->offsets[h->offset_count++] = value;
    return CENOTE_OK;
}

/* Counts brackets until the value is over; the guard bounds how deep they go. */
static cenote_status unknown_event(struct header *h, const struct cn_json_event *event)
{
    switch (event->kind) {
    case CN_JSON_MAP_BEGIN:
    case CN_JSON_ARRAY_BEGIN:
        h->unknown_depth++;
        break;
    case CN_JSON_MAP_END:
    case CN_JSON_ARRAY_END:
        h->unknown_depth--;
        break;
    default:
        break;
    }
    if (h->unknown_depth == 0)
        h->state = IN_TENSOR;
    return CENOTE_OK;
}

/* Opens a container: the state moves on when the event is the one wanted. */
static cenote_status begin(struct header *h, const struct cn_json_event *event,
                           enum cn_json_kind wanted, const char *what, enum state next,
                           cenote_error *err)
{
    h->state = next;
    return expect(h, event, wanted, what, err);
}

/* yajl guarantees well-formed JSON (keys inside of objects, brackets in pairs), so each state only
 * has to tell the events that can follow there. */
static cenote_status on_event(void *context, const struct cn_json_event *event, cenote_error *err)
{
    struct header *h = context;
    switch (h->state) {
    case AT_START:
        return begin(h, event, CN_JSON_MAP_BEGIN, "the header", IN_TOP, err);
    case IN_TOP:
        return top_event(h, event, err);
    case AT_METADATA:
        return begin(h, event, CN_JSON_MAP_BEGIN, "`__metadata__`", IN_METADATA, err);
    case IN_METADATA:
        h->state = event->kind == CN_JSON_MAP_END ? IN_TOP : AT_METADATA_VALUE;
        return CENOTE_OK;
    case AT_METADATA_VALUE:
        return begin(h, event, CN_JSON_STRING, "a value of `__metadata__`", IN_METADATA, err);
    case AT_TENSOR:
        return begin(h, event, CN_JSON_MAP_BEGIN, "its description", IN_TENSOR, err);
    case IN_TENSOR:
        return event->kind == CN_JSON_MAP_END ? tensor_end(h, err) : tensor_key(h, event, err);
    case AT_DTYPE: {
        cenote_status status = expect(h, event, CN_JSON_STRING, "`dtype`", err);
        return status == CENOTE_OK ? dtype_value(h, event, err) : status;
    }
    case AT_SHAPE:
        return begin(h, event, CN_JSON_ARRAY_BEGIN, "`shape`", IN_SHAPE, err);
    case IN_SHAPE:
        return shape_event(h, event, err);
    case AT_OFFSETS:
        return begin(h, event, CN_JSON_ARRAY_BEGIN, "`data_offsets`", IN_OFFSETS, err);
    case IN_OFFSETS:
        return offsets_event(h, event, err);
    case IN_UNKNOWN:
        return unknown_event(h, event);
    case AT_END:
        break;
    }
    return BAD(h, err, "more than one JSON value in the header");
}

/* ---- the file as a whole ---- */

/* Sorted by offset, each tensor begins where the one before ended: no overlap and no hole. */
static cenote_status check_coverage(struct header *h, uint32_t first, cenote_error *err)
{
    cn_table_sort_offsets(h->table, first);
    uint64_t at = h->data_begin;
    for (uint32_t i = first; i < h->table->count; i++) {
        const cenote_tensor_info *tensor = &h->table->tensors[i];
        h->tensor.name = tensor->name;
        uint64_t begins = tensor->offset_bytes - h->data_begin;
        uint64_t wanted = at - h->data_begin;
        if (tensor->offset_bytes < at)
            return BAD(h, err,
                       "offsets [%" PRIu64 ", %" PRIu64 ") overlap tensor `%.60s`, which "
                       "ends at %" PRIu64,
                       begins, begins + tensor->size_bytes, h->table->tensors[i - 1].name, wanted);
        if (tensor->offset_bytes > at)
            return BAD(h, err,
                       "a hole of %" PRIu64 " bytes before it: begins at %" PRIu64
                       ", the data before it ends at %" PRIu64,
                       begins - wanted, begins, wanted);
        at += tensor->size_bytes;
    }
    h->tensor.name = NULL;
    uint64_t covered = at - h->data_begin;
    if (covered != h->data_bytes)
        return BAD(h, err,
                   "a hole at the end: tensors cover %" PRIu64 " of %" PRIu64 " bytes of data",
                   covered, h->data_bytes);
    return CENOTE_OK;
}

/* The only two numbers that come before the JSON text: the file's size, from the system, and the
 * header's length, from a stranger. */
static cenote_status read_length(struct header *h, uint64_t *out_length, cenote_error *err)
{
    const struct cn_file *file = h->source->file;
    uint64_t size = file->opened.size_bytes;
    if (size < LENGTH_BYTES)
        return BAD(h, err, "%" PRIu64 " bytes are too few for a safetensors file", size);
    /* the header's first byte along with it, where there is one */
    struct cn_file_span span = {.size_bytes =
                                    size > LENGTH_BYTES ? LENGTH_BYTES + 1 : LENGTH_BYTES};
    const void *data;
    cenote_status status = cn_file_read(file, NULL, &span, h->source->buffer, &data, err);
    if (status != CENOTE_OK)
        return status;
    const unsigned char *bytes = data;
    uint64_t length = 0;
    for (unsigned i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | bytes[i];
    if (length == 0)
        return BAD(h, err, "the header's length is 0");
    if (length > CN_SAFETENSORS_HEADER_BYTES_MAX)
        return BAD(h, err, "a header of %" PRIu64 " bytes is over the limit of %u", length,
                   CN_SAFETENSORS_HEADER_BYTES_MAX);
    if (length > size - LENGTH_BYTES)
        return BAD(h, err, "a header of %" PRIu64 " bytes does not fit the file's %" PRIu64, length,
                   size);
    /* the format wants the object at once, without space before it */
    if (bytes[LENGTH_BYTES] != '{')
        return BAD(h, err, "the header begins with byte 0x%02x, not '{'", bytes[LENGTH_BYTES]);
    *out_length = length;
    return CENOTE_OK;
}

cenote_status cn_safetensors_read(const struct cn_safetensors_source *source,
                                  struct cn_table *table, cenote_error *err)
{
    struct header h = {.source = source, .table = table};
    uint32_t first = table->count;
    uint64_t length;
    cenote_status status = read_length(&h, &length, err);
    if (status != CENOTE_OK)
        return status;
    h.data_begin = LENGTH_BYTES + length;
    h.data_bytes = source->file->opened.size_bytes - h.data_begin;
    struct cn_json_source json = {.budget = source->budget,
                                  .file = source->file,
                                  .offset_bytes = LENGTH_BYTES,
                                  .size_bytes = length,
                                  .buffer = source->buffer};
    status = cn_json_parse(&json, on_event, &h, err);
    return status == CENOTE_OK ? check_coverage(&h, first, err) : status;
}
