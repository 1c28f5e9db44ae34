# SPDX-License-Identifier: Apache-2.0
"""Asks transformers what the exported model says, and stores it for tests/golden/test_demo_model.c:
pictures of a seed that training and evaluation do not use, the true answer, the answer of
transformers (greedy, fp32), and for a few questions the logits of each step."""
import argparse
import json
import pathlib
import random

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2TokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (Qwen2VLImageProcessor,
                                                                       smart_resize)

import scenes
import train

PICTURES, PAIRS, TEXTS = 52, 5, 4
LOGITS = ["0", "pair-0", "text-0"]
GAP_MIN = 1e-3  # a smaller lead of the best token could fall to rounding


def resize(image):
    """As the fast processor does (which needs torchvision); the slow one's differs by a level."""
    height, width = smart_resize(image.height, image.width, factor=32, min_pixels=9216,
                                 max_pixels=train.PIXELS_MAX)
    return Image.fromarray(train.to_tensor(image, (width, height)).permute(1, 2, 0).numpy())


class Oracle:
    def __init__(self, directory):
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager").eval()
        self.tokenizer = Qwen2TokenizerFast.from_pretrained(directory)
        self.processor = Qwen2VLImageProcessor.from_pretrained(directory)

    @torch.no_grad()
    def ask(self, images, question, tokens_max=64):
        """(answer, token ids, logits [steps, vocabulary])."""
        content = [{"type": "image"}] * len(images) + [{"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}],
                                                  tokenize=False, add_generation_prompt=True)
        inputs = {}
        if images:
            inputs = dict(self.processor(images=[resize(i) for i in images], do_resize=False,
                                         return_tensors="pt"))
            pieces = text.split("<|image_pad|>")
            text = pieces[0]
            for (_, h, w), piece in zip(inputs["image_grid_thw"].tolist(), pieces[1:]):
                text += "<|image_pad|>" * (h * w // 4) + piece
        ids = self.tokenizer(text, return_tensors="pt").input_ids
        out = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                  max_new_tokens=tokens_max, output_logits=True,
                                  return_dict_in_generate=True, **inputs)
        new = out.sequences[0, ids.shape[1]:]
        return (self.tokenizer.decode(new, skip_special_tokens=True), new.tolist(),
                torch.stack(out.logits)[:, 0])


def cases(seed):
    """(name, images, task, question, answer)."""
    for number in range(PICTURES):
        rng = random.Random(f"answers/{seed}/{number}")
        size = train.natural_size(rng, rng.choice(train.grid_sizes(side_max=224)))
        # Without noise: a noisy picture is large as a PNG.
        image, scene = scenes.draw_scene(rng, *size, plain=True)
        yield str(number), [image], *rng.choice(scenes.questions(rng, scene))
    for number in range(PAIRS):
        rng = random.Random(f"answers pairs/{seed}/{number}")
        pair = scenes.draw_pair(rng, [rng.choice(train.grid_sizes(side_max=128)) for _ in range(2)])
        yield f"pair-{number}", [image for image, _ in pair], *scenes.pair_question(rng, pair[0][1], pair[1][1])
    for number in range(TEXTS):
        rng = random.Random(f"answers text/{seed}/{number}")
        question, answer = scenes.text_dialogue(rng)
        yield f"text-{number}", [], "text", question, answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path, help="tests/golden/demo")
    parser.add_argument("--seed", type=int, default=77)
    args = parser.parse_args()
    torch.set_num_threads(1)
    oracle = Oracle(args.model)

    examples = json.loads((args.model / "examples/examples.json").read_text())
    good = 0
    for entry in examples:
        images = [Image.open(args.model / "examples" / name) for name in entry["images"]]
        answer = oracle.ask(images, entry["question"])[0]
        good += answer == entry["answer"]
        if answer != entry["answer"]:
            print(f"example {entry['images'][0]}: {entry['question']} {answer!r}, truth {entry['answer']!r}")
    print(f"examples: {good} of {len(examples)} right")

    args.out.mkdir(parents=True, exist_ok=True)
    for old in args.out.glob("*.png"):
        old.unlink()
    manifest, logits, at = [], [], 0
    for name, images, task, question, truth in cases(args.seed):
        answer, ids, steps = oracle.ask(images, question)
        best = steps.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > GAP_MIN, f"{name} is too close to call"
        files = [f"{name}-{i}.png" for i in range(len(images))]
        for file, image in zip(files, images):
            image.save(args.out / file, optimize=True)
        entry = {"name": name, "task": task, "images": files, "question": question, "truth": truth,
                 "answer": answer, "token_ids": ids}
        if name in LOGITS:
            entry["logits"] = {"offset": at, "steps": len(ids), "columns": steps.shape[1]}
            logits.append(steps.numpy().astype("<f4").ravel())
            at += logits[-1].size
        manifest.append(entry)
    right = sum(e["truth"] == e["answer"] for e in manifest)
    print(f"fresh questions: {right} of {len(manifest)} right")
    (args.out / "logits.f32").write_bytes(np.concatenate(logits).tobytes())
    (args.out / "cases.json").write_text(json.dumps({"right": right, "cases": manifest}, indent=1) + "\n")


if __name__ == "__main__":
    main()
