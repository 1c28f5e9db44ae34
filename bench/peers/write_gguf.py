# SPDX-License-Identifier: Apache-2.0
"""Writes the text half of a Qwen3-VL checkpoint as a BF16 GGUF, for the peers that read those.

    write_gguf.py CHECKPOINT_DIR OUT.gguf

The vocabulary is made up (bytes and filler), norms are F32, tied embeddings stay tied. Written to
OUT.gguf.part and renamed."""
import glob
import json
import os
import sys

import gguf
import numpy as np
import safetensors
import torch

MATRICES = dict(attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj",
                attn_output="self_attn.o_proj", ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj",
                ffn_down="mlp.down_proj")
NORMS = dict(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm",
             attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
PREFIX = "model.language_model."


class Checkpoint:
    """The tensors of all *.safetensors of a directory, as numpy arrays of bits (bf16) or floats."""

    def __init__(self, directory):
        self._files = {}
        for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
            file = safetensors.safe_open(path, framework="pt")
            self._files |= {name: file for name in file.keys()}

    def __contains__(self, name):
        return name in self._files

    def bits(self, name):
        return self._files[name].get_tensor(name).view(torch.int16).numpy()

    def floats(self, name):
        return self._files[name].get_tensor(name).float().numpy()


def add_configuration(writer, text):
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(4096)
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    writer.add_rope_dimension_sections(text["rope_scaling"]["mrope_section"] + [0])
    writer.add_uint32("qwen3vl.n_deepstack_layers", 3)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def add_vocabulary(writer, size):
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(c) for c in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    filler = [f"t{i}" for i in range(size - len(letters) - 2)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(letters + filler + ["<|endoftext|>", "<|im_end|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * (size - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(size - 2)
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def tensor_names(checkpoint, layer_count):
    """(name in the GGUF, name in the checkpoint), in the order of use."""
    yield "token_embd", PREFIX + "embed_tokens.weight"
    for i in range(layer_count):
        for ours, theirs in (NORMS | MATRICES).items():
            yield f"blk.{i}.{ours}", f"{PREFIX}layers.{i}.{theirs}.weight"
    yield "output_norm", PREFIX + "norm.weight"
    if "lm_head.weight" in checkpoint:
        yield "output", "lm_head.weight"


def main():
    directory, out = sys.argv[1:]
    with open(os.path.join(directory, "config.json")) as file:
        text = json.load(file)["text_config"]
    checkpoint = Checkpoint(directory)
    writer = gguf.GGUFWriter(out + ".part", "qwen3vl")
    writer.add_name("random")
    add_configuration(writer, text)
    add_vocabulary(writer, text["vocab_size"])
    names = list(tensor_names(checkpoint, text["num_hidden_layers"]))
    bf16 = gguf.GGMLQuantizationType.BF16
    for ours, theirs in names:
        bits = checkpoint.bits(theirs)
        if bits.ndim == 1:
            writer.add_tensor_info(ours + ".weight", bits.shape, np.dtype(np.float32),
                                   bits.size * 4)
        else:
            writer.add_tensor_info(ours + ".weight", bits.shape, np.dtype(np.uint16), bits.nbytes,
                                   raw_dtype=bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ours, theirs in names:
        writer.write_tensor_data(checkpoint.bits(theirs) if "norm" not in ours
                                 else checkpoint.floats(theirs))
    writer.close()
    os.rename(out + ".part", out)


main()
