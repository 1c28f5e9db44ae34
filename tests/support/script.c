/* SPDX-License-Identifier: Apache-2.0 */
#include "script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"

size_t script_shrink(const struct script_form *form, uint8_t *script, size_t size)
{
    const size_t head = form->head_bytes, step = form->step_bytes;
    uint8_t *shorter = malloc(size);
    assert_non_null(shorter);
    for (size_t steps = (size - head) / step; steps > 0;) {
        bool shrunk = false;
        for (size_t at = head; at + steps * step <= size;) {
            memcpy(shorter, script, at);
            memcpy(shorter + at, script + at + steps * step, size - at - steps * step);
            if (form->run(shorter, size - steps * step, NULL) == NULL) {
                at += step;
                continue;
            }
            size -= steps * step;
            memcpy(script, shorter, size);
            shrunk = true;
        }
        steps = shrunk && steps == 1 ? 1 : steps / 2;
    }
    free(shorter);
    return size;
}

void script_run_random(const struct script_form *form, unsigned count, uint64_t seed)
{
    const char *text = getenv("CENOTE_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    size_t whole = form->head_bytes + form->steps_max * form->step_bytes;
    uint8_t *script = malloc(whole);
    assert_non_null(script);
    for (unsigned number = 0; number < count; number++) {
        uint64_t state = seed + number;
        for (size_t i = 0; i < whole; i++)
            script[i] = (uint8_t)(random_next(&state) >> 32);
        for (size_t i = form->head_bytes; form->draw != NULL && i < whole; i += form->step_bytes)
            form->draw(&state, script + i);
        size_t steps = 1 + random_next(&state) % form->steps_max, step = 0;
        size_t size = form->head_bytes + form->step_bytes * steps;
        const char *wrong = form->run(script, size, &step);
        if (wrong == NULL)
            continue;
        printf("CENOTE_TEST_SEED=%llu: script %u, step %zu: %s; at its shortest:\n",
               (unsigned long long)seed, number, step, wrong);
        size = script_shrink(form, script, size);
        form->print(script, size);
        wrong = form->run(script, size, NULL);
        fail_msg("%s", wrong != NULL ? wrong : "does not fail any more");
    }
    free(script);
}
