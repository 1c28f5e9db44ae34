#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Footprints on the serving trace of a vision-language model, the allocators side by side.

    bench/replay.py build/release/cli/cenote [--ops 1000000] [--seeds 1,2,3]

For each seed and form of keys and values: the footprint over what lives at most, of each allocator
without a limit; what Cenote commits in all, which is what page faults would cost; the same of
tensors, which compaction may move, and the share of all allocated bytes that it moves; and of Cenote
inside budgets a little above what lives, how many allocations were refused, and what was committed.
Times are of Cenote without a limit, p50 / p99 / p99.9 of allocations, and vary with the machine's
other work."""
import argparse
import json
import subprocess

PEERS = ("first-fit", "best-fit", "buddy")
BUDGETS = (1.01, 1.05, 1.10)


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


def ratio(report):
    return f"{report['memory']['ratio']:.3f}"


def committed(report):
    return f"{gib(report['memory']['committed_bytes'])} GiB"


def moved(report):
    return f"{100 * report['memory']['moved_bytes'] / report['trace']['alloc_bytes']:.2f} % moved"


def row(command, kind, seed, ops):
    source = f"vlm:{seed}:{ops}:{kind}"
    peers = [replay(command, source, "--allocator", name) for name in PEERS]
    cenote = replay(command, source)
    tensors = replay(command, source, "--allocator", "tensors")
    live = cenote["trace"]["live_bytes_peak"]
    within = [replay(command, source, "--budget", str(int(live * budget))) for budget in BUDGETS]
    return [kind, str(seed), gib(live), *(ratio(report) for report in peers),
            f"{ratio(cenote)}, {committed(cenote)}",
            f"{ratio(tensors)}, {committed(tensors)}, {moved(tensors)}",
            *(f"{report['memory']['refused_count']}, {committed(report)}" for report in within),
            times(cenote)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--ops", type=int, default=1000000)
    parser.add_argument("--seeds", default="1,2,3")
    options = parser.parse_args()
    head = ["keys and values", "seed", "live, GiB", *PEERS, "cenote", "tensors",
            *(f"in {budget:.2f}x" for budget in BUDGETS), "ns"]
    print(f"| {' | '.join(head)} |")
    print("| --- " * len(head) + "|")
    for kind in ("chunked", "contiguous"):
        for seed in options.seeds.split(","):
            cells = row(options.command, kind, seed, options.ops)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
