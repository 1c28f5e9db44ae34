# SPDX-License-Identifier: Apache-2.0
"""What transformers says about a request: ids, pixels, intermediate values, logits.

The released models' processor needs torchvision; without it the fast image path is a few lines of
plain torch (bit-equal to it), and prompts are rendered with the directory's own template. Weights
are widened to fp32, attention is eager: the numbers that a runner is held to."""
import json
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers import Qwen2TokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

IMAGE_TRIPLE = "<|vision_start|><|image_pad|><|vision_end|>"


class Reference:
    def __init__(self, directory):
        self.directory = directory
        self.config = self._json("config.json")
        self.processor = self._json("preprocessor_config.json")
        self.template = self._json("chat_template.json")["chat_template"]
        self.tokenizer = Qwen2TokenizerFast.from_pretrained(directory)
        # The same vocabulary without added tokens: everything is ordinary text to it.
        tree = self._json("tokenizer.json")
        tree["added_tokens"] = []
        self.plain = Tokenizer.from_str(json.dumps(tree))
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager").eval()

    def _json(self, name):
        with open(f"{self.directory}/{name}", encoding="utf-8") as file:
            return json.load(file)

    # ---- images ----

    def pixels(self, path):
        """Patch rows [N, 3 * 2 * patch * patch], grid (1, h, w), resized picture [h, w, 3]."""
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        patch, merge = self.processor["patch_size"], self.processor["merge_size"]
        height, width = smart_resize(picture.height, picture.width, patch * merge,
                                     self.processor["size"]["shortest_edge"],
                                     self.processor["size"]["longest_edge"])
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        if (height, width) != tuple(tensor.shape[2:]):
            tensor = F.interpolate(tensor, size=[height, width], mode="bicubic",
                                   align_corners=False, antialias=True)
        resized = tensor[0].permute(1, 2, 0).contiguous().numpy()
        scaled = (tensor[0].float() - 127.5) / 127.5
        side = patch * merge
        rows = scaled.reshape(3, height // side, merge, patch, width // side, merge, patch)
        rows = rows.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        rows = rows.repeat(1, 1, 1, 1, 1, 2, 1, 1).reshape(-1, 6 * patch * patch)
        return rows, (1, height // patch, width // patch), resized

    # ---- prompts ----

    def segments(self, request, pad_counts):
        """(is_control, text) pieces of the rendered prompt, neighbours of text joined."""
        pieces = []

        def text(value):
            if pieces and not pieces[-1][0]:
                pieces[-1] = (False, pieces[-1][1] + value)
            else:
                pieces.append((False, value))

        def images():
            for count in pad_counts:
                pieces.append((True, "<|vision_start|>"))
                pieces.extend([(True, "<|image_pad|>")] * count)
                pieces.append((True, "<|vision_end|>"))

        if request.get("system") is not None:
            pieces.append((True, "<|im_start|>"))
            text("system\n" + request["system"])
            pieces.append((True, "<|im_end|>"))
            text("\n")
        pieces.append((True, "<|im_start|>"))
        text("user\n")
        images()
        text(request["prompt"])
        pieces.append((True, "<|im_end|>"))
        text("\n")
        pieces.append((True, "<|im_start|>"))
        text("assistant\n")
        return pieces

    def data_ids(self, request, pad_counts):
        """Ids when control-token text in the request is ordinary text."""
        ids = []
        for control, text in self.segments(request, pad_counts):
            ids += ([self.tokenizer.convert_tokens_to_ids(text)] if control
                    else self.plain.encode(text, add_special_tokens=False).ids)
        return ids

    def template_ids(self, request, pad_counts):
        """Ids as transformers makes them: control-token text counts."""
        if request.get("raw_prompt"):
            text = IMAGE_TRIPLE * len(pad_counts) + request["prompt"]
        else:
            content = [{"type": "image"} for _ in pad_counts]
            content.append({"type": "text", "text": request["prompt"]})
            messages = [{"role": "user", "content": content}]
            if request.get("system") is not None:
                messages.insert(0, {"role": "system", "content": request["system"]})
            text = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=True)
        parts = text.split(IMAGE_TRIPLE) if pad_counts else [text]
        assert len(parts) == len(pad_counts) + 1, "a typed triple beside real images"
        text = parts[0]
        for count, part in zip(pad_counts, parts[1:]):
            text += IMAGE_TRIPLE.replace("<|image_pad|>", "<|image_pad|>" * count) + part
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt_ids(self, request, pad_counts):
        if request.get("parse_special") or request.get("raw_prompt"):
            return self.template_ids(request, pad_counts)
        ids = self.data_ids(request, pad_counts)
        typed = any(token in (request["prompt"] + (request.get("system") or ""))
                    for token in self.tokenizer.get_added_vocab())
        # Where no control token is typed, both ways must agree.
        assert typed or ids == self.template_ids(request, pad_counts)
        return ids

    # ---- values ----

    def inputs(self, request, pictures):
        """Prompt ids, and what the model takes."""
        merge = self.processor["merge_size"] ** 2
        ids = self.prompt_ids(request, [rows.shape[0] // merge for rows, _, _ in pictures])
        inputs = {"input_ids": torch.tensor([ids]),
                  "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if pictures:
            inputs["pixel_values"] = torch.cat([rows for rows, _, _ in pictures])
            inputs["image_grid_thw"] = torch.tensor([grid for _, grid, _ in pictures])
        return ids, inputs

    @torch.no_grad()
    def agrees(self, request, image_paths, token_ids):
        """Whether greedy decoding gives these ids: each is the likeliest after those before it,
        which one pass tells."""
        ids, inputs = self.inputs(request, [self.pixels(path) for path in image_paths])
        inputs["input_ids"] = torch.tensor([ids + token_ids[:-1]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = self.model(**inputs).logits[0, len(ids) - 1:]
        return logits.argmax(-1).tolist() == token_ids

    def run(self, request, image_paths, steps):
        """Everything about one request, stages as {(name, image): array}."""
        pictures = [self.pixels(path) for path in image_paths]
        ids, inputs = self.inputs(request, pictures)
        stages, handles = {}, self._hook([rows.shape[0] for rows, _, _ in pictures])
        try:
            self._stages = stages
            with torch.no_grad():
                result = self.model.generate(
                    **inputs, do_sample=False, max_new_tokens=steps, output_logits=True,
                    return_dict_in_generate=True)
                positions, delta = self.model.model.get_rope_index(
                    inputs["input_ids"], inputs.get("image_grid_thw"), None,
                    inputs["attention_mask"])
        finally:
            for handle in handles:
                handle.remove()
        return {
            "prompt_ids": ids,
            "grids": [list(grid) for _, grid, _ in pictures],
            "pixels": [{"crc32": zlib.crc32(rows.numpy().tobytes()),
                        "picture_crc32": zlib.crc32(picture.tobytes()),
                        "rows": rows.shape[0], "columns": rows.shape[1]}
                       for rows, _, picture in pictures],
            "positions": positions[:, 0].tolist(), "rope_delta": int(delta),
            "stages": stages,
            "token_ids": result.sequences[0, len(ids):].tolist(),
            "logits": torch.cat(result.logits).numpy(),
        }

    def _hook(self, patch_counts):
        """Records each module's output in the first pass, split by image in the tower."""
        tower, text = self.model.model.visual, self.model.model.language_model
        total = sum(patch_counts)

        def keep(name, per_image):
            def hook(_module, _inputs, output):
                values = output[0] if isinstance(output, tuple) else output
                values = values.detach().reshape(-1, values.shape[-1]).numpy()
                if not per_image:
                    self._stages.setdefault((name, 0), values.copy())
                    return
                first = 0
                for image, count in enumerate(patch_counts):
                    rows = count * values.shape[0] // total
                    self._stages.setdefault((name, image), values[first:first + rows].copy())
                    first += rows
            return hook

        named = [("patch_embed", tower.patch_embed, True), ("merger", tower.merger, True)]
        named += [(f"vision.{i}", block, True) for i, block in enumerate(tower.blocks)]
        named += [(f"deepstack.{j}", m, True) for j, m in enumerate(tower.deepstack_merger_list)]
        named += [(f"layer.{i}", layer, False) for i, layer in enumerate(text.layers)]
        return [module.register_forward_hook(keep(name, per_image))
                for name, module, per_image in named]
