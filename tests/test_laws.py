"""The project's laws, over random networks and random masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnxprune
from onnxprune.surgery import removal, saving
from tests.generated import mask, models
from tests.laws import analyse, difference

LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
FEW = settings(LAWS, max_examples=20)


@LAWS
@given(models(), st.integers(0, 1 << 16))
def test_removing_is_zeroing(model: onnx.ModelProto, seed: int) -> None:
    analysis = analyse(model)
    assert analysis.units
    assert difference(model, mask(analysis, seed)) < 1e-5


@FEW
@given(models())
def test_removing_nothing_changes_no_byte(model: onnx.ModelProto) -> None:
    with TemporaryDirectory() as name:
        source, out = Path(name) / "model.onnx", Path(name) / "out.onnx"
        onnx.save(model, source)
        onnxprune.prune(source, out, recover="none", ratio=0.0)
        assert out.read_bytes() == source.read_bytes()


@FEW
@given(models(), st.integers(0, 1 << 16))
def test_what_is_kept_keeps_its_bits(model: onnx.ModelProto, seed: int) -> None:
    analysis = analyse(model)
    removed = mask(analysis, seed)
    keeps = removal.keeps(analysis, removed)
    with TemporaryDirectory() as name:
        cut = onnx.load(saving.write(removal.remove(analysis, removed), Path(name), "cut.onnx"))
    after = {t.name: numpy_helper.to_array(t) for t in cut.graph.initializer}
    for tensor in model.graph.initializer:
        expected = numpy_helper.to_array(tensor)
        if expected.dtype == np.int64:
            continue  # a size, rewritten where it must follow
        for axis, kept in keeps.get(tensor.name, {}).items():
            expected = np.take(expected, kept, axis)
        assert after[tensor.name].tobytes() == expected.tobytes()


@FEW
@given(models(), st.integers(0, 1 << 16))
def test_the_signature_never_changes(model: onnx.ModelProto, seed: int) -> None:
    analysis = analyse(model)
    draft = removal.remove(analysis, mask(analysis, seed))
    assert list(draft.proto.graph.input) == list(model.graph.input)
    assert list(draft.proto.graph.output) == list(model.graph.output)


@FEW
@given(models())
def test_a_unit_is_closed(model: onnx.ModelProto) -> None:
    """Removing one unit removes something of every axis that it lies on, and leaves no other unit's index behind."""
    analysis = analyse(model)
    for unit in range(0, analysis.units, max(1, analysis.units // 5)):
        removed = np.arange(analysis.units) == unit
        for axis, units in analysis.slices():
            assert ((units == unit) == ~analysis.kept(axis, removed)).all()


@FEW
@given(models())
def test_names_and_their_order_do_not_matter(model: onnx.ModelProto) -> None:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for tensor in renamed.graph.initializer:
        tensor.name = _other(tensor.name)
    for node in renamed.graph.node:
        node.input[:] = [_other(name) if name != "x" else name for name in node.input]
        node.output[:] = [_other(name) if name != "y" else name for name in node.output]
    first, second = analyse(model), analyse(renamed)
    assert (first.units, first.groups) == (second.units, second.groups)
    assert (first.group_of == second.group_of).all()


@FEW
@given(models(), st.floats(0.1, 0.9))
def test_the_same_plan_gives_the_same_bytes(model: onnx.ModelProto, ratio: float) -> None:
    with TemporaryDirectory() as name:
        source, out = Path(name) / "model.onnx", Path(name) / "out.onnx"
        onnx.save(model, source)
        plan = onnxprune.plan(source, recover="none", ratio=ratio, align=1, criterion="random", seed=3)
        digests = set()
        for _ in range(2):
            onnxprune.apply(source, onnxprune.Plan.loads(plan.dumps()), out)
            digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
        assert len(digests) == 1
        again = onnxprune.plan(source, recover="none", ratio=ratio, align=1, criterion="random", seed=3)
        assert again.dumps() == plan.dumps()


def _other(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
