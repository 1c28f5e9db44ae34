# SPDX-License-Identifier: Apache-2.0
"""Writes trained parameters as a Hugging Face directory (bf16 safetensors) that transformers 4.57
loads unchanged."""
import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file

import network
import scenes
import words

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for content in message.content %}"
    "{%- if content.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- content.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


def config(token_id):
    v, t = network.VISION, network.TEXT
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
        "image_token_id": token_id("<|image_pad|>"), "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "qwen3_vl_text", "vocab_size": t["vocab"], "hidden_size": t["hidden"],
            "intermediate_size": t["ffn"], "num_hidden_layers": t["layers"],
            "num_attention_heads": t["heads"], "num_key_value_heads": t["kv_heads"],
            "head_dim": t["head_dim"], "hidden_act": "silu", "rms_norm_eps": t["eps"],
            "rope_theta": t["theta"], "max_position_embeddings": 4096, "attention_bias": False,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True,
                             "mrope_section": t["section"]},
            "tie_word_embeddings": True, "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"), "dtype": "bfloat16"},
        "vision_config": {
            "model_type": "qwen3_vl", "depth": v["depth"], "hidden_size": v["hidden"],
            "intermediate_size": v["ffn"], "num_heads": v["heads"], "in_channels": 3,
            "patch_size": v["patch"], "temporal_patch_size": v["temporal"],
            "spatial_merge_size": v["merge"], "out_hidden_size": t["hidden"],
            "num_position_embeddings": v["side"] ** 2, "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": v["deepstack"]},
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained", help="the .pt that train.py wrote")
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = words.train()
    write_json(args.out / "config.json", config(tokenizer.token_to_id))
    write_json(args.out / "generation_config.json", {
        "do_sample": False, "eos_token_id": [tokenizer.token_to_id("<|im_end|>"),
                                             tokenizer.token_to_id("<|endoftext|>")],
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>")})
    write_json(args.out / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        # The slow class of transformers 4.57 reads only min_pixels and max_pixels.
        "size": {"shortest_edge": scenes.PIXELS_MIN, "longest_edge": scenes.PIXELS_MAX},
        "min_pixels": scenes.PIXELS_MIN, "max_pixels": scenes.PIXELS_MAX,
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3})
    write_json(args.out / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(args.out / "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "add_prefix_space": False, "model_max_length": 4096, "chat_template": TEMPLATE})
    tokenizer.save(str(args.out / "tokenizer.json"))
    parameters = torch.load(args.trained)["P"]
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in parameters.items()},
              args.out / "model.safetensors", {"format": "pt"})
    (args.out / "model.safetensors").chmod(0o644)  # others may read what save_file() keeps to itself


if __name__ == "__main__":
    main()
