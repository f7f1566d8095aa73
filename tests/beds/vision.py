"""Photos for EfficientNet-lite0, faces for MTCNN's second stage."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.beds import data
from tests.beds.bed import CALIBRATION, Array, Bed, Context, Factory, Feed, Goal, Metrics, macs, run

SIDE, SHORTER = 224, 256
AGREEING = 1000  # crops that pruned and dense model are compared on
PHOTOS = {  # of scikit-image; what is calibrated on shows nothing of what is measured on
    "calibration": ("astronaut", "brick", "camera", "cell", "coffee", "gravel", "ihc", "page", "retina"),
    "test": ("chelsea", "clock_motion", "coins", "grass", "hubble_deep_field", "moon", "motorcycle_left", "rocket"),
}
THINGS = (  # photographs of Tux Paint, cut out: what is calibrated on has things in front of it
    "animals",
    "clothes",
    "food",
    "hobbies",
    "household",
    "medical",
    "military",
    "plants",
    "sports",
    "town/houses",
    "town/monuments",
    "vehicles",
)
FACE = 24
TEST_SEED = 12345  # what is measured on does not change with the seed of a row


@cache
def photos(part: str) -> list[Image.Image]:
    """Half of the photos."""
    folder = data.package("photos")
    return [Image.open(next(folder.glob(f"{name}.*"))).convert("RGB") for name in PHOTOS[part]]


def normalised(pixels: Array) -> Array:
    """As EfficientNet-lite wants its pixels: NCHW, about -1 to 1."""
    return ((pixels.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128).astype(np.float32)


def crops(part: str, count: int, seed: int) -> Array:
    """Squares of half to all of a photo's shorter side, half of them mirrored."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        photo = photos(part)[number % len(PHOTOS[part])]
        side = int(min(photo.size) * rng.uniform(0.5, 1))
        left, top = (int(rng.integers(0, size - side + 1)) for size in photo.size)
        square = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        found.append(np.asarray(square)[:, :: rng.choice((-1, 1))])
    return normalised(np.stack(found))


@cache
def things() -> list[Path]:
    """Photographed things on a transparent ground."""
    folder = data.debian("tuxpaint-stamps-default") / "usr" / "share" / "tuxpaint" / "stamps"
    found = sorted(path for name in THINGS for path in (folder / name).rglob("*.png"))
    return [path for path in found if "cartoon" not in path.parts]


def with_things(pixels: Array, seed: int) -> Array:
    """A thing in front of every crop, from half its size to a little more than all of it."""
    rng = np.random.default_rng(seed)
    found = pixels.copy()
    for number, crop in enumerate(pixels):
        square = Image.fromarray(np.clip(np.round(crop.transpose(1, 2, 0) * 128 + 127), 0, 255).astype(np.uint8))
        thing = Image.open(things()[int(rng.integers(len(things())))]).convert("RGBA")
        scale = rng.uniform(0.5, 1.1) * SIDE / max(thing.size)
        size = tuple(max(1, int(length * scale)) for length in thing.size)
        thing = thing.resize(size, Image.Resampling.BICUBIC)
        gaps = [SIDE - length for length in thing.size]
        corner = tuple(int(rng.integers(min(0, gap), max(0, gap) + 1)) for gap in gaps)
        square.paste(thing, corner, thing)
        found[number] = normalised(np.asarray(square)[None])[0]
    return found


@cache
def labelled() -> tuple[Array, Array]:
    """Twenty photos of ImageNet; the label is the last number of a file's name."""
    files = sorted(data.package("imagenet").glob("*.jpg"))
    pixels = [np.asarray(_middle(Image.open(path).convert("RGB"))) for path in files]
    return normalised(np.stack(pixels)), np.array([int(path.stem.rpartition("_")[2]) for path in files])


def _middle(photo: Image.Image) -> Image.Image:
    """The usual evaluation crop: the shorter side becomes 256, and of that the middle stays."""
    scale = SHORTER / min(photo.size)
    width, height = (round(size * scale) for size in photo.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return photo.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE))


def efficientnet(context: Context) -> Bed:
    """EfficientNet-lite0: agreement on crops of other photos, and 20 labelled images."""
    model = data.model("efficientnet-lite0/efficientnet_lite0.onnx", context)
    items = min(context.items, AGREEING)
    test = crops("test", items, TEST_SEED)
    images, labels = labelled()
    dense = run(model, {"input": test}, size=20).argmax(1)

    def measure(path: Path) -> Metrics:
        agreed = run(path, {"input": test}, size=20).argmax(1) == dense
        right = run(path, {"input": images}).argmax(1) == labels
        return {"agreement": float(agreed.mean()), "top1 of 20": float(right.mean())}

    budgets = [macs(kept, Goal("agreement", least), Goal("top1 of 20")) for kept, least in ((0.9, 0.9), (0.8, 0.8))]
    shapes = {"input": (1, 3, SIDE, SIDE)}
    return Bed("efficientnet-lite0", model, _photo_samples, measure, budgets, items, shapes)


def _photo_samples(seed: int) -> Feed:
    return {"input": with_things(crops("calibration", CALIBRATION, seed), seed)}


@cache
def faces(part: str) -> tuple[Array, Array]:
    """Half of the faces and half of the other patches of LFW's subset, in their four corners, and which is a face."""
    patches = np.load(data.package("photos") / "lfw_subset.npy")  # 100 faces, 100 others, 25 x 25, 0 to 1
    half = patches[0 if part == "calibration" else 1 :: 2]
    moved = [half[:, y : y + FACE, x : x + FACE] for y in (0, 1) for x in (0, 1)]
    pixels = np.repeat(np.concatenate(moved)[:, None] * 255, 3, axis=1)
    known = np.tile(np.arange(len(half)) < len(half) // 2, len(moved))
    return ((pixels - 127.5) / 128).astype(np.float32), known


def _face_samples(seed: int) -> Feed:
    pixels, _ = faces("calibration")
    return {"input": pixels[np.random.default_rng(seed).permutation(len(pixels))[:CALIBRATION]]}


def _tell_faces(path: Path, items: int) -> Metrics:
    pixels, known = faces("test")
    probabilities = run(path, {"input": pixels}, "probs")[:, 1]
    return {"accuracy": float(((probabilities > 0.5) == known)[:items].mean())}


def rnet(context: Context) -> Bed:
    """MTCNN's R-Net: faces against other patches."""
    model = data.model("mtcnn/rnet.onnx", context)
    items = min(context.items, len(faces("test")[1]))
    budgets = [macs(0.5, Goal("accuracy", drop=0.02))]
    shapes = {"input": (1, 3, FACE, FACE)}
    return Bed("mtcnn-rnet", model, _face_samples, partial(_tell_faces, items=items), budgets, items, shapes)


BEDS: dict[str, Factory] = {"efficientnet-lite0": efficientnet, "mtcnn-rnet": rnet}
