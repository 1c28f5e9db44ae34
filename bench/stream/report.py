# SPDX-License-Identifier: Apache-2.0
"""The table: from the records of a run (stream.py) to what was asked, what came out, and whether
that is within the target. A ratio is taken within a round wherever both sides were in it."""
from dataclasses import dataclass
from statistics import median

MIB = 1 << 20
GIB = 1 << 30
PEERS = ("mmap", "transformers", "llama", "neurostream")

BYTES_RATIO_MAX = 1.03
COUNT_RATIO = 0.01
BOUND_RATIO_MAX = 1.15
ALL_RATIO_MAX = 1.05
PACKED_TIME_MAX = 0.5
PLAN_RATIO = 0.15
LOOKUP_MIN = 1.8
CACHE_BYTES_MAX = MIB
STREAMED_BYTES_MIN = 64 * MIB
OURS = ("packed", "dense", "cenote")  # the files too in 12 bits, resident rows alone, neither
WINS_MIN = {3: (4.0, None, 2.2), 2: (3.0, None, 1.35), 1: (1.5, None, 1.1)}  # GiB: of OURS

PASS, FAIL, NOTE, SKIP = "ok", "MISSED", "", "-"


@dataclass
class Row:
    what: str
    target: str
    measured: str
    verdict: str


# ---- reading records ----


def outcome(record):
    """What became of a run: "ok" or the reason that it has no figures."""
    if "skip" in record:
        return record["skip"]
    if record.get("oom_kills"):
        return "killed for memory"
    if record.get("timed_out"):
        return "timed out"
    if record.get("exit_code"):
        tail = (record.get("stderr") or "").strip().splitlines()
        return f"exit code {record['exit_code']}: {tail[-1][:100] if tail else ''}"
    return "ok"


def part(record, *path):
    """record[path[0]][path[1]]..., None where something on the way is missing."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def seconds_per_token(record):
    """Ours: the mean of the decoded tokens. A peer: the median of them, the first one left out,
    which is its prefill."""
    if "phases" in record:
        seconds = [phase["s"] for phase in record["phases"] if phase["what"] == "token"][1:]
        return median(seconds) if seconds else None
    return part(record, "report", "time", "seconds_per_token")


def bytes_per_token(record):
    if "phases" in record:
        read = [phase["read_bytes"] for phase in record["phases"] if phase["what"] == "token"][1:]
        return median(read) if read else None
    decode = part(record, "report", "io", "bytes_read_decode")
    tokens = len(part(record, "report", "token_ids") or [])
    if decode is not None and tokens > 1:
        return decode / (tokens - 1)
    return part(record, "report", "io", "bytes_read_per_token")


def resident_bytes(record):
    return part(record, "report", "memory", "resident_weight_bytes")


def brief(record):
    """For the progress line."""
    how, seconds = outcome(record), seconds_per_token(record)
    if how != "ok":
        return how
    if "plan" in record:
        return f"predicts {predicted_s(record)} s/token"
    if not seconds:
        return f"{record['wall_s']:.1f} s"
    return f"{seconds:.3f} s/token, {(bytes_per_token(record) or 0) / 1e9:.3f} GB/token"


def predicted_s(record):
    return part(record, "plan", "forecast", "seconds_per_token")


class Records:
    def __init__(self, records):
        self._records = records
        self.meta = next(r for r in records if r["section"] == "meta")
        self._rates = {r["rep"]: r for r in records if r["section"] == "rates"}
        self.M = self.meta["M"]

    def rate(self, record):
        return self._rates[record["rep"]]

    def rates(self):
        return list(self._rates.values())

    def named(self, section, name):
        return [r for r in self._records if r["section"] == section and r["name"] == name]

    def section(self, section):
        return [r for r in self._records if r["section"] == section]

    def good(self, section, name):
        return [r for r in self.named(section, name) if outcome(r) == "ok"]

    def why_not(self, section, name):
        """The reason of the first record that has no figures; "not run" without any."""
        bad = [outcome(r) for r in self.named(section, name) if outcome(r) != "ok"]
        return bad[0] if bad else "not run"

    def ratios(self, over, under, value=seconds_per_token):
        """@over and @under are (section, name); a ratio per round that has both."""
        below = {r["rep"]: value(r) for r in self.good(*under)}
        pairs = [(value(r), below.get(r["rep"])) for r in self.good(*over)]
        return [a / b for a, b in pairs if a and b]


def spread(values, form="{:.3f}"):
    """median (least .. most)"""
    texts = [form.format(value) for value in (median(values), min(values), max(values))]
    return f"{texts[0]} ({texts[1]} .. {texts[2]})" if len(values) > 1 else texts[0]


def judged(what, target, values, good, form="{:.3f}"):
    """A row whose median decides."""
    return Row(what, target, spread(values, form), PASS if good(median(values)) else FAIL)


def missing(what, target, why):
    """What this build or machine lacks is left out; what was tried and gave nothing has failed."""
    failed = why.startswith(("killed", "timed out", "exit code"))
    return Row(what, target, why, FAIL if failed else SKIP)


# ---- rows ----


def streamed_runs(records, name):
    """(runs of a budget that stream 64 MiB or more, why there is none)"""
    runs = records.good("budget", name)
    if not runs:
        return [], records.why_not("budget", name)
    if resident_bytes(runs[0]) is None:
        return [], "not in this build (no resident_weight_bytes)"
    runs = [r for r in runs if records.M - resident_bytes(r) >= STREAMED_BYTES_MIN]
    return runs, "less than 64 MiB is streamed"


def byte_rows(records, fraction):
    """Bytes per token against M - B, and against the kernel's own count."""
    name = f"{fraction} M"
    what, target = f"bytes per token / (M - resident), B = {name}", f"<= {BYTES_RATIO_MAX}"
    runs, why = streamed_runs(records, name)
    if not runs:
        return [missing(what, target, why)]
    rows = [judged(what, target,
                   [bytes_per_token(r) / (records.M - resident_bytes(r)) for r in runs],
                   lambda ratio: ratio <= BYTES_RATIO_MAX)]
    counted = [c for c in map(kernel_ratio, runs) if c is not None]
    if counted:
        rows.append(judged("  the kernel's count / ours, of what decoding read",
                           f"within {COUNT_RATIO:.0%}", counted,
                           lambda ratio: abs(ratio - 1) <= COUNT_RATIO, "{:.4f}"))
    return rows


def kernel_ratio(record):
    """What the kernel counted for the whole run, less what we say was read before decoding, over
    what we say decoding read: all disagreement is laid on decoding."""
    kernel = record.get("disk_bytes", record.get("process_bytes"))
    total = part(record, "report", "io", "weight_bytes_read")
    decode = (bytes_per_token(record) or 0) * (len(part(record, "report", "token_ids") or []) - 1)
    return (kernel - (total - decode)) / decode if kernel and total and decode > 0 else None


def bound_s(records, record):
    rate = records.rate(record)
    return max((records.M - resident_bytes(record)) / rate["D"], records.M / rate["C"])


def time_row(records, fraction):
    name = f"{fraction} M"
    what = f"seconds per token / max((M - B)/D, M/C), B = {name}"
    target = f"<= {BOUND_RATIO_MAX}"
    runs, why = streamed_runs(records, name)
    if not runs:
        return missing(what, target, why)
    row = judged(what, target, [seconds_per_token(r) / bound_s(records, r) for r in runs],
                 lambda ratio: ratio <= BOUND_RATIO_MAX)
    row.measured += f"; {spread([seconds_per_token(r) for r in runs])} s"
    return row


def all_row(records):
    what, target = "everything resident / no streaming at all", f"<= {ALL_RATIO_MAX}"
    runs = records.good("resident", "dense")
    if not runs:
        return missing(what, target, records.why_not("resident", "dense"))
    if resident_bytes(runs[0]) is None:
        return missing(what, target, "not in this build (no resident_weight_bytes)")
    ratios = [seconds_per_token(r) / median(records.rate(r)["token_s"]) for r in runs]
    return judged(what, target, ratios, lambda ratio: ratio <= ALL_RATIO_MAX)


def packed_rows(records):
    what, target = "packed / plain seconds per token, B = 0.5 M", f"<= {PACKED_TIME_MAX}"
    plain = ("budget", "0.5 M")
    dense = pair_row(records, "resident rows alone in 12 bits / plain, B = 0.5 M",
                     ("dense", "0.5 M"), plain)
    ratios = records.ratios(("packed", "0.5 M"), plain)
    if not ratios:
        return [dense, missing(what, target, records.why_not("packed", "0.5 M"))]
    return [dense, judged(what, target, ratios, lambda ratio: ratio <= PACKED_TIME_MAX)]


def describe_runs(records, name):
    """Seconds and bytes of a program at a limit, or what became of it."""
    runs = records.good("limit", name)
    if not runs:
        return records.why_not("limit", name)
    text = f"{spread([seconds_per_token(r) for r in runs])} s, " \
           f"{median(bytes_per_token(r) for r in runs) / 1e9:.2f} GB"
    lost = len(records.named("limit", name)) - len(runs)
    return text + (f"; {lost} of {len(runs) + lost} {records.why_not('limit', name)}" * bool(lost))


def limit_rows(records, gib):
    """A row per program at this limit, then how much faster ours is than the best of the peers."""
    at = f"{gib} GiB"
    rows = [Row(f"{name} at {at}", "", describe_runs(records, f"{name} {at}"), NOTE)
            for name in (*OURS, *PEERS)]
    medians = {peer: median(map(seconds_per_token, records.good("limit", f"{peer} {at}")))
               for peer in PEERS if records.good("limit", f"{peer} {at}")}
    best = min(medians, key=medians.get, default=None)
    for name, least in zip(OURS, WINS_MIN[gib]):
        what, target = f"  best peer / {name} at {at}", f">= {least}" if least else "printed"
        ratios = records.ratios(("limit", f"{best} {at}"), ("limit", f"{name} {at}"))
        if not ratios:
            rows.append(missing(what, target, records.why_not("limit", f"{name} {at}")))
            continue
        row = judged(f"{what} ({best})", target, ratios, lambda r, n=least or 0: r >= n, "{:.2f}")
        row.verdict = row.verdict if least else NOTE
        rows.append(row)
    return rows


def alive_row(records):
    """Every run of ours in a cage of its budget."""
    what, target = "runs killed with the cgroup at exactly the budget", "0"
    runs = [r for r in records.section("loop") if "skip" not in r]
    if not records.meta["limits"]:
        return missing(what, target, "no memory cgroup here")
    if not runs:
        return missing(what, target, "not run")
    dead = [outcome(r) for r in runs if outcome(r) != "ok"]
    return Row(what, target, f"{len(dead)} of {len(runs)}" + (f" ({dead[0]})" if dead else ""),
               FAIL if dead else PASS)


def resident_row(records):
    what, target = "faster of llama.cpp and transformers / ours, all resident", ">= 1.0"
    peers = {peer: records.ratios(("resident", peer), ("resident", "dense"))
             for peer in ("llama", "transformers")}
    peers = {peer: ratios for peer, ratios in peers.items() if ratios}
    if not peers:
        return missing(what, target, records.why_not("resident", "dense"))
    best = min(peers, key=lambda peer: median(peers[peer]))
    return judged(f"{what} ({best})", target, peers[best], lambda ratio: ratio >= 1.0, "{:.2f}")


def phase_s(record, name):
    """Seconds of a phase: ours as reported, a peer's best of those after the first."""
    if "phases" in record:
        seconds = [phase["s"] for phase in record["phases"] if phase["what"] == name][1:]
        return min(seconds) if seconds else None
    return part(record, "report", "time", f"{name}_s")


def phase_row(records, phase, title, section, peer_section, judge=True):
    """transformers warms up on the way, so one record of it may have several phases."""
    what, target = f"transformers bf16 / ours, {title}", ">= 1.0" if judge else "printed"
    peers = {r["rep"]: phase_s(r, phase) for r in records.good(peer_section, "transformers")}
    pairs = [(peers.get(r["rep"]), phase_s(r, phase)) for r in records.good(section, "cenote")]
    ratios = [theirs / mine for theirs, mine in pairs if theirs and mine]
    if not ratios:
        return missing(what, target, records.why_not(peer_section, "transformers"))
    row = judged(what, target, ratios, lambda ratio: ratio >= 1.0, "{:.2f}")
    row.verdict = row.verdict if judge else NOTE
    row.measured += f"; ours {spread([mine for _, mine in pairs if mine], '{:.2f}')} s"
    return row


def pair_row(records, what, over, under):
    """A ratio that is printed and not judged."""
    ratios = records.ratios(over, under)
    if not ratios:
        return missing(what, "printed", records.why_not(*over))
    return Row(what, "printed", spread(ratios, "{:.2f}"), NOTE)


def plan_row(records):
    """Predicted over measured at each pair; the farthest off decides."""
    what, target = "plan's prediction / measured, farthest off", f"within {PLAN_RATIO:.0%}"
    ratios = {}
    for name in dict.fromkeys(r["name"] for r in records.section("plan")):
        section = "few" if "layers" in name else "limit" if "GiB" in name else "budget"
        said = [s for s in map(predicted_s, records.good("plan", name)) if s]
        took = [s for s in map(seconds_per_token, records.good(section, name)) if s]
        if said and took:
            ratios[name] = median(said) / median(took)
    if not ratios:
        return missing(what, target, "not in this build (plan predicts no seconds)"
                       if records.section("plan") else "not run")
    worst = max(ratios.values(), key=lambda ratio: abs(ratio - 1))
    listed = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Row(what, target, f"{worst:.2f} of {len(ratios)} ({listed})",
               PASS if abs(worst - 1) <= PLAN_RATIO else FAIL)


def lookup_row(records):
    what, target = "plain / prompt lookup, a text that is copied, B = 0.5 M", f">= {LOOKUP_MIN}"
    ratios = records.ratios(("lookup", "off"), ("lookup", "lookup"))
    if not ratios:
        return missing(what, target, records.why_not("lookup", "lookup"))
    same = all(part(a, "report", "token_ids") == part(b, "report", "token_ids")
               for a in records.good("lookup", "off") for b in records.good("lookup", "lookup"))
    row = judged(what, target, ratios, lambda ratio: ratio >= LOOKUP_MIN and same, "{:.2f}")
    row.measured += "" if same else "; the tokens differ"
    return row


def clean_rows(records):
    """Page cache that our runs left, and their major faults."""
    runs = [r for r in records.section("budget") + records.section("limit")
            if outcome(r) == "ok" and "report" in r]
    left = [r["cache_left_bytes"] for r in runs if "cache_left_bytes" in r]
    what, target = "page cache left behind by a run, most", "<= 1 MiB"
    rows = [Row(what, target, f"{max(left) / MIB:.2f} MiB of {len(left)} runs",
                PASS if max(left) <= CACHE_BYTES_MAX else FAIL) if left
            else missing(what, target, "no memory cgroup here" if runs else "not run")]
    what, target = "major faults per token, most", "0"
    faults = [r["majflt"] / len(r["report"]["token_ids"]) for r in runs]
    rows.append(Row(what, target, f"{max(faults):g} of {len(faults)} runs",
                    PASS if max(faults) == 0 else FAIL) if faults
                else missing(what, target, "not run"))
    return rows


def make_rows(records):
    rows = []
    for fraction in (0.25, 0.5, 0.75, 0.9):
        rows += byte_rows(records, fraction)
    rows += [time_row(records, fraction) for fraction in (0.25, 0.5, 0.75, 0.9)]
    rows += [all_row(records), *packed_rows(records)]
    for gib in WINS_MIN:
        rows += limit_rows(records, gib)
    rows += [alive_row(records), resident_row(records),
             phase_row(records, "prefill", "prefill of 512 tokens", "prefill", "prefill"),
             phase_row(records, "prefill", "the same, both held to AVX2", "prefill avx2",
                       "prefill avx2", judge=False),
             phase_row(records, "vision", "vision of 448x448", "vision", "prefill"),
             pair_row(records, "pread / io_uring seconds per token, disk not capped, B = 0.25 M",
                      ("engine", "pread"), ("engine", "uring")),
             pair_row(records, "one thread / two, disk-bound (B = 0.25 M)", ("threads", "disk 1"),
                      ("threads", "disk 2")),
             pair_row(records, "one thread / two, everything resident", ("threads", "memory 1"),
                      ("threads", "memory 2")),
             plan_row(records), lookup_row(records)]
    return rows + clean_rows(records)


# ---- printing ----


def print_table(raw):
    """@return the exit code: 1 when a row misses its target"""
    records = Records(raw)
    meta, rates = records.meta, records.rates()
    print(f"{meta['version']}; {meta['cpu']}, Linux {meta['kernel']}, {meta['date']}, "
          f"{meta['threads']} threads, {meta['reps']} rounds; median (least .. most)")
    print(f"M = {records.M / 1e9:.3f} GB ({meta['shape']} shape, random weights)", end="")
    if rates:
        print(f", D = {spread([r['D'] / 1e9 for r in rates])} GB/s "
              f"({spread([r['D_free'] / 1e9 for r in rates])} without the cap), "
              f"C = {spread([r['C'] / 1e9 for r in rates], '{:.1f}')} GB/s", end="")
    print()
    for note in meta["notes"]:
        print(f"skipped: {note}")
    rows = [row for row in make_rows(records) if row.measured != "not run"]
    width = max(len(row.what) for row in rows)
    for row in rows:
        print(f"{row.what:{width}}  {row.target:>10}  {row.verdict:6}  {row.measured}")
    return 1 if any(row.verdict == FAIL for row in rows) else 0
