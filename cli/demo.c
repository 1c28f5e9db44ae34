/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote demo`: three example pictures, each with a question, what the picture shows, and what the
 * model says, each inside the smallest budget that works, which holds a part of the weights.
 *
 * Each run is cli_run(), so what is seen here is what `cenote run` does. Pictures are drawn as
 * half blocks: one character is two pixels, the upper one its foreground, the lower one its
 * background. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "json.h"
#include "picture.h"

#define EXAMPLES        3
#define DEMO_THREADS    2 /* more threads cost memory, and there is nothing for them to do */
#define DEMO_TOKENS     64
#define PICTURE_COLUMNS 56

static cenote_status examples_read(const char *folder, json_t **out_examples, cenote_error *err)
{
    char path[PATH_MAX];
    int size = snprintf(path, sizeof path, "%s/examples.json", folder);
    if (size < 0 || (size_t)size >= sizeof path)
        return cenote_error_set(err, CENOTE_E_INVAL, "%s: the path is too long", folder);
    json_error_t why;
    json_t *examples = json_load_file(path, 0, &why);
    if (examples == NULL)
        return cenote_error_set(err, access(path, R_OK) != 0 ? CENOTE_E_NOTFOUND : CENOTE_E_CORRUPT,
                                "%s: %s", path, why.text);
    *out_examples = examples;
    return CENOTE_OK;
}

/* Shows the picture where standard output can, and names it in any case. */
static void show(const char *path, const char *name)
{
    struct winsize window;
    enum cli_colours colours = cli_terminal_colours(isatty(STDOUT_FILENO) != 0);
    uint32_t columns = PICTURE_COLUMNS;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 &&
        window.ws_col < columns)
        columns = window.ws_col;
    if (colours != CLI_COLOURS_NONE)
        cli_picture_print(path, colours, columns, stdout);
    printf("picture:   %s\n", name);
}

static int ask(const struct cli_options *options, const char *model, const char *image,
               const char *question, const char *answer)
{
    printf("question:  %s\nit shows:  %s\nthe model says:\n", question, answer);
    fflush(stdout);
    struct cli_options run = *options;
    run.path = model;
    run.image_paths[0] = image;
    run.image_count = 1;
    run.prompt = question;
    run.max_tokens = DEMO_TOKENS;
    run.memory_least = run.memory_bytes == 0;
    if (run.thread_count == 0)
        run.thread_count = DEMO_THREADS;
    return cli_run(&run);
}

static int one_example(const struct cli_options *options, const char *model, const char *folder,
                       const json_t *example)
{
    const char *image = json_string_value(json_array_get(json_object_get(example, "images"), 0));
    const char *question = json_string_value(json_object_get(example, "question"));
    const char *answer = json_string_value(json_object_get(example, "answer"));
    char path[PATH_MAX];
    if (image == NULL || question == NULL || answer == NULL ||
        (size_t)snprintf(path, sizeof path, "%s/%s", folder, image) >= sizeof path) {
        cli_say("%s/examples.json: an example lacks its image, question or answer", folder);
        return CLI_EXIT_CORRUPT;
    }
    show(path, image);
    return ask(options, model, path, question, answer);
}

int cli_demo(const struct cli_options *options)
{
    char model[PATH_MAX], folder[PATH_MAX + 16];
    cenote_error err;
    json_t *examples;
    cenote_status status = cli_model_find("demo", model, &err);
    if (status != CENOTE_OK)
        return cli_fail(&err);
    snprintf(folder, sizeof folder, "%s/examples", model);
    status = examples_read(folder, &examples, &err);
    if (status != CENOTE_OK)
        return cli_fail(&err);
    printf("model:     %s\n", model);
    int code = CLI_EXIT_OK;
    for (size_t i = 0; i < EXAMPLES && code == CLI_EXIT_OK; i++) {
        putchar('\n');
        code = one_example(options, model, folder, json_array_get(examples, i));
    }
    json_decref(examples);
    return code;
}
