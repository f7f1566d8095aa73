"""Fused attention: a head is one unit, in the projections around it, in its masks and in its caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxprune.algebra.facts import Batch, Count, Fact, Macs, Pin, Slot, same
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.integers import Axis
from onnxprune.algebra.registry import RuleTable, Terms, rule_for
from onnxprune.rules.heads import MICROSOFT, Heads, K, Q, V, axis_of_heads, quotient, whole
from onnxprune.rules.layout import pin_all

RULES: RuleTable = {}


def _read(op: Op, y: int) -> bool:
    """Whether another node reads this output."""
    return y < len(op.outs) and op.outs[y] in op.graph.consumers


def _silent(op: Op, values: tuple[int, ...], keys: tuple[int, ...]) -> Terms | None:
    """A head adds nothing where its values are zero; what is returned of its keys is zero where those are."""
    if _read(op, 3):
        return None  # scores or weights of attention: even zero keys are attended to
    slots = values + keys if _read(op, 1) or _read(op, 2) else values
    return tuple((slot,) for slot in slots)


def _products(op: Op, query: Axis, keys: Axis, values: Axis, inner: Sequence[Axis]) -> Iterator[Fact]:
    """Queries times keys, and the weights of attention times values."""
    for width in (query, values):
        yield Macs(((op.out, 0), *inner, keys, width))


# ---- ai.onnx -----------------------------------------------------------------------------------------------------

MASK, PAST_K, PAST_V = 3, 4, 5


@rule_for(RULES, "Attention", zero=lambda op: _silent(op, (V, PAST_V), (K, PAST_K)))
def attention(op: Op) -> Iterator[Fact]:
    """Q, K, V are (batch, heads, length, width), or (batch, length, heads·width) with the heads counted."""
    q, k, v, y = *op.ins[:3], op.out
    counts = [op.shape(x)[1] if op.rank(x) == 4 else op.attr(n) for x, n in ((q, "q_num_heads"), (k, "kv_num_heads"))]
    heads = Heads(op, (y, axis_of_heads(op, y)), *map(whole, counts))
    apart = op.rank(y) == 4
    yield from heads.stated(None if apart else "q_num_heads", None if apart else "kv_num_heads")
    yield from heads.along(q, axis_of_heads(op, q))
    for tensor in (k, v):
        yield from heads.of_keys(tensor, axis_of_heads(op, tensor))
    for tensor in _caches(op, PAST_K, PAST_V):
        yield from heads.of_keys(tensor, 1)
    if len(op.outs) > 3 and op.outs[3] in op.graph.shapes:
        yield from heads.along(op.outs[3], 1)
    yield from heads.over(MASK)
    lengths = [(x, 2 if apart else 1) for x in (q, k)]
    last = 3 if apart else 2
    yield from _products(op, (q, last), lengths[1], (y, last), [lengths[0], *([(q, 1)] if apart else [])])
    if apart:
        yield from (Batch((x, 1)) for x in (q, k, v))
        yield from _inside(op)


def _caches(op: Op, *slots: int) -> list[str]:
    """The caches that come in and those that go out."""
    past = [op.ins[slot] for slot in slots if op.has(slot)]
    return past + [y for y in op.outs[1:3] if y in op.graph.shapes]


def _inside(op: Op) -> Iterator[Fact]:
    """Within the heads: values are passed on index by index; queries meet keys in a sum, whose scale may count it."""
    q, k, v, y = *op.ins[:3], op.out
    yield same(v, 3, y, 3)
    for slot, number, x in ((PAST_K, 1, k), (PAST_V, 2, v)):
        if op.has(slot):
            yield same(op.ins[slot], 3, x, 3)
        if len(op.outs) > number and op.outs[number] in op.graph.shapes:
            yield same(op.outs[number], 3, x, 3)
    if op.attr("scale"):
        yield from (same(q, 3, keys, 3, sums=True) for keys in (k, *op.ins[PAST_K : PAST_K + 1]) if keys)
    else:
        yield Pin((q, 3), f"{op.label} scales by the square root of its size")
        yield Pin((k, 3), f"{op.label} scales by the square root of its size")


# ---- com.microsoft -----------------------------------------------------------------------------------------------

X, W, B, PAST, PACKED_BIAS = 0, 1, 2, 4, 5


def _parts(op: Op) -> list[int]:
    """How the output of the packed projection is shared between queries, keys and values."""
    given = op.attr("qkv_hidden_sizes")
    return list(given) if given else [quotient(op.shape(op.ins[W])[1], 3)] * 3


def _grown(op: Op, past: int, number: int, shape: Shape, axis: int) -> Shape:
    """The shape of a cache that is returned: as long as what comes in, and what came before."""
    if not op.has(past) or number >= len(op.outs):
        return shape
    return (*shape[:axis], f"?{op.outs[number]}.{axis}", *shape[axis + 1 :])


def _attention_shapes(op: Op) -> Iterator[Shape]:
    batch, length, _ = op.shape(op.ins[X])
    heads, (_, keys, values) = op.attr("num_heads"), _parts(op)
    yield batch, length, values
    yield _grown(op, PAST, 1, (2, batch, heads, length, quotient(keys, heads)), 3)


@rule_for(RULES, "Attention", domain=MICROSOFT, zero=lambda op: ((W,), (B,), (PAST,)), shapes=_attention_shapes)
def packed_attention(op: Op) -> Iterator[Fact]:
    """One weight projects to queries, keys and values, in each of which the heads lie in a row."""
    x, w, y, sizes = op.ins[X], op.ins[W], op.out, _parts(op)
    count = op.attr("num_heads")
    heads, blocks = Heads(op, (y, 2), count, count), [(count, size) for size in sizes]
    yield same(x, 2, w, 0, sums=True)
    yield from heads.stated("num_heads")
    yield from heads.along(w, 1, blocks)
    if op.has(B):
        yield from heads.along(op.ins[B], 0, blocks)
    past = [op.ins[PAST]] if op.has(PAST) else []
    for cache in past + [z for z in op.outs[1:2] if z in op.graph.shapes]:
        yield from heads.along(cache, 2)
    yield from heads.over(PACKED_BIAS)
    start = 0
    for element, size in enumerate(sizes if op.attr("qkv_hidden_sizes") else []):
        yield Count(Slot("qkv_hidden_sizes"), element, (w, 1), start, start + size)
        start += size
    yield Macs(((x, 0), (x, 1), (w, 0), (w, 1)))
    yield from _products(op, (y, 2), (x, 1), (y, 2), [(x, 1)])


SLOTS = {"MultiHeadAttention": (3, 5, (6, 7)), "DecoderMaskedMultiHeadAttention": (10, 4, (5, 6))}
"""Where the bias, what is added to the scores, and the caches come in."""


def _widths(op: Op) -> tuple[int, int]:
    """The widths of a query head and of a value head."""
    heads = op.attr("num_heads")
    apart = [op.rank(op.ins[slot]) > 3 if op.has(slot) else None for slot in (Q, K, V)]
    slot = V if op.has(V) else K if op.has(K) else Q
    if not op.has(V) and not apart[slot]:
        raise ValueError("queries, keys and values in one row")
    ends = [op.shape(op.ins[s])[-1] for s in (Q, slot)]
    query, value = (whole(d) if apart[s] else quotient(d, heads) for s, d in zip((Q, slot), ends, strict=True))
    return query, value


def _multi_head_shapes(op: Op) -> Iterator[Shape]:
    heads, (query, value), past = op.attr("num_heads"), _widths(op), SLOTS[op.kind][2]
    batch, length = op.shape(op.ins[Q])[:2]
    yield batch, length, heads * value
    source = op.ins[K] if op.has(K) else op.ins[Q]
    keys = op.shape(source)[2 if op.rank(source) == 4 else 1]
    yield _grown(op, past[0], 1, (batch, heads, keys, query), 2)
    yield _grown(op, past[1], 2, (batch, heads, keys, value), 2)
    yield batch, heads, length, f"?{op.out}.keys"


def _multi_head_zero(op: Op) -> Terms | None:
    bias, _, past = SLOTS[op.kind]
    values, keys = V if op.has(V) else K if op.has(K) else Q, K if op.has(K) else Q
    return _silent(op, (values, bias, past[1]), (keys, past[0]))


@rule_for(RULES, *SLOTS, domain=MICROSOFT, zero=_multi_head_zero, shapes=_multi_head_shapes)
def multi_head_attention(op: Op) -> Iterator[Fact]:
    """Queries, keys and values come projected, each with its heads in a row or apart, or packed head by head."""
    count, (query, value), (bias, added, past) = op.attr("num_heads"), _widths(op), SLOTS[op.kind]
    y = op.out
    heads = Heads(op, (y, 2), count, count)
    yield from heads.stated("num_heads")
    for slot in (Q, K, V):
        if op.has(slot):
            axis = axis_of_heads(op, op.ins[slot])
            yield from heads.along(op.ins[slot], axis)
    if op.has(bias):
        yield from heads.along(op.ins[bias], 0, [(count, count * width) for width in (query, query, value)])
    for cache in _caches(op, *past):
        yield from heads.along(cache, 1)
    if len(op.outs) > 3 and op.outs[3] in op.graph.shapes:
        yield from heads.along(op.outs[3], 1)
    yield from heads.over(added)
    source = op.ins[K] if op.has(K) else op.ins[Q]
    keys = (source, 2 if op.rank(source) == 4 else 1)
    yield from _products(op, (y, 2), keys, (y, 2), [(op.ins[Q], 1)])


GROUPED_PAST_K, GROUPED_PAST_V, GROUPED_BIAS, SINK, K_SCALE, V_SCALE = 3, 4, 10, 11, 12, 13


def _grouped_width(op: Op) -> int:
    queries, keys = op.attr("num_heads"), op.attr("kv_num_heads")
    return quotient(op.shape(op.ins[Q])[2], queries if op.has(K) else queries + 2 * keys)


def _grouped_shapes(op: Op) -> Iterator[Shape]:
    batch, length, _ = op.shape(op.ins[Q])
    width = _grouped_width(op)
    yield batch, length, op.attr("num_heads") * width
    for number, past in ((1, GROUPED_PAST_K), (2, GROUPED_PAST_V)):
        yield _grown(op, past, number, (batch, op.attr("kv_num_heads"), length, width), 2)
    yield batch, op.attr("num_heads"), length, f"?{op.out}.keys"


def _grouped_zero(op: Op) -> Terms | None:
    values, keys = (V, K) if op.has(K) else (Q, Q)
    if not op.has(K) and op.attr("kv_num_heads") == 1:
        return None  # the one key head stays, so the values of a query head that goes are not zero
    return _silent(op, (values, GROUPED_PAST_V), (keys, GROUPED_PAST_K))


@rule_for(RULES, "GroupQueryAttention", domain=MICROSOFT, zero=_grouped_zero, shapes=_grouped_shapes)
def group_query_attention(op: Op) -> Iterator[Fact]:
    """Several query heads share a key head; queries may come packed with the keys and values behind them."""
    if op.has(K_SCALE) or op.has(V_SCALE):
        yield from pin_all(op, f"{op.label} keeps its cache in codes")
        return
    queries, keys, width = op.attr("num_heads"), op.attr("kv_num_heads"), _grouped_width(op)
    heads = Heads(op, (op.out, 2), queries, keys)
    yield from heads.stated("num_heads", "kv_num_heads")
    if op.has(K):
        yield from heads.along(op.ins[Q], 2)
        yield from heads.of_keys(op.ins[K], 2)
        yield from heads.of_keys(op.ins[V], 2)
    else:
        yield from heads.along(op.ins[Q], 2, [(n, n * width) for n in (queries, keys, keys)])
    for cache in _caches(op, GROUPED_PAST_K, GROUPED_PAST_V):
        yield from heads.of_keys(cache, 1)
    if op.has(SINK):
        yield from heads.along(op.ins[SINK], 0)
    if len(op.outs) > 3 and op.outs[3] in op.graph.shapes:
        yield from heads.along(op.outs[3], 1)
    yield from heads.over(GROUPED_BIAS)
    source = op.ins[K] if op.has(K) else op.ins[Q]
    yield from _products(op, (op.out, 2), (source, 1), (op.out, 2), [(op.ins[Q], 1)])
