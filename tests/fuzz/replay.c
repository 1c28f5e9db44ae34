/* SPDX-License-Identifier: Apache-2.0 */
/* A main for fuzz targets without libFuzzer, so that the corpus and a fixed number of mutations run
 * in every test run, with any compiler.
 *
 *   fuzz_replay_NAME CORPUS DICT RUNS [FIRST]
 *
 * CORPUS is a folder or a file. Mutation number n depends on n and the sorted corpus alone; a crash
 * prints its n, and `... 1 n` runs it again. DICT, in libFuzzer's form, may not exist. */
#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "random.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUTS_MAX = 4096, WORDS_MAX = 512, CHANGES_MAX = 6, GROWTH_MAX = 65536 };

struct bytes {
    uint8_t *data;
    size_t size;
    char *name;
};

static struct bytes inputs[INPUTS_MAX];
static size_t input_count;
static struct bytes words[WORDS_MAX];
static size_t word_count;

/* ---- telling which run died ---- */

static char dying_text[300];

static void dying(void)
{
    ssize_t ignored = write(STDERR_FILENO, dying_text, strlen(dying_text));
    (void)ignored;
}

static void on_signal(int number)
{
    dying();
    signal(number, SIG_DFL);
    raise(number);
}

/* There in builds with a sanitizer only. */
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void watch_death(void)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    if (__sanitizer_set_death_callback != NULL)
        __sanitizer_set_death_callback(dying);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], on_signal);
}

/* ---- corpus and words ---- */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void input_add(const char *path)
{
    struct stat st;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &st) != 0)
        fail(path);
    struct bytes b = {.size = (size_t)st.st_size, .name = strdup(path)};
    b.data = malloc(b.size > 0 ? b.size : 1);
    if (fread(b.data, 1, b.size, file) != b.size || input_count == INPUTS_MAX)
        fail(path);
    fclose(file);
    inputs[input_count++] = b;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct bytes *)a)->name, ((const struct bytes *)b)->name);
}

static void inputs_load(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        input_add(path);
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        input_add(name);
    }
    closedir(folder);
    qsort(inputs, input_count, sizeof inputs[0], by_name); /* readdir has no order */
}

/* One line: anything="text" or "text", with \\ \" and \xNN. */
static void word_add(const char *line)
{
    const char *at = strchr(line, '"');
    if (line[0] == '#' || at == NULL || word_count == WORDS_MAX)
        return;
    struct bytes word = {.data = malloc(strlen(line))};
    for (at++; *at != '\0' && *at != '"'; at++) {
        unsigned hex;
        if (at[0] == '\\' && at[1] == 'x' && sscanf(at + 2, "%2x", &hex) == 1) {
            word.data[word.size++] = (uint8_t)hex;
            at += 3;
        } else {
            at += at[0] == '\\' && at[1] != '\0';
            word.data[word.size++] = (uint8_t)*at;
        }
    }
    words[word_count++] = word;
}

static void words_load(const char *path)
{
    char line[1024];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL)
        word_add(line);
    fclose(file);
}

/* ---- mutations ---- */

static uint64_t random_state;

static size_t pick(size_t count)
{
    return count == 0 ? 0 : (size_t)(random_next(&random_state) % count);
}

/* Puts @p part over (not insert) or before what is at a random place; b has room. */
static void put(struct bytes *b, const uint8_t *part, size_t size, bool insert)
{
    size_t at = pick(b->size + 1);
    if (insert) {
        memmove(b->data + at + size, b->data + at, b->size - at);
        b->size += size;
    } else if (at + size > b->size) {
        b->size = at + size;
    }
    memmove(b->data + at, part, size);
}

static void put_piece(struct bytes *b, const struct bytes *from)
{
    uint8_t piece[256];
    size_t size = pick(from->size < sizeof piece ? from->size + 1 : sizeof piece);
    size_t at = pick(from->size - size + 1);
    memcpy(piece, from->data + at, size);
    put(b, piece, size, pick(2) == 0);
}

static void change(struct bytes *b)
{
    uint8_t byte = (uint8_t)random_next(&random_state);
    size_t at = pick(b->size);
    switch (pick(word_count > 0 ? 9 : 7)) {
    case 0:
        if (b->size > 0)
            b->data[at] ^= (uint8_t)(1u << pick(8));
        break;
    case 1:
        if (b->size > 0)
            b->data[at] = byte;
        break;
    case 2:
        put(b, &byte, 1, true);
        break;
    case 3: {
        size_t size = pick(b->size - at < 64 ? b->size - at + 1 : 64);
        memmove(b->data + at, b->data + at + size, b->size - at - size);
        b->size -= size;
        break;
    }
    case 4:
        b->size = b->size > 0 && pick(4) == 0 ? at : b->size;
        break;
    case 5:
        put_piece(b, b);
        break;
    case 6:
        put_piece(b, &inputs[pick(input_count)]);
        break;
    default: {
        const struct bytes *word = &words[pick(word_count)];
        put(b, word->data, word->size, pick(2) == 0);
        break;
    }
    }
}

static void run_mutation(uint64_t number)
{
    random_state = number * 0x2545f4914f6cdd1du;
    const struct bytes *from = &inputs[pick(input_count)];
    snprintf(dying_text, sizeof dying_text, "died in mutation %" PRIu64 " (of %.200s)\n", number,
             from->name);
    struct bytes b = {.size = from->size, .data = malloc(from->size + GROWTH_MAX)};
    memcpy(b.data, from->data, from->size);
    for (size_t n = 1 + pick(CHANGES_MAX); n > 0; n--)
        change(&b);
    /* memory of exactly that size, so that a sanitizer sees each byte read behind it */
    uint8_t *exact = malloc(b.size > 0 ? b.size : 1);
    memcpy(exact, b.data, b.size);
    LLVMFuzzerTestOneInput(exact, b.size);
    free(exact);
    free(b.data);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s CORPUS DICT RUNS [FIRST]\n", argv[0]);
        return 2;
    }
    inputs_load(argv[1]);
    words_load(argv[2]);
    uint64_t runs = strtoull(argv[3], NULL, 10);
    uint64_t first = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    if (input_count == 0) {
        fprintf(stderr, "%s: no corpus\n", argv[1]);
        return 1;
    }
    watch_death();
    for (size_t i = 0; i < input_count && argc == 4; i++) {
        snprintf(dying_text, sizeof dying_text, "died in %.200s\n", inputs[i].name);
        LLVMFuzzerTestOneInput(inputs[i].data, inputs[i].size);
    }
    for (uint64_t n = 0; n < runs; n++)
        run_mutation(first + n);
    printf("%zu corpus files, %" PRIu64 " mutations\n", input_count, runs);
    for (size_t i = 0; i < input_count; i++) {
        free(inputs[i].data);
        free(inputs[i].name);
    }
    for (size_t i = 0; i < word_count; i++)
        free(words[i].data);
    return 0;
}
