"""What every family uses to build a network: a case, statistics that matter, and torchvision without its operators."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Axes = dict[str, dict[int, str]]
Options = dict[str, Any]  # of libraries whose constructors take many


class Case(NamedTuple):
    """A network and how to export it.

    Args:
        module: the network, in evaluation mode and with random weights.
        inputs: example inputs by name, in the order in which the network takes them, with a batch of two.
        dynamic: which axes are open, by input and with the names of their sizes; ``batch`` is one of them.
        outputs: names of the outputs.
        traced: which axes stay open if the network is traced, where that is not all.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: Axes
    outputs: tuple[str, ...] = ("output",)
    traced: Axes | None = None


Builder = Callable[[bool], Case]  # True builds the full width


def library(name: str) -> Any:
    """A module of timm, torchvision or transformers, loaded when asked for; half of them have no types."""
    return importlib.import_module(name)


def image(module: nn.Module, size: int, *, channels: int = 3, spatial: bool = False) -> Case:
    """A network from images to one output; ``spatial`` opens height and width, too."""
    axes = {0: "batch", 2: "height", 3: "width"} if spatial else {0: "batch"}
    return Case(module, {"input": torch.randn(2, channels, size, size)}, {"input": axes})


class Call(nn.Module):
    """Call a network by keywords and return some of what it returns, for exporters that know positions only."""

    def __init__(self, network: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], **fixed: Any) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs, self.fixed = network, inputs, outputs, fixed

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Pair positions with names."""
        found = self.network(**dict(zip(self.inputs, values, strict=True)), **self.fixed)
        return tuple(found[name] for name in self.outputs)


def randomise(module: nn.Module) -> None:
    """Give normalisations statistics as training leaves them, and every constant parameter values that differ.

    A scale of one, a shift of zero or a layer scale of 1e-6 hides what a wrong cut does to it; so do weights so
    small that the inputs' influence is lost on the way.
    """
    with torch.no_grad():
        for part in module.modules():
            if "Norm" in type(part).__name__:
                _statistics(part)
            for name, parameter in part.named_parameters(recurse=False):
                if name.endswith(("weight", "proj")) and parameter.ndim > 1 and not isinstance(part, nn.Embedding):
                    _strengthen(parameter, parameter.shape[-1] if name.endswith("proj") else parameter[0].numel())
        for parameter in module.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                zero = float(parameter.flatten()[0]) == 0
                parameter.copy_(torch.randn_like(parameter) * 0.2 if zero else torch.rand_like(parameter) + 0.5)


def _strengthen(weight: Tensor, inputs: int) -> None:
    """Scale up weights that shrink what they are applied to."""
    wanted = inputs**-0.5
    if 0 < float(weight.std()) < wanted / 2:
        weight.mul_(wanted / weight.std())


def _statistics(part: nn.Module) -> None:
    for name, values in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
        if name in ("weight", "running_var"):
            values.copy_(torch.rand_like(values) + 0.5)
        elif name in ("bias", "running_mean"):
            values.copy_(torch.randn_like(values) * 0.2)


def torchvision_operators() -> Any:
    """Declare what torchvision's compiled part would; keep the answer alive as long as torchvision is in use.

    On a machine without a GPU, torchvision's compiled operators may not load beside a CPU build of torch, and then
    importing torchvision fails because it describes two of them. The networks here use none of them.
    """
    operators: Any = library("torch.library").Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators
