# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model from nothing on a CPU; about an hour and a half of one core.

Stage 0 teaches the vision tower alone to see: crowded pictures, and throw-away linear heads that say
for every 32 x 32 cell which shape, colour, zone and characters it holds. Without it the joint stage
stalls. Stage 1 teaches pictures and language together; several questions share one picture (prefix +
branches under one attention mask), and the heads stay on as a weak second loss.

Deepstack is made indispensable at the start of stage 1: a large constant is added to the image rows
and taken away again by the deepstack rows, so that leaving those out leaves the constant in.

Schedules are counted in steps, so a run repeats; --resume goes on from the last save of a run that
was stopped. Hidden matrices are updated by Muon, the rest by AdamW."""
import argparse
import math
import multiprocessing
import os
import random
import time

import torch
import torch.nn.functional as F

import network
import scenes
import words

BRANCHES = 5


# ---- pictures ----

def to_tensor(image, size):
    """The model's own resize: PyTorch's antialiased bicubic on bytes."""
    import numpy as np
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    if image.size != size:
        x = F.interpolate(x, size=[size[1], size[0]], mode="bicubic", antialias=True, align_corners=False)
    return x[0]


def crowd_labels(items, image_size, size):
    """Per merged cell: shape, colour, zone, left character, right character (0 = none)."""
    columns, rows = size[0] // 32, size[1] // 32
    scale_x, scale_y = size[0] / image_size[0], size[1] / image_size[1]
    labels = torch.zeros(rows, columns, 5, dtype=torch.long)
    for r in range(rows):
        for c in range(columns):
            labels[r, c, 2] = min(2, int(3 * (r + 0.5) / rows)) * 3 + min(2, int(3 * (c + 0.5) / columns))
    for x, y, radius, kind, colour, character in items:
        x, y, radius = x * scale_x, y * scale_y, radius * min(scale_x, scale_y)
        if character is not None:
            r, c = min(rows - 1, int(y / 32)), min(columns - 1, int(x / 32))
            side = 3 if x / 32 - c < 0.5 else 4
            labels[r, c, side] = 1 + scenes.CHARACTERS.index(character)
            continue
        for r in range(rows):
            for c in range(columns):
                if math.hypot(32 * c + 16 - x, 32 * r + 16 - y) < max(radius * 0.85, 16):
                    labels[r, c, 0] = 1 + scenes.SHAPES.index(kind)
                    labels[r, c, 1] = 1 + list(scenes.COLOURS).index(colour)
    return labels.reshape(-1, 5)


def crowd_batch(rng, count, side_max):
    size = rng.choice(scenes.grid_sizes(side_max=side_max))
    images, labels = [], []
    for _ in range(count):
        drawn = scenes.natural_size(rng, size)
        image, items = scenes.draw_crowd(rng, *drawn)
        images.append(to_tensor(image, size))
        labels.append(crowd_labels(items, image.size, size))
    return {"kind": "crowd", "images": [torch.stack(images)], "labels": torch.stack(labels)}


def picture_batch(rng, count, side_max, shapes_max):
    size = rng.choice(scenes.grid_sizes(side_max=side_max))
    images, dialogues = [], []
    for _ in range(count):
        image, scene = scenes.draw_scene(rng, *scenes.natural_size(rng, size), shapes_max=shapes_max)
        asked = scenes.questions(rng, scene)
        first, rest = asked[:1], asked[1:]
        rng.shuffle(rest)
        branches = [[qa[1:]] for qa in (first + rest)[:BRANCHES]]
        if len(rest) > BRANCHES and rng.random() < 0.25:  # one branch with two turns
            branches[-1] = [rest[-1][1:], rest[-2][1:]]
        images.append(to_tensor(image, size))
        dialogues.append(branches)
    return {"kind": "ask", "images": [torch.stack(images)], "dialogues": dialogues}


def pair_batch(rng, count, side_max):
    sizes = [rng.choice(scenes.grid_sizes(side_max=min(side_max, 224))) for _ in range(2)]
    images, dialogues = [[], []], []
    for _ in range(count):
        pair = scenes.draw_pair(rng, [scenes.natural_size(rng, s) for s in sizes])
        for slot in range(2):
            images[slot].append(to_tensor(pair[slot][0], sizes[slot]))
        asked = [scenes.pair_question(rng, pair[0][1], pair[1][1])[1:] for _ in range(3)]
        dialogues.append([[qa] for qa in dict.fromkeys(asked)])
    return {"kind": "ask", "images": [torch.stack(i) for i in images], "dialogues": dialogues}


def text_batch(rng, count):
    return {"kind": "ask", "images": [],
            "dialogues": [[[scenes.text_dialogue(rng)]] for _ in range(count)]}


def batch_of(stage, step, seed):
    """Batch number `step` of a stage; the same for the same seed on every machine."""
    rng = random.Random(f"{seed}/{stage}/{step}")
    if stage == 0:
        return crowd_batch(rng, 32, 160 if step < 900 else 224 if step < 1700 else 320)
    side_max = rng.choice([160, 192, 256, 320]) if step > 700 else 160
    kind = step % 12
    if kind in (5, 11):
        return crowd_batch(rng, 16, side_max)
    if kind == 3:
        return text_batch(rng, 24)
    if kind in (1, 7):
        return pair_batch(rng, 14, side_max)
    return picture_batch(rng, 16, side_max, 4 if step > 500 else 3)


def produce(queue, stage, steps, seed):
    torch.set_num_threads(1)
    for step in steps:
        batch = batch_of(stage, step, seed)
        # As plain arrays: shared tensors would die with this process.
        batch["images"] = [i.numpy() for i in batch["images"]]
        if "labels" in batch:
            batch["labels"] = batch["labels"].numpy()
        queue.put(batch)


def receive(queue):
    batch = queue.get()
    batch["images"] = [torch.from_numpy(i) for i in batch["images"]]
    if "labels" in batch:
        batch["labels"] = torch.from_numpy(batch["labels"])
    return batch


# ---- sequences ----

class Encoder:
    """Dialogues to padded id tensors with positions, mask and targets."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.id = {t: tokenizer.token_to_id(t) for t in words.SPECIAL}
        self.cache = {}

    def text(self, text):
        if text not in self.cache:
            if len(self.cache) > 50000:
                self.cache.clear()
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.cache[text]

    def prefix(self, grids):
        """Ids, 3-axis positions and image marks up to the question, and the next position."""
        ids = self.text("<|im_start|>user\n")[:]
        positions = [(i, i, i) for i in range(len(ids))]
        at = len(ids)
        for h, w in grids:
            ids.append(self.id["<|vision_start|>"])
            positions.append((at, at, at))
            at += 1
            ids += [self.id["<|image_pad|>"]] * (h * w)
            positions += [(at, at + y, at + x) for y in range(h) for x in range(w)]
            at += max(h, w)
            ids.append(self.id["<|vision_end|>"])
            positions.append((at, at, at))
            at += 1
        return ids, positions, at

    def branch(self, turns):
        """Ids of a branch and which of them are to be learnt."""
        ids, learn = [], []
        for number, (question, answer) in enumerate(turns):
            head = ("\n<|im_start|>user\n" if number else "") + question
            asked = self.text(head + "<|im_end|>\n<|im_start|>assistant\n")
            answered = self.text(answer + "<|im_end|>")
            ids += asked + answered
            learn += [False] * len(asked) + [True] * len(answered)
        return ids, learn

    def encode(self, dialogues, grids):
        prefix_ids, prefix_positions, at = self.prefix(grids)
        rows = []
        for branches in dialogues:
            ids, positions, owner, learn = prefix_ids[:], prefix_positions[:], [0] * len(prefix_ids), \
                [False] * len(prefix_ids)
            for number, turns in enumerate(branches, 1):
                new, marks = self.branch(turns)
                positions += [(at + i,) * 3 for i in range(len(new))]
                ids += new
                learn += marks
                owner += [number] * len(new)
            rows.append((ids, positions, owner, learn))
        n = max(len(r[0]) for r in rows)
        b = len(rows)
        ids = torch.zeros(b, n, dtype=torch.long)
        positions = torch.zeros(3, b, n, dtype=torch.long)
        owner = torch.full((b, n), -1)
        targets = torch.full((b, n), -100)
        for i, (row_ids, row_positions, row_owner, learn) in enumerate(rows):
            k = len(row_ids)
            ids[i, :k] = torch.tensor(row_ids)
            positions[:, i, :k] = torch.tensor(row_positions).T
            owner[i, :k] = torch.tensor(row_owner)
            for j in range(1, k):
                if learn[j]:
                    # The token before an answer token in the same branch predicts it.
                    targets[i, j - 1] = row_ids[j]
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
        mask = causal & same
        mask |= torch.eye(n, dtype=torch.bool)
        return ids, positions, mask, targets


def forward(P, encoder, batch):
    """Logits and targets of an "ask" batch, and image rows for the heads."""
    grids = [(i.shape[2] // 32, i.shape[3] // 32) for i in batch["images"]]
    ids, positions, mask, targets = encoder.encode(batch["dialogues"], grids)
    if not grids:
        return network.text(P, ids, positions, mask), targets
    seen = [network.vision(P, i) for i in batch["images"]]
    rows = torch.cat([s[0] for s in seen], 1)
    deep = [torch.cat([s[1][j] for s in seen], 1) for j in range(len(seen[0][1]))]
    image_at = ids == encoder.id["<|image_pad|>"]
    d = rows.shape[-1]
    return network.text(P, ids, positions, mask, image_at, rows.reshape(-1, d),
                        [x.reshape(-1, d) for x in deep]), targets


# ---- heads of stage 0 ----

HEAD_SIZES = [1 + len(scenes.SHAPES), 1 + len(scenes.COLOURS), 9,
              1 + len(scenes.CHARACTERS), 1 + len(scenes.CHARACTERS)]


def init_heads(seed):
    g = torch.Generator().manual_seed(seed + 1)
    n, d = sum(HEAD_SIZES), network.TEXT["hidden"]
    return {f"head.{i}.{part}": (torch.randn(n, d, generator=g) / math.sqrt(d) if part == "weight"
                                 else torch.zeros(n))
            for i in range(1 + len(network.VISION["deepstack"])) for part in ("weight", "bias")}


def head_loss(H, rows, labels, number, offset=None):
    if offset is not None:
        rows = rows - offset
    out = F.linear(rows, H[f"head.{number}.weight"], H[f"head.{number}.bias"]).flatten(0, 1)
    labels = labels.flatten(0, 1)
    loss, hits = 0, []
    for part, size in enumerate(HEAD_SIZES):
        logits, out = out[:, :size], out[:, size:]
        weight = torch.ones(size)
        if part >= 3:
            weight[0] = 0.3
        loss = loss + F.cross_entropy(logits, labels[:, part], weight=weight)
        there = labels[:, part] > 0 if part != 2 else torch.ones(len(labels), dtype=torch.bool)
        hits.append((logits.argmax(-1) == labels[:, part])[there].float().mean().item())
    return loss, hits


def crowd_loss(P, H, batch, offsets):
    rows, deep = network.vision(P, batch["images"][0])
    loss, hits = head_loss(H, rows, batch["labels"], 0, offsets[0])
    for j, x in enumerate(deep):
        loss = loss + 0.5 * head_loss(H, x, batch["labels"], 1 + j, offsets[1 + j])[0]
    return loss, hits


# ---- optimiser ----

def orthogonalise(g, steps=5):
    """Newton-Schulz iteration of Muon on a stack of matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon:
    """Muon (K. Jordan, 2024) for hidden matrices, batched by shape."""

    def __init__(self, parameters, momentum=0.95):
        self.momentum = momentum
        self.groups = {}
        for name, p in parameters:
            self.groups.setdefault((tuple(p.shape), name.startswith("model.visual")), []).append(p)
        self.state = {k: torch.zeros(len(v), *k[0]) for k, v in self.groups.items()}

    @torch.no_grad()
    def step(self, rate, vision_factor):
        for (shape, is_vision), group in self.groups.items():
            if any(p.grad is None for p in group):
                continue
            g = torch.stack([p.grad for p in group])
            state = self.state[shape, is_vision]
            state.mul_(self.momentum).add_(g)
            update = orthogonalise(g + self.momentum * state)
            scale = rate * max(1, shape[0] / shape[1]) ** 0.5 * (vision_factor if is_vision else 1)
            for p, u in zip(group, update):
                p.sub_(u, alpha=scale)


def is_hidden_matrix(name, p):
    return p.dim() == 2 and "embed" not in name and "head" not in name and p.shape != (512, 512)


def rate_at(step, total, hold, warm=50):
    if step < warm:
        return (step + 1) / warm
    return 1.0 if step < hold * total else max(0.0, (total - step) / ((1 - hold) * total))


# ---- training ----

class Trainer:
    def __init__(self, seed, encoder):
        self.seed, self.encoder = seed, encoder
        self.P, self.H = network.init(seed), init_heads(seed)
        self.offsets = [None] * (1 + len(network.VISION["deepstack"]))

    def optimisers(self, adam_rate, vision_factor):
        for p in list(self.P.values()) + list(self.H.values()):
            p.requires_grad_(True)
        named = list(self.P.items())
        muon = Muon([(n, p) for n, p in named if is_hidden_matrix(n, p)])
        rest = [(n, p) for n, p in named if not is_hidden_matrix(n, p)] + list(self.H.items())
        groups = [{"params": [p for n, p in rest if n.startswith("model.visual") == v],
                   "factor": vision_factor if v else 1.0} for v in (True, False)]
        adam = torch.optim.AdamW(groups, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.02)
        return muon, adam

    def add_offsets(self):
        """Image rows get +c0; deepstack rows c1 - c0 and -c1: whole again after two text layers."""
        g = torch.Generator().manual_seed(self.seed + 2)
        with torch.no_grad():
            rows, _ = network.vision(self.P, batch_of(0, 10 ** 6, self.seed)["images"][0])
            size = 3 * rows.pow(2).mean().sqrt()
            c0, c1 = (torch.randn(rows.shape[-1], generator=g) * size for _ in range(2))
            for name, c in [("merger", c0), ("deepstack_merger_list.0", c1 - c0),
                            ("deepstack_merger_list.1", -c1)]:
                self.P[f"model.visual.{name}.linear_fc2.bias"].add_(c)
            self.offsets = [c0, c1 - c0, -c1]

    def loss(self, stage, batch, aux):
        if batch["kind"] == "crowd":
            loss, hits = crowd_loss(self.P, self.H, batch, self.offsets)
            return (loss if stage == 0 else aux * loss), hits
        logits, targets = forward(self.P, self.encoder, batch)
        keep = targets != -100
        right = (logits.argmax(-1) == targets)[keep].float().mean().item()
        return F.cross_entropy(logits[keep], targets[keep]), [right]

    def run(self, stage, total, muon_rate, adam_rate, hold, save, state=None):
        """A stage of `total` steps; `state` is a save to go on from."""
        vision_factor = 1.0 if stage == 0 else 0.5
        muon, adam = self.optimisers(adam_rate, vision_factor)
        first = 0
        if state:
            first = state["step"]
            muon.state = state["muon"]
            adam.load_state_dict(state["adam"])
        queue = multiprocessing.get_context("fork").Queue(maxsize=6)
        worker = multiprocessing.get_context("fork").Process(
            target=produce, args=(queue, stage, range(first, total), self.seed), daemon=True)
        worker.start()
        start, seen = time.time(), {}
        for step in range(first, total):
            batch = receive(queue)
            factor = rate_at(step, total, hold)
            aux = 0.3 * min(1.0, 1.9 - 1.8 * step / total)
            loss, hits = self.loss(stage, batch, aux)
            adam.zero_grad(set_to_none=True)
            for p in self.P.values():
                p.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in list(self.P.values()) + list(self.H.values())
                                            if p.grad is not None], 1.0)
            for group in adam.param_groups:
                group["lr"] = adam_rate * factor * group["factor"]
            adam.step()
            muon.step(muon_rate * factor, vision_factor)
            key = batch["kind"] + str(len(batch["images"]))
            old = seen.get(key, (loss.item(), hits))
            seen[key] = (0.95 * old[0] + 0.05 * loss.item(),
                         [0.95 * a + 0.05 * b if b == b else a for a, b in zip(old[1], hits)])
            if step % 100 == 99 or step + 1 == total:
                text = "  ".join(f"{k} {v[0]:.3f} " + "/".join(f"{h:.3f}" for h in v[1])
                                 for k, v in sorted(seen.items()))
                print(f"stage {stage} step {step + 1}/{total} {time.time() - start:.0f} s  {text}", flush=True)
            if (step + 1) % 500 == 0 or step + 1 == total:
                save({"stage": stage, "step": step + 1, "muon": muon.state, "adam": adam.state_dict()})
        worker.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", help="file for the trained parameters (.pt)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, default=[2500, 6000], metavar=("STAGE0", "STAGE1"))
    parser.add_argument("--resume", action="store_true", help="go on from the last save in OUT")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    trainer = Trainer(args.seed, Encoder(words.train()))

    def save(progress):
        torch.save({"P": {k: v.detach() for k, v in trainer.P.items()}, "H": trainer.H,
                    "offsets": trainer.offsets, **progress}, args.out + ".partial")
        os.replace(args.out + ".partial", args.out)

    state = torch.load(args.out) if args.resume else None
    if state:
        trainer.P, trainer.H, trainer.offsets = state["P"], state["H"], state["offsets"]
    if not state or state["stage"] == 0:
        trainer.run(0, args.steps[0], 0.004, 1e-3, 0.3, save, state)
        trainer.add_offsets()
        state = None
    trainer.run(1, args.steps[1], 0.006, 1e-3, 0.15, save, state)


if __name__ == "__main__":
    main()
