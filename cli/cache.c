/* SPDX-License-Identifier: Apache-2.0 */
#include "cache.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "progress.h"
#include "signals.h"

#define REDRAW_S 0.1

struct making {
    const char *what;
    struct cli_progress progress;
    double drawn_s;
};

static bool on_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    struct making *making = context;
    double now_s = cli_now_s();
    if (now_s - making->drawn_s >= REDRAW_S) {
        char line[128], done[CLI_BYTES_TEXT], total[CLI_BYTES_TEXT];
        making->drawn_s = now_s;
        snprintf(line, sizeof line, "%s %3.0f%%  %s of %s", making->what,
                 total_bytes > 0 ? 100.0 * (double)done_bytes / (double)total_bytes : 0.0,
                 cli_disk_text(done_bytes, done), cli_disk_text(total_bytes, total));
        cli_progress_line(&making->progress, line);
    }
    return !cli_signals_caught();
}

cenote_status cli_cache_make(qwen_model *model, cenote_budget *budget, const char *directory,
                             bool quiet, char *path, cenote_pack_info *out_info, cenote_error *err)
{
    struct making making = {.what = "packing"};
    uint32_t item_count;
    const cenote_stream_item *items = qwen_model_matrices(model, &item_count);
    cenote_pack_options options = CENOTE_PACK_OPTIONS_INIT;
    options.progress = on_progress;
    options.context = &making;
    cenote_weights *weights = qwen_model_weights_mutable(model);
    cenote_status status = cenote_pack_path(weights, directory, path, PATH_MAX, err);
    if (status != CENOTE_OK)
        return status;
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return cenote_error_set(err, CENOTE_E_IO, "%s: %s", directory, strerror(errno));
    cli_progress_init(&making.progress, model, 0, quiet);
    status = cenote_pack_write(weights, budget, items, item_count, path, &options, out_info, err);
    cli_progress_clear(&making.progress);
    return status;
}

cenote_status cli_cache_look(qwen_model *model, cenote_budget *budget, const char *directory,
                             cenote_pack **out_pack, cenote_error *err)
{
    char path[PATH_MAX];
    cenote_weights *weights = qwen_model_weights_mutable(model);
    cenote_status status = cenote_pack_path(weights, directory, path, sizeof path, err);
    if (status != CENOTE_OK)
        return status;
    return cenote_pack_open(weights, budget, path, CENOTE_IO_AUTO, out_pack, err);
}

cenote_status cli_cache_verify(qwen_model *model, cenote_budget *budget, cenote_pack *pack,
                               bool quiet, cenote_error *err)
{
    struct making making = {.what = "verifying"};
    cenote_pack_options options = CENOTE_PACK_OPTIONS_INIT;
    options.progress = on_progress;
    options.context = &making;
    cli_progress_init(&making.progress, model, 0, quiet);
    cenote_status status = cenote_pack_verify(pack, budget, &options, err);
    cli_progress_clear(&making.progress);
    return status;
}

/* The copy that `cenote pack MODEL_DIR` leaves there. One that cannot be used is no reason to fail:
 * nobody asked for it by name. */
static void open_beside(const struct cli_options *options, qwen_model *model, cenote_budget *budget,
                        cenote_pack **out_pack)
{
    cenote_error err;
    cenote_status status = cli_cache_look(model, budget, options->path, out_pack, &err);
    if (status != CENOTE_OK && status != CENOTE_E_NOTFOUND && !options->quiet)
        cli_say("note: the packed copy is not used: %s", err.message);
}

bool cli_cache_is_named(const struct cli_options *options)
{
    return options->cache_directory != NULL && strcmp(options->cache_directory, "none") != 0;
}

void cli_cache_note_left_out(const struct cli_options *options, const qwen_plan *plan,
                             const cenote_pack *pack)
{
    char table[CLI_BYTES_TEXT];
    if (plan->pack_left_out && !options->quiet)
        cli_say("note: the packed copy is not used: the budget has no room for its table of %s",
                cli_memory_text(cenote_pack_memory_bytes(pack), table));
}

cenote_status cli_cache_open(const struct cli_options *options, qwen_model *model,
                             cenote_budget *budget, cenote_pack **out_pack, cenote_error *err)
{
    const char *directory = options->cache_directory;
    char path[PATH_MAX];
    cenote_pack_info info;
    if (options->unpacked || (directory != NULL && !cli_cache_is_named(options)))
        return CENOTE_OK;
    if (directory == NULL) {
        open_beside(options, model, budget, out_pack);
        return CENOTE_OK;
    }
    cenote_status status = cli_cache_look(model, budget, directory, out_pack, err);
    if (status != CENOTE_E_NOTFOUND && status != CENOTE_E_CHANGED)
        return status;
    if (!options->quiet)
        cli_say("note: %s packed copy in %s: making it",
                status == CENOTE_E_NOTFOUND ? "no" : "a stale", directory);
    status = cli_cache_make(model, budget, directory, options->quiet, path, &info, err);
    return status != CENOTE_OK ? status : cli_cache_look(model, budget, directory, out_pack, err);
}
