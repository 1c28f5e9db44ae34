/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a chat template: some answer, and no byte read outside. */
#include <stdlib.h>
#include <string.h>

#include "chat_template.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    char turn[QWEN_CHAT_TURN_BYTES];
    /* A copy of its own, so that a sanitizer sees its end. */
    char *text = malloc(size > 0 ? size : 1);
    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    if (qwen_chat_template_turn(text, size, turn, NULL) != CENOTE_OK ||
        memchr(turn, '\0', sizeof(turn)) == NULL)
        abort();
    free(text);
    return 0;
}
