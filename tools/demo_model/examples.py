# SPDX-License-Identifier: Apache-2.0
"""Draws the example pictures beside the model: examples/*.png and examples.json, which holds for
each picture (or two, or none) a question and the answer that the drawing itself gives.

The seeds were chosen for looks, before any answer of these weights was known. make_demo.py asks
transformers about all of them, and the card names those that the model gets wrong."""
import argparse
import json
import pathlib
import random

import scenes

# name, seed, (width, height), what to draw, the task to ask about
PICTURES = [
    ("shapes-3", 63, (224, 160), 3, "describe"),
    ("number-2", 5, (192, 128), "number 42", "read number"),
    ("where", 12, (192, 192), 3, "where"),
    ("shapes-1", 2, (160, 160), 1, "describe"),
    ("shapes-2", 7, (224, 128), 2, "describe"),
    ("shapes-4", 9, (192, 192), 4, "count"),
    ("colour", 14, (224, 160), 2, "colour"),
    ("kind", 21, (160, 192), 3, "shape"),
    ("zone", 23, (192, 160), 3, "zone"),
    ("exists", 27, (160, 128), 2, "exists"),
    ("number-3", 31, (224, 128), "number 738", "read number"),
    ("word", 33, (192, 128), "word fish", "read word"),
]
PAIRS = [
    ("pair-more", 41, (3, 1), "pair count"),
    ("pair-colour", 44, (1, 1), "pair colour"),
    ("pair-shape", 47, (1, 1), "pair shape"),
    ("pair-same", 52, (2, 2), "pair count"),
]
TEXTS = [61, 64, 67]  # seeds


def draw(rng, size, what):
    if isinstance(what, int):
        return scenes.draw_shapes(rng, *size, what, plain=True)
    kind, text = what.split()
    return scenes.draw_text(rng, *size, text, kind, plain=True)


def examples():
    """(entry of examples.json, its pictures)."""
    for name, seed, size, what, task in PICTURES:
        rng = random.Random(f"examples/{seed}")
        image, scene = draw(rng, size, what)
        question, answer = next(qa[1:] for qa in scenes.questions(rng, scene) if qa[0] == task)
        yield {"task": task, "images": [name + ".png"], "question": question,
               "answer": answer}, [image]
    for name, seed, counts, task in PAIRS:
        rng = random.Random(f"examples/{seed}")
        drawn = [draw(rng, (160, 128), n) for n in counts]
        asked = None
        while asked is None or asked[0] != task:
            asked = scenes.pair_question(rng, drawn[0][1], drawn[1][1])
        yield {"task": task, "images": [f"{name}-{i + 1}.png" for i in range(2)],
               "question": asked[1], "answer": asked[2]}, [image for image, _ in drawn]
    for seed in TEXTS:
        question, answer = scenes.text_dialogue(random.Random(f"examples/{seed}"))
        yield {"task": "text", "images": [], "question": question, "answer": answer}, []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path, help="the model's directory")
    args = parser.parse_args()
    folder = args.model / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for entry, images in examples():
        for name, image in zip(entry["images"], images):
            image.save(folder / name, optimize=True)
        entries.append(entry)
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
