"""Vectors that several layers share: each layer loses its own units, and a copy is written only where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.algebra.closure import Mask
from onnxprune.plan import Plan, removed_by
from onnxprune.surgery import removal, saving
from tests.laws import analyse, difference, every_other, groups, parse
from tests.material import save, snapshot, weights
from tests.rules.cases import LIMIT, Case, check, check_alone

pytestmark = pytest.mark.usefixtures("instant")

LAYERS = "float[4,6] w1, float[6,2] v1, float[4,6] w2, float[6,2] v2"
BIAS = f"""g (float[N,4] x) => (float[N,2] y) <{LAYERS}, float[6] b> {{
    m1 = MatMul(x, w1)  a1 = Add(m1, b)  r1 = Relu(a1)  y1 = MatMul(r1, v1)
    m2 = MatMul(x, w2)  a2 = Add(m2, b)  r2 = Relu(a2)  y2 = MatMul(r2, v2)
    y = Add(y1, y2)
}}"""
TWO = {"b:0 v1:0 w1:1": 6, "b@2:0 v2:0 w2:1": 6}
HELD = BIAS.replace(", float[6] b", "").replace(
    "m1 =", "b = Constant <value = float[6] {0.1, -0.2, 0.3, -0.4, 0.5, 0.6}> ()  m1 =", 1
)

GRAPHS: dict[str, tuple[str, dict[str, int]]] = {
    "a bias": (BIAS, TWO),
    "a bias with an axis of one": (
        BIAS.replace("float[6] b", "float[1,6] b"),
        {"b:1 v1:0 w1:1": 6, "b@2:1 v2:0 w2:1": 6},
    ),
    "a bias in half precision": (BIAS.replace("float", "float16"), TWO),
    "a bias that a node holds": (HELD, TWO),
    "a bias that three layers share": (
        BIAS.replace("float[6] b", "float[6] b, float[4,6] w3, float[6,2] v3").replace(
            "y = Add(y1, y2)",
            "m3 = MatMul(x, w3)  a3 = Add(m3, b)  y3 = MatMul(a3, v3)  y4 = Add(y1, y2)  y = Add(y3, y4)",
        ),
        TWO | {"b@3:0 v3:0 w3:1": 6},
    ),
    "a bias that one layer reads twice": (
        BIAS.replace("r1 = Relu(a1)", "r1 = Mul(a1, b)"),
        {"b:0 v1:0 w1:1": 6, "b@3:0 v2:0 w2:1": 6},
    ),
    "a bias that leaves the graph": (  # the reader that keeps its name stays with it
        BIAS.replace("float[N,2] y)", "float[N,2] y, float[6] b)"),
        {"b@2:0 v2:0 w2:1": 6},
    ),
    "all that a normalisation reads": (
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y)
        <float[6,3,1,1] w1, float[6,3,1,1] w2, float[6] s, float[6] b, float[6] m, float[6] var, float[2,6,1,1] v1,
         float[2,6,1,1] v2> {
            c1 = Conv(x, w1)  n1 = BatchNormalization(c1, s, b, m, var)  r1 = Relu(n1)  y1 = Conv(r1, v1)
            c2 = Conv(x, w2)  n2 = BatchNormalization(c2, s, b, m, var)  r2 = Relu(n2)  y2 = Conv(r2, v2)
            y = Add(y1, y2)
        }""",
        {"b:0 m:0 s:0 v1:1 var:0 w1:0": 6, "b@2:0 m@2:0 s@2:0 v2:1 var@2:0 w2:0": 6},
    ),
    "the scales of codes": (
        """g (float[N,4] x) => (float[N,2] y)
        <int8[4,6] w1, int8[4,6] w2, float[6] scale, float[6,2] v1, float[6,2] v2> {
            d1 = DequantizeLinear <axis = 1> (w1, scale)  m1 = MatMul(x, d1)  y1 = MatMul(m1, v1)
            d2 = DequantizeLinear <axis = 1> (w2, scale)  m2 = MatMul(x, d2)  y2 = MatMul(m2, v2)  y = Add(y1, y2)
        }""",
        {"scale:0 v1:0 w1:1": 6, "scale@2:0 v2:0 w2:1": 6},
    ),
    "a bias inside and outside of branches": (
        """g (float[N,4] x, bool c) => (float[N,2] y)
        <float[4,6] w1, float[6] b, float[6,2] v1, float[4,6] p, float[4,6] q, float[6,2] s, float[6,2] t> {
            m = MatMul(x, w1)  a = Add(m, b)  r = Relu(a)  y1 = MatMul(r, v1)
            y2 = If (c) <then_branch = yes () => (float[N,2] z) { d = MatMul(x, p) e = Add(d, b) z = MatMul(e, s) },
                         else_branch = no () => (float[N,2] z) { d = MatMul(x, q) e = Add(d, b) z = MatMul(e, t) }>
            y = Add(y1, y2)
        }""",
        {"b:0 v1:0 w1:1": 6, "b@2:0 p:1 s:0": 6, "b@3:0 q:1 t:0": 6},
    ),
    "a bias that a branch holds": (
        f"""g (float[N,4] x, bool c) => (float[N,2] y) <{LAYERS}, float[4,2] u> {{
            y = If (c) <then_branch = yes () => (float[N,2] z) {{
                b = Constant <value = float[6] {{1, -2, 3, -4, 5, 6}}> ()
                m1 = MatMul(x, w1)  a1 = Add(m1, b)  y1 = MatMul(a1, v1)
                m2 = MatMul(x, w2)  a2 = Add(m2, b)  y2 = MatMul(a2, v2)  z = Add(y1, y2)
            }}, else_branch = no () => (float[N,2] z) {{ z = MatMul(x, u) }}>
        }}""",
        TWO,
    ),
    "a weight, which stays one": (
        BIAS.replace("float[4,6] w2, ", "")
        .replace("MatMul(x, w2)", "MatMul(z, w1)")
        .replace("m2 =", "z = Neg(x)  m2 ="),
        {"b:0 v1:0 v2:0 w1:1": 6},
    ),
    "a table that is read by rows and by columns": (
        """g (int64[B,S] ids) => (float[B,S,9] y) <float[9,6] table, float[6,8] u, float[8,6] d> {
            e = Gather(table, ids)  h = MatMul(e, u)  r = Relu(h)  f = MatMul(r, d)  t = Transpose(table)
            y = MatMul(f, t)
        }""",
        {"d:1 table:1 u:0": 6, "d:0 u:1": 8},
    ),
}


@pytest.mark.parametrize(("text", "expected"), GRAPHS.values(), ids=GRAPHS)
def test_each_reader_loses_its_own_units(text: str, expected: dict[str, int]) -> None:
    check(Case(text, expected))
    check_alone(Case(text, expected))


def _units(*gone: tuple[int, int]) -> Mask:
    """The units of the two groups of six that go, by group and place."""
    removed = np.zeros(12, dtype=bool)
    for group, place in gone:
        removed[6 * group + place] = True
    return removed


def _cut(model: onnx.ModelProto, removed: Mask, folder: Path) -> dict[str, list[float]]:
    """The vectors of the cut model, by name."""
    path = saving.write(removal.remove(analyse(model), removed), folder, "cut.onnx")
    return {name: array.tolist() for name, array in weights(path).items() if array.ndim == 1}


def test_readers_that_keep_the_same_read_one_vector(tmp_path: Path) -> None:
    model = parse(BIAS)
    bias = numpy_helper.to_array(model.graph.initializer[-1]).tolist()
    assert _cut(model, _units((0, 1), (1, 1)), tmp_path) == {"b": [bias[0], *bias[2:]]}


def test_readers_that_keep_different_indices_read_two_vectors(tmp_path: Path) -> None:
    model = parse(BIAS)
    bias = numpy_helper.to_array(model.graph.initializer[-1]).tolist()
    assert _cut(model, _units((0, 1), (1, 0)), tmp_path) == {"b": [bias[0], *bias[2:]], "b@2": bias[1:]}
    assert _cut(model, _units((0, 0)), tmp_path) == {"b": bias[1:], "b@2": bias}
    assert _cut(model, _units((1, 0)), tmp_path) == {"b": bias, "b@2": bias[1:]}


def test_a_copy_does_not_take_a_name_that_stands_for_something_else() -> None:
    model = parse(BIAS.replace("m2", "taken"))
    for node in model.graph.node:  # the parser knows no such name
        for names in (node.input, node.output):
            names[:] = ["b@2" if name == "taken" else name for name in names]
    assert groups(model) == {"b:0 v1:0 w1:1": 6, "b@3:0 v2:0 w2:1": 6}
    assert difference(model, _units((0, 1), (1, 0))) <= LIMIT


def test_where_every_weight_is_an_input_a_shared_vector_stays_one() -> None:
    """As files of version 3 list them, a caller may override each."""
    model = parse(BIAS, ir=3, opset=8)
    assert groups(model) == {"b:0 v1:0 v2:0 w1:1 w2:1": 6}
    assert difference(model, every_other(model)) <= LIMIT


@pytest.mark.parametrize("text", [BIAS, HELD])
def test_a_null_plan_changes_no_byte(tmp_path: Path, text: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = save(parse(text), tmp_path / "in" / "model.onnx")
    onnxprune.prune(source, tmp_path / "out" / "model.onnx", recover="none", ratio=0)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "in")
    draft = removal.remove(analyse(parse(text)), _units())
    assert onnx.load(saving.write(draft, tmp_path, "draft.onnx")) == onnx.load(source)


def _alike(model: onnx.ModelProto) -> onnx.ModelProto:
    """The second layer's weights are the first one's, so that both are scored alike."""
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    for of, name in (("w1", "w2"), ("v1", "v2")):
        by_name[name].raw_data = by_name[of].raw_data
    return model


@pytest.mark.parametrize(("alike", "copies"), [(False, {"b@2"}), (True, set())])
@pytest.mark.parametrize("text", [BIAS, HELD])
def test_a_plan_is_replayed_with_and_without_copies(tmp_path: Path, text: str, alike: bool, copies: set[str]) -> None:
    model = parse(text, seed=3)
    source = save(_alike(model) if alike else model, tmp_path / "model.onnx")
    result = onnxprune.prune(source, tmp_path / "a.onnx", recover="none", ratio=0.5, align=1)
    again = Plan.loads(result.plan.dumps())
    assert again.dumps() == result.plan.dumps()
    assert {name for name in again.keep if "@" in name} == copies
    assert set(weights(tmp_path / "a.onnx")) & {"b@2"} == copies
    removed = removed_by(again, analyse(onnx.load(source)))
    assert removed.sum() == 6
    assert onnxprune.apply(source, again, tmp_path / "b.onnx").verified
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_plan_that_keeps_a_copy_whole_is_replayed(tmp_path: Path) -> None:
    source = save(parse(BIAS), tmp_path / "model.onnx")
    analysis, removed = analyse(onnx.load(source)), _units((0, 2), (0, 3))
    plan = onnxprune.plan(source, recover="none", ratio=0)
    plan.keep.update(removal.keeps(analysis, removed))
    assert plan.keep["b@2"] == {}
    again = Plan.loads(plan.dumps())
    assert np.array_equal(removed_by(again, analysis), removed)
    onnxprune.apply(source, again, tmp_path / "out.onnx")
    shapes = {name: array.shape for name, array in weights(tmp_path / "out.onnx").items()}
    assert [shapes[name] for name in ("w1", "b", "v1")] == [(4, 4), (4,), (4, 2)]
    assert [shapes[name] for name in ("w2", "b@2", "v2")] == [(4, 6), (6,), (6, 2)]


def test_a_shared_vector_that_lies_in_another_file_is_copied(tmp_path: Path) -> None:
    path = str(tmp_path / "model.onnx")
    onnx.save_model(parse(BIAS, seed=3), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert onnxprune.prune(
        tmp_path / "model.onnx", tmp_path / "out.onnx", recover="none", ratio=0.5, align=1
    ).applied.verified
    found, bias = weights(tmp_path / "out.onnx"), weights(tmp_path / "model.onnx")["b"]
    assert found["b"].shape == found["b@2"].shape == (3,)
    assert set(found["b"]) | set(found["b@2"]) <= set(bias)
    assert found["b"].tolist() != found["b@2"].tolist()
