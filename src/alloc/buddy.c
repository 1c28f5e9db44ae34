/* SPDX-License-Identifier: Apache-2.0 */
/* The public side of the buddy tree: bytes and addresses to leaves, refusals in words, figures. The
 * caller's block begins with the struct below; at the next multiple of 64 follow a counter for each
 * leaf, in whole words, and the tree's metadata.
 *
 * A counter says how many blocks that began at its leaf were freed, modulo 4: two bits are what
 * 0.25 % of a range in leaves of 256 B has room for beside the tree. From leaves of 4 KiB on there
 * is room for sixteen. */
#include <cenote/buddy.h>

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "alloc/buddy_tree.h"
#include "base/checked.h"
#include "base/compiler.h"

struct cenote_buddy {
    struct cn_buddy_tree tree;
    unsigned leaf_shift, generation_shift; /* a counter has 2^generation_shift bits */
    uint64_t *generations;
    uint64_t start, size_bytes; /* the range, as it was given */
    uint64_t used_leaves, used_peak_leaves, reserved_leaves;
    uint64_t requested_bytes;
    uint64_t block_count, alloc_count;
};

#define SHORT_GENERATION_SHIFT     1u
#define LONG_GENERATION_SHIFT      4u
#define LONG_GENERATION_LEAF_BYTES 4096u

#define STRUCT_BYTES                                                                               \
    ((sizeof(cenote_buddy) + CN_CACHE_LINE_BYTES - 1) / CN_CACHE_LINE_BYTES * CN_CACHE_LINE_BYTES)

/* Leaves, in absolute numbers in a range and in those of the tree elsewhere. */
struct leaves {
    uint64_t first, end;
};

/* ---- generations ---- */

static unsigned generation_shift_of(const cenote_buddy_options *options)
{
    return options->leaf_bytes < LONG_GENERATION_LEAF_BYTES ? SHORT_GENERATION_SHIFT
                                                            : LONG_GENERATION_SHIFT;
}

static uint64_t generation_words(const cenote_buddy_options *options, const struct leaves *leaves)
{
    return (((leaves->end - leaves->first) << generation_shift_of(options)) + 63) / 64;
}

/* Of @p leaf, which is in the range: its word, and where in that it lies. */
static uint64_t *generation_at(const cenote_buddy *buddy, uint64_t leaf, unsigned *out_bit)
{
    uint64_t bit = (leaf - buddy->tree.first) << buddy->generation_shift;
    *out_bit = bit % 64;
    return &buddy->generations[bit / 64];
}

static uint64_t generation_mask(const cenote_buddy *buddy)
{
    return (UINT64_C(1) << (1u << buddy->generation_shift)) - 1;
}

static uint32_t generation_of(const cenote_buddy *buddy, uint64_t leaf)
{
    unsigned bit;
    uint64_t word = *generation_at(buddy, leaf, &bit);
    return (uint32_t)(word >> bit & generation_mask(buddy));
}

static void begin_generation(cenote_buddy *buddy, uint64_t leaf)
{
    unsigned bit;
    uint64_t *word = generation_at(buddy, leaf, &bit);
    uint64_t mask = generation_mask(buddy) << bit;
    *word = (*word & ~mask) | ((*word + (UINT64_C(1) << bit)) & mask);
}

/* ---- set-up ---- */

static cenote_status leaves_of_range(const cenote_buddy_options *options, struct leaves *out_leaves,
                                     cenote_error *err)
{
    uint64_t leaf_bytes = options->leaf_bytes, end, first_up;
    if (options->version != CENOTE_BUDDY_OPTIONS_VERSION)
        return cenote_error_set(err, CENOTE_E_VERSION, "buddy options: version %u, this is %u",
                                options->version, CENOTE_BUDDY_OPTIONS_VERSION);
    if (leaf_bytes < CENOTE_BUDDY_LEAF_BYTES_MIN || (leaf_bytes & (leaf_bytes - 1)) != 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: leaves of %" PRIu64 " bytes; want a power of two from %u",
                                leaf_bytes, CENOTE_BUDDY_LEAF_BYTES_MIN);
    if (!cn_checked_add(options->start, options->size_bytes, &end))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: a range of %" PRIu64 " bytes from %" PRIu64
                                " on passes 2^64",
                                options->size_bytes, options->start);
    if (!cn_checked_round_up(options->start, leaf_bytes, &first_up) || first_up > end ||
        end - first_up < leaf_bytes)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: no whole leaf of %" PRIu64 " bytes in the %" PRIu64
                                " from %" PRIu64 " on",
                                leaf_bytes, options->size_bytes, options->start);
    *out_leaves = (struct leaves){first_up / leaf_bytes, end / leaf_bytes};
    return CENOTE_OK;
}

uint64_t cenote_buddy_metadata_bytes(const cenote_buddy_options *options)
{
    struct leaves leaves;
    if (leaves_of_range(options, &leaves, NULL) != CENOTE_OK)
        return UINT64_MAX;
    return STRUCT_BYTES + generation_words(options, &leaves) * sizeof(uint64_t) +
           cn_buddy_tree_bytes(leaves.first, leaves.end - leaves.first);
}

cenote_status cenote_buddy_init(const cenote_buddy_options *options, void *metadata,
                                uint64_t metadata_bytes, cenote_buddy **out_buddy,
                                cenote_error *err)
{
    struct leaves leaves;
    cenote_status status = leaves_of_range(options, &leaves, err);
    if (status != CENOTE_OK)
        return status;
    uint64_t needed = cenote_buddy_metadata_bytes(options);
    if (metadata == NULL || metadata_bytes < needed)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: %" PRIu64 " bytes for metadata, needs %" PRIu64,
                                metadata == NULL ? 0 : metadata_bytes, needed);
    if ((uintptr_t)metadata % CENOTE_BUDDY_METADATA_ALIGN != 0)
        return cenote_error_set(err, CENOTE_E_INVAL, "buddy: metadata is not aligned to %u",
                                CENOTE_BUDDY_METADATA_ALIGN);
    cenote_buddy *buddy = metadata;
    uint64_t words = generation_words(options, &leaves);
    *buddy = (cenote_buddy){
        .leaf_shift = (unsigned)__builtin_ctzll(options->leaf_bytes),
        .generation_shift = generation_shift_of(options),
        .generations = (uint64_t *)((unsigned char *)metadata + STRUCT_BYTES),
        .start = options->start,
        .size_bytes = options->size_bytes,
    };
    memset(buddy->generations, 0, words * sizeof(uint64_t));
    cn_buddy_tree_init(&buddy->tree, leaves.first, leaves.end - leaves.first,
                       buddy->generations + words);
    *out_buddy = buddy;
    return CENOTE_OK;
}

/* ---- numbers ---- */

static uint64_t leaf_count(const cenote_buddy *buddy)
{
    return buddy->tree.end - buddy->tree.first;
}

static uint64_t address_of(const cenote_buddy *buddy, uint64_t leaf)
{
    return (buddy->tree.origin + leaf) << buddy->leaf_shift;
}

/* The order of the block for @p size_bytes (> 0). */
static unsigned order_of(const cenote_buddy *buddy, uint64_t size_bytes)
{
    uint64_t last = (size_bytes - 1) >> buddy->leaf_shift;
    return last == 0 ? 0 : 64 - (unsigned)__builtin_clzll(last);
}

/* The leaf that @p address lies in. false: not in the range. */
static bool leaf_of(const cenote_buddy *buddy, uint64_t address, uint64_t *out_leaf)
{
    uint64_t leaf = (address >> buddy->leaf_shift) - buddy->tree.origin;
    *out_leaf = leaf;
    return leaf >= buddy->tree.first && leaf < buddy->tree.end;
}

static cenote_buddy_block block_of(const cenote_buddy *buddy, struct cn_buddy_extent extent)
{
    return (cenote_buddy_block){address_of(buddy, extent.first), extent.count << buddy->leaf_shift,
                                (cenote_buddy_kind)extent.kind};
}

/* ---- blocks ---- */

static cenote_status refuse_alloc(const cenote_buddy *buddy, uint64_t size_bytes,
                                  uint64_t align_bytes, cenote_error *err)
{
    cenote_buddy_stats stats;
    if (size_bytes == 0 || (align_bytes & (align_bytes - 1)) != 0)
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: %" PRIu64 " bytes aligned to %" PRIu64
                                "; want more than 0 and a power of two",
                                size_bytes, align_bytes);
    cenote_buddy_stats_get(buddy, &stats);
    return cenote_error_set(err, CENOTE_E_BUDGET,
                            "buddy: no block for %" PRIu64 " bytes aligned to %" PRIu64 ": %" PRIu64
                            " of %" PRIu64 " bytes are free, the largest block is %" PRIu64,
                            size_bytes, align_bytes, stats.free_bytes, stats.usable_bytes,
                            stats.largest_block_bytes);
}

cenote_status cenote_buddy_alloc(cenote_buddy *buddy, uint64_t size_bytes, uint64_t align_bytes,
                                 uint64_t *out_address, cenote_error *err)
{
    if (CN_UNLIKELY(size_bytes == 0 || (align_bytes & (align_bytes - 1)) != 0))
        return refuse_alloc(buddy, size_bytes, align_bytes, err);
    uint64_t leaf;
    unsigned order = order_of(buddy, size_bytes), place_order = order;
    if (align_bytes >> order >> buddy->leaf_shift > 1)
        place_order = order_of(buddy, align_bytes);
    if (CN_UNLIKELY(!cn_buddy_tree_alloc(&buddy->tree, order, place_order, &leaf)))
        return refuse_alloc(buddy, size_bytes, align_bytes, err);
    buddy->used_leaves += UINT64_C(1) << order;
    if (buddy->used_leaves > buddy->used_peak_leaves)
        buddy->used_peak_leaves = buddy->used_leaves;
    buddy->requested_bytes += size_bytes;
    buddy->block_count++;
    buddy->alloc_count++;
    *out_address = address_of(buddy, leaf);
    return CENOTE_OK;
}

static const char *const kind_text[] = {"free", "in use", "reserved"};

static cenote_status refuse_free(const cenote_buddy *buddy, uint64_t address, uint64_t size_bytes,
                                 uint32_t generation, cenote_error *err)
{
    uint64_t leaf;
    if (!leaf_of(buddy, address, &leaf))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: %" PRIu64 " is not among the %" PRIu64 " from %" PRIu64
                                " on",
                                address, buddy->size_bytes, buddy->start);
    cenote_buddy_block block = block_of(buddy, cn_buddy_tree_at(&buddy->tree, leaf));
    if (block.kind == CENOTE_BUDDY_USED && block.address == address &&
        generation != CENOTE_BUDDY_GENERATION_ANY && generation != generation_of(buddy, leaf))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: the block of generation %" PRIu32 " at %" PRIu64
                                " was freed before: the %" PRIu64
                                " bytes there now are of generation %" PRIu32,
                                generation, address, block.size_bytes, generation_of(buddy, leaf));
    return cenote_error_set(err, CENOTE_E_INVAL,
                            "buddy: no block for %" PRIu64 " bytes begins at %" PRIu64
                            ": the %" PRIu64 " bytes from %" PRIu64 " on are %s",
                            size_bytes, address, block.size_bytes, block.address,
                            kind_text[block.kind]);
}

/* A caller may free with a size that gives the same block but is not what was asked for. Then this
 * figure is wrong, but stays within its bounds. */
static void forget_request(cenote_buddy *buddy, uint64_t size_bytes)
{
    uint64_t rest = buddy->requested_bytes;
    rest = rest > size_bytes ? rest - size_bytes : 0;
    uint64_t most = buddy->used_leaves << buddy->leaf_shift;
    if (rest > most)
        rest = most;
    buddy->requested_bytes = rest < buddy->block_count ? buddy->block_count : rest;
}

uint32_t cenote_buddy_generation(const cenote_buddy *buddy, uint64_t address)
{
    uint64_t leaf;
    return leaf_of(buddy, address, &leaf) ? generation_of(buddy, leaf) : 0;
}

cenote_status cenote_buddy_free(cenote_buddy *buddy, uint64_t address, uint64_t size_bytes,
                                uint32_t generation, cenote_error *err)
{
    uint64_t leaf;
    bool begins = (address & ((UINT64_C(1) << buddy->leaf_shift) - 1)) == 0;
    if (!leaf_of(buddy, address, &leaf) || !begins || size_bytes == 0)
        return refuse_free(buddy, address, size_bytes, generation, err);
    unsigned order = order_of(buddy, size_bytes);
    bool current =
        generation == CENOTE_BUDDY_GENERATION_ANY || generation == generation_of(buddy, leaf);
    if (!current || !cn_buddy_tree_free(&buddy->tree, leaf, order))
        return refuse_free(buddy, address, size_bytes, generation, err);
    begin_generation(buddy, leaf);
    buddy->used_leaves -= UINT64_C(1) << order;
    buddy->block_count--;
    forget_request(buddy, size_bytes);
    return CENOTE_OK;
}

/* ---- reserved parts ---- */

/* All leaves that [address, address + size_bytes) touches; each must be of @p kind. */
static cenote_status leaves_of_part(const cenote_buddy *buddy, uint64_t address,
                                    uint64_t size_bytes, cenote_buddy_kind kind,
                                    struct leaves *out_leaves, cenote_error *err)
{
    uint64_t first, last, end_address;
    if (size_bytes == 0 || !cn_checked_add(address, size_bytes - 1, &end_address) ||
        !leaf_of(buddy, address, &first) || !leaf_of(buddy, end_address, &last))
        return cenote_error_set(err, CENOTE_E_INVAL,
                                "buddy: %" PRIu64 " bytes from %" PRIu64
                                " on are no part of the leaves in the %" PRIu64 " from %" PRIu64
                                " on",
                                size_bytes, address, buddy->size_bytes, buddy->start);
    for (uint64_t leaf = first; leaf <= last;) {
        struct cn_buddy_extent extent = cn_buddy_tree_at(&buddy->tree, leaf);
        cenote_buddy_block block = block_of(buddy, extent);
        if (block.kind != kind)
            return cenote_error_set(err, CENOTE_E_INVAL,
                                    "buddy: %" PRIu64 " bytes from %" PRIu64
                                    " on are not all %s: the %" PRIu64 " from %" PRIu64
                                    " on are %s",
                                    size_bytes, address, kind_text[kind], block.size_bytes,
                                    block.address, kind_text[block.kind]);
        leaf = extent.first + extent.count;
    }
    *out_leaves = (struct leaves){first, last + 1};
    return CENOTE_OK;
}

cenote_status cenote_buddy_reserve(cenote_buddy *buddy, uint64_t address, uint64_t size_bytes,
                                   cenote_error *err)
{
    struct leaves part;
    cenote_status status =
        leaves_of_part(buddy, address, size_bytes, CENOTE_BUDDY_FREE, &part, err);
    if (status != CENOTE_OK)
        return status;
    cn_buddy_tree_reserve(&buddy->tree, part.first, part.end);
    buddy->reserved_leaves += part.end - part.first;
    return CENOTE_OK;
}

cenote_status cenote_buddy_release(cenote_buddy *buddy, uint64_t address, uint64_t size_bytes,
                                   cenote_error *err)
{
    struct leaves part;
    cenote_status status =
        leaves_of_part(buddy, address, size_bytes, CENOTE_BUDDY_RESERVED, &part, err);
    if (status != CENOTE_OK)
        return status;
    cn_buddy_tree_release(&buddy->tree, part.first, part.end);
    buddy->reserved_leaves -= part.end - part.first;
    return CENOTE_OK;
}

/* ---- looking ---- */

bool cenote_buddy_next(const cenote_buddy *buddy, uint64_t address, cenote_buddy_block *out_block)
{
    uint64_t leaf;
    if (address < address_of(buddy, buddy->tree.first))
        leaf = buddy->tree.first;
    else if (!leaf_of(buddy, address, &leaf))
        return false;
    *out_block = block_of(buddy, cn_buddy_tree_at(&buddy->tree, leaf));
    return true;
}

static double lost_share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0.0 : 1.0 - (double)part / (double)whole;
}

void cenote_buddy_stats_get(const cenote_buddy *buddy, cenote_buddy_stats *out_stats)
{
    uint64_t free_leaves = leaf_count(buddy) - buddy->used_leaves - buddy->reserved_leaves;
    uint64_t largest = cn_buddy_tree_largest(&buddy->tree);
    *out_stats = (cenote_buddy_stats){
        .usable_bytes = leaf_count(buddy) << buddy->leaf_shift,
        .used_bytes = buddy->used_leaves << buddy->leaf_shift,
        .used_peak_bytes = buddy->used_peak_leaves << buddy->leaf_shift,
        .requested_bytes = buddy->requested_bytes,
        .reserved_bytes = buddy->reserved_leaves << buddy->leaf_shift,
        .free_bytes = free_leaves << buddy->leaf_shift,
        .largest_block_bytes = largest << buddy->leaf_shift,
        .block_count = buddy->block_count,
        .alloc_count = buddy->alloc_count,
        .occupancy = lost_share(free_leaves, leaf_count(buddy)),
        .internal_fragmentation =
            lost_share(buddy->requested_bytes, buddy->used_leaves << buddy->leaf_shift),
        .external_fragmentation = lost_share(largest, free_leaves),
    };
}

const char *cenote_buddy_check(const cenote_buddy *buddy)
{
    const char *broken = cn_buddy_tree_check(&buddy->tree);
    if (broken != NULL)
        return broken;
    uint64_t leaves[] = {0, 0, 0}, blocks = 0;
    for (uint64_t leaf = buddy->tree.first; leaf < buddy->tree.end;) {
        struct cn_buddy_extent extent = cn_buddy_tree_at(&buddy->tree, leaf);
        leaves[extent.kind] += extent.count;
        blocks += extent.kind == CN_BUDDY_USED;
        leaf = extent.first + extent.count;
    }
    if (leaves[CN_BUDDY_USED] != buddy->used_leaves)
        return "used leaves miscounted";
    if (leaves[CN_BUDDY_RESERVED] != buddy->reserved_leaves)
        return "reserved leaves miscounted";
    if (blocks != buddy->block_count)
        return "blocks miscounted";
    if (buddy->used_leaves > buddy->used_peak_leaves)
        return "more leaves are used than at the peak";
    if (buddy->requested_bytes > buddy->used_leaves << buddy->leaf_shift ||
        buddy->requested_bytes < buddy->block_count)
        return "more is asked for than is used, or less than a byte for each block";
    return NULL;
}
