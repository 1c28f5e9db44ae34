#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Footprints on the serving trace of a vision-language model, the allocators side by side.

    bench/replay.py build/release/cli/cenote [--ops 1000000] [--seeds 1,2,3]

For each seed and form of keys and values: the footprint over what lives at most, of each allocator
without a limit, and of Cenote inside budgets a little above what lives: how many allocations were
refused, and how much memory was committed in all, which is what page faults would cost; of tensors,
which compaction may move, the bytes moved. Times are of Cenote without a limit, p50 / p99 / p99.9 of
allocations, and vary with the machine's other work."""
import argparse
import json
import subprocess

ALLOCATORS = ("first-fit", "best-fit", "buddy", "cenote")
BUDGETS = (1.01, 1.05, 1.10)
TENSORS_BUDGET = 1.10


def replay(command, source, *options):
    done = subprocess.run([command, "replay", "--generate", source, "--json", "--quiet", *options],
                          capture_output=True, check=False)
    if done.returncode not in (0, 3):  # 3: something was refused
        raise SystemExit(done.stderr.decode())
    return json.loads(done.stdout)


def times(report):
    ns = report["time"]["alloc_ns"]
    return f"{ns['p50']} / {ns['p99']} / {ns['p999']}"


def gib(size):
    return f"{size / 2**30:.2f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--ops", type=int, default=1000000)
    parser.add_argument("--seeds", default="1,2,3")
    options = parser.parse_args()
    inside = " | ".join(f"in {budget:.2f}x" for budget in BUDGETS)
    print(f"| keys and values | seed | live, GiB | {' | '.join(ALLOCATORS)} | {inside} "
          f"| tensors in {TENSORS_BUDGET:.2f}x | ns |")
    print("| --- " * (9 + len(BUDGETS)) + "|")
    for kind in ("chunked", "contiguous"):
        for seed in options.seeds.split(","):
            source = f"vlm:{seed}:{options.ops}:{kind}"
            alone = [replay(options.command, source, "--allocator", name) for name in ALLOCATORS]
            live = alone[0]["trace"]["live_bytes_peak"]
            within = [replay(options.command, source, "--budget", str(int(live * budget)))
                      for budget in BUDGETS]
            tensors = replay(options.command, source, "--allocator", "tensors", "--budget",
                             str(int(live * TENSORS_BUDGET)))
            moved = tensors["memory"]["moved_bytes"]
            cells = [f"{report['memory']['ratio']:.3f}" for report in alone]
            cells += [f"{report['memory']['refused_count']}, {gib(report['memory']['committed_bytes'])} GiB"
                      for report in within]
            cells.append(f"{tensors['memory']['refused_count']}, {gib(moved)} GiB moved, "
                         f"{100 * moved / tensors['trace']['alloc_bytes']:.2f} %")
            print(f"| {kind} | {seed} | {gib(live)} | {' | '.join(cells)} | {times(alone[-1])} |",
                  flush=True)


if __name__ == "__main__":
    main()
