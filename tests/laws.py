"""The laws of the project, as functions that tests call: remove equals zero, and what belongs together."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import synthesise
from onnxprune.model.record import Record
from onnxprune.model.soundness import is_of_onnxruntime
from onnxprune.surgery import removal, saving

CODES: dict[int, tuple[int, int]] = {
    getattr(onnx.TensorProto, name + str(bits)): limits
    for bits in (4, 8, 16)
    for name, limits in (("UINT", (0, 2**bits - 1)), ("INT", (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)))
}
NEWEST = 26  # the opset that onnxruntime runs; beyond it ONNX's reference does
OLD_RUNTIME = [int(part) for part in ort.__version__.split(".")[:2]] < [1, 24]
HEADER = '<ir_version: {ir}, opset_import: ["" : {opset}{more}]>\n'


def parse(text: str, *, opset: int = 17, ir: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A model from ONNX text; every value declared between ``<`` and ``>`` without a value becomes a random weight.

    What is called var… or scale… is positive; whole numbers are codes from all over their type's range.
    """
    more = ', "com.microsoft" : 1' if "com.microsoft" in text else ""
    model = onnx.parser.parse_model(HEADER.format(ir=ir, opset=opset, more=more) + text)
    graph, rng = model.graph, np.random.default_rng(seed)
    produced = {name for node in graph.node for name in node.output}
    weights = [value for value in graph.value_info if value.name not in produced]
    for value in weights:
        kind = value.type.tensor_type
        values = _random(rng, kind.elem_type, [d.dim_value for d in kind.shape.dim])
        if value.name.startswith(("var", "scale")):
            values = np.abs(values)
        graph.initializer.append(numpy_helper.from_array(values, value.name))
        if ir < 4:
            graph.input.append(value)
    kept = [value for value in graph.value_info if value.name in produced]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return model


def _random(rng: np.random.Generator, kind: int, shape: list[int]) -> NDArray[Any]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    if kind in CODES:
        low, high = CODES[kind]
        return np.asarray(rng.integers(low, high, shape, endpoint=True)).astype(dtype)
    if kind == onnx.TensorProto.INT32:  # biases, in units of two scales
        return np.asarray(rng.integers(-4096, 4096, shape)).astype(dtype)
    return np.asarray(rng.uniform(0.3, 1.0, shape) * rng.choice([-1, 1], shape)).astype(dtype)


def analyse(model: onnx.ModelProto) -> Analysis:
    """Units and groups of a model."""
    return Analysis(Graph(Record(model)))


def groups(model: onnx.ModelProto) -> dict[str, int]:
    """For each group the weight axes that it cuts, as ``"w:0 b:0"`` in alphabetical order, and its units."""
    analysis = analyse(model)
    return {
        " ".join(sorted(f"{name}:{axis}" for name, axis in analysis.weight_axes_of(g))): len(analysis.members(g))
        for g in range(analysis.groups)
    }


def reasons(model: onnx.ModelProto) -> str:
    """Every reason for which anything is pinned, in one string to search in."""
    return "\n".join(why for found in analyse(model).closure.reasons.values() for why, _ in found)


def run(path: Path, feed: dict[str, Any]) -> list[NDArray[Any]]:
    """Run a model on the CPU, unoptimised."""
    opsets = {entry.domain: entry.version for entry in onnx.load(path, load_external_data=False).opset_import}
    if opsets[""] > NEWEST:
        return [np.asarray(output) for output in ReferenceEvaluator(str(path)).run(None, feed)]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feed)]


def run_uncut(path: Path, feed: dict[str, Any]) -> list[NDArray[Any]]:
    """The same for a model whose structure is the original one: an old runtime may not know its operators yet."""
    try:
        return run(path, feed)
    except Exception as error:
        if OLD_RUNTIME:
            pytest.skip(f"onnxruntime {ort.__version__} cannot run this graph, cut or not: {error}")
        raise


def difference(
    model: onnx.ModelProto,
    removed: Mask,
    shapes: dict[str, tuple[int, ...]] | None = None,
    *,
    silent: bool = False,
) -> float:
    """How far removing is from zeroing: the largest difference of any output, by its largest magnitude.

    Both models are written, checked in full and run; unless ``silent``, the outputs must not all be zero, or nothing
    was tested.
    """
    analysis = analyse(model)
    with TemporaryDirectory() as name:
        cut = saving.write(removal.remove(analysis, removed), Path(name), "cut.onnx")
        zeroed = saving.write(removal.zero(analysis, removed), Path(name), "zeroed.onnx")
        if not any(is_of_onnxruntime(model, node) for node in model.graph.node):
            onnx.checker.check_model(str(cut), full_check=True)
        feed = dict(synthesise(analysis.graph, shapes or {}, 0, batch=2))
        first, second = run_uncut(zeroed, feed), run(cut, feed)
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a.astype(np.float64)).all()
        worst = max(worst, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max() / (np.abs(a).max() or 1.0)))
    assert silent or any(np.abs(a).max() > 0 for a in first), "all outputs are zero: this proves nothing"
    return worst


def every_other(model: onnx.ModelProto) -> Mask:
    """Half of each group's units, the first one kept."""
    analysis = analyse(model)
    removed = np.zeros(analysis.units, dtype=bool)
    for group in range(analysis.groups):
        removed[analysis.members(group)[1::2]] = True
    return removed
