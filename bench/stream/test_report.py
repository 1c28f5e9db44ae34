# SPDX-License-Identifier: Apache-2.0
"""The table's verdicts on records made up here: each target is met once and missed once."""
import contextlib
import io
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report

M = 3_000_000_000
D, C = 800_000_000, 16_000_000_000


def rates(rep=0):
    return dict(section="rates", name="rates", rep=rep, D=D, D_free=2 * D, C=C,
                token_s=[M / C] * 3)


META = dict(section="meta", schema="cenote.bench-stream/1", version="cenote 0", cpu="cpu",
            kernel="0", date="today", shape="2b", M=M, cap=D, notes=[], limits=True, threads=2,
            reps=1)


def ours(section, name, resident, seconds, read=None, tokens=(1, 2, 3), **more):
    """A run of two decoded tokens that read all that is not resident, or @read of each token."""
    each = M - resident if read is None else read
    decode, total = 2 * each, M + 2 * each
    record = dict(section=section, name=name, rep=0, exit_code=0, timed_out=False, oom_kills=0,
                  wall_s=1, majflt=0, cache_left_bytes=0, disk_bytes=total, process_bytes=total,
                  report=dict(token_ids=list(tokens), memory=dict(resident_weight_bytes=resident),
                              io=dict(weight_bytes_read=total, bytes_read_decode=decode),
                              time=dict(seconds_per_token=seconds, prefill_s=2.0, vision_s=1.0)))
    return dict(record, **more)


def peer(section, name, seconds, what="token", **more):
    phases = [dict(what=what, s=9, read_bytes=0)] + \
        [dict(what=what, s=seconds, read_bytes=M)] * 3
    return dict(dict(section=section, name=name, rep=0, exit_code=0, timed_out=False, oom_kills=0,
                     wall_s=1, phases=phases), **more)


def verdicts(*records):
    """{what: verdict} of the rows that have one."""
    rows = report.make_rows(report.Records([META, rates(), *records]))
    return {row.what: row.verdict for row in rows if row.measured != "not run" and row.verdict}


def one(*records):
    """The verdict of the only row that these records decide, skips left out."""
    found = {v for v in verdicts(*records).values() if v != report.SKIP}
    assert len(found) == 1, verdicts(*records)
    return found.pop()


class Verdicts(unittest.TestCase):
    def row(self, start, *records):
        found = [v for what, v in verdicts(*records).items() if what.startswith(start)]
        self.assertEqual(len(found), 1, verdicts(*records))
        return found[0]

    def test_bytes_per_token(self):
        half = M // 2
        for read, expected in ((1.029, report.PASS), (1.031, report.FAIL)):
            run = ours("budget", "0.5 M", half, 1.9, read=int(read * (M - half)))
            self.assertEqual(self.row("bytes per token", run), expected)

    def test_kernel_count(self):
        for share, expected in ((0.009, report.PASS), (0.011, report.FAIL)):
            run = ours("budget", "0.5 M", M // 2, 1.9)
            run["disk_bytes"] += int(share * M)  # two tokens of half of M
            self.assertEqual(self.row("  the kernel's count", run), expected)

    def test_less_than_64_mib_is_not_judged(self):
        run = ours("budget", "0.9 M", M - (60 << 20), 0.2, read=M)
        self.assertEqual(self.row("bytes per token", run), report.SKIP)
        self.assertEqual(self.row("seconds per token", run), report.SKIP)

    def test_seconds_against_the_bound(self):
        bound = (M / 2) / D
        for ratio, expected in ((1.14, report.PASS), (1.16, report.FAIL)):
            run = ours("budget", "0.5 M", M // 2, ratio * bound)
            self.assertEqual(self.row("seconds per token", run), expected)
        few = 80_000_000  # streamed; memory binds
        for ratio, expected in ((1.14, report.PASS), (1.16, report.FAIL)):
            run = ours("budget", "0.9 M", M - few, ratio * M / C)
            self.assertEqual(self.row("seconds per token", run), expected)

    def test_a_build_without_a_resident_set(self):
        run = ours("budget", "0.5 M", 0, 1.0)
        del run["report"]["memory"]["resident_weight_bytes"]
        self.assertEqual(self.row("bytes per token", run), report.SKIP)
        self.assertEqual(self.row("seconds per token", run), report.SKIP)

    def test_everything_resident(self):
        for ratio, expected in ((1.04, report.PASS), (1.06, report.FAIL)):
            run = ours("resident", "dense", M, ratio * M / C)
            self.assertEqual(self.row("everything resident", run), expected)

    def test_packed(self):
        plain = ours("budget", "0.5 M", M // 2, 2.0)
        for seconds, expected in ((0.99, report.PASS), (1.01, report.FAIL)):
            self.assertEqual(self.row("packed / plain", plain,
                                      ours("packed", "0.5 M", M // 2, seconds)), expected)

    def test_the_best_peer_counts(self):
        slow, fast = peer("limit", "llama 2 GiB", 4.0), peer("limit", "neurostream 2 GiB", 2.7)
        for seconds, expected in ((1.99, report.PASS), (2.01, report.FAIL)):
            run = ours("limit", "cenote 2 GiB", M // 2, seconds)
            self.assertEqual(self.row("  best peer / cenote at 2 GiB (neurostream)", slow, fast,
                                      run), expected)
        run = ours("limit", "packed 2 GiB", M // 2, 1.0)
        self.assertEqual(self.row("  best peer / packed at 2 GiB", slow, fast, run), report.FAIL)

    def test_a_killed_run_fails(self):
        alive, dead = (ours("loop", "1", 0, 1.0, oom_kills=kills) for kills in (0, 1))
        self.assertEqual(one(alive), report.PASS)
        self.assertEqual(one(alive, dead), report.FAIL)
        self.assertEqual(one(alive, ours("loop", "2", 0, 1.0, exit_code=1)), report.FAIL)

    def test_a_peer_that_is_killed_is_no_best(self):
        dead = peer("limit", "neurostream 1 GiB", 0.1, oom_kills=1)
        run = ours("limit", "cenote 1 GiB", 0, 3.0)
        self.assertEqual(self.row("  best peer / cenote at 1 GiB (llama)", dead, run,
                                  peer("limit", "llama 1 GiB", 3.7)), report.PASS)

    def test_all_resident_against_peers(self):
        run = ours("resident", "dense", M, 0.15)
        llama, other = peer("resident", "llama", 0.20), peer("resident", "transformers", 0.14)
        self.assertEqual(self.row("faster of", run, llama), report.PASS)
        self.assertEqual(self.row("faster of", run, llama, other), report.FAIL)

    def test_prefill_and_vision(self):
        phases = [dict(what=what, s=s) for what, s in
                  (("prefill", 9), ("prefill", 2.1), ("vision", 9), ("vision", 0.9))]
        theirs = peer("prefill", "transformers", 0, phases=phases)
        self.assertEqual(self.row("transformers bf16 / ours, prefill", theirs,
                                  ours("prefill", "cenote", M, None)), report.PASS)
        self.assertEqual(self.row("transformers bf16 / ours, vision", theirs,
                                  ours("vision", "cenote", M, None)), report.FAIL)

    def test_plan(self):
        took = ours("budget", "0.5 M", M // 2, 2.0)
        for said, expected in ((2.29, report.PASS), (2.31, report.FAIL), (1.69, report.FAIL)):
            plan = dict(section="plan", name="0.5 M", rep=0, exit_code=0,
                        plan=dict(forecast=dict(seconds_per_token=said)))
            self.assertEqual(self.row("plan's prediction", took, plan), expected)

    def test_lookup(self):
        plain = ours("lookup", "off", M // 2, 2.0)
        fast = ours("lookup", "lookup", M // 2, 1.0)
        self.assertEqual(self.row("plain / prompt lookup", plain, fast), report.PASS)
        self.assertEqual(self.row("plain / prompt lookup", plain,
                                  ours("lookup", "lookup", M // 2, 1.2)), report.FAIL)
        self.assertEqual(self.row("plain / prompt lookup", plain,
                                  ours("lookup", "lookup", M // 2, 1.0, tokens=(1, 2, 4))),
                         report.FAIL)

    def test_cache_and_faults(self):
        dirty = ours("budget", "0.5 M", M // 2, 1.0, cache_left_bytes=2 << 20)
        self.assertEqual(self.row("page cache", dirty), report.FAIL)
        self.assertEqual(self.row("page cache", ours("budget", "0.5 M", 0, 1.0)), report.PASS)
        self.assertEqual(self.row("major faults", ours("budget", "0.5 M", 0, 1.0, majflt=1)),
                         report.FAIL)

    def test_the_exit_code(self):
        good, bad = (ours("loop", "1", 0, 1.0, oom_kills=kills) for kills in (0, 1))
        with contextlib.redirect_stdout(io.StringIO()) as text:
            self.assertEqual(report.print_table([META, rates(), good]), 0)
            self.assertEqual(report.print_table([META, rates(), bad]), 1)
            skipped = dict(section="packed", name="0.5 M", rep=0, skip="not in this build")
            self.assertEqual(report.print_table([META, rates(), skipped]), 0)
        self.assertIn("not in this build", text.getvalue())


if __name__ == "__main__":
    unittest.main()
