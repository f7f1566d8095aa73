"""Hidden sizes: what a normalisation runs over goes if the user says so, and is no longer claimed to equal zeroing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.pins import Protection
from onnxprune.data.inputs import synthesise
from onnxprune.errors import PruneError, RefusedError
from onnxprune.model.record import Array, Record
from onnxprune.plan import Plan
from onnxprune.surgery import removal, saving
from tests.laws import parse, run, run_uncut
from tests.material import save, weights
from tests.rules.cases import LIMIT
from tests.rules.wiring import parts
from tests.terminal import done, refused

pytestmark = pytest.mark.usefixtures("instant")

Norm = Callable[[str, str, str, str], str]  # from its input, output, scale and shift

WIDTH = 4  # of a head
HIDDEN, LAYERS = "E", (1, 2)
LETTERS = {"q": "EA", "k": "EA", "v": "EA", "o": "AE", "u": "EF", "b": "F", "d": "FE"}
AXES: dict[str, tuple[str | int, ...]] = {"table": (11, HIDDEN), "out": (HIDDEN, 9)}
for i in LAYERS:
    for name, letters in (LETTERS | dict.fromkeys(("g", "s", "t", "c", "db"), HIDDEN)).items():
        AXES[f"{name}{i}"] = tuple(letter if letter == HIDDEN else f"{letter}{i}" for letter in letters)
"""For each weight its axes: the hidden size E, and in each layer the heads A and the neurons F."""
SIZES = {"E": 8, "A1": 8, "A2": 8, "F1": 12, "F2": 12}


def layer(i: int, norm: Norm) -> str:
    """Attention and two linear layers, each behind a normalisation and around a shortcut."""
    x = "e" if i == 1 else f"r{i - 1}"
    steps = f"""{norm(x, "n@", "g@", "s@")}  qs@ = MatMul(n@, q@)  ks@ = MatMul(n@, k@)  vs@ = MatMul(n@, v@)
    qa@ = Reshape(qs@, apart@)  ka@ = Reshape(ks@, apart@)  va@ = Reshape(vs@, apart@)
    qh@ = Transpose <perm = [0,2,1,3]> (qa@)  kh@ = Transpose <perm = [0,2,3,1]> (ka@)
    vh@ = Transpose <perm = [0,2,1,3]> (va@)  sc@ = MatMul(qh@, kh@)  pr@ = Softmax(sc@)  z@ = MatMul(pr@, vh@)
    zt@ = Transpose <perm = [0,2,1,3]> (z@)  zj@ = Reshape(zt@, back@)  at@ = MatMul(zj@, o@)  a@ = Add(at@, {x})
    {norm("a@", "m@", "t@", "c@")}  h@ = MatMul(m@, u@)  hb@ = Add(h@, b@)  f@ = Tanh(hb@)
    dd@ = MatMul(f@, d@)  de@ = Add(dd@, db@)  r@ = Add(de@, a@)"""
    return steps.replace("@", str(i))


def network(kind: str, sizes: dict[str, int]) -> onnx.ModelProto:
    """An embedding, two residual layers, and a projection."""
    norm, opset, ir = NORMS[kind]
    declared = [f"float[{','.join(str(sizes.get(str(a), a)) for a in axes)}] {name}" for name, axes in AXES.items()]
    for i in LAYERS:
        heads = sizes[f"A{i}"] // WIDTH
        declared.append(f"int64[4] apart{i} = {{0, 0, {heads}, {WIDTH}}}")
        declared.append(f"int64[3] back{i} = {{0, 0, {heads * WIDTH}}}")
    steps = "  ".join(layer(i, norm) for i in LAYERS)
    text = f"""g (int64[B,S] ids) => (float[B,S,9] y) <{", ".join(declared)}, float eps = {{0.00001}}> {{
        e = Gather(table, ids)  {steps}  y = MatMul(r2, out)
    }}"""
    return parse(text, opset=opset, ir=ir)


def decomposed(x: str, y: str, scale: str, shift: str) -> str:
    """As exporters wrote it before the operator was there."""
    return f"""{y}m = ReduceMean <axes = [-1]> ({x})  {y}l = Sub({x}, {y}m)  {y}p = Mul({y}l, {y}l)
    {y}v = ReduceMean <axes = [-1]> ({y}p)  {y}e = Add({y}v, eps)  {y}q = Sqrt({y}e)  {y}n = Div({y}l, {y}q)
    {y}g = Mul({y}n, {scale})  {y} = Add({y}g, {shift})"""


def root_mean_square(x: str, y: str, scale: str, shift: str) -> str:
    return f"""{y}p = Mul({x}, {x})  {y}v = ReduceMean <axes = [-1]> ({y}p)  {y}e = Add({y}v, eps)
    {y}q = Sqrt({y}e)  {y}i = Reciprocal({y}q)  {y}n = Mul({x}, {y}i)  {y}g = Mul({y}n, {scale})
    {y} = Add({y}g, {shift})"""


NORMS: dict[str, tuple[Norm, int, int]] = {
    "LayerNormalization": (lambda x, y, scale, shift: f"{y} = LayerNormalization({x}, {scale}, {shift})", 17, 8),
    "RMSNormalization": (
        lambda x, y, scale, shift: f"{y}g = RMSNormalization({x}, {scale})  {y} = Add({y}g, {shift})",
        23,
        10,
    ),
    "a mean, a deviation": (decomposed, 17, 8),
    "a root mean square": (root_mean_square, 17, 8),
}


def group(axis: str) -> str:
    """All weights' axes of one kind, as groups are named."""
    return " ".join(sorted(f"{name}:{axes.index(axis)}" for name, axes in AXES.items() if axis in axes))


INNER = {group(f"{axis}{i}"): size for i in LAYERS for axis, size in (("A", 2), ("F", 12))}
HIDDEN_UNITS = {group(HIDDEN): 8}
KEPT = {"E": [0, 2, 3, 6, 7], "A1": [4, 5, 6, 7], "A2": [*range(8)], "F1": [0, 5, 11], "F2": [*range(1, 12, 2)]}


def analysis_of(model: onnx.ModelProto, *, normalized: bool = True) -> Analysis:
    return Analysis(Graph(Record(model)), Protection(normalized=normalized))


def removed_but(analysis: Analysis, kept: dict[str, list[int]]) -> Mask:
    """The units that lie outside of what is kept of each kind of axis."""
    removed = np.zeros(analysis.units, dtype=bool)
    for (name, axis), units in analysis.slices():
        letter = str(AXES[name][axis])
        gone = np.setdiff1d(np.arange(SIZES[letter]), kept.get(letter, np.arange(SIZES[letter])))
        removed[units[gone]] = True
    return removed


def sliced(kind: str, model: onnx.ModelProto, kept: dict[str, list[int]]) -> onnx.ModelProto:
    """The network written down with smaller widths, and the model's weights cut to them by hand."""
    small = network(kind, {axis: len(kept.get(axis, range(size))) for axis, size in SIZES.items()})
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in small.graph.initializer:
        if tensor.name in AXES:
            array = arrays[tensor.name]
            axes = zip(AXES[tensor.name], array.shape, strict=True)
            within = [kept.get(str(axis), range(size)) for axis, size in axes]
            tensor.CopyFrom(numpy_helper.from_array(array[np.ix_(*within)], tensor.name))
    return small


# ---- the engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NORMS)
def test_hidden_sizes_are_one_group_if_the_user_says_so_and_else_stay(kind: str) -> None:
    model = network(kind, SIZES)
    assert parts(analysis_of(model, normalized=False)) == INNER
    analysis = analysis_of(model)
    assert parts(analysis) == HIDDEN_UNITS | INNER
    (hidden,) = [g for g in range(analysis.groups) if len(analysis.members(g)) == 8]
    assert np.array_equal(np.flatnonzero(analysis.approximate), analysis.members(hidden))


@pytest.mark.parametrize("kept", [{"E": KEPT["E"]}, KEPT, {"E": [4]}], ids=["hidden", "all kinds", "all but one"])
@pytest.mark.parametrize("kind", NORMS)
def test_the_cut_model_is_the_smaller_network_written_by_hand(
    tmp_path: Path, kind: str, kept: dict[str, list[int]]
) -> None:
    model = network(kind, SIZES)
    analysis = analysis_of(model)
    cut = saving.write(removal.remove(analysis, removed_but(analysis, kept)), tmp_path, "cut.onnx")
    onnx.checker.check_model(str(cut), full_check=True)
    by_hand = save(sliced(kind, model, kept), tmp_path / "by_hand.onnx")
    assert {n: a.shape for n, a in weights(cut).items() if n in AXES} == {
        n: a.shape for n, a in weights(by_hand).items() if n in AXES
    }
    for shape in ((1, 5), (3, 2)):
        feed = dict(synthesise(analysis.graph, {"ids": shape}, 0))
        (expected,) = run_uncut(by_hand, feed)
        (found,) = run(cut, feed)
        assert np.abs(expected).max() > 0
        assert np.abs(found - expected).max() <= LIMIT * np.abs(expected).max()


# ---- the verbs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(network("LayerNormalization", SIZES), tmp_path / "model.onnx")


def test_a_plan_says_what_is_not_proven_and_is_replayed(source: Path) -> None:
    first, again = source.with_name("a.onnx"), source.with_name("b.onnx")
    result = onnxprune.prune(source, first, recover="none", ratio=0.5, align=1, normalized_axes=True)
    marks = {" ".join(sorted(g["axes"])): g.get("mask_equivalent", True) for g in result.plan.groups}
    assert marks == dict.fromkeys(HIDDEN_UNITS, False) | dict.fromkeys(INNER, True)
    assert weights(first)["table"].shape == (11, 4)
    assert "Not mask-equivalent: a normalisation runs over 4 of the 18 units removed" in result.applied.note
    plan = Plan.loads(result.plan.dumps())
    assert plan.recipe["normalized_axes"] is True
    applied = onnxprune.apply(source, plan, again)
    assert applied.verified
    assert "Not mask-equivalent" in applied.note
    assert first.read_bytes() == again.read_bytes()


def test_without_being_told_so_no_hidden_size_goes(source: Path) -> None:
    result = onnxprune.prune(source, source.with_name("out.onnx"), recover="none", ratio=0.5, align=1)
    assert {" ".join(sorted(g["axes"])) for g in result.plan.groups} == set(INNER)
    assert all("mask_equivalent" not in g for g in result.plan.groups)
    assert "mask-equivalent" not in result.applied.note
    assert weights(source.with_name("out.onnx"))["table"].shape == (11, 8)


def test_a_plan_that_lost_the_permission_is_refused(source: Path) -> None:
    document = json.loads(onnxprune.plan(source, recover="none", ratio=0.5, align=1, normalized_axes=True).dumps())
    document["recipe"]["normalized_axes"] = False
    with pytest.raises(RefusedError, match="which must stay"):
        onnxprune.apply(source, Plan.loads(json.dumps(document)), source.with_name("out.onnx"))


def test_where_only_hidden_units_go_nothing_is_claimed(source: Path) -> None:
    analysis = analysis_of(onnx.load(source))
    plan = onnxprune.plan(source, recover="none", ratio=0, normalized_axes=True)
    plan.keep.update(removal.keeps(analysis, removed_but(analysis, {"E": KEPT["E"]})))
    applied = onnxprune.apply(source, plan, source.with_name("out.onnx"))
    assert "a normalisation runs over 3 of the 3 units removed" in applied.note
    assert weights(source.with_name("out.onnx"))["table"].shape == (11, 5)


def test_a_mistake_in_the_other_units_is_still_caught(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untouched(analysis: Analysis, name: str, keep: dict[int, Mask]) -> Callable[[], Array]:
        return lambda: np.asarray(analysis.graph.constant(name))

    monkeypatch.setattr(removal, "_eraser", untouched)
    with pytest.raises(PruneError, match="Removed and zeroed differ"):
        onnxprune.prune(source, source.with_name("out.onnx"), recover="none", ratio=0.5, align=1, normalized_axes=True)
    assert not source.with_name("out.onnx").exists()


# ---- the command line --------------------------------------------------------------------------------------------


def test_the_command_line_takes_hidden_sizes(source: Path) -> None:
    out, plan = source.with_name("out.onnx"), source.with_name("plan.json")
    text = done(
        "prune",
        source,
        "-o",
        out,
        "--recover",
        "none",
        "--ratio",
        "0.5",
        "--align",
        "1",
        "--normalized-axes",
        "--plan",
        plan,
    )
    assert "Not mask-equivalent" in " ".join(text.split())
    assert weights(out)["table"].shape == (11, 4)
    done("apply", source, plan, "-o", source.with_name("again.onnx"))
    assert out.read_bytes() == source.with_name("again.onnx").read_bytes()


@pytest.mark.parametrize(("attention", "heads"), [("heads", 1), ("dims", 2)])
def test_the_command_line_takes_what_goes_of_attention(source: Path, attention: str, heads: int) -> None:
    plan = source.with_name("plan.json")
    done("plan", source, "-o", plan, "--recover", "none", "--ratio", "0.5", "--align", "1", "--attention", attention)
    found = Plan.loads(plan.read_text(encoding="utf-8"))
    assert found.recipe["attention"] == attention
    assert len(found.keep["q1"][1]) == WIDTH
    assert len({index // WIDTH for index in found.keep["q1"][1]}) == heads
    assert onnxprune.apply(source, found, source.with_name("out.onnx")).verified


def test_the_command_line_knows_no_other_way_to_cut_attention(source: Path) -> None:
    assert "'rows' is not one of 'heads', 'dims'" in refused(
        2,
        "plan",
        source,
        "-o",
        source.with_name("plan.json"),
        "--recover",
        "none",
        "--ratio",
        "0.5",
        "--attention",
        "rows",
    )
