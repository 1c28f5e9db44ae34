# SPDX-License-Identifier: Apache-2.0
"""transformers, plain, bf16, on the CPU: `from_pretrained`, greedy.

    transformers_peer.py CHECKPOINT_DIR IDS.json [--threads N] [--tokens N]
                         [--only decode,prefill,vision]

IDS.json: the prompt's token ids. decode gives a line per token, the first of which is prefill;
prefill and vision give lines of a forward pass over all ids, and of the tower over a picture of
448x448, three each: the first one warms up."""
import argparse
import json

from clock import Clock

clock = Clock()
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList

PATCHES_A_SIDE = 448 // 16
REPETITIONS = 3


class Ticker(LogitsProcessor):
    def __call__(self, ids, scores):
        clock.done("token", id=int(scores.argmax()))
        return scores


def decode(model, ids, token_count):
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                   max_new_tokens=token_count, eos_token_id=None,
                   logits_processor=LogitsProcessorList([Ticker()]))


def prefill(model, ids):
    for _ in range(REPETITIONS):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1)
        clock.done("prefill", tokens=ids.shape[1])


def vision(model):
    config = model.config.vision_config
    columns = config.in_channels * config.temporal_patch_size * config.patch_size ** 2
    pixels = torch.rand(PATCHES_A_SIDE ** 2, columns, dtype=model.dtype)
    grid = torch.tensor([[1, PATCHES_A_SIDE, PATCHES_A_SIDE]])
    for _ in range(REPETITIONS):
        model.model.get_image_features(pixels, grid)
        clock.done("vision", patches=PATCHES_A_SIDE ** 2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("ids")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=5)
    parser.add_argument("--only", default="decode")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with open(options.ids) as file:
        ids = torch.tensor([json.load(file)])
    clock.done("import", version=transformers.__version__)
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        options.directory, dtype=torch.bfloat16).eval()
    clock.done("load")
    with torch.inference_mode():
        for what in options.only.split(","):
            if what == "prefill":
                prefill(model, ids)
            elif what == "vision":
                vision(model)
            else:
                decode(model, ids, options.tokens)


main()
