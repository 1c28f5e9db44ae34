/* SPDX-License-Identifier: Apache-2.0 */
/* One table per subcommand. Parsing, --help, the man page and the shell completion all read it, so
 * none of them can forget an option. */
#ifndef CENOTE_CLI_OPTIONS_H
#define CENOTE_CLI_OPTIONS_H

#include <stddef.h>
#include <stdio.h>

#include "cli.h"

struct cli_option;

/* Puts @p value into @p options. The parser adds the option's name to the error. */
typedef cenote_status (*cli_option_set_fn)(struct cli_options *options,
                                           const struct cli_option *option, const char *value,
                                           cenote_error *err);

struct cli_option {
    const char *name;       /* without dashes */
    const char *value_name; /* NULL: the option takes none */
    const char *help;       /* one sentence, without a full stop */
    cli_option_set_fn set;
    size_t offset; /* of the field in cli_options, for setters that serve several options */
    uint64_t min, max;
};

struct cli_command {
    const char *name;
    const char
        *argument; /* name of the one positional argument; "[NAME]" may be left out, "" is none */
    const char *summary;
    const char *detail;  /* paragraphs for the man page, blank line between them */
    const char *example; /* one command line */
    int (*run)(const struct cli_options *options);
    const struct cli_option *options;
    size_t option_count;
};

extern const struct cli_command cli_commands[];
extern const size_t cli_command_count;

const struct cli_command *cli_command_find(const char *name);

/* Reads argv[1..] of a subcommand. Errors: CENOTE_E_INVAL in one line naming the option. With
 * --help nothing else is asked for. */
CENOTE_MUST_CHECK cenote_status cli_options_parse(const struct cli_command *command, int argc,
                                                  char **argv, struct cli_options *out_options,
                                                  cenote_error *err);

/* ---- help.c ---- */

void cli_help_all(FILE *out);
void cli_help_command(const struct cli_command *command, FILE *out);
void cli_help_man(FILE *out);
void cli_help_bash(FILE *out);

#endif
