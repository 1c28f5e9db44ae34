/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Status codes and error details.
 *
 *  Every fallible function returns a cenote_status that must be checked. Outputs come last, are
 *  called out_*, and stay untouched on failure. The detail goes to an optional cenote_error: one
 *  line that names the value and the limit. The library never prints, exits or aborts on a fault
 *  of the user, the file or the machine.
 *
 *  Threads: all functions here are pure or touch only their arguments. */
#ifndef CENOTE_STATUS_H
#define CENOTE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CENOTE_API        __attribute__((visibility("default")))
#define CENOTE_MUST_CHECK __attribute__((warn_unused_result))
#define CENOTE_PRINTF(format_index, first_index)                                                   \
    __attribute__((format(printf, format_index, first_index)))
#else
#define CENOTE_API
#define CENOTE_MUST_CHECK
#define CENOTE_PRINTF(format_index, first_index)
#endif

/** For functions that take a few nanoseconds: programs call the shared library's by its address,
 * not by way of a jump in the procedure linkage table. */
#if defined(__has_attribute)
#if __has_attribute(noplt)
#define CENOTE_NO_PLT __attribute__((noplt))
#endif
#endif
#ifndef CENOTE_NO_PLT
#define CENOTE_NO_PLT
#endif

/** name, code, text */
#define CENOTE_STATUS_TABLE(X)                                                                     \
    X(CENOTE_OK, 0, "ok")                                                                          \
    X(CENOTE_E_INVAL, -1, "invalid argument")                                                      \
    X(CENOTE_E_VERSION, -2, "unknown version of an options struct")                                \
    X(CENOTE_E_NOMEM, -3, "the system gave no memory")                                             \
    X(CENOTE_E_BUDGET, -4, "does not fit the budget")                                              \
    X(CENOTE_E_IO, -5, "input/output error")                                                       \
    X(CENOTE_E_NOTFOUND, -6, "not found")                                                          \
    X(CENOTE_E_CORRUPT, -7, "corrupt or hostile input")                                            \
    X(CENOTE_E_CHANGED, -8, "file changed while open")                                             \
    X(CENOTE_E_UNSUPPORTED, -9, "not supported")                                                   \
    X(CENOTE_E_CANCELLED, -10, "cancelled")

typedef enum cenote_status {
#define CENOTE_STATUS_ENUM(name, code, text) name = code,
    CENOTE_STATUS_TABLE(CENOTE_STATUS_ENUM)
#undef CENOTE_STATUS_ENUM
} cenote_status;

#define CENOTE_ERROR_MESSAGE_BYTES 512

/** What went wrong, in one line without a newline. Caller's memory; no cleanup. */
typedef struct cenote_error {
    cenote_status status;
    char message[CENOTE_ERROR_MESSAGE_BYTES];
} cenote_error;

/** The table's text for @p status; never NULL. */
CENOTE_API const char *cenote_status_text(cenote_status status);

/** Fills @p err (when not NULL) and returns @p status, so that a failing function can say
 *  `return cenote_error_set(err, CENOTE_E_IO, "%s: ...", path);`.
 *  Bytes below 0x20 and 0x7f in the formatted text become '?': names come from strangers' files
 *  and the message may reach a terminal. */
CENOTE_API cenote_status cenote_error_set(cenote_error *err, cenote_status status,
                                          const char *format, ...) CENOTE_PRINTF(3, 4);

#ifdef __cplusplus
}
#endif
#endif
