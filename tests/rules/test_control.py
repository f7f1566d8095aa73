"""What a body is handed and hands out is the same tensor under two names; names may repeat from body to body."""

from __future__ import annotations

import onnx
import pytest

from tests.laws import groups, parse, reasons
from tests.rules.cases import Case, check

BRANCHES = """g (float[3,4] x, bool c) => (float[3,2] y) <float[4,8] u, float[8] b, float[8,2] v, {weights}> {{
    h = MatMul(x, u)
    t = If (c) <then_branch = yes () => (float[3,8] r) {{ {yes} }}, else_branch = no () => (float[3,8] r) {{ {no} }}>
    y = MatMul(t, v)
}}"""


def branches(
    yes: str, no: str, groups: dict[str, int], weights: str = "float[1] unused", why: str | None = None
) -> Case:
    return Case(BRANCHES.format(yes=yes, no=no, weights=weights), groups, why)


LOOP = """g (float[3,4] x) => (float[3,2] y) <float[4,8] u, float[8,8] w, float[8,2] v,
    int64 turns = {{3}}, bool go = {{1}}, {weights}> {{
    h = MatMul(x, u)
    t, s = Loop (turns, go, h) <body = one (int64 i, bool on, float[3,8] a) => (bool on2, float[3,8] z, float[3,8] e) {{
        on2 = Identity(on)  {turn}
    }}>
    {after}
}}"""

GROWING = LOOP.replace("[3,8] a", "[N,8] a").replace("[3,8] z", "[M,8] z").replace("[3,8] e", "[K,8] e")

SCAN = """g (float[5,3,4] x) => (float[3,2] y) <float[4,8] u, float[8,8] w, float[8,2] v, float[3,8] h0> {{
    q = MatMul(x, u)  p = Transpose <perm = {perm}> (q)
    t, s = Scan <num_scan_inputs = 1 {axes}, body = one (float[3,8] a, float[3,8] k) => (float[3,8] z, float[3,8] e) {{
        m = MatMul(a, w)  n = Add(m, k)  z = Tanh(n)  e = Relu(n)
    }}> (h0, p)
    o = ReduceMax <keepdims = 0, axes = [{stacked}]> (s)  r = Add(t, o)  y = MatMul(r, v)
}}"""

GRAPHS: dict[str, Case] = {
    "If": branches("r = Add(h, b)", "r = Relu(h)", {"b:0 u:1 v:0": 8}),
    "If, a constant inside a branch": branches(
        "k = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> ()  r = Mul(h, k)", "r = Neg(h)", {"k:0 u:1 v:0": 8}
    ),
    "If, the same name inside both branches": branches(
        "k = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> ()  r = Mul(h, k)",
        "k = Constant <value = float[8] {8, 7, 6, 5, 4, 3, 2, 1}> ()  r = Mul(h, k)",
        {"k:0 k@2:0 u:1 v:0": 8},
    ),
    "If, layers inside the branches": branches(
        "m = MatMul(h, w1)  n = Relu(m)  r = MatMul(n, w2)",
        "m = MatMul(h, w3)  n = Tanh(m)  r = MatMul(n, w4)",
        {"u:1 w1:0 w3:0": 8, "w1:1 w2:0": 6, "v:0 w2:1 w4:1": 8, "w3:1 w4:0": 5},
        "float[8,6] w1, float[6,8] w2, float[8,5] w3, float[5,8] w4",
    ),
    "If, inside a branch of another": branches(
        """d = Not(c)  r = If (d) <then_branch = a () => (float[3,8] s) { s = Add(h, b) },
                                  else_branch = b () => (float[3,8] s) { s = Sub(h, b) }>""",
        "r = Identity(h)",
        {"b:0 u:1 v:0": 8},
    ),
    "If, a width written inside a branch": branches(
        "s = Constant <value = int64[2] {3, 8}> ()  m = Unsqueeze(h, one)  r = Reshape(m, s)",
        "r = Identity(h)",
        {"u:1 v:0": 8},
        "int64[1] one = {1}",
    ),
    "If, a branch that normalises": branches("r = Softmax(h)", "r = Relu(h)", {}, why="normalises over it"),
    "Loop": Case(
        LOOP.format(turn="m = MatMul(a, w)  z = Tanh(m)  e = Relu(m)", after="y = MatMul(t, v)", weights="float one"),
        {"u:1 v:0 w:0 w:1": 8},
    ),
    "Loop, what each turn hands out": Case(
        LOOP.format(
            turn="m = MatMul(a, w)  z = Tanh(m)  e = Add(m, b)",
            after="o = ReduceMax <keepdims = 0, axes = [0]> (s)  y = MatMul(o, v)",
            weights="float[8] b",
        ),
        {"b:0 u:1 v:0 w:0 w:1": 8},
    ),
    "Loop, a layer inside": Case(
        LOOP.format(
            turn="m = MatMul(a, p)  n = Relu(m)  z = MatMul(n, q)  e = Identity(a)",
            after="y = MatMul(t, v)",
            weights="float[8,6] p, float[6,8] q",
        ),
        {"p:0 q:1 u:1 v:0": 8, "p:1 q:0": 6},
    ),
    "Loop, a state that is handed out": Case(
        LOOP.format(
            turn="m = MatMul(a, w)  z = Tanh(m)  e = Relu(m)",
            after="y = Slice(t, a0, a1, a2)",
            weights="int64[1] a0 = {0}, int64[1] a1 = {2}, int64[1] a2 = {1}",
        ),
        {"u:1 w:0 w:1": 6},
    ),
    "Loop, a state that grows": Case(
        GROWING.format(
            turn="n = Shape(a)  q = Reshape(a, n)  z = Concat <axis = 0> (q, a)  e = Slice(q, a0, a1, a2)",
            after="o = ReduceMax <keepdims = 0, axes = [0]> (s)  y = MatMul(o, v)",
            weights="int64[1] a0 = {0}, int64[1] a1 = {3}, int64[1] a2 = {0}",
        ),
        {"u:1 v:0": 8},
    ),
    "Scan": Case(SCAN.format(perm="[0,1,2]", axes="", stacked=0), {"h0:1 u:1 v:0 w:0 w:1": 8}),
    "Scan, along other axes": Case(
        SCAN.format(perm="[1,0,2]", axes=", scan_input_axes = [1], scan_output_axes = [1]", stacked=1),
        {"h0:1 u:1 v:0 w:0 w:1": 8},
    ),
    "Scan, along axes counted from the last": Case(
        SCAN.format(perm="[1,2,0]", axes=", scan_input_axes = [-1], scan_output_axes = [-1]", stacked=2),
        {"h0:1 u:1 v:0 w:0 w:1": 8},
    ),
}


@pytest.mark.parametrize("case", GRAPHS.values(), ids=GRAPHS)
def test_graphs(case: Case) -> None:
    check(case)


def test_what_another_operator_does_with_its_body_is_not_guessed() -> None:
    text = """g (float[3,4] x) => (float[3,2] y) <float[4,8] u, float[8,6] w, float[6,5] p, float[5,2] v> {
        h = MatMul(x, u)  i = Relu(h)  k = MatMul(i, w)
        z = some.where.Twice (k) <body = one (float[3,6] a) => (float[3,6] b) { b = Relu(a) }>
        t = MatMul(z, p)  y = MatMul(t, v)
    }"""
    model = parse(text)
    model.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
    assert groups(model) == {"u:1 w:0": 8}
    assert "Twice #3 ('z') has no rule" in reasons(model)
