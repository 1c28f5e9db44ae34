#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks transformers what the shipped model says, and stores it for test_demo_model.c and
fresh_pictures.py; to be run whenever its weights change:

    make_demo.py

Writes demo/: pictures of a seed that training and evaluation do not use; cases.json with question,
true answer and transformers' greedy answer (fp32); logits.f32 with the logits of each step of a few
of them; fresh.json, how often transformers is right about the pictures of fresh_pictures.py;
examples.json, which of the examples beside the model it gets wrong."""
import json
import random
import sys
import tempfile

import numpy as np
import torch

from fresh_pictures import (HERE, MODEL, PICTURES as FRESH, TOKENS_MAX, ask_transformers, draw,
                            scenes)
from reference import Reference

OUT = HERE / "demo"
PICTURES, PAIRS, TEXTS = 52, 12, 12
SEED, FRESH_SEED = 77, 20260
GAP_MIN = 1e-3          # of the best two logits, of the RMS: a smaller one could fall to rounding


def cases():
    """(name, pictures, task, question, true answer)."""
    for number in range(PICTURES):
        rng = random.Random(f"answers/{SEED}/{number}")
        size = scenes.natural_size(rng, rng.choice(scenes.grid_sizes(side_max=224)))
        # Without noise: a noisy picture is large as a PNG.
        image, scene = scenes.draw_scene(rng, *size, plain=True)
        yield str(number), [image], *rng.choice(scenes.questions(rng, scene))
    for number in range(PAIRS):
        rng = random.Random(f"answers pairs/{SEED}/{number}")
        pair = scenes.draw_pair(rng, [rng.choice(scenes.grid_sizes(side_max=128)) for _ in range(2)])
        yield (f"pair-{number}", [image for image, _ in pair],
               *scenes.pair_question(rng, pair[0][1], pair[1][1]))
    for number in range(TEXTS):
        rng = random.Random(f"answers text/{SEED}/{number}")
        yield f"text-{number}", [], "text", *scenes.text_dialogue(rng)


def keeps_logits(name, grids, kept):
    """The first of each kind, and the first picture that is square: there rows and columns can be
    swapped unnoticed."""
    kind = "square" if len(grids) == 1 and grids[0][1] == grids[0][2] else name.split("-")[0]
    kind = "picture" if kind.isdigit() else kind
    if kind in kept:
        return False
    kept.add(kind)
    return True


def near_tie(logits):
    best = np.sort(logits.astype(np.float64), axis=1)[:, -2:]
    return ((best[:, 1] - best[:, 0]) / np.sqrt(np.mean(logits.astype(np.float64) ** 2, axis=1))).min() < GAP_MIN


def make_cases(reference):
    manifest, blob, kept, at = [], [], set(), 0
    for old in OUT.glob("*.png"):
        old.unlink()
    for name, images, task, question, truth in cases():
        files = [f"{name}-{i}.png" for i in range(len(images))]
        for file, image in zip(files, images):
            image.save(OUT / file, optimize=True)
        result = reference.run({"prompt": question}, [OUT / file for file in files], TOKENS_MAX)
        if near_tie(result["logits"]):
            print(f"{name}: left out, too close to call")
            for file in files:
                (OUT / file).unlink()
            continue
        answer = reference.tokenizer.decode(result["token_ids"], skip_special_tokens=True)
        entry = dict(name=name, task=task, images=files, question=question, truth=truth,
                     answer=answer, token_ids=result["token_ids"])
        if keeps_logits(name, result["grids"], kept):
            steps, columns = result["logits"].shape
            entry["logits"] = dict(offset=at, steps=steps, columns=columns)
            blob.append(result["logits"].astype("<f4").tobytes())
            at += steps * columns
        manifest.append(entry)
    right = sum(entry["truth"] == entry["answer"] for entry in manifest)
    print(f"cases: {right} of {len(manifest)} right, logits of {sorted(kept)}")
    lines = ",\n  ".join(json.dumps(entry) for entry in manifest)
    (OUT / "cases.json").write_text(f'{{"right": {right}, "cases": [\n  {lines}\n]}}\n')
    (OUT / "logits.f32").write_bytes(b"".join(blob))


def make_fresh(reference):
    with tempfile.TemporaryDirectory() as folder:
        asked, crc = draw(FRESH_SEED, folder)
        right = sum(ask_transformers(reference, path, question) == truth
                    for path, question, truth in asked)
    print(f"fresh pictures: {right} of {len(asked)} right")
    (OUT / "fresh.json").write_text(json.dumps(
        dict(seed=FRESH_SEED, pictures=FRESH, asked=len(asked), right=right, crc32=crc)) + "\n")


def ask_examples(reference):
    examples = json.loads((MODEL / "examples/examples.json").read_text())
    wrong = []
    for entry in examples:
        files = [MODEL / "examples" / name for name in entry["images"]]
        ids = reference.run({"prompt": entry["question"]}, files, TOKENS_MAX)["token_ids"]
        answer = reference.tokenizer.decode(ids, skip_special_tokens=True)
        if answer != entry["answer"]:
            wrong.append(dict(images=entry["images"], question=entry["question"], answer=answer,
                              truth=entry["answer"]))
    print(f"examples: {len(examples) - len(wrong)} of {len(examples)} right, wrong: {wrong}")
    (OUT / "examples.json").write_text(json.dumps(dict(wrong=wrong)) + "\n")


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    reference = Reference(str(MODEL))
    ask_examples(reference)
    make_cases(reference)
    make_fresh(reference)


if __name__ == "__main__":
    main()
