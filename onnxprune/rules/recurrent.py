"""Recurrent layers: a hidden index stands in every gate's block of W, R, B and P, in every state, in both directions.

W (directions, gates·hidden, input), R (directions, gates·hidden, hidden), B (directions, 2·gates·hidden). With its
weights zeroed a hidden index of an LSTM or a GRU stays at zero, unless it starts elsewhere or another activation than
the usual one moves it; R absorbs it in any case.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Count, Fact, Macs, Slot, same, tile
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import RuleTable, Terms, rule_for

RULES: RuleTable = {}

X, W, R, B, LENGTHS, H0, C0, P = range(8)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _stays_at_zero(op: Op) -> Terms | None:
    given = [name.decode() if isinstance(name, bytes) else name for name in op.attr("activations") or []]
    usual = USUAL[op.kind]
    if given not in ([], usual, usual * 2):
        return None
    return ((W,), (B,), (H0,), (C0,), (P,)) if op.kind == "LSTM" else ((W,), (B,), (H0,))


@rule_for(RULES, "LSTM", "GRU", "RNN", zero=_stays_at_zero)
def recurrent(op: Op) -> Iterator[Fact]:
    """X is (time, batch, input), Y (time, directions, batch, hidden); with ``layout`` 1 the batch comes first."""
    x, w, r, gates, batch_first = op.ins[X], op.ins[W], op.ins[R], GATES[op.kind], op.attr("layout", 0)
    hidden = op.shape(r)[2]
    if not isinstance(hidden, int):
        return
    yield same(x, 2, w, 2, sums=True)
    yield tile(r, 2, w, 1, gates, hidden)
    yield tile(r, 2, r, 1, gates, hidden, sums=True)
    yield Count(Slot("hidden_size"), None, (r, 2), 0, hidden)
    yield from (Macs(((x, 0), (x, 1), *((weight, axis) for axis in range(3)))) for weight in (w, r))
    if op.has(B):
        yield tile(r, 2, op.ins[B], 1, 2 * gates, hidden)
    if op.has(P):
        yield tile(r, 2, op.ins[P], 1, 3, hidden)
    batch = 0 if batch_first else 1
    states = [op.ins[slot] for slot in (H0, C0) if op.has(slot)] + [y for y in op.outs[1:] if y in op.graph.shapes]
    for state in states:
        yield same(state, 2, r, 2)
        yield same(state, batch, x, batch)
    if op.outs[0] in op.graph.shapes:
        yield same(op.outs[0], 3, r, 2)
        yield same(op.outs[0], batch if batch_first else 2, x, batch)
        yield same(op.outs[0], 1 if batch_first else 0, x, 1 - batch)
