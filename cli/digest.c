/* SPDX-License-Identifier: Apache-2.0 */
#include "digest.h"

#include <stdlib.h>

#if defined(CENOTE_COVERAGE) || !defined(__OPTIMIZE__)
#define XXH_NO_INLINE_HINTS 1 /* its always_inline fails without the optimiser's help */
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>

struct cli_digest {
    XXH3_state_t state;
    size_t pending; /* bytes, given to the state in pieces */
    uint8_t bytes[1024];
};

cenote_status cli_digest_create(struct cli_digest **out_digest, cenote_error *err)
{
    struct cli_digest *digest = aligned_alloc(64, sizeof *digest);
    if (digest == NULL)
        return cenote_error_set(err, CENOTE_E_NOMEM, "digest: no memory for %zu bytes",
                                sizeof *digest);
    XXH3_INITSTATE(&digest->state);
    (void)XXH3_64bits_reset(&digest->state);
    digest->pending = 0;
    *out_digest = digest;
    return CENOTE_OK;
}

void cli_digest_destroy(struct cli_digest *digest)
{
    free(digest);
}

static void flush(struct cli_digest *digest)
{
    (void)XXH3_64bits_update(&digest->state, digest->bytes, digest->pending);
    digest->pending = 0;
}

void cli_digest_add(struct cli_digest *digest, uint64_t first, uint64_t second)
{
    const uint64_t numbers[2] = {first, second};
    for (uint32_t i = 0; i < 16; i++)
        digest->bytes[digest->pending++] = (uint8_t)(numbers[i / 8] >> 8 * (i % 8));
    if (digest->pending == sizeof digest->bytes)
        flush(digest);
}

uint64_t cli_digest_sum(struct cli_digest *digest)
{
    flush(digest);
    return XXH3_64bits_digest(&digest->state);
}
