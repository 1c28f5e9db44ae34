/* SPDX-License-Identifier: Apache-2.0 */
/* A program (an interpreter with extensions) that loads the library, uses what it keeps for each
 * thread, and unloads it while the thread lives on: the thread's end finds the library still there.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <cenote/tensor_cache.h>

#define FUNCTIONS(X)                                                                               \
    X(cenote_budget_create)                                                                        \
    X(cenote_budget_destroy)                                                                       \
    X(cenote_pool_create)                                                                          \
    X(cenote_pool_destroy)                                                                         \
    X(cenote_pool_alloc)                                                                           \
    X(cenote_pool_free)                                                                            \
    X(cenote_tensor_cache_create)                                                                  \
    X(cenote_tensor_cache_destroy)                                                                 \
    X(cenote_tensor_cache_get)                                                                     \
    X(cenote_tensor_cache_release)

struct library {
    void *handle;
#define FUNCTION_POINTER(name) __typeof__(&name) name;
    FUNCTIONS(FUNCTION_POINTER)
#undef FUNCTION_POINTER
};

static struct library library;
static pthread_barrier_t barrier;

static void load(void)
{
    library.handle = dlopen(TEST_BIN_DIR "/src/libcenote.so", RTLD_NOW | RTLD_LOCAL);
    if (library.handle == NULL)
        fail_msg("%s", dlerror());
#define LOOK_UP(name)                                                                              \
    *(void **)&library.name = dlsym(library.handle, #name);                                        \
    assert_non_null(*(void **)&library.name);
    FUNCTIONS(LOOK_UP)
#undef LOOK_UP
}

static void *use(void *unused)
{
    (void)unused;
    cenote_budget *budget = NULL;
    cenote_pool *pool = NULL;
    cenote_tensor_cache *cache = NULL;
    cenote_budget_options budget_options = CENOTE_BUDGET_OPTIONS_INIT;
    cenote_pool_options pool_options = CENOTE_POOL_OPTIONS_INIT;
    cenote_tensor_cache_options cache_options = CENOTE_TENSOR_CACHE_OPTIONS_INIT;
    cenote_tensor_spec spec = {CENOTE_DTYPE_F32, 1, {64}};
    cenote_tensor tensor;
    void *block;
    budget_options.limit_bytes = UINT64_C(1) << 30;
    pool_options.quota_bytes = UINT64_C(1) << 20;
    cache_options.pools = &pool;
    cache_options.pool_count = 1;
    cache_options.limit_bytes = UINT64_C(1) << 20;
    if (library.cenote_budget_create(&budget_options, &budget, NULL) == CENOTE_OK &&
        library.cenote_pool_create(budget, &pool_options, &pool, NULL) == CENOTE_OK &&
        library.cenote_tensor_cache_create(&cache_options, &cache, NULL) == CENOTE_OK &&
        library.cenote_tensor_cache_get(cache, pool, &spec, &tensor, NULL) == CENOTE_OK &&
        library.cenote_tensor_cache_release(cache, pool, tensor, NULL) == CENOTE_OK &&
        library.cenote_pool_alloc(pool, 1000, &block, NULL) == CENOTE_OK) {
        library.cenote_pool_free(pool, block);
        (void)library.cenote_tensor_cache_destroy(cache);
        (void)library.cenote_pool_destroy(pool);
        library.cenote_budget_destroy(budget);
    }
    (void)pthread_barrier_wait(&barrier); /* used */
    (void)pthread_barrier_wait(&barrier); /* unloaded */
    return NULL;
}

static void test_a_thread_outlives_the_library(void **state)
{
    (void)state;
    pthread_t thread;
    load();
    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, use, NULL), 0);
    (void)pthread_barrier_wait(&barrier);
    assert_int_equal(dlclose(library.handle), 0);
    (void)pthread_barrier_wait(&barrier);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_thread_outlives_the_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
