/* SPDX-License-Identifier: Apache-2.0 */
/* json_get PATH...: prints the members at the dotted paths of the one JSON object on stdin, one a
 * line; an array or object prints as its length. A part of a path under an array is an index. Fails
 * where one is missing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const json_t *find(const json_t *value, const char *path)
{
    while (value != NULL && *path != '\0') {
        char name[128];
        size_t size = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)size, path);
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(name))
                                     : json_object_get(value, name);
        path += size + (path[size] == '.');
    }
    return value;
}

static void print(const json_t *value)
{
    if (json_is_string(value))
        printf("%s\n", json_string_value(value));
    else if (json_is_integer(value))
        printf("%lld\n", (long long)json_integer_value(value));
    else if (json_is_real(value))
        printf("%.9g\n", json_real_value(value));
    else if (json_is_array(value))
        printf("%zu\n", json_array_size(value));
    else if (json_is_object(value))
        printf("%zu\n", json_object_size(value));
    else
        printf("%s\n", json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
}

int main(int argc, char **argv)
{
    json_error_t error;
    json_t *root = json_loadf(stdin, 0, &error);
    if (!json_is_object(root)) {
        fprintf(stderr, "json_get: %s\n", root == NULL ? error.text : "not an object");
        return 1;
    }
    int code = 0;
    for (int i = 1; i < argc; i++) {
        const json_t *value = find(root, argv[i]);
        if (value == NULL) {
            fprintf(stderr, "json_get: no %s\n", argv[i]);
            code = 1;
            continue;
        }
        print(value);
    }
    json_decref(root);
    return code;
}
