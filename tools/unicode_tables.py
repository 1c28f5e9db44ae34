#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes runner/qwen3vl/tokenizer/unicode_tables.inc: the sets of code points that decide how the released
tokenizers split and normalise text.

    python3 -m venv v && v/bin/pip install tokenizers==0.22.2
    v/bin/python tools/unicode_tables.py > runner/qwen3vl/tokenizer/unicode_tables.inc

The sets are asked of `tokenizers` itself, because token ids must equal its own, and because it
mixes two Unicode versions: the regex engine's classes are newer than those of the C libraries in
current distributions, its normaliser is older. Taking both from here makes the ids independent of
the utf8proc that a machine has.
"""
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
nfc = normalizers.NFC().normalize_str
nfd = normalizers.NFD().normalize_str


def members(pattern):
    """The code points that one-character @pattern matches."""
    rest = set()
    everything = "".join(map(chr, CODE_POINTS))
    for _, (begin, end) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(everything):
        rest.update(range(begin, end))
    return {c for i, c in enumerate(CODE_POINTS) if i not in rest}


def composition_pairs():
    """(first, second) of every pair that the normaliser composes into one character."""
    pairs = set()
    for c in CODE_POINTS:
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (int(p, 16) for p in parts)
            if nfc(chr(first) + chr(second)) == chr(c):
                pairs.add((first, second))
    for lead in range(0x1100, 0x1113):
        pairs.update((lead, vowel) for vowel in range(0x1161, 0x1176))
    for open_syllable in range(0xAC00, 0xD7A4, 28):
        pairs.update((open_syllable, tail) for tail in range(0x11A8, 0x11C3))
    return pairs


def normal_form_sets():
    """(joining, bases). Joining: may change, or be changed by, what stands before it. Bases: other
    characters that a joining one behind them may change."""
    pairs = composition_pairs()
    # U+0345 has the highest combining class, so any other mark behind it moves in front of it.
    reordered = {c for c in CODE_POINTS if nfc("q\u0345" + chr(c)) != "q\u0345" + chr(c)}
    joining = reordered | {second for _, second in pairs} | {0x345}
    changed = {c for c in CODE_POINTS if nfc(chr(c)) != chr(c)}
    assert changed <= joining, "a character that changes alone changes behind a mark too"
    bases = {first for first, _ in pairs} | {c for c in CODE_POINTS if nfd(chr(c)) != chr(c)}
    return joining, bases - joining


def write(name, comment, points):
    ranges = []
    for c in sorted(points):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    cells = ["{0x%x, 0x%x}," % (a, b) for a, b in ranges]
    print(f"\n/* {comment}: {len(points)} code points. */")
    print(f"static const qwen_range {name}[] = {{")
    line = "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 100:
            print(line)
            line = "   "
        line += " " + cell
    print(line + "\n};")


def main():
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/* Written by tools/unicode_tables.py from tokenizers %s; do not edit. */" % tokenizers.__version__)
    joining, bases = normal_form_sets()
    write("letter_ranges", r"\p{L}", members(r"\p{L}"))
    write("number_ranges", r"\p{N}", members(r"\p{N}"))
    write("space_ranges", r"\s", members(r"\s"))
    write("joining_ranges", "Characters that NFC may change or combine with the one before", joining)
    write("base_ranges", "Others that NFC may change because of a joining one behind", bases)


if __name__ == "__main__":
    sys.exit(main())
