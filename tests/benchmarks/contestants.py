"""The tools that `peers` compares, each a function that prunes to a file and times itself, and the networks in torch.

What is not installed everywhere is imported where it is used: onnxsim, torch, Torch-Pruning.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.closure import Mask
from onnxprune.model.record import Record
from onnxprune.plan import decide
from onnxprune.surgery import removal
from onnxprune.wishes import Recipe
from tests.benchmarks import speed

OPSET = 17
LAST = ("ConvolutionBackward0", "AddmmBackward0", "MmBackward0", "BmmBackward0")
KEPT: list[Any] = []  # what torchvision needs as long as it is in use


class Seconds(NamedTuple):
    """What a run took: from file to file; of that in memory, the file read already; and that without scoring."""

    file: float
    memory: float
    cut: float


Run = Callable[[Path], Seconds]  # writes a file
Clock = Callable[[], float]


def ours(path: Path, clock: Clock) -> Run:
    """Ours, and the same in memory on what was read before."""
    record = Record(path)
    _ = record.sha256

    def run(out: Path) -> Seconds:
        start = clock()
        speed.prune(path, out)
        middle = clock()
        model = Model(record)
        draft = removal.remove(model.analysis, decide(model, Recipe(ratio=0.5, align=1)).removed)
        arrays = [make() for make in draft.arrays.values()]
        scored = clock()
        del arrays, draft, model
        again = clock()
        analysis = Model(record).analysis
        arrays = [make() for make in removal.remove(analysis, halved(analysis)).arrays.values()]
        done = clock()
        del arrays
        return Seconds(middle - start, scored - middle, done - again)

    return run


def halved(analysis: Analysis) -> Mask:
    """Every other unit, one of each group apart."""
    removed: Mask = np.arange(analysis.units) % 2 == 1
    removed[np.unique(analysis.group_of, return_index=True)[1]] = False
    return removed


def onnxsim(path: Path, clock: Clock) -> Run:
    """Its structured pruning, and its pruning of attention heads."""
    pruning = importlib.import_module("onnxsim.pruning")

    def run(out: Path) -> Seconds:
        start = clock()
        model = onnx.load(path)
        loaded = clock()
        model = pruning.apply_structured_pruning(model, 0.5)
        model = pruning.apply_attention_head_pruning(model, 0.5)
        done = clock()
        onnx.save(model, out)
        return Seconds(clock() - start, done - loaded, done - loaded)

    return run


def torch_pruning(case: Any, clock: Clock) -> Run:
    """Its pruner and torch's exporter; the copy of the network that is cut is made before."""
    tool = importlib.import_module("torch_pruning")
    inputs = tuple(case.inputs.values())

    def run(out: Path) -> Seconds:
        module = copy.deepcopy(case.module)
        options = {"ignored_layers": _last_layers(module, inputs), **_heads(module)}
        start = clock()
        importance = tool.importance.MagnitudeImportance(p=2)
        pruner = tool.pruner.MagnitudePruner(module, inputs, importance=importance, pruning_ratio=0.5, **options)
        pruner.step()
        seconds = clock() - start
        _refit(module, pruner)
        export(case._replace(module=module), out)
        return Seconds(clock() - start, seconds, seconds)

    return run


def _last_layers(module: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """The layers whose results are the outputs, however these are joined: their widths must stay."""
    found = module(*inputs)
    todo = [value.grad_fn for value in ([found] if hasattr(found, "grad_fn") else found)]
    seen, weights = set(), set()
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if type(step).__name__ in LAST:
            weights |= {id(p) for p in _parameters(step)}
        else:
            todo += [before for before, _ in step.next_functions]
    return [part for part in module.modules() if id(getattr(part, "weight", None)) in weights]


def _parameters(step: Any) -> Iterator[Any]:
    """The parameters that a step reads directly, or transposed."""
    for before, _ in step.next_functions:
        if type(before).__name__ in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
            yield from _parameters(before)
        elif hasattr(before, "variable"):
            yield before.variable


def _heads(module: Any) -> dict[str, Any]:
    """Attention as its examples for timm and transformers declare it."""
    heads: dict[Any, int] = {}
    for part in module.modules():
        number = getattr(part, "num_heads", None) or getattr(part, "num_attention_heads", None)
        for name in ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin"):
            if isinstance(number, int) and hasattr(getattr(part, name, None), "out_features"):
                heads[getattr(part, name)] = number
    return {"num_heads": heads, "prune_num_heads": True, "head_pruning_ratio": 0.5} if heads else {}


def _refit(module: Any, pruner: Any) -> None:
    """Tell the code that keeps widths as numbers how many heads and channels are left, as its examples do."""
    for part in module.modules():
        if hasattr(part, "conv_proj") and hasattr(part, "hidden_dim"):
            part.hidden_dim = part.conv_proj.out_channels
        fused = getattr(part, "qkv", None)
        first = fused if fused is not None else getattr(part, "query", None)
        if first is None or first not in pruner.num_heads:
            continue
        number, width = pruner.num_heads[first], first.out_features // (3 if fused is not None else 1)
        sizes = {"num_heads": number, "num_attention_heads": number, "head_dim": width // max(number, 1)}
        sizes |= {"attention_head_size": width // max(number, 1), "all_head_size": width, "attn_dim": width}
        for name, size in sizes.items():
            if hasattr(part, name):
                setattr(part, name, size)


def build(name: str, full: bool) -> Any:
    """A network with a batch of one and nothing open."""
    building, exporter = (importlib.import_module(f"models.architectures.{name}") for name in ("build", "export"))
    if not KEPT:
        KEPT.append(building.torchvision_operators())
    importlib.import_module("torch").manual_seed(exporter.SEED)
    case = networks()[name](full)
    building.randomise(case.module)
    case.module.eval()
    exporter.use_attention(case.module, "eager")
    return exporter._fix(case)


def export(case: Any, out: Path) -> None:
    """Straight to a file, by tracing."""
    names = {"input_names": list(case.inputs), "output_names": list(case.outputs)}
    torch = importlib.import_module("torch")
    torch.onnx.export(case.module, tuple(case.inputs.values()), str(out), dynamo=False, opset_version=OPSET, **names)


def networks() -> dict[str, Any]:
    """The builders of all networks."""
    exporter = importlib.import_module("models.architectures.export")
    return {name: builder for family in exporter.FAMILIES for name, builder in exporter.builders(family).items()}


def simplified(path: Path, folder: Path) -> Path:
    """The file as onnxsim simplifies it."""
    model, _ = importlib.import_module("onnxsim").simplify(onnx.load(path))
    onnx.save(model, folder / "simplified.onnx")
    return folder / "simplified.onnx"
