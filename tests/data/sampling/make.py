#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes vectors.json: what the logits processors that transformers' generate() itself puts together
make of a row of logits. Run once, result committed:

    python3 -m venv v && v/bin/pip install torch==2.13.0 transformers==4.57.6
    v/bin/python tests/data/sampling/make.py tests/data/sampling

cases: [{sampling, ids, logits, scores}]; a score of null was removed. Numbers are float32. Which of
equal logits top-p removes depends on torch's sort, which is not stable; how many does not."""
import json
import pathlib
import sys

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

VOCAB = 83


def processors(model, **sampling):
    config = GenerationConfig(do_sample=True, **sampling)
    # As generate() fills in what a configuration leaves open.
    return model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")


def rows(generator):
    normal = 3 * torch.randn(VOCAB, generator=generator)
    flat = torch.zeros(VOCAB)
    coarse = (2 * torch.randn(VOCAB, generator=generator)).round() / 2     # many equal ones
    steep = 40 * torch.randn(VOCAB, generator=generator)
    bf16 = (4 * torch.randn(VOCAB, generator=generator)).bfloat16().float()
    masked = normal.clone()
    masked[::3] = -float("inf")
    return dict(normal=normal, flat=flat, coarse=coarse, steep=steep, bf16=bf16, masked=masked)


SAMPLINGS = [
    dict(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.0),
    dict(temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05),
    dict(temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0),
    dict(temperature=1.3, top_k=0, top_p=0.9, repetition_penalty=1.0),
    dict(temperature=1.0, top_k=0, top_p=0.31, repetition_penalty=2.5),
    dict(temperature=2.0, top_k=1, top_p=1.0, repetition_penalty=0.7),
    dict(temperature=0.1, top_k=0, top_p=0.999, repetition_penalty=1.0),
    dict(temperature=0.9, top_k=200, top_p=0.5, repetition_penalty=1.2),
]


def borderline(scores, top_p):
    """Whether rounding may decide what top-p removes."""
    probabilities = torch.sort(torch.softmax(scores.double(), -1)).values
    sums = probabilities.cumsum(-1)
    return bool(((sums - (1 - top_p)).abs() < 1e-6).any())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    generator = torch.Generator().manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8,
                                         num_hidden_layers=1, num_attention_heads=1))
    ids = torch.tensor([[5, 0, 82, 5, 5, 41, 12, 3, 41]])
    cases, left_out = [], 0
    for number, sampling in enumerate(SAMPLINGS):
        chain = processors(model, **sampling)
        for name, logits in rows(generator).items():
            before_p = processors(model, **{**sampling, "top_p": 1.0})(ids, logits[None].clone())[0]
            if sampling["top_p"] < 1 and name != "flat" and borderline(before_p, sampling["top_p"]):
                left_out += 1
                continue
            scores = chain(ids, logits[None].clone())[0]
            cases.append(dict(
                sampling=sampling, row=name, ids=ids[0].tolist(),
                logits=[None if x == -float("inf") else x for x in logits.tolist()],
                scores=[None if x == -float("inf") else x for x in scores.tolist()]))
        print(sampling, [type(p).__name__ for p in chain])
    print(len(cases), "cases,", left_out, "left out")
    path = pathlib.Path(sys.argv[1]) / "vectors.json"
    made = dict(torch=torch.__version__, transformers=transformers.__version__)
    lines = [json.dumps(case, separators=(",", ":")) for case in cases]
    path.write_text('{"made_with": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(made), ",\n".join(lines)))


if __name__ == "__main__":
    main()
