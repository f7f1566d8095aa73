"""A hidden index is one unit: its gates, both directions, its states."""

from __future__ import annotations

import pytest

from onnxprune.algebra.cost import CostModel
from onnxprune.rules.recurrent import GATES
from tests.laws import analyse, groups, parse
from tests.rules.cases import Case, check

HIDDEN = 6


def network(
    kind: str,
    *,
    directions: int = 1,
    bias: bool = True,
    states: bool = False,
    peepholes: bool = False,
    attributes: str = "",
    opset: int = 17,
) -> Case:
    """A recurrent layer between two matrix products; both directions are flattened into one axis behind it."""
    g, d = GATES[kind], directions
    weights = {"w": f"{d},{g * HIDDEN},5", "r": f"{d},{g * HIDDEN},{HIDDEN}"}
    weights |= {"b": f"{d},{2 * g * HIDDEN}"} if bias else {}
    weights |= {"h0": f"{d},2,{HIDDEN}"} if states else {}
    weights |= {"c0": f"{d},2,{HIDDEN}"} if states and kind == "LSTM" else {}
    weights |= {"p": f"{d},{3 * HIDDEN}"} if peepholes else {}
    inputs = ["q", "w", "r", "b" if bias else "", "", "h0" if states else ""]
    inputs += ["c0" if states else "", "p" if peepholes else ""] if kind == "LSTM" else []
    while not inputs[-1]:
        inputs.pop()
    declared = ", ".join(f"float[{shape}] {name}" for name, shape in weights.items())
    text = f"""g (float[3,2,4] x) => (float[3,2,7] y)
    <float[4,5] u, {declared}, int64[3] flat = {{3, 2, {d * HIDDEN}}}, float[{d * HIDDEN},7] v> {{
        q = MatMul(x, u)
        h = {kind} <hidden_size = {HIDDEN}{attributes}> ({", ".join(inputs)})
        t = Transpose <perm = [0,2,1,3]> (h)  f = Reshape(t, flat)  y = MatMul(f, v)
    }}"""
    axes = ["r:1", "r:2", "v:0", "w:1"] + ["b:1"] * bias + ["h0:2"] * ("h0" in weights) + ["c0:2"] * ("c0" in weights)
    return Case(text, {"u:1 w:2": 5, " ".join(sorted(axes + ["p:1"] * peepholes)): HIDDEN}, opset=opset)


BOTH = ', direction = "bidirectional"'
GRAPHS: dict[str, Case] = {
    "LSTM": network("LSTM"),
    "LSTM, without a bias": network("LSTM", bias=False),
    "LSTM, both directions": network("LSTM", directions=2, attributes=BOTH),
    "LSTM, backwards, with states": network("LSTM", states=True, attributes=', direction = "reverse"'),
    "LSTM, both directions, with everything": network(
        "LSTM", directions=2, states=True, peepholes=True, attributes=BOTH
    ),
    "LSTM, old": network("LSTM", opset=7),
    "LSTM, with other activations": network("LSTM", attributes=', activations = ["Sigmoid", "Sigmoid", "Tanh"]'),
    "GRU": network("GRU"),
    "GRU, reset after the product": network("GRU", attributes=", linear_before_reset = 1"),
    "GRU, both directions, with states": network("GRU", directions=2, states=True, attributes=BOTH, opset=14),
    "RNN": network("RNN", opset=22),
    "RNN, both directions": network("RNN", directions=2, attributes=BOTH),
    "LSTM, stacked": Case(
        """g (float[3,2,4] x) => (float[3,1,2,5] y)
        <float[1,24,4] w, float[1,24,6] r, float[1,48] b, float[1,20,6] v, float[1,20,5] s, int64[1] one = {1}> {
            h = LSTM <hidden_size = 6> (x, w, r, b)  q = Squeeze(h, one)  y = LSTM <hidden_size = 5> (q, v, s)
        }""",
        {"b:1 r:1 r:2 v:2 w:1": 6},
    ),
    "GRU, of which only the last state is read": Case(
        """g (float[3,2,4] x) => (float[2,5] y)
        <float[1,18,4] w, float[1,18,6] r, float[6,5] v, int64[1] zero = {0}> {
            , h = GRU <hidden_size = 6> (x, w, r)  s = Squeeze(h, zero)  y = MatMul(s, v)
        }""",
        {"r:1 r:2 v:0 w:1": 6},
    ),
    "LSTM, whose states come from outside": Case(
        """g (float[3,2,4] x, float[1,2,6] h0, float[1,2,6] c0) => (float[3,1,2,6] y)
        <float[1,24,4] w, float[1,24,6] r, float[1,48] b> {
            y = LSTM <hidden_size = 6> (x, w, r, b, , h0, c0)
        }""",
        {},
        "'h0' is an input of the model",
    ),
}


@pytest.mark.parametrize("title", GRAPHS)
def test_partition(title: str) -> None:
    check(GRAPHS[title])


def test_the_batch_may_come_first() -> None:
    model = parse("""g (float[2,3,4] x) => (float[2,3,5] y)
    <float[1,24,4] w, float[1,24,6] r, int64[1] two = {2}, float[6,5] v> {
        h = LSTM <hidden_size = 6, layout = 1> (x, w, r)  q = Squeeze(h, two)  y = MatMul(q, v)
    }""")
    assert groups(model) == {"r:1 r:2 v:0 w:1": 6}


def test_multiply_accumulates_count_both_products() -> None:
    analysis = analyse(parse(GRAPHS["LSTM"].text))
    dense = CostModel(analysis).dense
    assert dense.macs == 3 * 2 * (4 * 5 + 24 * 5 + 24 * 6 + 6 * 7)
