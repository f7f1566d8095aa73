"""The bench: a model that cannot be run, or asks for too much, is refused before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxprune
from onnxprune.algebra.analysis import Model
from onnxprune.data.inputs import STYLES
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.errors import ProviderError, PruneError, RefusedError, UsageError
from onnxprune.metrics import evidence
from onnxprune.metrics.evidence import Bench, Evidence
from onnxprune.model.record import Record
from tests.laws import OLD_RUNTIME, parse
from tests.material import changed, save, snapshot, tiny

SEEDED = [(1, 8)] * (len(STYLES) - 1)
ONES = {"x": np.ones((3, 8), np.float32)}


def bench(path: Path, given: Evidence) -> Bench:
    return Bench(Model(Record(path)), given, path)


def test_without_data_seeded_feeds_are_the_proof(mlp: Path) -> None:
    made = bench(mlp, Evidence())
    assert [feed["x"].shape for feed in made.proof] == [*SEEDED, (3, 8)]
    assert made.one_row()["x"].shape == (1, 8)


def test_with_data_its_first_feeds_join_the_proof(mlp: Path) -> None:
    made = bench(mlp, Evidence(data=[ONES] * 5))
    assert [feed["x"].shape for feed in made.proof] == [*SEEDED, (3, 8), (3, 8), (3, 8)]
    assert evidence.rows(made.feeds) == 15


def test_where_noise_gives_only_nan_the_users_data_is_the_proof(tmp_path: Path) -> None:
    """A model that divides by what noise never gives: data decides, and noise does not spoil it."""
    text = """
    m (float[n, 8] x) => (float[n, 4] y) <float[8, 64] w1, float[64, 4] w2, float w3>
    { lost = Ceil(x) whole = Sub(lost, x) gone = Mul(whole, whole) sum = ReduceSum<keepdims = 0>(gone)
      bad = Neg(sum) root = Sqrt(bad) h = MatMul(x, w1) r = Relu(h) z = MatMul(r, w2) y = Add(z, root) }
    """
    path = save(parse(text), tmp_path / "model.onnx")
    made = bench(path, Evidence(data=ONES))
    assert [feed["x"].shape for feed in made.proof] == [(3, 8)]
    assert len(bench(path, Evidence()).proof) == 1


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (Evidence(providers=("cpu", "cpuu")), ProviderError, "'cpuu'"),
        (Evidence(labels=np.arange(3)), UsageError, "Labels need data"),
        (Evidence(data=ONES, labels=np.arange(4)), UsageError, "whole numbers, one per row of data"),
        (Evidence(input_shapes={"q": (1, 8)}), UsageError, "'q'"),
        (Evidence(data={"x": np.ones((3, 8))}), UsageError, "float64"),
    ],
)
def test_what_does_not_fit_is_refused(mlp: Path, given: Evidence, kind: type[PruneError], words: str) -> None:
    with pytest.raises(kind, match=words):
        bench(mlp, given)


@pytest.mark.skipif(OLD_RUNTIME, reason="this ONNX Runtime itself crashes on a convolution of -4 groups")
@pytest.mark.parametrize(
    ("node", "weight"),
    [
        ("Conv(x, odd)", "float[8, 3, 1, 1] odd"),
        ("Conv<group = 0>(x, odd)", "float[8, 4, 1, 1] odd"),
        ("Conv<group = -4>(x, odd)", "float[8, 4, 1, 1] odd"),
        ("Conv<strides = [0, 0]>(x, odd)", "float[8, 4, 1, 1] odd"),
        ("MatMul(x, odd)", "float[7, 8] odd"),
    ],
    ids=["input channels", "group 0", "group -4", "stride 0", "inner sizes"],
)
def test_a_model_that_the_checker_takes_but_no_one_can_run_is_refused(tmp_path: Path, node: str, weight: str) -> None:
    """Beside two convolutions that could be cut there is one that cannot run."""
    text = f"""
    m (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 8, 8, 8] z)
    <float[8, 4, 1, 1] w1, float[4, 8, 1, 1] w2, {weight}>
    {{ a = Conv(x, w1) r = Relu(a) y = Conv(r, w2) z = {node} }}
    """
    model = parse(text)
    onnx.checker.check_model(model)
    path = save(model, tmp_path / "model.onnx")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="input model does not"):
        onnxprune.prune(path, tmp_path / "out.onnx", recover="none", ratio=0.5)
    assert snapshot(tmp_path) == before


def test_a_model_without_anything_to_prune_is_copied_but_nonsense_is_still_an_error(tmp_path: Path) -> None:
    """Its inputs need not even be tensors."""
    text = "m (seq(float[n]) s, int64 i) => (float[n] y) { y = SequenceAt(s, i) }"
    path, out = save(parse(text), tmp_path / "model.onnx"), tmp_path / "out.onnx"
    wrong: list[dict[str, Any]] = [
        {"providers": ("cpuu",)},
        {"labels": np.arange(3)},
        {"input_shapes": {"q": (1,)}},
        {"data": {"i": np.array(0)}},
        {"data": tmp_path / "nope.npz"},
    ]
    for given in wrong:
        with pytest.raises(PruneError):
            onnxprune.prune(path, out, recover="none", ratio=0.5, **given)
        assert not out.exists()
    onnxprune.prune(path, out, recover="none", ratio=0.5)
    assert out.read_bytes() == path.read_bytes()


def test_a_model_newer_than_the_runtime_can_be_planned_but_not_proved(tmp_path: Path) -> None:
    """That is no fault of the model's: a check failed."""
    path = save(newest(), tmp_path / "model.onnx")
    if runs(path):
        pytest.skip("the installed onnxruntime knows everything that the installed onnx knows")
    plan = onnxprune.plan(path, recover="none", ratio=0.5)
    assert plan.keep
    with pytest.raises(PruneError, match=r"cannot execute .*IR \d+, opset \d+.*newer onnxruntime") as failure:
        onnxprune.prune(path, tmp_path / "out.onnx", recover="none", ratio=0.5)
    assert failure.value.exit_code == 1
    assert not (tmp_path / "out.onnx").exists()


def newest() -> onnx.ModelProto:
    """The small model in the newest version of ONNX that can be written."""
    model = tiny()
    model.ir_version = onnx.IR_VERSION
    model.opset_import[0].CopyFrom(helper.make_opsetid("", onnx.defs.onnx_opset_version()))
    return model


def runs(path: Path) -> bool:
    try:
        Session(path)
    except ExecutionError:
        return False
    return True


def bomb(*sizes: int) -> onnx.ModelProto:
    """The small model with a node of a few bytes that makes a huge tensor."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes), "sizes"))
        model.graph.node.append(helper.make_node("ConstantOfShape", ["sizes"], ["huge"]))
        model.graph.output.append(helper.make_tensor_value_info("huge", onnx.TensorProto.FLOAT, [None] * len(sizes)))

    return changed(change)


def test_a_model_that_asks_for_more_memory_than_there_is_fails_a_check(tmp_path: Path) -> None:
    path = save(bomb(1 << 20, 1 << 20), tmp_path / "model.onnx")
    with pytest.raises(PruneError, match=r"'huge' of shape .* takes 4,096 GiB.*resource limit") as failure:
        onnxprune.prune(path, tmp_path / "out.onnx", recover="none", ratio=0.5)
    assert failure.value.exit_code == 1
    fine = save(tiny(), tmp_path / "fine.onnx")
    with pytest.raises(PruneError, match="resource limit"):
        onnxprune.verify(fine, path)
    assert not (tmp_path / "out.onnx").exists()


def test_a_large_weight_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "LARGEST_VALUE", 1000)  # `w1` takes 2,048 bytes
    evidence.check_memory(Model(Record(tiny())).graph)
    with pytest.raises(PruneError, match="'huge'"):
        evidence.check_memory(Model(Record(bomb(1000))).graph)
