# SPDX-License-Identifier: Apache-2.0
"""The demo model's tokenizer: byte-level BPE over its own questions and answers, with Qwen's
pre-tokenizer and control tokens behind the BPE entries."""
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import AddedToken

import scenes

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
           "<|box_start|>", "<|box_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>", "<think>", "</think>"]


def corpus(seed=1, count=4000):
    rng = random.Random(seed)
    for _ in range(count):
        kinds = rng.randint(0, 4)
        things = [(rng.choice(scenes.SHAPES), rng.choice(list(scenes.COLOURS)), z)
                  for z in rng.sample(scenes.ZONES, kinds)]
        scene = rng.choice([{"kind": "shapes", "things": things},
                            {"kind": "number", "text": scenes.number_text(rng)},
                            {"kind": "word", "text": rng.choice(scenes.WORDS)}])
        for _, question, answer in scenes.questions(rng, scene):
            yield question
            yield answer
        for text in scenes.text_dialogue(rng):
            yield text
    for text in ["Are they the same colour?", "Are they the same shape?", "Both have the same.",
                 "Which picture has more shapes?", "The first.", "The second.", "user\n", "assistant\n",
                 "system\n"] * 200:
        yield text


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=532, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL[:-2]])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in SPECIAL[-2:]])
    return tokenizer
