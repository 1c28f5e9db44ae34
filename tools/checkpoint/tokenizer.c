/* SPDX-License-Identifier: Apache-2.0 */
/* A byte-level BPE tokenizer.json of any size, with the shape of the released one.
 *
 * Entries 0..255 are the bytes, in the order of the GPT-2 byte map. Then come merges learnt from
 * the text below by plain BPE (most frequent pair first), so that ordinary prompts shrink; when
 * the text is spent, pseudo-random joins of pieces fill the vocabulary up. Every merge joins two
 * entries with lower ids into a new entry, so merge m makes entry 256 + m, as in the releases.
 *
 *   pieces[]   the bytes of each entry          slots[]   open addressing: bytes -> entry */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

const char *const ckpt_special_tokens[CKPT_SPECIAL_COUNT] = {
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
};

static const char lesson[] =
    " the of and to in is that it was for on are with as his they at be this from have or by one"
    " had not but what all were when we there can an your which their said if do will each about"
    " how up out them then she many some so these would other into has more her two like him see"
    " time could no make than first been its who now people my made over did down only way find"
    " use may water long little very after words called just where most know image picture photo"
    " describe show colour red green blue yellow black white circle square what is in the picture"
    " describe this image please count the shapes in the image and name their colours the answer"
    " assistant user system a cat sits on the table a dog runs through the water the text in the"
    " image says hello world the other one is not there what are they doing here and why there is"
    " nothing to see in this picture they are on the left of the house with the red roof"
    " I'm you're he's it's don't can't won't we'll they've I'd that's isn't let's"
    "\n\nWhat is this?\n\nThe answer is here.\n\n    return 0;\n    return value;\n"
    " caf\xc3\xa9 na\xc3\xafve fa\xc3\xa7"
    "ade \xc3\xbc"
    "ber stra\xc3\x9f"
    "e ni\xc3\xb1o caf\xc3\xa9 \xc3\xbc"
    "ber ni\xc3\xb1o"
    "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c \xe4\xbd\xa0\xe5\xa5\xbd "
    "\xe4\xb8\x96\xe7\x95\x8c"
    " \xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xd0\xbc\xd0\xb8\xd1\x80 "
    "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82"
    " \xf0\x9f\x99\x82 \xf0\x9f\x99\x82 \xf0\x9f\x8e\x89";

enum { PIECE_BYTES_MAX = 14, LESSON_MAX = 4096 };

struct piece {
    unsigned char bytes[PIECE_BYTES_MAX];
    unsigned char count;
    bool word; /* letters only, perhaps after one space */
};

struct vocabulary {
    struct piece *pieces;
    uint32_t (*merges)[2];
    uint32_t *slots; /* entry + 1; 0 is free */
    uint32_t slot_mask;
    uint32_t count, count_max;
};

static uint32_t *slot_of(const struct vocabulary *vocabulary, const struct piece *piece)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (unsigned i = 0; i < piece->count; i++)
        hash = (hash ^ piece->bytes[i]) * 16777619u;
    for (uint32_t at = hash ^ hash >> 15;; at++) {
        uint32_t *slot = &vocabulary->slots[at & vocabulary->slot_mask];
        if (*slot == 0)
            return slot;
        const struct piece *other = &vocabulary->pieces[*slot - 1];
        if (other->count == piece->count && !memcmp(other->bytes, piece->bytes, piece->count))
            return slot;
    }
}

/* Enters left + right. False when it is too long, known already, or the vocabulary is full. */
static bool merge_add(struct vocabulary *vocabulary, uint32_t left, uint32_t right)
{
    const struct piece *a = &vocabulary->pieces[left], *b = &vocabulary->pieces[right];
    if (a->count + b->count > PIECE_BYTES_MAX || vocabulary->count == vocabulary->count_max)
        return false;
    struct piece joined = {.count = (unsigned char)(a->count + b->count)};
    memcpy(joined.bytes, a->bytes, a->count);
    memcpy(joined.bytes + a->count, b->bytes, b->count);
    joined.word = a->word && b->word && b->bytes[0] != ' ';
    uint32_t *slot = slot_of(vocabulary, &joined);
    if (*slot != 0)
        return false;
    vocabulary->pieces[vocabulary->count] = joined;
    vocabulary->merges[vocabulary->count - 256][0] = left;
    vocabulary->merges[vocabulary->count - 256][1] = right;
    *slot = ++vocabulary->count;
    return true;
}

/* The printable bytes first, then the others: entry of each place, as GPT-2 has it. */
static bool byte_is_printable(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

static void bytes_add(struct vocabulary *vocabulary)
{
    for (int printable = 1; printable >= 0; printable--) {
        for (unsigned byte = 0; byte < 256; byte++) {
            if (byte_is_printable(byte) != printable)
                continue;
            struct piece *piece = &vocabulary->pieces[vocabulary->count];
            piece->bytes[0] = (unsigned char)byte;
            piece->count = 1;
            piece->word = byte == ' ' || (byte | 32u) - 'a' < 26;
            *slot_of(vocabulary, piece) = ++vocabulary->count;
        }
    }
}

/* ---- learning ---- */

/* A word begins at a space; nothing is learnt across it, as the pre-tokenizer would not. */
static bool joins(const struct vocabulary *vocabulary, const uint32_t *entries, size_t at)
{
    const struct piece *next = &vocabulary->pieces[entries[at + 1]];
    return next->bytes[0] != ' ' || vocabulary->pieces[entries[at]].bytes[0] == ' ';
}

/* The most frequent pair that can still be entered, the first of equals. Quadratic, over a text
 * of two thousand symbols. @return its count; 0 when there is none twice. */
static unsigned best_pair(const struct vocabulary *vocabulary, const uint32_t *entries,
                          size_t count, const bool *barred, uint32_t out_pair[2])
{
    unsigned best = 1;
    for (size_t i = 0; i + 1 < count; i++) {
        if (barred[i] || !joins(vocabulary, entries, i))
            continue;
        unsigned seen = 1;
        for (size_t j = i + 1; j + 1 < count; j++)
            seen += entries[j] == entries[i] && entries[j + 1] == entries[i + 1];
        if (seen > best) {
            best = seen;
            out_pair[0] = entries[i];
            out_pair[1] = entries[i + 1];
        }
    }
    return best > 1 ? best : 0;
}

static void learn(struct vocabulary *vocabulary)
{
    uint32_t entries[LESSON_MAX], pair[2];
    bool barred[LESSON_MAX] = {false};
    size_t count = sizeof(lesson) - 1;
    for (size_t i = 0; i < count; i++) {
        struct piece piece = {.bytes = {(unsigned char)lesson[i]}, .count = 1};
        entries[i] = *slot_of(vocabulary, &piece) - 1;
    }
    while (vocabulary->count < vocabulary->count_max &&
           best_pair(vocabulary, entries, count, barred, pair) > 0) {
        bool entered = merge_add(vocabulary, pair[0], pair[1]);
        size_t kept = 0;
        for (size_t i = 0; i < count; i++, kept++) {
            bool match = i + 1 < count && entries[i] == pair[0] && entries[i + 1] == pair[1];
            barred[kept] = barred[i] || (match && !entered);
            entries[kept] = match && entered ? vocabulary->count - 1 : entries[i];
            i += match && entered;
        }
        count = kept;
    }
}
static_assert(sizeof(lesson) < LESSON_MAX, "the text fits its array");

/* Joins of wordlike pieces, drawn by a counter-based generator. */
static void invent(struct vocabulary *vocabulary)
{
    uint64_t key = ckpt_key(0, "tokenizer");
    for (uint64_t draw = 0; vocabulary->count < vocabulary->count_max; draw++) {
        uint64_t bits = (draw + 1) * 0x9e3779b97f4a7c15u ^ key;
        bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
        bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
        uint32_t left = (uint32_t)(bits >> 32) % vocabulary->count;
        /* The right part from the older entries: names grow slowly and stay short. */
        uint32_t right = (uint32_t)bits % (vocabulary->count < 2000 ? vocabulary->count : 2000);
        if (vocabulary->pieces[left].word && vocabulary->pieces[right].word &&
            vocabulary->pieces[right].bytes[0] != ' ')
            (void)merge_add(vocabulary, left, right);
    }
}

/* ---- writing ---- */

/* A piece in the GPT-2 byte map, escaped for JSON. */
static void piece_write(FILE *out, const struct piece *piece)
{
    for (unsigned i = 0; i < piece->count; i++) {
        unsigned code = piece->bytes[i];
        if (!byte_is_printable(code)) {
            unsigned rank = 0; /* the k-th of the other bytes is U+0100 + k */
            for (unsigned byte = 0; byte < code; byte++)
                rank += !byte_is_printable(byte);
            code = 256 + rank;
        }
        if (code == '"' || code == '\\')
            fputc('\\', out);
        if (code < 128) {
            fputc((int)code, out);
        } else {
            fputc((int)(0xc0 | code >> 6), out);
            fputc((int)(0x80 | (code & 63)), out);
        }
    }
}

static void model_write(FILE *out, const struct vocabulary *vocabulary, bool merge_pairs)
{
    fputs(
        "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
        "    \"continuing_subword_prefix\": \"\",\n    \"end_of_word_suffix\": \"\",\n"
        "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
        "    \"vocab\": {",
        out);
    for (uint32_t i = 0; i < vocabulary->count; i++) {
        fputs(i ? ",\n      \"" : "\n      \"", out);
        piece_write(out, &vocabulary->pieces[i]);
        fprintf(out, "\": %u", i);
    }
    fputs("\n    },\n    \"merges\": [", out);
    for (uint32_t i = 0; i + 256 < vocabulary->count; i++) {
        fputs(i ? "," : "", out);
        fputs(merge_pairs ? "\n      [\n        \"" : "\n      \"", out);
        piece_write(out, &vocabulary->pieces[vocabulary->merges[i][0]]);
        fputs(merge_pairs ? "\",\n        \"" : " ", out);
        piece_write(out, &vocabulary->pieces[vocabulary->merges[i][1]]);
        fputs(merge_pairs ? "\"\n      ]" : "\"", out);
    }
    fputs("\n    ]\n  }\n}\n", out);
}

static void head_write(FILE *out, uint32_t special_first)
{
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
          "  \"added_tokens\": [",
          out);
    for (uint32_t i = 0; i < CKPT_SPECIAL_COUNT; i++)
        fprintf(out,
                "%s\n    {\n      \"id\": %u,\n      \"content\": \"%s\",\n"
                "      \"single_word\": false,\n      \"lstrip\": false,\n"
                "      \"rstrip\": false,\n      \"normalized\": false,\n"
                "      \"special\": %s\n    }",
                i ? "," : "", special_first + i, ckpt_special_tokens[i],
                i <= CKPT_SPECIAL_VIDEO_PAD ? "true" : "false");
    static const char byte_level[] = "{\n    \"type\": \"ByteLevel\",\n"
                                     "    \"add_prefix_space\": false,\n"
                                     "    \"trim_offsets\": false,\n    \"use_regex\": false\n  }";
    fputs("\n  ],\n  \"normalizer\": {\n    \"type\": \"NFC\"\n  },\n  \"pre_tokenizer\": {\n"
          "    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n      {\n"
          "        \"type\": \"Split\",\n        \"pattern\": {\n          \"Regex\": \""
          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|"
          " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"\n"
          "        },\n        \"behavior\": \"Isolated\",\n        \"invert\": false\n      },\n"
          "      ",
          out);
    fprintf(out, "%s\n    ]\n  },\n  \"post_processor\": %s,\n  \"decoder\": %s,\n", byte_level,
            byte_level, byte_level);
}

char *ckpt_tokenizer_json(uint32_t entries, bool merge_pairs, size_t *out_size)
{
    uint32_t slot_count = 1024;
    while (slot_count < 2 * entries)
        slot_count *= 2;
    struct vocabulary vocabulary = {.count_max = entries, .slot_mask = slot_count - 1};
    char *text = NULL;
    vocabulary.pieces = calloc(entries, sizeof(*vocabulary.pieces));
    vocabulary.merges = calloc(entries, sizeof(*vocabulary.merges));
    vocabulary.slots = calloc(slot_count, sizeof(*vocabulary.slots));
    if (!vocabulary.pieces || !vocabulary.merges || !vocabulary.slots)
        goto out_free;
    bytes_add(&vocabulary);
    learn(&vocabulary);
    invent(&vocabulary);
    FILE *out = open_memstream(&text, out_size);
    if (!out)
        goto out_free;
    head_write(out, entries);
    model_write(out, &vocabulary, merge_pairs);
    if (fclose(out) != 0) {
        free(text);
        text = NULL;
    }
out_free:
    free(vocabulary.slots);
    free(vocabulary.merges);
    free(vocabulary.pieces);
    return text;
}
