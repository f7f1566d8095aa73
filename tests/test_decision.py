"""Prune end to end, with data and without: better than the weights alone tell, proved, replayed, and never a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import onnxprune
from onnxprune.budget import decision
from onnxprune.budget.study import Study
from onnxprune.data.runtime import ExecutionError
from onnxprune.errors import PruneError, UsageError
from onnxprune.plan import Plan
from onnxprune.report.results import Pruned
from tests.generated import models
from tests.laws import parse
from tests.linears import replaced
from tests.material import save, save_external, snapshot, weights
from tests.studied import DEEPER, LOUD, NETS, QUIET, REDUNDANT, placed, redundant, rows

pytestmark = pytest.mark.usefixtures("instant")
OTHER = {"x": rows(seed=9)}


def error(result: Pruned) -> float:
    """The largest error of any output on the evaluation data, by its range."""
    assert result.fidelity
    assert not result.fidelity.seen
    return max(comparison.relative for comparison in result.fidelity.outputs)


@pytest.mark.parametrize("net", NETS)
def test_what_repeats_goes_first_and_other_data_see_nothing_of_it(net: str, tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant(net))
    ours = onnxprune.prune(model, tmp_path / "ours.onnx", data=data, evaluation=OTHER, **REDUNDANT)
    plain = onnxprune.prune(
        model, tmp_path / "plain.onnx", data=data, evaluation=OTHER, criterion="l1", recover="none", **REDUNDANT
    )
    kept = ours.plan.groups[0]["kept"]
    assert set(QUIET) < set(kept)
    assert {unit % 4 for unit in kept if unit not in QUIET} == {unit % 4 for unit in LOUD}
    assert error(ours) <= 1e-3
    assert error(plain) > 0.05
    assert ours.plan.cost["after"] == plain.plan.cost["after"]
    assert ours.applied.verified
    assert ours.applied.error < 1e-6


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"macs": 0.5}, {"params": 0.5}, {"bytes": 0.6}])
def test_the_default_beats_magnitudes_at_every_kind_of_budget(budget: Mapping[str, float], tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    given: dict[str, Any] = {"data": data, "evaluation": OTHER, "align": 1, **budget}
    ours = onnxprune.prune(model, tmp_path / "a.onnx", **given)
    plain = onnxprune.prune(model, tmp_path / "b.onnx", criterion="l1", recover="none", **given)
    blind = onnxprune.prune(model, tmp_path / "c.onnx", **{**given, "data": None})
    assert error(ours) < 0.7 * error(plain)
    assert error(blind) < error(plain)
    for result in (ours, blind):
        ((name, limit),) = budget.items()
        if name != "ratio":
            found = result.applied.bytes if name == "bytes" else {k: v[name] for k, v in result.plan.cost.items()}
            assert found["after"] <= limit * found["before"]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("ir", [3, 8])
def test_a_replay_with_the_same_data_gives_the_same_bytes(net: str, ir: int, tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant(net, ir=ir, opset=11))
    plan = onnxprune.prune(model, tmp_path / "out.onnx", data=data, **DEEPER).plan
    onnxprune.apply(model, Plan.loads(plan.dumps()), tmp_path / "again.onnx", data=data)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert onnxprune.plan(model, data=data, **DEEPER) == plan
    np.savez(tmp_path / "other.npz", x=rows(seed=5))
    onnxprune.apply(model, plan, tmp_path / "other.onnx", data=tmp_path / "other.npz")
    assert (tmp_path / "other.onnx").read_bytes() != (tmp_path / "out.onnx").read_bytes()


def test_a_replay_without_the_data_is_refused(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    plan = onnxprune.plan(model, data=data, **DEEPER)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="give the same --data, or --recover none"):
        onnxprune.apply(model, plan, tmp_path / "again.onnx")
    assert snapshot(tmp_path) == before


def test_what_was_made_up_is_made_up_again(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    plan = onnxprune.prune(model, tmp_path / "out.onnx", **DEEPER).plan
    assert plan.recovery["data"] == "synthetic"
    for given in (None, data):
        onnxprune.apply(model, plan, tmp_path / "again.onnx", data=given)
        assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def kept_slices(model: Path, plan: Plan) -> dict[str, bytes]:
    """What is left of each weight, had nobody touched it."""
    found = {}
    for name, value in weights(model).items():
        for axis, kept in plan.keep.get(name, {}).items():
            value = np.take(value, kept, axis)
        found[name] = value.tobytes()
    return found


@pytest.mark.parametrize("net", NETS)
def test_without_recovery_kept_slices_are_the_sources_bit_for_bit(net: str, tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant(net))
    plan = onnxprune.prune(model, tmp_path / "out.onnx", data=data, **DEEPER).plan
    wanted = kept_slices(model, plan)
    onnxprune.apply(model, plan, tmp_path / "plain.onnx", recover="none")
    assert {n: v.tobytes() for n, v in weights(tmp_path / "plain.onnx").items()} == wanted
    for criterion in ("obs", "l2", "auto", "vote(l1,obs)"):
        given = {**DEEPER, "data": data, "recover": "none", "criterion": criterion}
        plan = onnxprune.prune(model, tmp_path / "none.onnx", **given).plan
        assert {n: v.tobytes() for n, v in weights(tmp_path / "none.onnx").items()} == kept_slices(model, plan)
    recovered = {n: v.tobytes() for n, v in weights(tmp_path / "out.onnx").items()}
    assert recovered["w"] != wanted["w"]
    assert recovered["u"] == wanted["u"]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("with_data", [True, False])
def test_a_recovered_model_is_what_its_plan_says(net: str, with_data: bool, tmp_path: Path) -> None:
    """Where the layer had no bias before, it has one now."""
    model, data = placed(tmp_path, redundant(net))
    out = tmp_path / "out.onnx"
    plan = onnxprune.prune(model, out, data=data if with_data else None, **DEEPER).plan
    assert len(weights(out)) == 4
    assert onnxprune.verify(model, out, plan=plan)
    assert onnxprune.verify(model, out, plan=plan, data=data)
    assert not onnxprune.verify(model, out)


def _swap_nodes(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Tanh"


def _scale_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "inner"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.01, dtype=np.float32), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["inner", "factor"], ["y"]))


def _rescale(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    return lambda model: replaced(model, name, lambda array: array.__imul__(factor))


TAMPERED: dict[str, Callable[[onnx.ModelProto], None]] = {
    "another activation": _swap_nodes,
    "one more factor": _scale_output,
    "a weight that was cut": _rescale("u", 1.01),
    "a weight that was refitted": _rescale("w", 1.01),
    "a bias that was refitted": _rescale("b", 1.5),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_change_of_nodes_or_weights_is_told(name: str, tmp_path: Path) -> None:
    """What is computed is compared by running it; what it is computed with, by a hash that the plan holds."""
    model, data = placed(tmp_path, redundant())
    for given in ({"data": data}, {"recover": "none"}):
        plan = onnxprune.prune(model, tmp_path / "out.onnx", **given, **DEEPER).plan
        assert onnxprune.verify(model, tmp_path / "out.onnx", plan=plan)
        proto = onnx.load(tmp_path / "out.onnx")
        TAMPERED[name](proto)
        assert not onnxprune.verify(model, save(proto, tmp_path / "bad.onnx"), plan=plan)


def test_a_result_of_other_widths_is_not_what_the_plan_says(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    onnxprune.prune(model, tmp_path / "narrow.onnx", data=data, **DEEPER)
    plan = onnxprune.plan(model, data=data, **REDUNDANT)
    assert not onnxprune.verify(model, tmp_path / "narrow.onnx", plan=plan)


TWINS = """g (float[11,2] x) => (float[11,1] y) <float[2,2] u, float[2,1] w, float[1] b> {
    h = MatMul(x, u)  y = Gemm(h, w, b) }"""


def test_recovery_that_harms_is_taken_back_and_the_rest_is_the_plain_cut(tmp_path: Path) -> None:
    """Two channels are equal in what is fitted, and opposite in the batch that is held out."""
    model = parse(TWINS)
    replaced(model, "u", lambda array: array.__setitem__(..., np.eye(2)))
    replaced(model, "w", lambda array: array.fill(1))
    path = save(model, tmp_path / "model.onnx")
    side = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    alike, opposite = {"x": np.hstack([side, side])}, {"x": 3 * np.hstack([side, -side])}
    result = onnxprune.prune(path, tmp_path / "out.onnx", data=[*[alike] * 4, opposite], ratio=0.5, align=1)
    assert "Recovery did no good there and was taken back." in result.applied.note
    assert result.plan.recovery["recover"] == "none"
    assert result.plan.recovery["layers"] == []
    assert {n: v.tobytes() for n, v in weights(tmp_path / "out.onnx").items()} == kept_slices(path, result.plan)
    onnxprune.apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    result = onnxprune.prune(path, tmp_path / "out.onnx", data=[alike] * 5, ratio=0.5, align=1)
    assert "taken back" not in result.applied.note
    assert result.plan.recovery["recover"] == "auto"
    np.testing.assert_allclose(weights(tmp_path / "out.onnx")["w"], [[2]], rtol=1e-4)


def test_a_note_says_what_held_out_data_say(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    result = onnxprune.prune(model, None, data=data, **DEEPER)
    held_out = result.plan.recovery["held_out"]["error"]
    assert held_out > 1e-3
    assert result.applied.note == f"On held-out data outputs are off by {held_out:.2%} of their variance."
    blind = onnxprune.prune(model, None, **DEEPER).applied.note
    assert blind.startswith("On held-out synthetic inputs outputs are off by ")
    assert blind.endswith("Calibrated without data; real inputs (--data) do better, and tell more.")


@pytest.mark.parametrize("criterion", ["obs", "wanda", "vote(l1,obs)", "average(l2,min(bn-scale,cssp))"])
def test_a_criterion_that_needs_data_gets_them_or_is_refused(criterion: str, tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    with pytest.raises(UsageError, match=r"needs data: give --data"):
        onnxprune.prune(model, None, criterion=criterion, recover="none", **DEEPER)
    for given in ({"data": data}, {"data": data, "recover": "none"}, {}):
        plan = onnxprune.prune(model, None, criterion=criterion, **given, **DEEPER).plan
        assert plan.recovery["criterion"] == criterion
        assert len(plan.groups[0]["kept"]) == 6


def test_steps_lead_to_the_budget_and_train_in_between(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    kept = []
    for step in ("1/3", "2/3", "3/3"):
        plan = onnxprune.plan(model, data=data, macs=0.42, align=1, step=step)
        assert plan.recipe["step"] == step
        kept.append(plan.cost["after"]["macs"] / plan.cost["before"]["macs"])
    assert [k <= 0.42 ** (n / 3) < k + 1 / 12 for n, k in enumerate(kept, 1)] == [True] * 3
    with pytest.raises(UsageError, match="cannot be divided"):
        onnxprune.plan(model, data=data, max_drop=0.1, step="1/2")


BODY = """then_branch = a () => (float[N,4] m) { m = MatMul(h, w) }, else_branch = e () => (float[N,4] n) {
    n = MatMul(x, v) }"""
HEAD = "<float[8,12] u, float[12] c, float[12,4] w> { q = Gemm(x, u, c)  h = Relu(q)"
STUDIED = {
    "fp16": """g (float16[N,8] x) => (float16[N,4] y) <float16[8,12] u, float16[12] c, float16[12,4] w, float16[4] b> {
        q = Gemm(x, u, c)  h = Relu(q)  y = Gemm(h, w, b) }""",
    "double": """g (double[N,8] x) => (double[N,4] y) <double[8,12] u, double[12] c, double[12,4] w> {
        q = Gemm(x, u, c)  h = Relu(q)  y = MatMul(h, w) }""",
    "a fixed batch": """g (float[1,8] x) => (float[1,4] y) <float[8,12] u, float[12,4] w> {
        a = MatMul(x, u)  h = Relu(a)  y = MatMul(h, w) }""",
    "open pictures": """g (float[N,3,H,W] x) => (float[N,4] y) <float[12,3,3,3] u, float[12] c, float[4,12,1,1] w> {
        q = Conv(x, u, c)  h = Relu(q)  k = Conv(h, w)  p = GlobalAveragePool(k)  y = Flatten(p) }""",
    "two inputs": """g (float[N,8] x, float[N,8] z) => (float[N,4] y, float[N,4] o) <float[8,12] u, float[8,12] v,
        float[12,4] w> { a = MatMul(x, u)  b = MatMul(z, v)  c = Add(a, b)  h = Relu(c)  y = MatMul(h, w)
        o = Softmax(y) }""",
    "two batches": """g (float[N,8] x, float[M,4] z) => (float[N,4] y) <float[8,12] u, float[12,4] w> {
        a = MatMul(x, u)  h = Relu(a)  k = MatMul(h, w)  m = ReduceMean <keepdims = 0> (z)  y = Add(k, m) }""",
    "whole numbers": """g (int64[N,5] i) => (float[N,5,4] y) <float[9,8] e, float[8,12] u, float[12,4] w> {
        x = Gather(e, i)  a = MatMul(x, u)  h = Relu(a)  y = MatMul(h, w) }""",
    "bytes": """g (uint8[N,3,8,8] x) => (float[N,4] y) <float[12,3,3,3] u, float[12] c, float[4,12,1,1] w> {
        f = Cast <to = 1> (x)  q = Conv(f, u, c)  h = Relu(q)  k = Conv(h, w)  p = GlobalAveragePool(k)
        y = Flatten(p) }""",
    "strings": f"""g (string[N] t, float[N,8] x) => (string[N] o, float[N,4] y) {HEAD} o = Identity(t)
        y = MatMul(h, w) }}""",
    "a number": f"g (float[N,8] x, float t) => (float[N,4] y) {HEAD} k = MatMul(h, w) y = Mul(k, t) }}",
    "a sequence": f"""g (float[N,8] x, int64 z) => (float[N,4] y, float[N,8] o) {HEAD} y = MatMul(h, w)
        s = SequenceConstruct(x, x) o = SequenceAt(s, z) }}""",
    "a sequence in between": f"""g (float[N,8] x) => (float[N,4] y) {HEAD} k = MatMul(h, w)
        s = SplitToSequence <axis = 1> (k)  l = ConcatFromSequence <axis = 1> (s)  y = Relu(l) }}""",
    "an optional": f"""g (float[N,8] x) => (float[N,4] y, float[N,8] o) {HEAD} y = MatMul(h, w)  s = Optional(x)
        o = OptionalGetElement(s) }}""",
    "a loop": """g (float[N,8] x) => (float[N,4] y) <float[8,12] u, float[12,12] v, float[12,4] w, int64 n = {3},
        bool t = {1}> { a = MatMul(x, u)  h = Loop(n, t, a) <body = b (int64 i, bool p, float[N,12] s) =>
        (bool o, float[N,12] r) { o = Identity(p)  m = MatMul(s, v)  r = Tanh(m) }>  y = MatMul(h, w) }""",
}
LEFT = {
    "bodies": (
        f"g (float[N,8] x, bool t) => (float[N,4] y) {HEAD.replace('w>', 'w, float[8,4] v>')} y = If (t) <{BODY}> }}",
        "scored by group-norm",
    ),
    "codes": (
        """g (float[N,8] x) => (float[N,4] y) <float scale0 = {0.05}, int8 z0 = {0}, int8[8,12] u,
        float scale1 = {0.01}, int8[12,4] w, float[12] c> { a = QuantizeLinear(x, scale0, z0)
        d = DequantizeLinear(a, scale0, z0)
        e = DequantizeLinear(u, scale1, z0)  p = MatMul(d, e)  q = Add(p, c)  h = Relu(q)
        i = QuantizeLinear(h, scale0, z0)  j = DequantizeLinear(i, scale0, z0)  k = DequantizeLinear(w, scale1, z0)
        y = MatMul(j, k) }""",
        "no linear layer whose weight is a constant",
    ),
    "casts": (
        """g (float[N,8] x) => (float[N,4] y) <float16[8,12] u, float16[12] c, float16[12,4] w> { a = Cast <to = 1> (u)
        b = Cast <to = 1> (c)  d = Cast <to = 1> (w)  q = Gemm(x, a, b)  h = Relu(q)  y = MatMul(h, d) }""",
        "no linear layer whose weight is a constant",
    ),
    "no floats come out": (
        f"g (float[N,8] x) => (int64[N] y) {HEAD} k = MatMul(h, w) y = ArgMax <axis = 1, keepdims = 0> (k) }}",
        "off by 0.00% of their variance",
    ),
    "a sequence comes out": (
        f"g (float[N,8] x) => (seq(float[N,4]) s) {HEAD} y = MatMul(h, w) s = SequenceConstruct(y) }}",
        "off by 0.00% of their variance",
    ),
    "as many rows as it likes": (
        f"""g (float[N,8] x) => (float[M,4] y) {HEAD.replace("w>", "w, int64[1] ax = {1}, float none = {0}>")}
        k = MatMul(h, w)  m = ReduceSum <keepdims = 0> (k, ax)  p = Less(m, none)  y = Compress <axis = 0> (k, p) }}""",
        "cannot be compared",
    ),
}


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        *((name, {"ratio": 0.5}) for name in (*STUDIED, *LEFT)),
        *((name, {"macs": 0.6}) for name in ("fp16", "whole numbers", "a loop", "bodies", "no floats come out")),
    ],
)
def test_any_model_is_pruned_and_proved_and_recovered_or_told_why_not(
    name: str, budget: Mapping[str, Any], tmp_path: Path
) -> None:
    text, words = LEFT.get(name, (STUDIED.get(name, ""), "Calibrated without data"))
    path, out = save(parse(text), tmp_path / "model.onnx"), tmp_path / "out.onnx"
    result = onnxprune.prune(path, out, align=1, **budget)
    assert words in result.applied.note
    assert result.applied.verified
    assert out.stat().st_size < path.stat().st_size
    assert (result.plan.recovery.get("recover", "none") == "auto") == (name in STUDIED)
    assert onnxprune.verify(path, out, plan=result.plan)
    again = Plan.loads(result.plan.dumps())
    assert again == result.plan
    assert not {"Infinity", "NaN"} & set(result.plan.dumps().replace(",", "").split())
    onnxprune.apply(path, again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("name", ["codes", "casts", "no floats come out", "a sequence comes out"])
def test_a_loss_that_cannot_be_measured_is_no_licence_to_remove_everything(name: str, tmp_path: Path) -> None:
    path = save(parse(LEFT[name][0]), tmp_path / "model.onnx")
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=r"no linear layer|no output of floats"):
        onnxprune.prune(path, tmp_path / "out.onnx", align=1, max_drop=0.05)
    assert snapshot(tmp_path) == before


def test_a_large_model_is_pruned_by_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "LARGEST", 100)
    model, data = placed(tmp_path, redundant())
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=data, **DEEPER)
    assert "Nothing was recovered: the model exceeds" in result.applied.note
    assert {n: v.tobytes() for n, v in weights(tmp_path / "out.onnx").items()} == kept_slices(model, result.plan)
    with pytest.raises(UsageError, match="'obs' cannot be used here: the model exceeds"):
        onnxprune.prune(model, None, data=data, criterion="obs", **DEEPER)
    with pytest.raises(UsageError, match="cannot be measured: the model exceeds"):
        onnxprune.prune(model, None, data=data, max_drop=0.1)


def test_a_part_that_does_not_run_by_itself_leaves_the_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ExecutionError("no kernel")

    model, data = placed(tmp_path, redundant())
    plain = onnxprune.prune(model, tmp_path / "plain.onnx", recover="none", **DEEPER)
    monkeypatch.setattr(Study, "best", fail)
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=data, **DEEPER)
    assert result.applied.note == "Nothing was recovered: a part of the model does not run by itself (no kernel)."
    assert result.plan.keep == plain.plan.keep
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    for given in ({"criterion": "obs", **DEEPER}, {"max_drop": 0.1}):
        with pytest.raises(PruneError, match="no kernel"):
            onnxprune.prune(model, None, data=data, **given)


def test_external_data_stay_external(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    np.savez(tmp_path / "data.npz", x=rows())
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=tmp_path / "data.npz", ratio=0.5, align=1)
    assert result.plan.recovery["recover"] == "auto"
    tensors = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert {t.name for t in tensors if t.data_location == TensorProto.EXTERNAL} == {"w1", "w2"}
    assert weights(tmp_path / "out.onnx")["w2"].tobytes() != kept_slices(model, result.plan)["w2"]
    assert onnxprune.verify(model, tmp_path / "out.onnx", plan=result.plan)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@drawn(model=models(), wish=st.sampled_from([{"ratio": 0.5}, {"ratio": 0.4, "recover": "bn"}, {"macs": 0.7}]))
def test_random_networks_are_pruned_proved_and_replayed(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto, wish: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("random")
    path, out = save(model, folder / "model.onnx"), folder / "out.onnx"
    data = {"x": np.random.default_rng(0).standard_normal((40, 3, 6, 6)).astype(np.float32)}
    try:
        plan = onnxprune.prune(path, out, align=1, data=data, **wish).plan
    except PruneError as refused:
        if "cannot be brought to" in str(refused):
            return
        raise
    onnxprune.apply(path, plan, folder / "again.onnx", data=data)
    assert (folder / "again.onnx").read_bytes() == out.read_bytes()
    assert plan.empty or onnxprune.verify(path, out, plan=plan, data=data)


def test_statistics_that_inputs_were_made_up_for_are_those_of_the_source_again(tmp_path: Path) -> None:
    """Weights are fitted while normalisations have the statistics of made-up inputs; what is written has its own."""
    text = """g (float[N,3,8,8] x) => (float[N,4] y) <float[8,3,3,3] u, float[8] s, float[8] t, float[8] m, float[8] v,
        float[4,8,1,1] w, float[4] b> { h = Conv(x, u) n = BatchNormalization(h, s, t, m, v) r = Relu(n)
        k = Conv(r, w, b) p = GlobalAveragePool(k) y = Flatten(p) }"""
    proto = parse(text)
    for name, value in (("v", 30.0), ("m", 5.0)):
        replaced(proto, name, lambda array, value=value: array.__setitem__(..., value + np.abs(array)))  # type: ignore[misc]
    model = save(proto, tmp_path / "model.onnx")
    result = onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5, align=1)
    before, after, kept = weights(model), weights(tmp_path / "out.onnx"), result.plan.groups[0]["kept"]
    for name in ("s", "t", "m", "v"):
        np.testing.assert_array_equal(after[name], before[name][kept])
    assert np.abs(after["w"] - before["w"][:, kept]).max() > 1e-3
    assert onnxprune.verify(model, tmp_path / "out.onnx", plan=result.plan)
    onnxprune.apply(model, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
