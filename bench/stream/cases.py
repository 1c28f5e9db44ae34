# SPDX-License-Identifier: Apache-2.0
"""What is run: a list of cases for each section of the table. A case is one program in one cage;
the driver runs them round after round, so that what disturbs a machine disturbs all of them alike.

A case that this build or this machine cannot do raises Skip; its row says why."""
import os
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import Callable

import copying
import ours
from ours import FILLER, GIB, MIB, SENTENCE, Skip

import peers as peer_table

FRACTIONS = (0.25, 0.5, 0.75, 0.9)
LIMITS = (3 * GIB, 2 * GIB, 1 * GIB)
DECODED = 6  # tokens after the first
PEER_DECODED = 3
LOOKUP_DECODED = 24
REPEATS = 3  # of the sentence in a prompt
PREFILL_TOKENS = 512
PICTURE_SIDE = 448
FEW_LAYERS = 8
ALL_SLACK_BYTES = 64 * MIB
LOOP_BUDGETS = (None, 256 * MIB, 512 * MIB, 1 * GIB, 2 * GIB, 3 * GIB)  # None: the smallest
PREDICTED_LIMITS = (2 * GIB, 1 * GIB)

NO_BUILD = "not in this build"


@dataclass
class Case:
    section: str
    name: str
    run: Callable[[], dict]  # what goes into the record
    about: dict = field(default_factory=dict)


def write_noise_png(path, side):
    """A picture that no decoder finds easy; bytes from a fixed seed."""
    noise = random.Random(0)
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + \
            struct.pack(">I", zlib.crc32(kind + data))

    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" +
                   chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) +
                   chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def forget_pages(*directories_or_files):
    """Drops what the page cache holds of these files, so that each run begins cold."""
    for path in directories_or_files:
        files = [os.path.join(path, name) for name in os.listdir(path)] \
            if os.path.isdir(path) else [path]
        for name in files:
            if name.endswith((".safetensors", ".gguf")) and os.path.exists(name):
                descriptor = os.open(name, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


class Workshop:
    """Checkpoints, prompts and programs that the cases share."""

    def __init__(self, options, rig):
        self.options = options
        self.rig = rig
        self.directory = os.path.abspath(options.dir)
        os.makedirs(self.directory, exist_ok=True)
        self.cenote = ours.Cenote(os.path.join(options.build, "cli", "cenote"),
                                  os.path.join(self.directory, "cache"), options.threads)
        self.tool = os.path.join(options.build, "tools", "make_checkpoint")
        self.mmap_decode = os.path.join(options.build, "bench", "mmap_decode")
        self.peers = peer_table.Peers(self.directory, self.mmap_decode)
        self.checkpoint = ours.make_checkpoint(self.tool, options.shape,
                                               os.path.join(self.directory, options.shape))
        self.weights = os.path.join(self.checkpoint, "model.safetensors")
        self.prompt = SENTENCE * REPEATS
        self.sentence_ids = self._prompt_ids(SENTENCE)
        self.ids = self._write_ids("ids.json", self.sentence_ids * REPEATS)
        self._packed = False

    def _prompt_ids(self, text):
        """One run warms the page cache for what is not weights and says what the text becomes."""
        command = self.cenote.run_command(self.checkpoint, 256 * MIB, text, 1)
        outcome = self.rig.run(command, capped=False, env=self.cenote.env)
        if not outcome["lines"]:
            raise SystemExit(f"{' '.join(command)}: {outcome['stderr']}")
        return outcome["lines"][0]["prompt_token_ids"]

    def _write_ids(self, name, ids):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(str(ids))
        return path

    def long_prompt(self):
        """Text of exactly PREFILL_TOKENS tokens, and the file of its ids."""
        units, rest = divmod(PREFILL_TOKENS, len(self.sentence_ids))
        ids = self.sentence_ids * units + self.sentence_ids[:1] * rest
        return SENTENCE * units + FILLER * rest, self._write_ids("long-ids.json", ids)

    def picture(self):
        path = os.path.join(self.directory, f"noise-{PICTURE_SIDE}.png")
        if not os.path.exists(path):
            write_noise_png(path, PICTURE_SIDE)
        return path

    def budget_for(self, checkpoint, weight_bytes, tokens):
        """A budget that leaves about @weight_bytes for weights."""
        smallest = self.cenote.smallest_budget(checkpoint, len(self.sentence_ids) * REPEATS, tokens)
        return (smallest + int(weight_bytes) + 8 * MIB + 4095) // 4096 * 4096

    def few_layers(self):
        path = os.path.join(self.directory, f"{self.options.shape}-{FEW_LAYERS}-layers")
        return ours.make_fewer_layers(self.tool, self.checkpoint, path, FEW_LAYERS)

    def copying(self):
        path = os.path.join(self.directory, f"{self.options.shape}-copying")
        if not os.path.exists(os.path.join(path, "copying.json")):
            ours.make_checkpoint(self.tool, self.options.shape, path)
            copying.make_copying(path, self.sentence_ids)
        return path

    # ---- runs ----

    def ours(self, memory_bytes, *flags, checkpoint=None, prompt=None, decoded=DECODED,
             capped=True, threads=None):
        """`cenote run` with its budget as the cage's limit. @return a record's part"""
        command = self.cenote.run_command(checkpoint or self.checkpoint, memory_bytes,
                                          prompt or self.prompt, decoded + 1, *flags,
                                          threads=threads)
        forget_pages(checkpoint or self.checkpoint)
        outcome = self.rig.run(command, limit_bytes=memory_bytes, capped=capped,
                               env=self.cenote.env)
        lines = outcome.pop("lines")
        report = lines[-1] if lines else None
        return dict(outcome, report=report, memory_bytes=memory_bytes, decoded=decoded)

    def ours_resident(self, memory_bytes, message, isa=None):
        """Prefill of @message with all weights in memory already: a message before it saw to that.
        @return a record's part, about the second message"""
        command = self.cenote.chat_command(self.checkpoint, memory_bytes)
        env = dict(self.cenote.env, **({"CENOTE_ISA": isa} if isa else {}))
        outcome = self.rig.run(command, limit_bytes=memory_bytes, capped=False, env=env,
                               typed=f"{FILLER}\n{message}\n")
        lines = outcome.pop("lines")
        return dict(outcome, report=lines[-1] if lines else None, memory_bytes=memory_bytes)

    def peer(self, name, limit_bytes, decoded=PEER_DECODED, capped=True, ids=None, env=None,
             **more):
        command = getattr(self.peers, name)(self.checkpoint, ids or self.ids, limit_bytes,
                                            self.options.threads, decoded + 1, **more)
        forget_pages(self.checkpoint, self.peers.gguf(self.checkpoint))
        outcome = self.rig.run(command, limit_bytes=limit_bytes, capped=capped, env=env,
                               timeout_s=self.options.timeout)
        outcome["phases"] = outcome.pop("lines")
        return dict(outcome, decoded=decoded)

    def predicted(self, memory_bytes, *flags, checkpoint=None):
        """What `cenote plan` says of a run that ours() makes."""
        command = self.cenote.plan_command(checkpoint or self.checkpoint, memory_bytes,
                                           len(self.sentence_ids) * REPEATS, DECODED + 1, *flags)
        outcome = self.rig.run(command, env=self.cenote.env)
        lines = outcome.pop("lines")
        return dict(outcome, plan=lines[-1] if lines else None, memory_bytes=memory_bytes)

    def plain_flags(self):
        """Every weight as it is in the file, in memory too."""
        return ["--unpacked"] if self.cenote.has_option("unpacked") else []

    def dense_flags(self):
        """Resident rows in 12 bits, which is the default of builds that can."""
        if not self.cenote.has_option("unpacked"):
            raise Skip(NO_BUILD)
        return []

    def packed_flags(self):
        if not self.cenote.has_command("pack") or not self.cenote.has_option("cache"):
            raise Skip(NO_BUILD)
        flags = ["--cache", os.path.join(self.directory, "packed")]
        if not self._packed:
            self.cenote.pack(self.checkpoint, *flags)
            self._packed = True
        return flags

    def option(self, name, value):
        if not self.cenote.has_option(name):
            raise Skip(NO_BUILD)
        return [f"--{name}", value]


# ---- sections ----


def budget_cases(shop, weight_bytes):
    """Weights as they are in the file; then the same budget with resident rows in 12 bits, and
    with those on the disk in 12 bits too."""
    for fraction in FRACTIONS:
        memory = shop.budget_for(shop.checkpoint, fraction * weight_bytes, DECODED + 1)
        yield Case("budget", f"{fraction} M",
                   lambda memory=memory: shop.ours(memory, *shop.plain_flags()))
    memory = shop.budget_for(shop.checkpoint, 0.5 * weight_bytes, DECODED + 1)
    yield Case("dense", "0.5 M", lambda: shop.ours(memory, *shop.dense_flags()))
    yield Case("packed", "0.5 M", lambda: shop.ours(memory, *shop.packed_flags()))


def all_budget(shop, weight_bytes):
    return shop.budget_for(shop.checkpoint, weight_bytes + ALL_SLACK_BYTES, DECODED + 1)


def peer_cases(shop, weight_bytes):
    for limit in LIMITS:
        name = f"{limit // GIB} GiB"
        yield Case("limit", f"cenote {name}",
                   lambda limit=limit: shop.ours(limit, *shop.plain_flags()))
        yield Case("limit", f"dense {name}",
                   lambda limit=limit: shop.ours(limit, *shop.dense_flags()))
        yield Case("limit", f"packed {name}",
                   lambda limit=limit: shop.ours(limit, *shop.packed_flags()))
        for peer in peer_table.NAMES:
            yield Case("limit", f"{peer} {name}",
                       lambda limit=limit, peer=peer: shop.peer(peer, limit))


def resident_cases(shop, weight_bytes):
    memory = all_budget(shop, weight_bytes)
    yield Case("resident", "dense", lambda: shop.ours(memory, capped=False))
    for peer in ("llama", "transformers"):
        yield Case("resident", peer,
                   lambda peer=peer: shop.peer(peer, None, decoded=DECODED, capped=False))


def prefill_cases(shop, weight_bytes):
    memory = all_budget(shop, weight_bytes) + GIB  # activations of the prompt and the picture
    prompt, ids = shop.long_prompt()
    yield Case("prefill", "cenote", lambda: shop.ours_resident(memory, prompt))
    yield Case("vision", "cenote",
               lambda: shop.ours(memory, "--image", shop.picture(), decoded=0, capped=False))
    yield Case("prefill", "transformers",
               lambda: shop.peer("transformers", None, decoded=0, capped=False, ids=ids,
                                 only="prefill,vision"))
    # what a processor without bf16 dot products does, as most laptops' are
    yield Case("prefill avx2", "cenote", lambda: shop.ours_resident(memory, prompt, isa="avx2"))
    yield Case("prefill avx2", "transformers",
               lambda: shop.peer("transformers", None, decoded=0, capped=False, ids=ids,
                                 only="prefill", env={"ONEDNN_MAX_CPU_ISA": "AVX2",
                                                      "ATEN_CPU_CAPABILITY": "avx2"}))


def engine_cases(shop, weight_bytes):
    memory = shop.budget_for(shop.checkpoint, 0.25 * weight_bytes, DECODED + 1)
    for engine in ("uring", "pread"):
        yield Case("engine", engine,
                   lambda engine=engine: shop.ours(memory, *shop.plain_flags(),
                                                   *shop.option("io", engine), capped=False))


def thread_cases(shop, weight_bytes):
    disk = shop.budget_for(shop.checkpoint, 0.25 * weight_bytes, DECODED + 1)
    memory = all_budget(shop, weight_bytes)
    for threads in (1, 2):
        yield Case("threads", f"disk {threads}",
                   lambda threads=threads: shop.ours(disk, threads=threads))
        yield Case("threads", f"memory {threads}",
                   lambda threads=threads: shop.ours(memory, threads=threads, capped=False))


def plan_cases(shop, weight_bytes):
    """Predictions for runs of other sections, and for a second model whose runs are here."""
    plain = shop.plain_flags()
    if plain and not shop.cenote.has_option("unpacked", "plan"):
        return
    for fraction in FRACTIONS:
        memory = shop.budget_for(shop.checkpoint, fraction * weight_bytes, DECODED + 1)
        yield Case("plan", f"{fraction} M", lambda memory=memory: shop.predicted(memory, *plain))
    for limit in PREDICTED_LIMITS if shop.options.shape == "2b" else ():
        yield Case("plan", f"dense {limit // GIB} GiB",
                   lambda limit=limit: shop.predicted(limit, *shop.dense_flags()))
    try:
        few = shop.few_layers()
    except Skip:
        return
    few_bytes = shop.cenote.bytes_per_token(few)
    for fraction in FRACTIONS[:2]:
        memory = shop.budget_for(few, fraction * few_bytes, DECODED + 1)
        name = f"{FEW_LAYERS} layers {fraction} M"
        yield Case("plan", name,
                   lambda memory=memory: shop.predicted(memory, *plain, checkpoint=few))
        yield Case("few", name, lambda memory=memory: shop.ours(memory, *plain, checkpoint=few))


def lookup_cases(shop, weight_bytes):
    def run(draft):
        flags = shop.option("draft", draft)
        checkpoint = shop.copying()
        memory = shop.budget_for(checkpoint, 0.5 * weight_bytes, LOOKUP_DECODED + 1)
        return shop.ours(memory, *flags, checkpoint=checkpoint, decoded=LOOKUP_DECODED)

    for draft in ("off", "lookup"):
        yield Case("lookup", draft, lambda draft=draft: run(draft))


def loop_cases(shop, count):
    """@count runs in cages of exactly the budget; only whether they live is asked."""
    smallest = shop.cenote.smallest_budget(shop.checkpoint, len(shop.sentence_ids) * REPEATS, 3)
    smallest = (smallest + 4095) // 4096 * 4096
    for i in range(count):
        memory = LOOP_BUDGETS[i % len(LOOP_BUDGETS)] or smallest
        yield Case("loop", f"{i + 1}",
                   lambda memory=memory: shop.ours(memory, decoded=2, capped=False))


# section: (cases, rounds at most)
SECTIONS = {
    "budget": (budget_cases, 99),
    "limit": (peer_cases, 2),
    "resident": (resident_cases, 3),
    "prefill": (prefill_cases, 2),
    "engine": (engine_cases, 3),
    "threads": (thread_cases, 2),
    "plan": (plan_cases, 2),
    "lookup": (lookup_cases, 3),
}
