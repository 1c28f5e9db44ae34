#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the small pictures of this folder and writes what loading them must give.

Made once with Pillow 13.0.0 and torch 2.13.0 (CPU); run again only to add cases:

    python3 make.py

expected.txt  name, upright width and height, out width and height, Adler-32 of the RGB bytes.
              The reference is what transformers does: Image.open, ImageOps.exif_transpose,
              convert("RGB"), and the fast processor's resize, which is torch's F.interpolate on
              uint8 (bicubic, antialiased).
resize.txt    the same for generated pictures: see noise() for the generator.
*.rgb         some outputs whole, for looking at a mismatch.
"""
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

HERE = Path(__file__).parent
warnings.simplefilter("ignore")


def picture(w, h, channels=3, seed=1):
    """Waves, a field of noise and a field of hard edges: each catches other mistakes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    p = np.empty((h, w, channels))
    for c in range(channels):
        p[..., c] = 127.5 + 127.5 * np.sin(x / (3.0 + 2 * c) + y / (5.0 + c) + c)
    p[h // 2:, : w // 2] = rng.integers(0, 256, (h - h // 2, w // 2, channels))
    p[h // 2:, w // 2:] = 255 * ((x + y)[h // 2:, w // 2:, None] % 2)
    return p.astype(np.uint8)


# --- PNG kinds that Pillow does not write ---------------------------------------------------------

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_row(row, depth):
    """row: [w, channels] of sample values"""
    if depth == 16:
        return row.astype(">u2").tobytes()
    if depth == 8:
        return row.astype(np.uint8).tobytes()
    bits = "".join(f"{v:0{depth}b}" for v in row[:, 0])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def png(samples, depth, kind, before=(), after=(), interlaced=False):
    h, w, _ = samples.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    raw = b""
    for x0, y0, dx, dy in passes:
        for row in samples[y0::dy, x0::dx]:
            if len(row):
                raw += b"\0" + pack_row(row, depth)
    head = struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, int(interlaced))
    data = zlib.compress(raw, 9)
    half = len(data) // 2  # two IDAT chunks
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(before) + chunk(b"IDAT", data[:half])
            + chunk(b"IDAT", data[half:]) + b"".join(after) + chunk(b"IEND", b""))


def exif(orientation, endian="<", kind="H"):
    value = struct.pack(endian + kind, orientation).ljust(4, b"\0")
    entries = struct.pack(endian + "HHI", 0x010F, 2, 4) + b"Abc\0"
    entries += struct.pack(endian + "HHI", 0x0112, {"H": 3, "I": 4, "b": 6}[kind], 1) + value
    return ((b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "IH", 8, 2) + entries
            + struct.pack(endian + "I", 0))


def xmp(orientation):
    return f'<x:xmpmeta><r tiff:Orient="9" tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


# --- JPEG -----------------------------------------------------------------------------------------

def jpeg(array, mode="RGB", **options):
    out = io.BytesIO()
    Image.frombytes(mode, array.shape[1::-1], array.tobytes()).save(out, "JPEG", **options)
    return out.getvalue()


def with_app1(data, *payloads):
    head = b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in payloads)
    return data[:2] + head + data[2:]


def with_adobe_transform(data, transform):
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1:]


def pictures():
    rgb = picture(45, 37)
    grey = picture(45, 37, 1)
    yield "rgb8.png", png(rgb, 8, 2)
    yield "rgb8_gamma.png", png(rgb, 8, 2, [chunk(b"gAMA", struct.pack(">I", 20000)), chunk(b"sRGB", b"\0"),
                                            chunk(b"tEXt", b"Comment\0hello")])
    yield "rgb8_interlaced.png", png(rgb, 8, 2, interlaced=True)
    yield "rgb8_key.png", png(rgb, 8, 2, [chunk(b"tRNS", struct.pack(">3H", *map(int, rgb[0, 0])))])
    yield "rgb16.png", png(np.random.default_rng(2).integers(0, 65536, (19, 23, 3)), 16, 2)
    yield "rgba8.png", png(picture(45, 37, 4), 8, 6)
    yield "rgba8_interlaced.png", png(picture(13, 9, 4), 8, 6, interlaced=True)
    yield "rgba16.png", png(np.random.default_rng(3).integers(0, 65536, (11, 23, 4)), 16, 6)
    yield "grey8.png", png(grey, 8, 0)
    yield "grey8_alpha.png", png(picture(45, 37, 2), 8, 4)
    yield "grey16_alpha.png", png(np.random.default_rng(4).integers(0, 65536, (19, 23, 2)), 16, 4)
    grey16 = np.random.default_rng(5).integers(0, 65536, (19, 23, 1))
    grey16[:, :12] %= 300
    yield "grey16.png", png(grey16, 16, 0)
    yield "grey16_interlaced.png", png(grey16, 16, 0, interlaced=True)
    yield "grey4.png", png(grey // 16, 4, 0)
    yield "grey2.png", png(grey // 64, 2, 0)
    yield "bilevel.png", png(grey // 128, 1, 0)
    yield "bilevel_interlaced.png", png(grey // 128, 1, 0, interlaced=True)
    colors = np.random.default_rng(6).integers(0, 256, (256, 3), dtype=np.uint8)
    yield "palette8.png", png(grey, 8, 3, [chunk(b"PLTE", colors.tobytes())])
    yield "palette8_key.png", png(grey, 8, 3, [chunk(b"PLTE", colors.tobytes()),
                                               chunk(b"tRNS", bytes(range(256)))])
    yield "palette8_short.png", png(grey, 8, 3, [chunk(b"PLTE", colors[:200].tobytes())])
    yield "palette4.png", png(grey // 16, 4, 3, [chunk(b"PLTE", colors[:16].tobytes())])
    yield "palette2_interlaced.png", png(grey // 64, 2, 3, [chunk(b"PLTE", colors[:4].tobytes())],
                                         interlaced=True)
    yield "palette1.png", png(grey // 128, 1, 3, [chunk(b"PLTE", colors[:2].tobytes())])
    yield "tall.png", png(picture(3, 211), 8, 2)
    yield "one.png", png(picture(1, 1), 8, 2)

    small = picture(11, 7)
    yield "turn6.png", png(small, 8, 2, [chunk(b"eXIf", exif(6))])
    yield "turn2_sbyte.png", png(small, 8, 2, [chunk(b"eXIf", exif(2, kind="b"))])
    yield "turn3_late.png", png(small, 8, 2, after=[chunk(b"eXIf", exif(3, ">"))])
    yield "turn8_xmp.png", png(small, 8, 2, [chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(8))])
    yield "turn5_interlaced.png", png(small, 8, 2, [chunk(b"eXIf", b"Exif\0\0" + exif(5))], interlaced=True)

    for name, subsampling in ("444", 0), ("422", 1), ("420", 2):
        yield f"ycc{name}.jpg", jpeg(rgb, quality=85, subsampling=subsampling)
        yield f"ycc{name}_progressive.jpg", jpeg(rgb, quality=70, subsampling=subsampling, progressive=True)
    yield "grey.jpg", jpeg(grey, "L", quality=80)
    yield "grey_progressive.jpg", jpeg(grey, "L", quality=80, progressive=True)
    yield "rgb.jpg", jpeg(rgb, quality=85, keep_rgb=True)
    yield "restart.jpg", jpeg(rgb, quality=85, restart_marker_blocks=2)
    cmyk = jpeg(picture(29, 21, 4), "CMYK", quality=85)
    yield "cmyk.jpg", cmyk
    yield "ycck.jpg", with_adobe_transform(cmyk, 2)
    flag = jpeg(picture(21, 13), quality=85, subsampling=2)
    for o in range(1, 9):
        yield f"turn{o}.jpg", with_app1(flag, b"Exif\0\0" + exif(o, "<>"[o % 2], "HI"[o // 2 % 2]))
    yield "turn9.jpg", with_app1(flag, b"Exif\0\0" + exif(9), b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
    yield "turn6_xmp.jpg", with_app1(flag, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
    yield "turn7_progressive.jpg", with_app1(jpeg(rgb, quality=60, progressive=True), b"Exif\0\0" + exif(7))


def resize(rgb, w, h):
    if rgb.shape[:2] == (h, w):
        return rgb
    t = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    t = F.interpolate(t, size=[h, w], mode="bicubic", align_corners=False, antialias=True)
    return t[0].permute(1, 2, 0).contiguous().numpy()


def mark(rgb):
    return f"{zlib.adler32(rgb.tobytes()):08x}"


def noise(w, h, seed, hard):
    """The top byte of a 32-bit linear congruential generator; hard makes it 0 or 255."""
    n, state, out = w * h * 3, seed, bytearray()
    for _ in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        v = state >> 24
        out.append((255 if v >= 128 else 0) if hard else v)
    return np.frombuffer(bytes(out), np.uint8).reshape(h, w, 3)


RESIZES = [  # w, h, out w, out h
    (1, 1, 1, 1), (1, 1, 64, 32), (2, 1, 64, 64), (5, 7, 5, 7), (5, 7, 10, 7), (5, 7, 5, 14), (64, 48, 32, 48),
    (64, 48, 64, 32), (64, 64, 32, 32), (63, 65, 32, 32), (65, 63, 64, 64), (33, 31, 32, 32), (100, 80, 96, 96),
    (224, 224, 256, 256), (272, 272, 256, 256), (336, 336, 320, 320), (200, 150, 128, 96), (150, 200, 97, 131),
    (300, 7, 32, 32), (7, 300, 32, 32), (1000, 80, 928, 96), (80, 1000, 96, 928), (1024, 3, 1024, 32),
    (3, 1024, 32, 1024), (3200, 16, 3648, 32), (2, 600, 32, 5), (600, 2, 5, 32), (127, 129, 1, 1), (128, 128, 3, 2),
    (500, 300, 512, 288), (260, 300, 256, 288), (490, 290, 480, 288), (31, 97, 224, 672), (513, 511, 511, 513),
    (20000, 2, 64, 2), (2, 20000, 2, 64), (17, 19, 19, 17), (640, 480, 640, 480), (9, 400, 288, 12), (400, 9, 12, 288),
]


def main():
    lines = []
    for name, data in pictures():
        (HERE / name).write_bytes(data)
        rgb = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        h, w, _ = rgb.shape
        for out_w, out_h in (w, h), (32, 32), (16, 12), (96, 64), (w, 40), (50, h):
            out = resize(rgb, out_w, out_h)
            lines.append(f"{name} {w} {h} {out_w} {out_h} {mark(out)}\n")
            if (out_w, out_h) == (16, 12) and name in ("rgb8.png", "turn6.jpg", "ycc420_progressive.jpg"):
                (HERE / f"{name}.16x12.rgb").write_bytes(out.tobytes())
    (HERE / "expected.txt").write_text("".join(lines))

    lines = []
    for seed, (w, h, out_w, out_h) in enumerate(RESIZES):
        for hard in 0, 1:
            out = resize(noise(w, h, seed, hard), out_w, out_h)
            lines.append(f"{w} {h} {out_w} {out_h} {seed} {hard} {mark(out)}\n")
    (HERE / "resize.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
