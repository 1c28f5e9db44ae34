/* SPDX-License-Identifier: Apache-2.0 */
/* `cenote pack`: write a model's packed copy where there is none that is good, or verify one. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cache.h"
#include "json.h"
#include "progress.h"
#include "signals.h"

struct pack {
    const struct cli_options *options;
    const char *directory;
    char path[PATH_MAX];
    cenote_budget *budget;
    qwen_model *model;
    double start_s;
    const char *state; /* of the report */
    cenote_pack_info info;
};

/* Whether a good copy is there; says why one that is there is not good. */
static cenote_status look(struct pack *pack, bool *out_good, cenote_error *err)
{
    cenote_pack *there;
    cenote_status status = cli_cache_look(pack->model, pack->budget, pack->directory, &there, err);
    *out_good = status == CENOTE_OK;
    if (status == CENOTE_OK) {
        cenote_pack_info_get(there, &pack->info);
        cenote_pack_close(there);
        return CENOTE_OK;
    }
    bool replaceable = status == CENOTE_E_CHANGED || status == CENOTE_E_CORRUPT;
    if (replaceable && !pack->options->quiet)
        cli_say("note: written anew: %s", err->message);
    return replaceable || status == CENOTE_E_NOTFOUND ? CENOTE_OK : status;
}

static cenote_status write_unless_there(struct pack *pack, cenote_error *err)
{
    bool good = false;
    cenote_status status = CENOTE_OK;
    if (!pack->options->force)
        status = look(pack, &good, err);
    pack->state = good ? "there" : "written";
    if (status != CENOTE_OK || good)
        return status;
    return cli_cache_make(pack->model, pack->budget, pack->directory, pack->options->quiet,
                          pack->path, &pack->info, err);
}

static cenote_status verify(struct pack *pack, cenote_error *err)
{
    cenote_pack *there;
    cenote_status status = cli_cache_look(pack->model, pack->budget, pack->directory, &there, err);
    if (status == CENOTE_E_NOTFOUND)
        return cenote_error_set(err, status, "%s: there is no packed copy", pack->path);
    if (status != CENOTE_OK)
        return status;
    cenote_pack_info_get(there, &pack->info);
    pack->state = "verified";
    status = cli_cache_verify(pack->model, pack->budget, there, pack->options->quiet, err);
    cenote_pack_close(there);
    return status;
}

/* ---- reports ---- */

static double ratio_of(const cenote_pack_info *info)
{
    return (double)info->packed_bytes / (double)info->packed_weight_bytes;
}

static json_t *pack_json(const struct pack *pack)
{
    const cenote_pack_info *info = &pack->info;
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
        "cenote.pack/1", "version", cenote_version(), "model", cli_json_text(pack->options->path),
        "path", cli_json_text(pack->path), "state", pack->state, "file_bytes",
        cli_json_count(info->file_bytes), "packed_panels", cli_json_count(info->packed_panels),
        "plain_panels", cli_json_count(info->plain_panels), "packed_bytes",
        cli_json_count(info->packed_bytes), "packed_weight_bytes",
        cli_json_count(info->packed_weight_bytes), "plain_weight_bytes",
        cli_json_count(info->plain_weight_bytes), "ratio", cli_json_real(ratio_of(info)), "seconds",
        cli_json_real(cli_now_s() - pack->start_s));
}

/* The path alone on stdout, for scripts. */
static void print_text(const struct pack *pack)
{
    const cenote_pack_info *info = &pack->info;
    char file[CLI_BYTES_TEXT], weights[CLI_BYTES_TEXT], plain[CLI_BYTES_TEXT];
    printf("%s\n", pack->path);
    if (pack->options->quiet)
        return;
    cli_say("%s: %s for %s of weights (%.3f)", pack->state, cli_disk_text(info->file_bytes, file),
            cli_disk_text(info->packed_weight_bytes, weights), ratio_of(info));
    if (info->plain_panels > 0)
        cli_say("%llu panels, %s, are not in it and stay where they are",
                (unsigned long long)info->plain_panels,
                cli_disk_text(info->plain_weight_bytes, plain));
}

/* ---- the command ---- */

static cenote_status work(struct pack *pack, cenote_error *err)
{
    cenote_status status = cli_budget_create(&pack->budget, err);
    if (status == CENOTE_OK)
        status = qwen_model_open(pack->budget, pack->options->path, &pack->model, err);
    if (status == CENOTE_OK)
        status = cenote_pack_path(qwen_model_weights(pack->model), pack->directory, pack->path,
                                  sizeof pack->path, err);
    if (status != CENOTE_OK)
        return status;
    return pack->options->verify ? verify(pack, err) : write_unless_there(pack, err);
}

int cli_pack(const struct cli_options *options)
{
    cenote_error err;
    const char *directory = options->cache_directory;
    struct pack pack = {.options = options,
                        .directory = directory != NULL ? directory : options->path,
                        .start_s = cli_now_s()};
    cli_signals_catch();
    int code = CLI_EXIT_OK;
    if (work(&pack, &err) != CENOTE_OK)
        code = cli_fail(&err);
    else if (!options->json)
        print_text(&pack);
    else if (!cli_json_print(pack_json(&pack)))
        code = CLI_EXIT_FAILURE;
    qwen_model_close(pack.model);
    cenote_budget_destroy(pack.budget);
    return code;
}
