/* SPDX-License-Identifier: Apache-2.0 */
/* The linux table: what it promises about addresses, pages, files and the clock, seen through the
 * kernel's own eyes (mincore, faults in a child, /proc). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <cenote/hardware.h>

#include "os/os.h"
#include "shadow.h"

#define GRANULE   ((size_t)65536)
#define HUGE_PAGE ((size_t)2 << 20)
#define PAGE      4096u

static struct cn_os *os;

static void *reserve(size_t size)
{
    void *base = NULL;
    assert_int_equal(os->ops->memory_reserve(os, size, &base), 0);
    assert_int_equal((uintptr_t)base % HUGE_PAGE, 0);
    return base;
}

/* Does a read of the address kill a process? */
static bool faults(const volatile char *address)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would print a report */
        _exit(*address == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static size_t resident_pages(void *base, size_t size)
{
    static unsigned char pages[4 * HUGE_PAGE / PAGE];
    size_t count = 0;
    assert_true(size / PAGE <= sizeof pages);
    assert_int_equal(mincore(base, size, pages), 0);
    for (size_t i = 0; i < size / PAGE; i++)
        count += pages[i] & 1;
    return count;
}

static void test_commit_and_decommit(void **state)
{
    (void)state;
    size_t size = 2 * HUGE_PAGE;
    char *base = reserve(size);
    assert_true(faults(base));
    assert_int_equal(os->ops->memory_commit(os, base + GRANULE, GRANULE, false), 0);
    assert_true(faults(base));
    assert_true(faults(base + 2 * GRANULE));
    assert_int_equal(base[GRANULE], 0);
    memset(base + GRANULE, 1, GRANULE);
    assert_int_equal(resident_pages(base, size), GRANULE / PAGE);
    os->ops->memory_decommit(os, base + GRANULE, GRANULE);
    assert_int_equal(resident_pages(base, size), 0);
    assert_true(faults(base + GRANULE));
    assert_int_equal(os->ops->memory_commit(os, base + GRANULE, GRANULE, false), 0);
    for (size_t i = 0; i < GRANULE; i++)
        assert_int_equal(base[GRANULE + i], 0);
    os->ops->memory_release(os, base, size);
    assert_true(SHADOW_MEMORY || faults(base)); /* a sanitizer may map something there at once */
}

static bool holds(const char *data, size_t size, char mark)
{
    for (size_t i = 0; i < size; i += PAGE)
        if (data[i] != mark + (char)(i / GRANULE))
            return false;
    return true;
}

static void fill(char *data, size_t size, char mark)
{
    for (size_t i = 0; i < size; i += PAGE)
        data[i] = (char)(mark + (char)(i / GRANULE));
}

static bool no_remap(int64_t result)
{
    if (result != -EINVAL)
        return false;
    print_message("this kernel has no MREMAP_DONTUNMAP\n");
    return true;
}

/* Pages change their place, with their content and their huge pages; the old place is as if it had
 * never been committed. */
static void test_remap(void **state)
{
    (void)state;
    size_t size = 8 * HUGE_PAGE, part = 3 * HUGE_PAGE;
    char *base = reserve(size), *to = base + 4 * HUGE_PAGE;
    assert_int_equal(os->ops->memory_commit(os, base, part, true), 0);
    assert_int_equal(os->ops->memory_commit(os, to, GRANULE, false), 0);
    fill(base, part, 1);
    memset(to, 99, GRANULE);
    int64_t moved = os->ops->memory_remap(os, base, to, part);
    if (no_remap(moved))
        skip();
    assert_int_equal(moved, part);
    assert_true(holds(to, part, 1));
    assert_true(faults(base));
    assert_true(faults(base + part - 1));
    assert_int_equal(resident_pages(base, part), 0);
    assert_int_equal(resident_pages(to, part), part / PAGE);
    to[0] = 5;

    /* To where it is not aligned in the same way, and in pieces of several mappings. */
    assert_int_equal(os->ops->memory_commit(os, to + part, GRANULE, false), 0);
    fill(to, part + GRANULE, 7);
    assert_int_equal(os->ops->memory_remap(os, to, base + GRANULE, part + GRANULE), part + GRANULE);
    assert_true(holds(base + GRANULE, part + GRANULE, 7));
    assert_true(faults(to));
    assert_int_equal(os->ops->memory_commit(os, to, part, true), 0);
    for (size_t i = 0; i < part; i += PAGE)
        assert_int_equal(to[i], 0);
    os->ops->memory_release(os, base, size);
}

/* A kernel that has no room for more mappings moves a part of it or nothing, says which, and loses
 * no byte. */
static void test_remap_without_room(void **state)
{
    (void)state;
    size_t size = 16 * HUGE_PAGE, part = 2 * HUGE_PAGE;
    char *base = reserve(size), *to = base + 4 * HUGE_PAGE + GRANULE;
    for (size_t i = 0; i < part; i += 2 * GRANULE) { /* a mapping each */
        assert_int_equal(os->ops->memory_commit(os, base + i, GRANULE, false), 0);
        base[i] = 1;
        assert_int_equal(os->ops->memory_commit(os, base + i + GRANULE, GRANULE, false), 0);
        assert_int_equal(madvise(base + i, GRANULE, MADV_NOHUGEPAGE), 0);
    }
    fill(base, part, 1);
    long limit = 0;
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    if (file == NULL || fscanf(file, "%ld", &limit) != 1 || limit > 1 << 20 || SHADOW_MEMORY) {
        print_message("mappings are not limited here\n");
        skip();
    }
    fclose(file);
    /* Fill the table of mappings up, leaving fewer than there are to move. */
    char *ballast = mmap(NULL, (size_t)limit * 2 * PAGE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(ballast, MAP_FAILED);
    size_t cuts = 0;
    while (mprotect(ballast + cuts * 2 * PAGE, PAGE, PROT_READ) == 0)
        cuts++;
    assert_int_equal(munmap(ballast, 20 * PAGE), 0);
    int64_t moved = os->ops->memory_remap(os, base, to, part);
    munmap(ballast + 20 * PAGE, ((size_t)limit * 2 - 20) * PAGE);
    if (no_remap(moved))
        skip();
    size_t front = moved > 0 ? (size_t)moved : 0;
    print_message("%zu of %zu moved\n", front, part);
    assert_true(front < part);
    assert_int_equal(front % GRANULE, 0);
    assert_true(holds(to, front, 1));
    assert_true(holds(base + front, part - front, (char)(1 + (char)(front / GRANULE))));
    os->ops->memory_release(os, base, size);
}

/* Does the mapping at the address carry the advice for huge pages? */
static bool huge_advised(const char *address)
{
    char line[512];
    bool inside = false, advised = false;
    unsigned long first, end;
    FILE *file = fopen("/proc/self/smaps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
            inside = (uintptr_t)address >= first && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            advised = strstr(line, " hg") != NULL;
    }
    fclose(file);
    return advised;
}

static void test_huge_advice(void **state)
{
    (void)state;
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) {
        print_message("this kernel has no transparent huge pages\n");
        skip();
    }
    size_t size = 4 * HUGE_PAGE;
    char *base = reserve(size);
    assert_int_equal(os->ops->memory_commit(os, base, HUGE_PAGE, false), 0);
    assert_int_equal(os->ops->memory_commit(os, base + HUGE_PAGE, 3 * HUGE_PAGE - GRANULE, true),
                     0);
    assert_false(huge_advised(base));
    assert_true(huge_advised(base + HUGE_PAGE));
    assert_true(huge_advised(base + 3 * HUGE_PAGE - 1));
    assert_false(huge_advised(base + 3 * HUGE_PAGE)); /* not a whole one */
    /* The advice does not outlive the commit. */
    os->ops->memory_decommit(os, base, size);
    assert_int_equal(os->ops->memory_commit(os, base, size, false), 0);
    assert_false(huge_advised(base + HUGE_PAGE));
    os->ops->memory_release(os, base, size);
}

static void test_huge_commit(void **state)
{
    (void)state;
    size_t size = 3 * HUGE_PAGE;
    char *base = reserve(size);
    /* From inside the first chunk to inside the last: one whole chunk lies between. */
    assert_int_equal(os->ops->memory_commit(os, base + GRANULE, 2 * HUGE_PAGE, true), 0);
    memset(base + GRANULE, 1, 2 * HUGE_PAGE);
    assert_int_equal(resident_pages(base, size), 2 * HUGE_PAGE / PAGE);
    os->ops->memory_decommit(os, base, size);
    assert_int_equal(resident_pages(base, size), 0);
    os->ops->memory_release(os, base, size);
}

/* Page tables of decommitted memory go with it; with MADV_DONTNEED alone they would stay on
 * kernels before 6.14. */
static void test_decommit_frees_page_tables(void **state)
{
    (void)state;
    if (SHADOW_MEMORY) {
        print_message("the sanitizer's shadow memory hides the truth\n");
        skip();
    }
    cenote_process_memory before, full, after;
    size_t size = 64 * HUGE_PAGE; /* 256 KiB of page tables */
    char *base = reserve(size);
    assert_int_equal(cenote_process_memory_get(&before, NULL), CENOTE_OK);
    assert_int_equal(os->ops->memory_commit(os, base, size, false), 0);
    for (size_t i = 0; i < size; i += HUGE_PAGE)
        base[i] = 1;
    assert_int_equal(cenote_process_memory_get(&full, NULL), CENOTE_OK);
    os->ops->memory_decommit(os, base, size);
    assert_int_equal(cenote_process_memory_get(&after, NULL), CENOTE_OK);
    assert_true(full.page_table_bytes >= before.page_table_bytes + 64 * PAGE);
    assert_true(after.page_table_bytes <= before.page_table_bytes + 4 * PAGE);
    os->ops->memory_release(os, base, size);
}

/* Commits every second granule until the kernel has no more mappings for this process. Then
 * decommitting the middle of a mapping cannot split it: the pages go back all the same. */
static void test_out_of_mappings(void **state)
{
    (void)state;
    if (SHADOW_MEMORY) {
        print_message("a sanitizer needs mappings of its own\n");
        skip();
    }
    size_t size = (size_t)16 << 30;
    char *base = reserve(size);
    assert_int_equal(os->ops->memory_commit(os, base, 3 * GRANULE, false), 0);
    memset(base, 1, 3 * GRANULE);
    int error = 0;
    for (size_t at = 4 * GRANULE; at < size && error == 0; at += 2 * GRANULE)
        error = os->ops->memory_commit(os, base + at, GRANULE, false);
    if (error == 0)
        print_message("this kernel allows more mappings than the test makes\n");
    else
        assert_int_equal(error, -ENOMEM);
    os->ops->memory_decommit(os, base + GRANULE, GRANULE);
    size_t resident = resident_pages(base, HUGE_PAGE);
    int first = base[0], last = base[3 * GRANULE - 1];
    os->ops->memory_release(os, base, size);
    assert_int_equal(resident, 2 * GRANULE / PAGE);
    assert_int_equal(first, 1);
    assert_int_equal(last, 1);
}

static void test_refused_reservations(void **state)
{
    (void)state;
    void *base = NULL;
    assert_int_equal(os->ops->memory_reserve(os, 0, &base), -ENOMEM);
    assert_int_equal(os->ops->memory_reserve(os, SIZE_MAX & ~(GRANULE - 1), &base), -ENOMEM);
    assert_int_equal(os->ops->memory_reserve(os, (size_t)1 << 60, &base), -ENOMEM);
    assert_null(base);
}

/* ---- files ---- */

static char path[] = TEST_SCRATCH_DIR "/os_linux_XXXXXX";

static int make_file(void **state)
{
    (void)state;
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    char page[PAGE];
    for (unsigned i = 0; i < 5; i++) {
        memset(page, 'a' + (int)i, sizeof page);
        if (write(fd, page, sizeof page) != sizeof page)
            return -1;
    }
    fsync(fd);
    return close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void test_file(void **state)
{
    (void)state;
    int fd = -1;
    char data[8192];
    struct stat raw;
    struct cn_os_file_stat st;
    assert_int_equal(os->ops->file_open(os, path, 0, &fd), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(os->ops->file_stat(os, fd, &st), 0);
    assert_int_equal(stat(path, &raw), 0);
    assert_int_equal(st.size_bytes, 5 * PAGE);
    assert_int_equal(st.inode, raw.st_ino);
    assert_int_equal(st.device, raw.st_dev);
    assert_int_equal(st.mtime_ns, (int64_t)raw.st_mtim.tv_sec * 1000000000 + raw.st_mtim.tv_nsec);
    assert_true(st.regular);
    assert_int_equal(os->ops->file_pread(os, fd, data, 2, PAGE - 1), 2);
    assert_int_equal(data[0], 'a');
    assert_int_equal(data[1], 'b');
    assert_int_equal(os->ops->file_pread(os, fd, data, sizeof data, 4 * PAGE), PAGE);
    assert_int_equal(os->ops->file_pread(os, fd, data, 10, 5 * PAGE), 0);
    assert_int_equal(os->ops->file_pread(os, fd, data, 10, UINT64_MAX), -EINVAL);
    os->ops->file_drop_cache(os, fd, 0, 5 * PAGE);
    os->ops->file_close(os, fd);
    assert_int_equal(os->ops->file_pread(os, fd, data, 1, 0), -EBADF);
    assert_int_equal(os->ops->file_stat(os, fd, &st), -EBADF);
}

static void test_file_direct(void **state)
{
    (void)state;
    int fd = -1;
    int error = os->ops->file_open(os, path, CN_OS_OPEN_DIRECT, &fd);
    if (error == -EINVAL) {
        print_message("O_DIRECT is refused here\n");
        skip();
    }
    assert_int_equal(error, 0);
    struct cn_os_file_stat st;
    assert_int_equal(os->ops->file_stat(os, fd, &st), 0);
    assert_true(st.direct_align_bytes <= PAGE);
    void *data = NULL;
    assert_int_equal(posix_memalign(&data, PAGE, PAGE), 0);
    assert_int_equal(os->ops->file_pread(os, fd, data, PAGE, 2 * PAGE), PAGE);
    assert_int_equal(((char *)data)[0], 'c');
    free(data);
    os->ops->file_close(os, fd);
}

static void test_open_errors(void **state)
{
    (void)state;
    int fd = -7;
    assert_int_equal(os->ops->file_open(os, "/no/such/file", 0, &fd), -ENOENT);
    assert_int_equal(fd, -7);
    /* A FIFO must not hang the open, and is told apart from a file. */
    char fifo[] = TEST_SCRATCH_DIR "/os_linux_fifo_XXXXXX";
    assert_non_null(mkdtemp(fifo));
    rmdir(fifo);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    struct cn_os_file_stat st;
    assert_int_equal(os->ops->file_open(os, fifo, 0, &fd), 0);
    assert_int_equal(os->ops->file_stat(os, fd, &st), 0);
    assert_false(st.regular);
    os->ops->file_close(os, fd);
    unlink(fifo);
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t before_ns = os->ops->clock_ns(os);
    os->ops->sleep_ns(os, 2000000);
    uint64_t slept_ns = os->ops->clock_ns(os) - before_ns;
    assert_true(slept_ns >= 2000000);
}

int main(void)
{
    os = cn_os_linux();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_and_decommit),
        cmocka_unit_test(test_remap),
        cmocka_unit_test(test_remap_without_room),
        cmocka_unit_test(test_huge_advice),
        cmocka_unit_test(test_huge_commit),
        cmocka_unit_test(test_decommit_frees_page_tables),
        cmocka_unit_test(test_out_of_mappings),
        cmocka_unit_test(test_refused_reservations),
        cmocka_unit_test_setup_teardown(test_file, make_file, remove_file),
        cmocka_unit_test_setup_teardown(test_file_direct, make_file, remove_file),
        cmocka_unit_test(test_open_errors),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
