"""The same torch networks through both of torch's exporters: ``python torch_pairs.py FOLDER`` where torch is installed.

Writes ``<name>.old.onnx`` (TorchScript, opset 14) and ``<name>.new.onnx`` (dynamo, opset 18).
"""

# mypy: ignore-errors
# The framework is not there where types are checked.

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions with batch normalisation, and what they are added to."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skip = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One block."""
        return torch.relu(self.body(x) + self.skip(x))


def residual() -> nn.Module:
    """A small residual network."""
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Encoder(nn.Module):
    """Embeddings and a small transformer encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of a sequence."""
        return self.head(self.layers(self.table(tokens)).mean(1))


def main(folder: Path) -> None:
    """Write the pairs."""
    torch.manual_seed(0)
    examples = {"residual": torch.randn(2, 3, 32, 32), "encoder": torch.randint(0, 100, (2, 16))}
    for name, network in (("residual", residual()), ("encoder", Encoder())):
        network.train()
        for _ in range(4):
            example = examples[name]
            network(torch.randn_like(example) if example.is_floating_point() else example)
        network.eval()
        old, new = folder / f"{name}.old.onnx", folder / f"{name}.new.onnx"
        torch.onnx.export(network, (examples[name],), str(old), dynamo=False, opset_version=14)
        torch.onnx.export(network, (examples[name],), str(new), dynamo=True, opset_version=18, external_data=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
