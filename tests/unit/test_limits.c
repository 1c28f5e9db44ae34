/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup limits and /proc, read from the little trees in data/limits; then once from here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/hardware.h>

#include "os/linux/limits.h"
#include "os/linux/text_file.h"

#define MIB           UINT64_C(1048576)
#define GIB           (1024 * MIB)
#define TREE(name)    TEST_DATA_DIR "/limits/" name
#define PROCESS_BYTES ((40960 + 128) * UINT64_C(1024)) /* VmRSS + VmPTE of the trees */

static struct cn_cgroup_limits limits_of(const char *tree)
{
    struct cn_cgroup_limits limits;
    cn_cgroup_limits_read(tree, &limits);
    return limits;
}

static void test_v2(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("v2"));
    /* memory.high of the leaf is the lowest; 2 GiB - (1 GiB - 256 MiB of file pages) is left. */
    assert_int_equal(limits.memory_limit_bytes, 2 * GIB);
    assert_int_equal(limits.memory_headroom_bytes, GIB + 256 * MIB);
    assert_int_equal(limits.cpus, 2); /* 1.5 of them, rounded up, from the parent */
}

static void test_v1_container(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("v1"));
    assert_int_equal(limits.memory_limit_bytes, GIB);
    /* The total_* fields count, not the cgroup's own. */
    assert_int_equal(limits.memory_headroom_bytes, GIB - 450 * MIB);
    assert_int_equal(limits.cpus, 1);
}

static void test_nested(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("nested"));
    assert_int_equal(limits.memory_limit_bytes, 2 * GIB);
    assert_int_equal(limits.memory_headroom_bytes, 64 * MIB); /* the grandparent's */
    assert_true(limits.cpus == CN_UNLIMITED);
}

static void test_hybrid(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("hybrid"));
    assert_int_equal(limits.memory_limit_bytes, 512 * MIB);
    assert_int_equal(limits.memory_headroom_bytes, 412 * MIB);
}

static void test_nothing_binds(void **state)
{
    (void)state;
    static const char *const trees[] = {TREE("unlimited"), TREE("garbage"), TREE("no-such-tree")};
    for (unsigned i = 0; i < 3; i++) {
        struct cn_cgroup_limits limits = limits_of(trees[i]);
        assert_true(limits.memory_limit_bytes == CN_UNLIMITED);
        assert_true(limits.memory_headroom_bytes == CN_UNLIMITED);
        assert_true(limits.cpus == CN_UNLIMITED);
    }
}

/* The cgroup lies outside of what is mounted: the mount point is what can be read. It is over its
 * limit, file pages or not. */
static void test_outside_the_mount(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("outside"));
    assert_int_equal(limits.memory_limit_bytes, 300 * MIB);
    assert_int_equal(limits.memory_headroom_bytes, 0);
}

/* Inside of a cgroup namespace the mount's top is the container's own directory. */
static void test_limit_at_the_top(void **state)
{
    (void)state;
    struct cn_cgroup_limits limits = limits_of(TREE("namespace"));
    assert_int_equal(limits.memory_limit_bytes, 256 * MIB);
    assert_int_equal(limits.memory_headroom_bytes, 200 * MIB);
}

static void test_machine_memory(void **state)
{
    (void)state;
    cenote_machine_memory memory;
    cenote_error err;
    /* The cgroup binds. */
    assert_int_equal(cn_machine_memory_read(TREE("v2"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.total_bytes, 16 * GIB);
    assert_int_equal(memory.available_bytes, 12 * GIB);
    assert_int_equal(memory.reserve_bytes, 16 * GIB / 10);
    assert_int_equal(memory.cgroup_limit_bytes, 2 * GIB);
    assert_int_equal(memory.spare_bytes, GIB + 256 * MIB + PROCESS_BYTES);
    /* The machine binds. */
    assert_int_equal(cn_machine_memory_read(TREE("unlimited"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.spare_bytes, 12 * GIB - 16 * GIB / 10 + PROCESS_BYTES);
    /* Little is available: half of it stays in reserve, and the cgroup binds even more. */
    assert_int_equal(cn_machine_memory_read(TREE("nested"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.reserve_bytes, 768 * MIB);
    assert_int_equal(memory.spare_bytes, 64 * MIB + PROCESS_BYTES);
    /* The cgroup is charged for 32 MiB of the process: others paid for its libraries. */
    assert_int_equal(cn_machine_memory_read(TREE("alone"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.cgroup_headroom_bytes, 32 * MIB);
    assert_int_equal(memory.spare_bytes, 64 * MIB);
}

static void test_process_memory(void **state)
{
    (void)state;
    cenote_process_memory memory;
    cenote_error err;
    assert_int_equal(cn_process_memory_read(TREE("v2"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.resident_bytes, 40 * MIB);
    assert_int_equal(memory.resident_peak_bytes, 50 * MIB);
    assert_int_equal(memory.page_table_bytes, 128 * 1024);
    assert_int_equal(memory.disk_read_bytes, 4096000);
    /* /proc/self/io may be hidden. */
    assert_int_equal(cn_process_memory_read(TREE("nested"), &memory, &err), CENOTE_OK);
    assert_int_equal(memory.disk_read_bytes, 0);
}

static void test_missing_files_and_fields(void **state)
{
    (void)state;
    cenote_machine_memory machine = {.total_bytes = 77};
    cenote_process_memory process = {.resident_bytes = 77};
    cenote_error err;
    assert_int_equal(cn_machine_memory_read(TREE("hybrid"), &machine, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "MemAvailable"));
    assert_int_equal(cn_process_memory_read(TREE("hybrid"), &process, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "VmHWM"));
    assert_int_equal(cn_machine_memory_read(TREE("nowhere"), &machine, &err), CENOTE_E_IO);
    assert_non_null(strstr(err.message, "/proc/meminfo"));
    assert_int_equal(machine.total_bytes, 77);
    assert_int_equal(process.resident_bytes, 77);
}

static void test_numbers(void **state)
{
    (void)state;
    uint64_t number = 77;
    static const char *const bad[] = {"", " ", "max", "-1", "1x", "1 2", "18446744073709551616"};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(cn_text_number(bad[i], &number));
    assert_int_equal(number, 77);
    assert_true(cn_text_number("18446744073709551615", &number));
    assert_true(number == UINT64_MAX);
    assert_true(cn_text_number("12 \t", &number));
    assert_int_equal(number, 12);
}

/* This machine: what must hold on any. */
static void test_here(void **state)
{
    (void)state;
    cenote_machine_memory machine;
    cenote_process_memory process;
    cenote_error err;
    assert_int_equal(cenote_machine_memory_get(&machine, &err), CENOTE_OK);
    assert_int_equal(cenote_process_memory_get(&process, &err), CENOTE_OK);
    assert_true(machine.available_bytes <= machine.total_bytes);
    assert_true(machine.cgroup_headroom_bytes <= machine.cgroup_limit_bytes);
    assert_true(machine.spare_bytes >= process.resident_bytes / 2);
    assert_true(process.resident_peak_bytes > 0);
    assert_true(process.page_table_bytes > 0);
    unsigned cpus = cenote_cpu_count();
    assert_true(cpus >= 1);
    assert_true(cpus <= (unsigned)sysconf(_SC_NPROCESSORS_CONF));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v2),
        cmocka_unit_test(test_v1_container),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_nothing_binds),
        cmocka_unit_test(test_outside_the_mount),
        cmocka_unit_test(test_limit_at_the_top),
        cmocka_unit_test(test_machine_memory),
        cmocka_unit_test(test_process_memory),
        cmocka_unit_test(test_missing_files_and_fields),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
