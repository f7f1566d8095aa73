"""Random networks as ONNX text.

Residuals, concatenations, splits, depthwise and grouped convolutions, shuffles, gates, pads, flattening. Each block
keeps the size of the picture, so that blocks stack in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from tests.laws import parse

SIZE = 6  # of the picture


@dataclass
class Net:
    """A network in the making: its lines, weights and integer constants, and the tensor that comes last."""

    channels: int = 3
    last: str = "x"
    lines: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    count: int = 0

    def name(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, *shape: int, stem: str = "w") -> str:
        """A new weight."""
        name = self.name(stem)
        self.weights.append(f"float[{','.join(map(str, shape))}] {name}")
        return name

    def numbers(self, *values: int) -> str:
        """A new integer constant."""
        name = self.name("n")
        self.weights.append(f"int64[{len(values)}] {name} = {{{','.join(map(str, values))}}}")
        return name

    def node(self, text: str) -> str:
        """Add ``OUT = text``; returns OUT."""
        name = self.name("t")
        self.lines.append(f"{name} = {text}")
        return name

    def conv(self, x: str, inputs: int, outputs: int, *, group: int = 1, kernel: int = 3) -> str:
        """A convolution with a bias that keeps the picture's size."""
        w = self.weight(outputs, inputs // group, kernel, kernel)
        b = self.weight(outputs, stem="b")
        p = kernel // 2
        return self.node(f"Conv<pads=[{p},{p},{p},{p}], group={group}>({x}, {w}, {b})")


def plain(net: Net, width: int, activation: str) -> None:
    """Convolution, normalisation, activation."""
    y = net.conv(net.last, net.channels, width)
    scale, bias, mean, variance = (net.weight(width, stem=s) for s in ("s", "b", "m", "var"))
    y = net.node(f"BatchNormalization({y}, {scale}, {bias}, {mean}, {variance})")
    net.last, net.channels = net.node(f"{activation}({y})"), width


def residual(net: Net, width: int, activation: str) -> None:
    """Two convolutions around a shortcut."""
    y = net.node(f"{activation}({net.conv(net.last, net.channels, width)})")
    net.last = net.node(f"Add({net.conv(y, width, net.channels)}, {net.last})")


def concat(net: Net, width: int, activation: str) -> None:
    """A dense layer: new channels beside the old ones."""
    y = net.node(f"{activation}({net.conv(net.last, net.channels, width)})")
    net.last, net.channels = net.node(f"Concat<axis=1>({net.last}, {y})"), net.channels + width


def split(net: Net, width: int, activation: str) -> None:
    """Channels cut unevenly; the pieces come back in another order."""
    y = net.conv(net.last, net.channels, 2 * width + 1)
    first, second = net.name("t"), net.name("t")
    sizes = net.numbers(width, width + 1)
    net.lines.append(f"{first}, {second} = Split<axis=1>({y}, {sizes})")
    second = net.node(f"{activation}({second})")
    net.last, net.channels = net.node(f"Concat<axis=1>({second}, {first})"), 2 * width + 1


def depthwise(net: Net, width: int, activation: str) -> None:
    """Two outputs per input channel, then a mixture of them."""
    y = net.node(f"{activation}({net.conv(net.last, net.channels, width)})")
    y = net.conv(y, width, 2 * width, group=width)
    net.last, net.channels = net.conv(y, 2 * width, width, kernel=1), width


def shuffle(net: Net, width: int, activation: str) -> None:
    """Grouped convolutions around a channel shuffle."""
    y = net.conv(net.last, net.channels, 2 * width)
    y = net.node(f"{activation}({net.conv(y, 2 * width, 2 * width, group=2)})")
    y = net.node(f"Reshape({y}, {net.numbers(0, 2, width, SIZE, SIZE)})")
    y = net.node(f"Transpose<perm=[0,2,1,3,4]>({y})")
    y = net.node(f"Reshape({y}, {net.numbers(0, 2 * width, SIZE, SIZE)})")
    net.last, net.channels = net.conv(y, 2 * width, 2 * width, group=2), 2 * width


def gate(net: Net, width: int, activation: str) -> None:
    """Squeeze and excitation: channels scaled by a function of their means."""
    means = net.node(f"GlobalAveragePool({net.last})")
    y = net.node(f"{activation}({net.conv(means, net.channels, width, kernel=1)})")
    y = net.node(f"Sigmoid({net.conv(y, width, net.channels, kernel=1)})")
    net.last = net.node(f"Mul({net.last}, {y})")


def pad(net: Net, width: int, activation: str) -> None:
    """A shortcut widened by channels of zeros."""
    y = net.conv(net.last, net.channels, net.channels + width)
    wide = net.node(f"Pad({net.last}, {net.numbers(0, 1, 0, 0, 0, width - 1, 0, 0)})")
    net.last, net.channels = net.node(f"{activation}({net.node(f'Add({y}, {wide})')})"), net.channels + width


def broadcast(net: Net, width: int, activation: str) -> None:
    """A scale and a shift per channel, as two operands of fewer axes."""
    y = net.node(f"Mul({net.conv(net.last, net.channels, width)}, {net.weight(width, 1, 1)})")
    y = net.node(f"Add({y}, {net.weight(1, width, 1, 1)})")
    net.last, net.channels = net.node(f"{activation}({y})"), width


Block = Callable[[Net, int, str], None]
BLOCKS: tuple[Block, ...] = (plain, residual, concat, split, depthwise, shuffle, gate, pad, broadcast)
ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "Softplus", "LeakyRelu", "Elu")


def finish(net: Net, *, flatten: bool) -> str:
    """A head: every position of every channel, or the channels' means, into two answers."""
    x = net.last if flatten else net.node(f"GlobalAveragePool({net.last})")
    x = net.node(f"Flatten({x})")
    width = net.channels * (SIZE * SIZE if flatten else 1)
    net.lines.append(f"y = Gemm<transB=1>({x}, {net.weight(2, width)}, {net.weight(2, stem='b')})")
    lines = "\n  ".join(net.lines)
    return f"net (float[N,3,{SIZE},{SIZE}] x) => (float[N,2] y) <{', '.join(net.weights)}>\n{{\n  {lines}\n}}"


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Networks of up to five blocks."""
    net = Net()
    for block in draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5)):
        block(net, draw(st.integers(2, 5)), draw(st.sampled_from(ACTIVATIONS)))
    return parse(finish(net, flatten=draw(st.booleans())), seed=draw(st.integers(0, 99)))


def mask(analysis: Analysis, seed: int) -> Mask:
    """A random mask that leaves every group at least one unit."""
    rng = np.random.default_rng(seed)
    removed: Mask = rng.random(analysis.units) < rng.random()
    for group in range(analysis.groups):
        members = analysis.members(group)
        removed[rng.choice(members)] = False
    return removed
