"""What goes along with attention: turned heads, linear attention, causal filters, and caches that are written to."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Fact, Macs, Pin, same
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import FIRST, RuleTable, Terms, rule_for
from onnxprune.rules.heads import MICROSOFT, Heads, K, Q, V, axis_of_heads, like_first, quotient, whole
from onnxprune.rules.layout import broadcast, in_place, normalized_axis, pin_all

RULES: RuleTable = {}


@rule_for(RULES, "RotaryEmbedding", zero=FIRST)
@rule_for(RULES, "RotaryEmbedding", "MRotaryEmbedding", domain=MICROSOFT, zero=FIRST, shapes=like_first)
def rotary_embedding(op: Op) -> Iterator[Fact]:
    """Turns pairs of indices within each head, all heads alike."""
    x, y = op.ins[0], op.out
    axis, given = axis_of_heads(op, x), op.attr("num_heads", 0)
    count = given
    if op.rank(x) == 4:
        count = op.shape(x)[1]
    elif op.domain == MICROSOFT and not op.attr("rotary_embedding_dim", 0):
        cosines = op.ins[2]
        count = quotient(op.shape(x)[2], 2 * whole(op.shape(cosines)[-1]))
    if given and given != count:
        raise ValueError(f"num_heads is {given}, but there are {count}")
    heads = Heads(op, (y, axis), whole(count), whole(count))
    yield from heads.stated("num_heads" if given else None)
    yield from heads.along(x, axis)


STATE, DECAY, BETA = 3, 4, 5


def _linear_shapes(op: Op) -> Iterator[Shape]:
    queries, keys = op.attr("q_num_heads"), op.attr("kv_num_heads")
    batch, length, _ = op.shape(op.ins[Q])
    dk, dv = quotient(op.shape(op.ins[K])[2], keys), quotient(op.shape(op.ins[V])[2], keys)
    yield batch, length, max(queries, keys) * dv
    yield op.shape(op.ins[STATE]) if op.has(STATE) else (batch, keys, dk, dv)


@rule_for(RULES, "LinearAttention", zero=((V,), (STATE,)))
@rule_for(RULES, "LinearAttention", domain=MICROSOFT, zero=((V,), (STATE,)), shapes=_linear_shapes)
def linear_attention(op: Op) -> Iterator[Fact]:
    """Each key head has a state, which its query heads read; all heads lie in a row."""
    queries, keys = op.attr("q_num_heads"), op.attr("kv_num_heads")
    if keys > queries:
        yield from pin_all(op, f"{op.label} lets several key heads serve one query head")
        return
    heads = Heads(op, (op.out, 2), queries, keys)
    yield from heads.stated("q_num_heads", "kv_num_heads")
    yield from heads.along(op.ins[Q], 2)
    for slot in (K, V, DECAY, BETA):
        if op.has(slot) and op.shape(op.ins[slot])[2] != 1:
            yield from heads.of_keys(op.ins[slot], 2)
    states = [op.ins[STATE]] if op.has(STATE) else []
    for state in states + [y for y in op.outs[1:] if y in op.graph.shapes]:
        yield from heads.of_keys(state, op.rank(state) - 3)


@rule_for(RULES, "TensorScatter", zero=((0,), (1,)))
def tensor_scatter(op: Op) -> Iterator[Fact]:
    """An update is written into a cache along one axis, at a place that each batch index has for itself."""
    past, update, y = op.ins[0], op.ins[1], op.out
    axis = normalized_axis(op, -2, op.rank(past))
    for x in (past, update):
        yield from in_place(op, x, y, but=(axis,))
    if op.has(2):
        yield same(op.ins[2], 0, y, 0)


def _gate_zero(op: Op) -> Terms | None:
    """The decay is a product; an update rate of zero is one half."""
    beta = op.outs[1] if len(op.outs) > 1 else ""
    return None if beta in op.graph.consumers else ((2,),)


def _gate_shapes(op: Op) -> list[Shape]:
    return [op.shape(op.ins[0])] * 2


@rule_for(RULES, "LinearAttentionGate", domain=MICROSOFT, zero=_gate_zero, shapes=_gate_shapes)
def linear_attention_gate(op: Op) -> Iterator[Fact]:
    """Decay and update rate of each head, from a projection each."""
    for x in op.ins[:3]:
        yield from broadcast(op, x, op.out)
    if op.has(3):  # as wide as the decay, although nothing of the one goes into the other
        yield from in_place(op, op.ins[3], op.outs[1])
        yield from in_place(op, op.ins[3], op.out)


W, BIAS = 1, 2
PAST = 3


def _causal_shapes(op: Op) -> Iterator[Shape]:
    x, w = op.shape(op.ins[0]), op.shape(op.ins[W])
    yield x
    if len(x) == 3 and isinstance(w[2], int) and not op.attr("state_window", 0):
        yield (*x[:2], op.attr("dilation", 1) * (w[2] - 1))


def _causal_zero(op: Op) -> Terms:
    """A filter that is zero makes a channel zero; the state that is returned is the input's end."""
    state_is_read = len(op.outs) > 1 and op.outs[1] in op.graph.consumers
    return ((W,), (BIAS,), *(((0,), (PAST,)) if state_is_read else ()))


@rule_for(RULES, "CausalConvWithState", zero=_causal_zero)
@rule_for(RULES, "CausalConvWithState", domain=MICROSOFT, zero=_causal_zero, shapes=_causal_shapes)
def causal_conv(op: Op) -> Iterator[Fact]:
    """Each channel has a filter and a state of its own: (batch, channels, length)."""
    x, y = op.ins[0], op.out
    if op.attr("channels_last", 0) or op.attr("state_window", 0) or op.rank(x) != 3:
        for name in (x, y):
            yield Pin((name, 1), f"{op.label} does not have (batch, channels, length) for its axes")
        return
    yield same(x, 0, y, 0)
    yield same(x, 1, y, 1)
    yield same(op.ins[W], 0, y, 1)
    if op.has(BIAS):
        yield same(op.ins[BIAS], 0, y, 1)
    states = [op.ins[PAST]] if op.has(PAST) else []
    for state in states + [s for s in op.outs[1:] if s in op.graph.shapes]:
        yield same(state, 0, y, 0)
        yield same(state, 1, y, 1)
    yield Macs(((y, 0), (y, 2), (op.ins[W], 0), (op.ins[W], 2)))
