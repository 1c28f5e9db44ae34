#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns what other programs record into the traces that `cenote replay` reads, and back.

    convert.py pytorch snapshot.pickle [--device N]   torch.cuda.memory._snapshot(), pickled
    convert.py umpire replay.log                      UMPIRE_REPLAY's lines of JSON, old form and new
    convert.py rmm rmm.csv                            a log of RMM's logging resource
    convert.py pickle viz.json                        of `cenote replay --memory-viz`, for
                                                      pytorch.org/memory_viz

Writes to standard output (or --out FILE). Addresses become small numbers, in order of use. A log that
begins late or has holes is no fault: frees of blocks that it never saw are left out, a block whose
address is given out again was freed, and both are counted on standard error.

Files may be anybody's: pickles are read without a single class or function, numbers are checked, and
no line may be longer than LINE_MAX.
"""
import argparse
import csv
import json
import pickle
import sys

SIZE_MAX = 2**63 - 1
LINE_MAX = 2**20  # characters
JSON_MAX = 2**30  # characters


class Fault(Exception):
    """What is wrong with the file, in one line."""


class Trace:
    """Allocations and frees by address, as lines of text."""

    def __init__(self, out):
        self.out = out
        self.ids = {}  # of live blocks, by address
        self.count = 0
        self.unknown = 0
        self.missed = 0

    def alloc(self, address, size):
        if address in self.ids:
            self.missed += 1
            self.free(address)
        self.ids[address] = self.count
        self.out.write(f"a {self.count} {size}\n")
        self.count += 1

    def free(self, address):
        block = self.ids.pop(address, None)
        if block is None:
            self.unknown += 1
        else:
            self.out.write(f"f {block}\n")

    def summary(self):
        text = f"{self.count} allocations, {len(self.ids)} never freed"
        if self.unknown:
            text += f"; {self.unknown} frees of blocks from before the log left out"
        if self.missed:
            text += f"; {self.missed} frees put in that the log lacks"
        return text


def whole(value, what):
    """A number that is one, and no more than a size can be."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= SIZE_MAX:
        raise Fault(f"{what} is {value!r:.40}, not a number from 0 to {SIZE_MAX}")
    return value


def number(text, base, what):
    try:
        return whole(int(text, base), what)
    except (TypeError, ValueError):
        raise Fault(f"{what} is {text!r:.40}, not a number") from None


def lines(file):
    """Its lines; a device need not have any."""
    for index, line in enumerate(iter(lambda: file.readline(LINE_MAX + 1), ""), 1):
        if len(line) > LINE_MAX:
            raise Fault(f"line {index}: more than {LINE_MAX} characters")
        yield line


# ---- PyTorch ----


class PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, strings, numbers: what a snapshot is made of. Nothing is imported or called."""

    def find_class(self, module, name):
        raise Fault(f"the pickle asks for {module}.{name}, which no snapshot needs")


def member(holder, name, kind, what):
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise Fault(f"{what} has no {name}")
    return value


def pytorch(file, trace, device):
    """device_traces holds a list of events for each device. A block is free when its free is
    completed: between the request and that, streams may still use it."""
    try:
        snapshot = PlainUnpickler(file).load()
    except Fault:
        raise
    except Exception as fault:  # a pickle can fail in any way
        raise Fault(f"not a pickle of a snapshot: {str(fault) or type(fault).__name__}") from None
    traces = member(snapshot, "device_traces", list, "the snapshot")
    if device >= len(traces):
        raise Fault(f"device {device} of {len(traces)}")
    if not isinstance(traces[device], list):
        raise Fault("its events are no list")
    for index, event in enumerate(traces[device]):
        what = f"event {index}"
        action = member(event, "action", str, what)
        if action not in ("alloc", "free_completed", "free"):
            continue
        address = whole(event.get("addr", event.get("address")), f"{what}: addr")
        if action == "alloc":
            trace.alloc(address, whole(event.get("size"), f"{what}: size"))
        else:
            trace.free(address)


# ---- Umpire ----


class Umpire:
    """Lines of JSON in one of two forms. A reallocation is logged before and after; what it does by
    allocating and freeing is logged between, but an allocator that can grow a block in its place
    logs nothing there."""

    def __init__(self, trace):
        self.trace = trace
        self.asked = None  # (address, size) of the reallocation under way
        self.given = set()  # addresses allocated since then
        self.known = 0  # events that are of a replay log, whatever they say

    def alloc(self, address, size, what):
        address = number(address, 16, f"{what}: the address")
        self.given.add(address)
        self.trace.alloc(address, whole(size, f"{what}: size"))

    def free(self, address, what):
        self.trace.free(number(address, 16, f"{what}: the address"))

    def ask(self, address, size, what):
        self.asked = (number(address, 16, f"{what}: the address"), whole(size, f"{what}: size"))
        self.given = set()

    def answer(self, address, what):
        address = number(address, 16, f"{what}: the address")
        if self.asked is not None and address not in self.given:
            if self.asked[0] in self.trace.ids:
                self.trace.free(self.asked[0])
            self.trace.alloc(address, self.asked[1])
        self.asked = None

    def old(self, event, what):
        """"event" and "payload"; an allocation is logged twice, the second time with its result."""
        name, result = event.get("event"), event.get("result")
        if name not in ("allocate", "deallocate", "reallocate"):
            return
        payload = member(event, "payload", dict, what)
        if name == "deallocate":
            self.free(member(payload, "memory_ptr", str, what), what)
        elif name == "reallocate" and result is None:
            self.ask(member(payload, "ptr", str, what), payload.get("size"), what)
        elif name == "reallocate":
            self.answer(member(result, "memory_ptr", str, what), what)
        elif result is not None:
            self.alloc(member(result, "memory_ptr", str, what), payload.get("size"), what)

    def new(self, event, what):
        """"name", "numeric_args" and "string_args"."""
        name = event.get("name")
        if name not in ("allocate", "named_allocate", "deallocate", "reallocate"):
            return
        texts = member(event, "string_args", dict, what)
        numbers = event.get("numeric_args")
        size = numbers.get("size") if isinstance(numbers, dict) else None
        if name == "deallocate":
            self.free(member(texts, "pointer", str, what), what)
        elif name != "reallocate":
            self.alloc(member(texts, "pointer", str, what), size, what)
        elif "new_ptr" in texts:
            self.answer(texts["new_ptr"], what)
        else:
            self.ask(member(texts, "current_ptr", str, what), size, what)

    def line(self, event, what):
        self.known += "event" in event or "name" in event
        (self.old if "event" in event else self.new)(event, what)


def umpire(file, trace):
    log = Umpire(trace)
    for index, line in enumerate(lines(file), 1):
        if not line.lstrip().startswith("{"):
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            if line.endswith("\n"):
                raise Fault(f"line {index}: not JSON") from None
            print("convert.py: the last line is cut off and left out", file=sys.stderr)
            break
        log.line(event, f"line {index}")
    if log.known == 0:
        raise Fault("no line is of a replay log")


# ---- RMM ----


def rows(file):
    reader = csv.reader(lines(file))
    try:
        yield from reader
    except csv.Error as fault:
        raise Fault(f"line {reader.line_num}: {fault}") from None


def rmm(file, trace):
    columns = None
    for index, row in enumerate(rows(file), 1):
        if "Action" in row and "Pointer" in row and "Size" in row:
            columns = {name: at for at, name in enumerate(row)}  # again for each device
            continue
        if columns is None or not row:
            continue
        if len(row) < len(columns):
            raise Fault(f"line {index}: {len(row)} fields of {len(columns)}")
        action = row[columns["Action"]].strip()
        if action not in ("allocate", "free", "deallocate"):
            continue  # an allocate failure is no block
        address = number(row[columns["Pointer"]], 16, f"line {index}: Pointer")
        if action == "allocate":
            trace.alloc(address, number(row[columns["Size"]], 10, f"line {index}: Size"))
        else:
            trace.free(address)
    if columns is None:
        raise Fault("no line names the columns Action, Pointer and Size")


# ---- the command ----


def to_pickle(file, out):
    try:
        text = file.read(LINE_MAX)
        if text.lstrip()[:1] == "{":  # else it may be a device, which never ends
            text += file.read(JSON_MAX)
        snapshot = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise Fault(f"not JSON: {fault}") from None
    member(snapshot, "segments", list, "the file")
    member(snapshot, "device_traces", list, "the file")
    pickle.dump(snapshot, out, protocol=4)


def convert(options, out):
    if options.form == "pickle":
        with open(options.path, encoding="utf-8") as file:
            return to_pickle(file, out)
    trace = Trace(out)
    if options.form == "pytorch":
        with open(options.path, "rb") as file:
            pytorch(file, trace, options.device)
    else:
        with open(options.path, encoding="utf-8", errors="replace", newline="") as file:
            (umpire if options.form == "umpire" else rmm)(file, trace)
    print(f"convert.py: {trace.summary()}", file=sys.stderr)
    return None


def main():
    parser = argparse.ArgumentParser(
        description="What other programs record, as the traces that cenote replay reads.")
    parser.add_argument("form", choices=["pytorch", "umpire", "rmm", "pickle"])
    parser.add_argument("path", metavar="FILE")
    parser.add_argument("--device", type=int, default=0, help="of a PyTorch snapshot; default: 0")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    options = parser.parse_args()
    if options.device < 0:
        parser.error("--device is below 0")
    binary = options.form == "pickle"
    try:
        if options.out is None:
            convert(options, sys.stdout.buffer if binary else sys.stdout)
        else:
            with open(options.out, "wb" if binary else "w", encoding=None if binary else "ascii",
                      newline=None if binary else "\n") as out:
                convert(options, out)
    except Fault as fault:
        print(f"convert.py: {options.path}: {fault}", file=sys.stderr)
        return 5
    except OSError as fault:
        print(f"convert.py: {fault}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"convert.py: {options.path}: there is no memory for it", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
