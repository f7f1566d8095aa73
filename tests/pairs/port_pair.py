"""The Keras network of ``keras_pair.py`` in torch, NCHW, with its weights: ``python port_pair.py FOLDER``.

Writes ``port.onnx`` beside ``keras.onnx``.
"""

# mypy: ignore-errors
# The framework is not there where types are checked.

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Port(nn.Module):
    """The same network; its first padding is TensorFlow's, one more behind than before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16, eps=1e-3)
        self.depth, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16, eps=1e-3)
        self.point = nn.Conv2d(16, 16, 1)
        self.hidden, self.scores = nn.Linear(256, 32), nn.Linear(32, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of an image."""
        x = torch.relu(self.norm1(self.first(nn.functional.pad(image, (0, 1, 0, 1)))))
        x = nn.functional.relu6(self.norm2(self.depth(x)))
        x = nn.functional.max_pool2d(x + self.point(x), 2)
        return self.scores(torch.relu(self.hidden(x.flatten(1))))


def main(folder: Path) -> None:
    """Copy the weights and export."""
    held = {name: torch.from_numpy(value) for name, value in np.load(folder / "keras.npz").items()}
    port = Port().eval()
    with torch.no_grad():
        port.first.weight.copy_(held["first.0"].permute(3, 2, 0, 1))
        port.depth.weight.copy_(held["depth.0"].permute(2, 3, 0, 1))
        port.point.weight.copy_(held["point.0"].permute(3, 2, 0, 1))
        hidden = held["hidden.0"].reshape(4, 4, 16, 32).permute(3, 2, 0, 1)
        port.hidden.weight.copy_(hidden.reshape(32, 256))
        port.scores.weight.copy_(held["scores.0"].T)
        for name in ("first", "depth", "point", "hidden", "scores"):
            getattr(port, name).bias.copy_(held[f"{name}.1"])
        for name in ("norm1", "norm2"):
            norm = getattr(port, name)
            for number, part in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
                part.copy_(held[f"{name}.{number}"])
    shape = (2, 3, 16, 16)
    torch.onnx.export(
        port,
        (torch.randn(shape),),
        str(folder / "port.onnx"),
        dynamo=False,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": {0: "batch"}, "scores": {0: "batch"}},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
