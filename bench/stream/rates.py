# SPDX-License-Identifier: Apache-2.0
"""D, the rate of the disk, and C, the rate at which the kernels consume weights from memory.

    rates.py FILE SECONDS     D by own reads; rates.disk_rate() runs it inside the cage

D is of direct reads of 1 MiB, eight at a time, inside the same cap as the runs: by fio where that
is installed and by the reader below, whichever is faster. A cap lets a little more through at its
beginning, so D is never taken for more than the cap."""
import json
import mmap
import os
import shutil
import statistics
import sys
import threading
import time

CHUNK_BYTES = 1 << 20
DEPTH = 8
SECONDS = 2


def read_share(path, rank, until_s, out_bytes):
    """Reads every DEPTH-th chunk of the file, over and over."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    chunks = os.fstat(descriptor).st_size // CHUNK_BYTES
    buffer = mmap.mmap(-1, CHUNK_BYTES)  # page-aligned, as O_DIRECT wants
    chunk = rank
    while time.monotonic() < until_s:
        out_bytes[rank] += os.preadv(descriptor, [buffer], chunk % chunks * CHUNK_BYTES)
        chunk += DEPTH
    os.close(descriptor)


def read_rate(path, seconds):
    got = [0] * DEPTH
    start_s = time.monotonic()
    readers = [threading.Thread(target=read_share, args=(path, i, start_s + seconds, got))
               for i in range(DEPTH)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return sum(got) / (time.monotonic() - start_s)


def fio_rate(rig, path, engine, capped):
    report = os.path.join(os.path.dirname(path), "..", "fio.json")
    outcome = rig.run(["fio", "--name=d", f"--filename={path}", "--readonly", "--rw=read",
                       "--bs=1M", f"--iodepth={DEPTH}", f"--ioengine={engine}", "--direct=1",
                       "--time_based", f"--runtime={SECONDS}", "--output-format=json",
                       f"--output={report}"], capped=capped)
    if outcome["exit_code"] != 0:
        return None
    with open(report) as file:
        text = file.read()
    return json.loads(text[text.index("{"):])["jobs"][0]["read"]["bw_bytes"]


def own_rate(rig, path, capped):
    outcome = rig.run([sys.executable, __file__, path, str(SECONDS)], capped=capped)
    return outcome["lines"][0]["bytes_per_s"] if outcome["exit_code"] == 0 else None


def disk_rate(rig, path, capped=True):
    """@return (bytes/s, who measured): the faster of the readers, which is the stricter bound."""
    rates = {"own reads": own_rate(rig, path, capped)}
    if shutil.which("fio"):
        rates["fio"] = fio_rate(rig, path, "io_uring", capped) or \
            fio_rate(rig, path, "libaio", capped)
    rates = {by: rate for by, rate in rates.items() if rate}
    if not rates:
        raise SystemExit(f"{path}: no direct read works here")
    by = max(rates, key=rates.get)
    if capped and rig.cap_bytes_per_s:
        return min(rates[by], rig.cap_bytes_per_s), by
    return rates[by], by


def memory_rate(rig, mmap_decode, checkpoint, threads, tokens=8):
    """@return C in bytes/s and the seconds of each token with every matrix in memory."""
    outcome = rig.run([mmap_decode, checkpoint, "memory", "--threads", str(threads), "--tokens",
                       str(tokens + 1)], capped=False)
    seconds = [line["s"] for line in outcome["lines"]][1:]
    if not seconds:
        raise SystemExit(f"{mmap_decode}: {outcome['stderr']}")
    return outcome["lines"][0]["weight_bytes"] / statistics.median(seconds), seconds


if __name__ == "__main__":
    print(json.dumps(dict(bytes_per_s=read_rate(sys.argv[1], float(sys.argv[2])))))
