"""Train the reference models on Fashion-MNIST and write them as ONNX files.

The script writes four ONNX models, the arrays in ``data/`` and ``manifest.json``. It needs torch,
numpy, onnx and onnxruntime; ``README.md`` beside it tells how to run it.
"""

import argparse
import gzip
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

DATASET = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530
HELD_OUT = 10_000  # training images that no model is trained on
CALIBRATION, TEST = 256, 2_000  # images written to data/
OPSET = 17
BATCH = 128

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Activation = type[nn.Module]


# --- Networks ---------------------------------------------------------------------------------


def named(**modules: nn.Module) -> nn.Sequential:
    """Chain modules under readable names, which become the names in the ONNX graph."""
    return nn.Sequential(OrderedDict(modules))


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Return a padded convolution, its batch normalisation and, unless None, an activation."""
    block = named(
        conv=nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(outputs),
    )
    if activation is not None:
        block.add_module("act", activation())
    return block


def classifier(features: int) -> nn.Sequential:
    """Return global average pooling followed by a linear layer onto the ten classes."""
    return named(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(features, 10))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to a shortcut, projected by a 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Take the channels of input and output and the stride of the first convolution."""
        super().__init__()
        self.body = named(
            first=conv_bn(inputs, outputs, stride=stride),
            second=conv_bn(outputs, outputs, activation=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_bn(inputs, outputs, 1, stride=stride, activation=None)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.act(self.body(x) + self.shortcut(x))
        return y


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the global average of all channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        """Take the channels to scale and those of the bottleneck."""
        super().__init__()
        self.gate = named(
            pool=nn.AdaptiveAvgPool2d(1),
            reduce=nn.Conv2d(channels, squeezed, 1),
            act=nn.ReLU(),
            expand=nn.Conv2d(squeezed, channels, 1),
            sigmoid=nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the gate."""
        y: Tensor = x * self.gate(x)
        return y


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, squeeze-and-excite and project; add the input if shapes agree."""

    def __init__(self, inputs: int, expanded: int, outputs: int, stride: int = 1) -> None:
        """Take the channels before, within and after the block and the depthwise stride."""
        super().__init__()
        self.body = named(
            expand=conv_bn(inputs, expanded, 1, activation=nn.Hardswish),
            depthwise=conv_bn(expanded, expanded, stride=stride, groups=expanded, activation=nn.Hardswish),
            se=SqueezeExcite(expanded, max(16, expanded // 64 * 16)),
            project=conv_bn(expanded, outputs, 1, activation=None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def mlp() -> nn.Module:
    """Return the classic multilayer perceptron, 784-64-10."""
    return named(
        flatten=nn.Flatten(),
        hidden=nn.Linear(784, 64),
        act=nn.ReLU(),
        output=nn.Linear(64, 10),
    )


def cnn() -> nn.Module:
    """Return a plain CNN whose flattened feature map keeps its 7x7 spatial extent."""
    return named(
        block1=conv_bn(1, 32),
        pool1=nn.MaxPool2d(2),
        block2=conv_bn(32, 64),
        pool2=nn.MaxPool2d(2),
        block3=conv_bn(64, 64),
        flatten=nn.Flatten(),
        hidden=nn.Linear(64 * 7 * 7, 128),
        act=nn.ReLU(),
        output=nn.Linear(128, 10),
    )


def resnet() -> nn.Module:
    """Return a residual CNN with three stages and both kinds of shortcut."""
    return named(
        stem=conv_bn(1, 32),
        stage1=BasicBlock(32, 32),
        stage2=BasicBlock(32, 48, stride=2),
        stage3=nn.Sequential(BasicBlock(48, 64, stride=2), BasicBlock(64, 64)),
        head=classifier(64),
    )


def mobilenet() -> nn.Module:
    """Return a depthwise-separable CNN with squeeze-and-excitation and hard activations."""
    return named(
        stem=conv_bn(1, 16, activation=nn.Hardswish),
        stage1=InvertedResidual(16, 64, 32, stride=2),
        stage2=InvertedResidual(32, 96, 32),
        stage3=InvertedResidual(32, 96, 48, stride=2),
        stage4=nn.Sequential(InvertedResidual(48, 144, 48), InvertedResidual(48, 144, 48)),
        features=conv_bn(48, 128, 1, activation=nn.Hardswish),
        head=classifier(128),
    )


@dataclass(frozen=True)
class Recipe:
    """How to make one model.

    Attributes:
        build: Returns the untrained network.
        summary: What the network is, for the manifest.
        epochs: Passes over the training images.
        rate: Peak learning rate of the one-cycle schedule.
        flip: Whether to mirror training images at random.
    """

    build: Callable[[], nn.Module]
    summary: str
    epochs: int = 5
    rate: float = 4e-3
    flip: bool = True


RECIPES = {
    "mlp": Recipe(mlp, "Multilayer perceptron 784-64-10", rate=8e-3, flip=False),
    "cnn": Recipe(cnn, "Plain CNN with batch normalisation and two linear layers"),
    "resnet": Recipe(resnet, "Residual CNN with batch normalisation"),
    "mobilenet": Recipe(mobilenet, "Inverted-residual CNN with squeeze-and-excitation"),
}


# --- Data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Normalised NCHW images and their labels."""

    images: Images
    labels: Labels

    def __getitem__(self, index: slice | npt.NDArray[np.int64]) -> "Split":
        """Return the part that the index selects."""
        return Split(self.images[index], self.labels[index])


def read_idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a gzipped IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def read_split(folder: Path, prefix: str) -> Split:
    """Read one half of Fashion-MNIST.

    Args:
        folder: Holds the four ``*-ubyte.gz`` files.
        prefix: ``train`` or ``t10k``.

    Returns:
        The whole half, normalised, in the order of the files.
    """
    pixels = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", header=16)
    scaled = (pixels.astype(np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header=8)
    return Split(scaled.astype(np.float32).reshape(-1, 1, 28, 28), labels.astype(np.int64))


def write_data(folder: Path, held_out: Split, test: Split) -> None:
    """Write the calibration images, the test images and the test labels."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "calibration.npz", input=held_out.images[:CALIBRATION])
    np.savez_compressed(folder / "test.npz", input=test.images[:TEST])
    np.save(folder / "test-labels.npy", test.labels[:TEST])


# --- Training and export ----------------------------------------------------------------------


def train(recipe: Recipe, split: Split, seed: int) -> nn.Module:
    """Train a fresh network; the seed fixes its initial weights, the batches and the flips."""
    torch.manual_seed(seed)
    model = recipe.build()
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, epochs=recipe.epochs, steps_per_epoch=steps)
    model.train()
    for epoch in range(recipe.epochs):
        start, total = time.monotonic(), 0.0
        for batch in torch.randperm(len(images))[: steps * BATCH].view(steps, BATCH):
            x = images[batch]
            if recipe.flip:
                x = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x.flip(-1), x)
            loss = nn.functional.cross_entropy(model(x), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - start
        print(f"  epoch {epoch + 1}: loss {total / steps:.4f} in {seconds:.0f} s", flush=True)
    model.eval()
    return model


def export(model: nn.Module, path: Path) -> None:
    """Write a model as ONNX for inference, with its BatchNormalization nodes unfused.

    Source locations are dropped, so that the file says nothing of the machine that made it.
    """
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 28, 28),),
        path,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fuse batch normalisation
        do_constant_folding=False,
    )
    proto = onnx.load(path)
    proto.doc_string = proto.graph.doc_string = ""
    for node in proto.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


# --- Manifest ---------------------------------------------------------------------------------


def accuracy(path: Path, split: Split) -> float:
    """Return the share of images that onnxruntime, running the file, classifies rightly."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    hits = 0
    for start in range(0, len(split.labels), 500):
        part = split[start : start + 500]
        (logits,) = session.run(["logits"], {"input": part.images})
        hits += int((np.asarray(logits).argmax(axis=1) == part.labels).sum())
    return hits / len(split.labels)


def describe_file(path: Path, origin: str, licence: str) -> dict[str, Any]:
    """Return what the manifest says of every file."""
    content = path.read_bytes()
    return {
        "origin": origin,
        "licence": licence,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def describe_model(path: Path, recipe: Recipe, test: Split) -> dict[str, Any]:
    """Return what the manifest says of a model."""
    proto = onnx.load(path)
    origin = (
        f"{recipe.summary}, trained from scratch by train.py for {recipe.epochs} epochs on"
        f" {60_000 - HELD_OUT} Fashion-MNIST training images."
    )
    return describe_file(path, origin, "Apache-2.0") | {
        "opset": proto.opset_import[0].version,
        "nodes": len(proto.graph.node),
        "parameters": sum(int(np.prod(w.dims)) for w in proto.graph.initializer),
        "accuracy": accuracy(path, test[:TEST]),
        "accuracy_all_10000": accuracy(path, test),
    }


def write_manifest(out: Path, test: Split, seed: int) -> None:
    """Describe every file in the folder that this script can write."""
    licence = "MIT, Copyright (c) 2017 Zalando SE, https://tech.zalando.com (see data/LICENSE)"
    origins = {
        "calibration.npz": f"The first {CALIBRATION} of the {HELD_OUT} Fashion-MNIST training"
        f" images held out of training (permutation seed {seed}), normalised.",
        "test.npz": f"The first {TEST} Fashion-MNIST test images, normalised.",
        "test-labels.npy": f"The first {TEST} Fashion-MNIST test labels.",
    }
    files = {
        f"{name}.onnx": describe_model(out / f"{name}.onnx", recipe, test)
        for name, recipe in RECIPES.items()
        if (out / f"{name}.onnx").exists()
    }
    for name, origin in origins.items():
        files[f"data/{name}"] = describe_file(out / "data" / name, origin, licence)
    manifest = out / "manifest.json"
    others = json.loads(manifest.read_text()) if manifest.exists() else {}  # of models that come from elsewhere
    manifest.write_text(json.dumps({**others, "seed": seed, "files": files}, indent=2) + "\n")
    for name, entry in files.items():
        shown = {key: value for key, value in entry.items() if isinstance(value, int | float)}
        print(name, shown)


def main() -> None:
    """Make the files that the command line asks for."""
    parser = argparse.ArgumentParser(description="Make the reference models and their data.")
    parser.add_argument("--data", type=Path, default=DATASET, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--models", nargs="*", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    whole, test = read_split(args.data, "train"), read_split(args.data, "t10k")
    order = np.random.default_rng(args.seed).permutation(len(whole.labels))
    held_out, training = whole[order[:HELD_OUT]], whole[order[HELD_OUT:]]

    write_data(args.out / "data", held_out, test)
    for name in args.models:
        print(name, flush=True)
        export(train(RECIPES[name], training, args.seed), args.out / f"{name}.onnx")
    write_manifest(args.out, test, args.seed)


if __name__ == "__main__":
    main()
