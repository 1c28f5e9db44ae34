/* SPDX-License-Identifier: Apache-2.0 */
#include "alloc_contract.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "script.h"

#define BLOCKS_MAX 4096u

struct block {
    uint64_t address, size_bytes;
};

static const struct contract_subject *subject; /* of the run */

#define PROMISE(holds, text)                                                                       \
    do {                                                                                           \
        if (!(holds))                                                                              \
            fail_msg("%s: %s", subject->name, text);                                               \
    } while (0)

static void is_sound(void *self)
{
    const char *broken = subject->check(self);
    if (broken != NULL)
        fail_msg("%s: %s", subject->name, broken);
}

static void *open_empty(void)
{
    void *self = subject->open(subject);
    PROMISE(subject->used_bytes(self) == 0, "something is live in an empty one");
    is_sound(self);
    return self;
}

/* ---- one block ---- */

static void one_block(void *self, uint64_t size_bytes)
{
    uint64_t address, again;
    PROMISE(subject->alloc(self, size_bytes, &address), "a size that fits was refused");
    PROMISE(address % subject->align_bytes == 0, "a block is not aligned");
    PROMISE(subject->used_bytes(self) >= size_bytes, "less is used than was asked for");
    is_sound(self);
    PROMISE(subject->free(self, address, size_bytes), "a live block was not taken back");
    PROMISE(subject->alloc(self, size_bytes, &again), "a size that did fit was refused");
    PROMISE(again == address, "the same request in the same state went elsewhere");
    PROMISE(subject->free(self, again, size_bytes), "a live block was not taken back");
    PROMISE(subject->used_bytes(self) == 0, "something stays live after the last free");
    is_sound(self);
}

/* Around each power of two, and the largest. */
static void test_sizes(void)
{
    void *self = open_empty();
    for (uint64_t power = 1; power <= subject->block_bytes_max; power *= 2)
        for (uint64_t size = power - (power > 2); size <= power + 1; size++)
            if (size <= subject->block_bytes_max)
                one_block(self, size);
    one_block(self, subject->block_bytes_max);
    subject->close(self);
}

static void test_refusals_change_nothing(void)
{
    void *self = open_empty();
    uint64_t address = 42, before, live;
    PROMISE(subject->alloc(self, 100, &live), "a size that fits was refused");
    before = subject->used_bytes(self);
    static const uint64_t offsets[] = {0, 1, UINT64_MAX / 2};
    for (unsigned i = 0; i < 3; i++)
        PROMISE(!subject->alloc(self, subject->range_bytes + 1 + offsets[i], &address),
                "more than there is was given");
    PROMISE(!subject->alloc(self, UINT64_MAX, &address), "2^64 bytes were given");
    PROMISE(!subject->alloc(self, 0, &address), "a block of nothing was given");
    PROMISE(address == 42, "a refusal wrote an address");
    if (subject->names_bad_frees) {
        PROMISE(!subject->free(self, live + subject->align_bytes, 100), "a foreign one was freed");
        PROMISE(!subject->free(self, live + 1, 100), "the inside of a block was freed");
        PROMISE(subject->used_bytes(self) == before, "a refusal changed what is used");
    }
    PROMISE(subject->used_bytes(self) == before, "a refusal changed what is used");
    is_sound(self);
    PROMISE(subject->free(self, live, 100), "a live block was not taken back");
    if (subject->names_bad_frees)
        PROMISE(!subject->free(self, live, 100), "a block was freed twice");
    PROMISE(subject->used_bytes(self) == 0, "something stays live after the last free");
    subject->close(self);
}

/* ---- until nothing fits any more ---- */

static int by_address(const void *a, const void *b)
{
    const struct block *left = a, *right = b;
    return (left->address > right->address) - (left->address < right->address);
}

static void are_disjoint(const struct block *blocks, unsigned count)
{
    struct block *sorted = malloc(count * sizeof *sorted);
    assert_non_null(sorted);
    memcpy(sorted, blocks, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_address);
    for (unsigned i = 1; i < count; i++)
        PROMISE(sorted[i - 1].address + sorted[i - 1].size_bytes <= sorted[i].address,
                "two live blocks overlap");
    free(sorted);
}

static unsigned fill(void *self, struct block *blocks, unsigned count, uint64_t unit_bytes)
{
    for (; count < BLOCKS_MAX; count++) {
        struct block *block = &blocks[count];
        block->size_bytes = unit_bytes * (1 + count * 7 % 5) - count % 3;
        if (!subject->alloc(self, block->size_bytes, &block->address))
            break;
    }
    return count;
}

static void test_full(void)
{
    struct block *blocks = calloc(BLOCKS_MAX, sizeof *blocks);
    assert_non_null(blocks);
    void *self = open_empty();
    uint64_t unit_bytes = subject->range_bytes / 1500 + 3;
    unsigned count = fill(self, blocks, 0, unit_bytes);
    PROMISE(count > 100 && count < BLOCKS_MAX, "it was never full");
    are_disjoint(blocks, count);
    PROMISE(subject->used_bytes(self) <= subject->range_bytes, "more is used than there is");
    is_sound(self);
    /* Every second one goes, and as much fits again. */
    uint64_t freed = 0, given = 0;
    unsigned kept = 0;
    for (unsigned i = 0; i < count; i++) {
        if (i % 2 == 1) {
            blocks[kept++] = blocks[i];
            continue;
        }
        freed += blocks[i].size_bytes;
        PROMISE(subject->free(self, blocks[i].address, blocks[i].size_bytes),
                "a live block was not taken back");
    }
    unsigned refilled = fill(self, blocks, kept, unit_bytes);
    for (unsigned i = kept; i < refilled; i++)
        given += blocks[i].size_bytes;
    PROMISE(given >= freed / 2, "freed memory is not to be had again");
    are_disjoint(blocks, refilled);
    is_sound(self);
    for (unsigned i = 0; i < refilled; i++)
        PROMISE(subject->free(self, blocks[i].address, blocks[i].size_bytes),
                "a live block was not taken back");
    PROMISE(subject->used_bytes(self) == 0, "something stays live after the last free");
    one_block(self, subject->block_bytes_max); /* all of it is one again */
    subject->close(self);
    free(blocks);
}

/* ---- at random ---- */

enum { SCRIPTS = 6, STEPS_MAX = 200, STEP_BYTES = 3, SLOTS = 48 };

static const char *random_step(void *self, struct block slots[SLOTS], const uint8_t *step,
                               uint64_t *digest, uint64_t *first)
{
    struct block *slot = &slots[step[0] % SLOTS];
    uint64_t address;
    if (slot->size_bytes != 0) {
        bool taken = subject->free(self, slot->address, slot->size_bytes);
        slot->size_bytes = 0;
        return taken ? NULL : "a live block was not taken back";
    }
    uint64_t power = UINT64_C(1) << step[1] % 24;
    uint64_t size_bytes = (power + power * step[2] / 256) % (subject->block_bytes_max / 8) + 1;
    if (!subject->alloc(self, size_bytes, &address)) {
        *digest = *digest * 31 + 1;
        return NULL;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (slots[i].size_bytes != 0 && slots[i].address < address + size_bytes &&
            address < slots[i].address + slots[i].size_bytes)
            return "two live blocks overlap";
    if (*first == UINT64_MAX)
        *first = address;
    *digest =
        (*digest * 31 + address - *first) * 0x9e3779b97f4a7c15u; /* where, from the first on */
    *slot = (struct block){address, size_bytes};
    return address % subject->align_bytes == 0 ? NULL : "a block is not aligned";
}

static const char *run_once(const uint8_t *bytes, size_t size, size_t *out_step, uint64_t *digest)
{
    struct block slots[SLOTS] = {0};
    void *self = subject->open(subject);
    const char *broken = NULL;
    uint64_t first = UINT64_MAX;
    for (size_t at = 0; at + STEP_BYTES <= size && broken == NULL; at += STEP_BYTES) {
        if (out_step != NULL)
            *out_step = at / STEP_BYTES;
        broken = random_step(self, slots, bytes + at, digest, &first);
        if (broken == NULL)
            broken = subject->check(self);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (slots[i].size_bytes != 0 &&
            !subject->free(self, slots[i].address, slots[i].size_bytes) && broken == NULL)
            broken = "a live block was not taken back";
    if (broken == NULL && subject->used_bytes(self) != 0)
        broken = "something stays live after the last free";
    subject->close(self);
    return broken;
}

static const char *run_twice(const uint8_t *bytes, size_t size, size_t *out_step)
{
    uint64_t digests[2] = {0, 0};
    for (unsigned i = 0; i < 2; i++) {
        const char *broken = run_once(bytes, size, out_step, &digests[i]);
        if (broken != NULL)
            return broken;
    }
    return digests[0] == digests[1] ? NULL : "the same requests went elsewhere the second time";
}

static void print(const uint8_t *bytes, size_t size)
{
    printf("%s:\n", subject->name);
    for (size_t at = 0; at + STEP_BYTES <= size; at += STEP_BYTES)
        printf("  slot %u size %u %u\n", bytes[at] % SLOTS, bytes[at + 1] % 24, bytes[at + 2]);
}

void contract_run(const struct contract_subject *of)
{
    const struct script_form form = {
        .step_bytes = STEP_BYTES, .steps_max = STEPS_MAX, .run = run_twice, .print = print};
    subject = of;
    test_sizes();
    test_refusals_change_nothing();
    test_full();
    script_run_random(&form, SCRIPTS, 20261121);
}
