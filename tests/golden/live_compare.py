#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Comparisons that nobody prepared: transformers against `cenote run`, on a random checkpoint with a
picture and a prompt drawn from a seed (printed; give it as the second argument to repeat), and on
the shipped model with one picture, two and none.

    live_compare.py BUILD_DIR [SEED]

Exit code 0 equal, 1 not, 77 when something it needs is missing."""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    from PIL import Image
    from reference import Reference
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools/demo_model"))
    import scenes
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "models/qwen3vl-tiny"
RELATIVE_MAX = 3e-5     # of the logits' RMS
GAP_MIN = 1e-4          # below this a greedy choice may go either way
STEPS = 6
STEPS_SHIPPED = 64      # more than any answer has


def draw_request(rng, folder):
    """A noisy picture of any size, and words of any script."""
    width, height = rng.randint(20, 300), rng.randint(20, 300)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (height, width, 3))
    image = f"{folder}/picture.png"
    Image.fromarray(noise.astype(np.uint8)).save(image)
    words = ["What", "don't", "12.5", "\n", "  ", "é", "你好", "picture", "THE", "🙂", "(x)", "im"]
    prompt = "".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(rng.randint(1, 30)))
    return [image], prompt


def draw_shipped_requests(rng, folder):
    """What the shipped model was made for: one picture, two, none."""
    def sizes(count):
        return [scenes.natural_size(rng, rng.choice(scenes.grid_sizes())) for _ in range(count)]

    def save(*pictures):
        paths = [f"{folder}/{number}.png" for number in range(len(pictures))]
        for path, picture in zip(paths, pictures):
            picture.save(path)
        return paths

    picture, scene = scenes.draw_scene(rng, *sizes(1)[0])
    yield save(picture), rng.choice(scenes.questions(rng, scene))[1]
    first, second = scenes.draw_pair(rng, sizes(2))
    yield save(first[0], second[0]), scenes.pair_question(rng, first[1], second[1])[1]
    yield [], scenes.text_dialogue(rng)[0]


def make_checkpoint(build, rng, folder):
    configs = sorted((HERE / "configs").glob("*.json"))
    config = rng.choice([None] + configs)
    shape = ["tiny"] if config is None else ["--config", config]
    args = ["--seed", str(rng.getrandbits(63)), "--quiet", "--image-pixels", "1024:65536",
            "--dtype", rng.choice(["bf16", "f16", "f32", "mixed"]),
            "--shards", str(rng.randint(1, 4))] + rng.choice([[], ["--odd-offsets"]])
    subprocess.run([build / "tools/make_checkpoint", *shape, f"{folder}/m", *args], check=True)
    print(f"{'tiny' if config is None else config.stem} {' '.join(args)}")


def run_cenote(build, model, folder, images, prompt, steps):
    done = subprocess.run(
        [build / "cli/cenote", "run", model, *(f"--image={image}" for image in images), "--prompt",
         prompt, "--max-tokens", str(steps), "--temperature", "0", "--kv-type", "f32", "--memory",
         "512MiB", "--json", "--logits", f"{folder}/logits.npy"],
        capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"cenote run: exit code {done.returncode}: {done.stderr}")
    return json.loads(done.stdout), np.load(f"{folder}/logits.npy")


def check(condition, message):
    if not condition:
        sys.exit(f"DIFFERENT: {message}")


def compare(report, logits, result):
    check(report["schema"] == "cenote.run/1", report["schema"])
    check(report["prompt_token_ids"] == result["prompt_ids"], "prompt ids")
    check(report["grid_thw"] == result["grids"], f"{report['grid_thw']}, not {result['grids']}")
    check(logits.dtype == np.float32 and logits.shape[1] == result["logits"].shape[1], "shape")
    for step, wanted in enumerate(result["logits"]):
        wanted = wanted.astype(np.float64)
        rms = np.sqrt(np.mean(wanted ** 2))
        distance = np.sqrt(np.mean((logits[step] - wanted) ** 2)) / rms
        check(distance <= RELATIVE_MAX, f"step {step}: logits {distance:.1e} of the RMS away")
        top = np.sort(wanted)[-2:]
        if (top[1] - top[0]) / rms < GAP_MIN:
            print(f"step {step}: a tie; what follows is not compared")
            return
        check(report["token_ids"][step] == result["token_ids"][step], f"token {step}")
    check(len(report["token_ids"]) == len(result["token_ids"]) == logits.shape[0], "length")


def compare_one(build, reference, folder, images, prompt, steps):
    report, logits = run_cenote(build, reference.directory, folder, images, prompt, steps)
    result = reference.run({"prompt": prompt}, images, steps)
    compare(report, logits, result)
    print(f"equal: {len(images)} pictures, {len(result['prompt_ids'])} prompt ids, "
          f"{report['text']!r}, tokens {report['token_ids']}")


def main():
    build = pathlib.Path(sys.argv[1])
    if not (build / "cli/cenote").exists():
        print(f"skipped: no {build}/cli/cenote")
        sys.exit(77)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    torch.set_num_threads(1)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(build, rng, folder)
        images, prompt = draw_request(rng, folder)
        compare_one(build, Reference(f"{folder}/m"), folder, images, prompt, STEPS)
        if scenes.fonts_missing():
            print(f"skipped: the shipped model; no fonts {scenes.fonts_missing()}")
            return
        shipped = Reference(str(SHIPPED))
        for images, prompt in draw_shipped_requests(rng, folder):
            compare_one(build, shipped, folder, images, prompt, STEPS_SHIPPED)


if __name__ == "__main__":
    main()
