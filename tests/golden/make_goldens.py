#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the goldens: what transformers computes on random checkpoints of many shapes.

    python3 -m venv v && v/bin/pip install torch==2.13.0 transformers==4.57.6 pillow
    v/bin/python tests/golden/make_goldens.py build/release/tools/make_checkpoint

Writes cases/NAME.json (request, ids, grids, checksums, what lies where) and cases/NAME.f32
(little-endian float32, one array after the other), and prompts.json (ids only). A stage keeps
every n-th row, the last one included; the released vocabulary keeps every 37th logit. Images are
drawn when they are missing: their bytes depend on Pillow, so they are committed."""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image, ImageDraw
import PIL

from reference import Reference

HERE = pathlib.Path(__file__).resolve().parent
ROWS_KEPT = 11          # of a stage, about
GAP_MIN = 1e-3          # of the logits' RMS, between the best two: greedy choices must not hang on noise

LONG = " ".join(f"{i}: the {['red', 'green', 'blue'][i % 3]} one said {i * i}, didn't it?"
                for i in range(66))
SPECIALS = "a<|im_end|>\n<|im_start|>system\nobey<think>\n</think> <|image_pad|><|vision_start|>z"

CASES = {
    # A text whose pieces meet every branch of the pre-tokenizer.
    "text": dict(
        config="tied_gqa2", args=["--dtype", "bf16", "--seed", "1"],
        request=dict(prompt="  I'm sure they'LL  say “it’s 12345.67”,\n\n\n cafe\u0301 Straße 你好，世界 "
                            "🙂👩‍👧 don't\tx  \r\n naïve\u00a0ﬁn ½ Ⅷ ٣ __a__ 'Twas we've'd   "),
        steps=6),
    "image": dict(
        config="untied_mha", args=["--dtype", "f32", "--seed", "2"], images=["shapes.png"],
        request=dict(prompt="What is this?"), steps=6),
    "two_images": dict(
        config="gqa4_wide", args=["--dtype", "f16", "--shards", "2", "--image-pixels",
                                  "4096:40000"],
        images=["clear.png", "photo.jpg"],
        request=dict(prompt="Which of the two is older, 1 or 2?"), steps=6),
    "unsorted": dict(
        config="unsorted", args=["--dtype", "mixed", "--shards", "3", "--image-pixels",
                                 "1024:65536"],
        images=["exact.png"], request=dict(prompt="Describe this image."), steps=6),
    "odd": dict(
        config="odd", args=["--dtype", "mixed", "--odd-offsets", "--image-pixels", "4096:65536"],
        images=["palette.png"], request=dict(prompt="\n\n 3 red squares?"), steps=6),
    "tall": dict(
        config="deep", args=["--dtype", "f16", "--seed", "3", "--image-pixels", "4096:262144"],
        images=["tall.png"], request=dict(prompt="Read the text."), steps=6),
    "wide_system": dict(
        config="tied_gqa2", args=["--dtype", "bf16", "--seed", "4", "--image-pixels",
                                  "2304:16384"],
        images=["wide.jpg"],
        request=dict(prompt="And now?", system="You're a careful assistant.\n"), steps=6),
    "control_parsed": dict(
        config="unsorted", args=["--dtype", "bf16", "--seed", "5"],
        request=dict(prompt=SPECIALS.replace("<|image_pad|>", ""), parse_special=True), steps=6),
    "control_data": dict(
        config="no_deepstack", args=["--dtype", "bf16", "--image-pixels", "4096:16384"],
        images=["turned.jpg", "exact.png", "exact.png"],
        request=dict(prompt=SPECIALS, system="<|im_start|>"), steps=6),
    "long": dict(
        config="untied_mha", args=["--dtype", "bf16", "--seed", "8"],
        request=dict(prompt=LONG), steps=4, stages=False),
    "raw": dict(
        config="patch8", args=["--dtype", "mixed", "--image-pixels", "1024:16384"],
        images=["shapes.png"],
        request=dict(prompt=" What follows<|im_end|>\n<|im_start|>assistant\n", raw_prompt=True),
        steps=6),
    "released_vocab": dict(
        config="released_vocab", args=["--dtype", "bf16", "--seed", "7", "--image-pixels",
                                       "4096:16384"],
        images=["exact.png"], request=dict(prompt="Describe the picture, s'il vous plaît. 你好"),
        steps=6, logits_step=37),
}

PROMPTS = [
    dict(prompt=text) for text in [
        " ", "\n", "a", "\t\n x", "don't DON'T I'Ve it'ſup 'S", "x\u3000y\u2003z\u00a0\u200bw",
        "\u0065\u0301\u0301 \u1100\u1161\u11a8 ﬀ ㎏", "1234567890 ٣٤٥ ½⅓ Ⅻ", "a\r\nb\rc\n\r\n d",
        "   leading and   inner    and trailing   ", "\u180e\u0085\u2028\u2029|",
        "if (x[i] != '\\0') { /* ...*/ }\n    return -1;\n\n\n}", "\U0001f3f4\U000e0067\U000e007f🇫🇷",
        "<|im_en|><|im_end|", "<think></think><tool_call>", "שלום עולם مرحبا", "\u0301x",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\x01\x7f\ufeff\ufffd",
        "the of and to in is that it was for on are with as his they at be this from",
    ]
] + [
    dict(prompt="a<think>b</think>c <|im_end|>\n", parse_special=True),
    dict(prompt="<|object_ref_start|> <|fim_pad|><|endoftext|>", parse_special=True),
    dict(prompt="x<|im_end|>y", system="<|im_start|>z", parse_special=True),
    dict(prompt="x", system=""),
    dict(prompt="no template\n", raw_prompt=True),
    dict(prompt="<|im_start|>user\n\nhm<|im_end|>", raw_prompt=True),
]


# ---- pictures ----

def gradient(width, height, seed):
    """Smooth ground with a noisy corner: small as a file, unkind to a resize."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    noisy = picture[: height // 3, : width // 3]
    noisy[:] = rng.integers(0, 256, noisy.shape)
    return Image.fromarray(picture.astype(np.uint8))


def shapes(width, height, seed):
    picture = gradient(width, height, seed)
    draw = ImageDraw.Draw(picture)
    draw.ellipse([width * 0.4, height * 0.3, width * 0.9, height * 0.8], fill=(220, 30, 30))
    draw.line([0, height, width, 0], fill=(255, 255, 255), width=3)
    draw.text((width * 0.1, height * 0.7), "Cenote 7", fill=(0, 0, 0))
    return picture


def draw_images():
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    clear = shapes(90, 70, 2).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((90, 70)))
    turned = shapes(120, 81, 5)
    exif = Image.Exif()
    exif[0x112] = 6
    drawings = {
        "shapes.png": lambda path: shapes(150, 100, 1).save(path),
        "clear.png": lambda path: clear.save(path),
        "photo.jpg": lambda path: shapes(173, 131, 3).save(path, quality=88),
        "exact.png": lambda path: shapes(96, 64, 4).save(path),
        "palette.png": lambda path: shapes(101, 77, 6).quantize(40).save(path),
        "tall.png": lambda path: shapes(37, 700, 7).save(path),
        "wide.jpg": lambda path: shapes(640, 50, 8).save(path, quality=75, progressive=True),
        "turned.jpg": lambda path: turned.save(path, quality=90, exif=exif),
    }
    for name, draw in drawings.items():
        if not (folder / name).exists():
            draw(folder / name)


# ---- cases ----

def check_gaps(name, logits):
    for step, row in enumerate(logits):
        top = np.sort(row)[-2:]
        gap = (top[1] - top[0]) / math.sqrt(float(np.mean(row.astype(np.float64) ** 2)))
        if gap < GAP_MIN:
            sys.exit(f"{name}: step {step} is decided by {gap:.1e} of the RMS; choose another seed")


def rows_kept(count):
    step = max(1, count // ROWS_KEPT)
    return (count - 1) % step, step


def pack(case, result):
    """The arrays in one list of bytes, and what lies where (offsets in floats)."""
    blob, entries, offset = [], [], 0

    def add(values, **entry):
        nonlocal offset
        entries.append(dict(entry, offset=offset, rows=values.shape[0], columns=values.shape[1]))
        blob.append(np.ascontiguousarray(values, dtype="<f4").tobytes())
        offset += values.size

    if case.get("stages", True):
        for (name, image), values in result["stages"].items():
            first, step = rows_kept(values.shape[0])
            add(values[first::step], stage=name, index=image, row_first=first, row_step=step,
                rows_total=values.shape[0])
    step = case.get("logits_step", 1)
    add(result["logits"][:, ::step], stage="logits", index=0, column_step=step,
        columns_total=result["logits"].shape[1])
    return b"".join(blob), entries


def make_case(tool, name, case):
    config = HERE / "configs" / f"{case['config']}.json"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, "--config", config, f"{folder}/m", "--quiet", *case["args"]],
                       check=True)
        reference = Reference(f"{folder}/m")
        images = [HERE / "images" / image for image in case.get("images", [])]
        result = reference.run(case["request"], images, case["steps"])
    check_gaps(name, result["logits"])
    blob, entries = pack(case, result)
    manifest = dict(
        made_with=versions(), checkpoint=dict(config=case["config"], args=case["args"]),
        request=dict(case["request"], images=case.get("images", []), max_tokens=case["steps"]),
        **{key: result[key] for key in ("prompt_ids", "grids", "pixels", "token_ids")},
        arrays=entries)
    if result["grids"]:
        manifest.update(positions=result["positions"], rope_delta=result["rope_delta"])
    write_json(HERE / "cases" / f"{name}.json", manifest)
    (HERE / "cases" / f"{name}.f32").write_bytes(blob)
    print(f"{name}: {len(result['prompt_ids'])} ids, grids {result['grids']}, "
          f"tokens {result['token_ids']}, {len(blob)} bytes")


def make_prompts(tool):
    """Ids of awkward prompts, with the small and the released size of the vocabulary."""
    vocabularies = []
    for config in ("tied_gqa2", "released_vocab"):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([tool, "--config", HERE / "configs" / f"{config}.json", f"{folder}/m",
                            "--quiet"], check=True)
            reference = Reference(f"{folder}/m")
            vocabularies.append(dict(config=config, prompts=[
                dict(request, prompt_ids=reference.prompt_ids(request, []))
                for request in PROMPTS]))
    write_json(HERE / "prompts.json", dict(made_with=versions(), vocabularies=vocabularies))


def versions():
    return dict(torch=torch.__version__, transformers=transformers.__version__,
                tokenizers=tokenizers.__version__, pillow=PIL.__version__,
                numpy=np.__version__)


def write_json(path, value):
    """One top-level key a line, numbers compact."""
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    (HERE / "cases").mkdir(exist_ok=True)
    draw_images()
    for name, case in CASES.items():
        if len(sys.argv) == 2 or name in sys.argv[2:]:
            make_case(sys.argv[1], name, case)
    if len(sys.argv) == 2 or "prompts" in sys.argv[2:]:
        make_prompts(sys.argv[1])


if __name__ == "__main__":
    main()
