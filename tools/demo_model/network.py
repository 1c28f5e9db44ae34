# SPDX-License-Identifier: Apache-2.0
"""Qwen3-VL's forward pass in plain torch, in fp32, for training: parameters carry their Hugging
Face names, so that what is trained loads in transformers unchanged.

All pictures of a batch share one grid, so the vision tower runs on dense [batch, patches, hidden]
tensors. Follows transformers 4.57 models/qwen3_vl/modeling_qwen3_vl.py."""
import math

import torch
import torch.nn.functional as F

VISION = dict(depth=5, hidden=128, heads=4, ffn=256, patch=16, temporal=2, merge=2, side=16,
              deepstack=[1, 3])
TEXT = dict(layers=4, hidden=128, ffn=384, heads=4, kv_heads=2, head_dim=48, vocab=576,
            theta=10000.0, section=[8, 8, 8], eps=1e-6)


def init(seed):
    """Fresh parameters by Hugging Face name."""
    g = torch.Generator().manual_seed(seed)
    d, f, m = VISION["hidden"], VISION["ffn"], VISION["hidden"] * 4
    P = {}

    def matrix(name, *shape, gain=1.0):
        fan_in = math.prod(shape[1:])
        P[name] = torch.randn(shape, generator=g) * gain / math.sqrt(fan_in)

    def affine(name, n, k, bias=True, gain=1.0):
        matrix(name + ".weight", n, k, gain=gain)
        if bias:
            P[name + ".bias"] = torch.zeros(n)

    def norm(name, n, bias=True):
        P[name + ".weight"] = torch.ones(n)
        if bias:
            P[name + ".bias"] = torch.zeros(n)

    v = "model.visual."
    matrix(v + "patch_embed.proj.weight", d, 3, VISION["temporal"], 16, 16)
    P[v + "patch_embed.proj.bias"] = torch.zeros(d)
    P[v + "pos_embed.weight"] = torch.randn(VISION["side"] ** 2, d, generator=g) * 0.1
    for i in range(VISION["depth"]):
        b = f"{v}blocks.{i}."
        norm(b + "norm1", d), norm(b + "norm2", d)
        affine(b + "attn.qkv", 3 * d, d), affine(b + "attn.proj", d, d, gain=0.4)
        affine(b + "mlp.linear_fc1", f, d), affine(b + "mlp.linear_fc2", d, f, gain=0.4)
    for name, width in [("merger", d)] + [(f"deepstack_merger_list.{j}", m)
                                          for j in range(len(VISION["deepstack"]))]:
        norm(v + name + ".norm", width)
        affine(v + name + ".linear_fc1", m, m), affine(v + name + ".linear_fc2", TEXT["hidden"], m, gain=0.5)
    t, h = "model.language_model.", TEXT["hidden"]
    q, kv = TEXT["heads"] * TEXT["head_dim"], TEXT["kv_heads"] * TEXT["head_dim"]
    P[t + "embed_tokens.weight"] = torch.randn(TEXT["vocab"], h, generator=g) * 0.05
    for i in range(TEXT["layers"]):
        b = f"{t}layers.{i}."
        norm(b + "input_layernorm", h, False), norm(b + "post_attention_layernorm", h, False)
        norm(b + "self_attn.q_norm", TEXT["head_dim"], False)
        norm(b + "self_attn.k_norm", TEXT["head_dim"], False)
        for name, n, k, gain in [("self_attn.q_proj", q, h, 1), ("self_attn.k_proj", kv, h, 1),
                                 ("self_attn.v_proj", kv, h, 1), ("self_attn.o_proj", h, q, 0.4),
                                 ("mlp.gate_proj", TEXT["ffn"], h, 1), ("mlp.up_proj", TEXT["ffn"], h, 1),
                                 ("mlp.down_proj", h, TEXT["ffn"], 0.4)]:
            affine(b + name, n, k, False, gain)
    norm(t + "norm", h, False)
    return P


# ---- vision ----

def patches(images):
    """uint8 [B, 3, H, W] -> float [B, N, 3 * 256] in merge-block order, one temporal slice."""
    b, _, h, w = images.shape
    x = (images.float() - 127.5) / 127.5
    x = x.reshape(b, 3, h // 32, 2, 16, w // 32, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(b, (h // 16) * (w // 16), 768)


def block_order(gh, gw):
    r, c = torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij")

    def order(x):
        return x.reshape(gh // 2, 2, gw // 2, 2).permute(0, 2, 1, 3).reshape(-1)
    return order(r), order(c)


_grid_cache = {}


def grid_tables(gh, gw):
    """Interpolation indices and weights, and rotary cosines and sines, of one grid."""
    if (gh, gw) in _grid_cache:
        return _grid_cache[gh, gw]
    side, hd = VISION["side"], VISION["hidden"] // VISION["heads"]
    rows, columns = block_order(gh, gw)
    y, x = torch.linspace(0, side - 1, gh)[rows], torch.linspace(0, side - 1, gw)[columns]
    y0, x0 = y.long(), x.long()
    y1, x1 = (y0 + 1).clamp(max=side - 1), (x0 + 1).clamp(max=side - 1)
    dy, dx = y - y0, x - x0
    index = torch.stack([y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1])
    weight = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx])
    inv = 10000.0 ** (-torch.arange(0, hd // 2, 2).float() / (hd // 2))
    angle = torch.cat([rows[:, None] * inv, columns[:, None] * inv], -1)
    angle = torch.cat([angle, angle], -1)
    _grid_cache[gh, gw] = index, weight, angle.cos(), angle.sin()
    return _grid_cache[gh, gw]


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def merge(P, name, x, norm_width):
    b = x.shape[0]
    p = "model.visual." + name
    x = F.layer_norm(x.reshape(b, -1, norm_width), (norm_width,), P[p + ".norm.weight"], P[p + ".norm.bias"], 1e-6)
    x = x.reshape(b, -1, VISION["hidden"] * 4)
    x = F.gelu(F.linear(x, P[p + ".linear_fc1.weight"], P[p + ".linear_fc1.bias"]))
    return F.linear(x, P[p + ".linear_fc2.weight"], P[p + ".linear_fc2.bias"])


def vision(P, images):
    """uint8 [B, 3, H, W] -> image rows [B, N/4, d] and the deepstack rows, a list of the same."""
    b, _, h, w = images.shape
    index, weight, cos, sin = grid_tables(h // 16, w // 16)
    d, heads = VISION["hidden"], VISION["heads"]
    p = "model.visual."
    kernel = P[p + "patch_embed.proj.weight"].sum(2).reshape(d, 768)  # both time slices are equal
    x = F.linear(patches(images), kernel, P[p + "patch_embed.proj.bias"])
    x = x + (P[p + "pos_embed.weight"][index] * weight[..., None]).sum(0)
    deep = []
    for i in range(VISION["depth"]):
        q = p + f"blocks.{i}."
        y = F.layer_norm(x, (d,), P[q + "norm1.weight"], P[q + "norm1.bias"], 1e-6)
        qkv = F.linear(y, P[q + "attn.qkv.weight"], P[q + "attn.qkv.bias"])
        qkv = qkv.reshape(b, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2])
        y = y.transpose(1, 2).reshape(b, -1, d)
        x = x + F.linear(y, P[q + "attn.proj.weight"], P[q + "attn.proj.bias"])
        y = F.layer_norm(x, (d,), P[q + "norm2.weight"], P[q + "norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, P[q + "mlp.linear_fc1.weight"], P[q + "mlp.linear_fc1.bias"]), approximate="tanh")
        x = x + F.linear(y, P[q + "mlp.linear_fc2.weight"], P[q + "mlp.linear_fc2.bias"])
        if i in VISION["deepstack"]:
            deep.append(merge(P, f"deepstack_merger_list.{VISION['deepstack'].index(i)}", x, 4 * d))
    return merge(P, "merger", x, d), deep


# ---- text ----

def rms_norm(x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + TEXT["eps"]) * gain


def text_rotary(positions):
    """positions [3, B, T] -> cos, sin [B, 1, T, head_dim], interleaved M-RoPE."""
    hd, section = TEXT["head_dim"], TEXT["section"]
    inv = TEXT["theta"] ** (-torch.arange(0, hd, 2).float() / hd)
    axis = torch.zeros(hd // 2, dtype=torch.long)
    for pair in range(hd // 2):
        if pair % 3 in (1, 2) and pair < 3 * section[pair % 3]:
            axis[pair] = pair % 3
    angle = positions.float()[axis].permute(1, 2, 0) * inv
    angle = torch.cat([angle, angle], -1)[:, None]
    return angle.cos(), angle.sin()


def text(P, ids, positions, mask, image_at=None, image_rows=None, deep_rows=None):
    """Logits [B, T, vocab]. mask [B, T, T] is true where a token may look. image_at [B, T] marks
    image tokens; image_rows [count, d] and each of deep_rows fill them in order."""
    t = "model.language_model."
    x = F.embedding(ids, P[t + "embed_tokens.weight"])
    b, n, d = x.shape
    heads, kv, hd = TEXT["heads"], TEXT["kv_heads"], TEXT["head_dim"]
    if image_at is not None:
        x = x.masked_scatter(image_at[..., None], image_rows)
    cos, sin = text_rotary(positions)
    for i in range(TEXT["layers"]):
        p = f"{t}layers.{i}."
        y = rms_norm(x, P[p + "input_layernorm.weight"])
        q = F.linear(y, P[p + "self_attn.q_proj.weight"]).reshape(b, n, heads, hd)
        k = F.linear(y, P[p + "self_attn.k_proj.weight"]).reshape(b, n, kv, hd)
        v = F.linear(y, P[p + "self_attn.v_proj.weight"]).reshape(b, n, kv, hd).transpose(1, 2)
        q = rotate(rms_norm(q, P[p + "self_attn.q_norm.weight"]).transpose(1, 2), cos, sin)
        k = rotate(rms_norm(k, P[p + "self_attn.k_norm.weight"]).transpose(1, 2), cos, sin)
        k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        x = x + F.linear(y.transpose(1, 2).reshape(b, n, heads * hd), P[p + "self_attn.o_proj.weight"])
        y = rms_norm(x, P[p + "post_attention_layernorm.weight"])
        y = F.silu(F.linear(y, P[p + "mlp.gate_proj.weight"])) * F.linear(y, P[p + "mlp.up_proj.weight"])
        x = x + F.linear(y, P[p + "mlp.down_proj.weight"])
        if image_at is not None and i < len(deep_rows):
            x = x.masked_scatter(image_at[..., None], x[image_at] + deep_rows[i])
    return F.linear(rms_norm(x, P[t + "norm.weight"]), P[t + "embed_tokens.weight"])
