# SPDX-License-Identifier: Apache-2.0
"""neurostream in bfloat16 on the CPU: a part of the weights resident, the rest streamed.

    neurostream_peer.py MODEL.gguf IDS.json --ram BYTES [--threads N] [--tokens N]

--ram is what it keeps resident, its ram_budget, and not a limit on the process. Arena, readers
and rows of a block are the best that were found for these shapes."""
import argparse
import json

from clock import Clock

clock = Clock()
import torch
from neurostream import NeuroStream
from neurostream.model.qwen3 import KVCache


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("--ram", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with open(options.ids) as file:
        ids = json.load(file)
    clock.done("import")
    stream = NeuroStream.load(options.model, mem_budget="128MB", ram_budget=options.ram,
                              device="cpu", n_workers=16, block_rows=1024,
                              compute_dtype=torch.bfloat16)
    clock.done("load")
    cache, position = KVCache(stream.cfg.n_layer), 0
    with torch.no_grad():
        for _ in range(options.tokens):
            logits = stream.model.forward(torch.tensor(ids), cache, start_pos=position)
            position, ids = position + len(ids), [int(logits[-1].argmax())]
            clock.done("token", id=ids[0])


main()
