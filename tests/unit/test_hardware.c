/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's shape from little trees of /sys, honest and hostile; profiles; and this machine. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/hardware_profile.h"
#include "os/linux/hardware_shape.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define I5           TEST_SOURCE_DIR "/share/hardware/i5-10210u.conf"
#define SM61         TEST_SOURCE_DIR "/share/hardware/sm61.conf"
#define CPU          "/sys/devices/system/cpu/"
#define THP          "/sys/kernel/mm/transparent_hugepage/"

/* ---- trees ---- */

static char root[] = TEST_SCRATCH_DIR "/hardware-XXXXXX";

static int make_root(void **state)
{
    (void)state;
    memcpy(root + sizeof root - 7, "XXXXXX", 6);
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[sizeof root + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

/* A file of one line below the root, and its folders. */
static void put(const char *path, const char *text)
{
    char full[512];
    int length = snprintf(full, sizeof full, "%s%s", root, path);
    assert_in_range(length, 1, (int)sizeof full - 1);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')) != NULL; *at++ = '/') {
        *at = '\0';
        assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fprintf(file, "%s\n", text);
    assert_int_equal(fclose(file), 0);
}

static void put_cache(unsigned index, const char *level, const char *type, const char *size,
                      const char *line, const char *ways, const char *cpus)
{
    const char *const names[] = {
        "level", "type", "size", "coherency_line_size", "ways_of_associativity", "shared_cpu_list"};
    const char *const texts[] = {level, type, size, line, ways, cpus};
    for (size_t i = 0; i < COUNT(names); i++) {
        char path[128];
        snprintf(path, sizeof path, CPU "cpu0/cache/index%u/%s", index, names[i]);
        if (texts[i] != NULL)
            put(path, texts[i]);
    }
}

/* What Linux says on an i5-10210U: CPU i and i + 4 are one core. */
static void put_i5(void)
{
    put_cache(0, "1", "Data", "32K", "64", "8", "0,4");
    put_cache(1, "1", "Instruction", "48K", "64", "12", "0,4");
    put_cache(2, "2", "Unified", "256K", "64", "4", "0,4");
    put_cache(3, "3", "Unified", "6144K", "64", "12", "0-7");
    for (unsigned cpu = 0; cpu < 8; cpu++) {
        char path[128], list[16];
        snprintf(path, sizeof path, CPU "cpu%u/topology/thread_siblings_list", cpu);
        snprintf(list, sizeof list, "%u,%u", cpu % 4, cpu % 4 + 4);
        put(path, list);
    }
    put(THP "enabled", "always [madvise] never");
    put(THP "hpage_pmd_size", "2097152");
}

/* For CPUs of a mask with a bit each. */
static cenote_hardware read_tree(unsigned mask)
{
    struct cn_cpus cpus = {{0}};
    for (unsigned cpu = 0; cpu < 32; cpu++)
        if ((mask >> cpu & 1) != 0)
            cn_cpus_add(&cpus, cpu);
    cenote_hardware hardware;
    memset(&hardware, 0xa5, sizeof hardware);
    cn_hardware_shape_read(root, &cpus, &hardware);
    return hardware;
}

static void assert_cache(const cenote_cache *cache, uint64_t size_bytes, uint32_t line_bytes,
                         uint32_t ways, uint32_t cpus)
{
    assert_int_equal(cache->size_bytes, size_bytes);
    assert_int_equal(cache->line_bytes, line_bytes);
    assert_int_equal(cache->ways, ways);
    assert_int_equal(cache->cpus, cpus);
}

static void test_laptop(void **state)
{
    (void)state;
    put_i5();
    cenote_hardware hardware = read_tree(0xff);
    assert_cache(&hardware.l1d, 32768, 64, 8, 2);
    assert_cache(&hardware.l2, 262144, 64, 4, 2);
    assert_cache(&hardware.l3, 6291456, 64, 12, 8);
    assert_int_equal(hardware.cores, 4);
    assert_int_equal(hardware.cpus, 8);
    assert_int_equal(hardware.huge_page_bytes, 2097152);
    /* The profile says the same. */
    cenote_hardware profile = hardware;
    assert_int_equal(cenote_hardware_load(I5, &profile, NULL), CENOTE_OK);
    assert_memory_equal(&profile.l1d, &hardware.l1d, 3 * sizeof hardware.l1d);
    assert_int_equal(profile.cores, hardware.cores);
    assert_int_equal(profile.cpus, hardware.cpus);
}

/* Only CPUs of the mask count: as users of a cache, as CPUs, as cores. */
static void test_affinity(void **state)
{
    (void)state;
    put_i5();
    cenote_hardware one_core = read_tree(0x11), halves = read_tree(0x0f), last = read_tree(0x80);
    assert_int_equal(one_core.cores, 1);
    assert_int_equal(one_core.cpus, 2);
    assert_cache(&one_core.l3, 6291456, 64, 12, 2);
    assert_int_equal(halves.cores, 4);
    assert_cache(&halves.l1d, 32768, 64, 8, 1);
    assert_int_equal(last.cores, 1); /* CPU 3 is its core's first, but not ours */
    assert_int_equal(last.cpus, 1);
    assert_int_equal(last.l1d.size_bytes, 0); /* this tree has caches of CPU 0 only */
}

static void test_nothing_to_read(void **state)
{
    (void)state;
    cenote_hardware hardware = read_tree(0x7), expected = {.cores = 3, .cpus = 3};
    assert_memory_equal(&hardware, &expected, sizeof hardware);
}

/* Each value alone: an absurd one is zero and takes nothing else with it. */
static void test_hostile_values(void **state)
{
    (void)state;
    char long_line[2000];
    memset(long_line, '9', sizeof long_line - 1);
    long_line[sizeof long_line - 1] = '\0';
    const char *const sizes[] = {
        "",    "K",        "-32K",   "99999999999999999999K", "18014398509481984K", "0K", "0x8000",
        "32G", "1048576M", long_line};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        put_cache(0, "1", "Data", sizes[i], "64", "8", "0");
        bool largest = strcmp(sizes[i], "1048576M") == 0; /* 1 TiB is still believed */
        assert_int_equal(read_tree(1).l1d.size_bytes, largest ? UINT64_C(1) << 40 : 0);
    }
    put_cache(0, "1", "Data", "32K", "48", "-1", "garbage");
    cenote_hardware hardware = read_tree(1);
    assert_cache(&hardware.l1d, 32768, 0, 0, 1);
    static const char *const levels[] = {"0", "4", "-1", "", "1 2"};
    for (size_t i = 0; i < COUNT(levels); i++) {
        put_cache(0, levels[i], "Data", "32K", "64", "8", "0");
        assert_int_equal(read_tree(1).l1d.size_bytes, 0);
    }
    static const char *const types[] = {"Instruction", "", "data", "Unified "};
    for (size_t i = 0; i < COUNT(types); i++) {
        put_cache(0, "1", types[i], "32K", "64", "8", "0");
        assert_int_equal(read_tree(1).l1d.size_bytes, 0);
    }
}

static void test_hostile_lists(void **state)
{
    (void)state;
    static const struct {
        const char *list;
        unsigned users; /* of CPUs 0 to 7 */
    } cases[] = {{"0-7", 8},        {"0-1,4-5", 4}, {"0,2,4,6", 4},           {"5-2", 1},
                 {"0-", 1},         {"-3", 1},      {"0-4000000000", 8},      {"0,,1", 1},
                 {"0,1 2,3", 2},    {",", 1},       {"99999999999999999", 1}, {"0-3,99-100", 4},
                 {"0-8191,0-1", 10}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        put_cache(0, "1", "Data", "32K", "64", "8", cases[i].list);
        assert_int_equal(read_tree(0xff).l1d.cpus, cases[i].users);
    }
}

static void test_huge_pages(void **state)
{
    (void)state;
    put(THP "hpage_pmd_size", "2097152");
    assert_int_equal(read_tree(1).huge_page_bytes, 0); /* nobody says that it is enabled */
    put(THP "enabled", "always madvise [never]");
    assert_int_equal(read_tree(1).huge_page_bytes, 0);
    put(THP "enabled", "[always] madvise never");
    assert_int_equal(read_tree(1).huge_page_bytes, 2097152);
    put(THP "hpage_pmd_size", "2097153");
    assert_int_equal(read_tree(1).huge_page_bytes, 0);
}

/* ---- this machine ---- */

static void test_this_machine(void **state)
{
    (void)state;
    unsetenv("CENOTE_HARDWARE");
    cenote_hardware hardware;
    assert_int_equal(cenote_hardware_get(&hardware, NULL), CENOTE_OK);
    assert_string_equal(hardware.name, "");
    assert_in_range(hardware.cores, 1, hardware.cpus);
    assert_in_range(cenote_cpu_count(), 1, hardware.cpus); /* a quota may lower it */
    assert_int_equal(hardware.page_bytes, sysconf(_SC_PAGESIZE));
    assert_int_equal(hardware.device.compute_capability, 0);
    assert_true(hardware.l1d.size_bytes <= hardware.l2.size_bytes || hardware.l2.size_bytes == 0);
#if defined(__x86_64__)
    assert_true((hardware.vector_bytes >= 32) <= (__builtin_cpu_supports("avx2") != 0));
#endif
}

/* ---- profiles ---- */

static void test_profiles_that_ship(void **state)
{
    (void)state;
    cenote_hardware hardware = {.cores = 1, .cpus = 1, .page_bytes = 65536};
    assert_int_equal(cenote_hardware_load(SM61, &hardware, NULL), CENOTE_OK);
    assert_string_equal(hardware.name, "NVIDIA Pascal (SM61)");
    assert_int_equal(hardware.device.compute_capability, 61);
    assert_int_equal(hardware.device.warp_threads, 32);
    assert_int_equal(hardware.device.block_threads_max, 1024);
    assert_int_equal(hardware.device.block_shared_bytes, 49152);
    assert_int_equal(hardware.page_bytes, 65536); /* not its business */
    assert_int_equal(cenote_hardware_load(I5, &hardware, NULL), CENOTE_OK);
    assert_string_equal(hardware.name, "Intel Core i5-10210U");
    assert_int_equal(hardware.device.compute_capability, 61);
    assert_int_equal(hardware.vector_bytes, 32);
    assert_int_equal(hardware.l2.size_bytes, 262144);
    assert_int_equal(hardware.l3.size_bytes, 6291456);
    assert_int_equal(hardware.huge_page_bytes, 2097152);
}

static cenote_status parse(const char *text, cenote_hardware *hardware, cenote_error *err)
{
    return cn_hardware_profile_parse("p.conf", text, strlen(text), hardware, err);
}

static void test_form_of_profiles(void **state)
{
    (void)state;
    static const char *const same[] = {"cores = 2\ncpus = 4\n", "cores=2\ncpus=4",
                                       "# two\n\n \tcores\t= 2 # of them\r\ncpus = 4\r\n",
                                       "cpus = 4\ncores = 2\n\n\n#"};
    for (size_t i = 0; i < COUNT(same); i++) {
        cenote_hardware hardware = {.cores = 1, .cpus = 1};
        assert_int_equal(parse(same[i], &hardware, NULL), CENOTE_OK);
        assert_int_equal(hardware.cores, 2);
        assert_int_equal(hardware.cpus, 4);
    }
    cenote_hardware empty = {.cores = 7, .cpus = 8}, before = empty;
    assert_int_equal(parse("", &empty, NULL), CENOTE_OK);
    assert_memory_equal(&empty, &before, sizeof empty);
}

static void test_bad_profiles(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"cores\n", "p.conf:1: \"cores\" is not member = value"},
        {"\n\nspeed = 3\n", "p.conf:3: hardware has no \"speed\""},
        {"Cores = 3", "no \"Cores\""},
        {"= 3", "no \"\""},
        {"cores = 2\ncores = 2\n", "p.conf:2: cores is given twice"},
        {"cores =", "cores is \"\""},
        {"cores = 0", "it may be 1 to 1048576"},
        {"cores = -1", "cores is \"-1\""},
        {"cores = 4.0", "cores is \"4.0\""},
        {"cores = 1048577", "it may be 1 to 1048576"},
        {"cores = 18446744073709551617", "cores is"},
        {"l1d.size_bytes = 32K", "l1d.size_bytes is \"32K\""},
        {"l2.line_bytes = 48", "a power of two, 16 to 1024"},
        {"vector_bytes = 128", "16 to 64"},
        {"device.warp_threads = 0", "1 to 1024"},
        {"name = ", "one name of 1 to 63 bytes"},
        {"name = a\nname = b", "p.conf:2: a profile has one name"},
        {"name = 0123456789012345678901234567890123456789012345678901234567890123", "1 to 63"},
        {"cores = 9", "9 cores cannot have only 8 CPUs"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        cenote_hardware hardware = {.cores = 1, .cpus = 8}, before = hardware;
        cenote_error err;
        assert_int_equal(parse(cases[i].text, &hardware, &err), CENOTE_E_CORRUPT);
        if (strstr(err.message, cases[i].message) == NULL)
            fail_msg("%s lacks \"%s\"", err.message, cases[i].message);
        assert_memory_equal(&hardware, &before, sizeof hardware);
    }
    cenote_hardware hardware = {0};
    cenote_error err;
    assert_int_equal(cenote_hardware_load("/no/such.conf", &hardware, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "/no/such.conf"));
    assert_int_equal(cenote_hardware_load(TEST_SOURCE_DIR, &hardware, &err), CENOTE_E_IO);
    assert_int_equal(cenote_hardware_load("/dev/zero", &hardware, &err), CENOTE_E_CORRUPT);
}

/* Bytes of a good profile, changed at random: what is taken is what a machine may be. */
static void test_damaged_profiles(void **state)
{
    (void)state;
    static const char good[] = "name = x\ncores = 4\ncpus = 8\nvector_bytes = 32\n"
                               "l1d.size_bytes = 32768\nl3.line_bytes = 64\nl3.ways = 12\n";
    uint32_t seed = 1;
    for (unsigned turn = 0; turn < 20000; turn++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        for (unsigned i = 0; i <= turn % 4; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[(seed >> 8) % (sizeof good - 1)] = (char)(seed >> 24);
        }
        cenote_hardware hardware = {.cores = 1, .cpus = 8, .vector_bytes = 16};
        cenote_status status =
            cn_hardware_profile_parse("p", text, sizeof text - 1, &hardware, NULL);
        assert_true(status == CENOTE_OK || status == CENOTE_E_CORRUPT);
        assert_in_range(hardware.cores, 1, hardware.cpus);
        assert_true(hardware.vector_bytes == 16 || hardware.vector_bytes == 32 ||
                    hardware.vector_bytes == 64);
        assert_non_null(memchr(hardware.name, '\0', sizeof hardware.name));
    }
}

static void test_environment(void **state)
{
    (void)state;
    cenote_hardware machine, hardware;
    cenote_error err;
    unsetenv("CENOTE_HARDWARE");
    assert_int_equal(cenote_hardware_get(&machine, NULL), CENOTE_OK);
    setenv("CENOTE_HARDWARE", "", 1);
    assert_int_equal(cenote_hardware_get(&hardware, NULL), CENOTE_OK);
    assert_memory_equal(&hardware, &machine, sizeof machine);
    setenv("CENOTE_HARDWARE", I5, 1);
    assert_int_equal(cenote_hardware_get(&hardware, NULL), CENOTE_OK);
    assert_string_equal(hardware.name, "Intel Core i5-10210U");
    assert_int_equal(hardware.cores, 4);
    assert_in_range(hardware.vector_bytes, 16, machine.vector_bytes); /* it can do no more */
    setenv("CENOTE_HARDWARE", "/no/such.conf", 1);
    memset(&hardware, 0x5a, sizeof hardware);
    cenote_hardware before = hardware;
    assert_int_equal(cenote_hardware_get(&hardware, &err), CENOTE_E_IO);
    assert_memory_equal(&hardware, &before, sizeof hardware);
    unsetenv("CENOTE_HARDWARE");
}

#define IN_TREE(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TREE(test_laptop),
        IN_TREE(test_affinity),
        IN_TREE(test_nothing_to_read),
        IN_TREE(test_hostile_values),
        IN_TREE(test_hostile_lists),
        IN_TREE(test_huge_pages),
        cmocka_unit_test(test_this_machine),
        cmocka_unit_test(test_profiles_that_ship),
        cmocka_unit_test(test_form_of_profiles),
        cmocka_unit_test(test_bad_profiles),
        cmocka_unit_test(test_damaged_profiles),
        cmocka_unit_test(test_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
