/* SPDX-License-Identifier: Apache-2.0 */
/* The copy past the caches for one instruction set. */
#ifndef CN_BASE_COPY_H
#define CN_BASE_COPY_H

#include <stddef.h>

/* @p to is a multiple of CN_COPY_STEP, @p size_bytes too. */
typedef void (*cn_copy_steps_fn)(unsigned char *to, const unsigned char *from, size_t size_bytes);
#define CN_COPY_STEP 64u

void cn_copy_steps_avx2(unsigned char *to, const unsigned char *from, size_t size_bytes);
void cn_copy_steps_portable(unsigned char *to, const unsigned char *from, size_t size_bytes);

/* As cenote_copy_nontemporal(), by given steps. */
void cn_copy_nontemporal_by(cn_copy_steps_fn steps, void *to, const void *from, size_t size_bytes);

#endif
