"""Classifiers of Fashion-MNIST: calibrated on training images, measured on test images."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np

from tests.beds import data
from tests.beds.bed import (
    BATCH,
    Array,
    Bed,
    Budget,
    Context,
    Factory,
    Feed,
    Goal,
    Metrics,
    block_params,
    draw,
    macs,
    ratio,
    run,
)

MEAN, STD = 0.2860, 0.3530
NEURONS = ((0.5, 0.003), (0.7, 0.012), (0.8, 0.025))  # removed, and the drop that is allowed
KEPT = {  # of the MACs, and the least accuracy
    "vgg": ((0.5, 0.912), (0.25, 0.902)),
    "resnet": ((0.5, 0.894), (0.25, 0.874)),
    "densenet": ((0.5, 0.897), (0.25, 0.880)),
    "mobilenet": ((0.5, 0.878), (0.3, 0.848)),
}
WITHOUT_DATA = {  # the same with no data at all
    "vgg_bn": ((0.7, 0.910), (0.5, 0.897)),
    "resnet_bn": ((0.7, 0.890), (0.5, 0.858)),
    "densenet_bn": ((0.7, 0.888), (0.5, 0.830)),
    "mobilenet_bn": ((0.7, 0.872), (0.5, 0.815)),
}


@cache
def images(split: str) -> tuple[Array, Array]:
    """What the networks take, and the labels; the training images are disjoint from the test images."""
    pixels, labels = data.fashion_mnist(split)
    return ((pixels / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32), labels


def calibration(seed: int) -> Feed:
    """Training images, without labels."""
    train, _ = images("train")
    return {"input": train[draw(seed, len(train))]}


def measure(path: Path, items: int) -> Metrics:
    """Accuracy on the first test images."""
    test, labels = images("t10k")
    logits = run(path, {"input": test[:items]}, size=BATCH)
    return {"accuracy": float((logits.argmax(1) == labels[:items]).mean())}


def budgets(name: str, model: Path) -> list[Budget]:
    """What to try on a network."""
    if name.endswith("mlp"):
        return [ratio(removed, "the neurons", Goal("accuracy", drop=drop)) for removed, drop in NEURONS]
    if name in ("vit", "lstm"):
        return [block_params(model, 0.7, Goal("accuracy", drop=0.015))]
    free = dict(WITHOUT_DATA.get(name, ()))
    found = []
    for kept, least in KEPT[name.removesuffix("_bn")]:
        goals = [Goal("accuracy", least)]
        if kept in free:
            goals.append(Goal("accuracy", free.pop(kept), row="data-free"))
        found.append(macs(kept, *goals))
    only = [macs(kept, Goal("accuracy", least, row="data-free"), rows=("data-free",)) for kept, least in free.items()]
    return [*only, *found]


def bed(name: str, file: str, context: Context) -> Bed:
    """The bed of one network."""
    model = data.ROOT / "models" / file
    items = min(context.items, len(images("t10k")[0]))
    kind = name.removeprefix("fmnist/")
    shapes = {"input": (1, 1, 28, 28)}
    return Bed(name, model, calibration, partial(measure, items=items), budgets(kind, model), items, shapes)


NETWORKS = ("mlp", "vgg_bn", "vgg", "resnet_bn", "resnet", "densenet_bn", "densenet", "mobilenet_bn", "mobilenet")
FILES = {"fmnist/small-mlp": "mlp.onnx"} | {f"fmnist/{n}": f"fmnist/{n}.onnx" for n in (*NETWORKS, "vit", "lstm")}
BEDS: dict[str, Factory] = {name: partial(bed, name, file) for name, file in FILES.items()}
