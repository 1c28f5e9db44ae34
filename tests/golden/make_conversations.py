#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes conversations.json: what transformers answers in conversations of several turns, each turn
a greedy generate() over the whole conversation as the template renders it.

    v/bin/python tests/golden/make_conversations.py build/release/tools/make_checkpoint

(v: as make_goldens.py has it.) Per turn: prompt_ids of the whole conversation, token_ids of the
reply, and past_tokens, which of the prompt a cache of the turns before may keep: the longest common
beginning of the ids, without the last reply's last token and without a part of a picture."""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch

from make_goldens import check_gaps, versions, write_json
from reference import IMAGE_TRIPLE, Reference

HERE = pathlib.Path(__file__).resolve().parent

# As the Thinking models' in what matters: it opens with <think>, and shows of replies that are
# past only what follows </think>.
THINKING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}"
    "{%- set content = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{{- content }}"
    "{%- else %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}")

CONVERSATIONS = {
    "text": dict(
        config="tied_gqa2", args=["--dtype", "bf16", "--seed", "11"],
        turns=[dict(prompt="What is this?"), dict(prompt="\n\nI'm sure it isn't."),
               dict(prompt="Why?"), dict(prompt="你好 café")], steps=5),
    "pictures": dict(
        config="gqa4_wide", args=["--dtype", "f16", "--seed", "12", "--image-pixels", "4096:40000"],
        turns=[dict(prompt="What is this?", images=["photo.jpg"]), dict(prompt="And now?"),
               dict(prompt="And these two?", images=["clear.png", "exact.png"]),
               dict(prompt="The first one again, please.", images=["photo.jpg"]),
               dict(prompt="Bye.")], steps=4),
    "system": dict(
        config="untied_mha", args=["--dtype", "bf16", "--seed", "13", "--image-pixels",
                                   "4096:40000"],
        system="You're a careful assistant.\n",
        turns=[dict(prompt="Hello."), dict(prompt="Look:", images=["shapes.png"]),
               dict(prompt="Which of the two is older, 1 or 2?")], steps=6),
    "one_token": dict(
        config="unsorted", args=["--dtype", "mixed", "--seed", "14"],
        turns=[dict(prompt="a"), dict(prompt="b"), dict(prompt="c")], steps=1),
    "penalty": dict(
        config="gqa4_wide", args=["--dtype", "bf16", "--seed", "16", "--image-pixels",
                                  "4096:40000"],
        repetition_penalty=1.4,
        turns=[dict(prompt="What is this?", images=["exact.png"]), dict(prompt="And now?")],
        steps=8),
    "thinking": dict(
        config="odd", args=["--dtype", "bf16", "--seed", "15", "--image-pixels", "4096:40000"],
        template=THINKING,
        turns=[dict(prompt="Is it?", images=["palette.png"]), dict(prompt="Sure?"),
               dict(prompt="So?")], steps=6),
}

# Replies that a random model will not give: shown by the template of the Thinking models.
REPLIES = ["A square?\n</think>\n\nNo.", "Hm </think>\n</think>\n\n\nYes.\n", "Cut off in the",
           "</think>", "x</think><think>\ny", "\n\nplain", "<tool_call>\n{}\n</tool_call>"]


def render(reference, messages, pad_counts):
    text = reference.tokenizer.apply_chat_template(
        messages, chat_template=reference.template, tokenize=False, add_generation_prompt=True)
    parts = text.split(IMAGE_TRIPLE)
    assert len(parts) == len(pad_counts) + 1
    text = parts[0]
    for count, part in zip(pad_counts, parts[1:]):
        text += IMAGE_TRIPLE.replace("<|image_pad|>", "<|image_pad|>" * count) + part
    return reference.tokenizer(text, add_special_tokens=False)["input_ids"]


def answer(reference, ids, pictures, steps, penalty):
    inputs = {"input_ids": torch.tensor([ids]),
              "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if pictures:
        inputs["pixel_values"] = torch.cat([rows for rows, _, _ in pictures])
        inputs["image_grid_thw"] = torch.tensor([grid for _, grid, _ in pictures])
    with torch.no_grad():
        result = reference.model.generate(**inputs, do_sample=False, max_new_tokens=steps,
                                          repetition_penalty=penalty, output_scores=True,
                                          return_dict_in_generate=True)
    return result.sequences[0, len(ids):].tolist(), torch.cat(result.scores).numpy()


def past_of(kept, ids, pad, new_images):
    """@p new_images: how many pictures at the end of the prompt no turn has seen."""
    past = 0
    while past < min(len(kept), len(ids) - 1) and kept[past] == ids[past]:
        past += 1
    runs = [i for i, t in enumerate(ids) if t == pad and (i == 0 or ids[i - 1] != pad)]
    for number, first in enumerate(runs):
        end = first
        while ids[end] == pad:
            end += 1
        if first < past and (past < end or number >= len(runs) - new_images):
            past = first
    return past


def converse(name, case, tool):
    config = HERE / "configs" / f"{case['config']}.json"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, "--config", config, f"{folder}/m", "--quiet", *case["args"]],
                       check=True)
        reference = Reference(f"{folder}/m")
        reference.template = case.get("template", reference.template)
        pad = reference.config["image_token_id"]
        merge = reference.processor["merge_size"] ** 2
        messages, pictures, kept, turns = [], [], [], []
        if "system" in case:
            messages.append({"role": "system", "content": case["system"]})
        for number, turn in enumerate(case["turns"]):
            images = turn.get("images", [])
            pictures += [reference.pixels(HERE / "images" / image) for image in images]
            messages.append({"role": "user", "content": [{"type": "image"} for _ in images] +
                             [{"type": "text", "text": turn["prompt"]}]})
            ids = render(reference, messages, [rows.shape[0] // merge for rows, _, _ in pictures])
            tokens, scores = answer(reference, ids, pictures, case["steps"],
                                    case.get("repetition_penalty", 1.0))
            check_gaps(f"{name}, turn {number}", scores)
            turns.append(dict(turn, prompt_ids=ids, token_ids=tokens,
                              past_tokens=past_of(kept, ids, pad, len(images))))
            kept = ids + tokens[:-1]
            messages.append({"role": "assistant", "content": reference.tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    print(f"{name}: prompts of {[len(t['prompt_ids']) for t in turns]}, past "
          f"{[t['past_tokens'] for t in turns]}")
    for message in messages:
        print("   ", message["role"], repr(message["content"]))
    return dict(name=name, checkpoint=dict(config=case["config"], args=case["args"]),
                system=case.get("system"), template=case.get("template"),
                repetition_penalty=case.get("repetition_penalty", 1.0),
                max_tokens=case["steps"], turns=turns)


def renderings(tool):
    """What each of REPLIES is shown as: ids of the reply, ids of the conversation behind it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, "tiny", f"{folder}/m", "--quiet"], check=True)
        reference = Reference(f"{folder}/m")
    reference.template = THINKING
    end = reference.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return dict(template=THINKING, list=[
        dict(reply=reference.tokenizer(reply, add_special_tokens=False)["input_ids"] + [end],
             prompt_ids=render(reference, [
                 {"role": "user", "content": "first"}, {"role": "assistant", "content": reply},
                 {"role": "user", "content": "next"}], []))
        for reply in REPLIES])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    write_json(HERE / "conversations.json", dict(
        made_with=versions(), renderings=renderings(sys.argv[1]),
        **{name: converse(name, case, sys.argv[1]) for name, case in CONVERSATIONS.items()}))


if __name__ == "__main__":
    main()
