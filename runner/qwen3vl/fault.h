/* SPDX-License-Identifier: Apache-2.0 */
/** @file
 *  Mistakes on purpose, each one that a runner of this model could really make, to show that the
 *  tests would see it (tests/golden/test_mutations.c). A fault is one line at its place:
 *
 *      if (QWEN_FAULT(DEEPSTACK_LEFT_OUT))
 *          return;
 *
 *  The condition is the constant false wherever QWEN_FAULTS is not defined, which is everywhere but
 *  in one program of the tests (system.faults checks that). There the environment's
 *  CENOTE_TEST_FAULT names the fault, and is read once. */
#ifndef QWEN_FAULT_H
#define QWEN_FAULT_H

/* X(NAME, what the runner does then) */
#define QWEN_FAULTS_EACH(X)                                                                        \
    X(RESIZE_NEAREST, "takes the nearest pixel instead of a bicubic mean")                         \
    X(RESIZE_SHARPER, "resizes with the cubic of a = -0.75")                                       \
    X(RESIZE_ALIASED, "shrinks pictures without antialiasing")                                     \
    X(RESIZE_SQUARE, "squeezes every picture into a square")                                       \
    X(PIXELS_BGR, "takes the colours in the order blue, green, red")                               \
    X(PIXELS_0_TO_1, "scales pixels to 0..1 instead of -1..1")                                     \
    X(PATCHES_RASTER, "cuts patches line by line instead of block by block")                       \
    X(PATCHES_ONE_FRAME, "leaves the second frame of a patch black")                               \
    X(TABLE_LEFT_OUT, "adds no positions to the patches")                                          \
    X(TABLE_TURNED, "swaps the position table's axes in square pictures")                          \
    X(TABLE_NEAREST, "takes the nearest entry of the position table")                              \
    X(TOWER_NO_ROTARY, "turns no heads in the vision tower")                                       \
    X(TOWER_ROTARY_TURNED, "swaps rows and columns in the tower's rotary")                         \
    X(MERGER_GELU_TANH, "uses the tower's GELU in the mergers")                                    \
    X(DEEPSTACK_LEFT_OUT, "does not add deepstack")                                                \
    X(DEEPSTACK_SWAPPED, "adds the deepstack outputs in reverse order")                            \
    X(FIRST_PICTURE_TWICE, "shows the first picture in place of the second")                       \
    X(POSITIONS_1D, "gives every token its index as position")                                     \
    X(POSITIONS_TURNED, "swaps height and width of image positions")                               \
    X(POSITIONS_BY_COUNT, "lets text go on behind the count of image tokens")                      \
    X(DECODE_BY_INDEX, "gives produced tokens their index as position")                            \
    X(MROPE_IN_BLOCKS, "gives the axes blocks of pairs, not every third")                          \
    X(ROPE_THETA_5E6, "uses the released models' rope_theta")                                      \
    X(NO_QK_NORM, "does not norm queries and keys")                                                \
    X(NOT_CAUSAL, "lets the prompt's tokens see later ones")

#define QWEN_FAULT_ENUM(name, text) QWEN_FAULT_##name,
enum qwen_fault { QWEN_FAULT_NONE, QWEN_FAULTS_EACH(QWEN_FAULT_ENUM) QWEN_FAULT_COUNT };

#ifdef QWEN_FAULTS
enum qwen_fault qwen_fault_chosen(void);
#define QWEN_FAULT(name) (qwen_fault_chosen() == QWEN_FAULT_##name)
#else
#define QWEN_FAULT(name) (QWEN_FAULT_NONE == QWEN_FAULT_##name)
#endif

#endif
