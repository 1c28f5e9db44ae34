# SPDX-License-Identifier: Apache-2.0
"""Exact match of whole answers on pictures that training never saw, by task.

"Every answer token is the argmax of its logits" is the same as greedy decoding giving that answer,
and needs one forward pass a picture."""
import argparse
import collections
import random

import numpy as np
import torch

import network
import scenes
import train
import words


def scene_pictures(seed, count, sizes=None, quality=None):
    """(image tensor, [(task, question, answer)]) of `count` pictures."""
    for number in range(count):
        rng = random.Random(f"evaluate/{seed}/{number}")
        size = rng.choice(sizes or scenes.grid_sizes())
        image, scene = scenes.draw_scene(rng, *scenes.natural_size(rng, size))
        if quality is not None:
            image = scenes.jpeg(image, quality)
        yield [train.to_tensor(image, size)], scenes.questions(rng, scene)


def pair_pictures(seed, count):
    for number in range(count):
        rng = random.Random(f"evaluate pairs/{seed}/{number}")
        sizes = [rng.choice(scenes.grid_sizes(side_max=224)) for _ in range(2)]
        pair = scenes.draw_pair(rng, [scenes.natural_size(rng, s) for s in sizes])
        yield ([train.to_tensor(p[0], s) for p, s in zip(pair, sizes)],
               [scenes.pair_question(rng, pair[0][1], pair[1][1])])


def texts(seed, count):
    for number in range(count):
        rng = random.Random(f"evaluate text/{seed}/{number}")
        question, answer = scenes.text_dialogue(rng)
        yield [], [("count to" if question.startswith("Count") else "text", question, answer)]


def unseen_sizes():
    sides = scenes.IMAGE_SIDES + scenes.UNSEEN_SIDES
    return [s for s in scenes.grid_sizes(sides, 352) if set(s) & set(scenes.UNSEEN_SIDES)]


@torch.no_grad()
def score(P, encoder, pictures):
    """Task -> (right, asked)."""
    result = collections.defaultdict(lambda: [0, 0])
    for images, asked in pictures:
        batch = {"images": [i[None] for i in images], "dialogues": [[[qa[1:]] for qa in asked]]}
        logits, targets = train.forward(P, encoder, batch)
        grids = [(i.shape[1] // 32, i.shape[2] // 32) for i in images]
        at = len(encoder.prefix(grids)[0])
        wrong = (logits.argmax(-1) != targets)[0] & (targets[0] != -100)
        for task, question, answer in asked:
            n = len(encoder.branch([(question, answer)])[0])
            right = not wrong[at:at + n].any()
            if task == "read number":
                task += f" of {len(answer)}"
            result[task][0] += int(right)
            result[task][1] += 1
            at += n
    return result


def report(title, result):
    right, asked = (sum(v[i] for v in result.values()) for i in range(2))
    print(f"{title}: {right}/{asked} = {100 * right / asked:.1f} %", flush=True)
    for task, (r, n) in sorted(result.items()):
        print(f"    {task:18} {r:5}/{n:<5} {100 * r / n:5.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = train.Encoder(words.train())
    print("weights:", args.trained, "after step", torch.load(args.trained)["step"], "in bf16", flush=True)
    P = {k: v.detach().to(torch.bfloat16).float() for k, v in torch.load(args.trained)["P"].items()}
    report("unseen pictures", score(P, encoder, scene_pictures(args.seed, args.count)))
    report("JPEG quality 75", score(P, encoder, scene_pictures(args.seed + 1, args.count, quality=75)))
    report("unseen sizes", score(P, encoder, scene_pictures(args.seed + 2, args.count, unseen_sizes())))
    report("two pictures", score(P, encoder, pair_pictures(args.seed, args.count)))
    report("text only", score(P, encoder, texts(args.seed, args.count)))

    whole = network.text
    def without_deepstack(P, ids, positions, mask, image_at=None, rows=None, deep=None):
        return whole(P, ids, positions, mask, image_at, rows, [])
    def without_mrope(P, ids, positions, mask, *rest):
        return whole(P, ids, torch.arange(ids.shape[1]).expand(3, ids.shape[0], -1), mask, *rest)
    for title, fault in [("deepstack left out", without_deepstack),
                         ("positions in one dimension", without_mrope)]:
        network.text = fault
        report(title, score(P, encoder, scene_pictures(args.seed, args.count // 5)))
    network.text = whole


if __name__ == "__main__":
    main()
