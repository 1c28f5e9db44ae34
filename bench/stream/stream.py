# SPDX-License-Identifier: Apache-2.0
"""`make bench-stream`: streaming against its bound, and against what people use today.

    stream.py --build build/release --dir build/bench-stream [--out results.jsonl] ...

Runs the cases of cases.py in rounds, appends a JSON object per run to --out, and prints the table
of report.py. Needs python 3.9 and nothing else; the peers install theirs below --dir. As root each
run sits in a memory cgroup of exactly its limit and the disk is capped; else both are left out and
said so. Exit code: 0, or 1 when a ratio or a count misses its target; seconds never fail."""
import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time

import rates
import report
from cases import SECTIONS, Workshop, loop_cases
from ours import Peers, Skip
from rig import Rig, read_text

SCHEMA = "cenote.bench-stream/1"


def parse_size(text):
    match = re.fullmatch(r"(\d+)(MiB|GiB)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 800MiB")
    return int(match[1]) * {None: 1, "MiB": 1 << 20, "GiB": 1 << 30}[match[2]]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/release", help="where cenote was built")
    parser.add_argument("--dir", default="build/bench-stream", help="checkpoints, peers, results")
    parser.add_argument("--out", help="results, a JSON object a line; default: DIR/results.jsonl")
    parser.add_argument("--shape", default="2b", choices=["2b", "tiny"])
    parser.add_argument("--reps", type=int, default=4, help="rounds; default 4")
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)},loop")
    parser.add_argument("--cap", default="800MiB", help="of the disk per second, or none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--loop", type=int, default=50, help="runs at exactly the budget")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a peer's run")
    parser.add_argument("--table", action="store_true", help="print the table of --out, run none")
    parser.add_argument("--plot", metavar="OUT.svg",
                        help="draw --out, print the README's table, run none")
    options = parser.parse_args()
    options.out = options.out or os.path.join(options.dir, "results.jsonl")
    options.cap = None if options.cap == "none" else parse_size(options.cap)
    options.build = os.path.abspath(options.build)
    return options


class Log:
    """Results on disk as they come, and in memory for the table."""

    def __init__(self, path):
        self.records = []
        self._file = open(path, "w")

    def add(self, record):
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def cpu_name():
    names = re.findall(r"^model name\s*: (.*)$", read_text("/proc/cpuinfo"), re.M)
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def say(text):
    print(f"bench-stream: {text}", file=sys.stderr, flush=True)


def measure_rates(shop, round_number):
    """D and C of this round, capped and not."""
    rig, threads = shop.rig, shop.options.threads
    capped, by = rates.disk_rate(rig, shop.weights)
    free = rates.disk_rate(rig, shop.weights, capped=False)[0] if rig.cap_bytes_per_s else capped
    memory, seconds = rates.memory_rate(rig, shop.mmap_decode, shop.checkpoint, threads)
    say(f"round {round_number + 1}: D {capped / 1e9:.2f} GB/s ({free / 1e9:.2f} without the cap), "
        f"C {memory / 1e9:.1f} GB/s")
    return dict(section="rates", name="rates", rep=round_number, D=capped, D_free=free, D_by=by,
                C=memory, token_s=seconds)


def run_case(case, round_number, log):
    record = dict(section=case.section, name=case.name, rep=round_number)
    try:
        record |= case.run()
        say(f"{case.section:9} {case.name:24} {report.brief(record)}")
    except Skip as skip:
        record["skip"] = str(skip)
        if round_number == 0:
            say(f"{case.section:9} {case.name:24} skipped: {skip}")
    log.add(record)


def collect_cases(shop, weight_bytes, wanted):
    """[(rounds, case)] of the wanted sections."""
    cases = []
    for name, (make, rounds) in SECTIONS.items():
        if name not in wanted or (name == "limit" and shop.options.shape != "2b"):
            continue
        cases += [(rounds, case) for case in make(shop, weight_bytes)]
    return cases


def run_all(options):
    rig = Rig(options.dir, options.cap)
    for note in rig.notes:
        say(f"skipped: {note}")
    try:
        shop = Workshop(options, rig)
    except Skip as skip:
        say(f"skipped: {skip}")
        return None
    weight_bytes = shop.cenote.bytes_per_token(shop.checkpoint)
    wanted = options.only.split(",") if options.only else [*SECTIONS, "loop"]
    log = Log(options.out)
    log.add(dict(section="meta", schema=SCHEMA, version=shop.cenote.version(), cpu=cpu_name(),
                 kernel=platform.release(), date=time.strftime("%Y-%m-%d %H:%M"),
                 shape=options.shape, M=weight_bytes, cap=rig.cap_bytes_per_s, notes=rig.notes,
                 limits=rig.groups.can_limit, threads=options.threads, reps=options.reps))
    cases = collect_cases(shop, weight_bytes, wanted)
    for i in range(options.reps):
        log.add(measure_rates(shop, i))
        for rounds, case in cases:
            if i < rounds:
                run_case(case, i, log)
    if "loop" in wanted:
        for case in loop_cases(shop, options.loop):
            run_case(case, 0, log)
    return log.records


def draw(options):
    here = os.path.dirname(os.path.abspath(__file__))
    python = Peers(os.path.abspath(options.dir), None).python("plot")
    return subprocess.run([python, f"{here}/figures.py", options.out, options.plot]).returncode


def interrupted(signal_number, frame):
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # the cage is being taken apart
    raise KeyboardInterrupt


def main():
    options = parse_arguments()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, interrupted)
    if options.plot:
        return draw(options)
    if options.table:
        with open(options.out) as file:
            records = [json.loads(line) for line in file]
    else:
        os.makedirs(options.dir, exist_ok=True)
        records = run_all(options)
    if records is None:
        return 0
    return report.print_table(records)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
