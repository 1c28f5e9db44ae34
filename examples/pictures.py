#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of this folder: cat.png, shapes.png and valley.jpg.

    python3 pictures.py      # needs Pillow and numpy

The first two are drawn four times as large and scaled down, for smooth edges.
"""
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HERE = Path(__file__).parent
SCALE = 4


class Pen:
    """Draws on a large canvas in the coordinates of the small one."""

    def __init__(self, width, height, background):
        self.size = (width, height)
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), background)
        self.draw = ImageDraw.Draw(self.image)

    def _scaled(self, points):
        return [(x * SCALE, y * SCALE) for x, y in points]

    def ellipse(self, x, y, rx, ry, fill):
        self.draw.ellipse(self._scaled([(x - rx, y - ry), (x + rx, y + ry)]), fill=fill)

    def polygon(self, points, fill):
        self.draw.polygon(self._scaled(points), fill=fill)

    def line(self, points, fill, width):
        points = self._scaled(points)
        self.draw.line(points, fill=fill, width=int(width * SCALE), joint="curve")
        r = width * SCALE / 2
        for x, y in (points[0], points[-1]):
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def box(self, x0, y0, x1, y1, fill, radius=0):
        self.draw.rounded_rectangle(self._scaled([(x0, y0), (x1, y1)]), radius * SCALE, fill=fill)

    def result(self):
        return self.image.resize(self.size, Image.Resampling.LANCZOS)


def curve(p0, p1, p2, p3, steps=40):
    """A cubic Bezier curve as points."""
    points = []
    for i in range(steps + 1):
        t = i / steps
        a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3
        points.append(tuple(a * u + b * v + c * w + d * z for u, v, w, z in zip(p0, p1, p2, p3)))
    return points


def cat():
    """A ginger cat on a blue cushion, before a green wall with a window."""
    fur, dark, cream, pink, ink = "#e8923a", "#c46f1f", "#fbe6c8", "#ef8f8f", "#2a2020"
    p = Pen(256, 256, "#a9cfb4")
    p.box(176, 14, 246, 92, "#f6f2e6", 4)
    p.box(181, 19, 241, 87, "#bfe3f7")
    p.ellipse(226, 36, 9, 9, "#ffe27a")
    p.polygon([(181, 87), (181, 70), (200, 58), (222, 74), (241, 64), (241, 87)], "#7fb56b")
    p.box(209, 19, 213, 87, "#f6f2e6")
    p.box(0, 206, 256, 256, "#b98a5e")
    for x in range(-20, 256, 52):
        p.line([(x, 256), (x + 26, 207)], "#a87a50", 1.5)
    p.ellipse(124, 222, 104, 26, "#31619c")
    p.ellipse(124, 216, 104, 22, "#4a80c4")
    # The tail lies behind the body, the body behind the head.
    tail = curve((176, 206), (236, 214), (236, 150), (206, 142))
    p.line(tail, fur, 17)
    p.line(tail[-7:], dark, 17)
    p.ellipse(124, 178, 62, 46, fur)
    p.ellipse(124, 190, 34, 34, cream)
    for x in (66, 182):
        for k in range(3):
            y = 160 + 14 * k
            inward = 18 if x < 124 else -18
            p.line(curve((x, y), (x + inward / 2, y - 3), (x + inward, y), (x + inward, y + 3)), dark, 5)
    for x in (100, 148):
        p.ellipse(x, 214, 19, 11, cream)
        for dx in (-6, 0, 6):
            p.line([(x + dx, 214), (x + dx, 220)], dark, 1.5)
    for side in (-1, 1):
        p.polygon([(124 + side * 14, 68), (124 + side * 56, 28), (124 + side * 58, 96)], fur)
        p.polygon([(124 + side * 26, 66), (124 + side * 50, 43), (124 + side * 51, 84)], pink)
    p.ellipse(124, 106, 60, 50, fur)
    for dx in (-14, 0, 14):
        p.line([(124 + dx, 60 + abs(dx) / 4), (124 + dx * 0.8, 78)], dark, 6)
    p.ellipse(108, 126, 20, 16, cream)
    p.ellipse(140, 126, 20, 16, cream)
    for side in (-1, 1):
        x = 124 + side * 25
        p.ellipse(x, 100, 13, 14, "#f7f7e8")
        p.ellipse(x, 100, 11.5, 12.5, "#7cbf4b")
        p.ellipse(x, 100, 4.5, 11, ink)
        p.ellipse(x + 4, 95, 3, 3, "white")
        for k in (-1, 0, 1):
            p.line([(124 + side * 30, 124 + 4 * k), (124 + side * 76, 120 + 11 * k)], "#fffaf0", 1.5)
    p.polygon([(116, 115), (132, 115), (124, 124)], pink)
    p.line(curve((124, 124), (122, 136), (110, 136), (107, 129)), ink, 2)
    p.line(curve((124, 124), (126, 136), (138, 136), (141, 129)), ink, 2)
    return p.result()


def shapes():
    """Nine shapes of nine colours in three rows."""
    p = Pen(288, 288, "#f4f1ea")
    colors = ["#d7263d", "#f49d37", "#f2d43d", "#3f9b5a", "#2e86c1", "#5b4ea3", "#c2559d", "#7a5a3c", "#3a3f47"]
    regular = [0, 4, 3, 5, 6, 8]  # corners; 0 is a circle
    for i, color in enumerate(colors):
        x, y, r = 48 + 96 * (i % 3), 48 + 96 * (i // 3), 36
        p.box(x - 44, y - 44, x + 44, y + 44, "#ffffff", 8)

        def around(n, radii, turn=-math.pi / 2):
            angles = [turn + 2 * math.pi * k / n for k in range(n)]
            return [(x + radii[k % 2] * math.cos(a), y + radii[k % 2] * math.sin(a)) for k, a in enumerate(angles)]

        if i == 0:
            p.ellipse(x, y, r, r, color)
        elif i < len(regular):
            turn = math.pi / 4 if regular[i] == 4 else -math.pi / 2
            p.polygon(around(regular[i], (r, r), turn), color)
        elif i == 6:  # a star
            p.polygon(around(10, (r, r * 0.42)), color)
        elif i == 7:  # a cross
            p.box(x - 11, y - r, x + 11, y + r, color)
            p.box(x - r, y - 11, x + r, y + 11, color)
        else:  # a ring
            p.ellipse(x, y, r, r, color)
            p.ellipse(x, y, r * 0.55, r * 0.55, "#ffffff")
    return p.result()


def valley():
    """Dusk over hills and a lake: gradients and a little grain, as a photograph has."""
    w, h, horizon = 384, 256, 150
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:h, 0:w].astype(float)
    t = np.clip(y / horizon, 0, 1)[..., None]
    sky = (1 - t) * np.array([58, 78, 140.0]) + t * np.array([250, 176, 120.0])
    glow = np.exp(-(((x - 262) / 90) ** 2 + ((y - 104) / 50) ** 2))[..., None]
    p = sky + glow * np.array([60, 50, 10.0])
    p[(x - 262) ** 2 + (y - 92) ** 2 < 15 ** 2] = [255, 240, 205]
    hills = [(126, 22, [128, 104, 140]), (142, 16, [84, 78, 112]), (156, 9, [48, 60, 78])]
    for level, (base, height, color) in enumerate(hills):
        a = rng.uniform(0, 6, 4)
        waves = sum(np.sin(x / (17 + 29 * k + 7 * level) + a[k]) / (4 - 0.7 * k) for k in range(4))
        p[y > base - height * waves] = color
    water = y > 168
    bent = np.clip(x + 3 * np.sin(y / 1.7), 0, w - 1).astype(int)
    mirrored = p[np.clip(336 - y.astype(int), 0, h - 1), bent]
    p[water] = 0.72 * mirrored[water] + np.array([6, 14, 30])
    p[(y > 162) & (y <= 168 + 2 * np.sin(x / 23))] = [34, 44, 40]
    p += rng.normal(0, 3, (h, w, 1))
    image = Image.fromarray(np.clip(p, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    draw = ImageDraw.Draw(image)
    pick = random.Random(8)
    for _ in range(26):  # firs at the near shore
        cx, top = pick.randrange(-5, 150), pick.randrange(176, 206)
        span = pick.randrange(40, 70) / 5
        for k in range(5):
            half = 3 + 2.4 * k
            tip, foot = top + span * k - 4, top + span * (k + 1)
            draw.polygon([(cx, tip), (cx - half, foot), (cx + half, foot)], fill=(14 + k, 26 + 2 * k, 26 + k))
    draw.polygon([(0, 256), (0, 240), (60, 234), (130, 242), (200, 256)], fill=(12, 20, 20))
    return image


def main():
    cat().save(HERE / "cat.png", optimize=True)
    shapes().save(HERE / "shapes.png", optimize=True)
    valley().save(HERE / "valley.jpg", quality=88)


if __name__ == "__main__":
    main()
