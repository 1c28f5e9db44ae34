/* SPDX-License-Identifier: Apache-2.0 */
/* Small pictures on a terminal. */
#ifndef CENOTE_CLI_PICTURE_H
#define CENOTE_CLI_PICTURE_H

#include <stdint.h>
#include <stdio.h>

#include "cli.h"

enum cli_colours {
    CLI_COLOURS_NONE,
    CLI_COLOURS_256,
    CLI_COLOURS_TRUE,
};

/* What the environment (COLORTERM, TERM, NO_COLOR, the locale) says about a terminal. */
enum cli_colours cli_terminal_colours(bool is_terminal);

/* The nearest of the 240 fixed colours of a 256-colour terminal: 16..255. */
uint32_t cli_colour_256(const uint8_t rgb[3]);

/* Prints the PNG at @p path, @p columns wide. Says nothing about a picture that cannot be read or
 * is large: the run that follows does. */
void cli_picture_print(const char *path, enum cli_colours colours, uint32_t columns, FILE *out);

#endif
