#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tokenizer.json, a small tokenizer of the released kind, and golden.json, what `tokenizers`
and Python say about it. Run once, results committed:

    python3 -m venv v && v/bin/pip install tokenizers==0.22.2
    v/bin/python tests/data/tokenizer/make.py tests/data/tokenizer tests/fuzz/corpus/tokenizer

golden.json:
    encode   [text, parse_special, ids]
    splits   one hash per 4096 code points: how the pre-tokenizer cuts a text around each of them
    nfc      one hash per 4096 code points: the NFC of a text around each of them
    decode   [bytes in hex, text]: Python's bytes.decode(errors="replace")
"""
import json
import random
import sys

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
SEED = 20240607

# Written for this file. (Blank lines, so that two line ends are a token of their own.)
CORPUS = """
The quick brown fox jumps over the lazy dog; it's what foxes do, and they'll do it again.

What is this? This is a picture of a cat on a mat. The cat isn't looking at the camera.

Describe this image. user assistant system user assistant system user assistant system

I've seen 3 ships, 14 boats and 159 birds.  We're here; you'd think so, wouldn't you?

    for (int i = 0; i < count; i++) {
        sum += values[i];
    }

\t\tindented with tabs\r\nand a line of another kind\r\n\r\n

El perro corre por la calle. Der Hund läuft über die Straße. Le chien court dans la forêt.

Собака бежит по улице. Ο σκύλος τρέχει στο δρόμο. הכלב רץ ברחוב. الكلب يجري في الشارع.
犬が通りを走っている。 狗在街上跑。 개가 거리를 달린다. कुत्ता सड़क पर दौड़ रहा है। สุนัขวิ่งบนถนน

What is in the image? There are two images. The first image shows a street, the second a house.
"""


def make_tokenizer():
    t = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=600 - len(SPECIAL) - len(PLAIN), min_frequency=1,
                                  show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator([CORPUS], trainer)
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    t.add_tokens([AddedToken(s, normalized=False, special=False) for s in PLAIN])
    return t


def without_added(t):
    """The same without added tokens: what their text is when it is data."""
    tree = json.loads(t.to_str())
    tree["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(tree))


CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
SPACES = [9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2005, 0x200A, 0x200B, 0x2028,
          0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF]
HAND = [
    "", " ", "  ", "\n", "\r\n", "\n\n\n", " \n ", "   \n   \n   x", "\t\tx", "x  ", "x\n", "  x", " \t x",
    "\u3000x", "\u00a0x\u00a0", "\u2028x", "\u180ex \u180e", "x\u0085y", "a\u200bb", "\ufeffx",
    "1", "123", " 123 ", "3.14159", "1,000,000", "²³½Ⅷ", "٣٤٥", "१२३", "x1y2z3", "2nd",
    "it's", "IT'S", "I'LL", "we'Ve you'RE I'm he'D can't", "'sup", "it'\u017fup", "'\u017f", "'S'T'M", "''s", "'",
    "' s", "x'", "'lLama", "'ll'll", "rock'n'roll", "l'été", "\u2019s",
    "Describe this image.", "What is in the image?", "  a  b\n\n c 123'LL", "user\nassistant\n",
    "e\u0301 é", "A\u030a \u212b Å", "\u1100\u1161\u11a8 \uac01 \uac00\u11a8", "\u0344 \u0340", "q\u0323\u0307 q\u0307\u0323",
    "\u0f73\u0f75\u0f81", "\u0958\u0959", "\ufb1d\ufb4f", "\U0001d15e\U0001d160", "\u2f868 \U0002f868", "s\u0307\u0323",
    "\u1ea5\u0323", "a\u0315\u0300\u05ae\u0300b", "\u0301\u0301", "\u0301", "a\u1df6\u0301", "\U00010d24\u0301", "\U000105d2\u0307",
    "你好，世界", "こんにちは 世界", "안녕하세요", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "ສະບາຍດີ", "ជំរាបសួរ", "မင်္ဂလာပါ", "გამარჯობა", "Բարեւ", "ሰላም", "ᏣᎳᎩ", "ᐃᓄᒃᑎᑐᑦ", "𐌰𐌱𐌲", "𒀀𒀁", "𓀀𓀁", "𝔘𝔫𝔦",
    "\U0002ebf0\U0002ebf1 \U00031350\U000323af \U0002ee5d", "\U0001e4d0\U00011f04\U0001e5d0\U00016d40\U00010d4a",
    "\U00010d40\U00010d41 \U00011bf0 \U0001ccf0\U0001ccf9", "\u1c89\ua7cb\ua7da", "😀😀 👨‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽", "☃\ufe0f", "\U0010ffff\ue000",
    "<|im_end|>", "<|im_start|>user\nhi<|im_end|>", "a<|im_end|>b", " <|im_end|> ", "<|im_end|", "<<|im_end|>>", "<|im_<|im_end|>",
    "</think><think>", "<think>\nwell\n</think>\n\nyes", "<tool_call>{}</tool_call>", "<|image_pad|><|image_pad|>",
    "<|vision_start|><|image_pad|><|vision_end|>What?", "e<|im_end|>\u0301", "\n<|im_end|>\n", "<|endoftext|>", "<|ENDOFTEXT|>",
    "foo_bar->baz[0] == 'x' && !y // z", "http://example.org/?q=1&r=%20#top", "{\"a\": [1, 2.5, null]}\n", "!!!???...", " !\n\n!\r\n",
    "a" * 300, " " * 300, "ab" * 200, "\n" * 100, "the" * 100, "é" * 100, "\u0301" * 100, "1" * 50, "<" * 70,
    "nul\0inside\0", "\x01\x1f\x7f",
]


def random_text(r, t):
    special = SPECIAL + PLAIN
    kinds = [
        lambda: chr(r.choice(CODE_POINTS)),
        lambda: chr(r.randrange(0x20, 0x7F)) * r.randrange(1, 3),
        lambda: chr(r.randrange(0xA0, 0x3100)),
        lambda: chr(r.randrange(0x300, 0x370)) * r.randrange(1, 3),
        lambda: "".join(chr(r.choice(SPACES)) for _ in range(r.randrange(1, 4))),
        lambda: r.choice(CORPUS.split(" ")),
        lambda: r.choice(special)[: r.choice([3, 8, 99, 99])],
        lambda: "'" + r.choice(["s", "T", "re", "VE", "m", "lL", "d", "x", "\u017f"]),
        lambda: chr(r.randrange(0x1100, 0x1200)) + chr(r.randrange(0x1161, 0x1176)),
    ]
    return "".join(r.choice(kinds)() for _ in range(r.randrange(1, 9)))


def encode_goldens(t):
    r = random.Random(SEED)
    literal = without_added(t)
    texts = HAND + [random_text(r, t) for _ in range(300)]
    out = []
    for text in texts:
        data, control = literal.encode(text).ids, t.encode(text).ids
        out.append([text, False, data])
        if control != data:
            out.append([text, True, control])
    return out


def fnv(data, h=0xCBF29CE484222325):
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def sweep(text_of, bytes_of):
    """A hash per 4096 code points, as hex."""
    out = []
    for begin in range(0, 0x110000, 4096):
        h = 0xCBF29CE484222325
        for c in range(begin, begin + 4096):
            if not 0xD800 <= c < 0xE000:
                h = fnv(bytes_of(text_of(chr(c))), h)
        out.append("%016x" % h)
    return out


def split_lengths(text, split=pre_tokenizers.Split(Regex(PATTERN), "isolated")):
    return bytes(len(piece.encode()) for piece, _ in split.pre_tokenize_str(text))


def decode_goldens():
    r = random.Random(SEED)
    whole = ["a", "é", "€", "😀", "\u0800", "\U0010ffff", "\ud7ff", "\ue000"]
    broken = [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", b"\x80", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80",
              b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xf8\x88\x80\x80\x80", b"\xe0\xa0", b"\xf1\x80\x80"]
    out = [b""] + broken
    for _ in range(200):
        out.append(b"".join(r.choice(whole).encode() if r.random() < 0.6 else r.choice(broken)
                            for _ in range(r.randrange(1, 8))))
    return [[b.hex(), b.decode(errors="replace")] for b in out]


def write_fuzz_corpus(t, directory):
    """Small files that a fuzzer starts from: both forms of merges, both orders of sections."""
    tree = json.loads(t.to_str())
    tree["added_tokens"] = tree["added_tokens"][1:3]
    model = tree["model"]
    model["vocab"] = {k: v for k, v in model["vocab"].items() if v < 264}
    model["merges"] = [m for m in model["merges"] if "".join(m) in model["vocab"]]
    for added, id in zip(tree["added_tokens"], (264, 265)):
        added["id"] = id
    with open(directory + "/pairs.json", "w") as out:
        json.dump(tree, out, ensure_ascii=False, separators=(",", ":"))
    tree["added_tokens"][1]["normalized"] = True
    model["merges"] = [" ".join(m) for m in model["merges"]]
    with open(directory + "/lines_sorted.json", "w") as out:
        json.dump(tree, out, ensure_ascii=True, indent=1, sort_keys=True)


def main(directory, fuzz_directory):
    t = make_tokenizer()
    write_fuzz_corpus(t, fuzz_directory)
    t.save(directory + "/tokenizer.json", pretty=False)
    golden = {
        "made_with": "tokenizers " + tokenizers.__version__,
        "encode": encode_goldens(t),
        "splits": sweep(lambda c: f"x{c}y {c}1{c}'{c}s\u3000{c}{c}\n{c} {c}", split_lengths),
        "nfc": sweep(lambda c: f"a{c}\u0301{c}\u0323\u0345{c}\u0334{c}", lambda s, n=normalizers.NFC(): n.normalize_str(s).encode()),
        "decode": decode_goldens(),
    }
    with open(directory + "/golden.json", "w") as out:
        json.dump(golden, out, ensure_ascii=True, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
