/* SPDX-License-Identifier: Apache-2.0 */
/* Help text, manual page and shell completion, all from the tables in options.c.
 *
 * docs/man/cenote.1 and cli/cenote.bash are what `cenote help --man` and `cenote help --bash`
 * print; a test compares them, `make man` writes them anew. */
#include <string.h>

#include "options.h"

#define HELP_COLUMN 28

static void print_option(const struct cli_option *option, FILE *out)
{
    int width = fprintf(out, "  --%s%s%s", option->name, option->value_name != NULL ? " " : "",
                        option->value_name != NULL ? option->value_name : "");
    if (width >= HELP_COLUMN - 1) {
        fputc('\n', out);
        width = 0;
    }
    fprintf(out, "%*s%s\n", HELP_COLUMN - width, "", option->help);
}

void cli_help_command(const struct cli_command *command, FILE *out)
{
    fprintf(out, "cenote %s - %s\n\nusage: cenote %s%s%s [OPTION]...\n\n", command->name,
            command->summary, command->name, command->argument[0] != '\0' ? " " : "",
            command->argument);
    for (size_t i = 0; i < command->option_count; i++)
        print_option(&command->options[i], out);
    fprintf(out, "\nexample: %s\n", command->example);
}

void cli_help_all(FILE *out)
{
    fprintf(out,
            "cenote %s - vision-language models inside a strict memory budget\n\n"
            "usage: cenote COMMAND ...\n\n",
            cenote_version());
    for (size_t i = 0; i < cli_command_count; i++)
        fprintf(out, "  %-10s %s\n", cli_commands[i].name, cli_commands[i].summary);
    fprintf(out, "\n'cenote COMMAND --help' lists the options; 'man cenote' has the rest.\n");
}

/* ---- manual page ---- */

/* Text with what roff would take for its own made literal: '-' is a minus, a leading '.' or '\''
 * would be a request. */
static void print_roff(const char *text, FILE *out)
{
    bool line_start = true;
    for (const char *c = text; *c != '\0'; c++) {
        if (line_start && (*c == '.' || *c == '\''))
            fputs("\\&", out);
        if (*c == '-')
            fputs("\\-", out);
        else if (*c == '\\')
            fputs("\\e", out);
        else
            fputc(*c, out);
        line_start = *c == '\n';
    }
}

static void print_paragraphs(const char *text, FILE *out)
{
    const char *end;
    while ((end = strstr(text, "\n\n")) != NULL) {
        char paragraph[1024];
        size_t size = (size_t)(end - text);
        if (size >= sizeof paragraph)
            size = sizeof paragraph - 1;
        memcpy(paragraph, text, size);
        paragraph[size] = '\0';
        print_roff(paragraph, out);
        fputs("\n.PP\n", out);
        text = end + 2;
    }
    print_roff(text, out);
    fputc('\n', out);
}

static void print_man_command(const struct cli_command *command, FILE *out)
{
    fprintf(out, ".SS \"cenote %s%s%s [OPTION]...\"\n", command->name,
            command->argument[0] != '\0' ? " " : "", command->argument);
    print_roff(command->summary, out);
    fputs(".\n.PP\n", out);
    print_paragraphs(command->detail, out);
    for (size_t i = 0; i < command->option_count; i++) {
        const struct cli_option *option = &command->options[i];
        fputs(".TP\n.B \\-\\-", out);
        print_roff(option->name, out);
        if (option->value_name != NULL)
            fprintf(out, " \\fI%s\\fR", option->value_name);
        fputc('\n', out);
        print_roff(option->help, out);
        fputs(".\n", out);
    }
    fputs(".PP\n.nf\n.RS\n", out);
    print_roff(command->example, out);
    fputs("\n.RE\n.fi\n", out);
}

static const char man_head[] =
    ".SH NAME\ncenote \\- vision\\-language models inside a strict memory budget\n"
    ".SH SYNOPSIS\n.B cenote\n.I COMMAND\n.I ARGUMENT\n.RI [ OPTION ]...\n.br\n"
    ".B cenote\n.BR \\-\\-help | \\-\\-version\n"
    ".SH DESCRIPTION\nAnswers prompts about images with a Qwen3\\-VL checkpoint that may be larger "
    "than memory: weights stream from the disk through a small ring, and the process never holds "
    "more than it was given.\n.SH COMMANDS\n";

static const char man_tail[] =
    ".SH SIZES\n"
    "A size is a decimal number with a unit, as in 2GiB, 512MiB, 1.5G or 700MB; without a unit it "
    "counts bytes. K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB are powers "
    "of 1000. Case does not matter. A percentage is of the machine's memory, or of the lowest "
    "cgroup limit when that is less.\n"
    ".SH \"EXIT STATUS\"\n"
    ".TP\n.B 0\nsuccess\n"
    ".TP\n.B 1\nfailure: a path that is not there, an error of the disk, a model that is not "
    "supported, output that cannot be written\n"
    ".TP\n.B 2\nusage: an unknown option or a value outside its range\n"
    ".TP\n.B 3\nthe run does not fit the memory budget\n"
    ".TP\n.B 5\na file is corrupt, hostile, or changed while it was read; an image that is none\n"
    ".TP\n.B 130\ninterrupted; a second Ctrl\\-C ends the process at once\n"
    ".PP\nEach failure prints one line on standard error that names the value and the limit.\n"
    ".SH ENVIRONMENT\n"
    ".TP\n.B CENOTE_ISA\nportable, avx2 or avx512: the kernels' instruction set; default: the best "
    "that the CPU has. Answers are the same.\n"
    ".TP\n.B CENOTE_DEBUG\n1 to 3: look for mistakes in the use of memory, from checked frees (1) "
    "to "
    "checks after every operation (3). For who works on Cenote. Answers are the same.\n"
    ".TP\n.B CENOTE_HARDWARE\na file that says what the machine is like, as those in "
    "share/cenote/hardware do: products are cut for its caches and instructions. Answers are the "
    "same.\n"
    ".TP\n.B CENOTE_MODEL_DIR\nthe model of cenote demo, and of cenote run and chat without "
    "MODEL_DIR; "
    "default: the one that was installed.\n"
    ".TP\n.B CENOTE_TRACE\na file that is not there yet, for a record of every operation of every "
    "pool, which cenote replay reads; %p in it is the number of the process. A process that is "
    "killed loses at most the last 16 KiB.\n"
    ".SH JSON\n"
    "With \\-\\-json standard output is one JSON object whose member schema names its form, such "
    "as "
    "cenote.run/1. Members may be added under the same name; none changes its meaning or goes. An "
    "interrupted run prints its object too, with the stop_reason cancelled.\n"
    ".SH NOTES\n"
    "Control characters in an answer that goes to a terminal are shown as '?'. They are not "
    "touched when standard output is a file or a pipe.\n";

void cli_help_man(FILE *out)
{
    fprintf(out,
            ".\\\" Made by 'cenote help --man' from the tables in cli/options.c.\n"
            ".TH CENOTE 1 \"\" \"cenote %s\" \"User Commands\"\n%s",
            cenote_version(), man_head);
    for (size_t i = 0; i < cli_command_count; i++)
        print_man_command(&cli_commands[i], out);
    fputs(man_tail, out);
}

/* ---- shell completion ---- */

void cli_help_bash(FILE *out)
{
    fputs("# Made by 'cenote help --bash' from the tables in cli/options.c.\n"
          "_cenote()\n{\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} options=\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W '",
          out);
    for (size_t i = 0; i < cli_command_count; i++)
        fprintf(out, "%s ", cli_commands[i].name);
    fputs("help --help --version' -- \"$word\"))\n        return\n    fi\n"
          "    case ${COMP_WORDS[1]} in\n",
          out);
    for (size_t i = 0; i < cli_command_count; i++) {
        fprintf(out, "    %s) options='", cli_commands[i].name);
        for (size_t k = 0; k < cli_commands[i].option_count; k++)
            fprintf(out, "%s--%s", k > 0 ? " " : "", cli_commands[i].options[k].name);
        fputs("' ;;\n", out);
    }
    fputs("    esac\n"
          "    case $word in\n"
          "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$word\")) ;;\n"
          "    *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n"
          "    esac\n}\n"
          "complete -o filenames -F _cenote cenote\n",
          out);
}
