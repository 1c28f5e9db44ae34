# SPDX-License-Identifier: Apache-2.0
"""The plot and the table of the README, from the records of stream.py.

    figures.py RESULTS.jsonl OUT.svg      the table goes to standard output; needs matplotlib

Seconds per token against the limit of the whole process: ours plain and packed, the peers, and the
bound max((M - B)/D, M/C) with B what the limit leaves beside our smallest budget."""
import json
import sys
from statistics import median

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import report
from report import GIB, MIB, Records, bytes_per_token, seconds_per_token

BESIDE_BYTES = 64 * MIB  # about our smallest budget for a short text prompt of the 2B shape
LIMITS = (1, 2, 3)
NONE_AT = 4.0  # where "no limit" stands on the axis
LINES = (("packed", "cenote, files packed", "#0b6e4f", "o-"),
         ("dense", "cenote", "#2a9d8f", "s-"), ("cenote", "cenote --unpacked", "#83c5be", "s-"),
         ("neurostream", "neurostream 0.2.1, bfloat16", "#7b5ea7", "^--"),
         ("llama", "llama.cpp BF16, mmap", "#c8553d", "v--"),
         ("transformers", "transformers 4.57.6, bf16", "#e09f3e", "D--"),
         ("mmap", "our kernels over mmap", "#8d99ae", "x--"))


def points(records, name):
    """[(GiB, seconds)] of a program, the run without a limit last."""
    found = []
    for gib in LIMITS:
        runs = records.good("limit", f"{name} {gib} GiB")
        if runs:
            found.append((gib, median(map(seconds_per_token, runs))))
    runs = records.good("resident", name)
    if runs:
        found.append((NONE_AT, median(map(seconds_per_token, runs))))
    return found


def bound_points(records):
    D = median(r["D"] for r in records.rates())
    C = median(r["C"] for r in records.rates())
    limits = [0.4 + i / 50 for i in range(int((NONE_AT - 0.4) * 50) + 1)]
    left = [max(0, min(records.M, gib * GIB - BESIDE_BYTES)) for gib in limits]
    return limits, [max((records.M - b) / D, records.M / C) for b in left]


def plot(records, path):
    plt.rcParams.update({"svg.hashsalt": "cenote", "svg.fonttype": "none", "font.size": 10,
                         "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    axes.plot(*bound_points(records), color="black", linewidth=1, linestyle=":",
              label="bound, bf16: max((M - B)/D, M/C)")
    for name, title, colour, style in LINES:
        found = points(records, name)
        if found:
            axes.plot(*zip(*found), style, color=colour, label=title, markersize=5)
    cap = records.meta["cap"]
    axes.set_xlabel("memory limit of the whole process")
    axes.set_ylabel("seconds per token")
    axes.set_title("Qwen3-VL-2B shape, bf16, " +
                   (f"disk at {cap // MIB} MiB/s, " if cap else "") +
                   f"{records.meta['threads']} threads", fontsize=10)
    axes.set_xticks([*LIMITS, NONE_AT], [*(f"{gib} GiB" for gib in LIMITS), "none"])
    axes.set_xlim(0.4, NONE_AT + 0.15)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    figure.legend(loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, metadata={"Date": None})


def cell(records, section, name):
    runs = records.good(section, name)
    if not runs:
        why = records.why_not(section, name)
        return "killed" if why.startswith("killed") else "" if why == "not run" else why
    seconds = median(map(seconds_per_token, runs))
    return f"{seconds:.2f} s, {median(map(bytes_per_token, runs)) / 1e9:.2f} GB"


def print_readme_table(records):
    print("| seconds and bytes read per token | no limit | 3 GiB | 2 GiB | 1 GiB |")
    print("| --- | --- | --- | --- | --- |")
    for name, title, _, _ in LINES:
        cells = [cell(records, "resident", name)]
        cells += [cell(records, "limit", f"{name} {gib} GiB") for gib in (3, 2, 1)]
        print(f"| {title} | {' | '.join(cells)} |")


def main():
    results, out = sys.argv[1:]
    with open(results) as file:
        records = Records([json.loads(line) for line in file])
    plot(records, out)
    print_readme_table(records)


main()
