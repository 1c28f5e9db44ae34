/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/finding.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cenote_finding_fn handler; /* lock, and what follows */
static void *handler_context;

const char *cenote_finding_text(cenote_finding finding)
{
    static const char *const texts[] = {
#define FINDING_TEXT(name, text) text,
        CENOTE_FINDING_TABLE(FINDING_TEXT)
#undef FINDING_TEXT
    };
    return (unsigned)finding < CENOTE_FINDING_COUNT ? texts[finding] : "unknown finding";
}

void cenote_finding_handler_set(cenote_finding_fn new_handler, void *context)
{
    pthread_mutex_lock(&lock);
    handler = new_handler;
    handler_context = context;
    pthread_mutex_unlock(&lock);
}

void cn_finding(cenote_finding finding, const char *format, ...)
{
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&lock);
    cenote_finding_fn call = handler;
    void *context = handler_context;
    pthread_mutex_unlock(&lock);
    if (call != NULL) {
        call(context, finding, message);
        return;
    }
    fprintf(stderr, "cenote: %s\n", message);
    if (finding != CENOTE_FINDING_LEAK)
        abort();
}
