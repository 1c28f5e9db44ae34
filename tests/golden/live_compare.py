#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One comparison that nobody prepared: transformers against `cenote run` on a checkpoint, a
picture and a prompt drawn from a seed (printed; give it as the second argument to repeat).

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
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
RELATIVE_MAX = 3e-5     # of the logits' RMS
GAP_MIN = 1e-4          # below this a greedy choice may go either way
STEPS = 6


def draw_request(rng, folder):
    """A noisy picture of any size, and words of any script."""
    width, height = rng.randint(20, 300), rng.randint(20, 300)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (height, width, 3))
    image = f"{folder}/picture.png"
    Image.fromarray(noise.astype(np.uint8)).save(image)
    words = ["What", "don't", "12.5", "\n", "  ", "é", "你好", "picture", "THE", "🙂", "(x)", "im"]
    prompt = "".join(rng.choice(words) + rng.choice(["", " "]) for _ in range(rng.randint(1, 30)))
    return image, prompt


def make_checkpoint(build, rng, folder):
    configs = sorted((HERE / "configs").glob("*.json"))
    config = rng.choice([None] + configs)
    shape = ["tiny"] if config is None else ["--config", config]
    args = ["--seed", str(rng.getrandbits(63)), "--quiet", "--image-pixels", "1024:65536",
            "--dtype", rng.choice(["bf16", "f16", "f32", "mixed"]),
            "--shards", str(rng.randint(1, 4))] + rng.choice([[], ["--odd-offsets"]])
    subprocess.run([build / "tools/make_checkpoint", *shape, f"{folder}/m", *args], check=True)
    print(f"{'tiny' if config is None else config.stem} {' '.join(args)}")


def run_cenote(build, folder, image, prompt):
    done = subprocess.run(
        [build / "cli/cenote", "run", f"{folder}/m", "--image", image, "--prompt", prompt,
         "--max-tokens", str(STEPS), "--temperature", "0", "--kv-type", "f32", "--memory",
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


def main():
    build = pathlib.Path(sys.argv[1])
    if not (build / "cli/cenote").exists():
        print(f"skipped: no {build}/cli/cenote")
        sys.exit(77)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    torch.set_num_threads(2)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(build, rng, folder)
        image, prompt = draw_request(rng, folder)
        report, logits = run_cenote(build, folder, image, prompt)
        result = Reference(f"{folder}/m").run({"prompt": prompt}, [image], STEPS)
    compare(report, logits, result)
    print(f"equal: {len(result['prompt_ids'])} prompt ids, tokens {report['token_ids']}")


if __name__ == "__main__":
    main()
