#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small logs of each form, written for this test, and what becomes of them."""
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import unittest

import convert

HERE = os.path.dirname(os.path.abspath(__file__))


def text_of(read, source, *rest):
    out = io.StringIO()
    trace = convert.Trace(out)
    read(source, trace, *rest)
    return out.getvalue(), trace


class PyTorch(unittest.TestCase):
    EVENTS = [
        {"action": "segment_alloc", "addr": 4096, "size": 2097152, "stream": 0},
        {"action": "free_completed", "addr": 999, "size": 512, "stream": 0},
        {"action": "alloc", "addr": 4096, "size": 512, "stream": 0, "frames": []},
        {"action": "alloc", "addr": 8192, "size": 1024, "stream": 0, "frames": []},
        {"action": "free_requested", "addr": 4096, "size": 512, "stream": 0},
        {"action": "free_completed", "addr": 4096, "size": 512, "stream": 0},
        {"action": "alloc", "addr": 4096, "size": 0, "stream": 0},
        {"action": "alloc", "addr": 4096, "size": 7, "stream": 0},
        {"action": "oom", "size": 5, "device_free": 3, "stream": 0},
    ]

    def read(self, data, device=0):
        return text_of(convert.pytorch, io.BytesIO(data), device)

    def test_events(self):
        data = pickle.dumps({"segments": [], "device_traces": [[], self.EVENTS]})
        text, trace = self.read(data, 1)
        self.assertEqual(text, "a 0 512\na 1 1024\nf 0\na 2 0\nf 2\na 3 7\n")
        self.assertEqual((trace.unknown, trace.missed, len(trace.ids)), (1, 1, 2))
        self.assertEqual(self.read(data, 0)[0], "")

    def test_nothing_is_called(self):
        class Evil:
            def __reduce__(self):
                return (os.mkdir, ("/tmp/it-was-called",))

        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            data = pickle.dumps({"device_traces": [Evil()]}, protocol=protocol)
            with self.assertRaisesRegex(convert.Fault, "mkdir, which no snapshot needs"):
                self.read(data)
        self.assertFalse(os.path.exists("/tmp/it-was-called"))

    def test_refused(self):
        for value, words in (
                (b"", "not a pickle"), (b"\x80\x04garbage", "not a pickle"),
                (pickle.dumps([]), "no device_traces"), (pickle.dumps({}), "no device_traces"),
                (pickle.dumps({"device_traces": []}), "device 0 of 0"),
                (pickle.dumps({"device_traces": [5]}), "no list"),
                (pickle.dumps({"device_traces": [[5]]}), "event 0 has no action"),
                (pickle.dumps({"device_traces": [[{"action": "alloc", "addr": -1, "size": 1}]]}),
                 "event 0: addr is -1"),
                (pickle.dumps({"device_traces": [[{"action": "alloc", "addr": 1, "size": True}]]}),
                 "event 0: size is True"),
                (pickle.dumps({"device_traces": [[{"action": "alloc", "addr": 1,
                                                   "size": 2**63}]]}), "event 0: size")):
            with self.assertRaisesRegex(convert.Fault, words):
                self.read(value)


class Umpire(unittest.TestCase):
    def test_old_form(self):
        head = '{ "kind":"replay", "uid":7, "timestamp":1, '
        pool = '"payload": { "allocator_ref": "0x5500", "size": 300 }'
        log = ("a line of something else\n"
               + head + '"event": "makeAllocator", "payload": { "type": "x" } }\n'
               + head + '"event": "allocate", ' + pool + " }\n"
               + head + '"event": "allocate", ' + pool + ', "result": { "memory_ptr": "0xa0" } }\n'
               + head + '"event": "deallocate", "payload": { "memory_ptr": "0xa0" } }\n'
               + head + '"event": "deallocate", "payload": { "memory_ptr": "0xb0" } }\n'
               + head + '"event": "alloc')
        text, trace = text_of(convert.umpire, io.StringIO(log))
        self.assertEqual(text, "a 0 300\nf 0\n")
        self.assertEqual(trace.unknown, 1)

    def test_new_form(self):
        def line(name, pointer, **numbers):
            return json.dumps({"category": "operation", "name": name, "numeric_args": numbers,
                               "string_args": {"allocator_ref": "0x1", "pointer": pointer}}) + "\n"
        log = (line("allocate", "0x10", size=64) + line("named_allocate", "0x20", size=1)
               + line("something", "zzz") + line("deallocate", "0x10"))
        self.assertEqual(text_of(convert.umpire, io.StringIO(log))[0], "a 0 64\na 1 1\nf 0\n")

    def test_reallocations(self):
        def line(**texts):
            size = texts.pop("size", None)
            numbers = {} if size is None else {"size": size}
            return json.dumps({"name": texts.pop("name", "reallocate"), "numeric_args": numbers,
                               "string_args": texts}) + "\n"
        log = (line(size=4, current_ptr="0")  # by an allocation that is logged
               + line(name="allocate", size=4, pointer="0x10") + line(new_ptr="0x10")
               + line(size=12, current_ptr="0x10") + line(new_ptr="0x10")  # in its place
               + line(size=30, current_ptr="0x10") + line(new_ptr="0x20")  # elsewhere
               + line(size=31, current_ptr="0x20") + line(name="deallocate", pointer="0x20")
               + line(name="allocate", size=31, pointer="0x20") + line(new_ptr="0x20"))
        self.assertEqual(text_of(convert.umpire, io.StringIO(log))[0],
                         "a 0 4\nf 0\na 1 12\nf 1\na 2 30\nf 2\na 3 31\n")
        old = ('{"event": "reallocate", "payload": {"ptr": "0x0", "size": 9}}\n'
               '{"event": "reallocate", "payload": {"ptr": "0x0", "size": 9}, '
               '"result": {"memory_ptr": "0x30"}}\n')
        self.assertEqual(text_of(convert.umpire, io.StringIO(old))[0], "a 0 9\n")

    def test_refused(self):
        for log, words in (
                ("SQLite format 3\n", "no line is of a replay log"),
                ("\n{]\n", "line 2: not JSON"),
                ('{"name": "allocate", "string_args": {"pointer": "0x1"}}\n', "size is None"),
                ('{"name": "deallocate", "string_args": {"pointer": "zz"}}\n', "the address is 'zz'"),
                ('{"event": "deallocate", "payload": 3}\n', "line 1 has no payload"),
                ('{"event": "allocate", "payload": 3, "result": {"memory_ptr": "0x1"}}\n',
                 "line 1 has no payload")):
            with self.assertRaisesRegex(convert.Fault, words):
                text_of(convert.umpire, io.StringIO(log))


class Rmm(unittest.TestCase):
    LOG = ("Thread,Time,Action,Pointer,Size,Stream\r\n"
           "12,10:00:00.000001,allocate,0x7f00,1000,0x0\r\n"
           "12,10:00:00.000002,allocate failure,(nil),99999999,0x0\r\n"
           "13,10:00:00.000003,allocate,0x8f00,0,0x2\r\n"
           "12,10:00:00.000004,free,0x7f00,1000,0x0\r\n"
           "12,10:00:00.000005,deallocate,0x8f00,0,0x0\r\n")

    def test_rows(self):
        self.assertEqual(text_of(convert.rmm, io.StringIO(self.LOG, newline=""))[0],
                         "a 0 1000\na 1 0\nf 0\nf 1\n")

    def test_refused(self):
        head = "Thread,Time,Action,Pointer,Size,Stream\n"
        for log, words in (("", "no line names"), ("1,2,allocate,0x1,5,0\n", "no line names"),
                           (head + "1,2,free\n", "line 2: 3 fields of 6"),
                           (head + "1,2,allocate,0x1,-5,0\n", "line 2: Size"),
                           (head + "1,2,allocate,0x1,x,0\n", "line 2: Size"),
                           (head + "1,2,free,nowhere,5,0\n", "line 2: Pointer")):
            with self.assertRaisesRegex(convert.Fault, words):
                text_of(convert.rmm, io.StringIO(log))


class Command(unittest.TestCase):
    """The script, and with a command in CENOTE what it makes of the result."""

    def run_it(self, *arguments, code=0):
        done = subprocess.run([sys.executable, os.path.join(HERE, "convert.py"), *arguments],
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def test_command(self):
        with tempfile.TemporaryDirectory() as folder:
            log, out = os.path.join(folder, "log"), os.path.join(folder, "out")
            with open(log, "w", encoding="ascii") as file:
                file.write(Rmm.LOG)
            done = self.run_it("rmm", log, "--out", out)
            self.assertIn(b"2 allocations, 0 never freed", done.stderr)
            with open(out, encoding="ascii") as file:
                self.assertEqual(file.read(), "a 0 1000\na 1 0\nf 0\nf 1\n")
            self.run_it("pytorch", log, code=5)
            self.run_it("rmm", os.path.join(folder, "nowhere"), code=1)
            self.run_it("rmm", folder, code=1)
            with open(log, "w", encoding="ascii") as file:
                file.write("Action,Pointer,Size\nallocate,0x1,\"" + "x" * 200000)
            self.assertRegex(self.run_it("rmm", log, code=5).stderr.decode(),
                             "^convert.py: .*: line 2: field larger than field limit.*\n$")
            for form in ("pytorch", "umpire", "rmm", "pickle"):  # what never ends does
                error = self.run_it(form, "/dev/zero", code=5).stderr.decode()
                self.assertRegex(error, "^convert.py: /dev/zero: .*\n$")
                self.assertEqual(error.count("\n"), 1)
            self.run_it("pickle", log, code=5)

    @unittest.skipUnless(os.environ.get("CENOTE"), "CENOTE names no command")
    def test_there_and_back(self):
        """A trace drawn for PyTorch's viewer is, converted back, the same trace."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("in", "viz.json", "viz.pickle")]
            with open(paths[0], "w", encoding="ascii") as file:
                file.write("a 0 100\na 1 70000\nf 0\na 2 5\na 3 300000\nf 2\n"
                           "a 4 5000000\nf 4\n")
            for allocator in ("cenote", "buddy", "best-fit", "first-fit"):
                subprocess.run([os.environ["CENOTE"], "replay", paths[0], "--allocator", allocator,
                                "--memory-viz", paths[1]], check=True, capture_output=True)
                self.run_it("pickle", paths[1], "--out", paths[2])
                self.assertEqual(self.run_it("pytorch", paths[2]).stdout,
                                 b"a 0 100\na 1 70000\nf 0\na 2 5\na 3 300000\nf 2\n"
                                 b"a 4 5000000\nf 4\n")
                with open(paths[1], encoding="ascii") as file:
                    segments = json.load(file)["segments"]
                self.assertEqual(len(segments), 1)
                blocks = segments[0]["blocks"]
                self.assertEqual(sum(b["size"] for b in blocks), segments[0]["total_size"])
                live = [b["size"] for b in blocks if b["state"] == "active_allocated"]
                self.assertEqual(sorted(live), [70000, 300000])
                self.assertEqual(segments[0]["active_size"], 370000)


if __name__ == "__main__":
    unittest.main()
