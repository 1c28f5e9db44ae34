# SPDX-License-Identifier: Apache-2.0
"""Pictures with known content, and questions about them with their exact answers.

Everything is drawn with Pillow from a seeded random generator; nothing comes from outside. A
picture holds 1-4 coloured shapes in the cells of a 3 x 3 grid, or a number, or a word, or nothing.
"""
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ["circle", "square", "triangle", "star", "cross"]
COLOURS = {
    "red": (214, 48, 49), "green": (46, 160, 67), "blue": (41, 98, 219),
    "yellow": (240, 200, 32), "purple": (142, 68, 173), "orange": (240, 130, 30),
}
ZONES = ["top left", "top", "top right", "left", "middle", "right",
         "bottom left", "bottom", "bottom right"]
WORDS = ["cat", "dog", "sun", "tree", "fish", "book", "moon", "milk"]
CHARACTERS = "0123456789" + "".join(sorted(set("".join(WORDS))))
FONTS = [None, "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"]
IMAGE_SIDES = [96, 128, 160, 192, 224, 256, 320]  # as the model sees pictures, in training
UNSEEN_SIDES = [288, 352]
PIXELS_MIN, PIXELS_MAX = 9216, 65536
_font_cache = {}


def font(name, size):
    key = (name, size)
    if key not in _font_cache:
        _font_cache[key] = (ImageFont.load_default(size) if name is None
                            else ImageFont.truetype(name, size))
    return _font_cache[key]


def fonts_missing():
    """Fonts that this machine lacks; without them no numbers and words can be drawn."""
    missing = []
    for name in FONTS:
        try:
            font(name, 20)
        except OSError:
            missing.append(name)
    return missing


# ---- sizes ----

def grid_sizes(sides=IMAGE_SIDES, side_max=320):
    """(width, height) pairs that the processor admits, aspect up to 2.5."""
    return [(w, h) for w in sides for h in sides
            if PIXELS_MIN <= w * h <= PIXELS_MAX and max(w, h) <= side_max and max(w, h) <= 2.5 * min(w, h)]


def natural_size(rng, size):
    """A picture size that the processor maps to `size`: anything that rounds to it."""
    if rng.random() < 0.4:
        return size
    return tuple(max(90, s + rng.randint(-14, 14)) for s in size)


# ---- drawing ----

def background(rng):
    """A light or a dark, slightly tinted plain colour."""
    base = rng.randint(205, 250) if rng.random() < 0.75 else rng.randint(12, 52)
    return tuple(max(0, min(255, base + rng.randint(-8, 8))) for _ in range(3))


def jitter(rng, colour, amount=14):
    return tuple(max(0, min(255, c + rng.randint(-amount, amount))) for c in colour)


def polygon(kind, radius, angle):
    """Corner points of a shape around the origin."""
    def turn(points):
        c, s = np.cos(angle), np.sin(angle)
        return [(radius * (x * c - y * s), radius * (x * s + y * c)) for x, y in points]
    if kind == "square":
        a = 0.82
        return turn([(-a, -a), (a, -a), (a, a), (-a, a)])
    if kind == "triangle":
        return turn([(0, -1), (0.92, 0.72), (-0.92, 0.72)])
    if kind == "star":
        points = []
        for i in range(10):
            r = 1.0 if i % 2 == 0 else 0.42
            t = np.pi * i / 5 - np.pi / 2
            points.append((r * np.cos(t), r * np.sin(t)))
        return turn(points)
    b = 0.32  # cross
    return turn([(-b, -1), (b, -1), (b, -b), (1, -b), (1, b), (b, b),
                 (b, 1), (-b, 1), (-b, b), (-1, b), (-1, -b), (-b, -b)])


def draw_shape(draw, rng, kind, colour, x, y, radius):
    if kind == "circle":
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
        return
    angle = np.radians(rng.uniform(-15, 15))
    draw.polygon([(x + px, y + py) for px, py in polygon(kind, radius, angle)], fill=colour)


def finish(rng, image, plain=False):
    """Half size, and sometimes noise or JPEG traces, as pictures from a camera have."""
    image = image.reduce(2)
    if not plain and rng.random() < 0.45:
        pixels = np.asarray(image, dtype=np.float32)
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(1, 7), pixels.shape)
        image = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
    if not plain and rng.random() < 0.3:
        image = jpeg(image, rng.randint(60, 95))
    return image


def jpeg(image, quality):
    import io
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


# ---- scenes ----

def draw_shapes(rng, width, height, count, plain=False):
    image = Image.new("RGB", (2 * width, 2 * height), background(rng))
    draw = ImageDraw.Draw(image)
    zones = sorted(rng.sample(range(9), count))
    things = []
    cell_w, cell_h = 2 * width / 3, 2 * height / 3
    for zone in zones:
        kind, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        cell = min(cell_w, cell_h)
        radius = cell * (rng.uniform(0.36, 0.6) if count == 1 else rng.uniform(0.33, 0.44))
        x = cell_w * (zone % 3 + 0.5) + rng.uniform(-0.08, 0.08) * cell
        y = cell_h * (zone // 3 + 0.5) + rng.uniform(-0.08, 0.08) * cell
        x = min(max(x, radius), 2 * width - radius)
        y = min(max(y, radius), 2 * height - radius)
        draw_shape(draw, rng, kind, jitter(rng, COLOURS[colour]), x, y, radius)
        things.append((kind, colour, ZONES[zone]))
    return finish(rng, image, plain), {"kind": "shapes", "things": things}


def draw_text(rng, width, height, text, kind, plain=False):
    ground = background(rng)
    image = Image.new("RGB", (2 * width, 2 * height), ground)
    draw = ImageDraw.Draw(image)
    name = rng.choice(FONTS)
    size = 2 * rng.randint(28, max(29, min(72, int(0.8 * height))))
    while size > 40:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font(name, size))
        if right - left <= 1.88 * width and bottom - top <= 1.88 * height:
            break
        size -= 4
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font(name, size))
    x = rng.uniform(4, max(5, 2 * width - (right - left) - 4)) - left
    y = rng.uniform(4, max(5, 2 * height - (bottom - top) - 4)) - top
    dark = sum(ground) < 300
    ink = jitter(rng, rng.choice(list(COLOURS.values()))) if rng.random() < 0.5 else (
        tuple([rng.randint(215, 255)] * 3) if dark else tuple([rng.randint(0, 45)] * 3))
    draw.text((x, y), text, fill=ink, font=font(name, size))
    return finish(rng, image, plain), {"kind": kind, "text": text}


def number_text(rng):
    digits = rng.choice([1, 2, 2, 3, 3, 3])
    return "".join(rng.choice("0123456789") if i else rng.choice("123456789")
                   for i in range(digits))


def draw_scene(rng, width, height, plain=False, shapes_max=4):
    """A picture and what it shows; its size is width x height pixels."""
    r = rng.random()
    if r < 0.60:
        return draw_shapes(rng, width, height, rng.randint(1, shapes_max), plain)
    if r < 0.90:
        return draw_text(rng, width, height, number_text(rng), "number", plain)
    if r < 0.98:
        return draw_text(rng, width, height, rng.choice(WORDS), "word", plain)
    return draw_shapes(rng, width, height, 0, plain)


# ---- questions ----

def place(zone):
    if zone == "middle":
        return "in the middle"
    return f"on the {zone}" if zone in ("left", "right") else f"at the {zone}"


def thing(colour, kind):
    return f"{'an' if colour == 'orange' else 'a'} {colour} {kind}"


def sentence(text):
    return text[0].upper() + text[1:] + "."


def describe(scene):
    if scene["kind"] != "shapes":
        return f"The {scene['kind']} {scene['text']}."
    parts = [f"{thing(c, k)} {place(z)}" for k, c, z in scene["things"]]
    if not parts:
        return "Nothing."
    return sentence(parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1])


def plural(kind):
    return "crosses" if kind == "cross" else kind + "s"


ASK_DESCRIBE = ["What is in the picture?", "Describe the picture.", "What do you see?",
                "Describe this image."]


def questions(rng, scene):
    """All question families of a scene: (task, question, answer), spellings drawn at random."""
    ask = rng.choice
    out = [("describe", ask(ASK_DESCRIBE), describe(scene))]
    if scene["kind"] != "shapes":
        kind, text = scene["kind"], scene["text"]
        out.append((f"read {kind}", ask([f"What {kind} is it?", f"Read the {kind}.",
                                         f"Which {kind} do you see?"]), text))
        return out
    things = scene["things"]
    kinds, colours = [k for k, _, _ in things], [c for _, c, _ in things]
    out.append(("count", ask(["How many shapes are there?", "How many shapes do you see?",
                              "Count the shapes."]), str(len(things))))
    kind = ask(kinds) if things and rng.random() < 0.75 else ask(SHAPES)
    out.append(("count", f"How many {plural(kind)} are there?", str(kinds.count(kind))))
    for k, c, z in things:
        if kinds.count(k) == 1:
            out.append(("colour", ask([f"What colour is the {k}?", f"Which colour is the {k}?"]),
                        sentence(c)))
        if colours.count(c) == 1:
            out.append(("shape", ask([f"What shape is {c}?", f"Which shape is {c}?"]),
                        sentence(f"a {k}")))
        if things.count((k, c, z)) == 1 and sum(t[:2] == (k, c) for t in things) == 1:
            out.append(("where", ask([f"Where is the {c} {k}?", f"Where do you see the {c} {k}?"]),
                        sentence(place(z))))
        out.append(("zone", f"What is {place(z)}?", sentence(thing(c, k))))
    if things:
        k, c, _ = ask(things) if rng.random() < 0.5 else (ask(SHAPES), ask(list(COLOURS)), "")
        there = any(t[:2] == (k, c) for t in things)
        out.append(("exists", ask([f"Is there {thing(c, k)}?", f"Do you see {thing(c, k)}?"]),
                    "Yes." if there else "No."))
    return out


def pair_question(rng, first, second):
    """A question about two pictures of shapes."""
    a, b = first["things"], second["things"]
    if len(a) == 1 and len(b) == 1 and rng.random() < 0.8:
        if rng.random() < 0.5:
            return ("pair colour", "Are they the same colour?", "Yes." if a[0][1] == b[0][1] else "No.")
        return ("pair shape", "Are they the same shape?", "Yes." if a[0][0] == b[0][0] else "No.")
    answer = "Both have the same." if len(a) == len(b) else (
        "The first." if len(a) > len(b) else "The second.")
    return ("pair count", "Which picture has more shapes?", answer)


def draw_pair(rng, sizes):
    """Two pictures that make a fair pair question."""
    if rng.random() < 0.5:  # one shape each, equal in half of the cases
        while True:
            one = draw_shapes(rng, *sizes[0], 1)
            two = draw_shapes(rng, *sizes[1], 1)
            same = one[1]["things"][0][1] == two[1]["things"][0][1] or \
                one[1]["things"][0][0] == two[1]["things"][0][0]
            if same or rng.random() < 0.35:
                return one, two
    counts = [rng.randint(1, 4), rng.randint(1, 4)]
    return draw_shapes(rng, *sizes[0], counts[0]), draw_shapes(rng, *sizes[1], counts[1])


def text_dialogue(rng):
    """Questions without a picture; the long ones are checkable decodes."""
    r = rng.random()
    if r < 0.15:
        return rng.choice([("Hello!", "Hello! Show me a picture."), ("Hi!", "Hello! Show me a picture."),
                           ("Who are you?", "I am a tiny model that looks at pictures."),
                           ("Thank you.", "You are welcome.")])
    if r < 0.75:
        first = rng.randint(0, 30)
        last = first + rng.randint(1, 14)
        return (f"Count from {first} to {last}.", " ".join(str(i) for i in range(first, last + 1)))
    words = [rng.choice(SHAPES + list(COLOURS) + WORDS) for _ in range(rng.randint(1, 5))]
    return ("Repeat: " + " ".join(words) + ".", " ".join(words))


# ---- crowded pictures for the first stage ----

def draw_crowd(rng, width, height):
    """Many shapes and characters on a jittered grid, and where each one is:
    (x, y, radius, shape or None, colour or None, character or None) in pixels."""
    image = Image.new("RGB", (2 * width, 2 * height), background(rng))
    draw = ImageDraw.Draw(image)
    pitch = rng.uniform(34, 64)
    columns, rows = max(1, int(width / pitch)), max(1, int(height / pitch))
    items = []
    dark = sum(image.getpixel((0, 0))) < 300
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.15:
                continue
            x = width * (column + 0.5 + rng.uniform(-0.12, 0.12)) / columns
            y = height * (row + 0.5 + rng.uniform(-0.12, 0.12)) / rows
            size = min(width / columns, height / rows)
            if rng.random() < 0.5:
                kind, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
                radius = size * rng.uniform(0.3, 0.42)
                draw_shape(draw, rng, kind, jitter(rng, COLOURS[colour]), 2 * x, 2 * y, 2 * radius)
                items.append((x, y, radius, kind, colour, None))
                continue
            text = rng.choice(CHARACTERS)
            glyphs = font(rng.choice(FONTS), 2 * int(min(72, size * rng.uniform(0.6, 1.0)) + 4))
            left, top, right, bottom = draw.textbbox((0, 0), text, font=glyphs)
            ink = (235, 235, 235) if dark else (25, 25, 25)
            if rng.random() < 0.5:
                ink = jitter(rng, rng.choice(list(COLOURS.values())))
            draw.text((2 * x - (left + right) / 2, 2 * y - (top + bottom) / 2), text, fill=ink, font=glyphs)
            items.append((x, y, (right - left) / 4, None, None, text))
    return finish(rng, image), items
