/* SPDX-License-Identifier: Apache-2.0 */
/* The NumPy writer: its bytes, and that a file is whole or not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>

#include "npy.h"

static char folder[] = TEST_SCRATCH_DIR "/npy-XXXXXX";
static char path[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/out.npy", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails when something was left behind */
}

static unsigned entries(void)
{
    unsigned count = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static size_t slurp(unsigned char *out, size_t capacity)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t size = fread(out, 1, capacity, file);
    fclose(file);
    return size;
}

static void write_rows(uint32_t rows, uint32_t width, float first)
{
    struct cli_npy *npy;
    cenote_error err;
    float row[8];
    if (cli_npy_create(path, &npy, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < width; c++)
            row[c] = first++;
        assert_int_equal(cli_npy_append(npy, row, width, &err), CENOTE_OK);
        assert_int_not_equal(access(path, F_OK), 0); /* not before the commit */
    }
    if (cli_npy_commit(npy, &err) != CENOTE_OK)
        fail_msg("%s", err.message);
    cli_npy_destroy(npy);
}

static void test_bytes(void **state)
{
    (void)state;
    write_rows(3, 5, 0.5f);
    unsigned char bytes[1024];
    assert_int_equal(slurp(bytes, sizeof bytes), 128 + 3 * 5 * 4);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00\x76\x00", 10);
    assert_int_equal(bytes[127], '\n');
    bytes[127] = '\0';
    assert_null(memchr(bytes + 10, '\0', 117));
    assert_memory_equal(bytes + 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), } ",
                        60);
    float value;
    for (int i = 0; i < 15; i++) {
        memcpy(&value, bytes + 128 + 4 * i, 4);
        assert_true(value == 0.5f + (float)i);
    }
    assert_int_equal(entries(), 1);
}

static void test_replaces_an_old_file(void **state)
{
    (void)state;
    write_rows(1, 2, 0);
    struct cli_npy *npy;
    float row[2] = {7, 8};
    assert_int_equal(cli_npy_create(path, &npy, NULL), CENOTE_OK);
    assert_int_equal(cli_npy_append(npy, row, 2, NULL), CENOTE_OK);
    unsigned char bytes[256];
    slurp(bytes, sizeof bytes);
    float value;
    memcpy(&value, bytes + 132, 4);
    assert_true(value == 1.0f); /* still the old one */
    assert_int_equal(cli_npy_commit(npy, NULL), CENOTE_OK);
    cli_npy_destroy(npy);
    slurp(bytes, sizeof bytes);
    memcpy(&value, bytes + 132, 4);
    assert_true(value == 8.0f);
    assert_int_equal(entries(), 1);
}

static void test_without_commit_nothing_stays(void **state)
{
    (void)state;
    struct cli_npy *npy;
    float row[2] = {1, 2};
    assert_int_equal(cli_npy_create(path, &npy, NULL), CENOTE_OK);
    assert_int_equal(cli_npy_append(npy, row, 2, NULL), CENOTE_OK);
    cli_npy_destroy(npy);
    cli_npy_destroy(NULL);
    assert_int_equal(entries(), 0);
}

static void test_uneven_rows(void **state)
{
    (void)state;
    struct cli_npy *npy;
    cenote_error err;
    float row[3] = {1, 2, 3};
    assert_int_equal(cli_npy_create(path, &npy, &err), CENOTE_OK);
    assert_int_equal(cli_npy_append(npy, row, 2, &err), CENOTE_OK);
    assert_int_equal(cli_npy_append(npy, row, 3, &err), CENOTE_E_INVAL);
    cli_npy_destroy(npy);
}

static void test_no_rows(void **state)
{
    (void)state;
    write_rows(0, 0, 0);
    unsigned char bytes[256];
    assert_int_equal(slurp(bytes, sizeof bytes), 128);
    assert_memory_equal(bytes + 51, "'shape': (0, 0)", 15);
}

static void test_bad_paths(void **state)
{
    (void)state;
    struct cli_npy *npy = NULL;
    cenote_error err;
    char bad[sizeof path + 32];
    snprintf(bad, sizeof bad, "%s/missing/out.npy", folder);
    assert_int_equal(cli_npy_create(bad, &npy, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "missing/out.npy"));
    assert_int_equal(cli_npy_create(folder, &npy, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "not a regular file"));
    assert_int_equal(cli_npy_create("/dev/null", &npy, &err), CENOTE_E_IO);
    assert_null(npy);
}

/* A full disk, played by the file size limit. */
static void test_full_disk(void **state)
{
    (void)state;
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 200;
    signal(SIGXFSZ, SIG_IGN);
    struct cli_npy *npy;
    cenote_error err = {CENOTE_OK, ""};
    static float row[100];
    assert_int_equal(cli_npy_create(path, &npy, &err), CENOTE_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    cenote_status status = cli_npy_append(npy, row, 100, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, CENOTE_E_IO);
    assert_non_null(strstr(err.message, "out.npy"));
    cli_npy_destroy(npy);
    assert_int_equal(entries(), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_bytes),
        TEST(test_replaces_an_old_file),
        TEST(test_without_commit_nothing_stays),
        TEST(test_uneven_rows),
        TEST(test_no_rows),
        TEST(test_bad_paths),
        TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
