"""Recovery against planted answers: what depends on what stays is made up for exactly, whichever layer reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.graph import Graph
from onnxprune.data.inputs import Feed
from onnxprune.model.edits import with_values
from onnxprune.recovery import compensation, sequence, statistics
from onnxprune.recovery.methods import METHODS, recovered
from onnxprune.recovery.refit import RIDGES
from onnxprune.recovery.sequence import Refit, Step
from onnxprune.recovery.statistics import Statistics
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal, saving
from tests.laws import difference, parse, run
from tests.linears import KINDS, Kind, batches, declared, mask, outputs, prepared, relative, replaced, weights

LIMIT = 1e-4  # of the outputs' range
GONE = [1, 4]  # of six channels; in two groups it is the middle one of each
MIXING = [name for name in KINDS if "depthwise" not in name]


def depend(array: NDArray[np.float32]) -> None:
    """Of six along the last axis, the middle one of each three becomes a combination of its neighbours."""
    array[..., 1] = 1.5 * array[..., 0] - 0.8 * array[..., 2]
    array[..., 4] = 0.7 * array[..., 3] + 1.1 * array[..., 5]


def planted(*names: str, text: str) -> onnx.ModelProto:
    """A model in which the last axis of these weights depends on itself."""
    model = parse(text)
    for name in names:
        replaced(model, name, depend)
    return model


def read_by(kind: Kind) -> tuple[onnx.ModelProto, dict[str, Sequence[int]]]:
    """A model whose layer reads six channels, two of which depend on the others."""
    others = [axis for axis in range(len(kind.h)) if axis != kind.axis]
    shape = [*(kind.h[axis] for axis in others), 7]
    perm = [(*others, kind.axis).index(axis) for axis in range(len(kind.h))]
    text = f"""g ({declared("x", shape)}) => ({declared("z", kind.z)}) <float[7,6] u, float[6] c, {weights(kind)}> {{
        q = MatMul(x, u)  k = Add(q, c)  h = Transpose <perm = {perm}> (k)  {kind.node}
    }}"""
    return planted("u", "c", text=text), {"x": shape}


def refitted(analysis: Analysis, removed: Mask, feeds: Sequence[Feed]) -> tuple[Values, list[Step]]:
    return recovered(analysis, removed, feeds, "refit", 0, lambda _: None)


def check_cut(analysis: Analysis, values: Values, removed: Mask, feeds: Sequence[Feed], folder: Path) -> list[float]:
    """How far the outputs of the cut model are from the dense one's; cutting it is zeroing it."""
    record = with_values(analysis.graph, values)
    again = Analysis(Graph(record))
    assert again.units == analysis.units
    assert difference(record.whole(), removed) <= 1e-5
    names = [value.name for value in analysis.graph.proto.output]
    cut = saving.write(removal.remove(again, removed), folder, "cut.onnx")
    assert cut.stat().st_size < record.nbytes
    found = [run(cut, feed) for feed in feeds]
    together = [np.concatenate(arrays) for arrays in zip(*found, strict=True)]
    return [relative(a, b) for a, b in zip(together, outputs(analysis.graph, feeds, names), strict=True)]


def check(
    model: onnx.ModelProto,
    axis: tuple[str, int],
    shapes: Mapping[str, Sequence[int]],
    folder: Path,
    *,
    measured: bool = True,
) -> list[Step]:
    """Zeroing these channels hurts; refitted, nothing is lost on other data, zeroed or cut."""
    analysis = prepared(model)
    removed = mask(analysis, axis, GONE)
    names = [value.name for value in analysis.graph.proto.output]
    other = batches(shapes, 2, seed=7)
    dense = outputs(analysis.graph, other, names)
    zeroed = outputs(analysis.graph, other, names, removal.zeroed(analysis, removed))
    assert min(relative(a, b) for a, b in zip(zeroed, dense, strict=True)) > 1e-2
    values, steps = refitted(analysis, removed, batches(shapes, 5))
    made = outputs(analysis.graph, other, names, values)
    assert max(relative(a, b) for a, b in zip(made, dense, strict=True)) <= LIMIT
    assert max(check_cut(analysis, values, removed, other, folder)) <= LIMIT
    if measured:
        assert max(step.after for step in steps) < 1e-7 < max(step.before for step in steps)
    return steps


@pytest.mark.parametrize("name", MIXING)
def test_what_depends_on_what_stays_is_recovered_by_any_layer(name: str, tmp_path: Path) -> None:
    model, shapes = read_by(KINDS[name])
    (step,) = check(model, ("u", 1), shapes, tmp_path)
    assert step.ridge == min(RIDGES)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("widest", [0, 2304])
def test_the_closed_form_recovers_it_too(name: str, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tap by tap, and channel by channel, as far as its ridge lets it."""
    monkeypatch.setattr(statistics, "WIDEST", widest)
    model, shapes = read_by(KINDS[name])
    analysis = prepared(model)
    removed = mask(analysis, ("u", 1), GONE)
    other = batches(shapes, 2, seed=7)
    (dense,) = outputs(analysis.graph, other, ["z"])
    (zeroed,) = outputs(analysis.graph, other, ["z"], removal.zeroed(analysis, removed))
    gathered = Statistics(analysis, batches(shapes, 5))
    (made,) = outputs(analysis.graph, other, ["z"], compensation.compensated(gathered, removed))
    assert relative(made, dense) < 0.15 * relative(zeroed, dense)
    monkeypatch.setattr(compensation, "RIDGE", 1e-8)
    (made,) = outputs(analysis.graph, other, ["z"], compensation.compensated(gathered, removed))
    assert relative(made, dense) <= LIMIT


def test_the_closed_form_is_this_formula() -> None:
    model = parse("""g (float[N,5] x) => (float[N,3] y) <float[5,6] u, float[6] c, float[6,3] w, float[3] b> {
        q = Gemm(x, u, c)  h = Relu(q)  y = Gemm <alpha = 2.0, beta = 0.5> (h, w, b) }""")
    analysis, feeds = prepared(model), batches({"x": (-1, 5)}, 3, 20)
    removed = mask(analysis, ("u", 1), GONE)
    values = compensation.compensated(Statistics(analysis, feeds), removed)
    (h,) = outputs(analysis.graph, feeds, ["h"])
    kept = [0, 2, 3, 5]
    weight = 2 * np.asarray(analysis.graph.constant("w")).T.astype(np.float64)
    cov = np.cov(h.T, bias=True)
    ridge = 0.01 * np.trace(cov[np.ix_(kept, kept)]) / 4 * np.eye(4)
    solved = (weight @ cov[:, kept] + weight[:, kept] @ ridge) @ np.linalg.inv(cov[np.ix_(kept, kept)] + ridge)
    bias = 0.5 * np.asarray(analysis.graph.constant("b")) + weight @ h.mean(0) - solved @ h[:, kept].mean(0)
    np.testing.assert_allclose(values["w"][kept] * 2, solved.T, rtol=1e-5)
    np.testing.assert_allclose(values["b"] * 0.5, bias, rtol=1e-5)
    assert not values["w"][GONE].any()
    assert not values["c"][GONE].any()


JOINED = {
    "several readers": (
        ("u", "c"),
        """g (float[N,7,5,5] x) => (float[N,4,5,5] a, float[N,3] b, float[N,2,9,9] d) <float[7,6] u, float[6] c,
            float[4,6,3,3] w, float[4] e, float[6,3] v, float[6,2,3,3] k> {
        t = Transpose <perm = [0, 2, 3, 1]> (x)  q = MatMul(t, u)  m = Add(q, c)
        h = Transpose <perm = [0, 3, 1, 2]> (m)  a = Conv <pads = [1, 1, 1, 1]> (h, w, e)
        p = GlobalAveragePool(h)  f = Flatten(p)  b = MatMul(f, v)
        d = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (h, k) }""",
        ("u", 1),
    ),
    "a concatenation": (
        ("u", "c"),
        """g (float[N,7,5,5] x) => (float[N,4,3,3] y) <float[7,6] u, float[6] c, float[7,3] s, float[4,9,3,3] w> {
        t = Transpose <perm = [0, 2, 3, 1]> (x)  q = MatMul(t, u)  m = Add(q, c)  o = MatMul(t, s)
        j = Concat <axis = 3> (o, m)  h = Transpose <perm = [0, 3, 1, 2]> (j)  y = Conv(h, w) }""",
        ("u", 1),
    ),
    "a hidden layer before a residual add": (
        ("u", "c"),
        """g (float[N,5,5,7] x) => (float[N,5,5,3] y) <float[7,4] s, float[7,6] u, float[6] c, float[6,4] w,
            float[4,3] v> {
        r = MatMul(x, s)  q = MatMul(x, u)  h = Add(q, c)  b = MatMul(h, w)  a = Add(r, b)  o = Relu(a)
        y = MatMul(o, v) }""",
        ("u", 1),
    ),
    "a residual stream": (
        ("s", "w", "b"),
        """g (float[N,5,5,7] x) => (float[N,5,5,3] y) <float[7,6] s, float[6,4] u, float[4] c, float[4,6] w, float[6] b,
            float[6,3] v> {
        r = MatMul(x, s)  q = MatMul(r, u)  k = Add(q, c)  h = Tanh(k)  m = MatMul(h, w)  n = Add(b, m)
        a = Add(n, r)  y = MatMul(a, v) }""",
        ("s", 1),
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_it_is_recovered_where_tensors_meet(name: str, tmp_path: Path) -> None:
    names, text, axis = JOINED[name]
    steps = check(planted(*names, text=text), axis, {"x": _shape(text)}, tmp_path)
    assert len(steps) >= (3 if name == "several readers" else 1)


def _shape(text: str) -> list[int]:
    sizes = text.partition("float[")[2].partition("]")[0].split(",")
    return [-1 if size == "N" else int(size) for size in sizes]


def test_behind_a_depthwise_layer_the_next_one_recovers_it(tmp_path: Path) -> None:
    """Equal kernels keep the dependence; the depthwise layer loses the channels and is left as it is."""
    model = planted(
        "u",
        text="""g (float[N,5,5,7] x) => (float[N,4,3,3] y) <float[7,6] u, float[6,1,3,3] k, float[4,6,1,1] w> {
        m = MatMul(x, u)  h = Transpose <perm = [0, 3, 1, 2]> (m)  d = Conv <group = 6> (h, k)  y = Conv(d, w) }""",
    )
    replaced(model, "k", lambda array: array.__setitem__(slice(None), array[:1].copy()))
    steps = check(model, ("u", 1), {"x": (-1, 5, 5, 7)}, tmp_path)
    assert steps[-1].ridge is not None


def test_a_relu_keeps_what_is_a_multiple(tmp_path: Path) -> None:
    model = parse("""g (float[N,6,7,7] x) => (float[N,4,5,5] y) <float[6,6,3,3] u, float[6] c, float[4,6,3,3] w> {
        q = Conv <pads = [1, 1, 1, 1]> (x, u, c)  h = Relu(q)  y = Conv(h, w) }""")
    for name in ("u", "c"):
        replaced(model, name, lambda array: array.__setitem__(GONE, array[[0, 5]] * 2))
    check(model, ("u", 0), {"x": (-1, 6, 7, 7)}, tmp_path)


STREAMS = {
    "a convolution, stream first": (
        "Conv(h, w)",
        "n = BatchNormalization(b, g1, g2, g3, var)  a = Add(r, n)",
        (4, 6, 1, 1),
    ),
    "a convolution, stream second": (
        "Conv(h, w)",
        "n = BatchNormalization(b, g1, g2, g3, var)  a = Add(n, r)",
        (4, 6, 1, 1),
    ),
    "a scale and a shift": (
        "Conv(h, w)",
        "m = Mul(g4, b)  n = Add(m, g5)  o = Identity(n)  a = Add(n, r)",
        (4, 6, 1, 1),
    ),
    "nothing between": ("Conv <pads = [0, 0, 0, 0]> (h, w)", "a = Add(r, b)", (4, 6, 1, 1)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_last_layer_before_an_add_makes_up_for_the_stream(name: str, tmp_path: Path) -> None:
    """The stream loses a channel for good; the branch reads enough to know what is missing."""
    node, between, shape = STREAMS[name]
    model = planted(
        "u",
        text=f"""g (float[N,5,5,4] x) => (float[N,4,5,5] y) <float[4,4] s, float[4,4,1,1] t, float[4,6] u,
            {declared("w", shape)}, float[4] g1, float[4] g2, float[4] g3, float[4] var, float[4,1,1] g4,
            float[1,4,1,1] g5> {{
        k = MatMul(x, s)  l = Transpose <perm = [0, 3, 1, 2]> (k)  r = Conv(l, t)
        q = MatMul(x, u)  h = Transpose <perm = [0, 3, 1, 2]> (q)  b = {node}
        {between.replace("o = Identity(n)  a = Add(n", "o = Identity(n)  a = Add(o")}  y = Relu(a) }}""",
    )
    analysis = prepared(model)
    removed = mask(analysis, ("s", 1), [2]) | mask(analysis, ("u", 1), GONE)
    feeds, other = batches({"x": (-1, 5, 5, 4)}, 5), batches({"x": (-1, 5, 5, 4)}, 2, seed=7)
    values, steps = refitted(analysis, removed, feeds)
    dense, made = (outputs(analysis.graph, other, ["r", "y"], given) for given in (None, values))
    assert relative(made[0], dense[0]) > 1e-2
    assert relative(made[1], dense[1]) <= LIMIT
    assert max(check_cut(analysis, values, removed, other, tmp_path)) <= LIMIT
    assert len(steps) == 2


def test_a_stream_of_another_rank_is_left_alone() -> None:
    model = parse("""g (float[N,5,3] x, int64[5] i) => (float[N,5,2] y) <float[3,6] u, float[6,6] w, float[9,6] e,
        float[6,2] v> { h = MatMul(x, u)  m = MatMul(h, w)  p = Gather(e, i)  s = Add(m, p)  y = MatMul(s, v) }""")
    analysis = prepared(model)
    feeds = [{"i": np.arange(5), **feed} for feed in batches({"x": (-1, 5, 3)})]
    _, steps = refitted(analysis, mask(analysis, ("u", 1), [1]) | mask(analysis, ("w", 1), [2]), feeds)
    assert [step.ridge is not None for step in steps] == [True, True]


def test_a_step_that_harms_what_is_held_out_is_not_taken() -> None:
    """Two channels are equal in the batches that are fitted and opposite in the one that is held out."""
    model = parse("""g (float[N,2] x) => (float[N,1] y) <float[2,2] u, float[2,1] w, float[1] b> {
        h = MatMul(x, u)  y = Gemm(h, w, b) }""")
    replaced(model, "u", lambda array: array.__setitem__(..., np.eye(2)))
    replaced(model, "w", lambda array: array.__setitem__(..., 1))
    analysis = prepared(model)
    side = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    alike, opposite = np.hstack([side, side]), np.hstack([side, -side])
    removed = mask(analysis, ("u", 1), [1])
    untouched = removal.zeroed(analysis, removed)
    values, (step,) = refitted(analysis, removed, [*[{"x": alike}] * 4, {"x": opposite * 3}])
    assert step.ridge is None
    assert step.before == step.after > 0.5
    assert values.keys() == untouched.keys()
    np.testing.assert_array_equal(values["w"], untouched["w"])
    values, (step,) = refitted(analysis, removed, [{"x": alike}] * 5)
    assert step.ridge == 1e-7
    np.testing.assert_allclose(values["w"], [[2], [0]], rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("largest", [1, 4608])
def test_a_layer_is_left_alone_where_there_are_too_few_rows_to_hold_one_out(
    rows: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "LARGEST", largest)
    model, shapes = read_by(KINDS["Gemm"])
    analysis = prepared(model)
    removed = mask(analysis, ("u", 1), GONE)
    values, (step,) = refitted(analysis, removed, batches(shapes, 1, rows))
    assert step.ridge is None
    for name, value in removal.zeroed(analysis, removed).items():
        np.testing.assert_array_equal(values[name], value)


@pytest.mark.parametrize("name", MIXING)
def test_a_wide_layer_is_refitted_channel_by_channel(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One map for all taps is enough for what depends on what stays."""
    monkeypatch.setattr(sequence, "LARGEST", 1)
    model, shapes = read_by(KINDS[name])
    (step,) = check(model, ("u", 1), shapes, tmp_path, measured=False)
    assert (step.note, step.ridge) == ("channel by channel", RIDGES[0])


def test_means_of_a_wide_layer_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "LARGEST", 1)
    model, shapes = read_by(KINDS["Gemm"])
    analysis = prepared(model)
    removed = mask(analysis, ("u", 1), GONE)
    values, (step,) = recovered(analysis, removed, batches(shapes), "mean", 0, lambda _: None)
    assert (step.note, step.ridge) == ("too wide", None)
    np.testing.assert_array_equal(values["w"], removal.zeroed(analysis, removed)["w"])


def test_weights_in_constant_nodes_are_refitted_too(tmp_path: Path) -> None:
    text = ", ".join(f"{value:.2f}" for value in np.random.default_rng(0).uniform(-1, 1, 24))
    model = planted(
        "u",
        text=f"""g (float[N,7] x) => (float[N,4] y) <float[7,6] u> {{
        w = Constant <value = float[6,4] {{{text}}}> ()  h = MatMul(x, u)  y = MatMul(h, w) }}""",
    )
    check(model, ("u", 1), {"x": (-1, 7)}, tmp_path)


def test_layers_that_share_a_vector_are_refitted_apart(tmp_path: Path) -> None:
    model = planted(
        "u",
        text="""g (float[N,7] x) => (float[N,4] y, float[N,4] z) <float[7,6] u, float[6,4] w, float[4] b,
            float[4,4] v> {
        h = MatMul(x, u)  m = Gemm(h, w, b)  y = Relu(m)  z = Gemm(y, v, b) }""",
    )
    check(model, ("u", 1), {"x": (-1, 7)}, tmp_path)


@pytest.mark.parametrize("cpus", [1, 2, 5])
def test_values_do_not_depend_on_the_number_of_threads(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = read_by(KINDS["Conv, plain"])
    analysis = prepared(model)
    removed = mask(analysis, ("u", 1), [1, 3])
    first, _ = refitted(analysis, removed, batches(shapes))
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    again, _ = refitted(analysis, removed, batches(shapes))
    assert {name: value.tobytes() for name, value in first.items()} == {n: v.tobytes() for n, v in again.items()}


def test_rows_are_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "FLOPS", 1.0)
    monkeypatch.setattr(statistics, "LEAST_ROWS", 2)
    model, shapes = read_by(KINDS["Conv, plain"])
    analysis = prepared(model)
    removed = mask(analysis, ("u", 1), [0, 3])
    found = [recovered(analysis, removed, batches(shapes), "refit", seed, lambda _: None)[0]["w"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-6


def test_nothing_is_done_where_nothing_goes() -> None:
    model, shapes = read_by(KINDS["Gemm"])
    analysis = prepared(model)
    for method in METHODS:
        assert recovered(
            analysis, np.zeros(analysis.units, dtype=bool), batches(shapes), method, 0, lambda _: None
        ) == ({}, [])


def test_refit_visits_only_what_reads_something_else() -> None:
    model = parse("""g (float[N,7] x) => (float[N,3] y, float[N,2] z) <float[7,6] u, float[6,3] w, float[7,5] s,
        float[5,2] v> { h = MatMul(x, u)  y = MatMul(h, w)  k = MatMul(x, s)  z = MatMul(k, v) }""")
    analysis = prepared(model)
    run_ = Refit(analysis, mask(analysis, ("u", 1), [1]), batches({"x": (-1, 7)}))
    assert len(list(run_.run())) == 1
    assert not {"v", "s"} & set(run_.values)


def test_one_of_many_filters_can_be_refitted() -> None:
    """A layer of a filter per channel has fewer channels left than it has groups."""
    model = parse(
        """g (float[N,3,8,8] x) => (float[N,5,6,6] z)
        <float[16,3,1,1] p, float[16] q, float[16,1,3,3] k, float[16] l, float[5,16,1,1] w, float[5] b>
        { c = Conv(x, p, q) h = Relu(c) d = Conv <group = 16> (h, k, l) z = Conv(d, w, b) }"""
    )
    analysis = prepared(model)
    _, steps = recovered(analysis, mask(analysis, ("p", 0), range(1, 16)), batches({"x": (-1, 3, 8, 8)}), "refit")
    assert [step.layer for step in steps if step.ridge is not None and step.after < step.before]
