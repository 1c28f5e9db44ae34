/* SPDX-License-Identifier: Apache-2.0 */
/* Where the model is that comes with the command: CENOTE_MODEL_DIR says it; else it lies where it
 * was installed, relative to the command, for an installed tree may be moved; else in the source
 * tree that the command was built from. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static bool is_model(const char *directory)
{
    char path[PATH_MAX];
    int size = snprintf(path, sizeof path, "%s/config.json", directory);
    return size > 0 && (size_t)size < sizeof path && access(path, R_OK) == 0;
}

/* The command's own directory, without the last slash. */
static bool own_directory(char directory[PATH_MAX])
{
    ssize_t size = readlink("/proc/self/exe", directory, PATH_MAX - 1);
    if (size <= 0 || size >= PATH_MAX - 1)
        return false;
    directory[size] = '\0';
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    return true;
}

cenote_status cli_model_find(const char *command, char directory[PATH_MAX], cenote_error *err)
{
    const char *given = getenv("CENOTE_MODEL_DIR");
    if (given != NULL && given[0] != '\0') {
        if (strlen(given) >= PATH_MAX)
            return cenote_error_set(err, CENOTE_E_INVAL, "CENOTE_MODEL_DIR has %zu bytes, of %d",
                                    strlen(given), PATH_MAX - 1);
        strcpy(directory, given);
        return CENOTE_OK; /* whoever names a directory wants it, or to hear what is wrong with it */
    }
    char own[PATH_MAX];
    if (own_directory(own)) {
        int size = snprintf(directory, PATH_MAX, "%s/%s", own, CENOTE_MODEL_FROM_BIN);
        if (size > 0 && size < PATH_MAX && is_model(directory))
            return CENOTE_OK;
    }
    if (is_model(CENOTE_MODEL_SOURCE)) {
        snprintf(directory, PATH_MAX, "%s", CENOTE_MODEL_SOURCE);
        return CENOTE_OK;
    }
    return cenote_error_set(err, CENOTE_E_NOTFOUND,
                            "%s: the demo model is not installed; CENOTE_MODEL_DIR may name one",
                            command);
}
