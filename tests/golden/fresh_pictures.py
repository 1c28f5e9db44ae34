#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How often is the shipped model right through `cenote run` on pictures drawn now? Within a point of
as often as transformers is:

    fresh_pictures.py BUILD_DIR [SEED]

With torch and transformers the seed is a new one (printed; give it to repeat) and transformers is
asked about the same pictures. Without them the pictures are those of the stored seed, for which
demo/fresh.json holds how often transformers was right (make_demo.py wrote it).

Exit code 0 within a point, 1 not, 77 when something it needs is missing."""
import concurrent.futures
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "models/qwen3vl-tiny"
STORED = HERE / "demo/fresh.json"
sys.path.insert(0, str(HERE.parents[1] / "tools/demo_model"))
try:
    import scenes
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)
try:
    import torch
    from reference import Reference
except ImportError:
    Reference = None

PICTURES = 200
QUESTIONS = 2           # of a picture, at most
POINT = 0.01
TOKENS_MAX = 64         # more than any answer has


def draw(seed, folder):
    """[(path, question, true answer)] about PICTURES pictures, and a checksum of their pixels."""
    asked, crc = [], 0
    for number in range(PICTURES):
        rng = random.Random(f"fresh/{seed}/{number}")
        image, scene = scenes.draw_scene(rng, *scenes.natural_size(rng, rng.choice(scenes.grid_sizes())))
        crc = zlib.crc32(image.tobytes(), crc)
        path = f"{folder}/{number}.png"
        image.save(path)
        about = scenes.questions(rng, scene)
        asked += [(path, question, truth)
                  for _, question, truth in rng.sample(about, min(QUESTIONS, len(about)))]
    return asked, crc


def ask_cenote(build, path, question):
    done = subprocess.run(
        [build / "cli/cenote", "run", MODEL, "--image", path, "--prompt", question, "--memory",
         "32MiB", "--threads", "1", "--max-tokens", str(TOKENS_MAX), "--json"],
        capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"{question}: exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def ask_transformers(reference, path, question, guess=None):
    """Its answer; `guess` is a report of cenote's that it may agree with, which is quicker."""
    request = {"prompt": question}
    if guess and reference.agrees(request, [path], guess["token_ids"]):
        return guess["text"]
    ids = reference.run(request, [path], TOKENS_MAX)["token_ids"]
    return reference.tokenizer.decode(ids, skip_special_tokens=True)


def stored_figure(asked, crc):
    """How often transformers was right about these very pictures."""
    stored = json.loads(STORED.read_text())
    if crc != stored["crc32"]:
        print("skipped: this Pillow draws other pictures than the stored figure is of")
        sys.exit(77)
    assert len(asked) == stored["asked"]
    return stored["right"]


def main():
    build = pathlib.Path(sys.argv[1])
    if scenes.fonts_missing():
        print(f"skipped: no fonts {scenes.fonts_missing()}")
        sys.exit(77)
    live = Reference is not None
    seed = random.SystemRandom().getrandbits(32) if live else json.loads(STORED.read_text())["seed"]
    if len(sys.argv) > 2:
        seed = int(sys.argv[2])
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        asked, crc = draw(seed, folder)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(lambda qa: ask_cenote(build, qa[0], qa[1]), asked))
        right = sum(report["text"] == qa[2] for report, qa in zip(reports, asked))
        if live:
            torch.set_num_threads(1)
            reference = Reference(str(MODEL))
            answers = [ask_transformers(reference, qa[0], qa[1], report)
                       for report, qa in zip(reports, asked)]
            wanted = sum(answer == qa[2] for answer, qa in zip(answers, asked))
            others = [(qa[1], report["text"], answer) for report, answer, qa
                      in zip(reports, answers, asked) if report["text"] != answer]
            print(f"{len(others)} of {len(asked)} answers are not those of transformers {others}")
        else:
            wanted = stored_figure(asked, crc)
    print(f"{PICTURES} pictures, {len(asked)} questions: cenote {right} right, "
          f"{100 * right / len(asked):.1f} %; transformers {wanted}, {100 * wanted / len(asked):.1f} % "
          f"({'asked now' if live else 'stored'})")
    if abs(right - wanted) > POINT * len(asked):
        sys.exit("DIFFERENT: more than a point apart")


if __name__ == "__main__":
    main()
