# Flags of every target, kept in one interface library.
add_library(cenote_flags INTERFACE)
target_compile_options(cenote_flags INTERFACE
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual
  -Wundef -Wvla -Wformat=2 -Wno-format-nonliteral
  # "Untouched on failure" is the rule for outputs; gcc 12 cannot see that a failing call returns
  # non-zero and calls each of them uninitialised. ASan runs and clang look after the real ones.
  $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  # The order of every sum is written down; the compiler must not fuse or reorder on its own.
  -ffp-contract=off -fno-math-errno)
target_compile_definitions(cenote_flags INTERFACE _GNU_SOURCE)
if(CENOTE_WERROR)
  target_compile_options(cenote_flags INTERFACE -Werror)
endif()
if(CENOTE_SANITIZE)
  # -O1: a third of the time of -O0, and frames that can still be read.
  target_compile_options(cenote_flags INTERFACE -O1
    -fsanitize=${CENOTE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  target_link_options(cenote_flags INTERFACE -fsanitize=${CENOTE_SANITIZE})
endif()
if(CENOTE_FUZZ)
  # so that libFuzzer sees which branches of the library an input takes
  target_compile_options(cenote_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(CENOTE_COVERAGE)
  target_compile_options(cenote_flags INTERFACE --coverage -fprofile-update=atomic -Og -g)
  target_compile_definitions(cenote_flags INTERFACE CENOTE_COVERAGE)
  target_link_options(cenote_flags INTERFACE --coverage)
endif()
