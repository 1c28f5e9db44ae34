#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""touch_torch.py SIZE LIVE rr|lifo page|fill: what `bench_touch --child` does, with torch.empty.

Prints the median ratio of blocks that are allocated, touched and freed over blocks that are touched
and kept, and the microseconds of the latter. Exits with 77 where there is no torch."""
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit(77)

BATCH_BYTES = 128 << 20
ROUNDS, ROUNDS_S = 9, 0.3

size, live = int(sys.argv[1]), int(sys.argv[2])
last_first, fill = sys.argv[3] == "lifo", sys.argv[4] == "fill"
blocks = live * max(1, BATCH_BYTES // size // live)


def take():
    return torch.empty(size, dtype=torch.uint8)


def touch(block):
    (block if fill else block[::4096]).fill_(1)


def keep():
    begin = time.perf_counter()
    for i in range(blocks):
        touch(slots[i % live])
    return time.perf_counter() - begin


def turn_over():
    begin = time.perf_counter()
    for i in range(blocks):
        if last_first and i % live == 0:
            for j in range(live - 1, -1, -1):
                slots[j] = None
        slots[i % live] = None
        slots[i % live] = take()
        touch(slots[i % live])
    return time.perf_counter() - begin


torch.set_num_threads(1)
slots = [take() for _ in range(live)]
for slot in slots:
    touch(slot)
turn_over()
kept, ratios = [], []
begin = time.perf_counter()
while len(kept) < ROUNDS and (len(kept) < 3 or time.perf_counter() - begin < ROUNDS_S):
    kept.append(keep())
    ratios.append(turn_over() / kept[-1])
print(statistics.median(ratios), 1e6 * statistics.median(kept) / blocks)
