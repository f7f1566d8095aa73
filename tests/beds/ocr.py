"""Rendered words for PP-OCR's recogniser, labelled by construction."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.beds import data, text
from tests.beds.bed import CALIBRATION, Array, Bed, Context, Factory, Feed, Goal, Metrics, batches, macs, session

HEIGHT, WIDTH = 48, 192
READ = 2000  # words to read
FONTS = {"fonts-dejavu-core": "*.ttf", "fonts-liberation": "*.ttf"}  # Debian's


@cache
def fonts() -> list[Path]:
    """The fonts to write with."""
    found = [path for name, glob in FONTS.items() for path in sorted(data.debian(name).rglob(glob))]
    return [path for path in found if "Symbol" not in path.name]


def render(word: str, rng: np.random.Generator) -> Array:
    """A word in black on white, in some font and size, scaled to the height and padded to the width."""
    face = ImageFont.truetype(str(fonts()[rng.integers(len(fonts()))]), int(rng.integers(28, 40)))
    left, top, right, bottom = (int(edge) for edge in face.getbbox(word))
    margin = int(rng.integers(3, 9))
    image = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), "white")
    ImageDraw.Draw(image).text((margin - left, margin - top), word, font=face, fill="black")
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), dtype=np.float32)
    padded = np.zeros((3, HEIGHT, WIDTH), dtype=np.float32)
    padded[:, :, :width] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return padded


def page(words: list[str], count: int, seed: int) -> tuple[Array, list[str]]:
    """Images of words, and the words; all words once before any comes twice."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(words)) for _ in range(-(-count // len(words)))])[:count]
    chosen = [words[number] for number in order]
    return np.stack([render(word, rng) for word in chosen]), chosen


def short(words: list[str]) -> list[str]:
    """Words that fit without being squeezed."""
    return [word for word in words if word.isascii() and word.isalpha() and 3 <= len(word) <= 9]


def _samples(seed: int) -> Feed:
    return {"x": page(short(text.other_words()), CALIBRATION, seed)[0]}


def read(path: Path, images: Array, characters: list[str]) -> list[str]:
    """Greedy CTC: repeats are one, blanks are none."""
    model = session(path)
    found = []
    for part in batches({"x": images}, 50):
        for row in model.run(None, part)[0].argmax(2):
            kept = row[np.flatnonzero(np.diff(row, prepend=-1))]
            found.append("".join(characters[symbol] for symbol in kept if symbol))
    return found


def recogniser(context: Context) -> Bed:
    """PP-OCRv4's recogniser: words read without an error."""
    model = data.model("ppocrv4-rec/ch_PP-OCRv4_rec_infer.onnx", context)
    listed = session(model).get_modelmeta().custom_metadata_map["character"].splitlines()
    characters = ["", *listed, " "]
    items = min(context.items, READ)
    images, truth = page(short(sorted(word.lower() for word in text.words(text.TEST))), items, 12345)

    def measure(path: Path) -> Metrics:
        found = read(path, images, characters)
        return {"exact match": float(np.mean([a.strip() == b for a, b in zip(found, truth, strict=True)]))}

    budgets = [macs(0.75, Goal("exact match", drop=0.01))]
    return Bed("ppocr-rec", model, _samples, measure, budgets, items, {"x": (1, 3, HEIGHT, WIDTH)})


BEDS: dict[str, Factory] = {"ppocr-rec": recogniser}
