/* SPDX-License-Identifier: Apache-2.0 */
/* The `cenote` command: finds the subcommand and hands over. */
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "options.h"

/* The heap must go back to the system when it is freed, for what is not given back still counts
 * against the budget. glibc raises its mmap threshold as large blocks are freed, and then keeps
 * the working memory of a picture's decoder on the heap, under whatever was allocated later; a
 * threshold that is set stays. Kernel threads allocate nothing, so one arena serves all. */
static void heap_setup(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 128 << 10);
    mallopt(M_ARENA_MAX, 1);
#endif
}

/* A standard stream that the caller has closed would be given to the next file that is opened, and
 * a message for the terminal end in the logits. What takes its place cannot be written, so that an
 * answer which goes nowhere stays an error. */
static void streams_setup(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) < 0)
            return; /* no /dev: nothing better to do, and nobody to tell */
}

/* stdio reports a full disk or a closed pipe when it writes, which may be only now. */
static int stdout_close(int code)
{
    bool failed = ferror(stdout) != 0;
    failed |= fclose(stdout) != 0;
    if (failed && code == CLI_EXIT_OK) {
        cli_say("cannot write to standard output");
        return CLI_EXIT_FAILURE;
    }
    return code;
}

static int help(int argc, char **argv)
{
    const char *topic = argc > 2 ? argv[2] : "";
    const struct cli_command *command = cli_command_find(topic);
    if (command != NULL)
        cli_help_command(command, stdout);
    else if (strcmp(topic, "--man") == 0)
        cli_help_man(stdout);
    else if (strcmp(topic, "--bash") == 0)
        cli_help_bash(stdout);
    else if (topic[0] == '\0')
        cli_help_all(stdout);
    else {
        cli_say("no help on '%s' (see 'cenote help')", topic);
        return CLI_EXIT_USAGE;
    }
    return CLI_EXIT_OK;
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        cli_say("a command is missing: run, chat, plan, inspect, doctor, pack, demo, layout or "
                "replay (see 'cenote --help')");
        return CLI_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("cenote %s\n", cenote_version());
        return CLI_EXIT_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return help(argc, argv);
    const struct cli_command *command = cli_command_find(argv[1]);
    if (command == NULL) {
        cli_say("unknown command '%s' (see 'cenote --help')", argv[1]);
        return CLI_EXIT_USAGE;
    }
    struct cli_options options;
    cenote_error err;
    if (cli_options_parse(command, argc - 1, argv + 1, &options, &err) != CENOTE_OK)
        return cli_fail(&err);
    if (options.help) {
        cli_help_command(command, stdout);
        return CLI_EXIT_OK;
    }
    return command->run(&options);
}

int main(int argc, char **argv)
{
    heap_setup();
    streams_setup();
    /* A reader that goes away, or a file over `ulimit -f`, is a write error with a message and not
     * a silent death. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    return stdout_close(dispatch(argc, argv));
}
