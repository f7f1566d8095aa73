"""Matrix products."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.facts import Batch, Fact, Macs, same
from onnxprune.algebra.graph import Op
from onnxprune.algebra.registry import RuleTable, rule_for
from onnxprune.rules import matrices
from onnxprune.rules.layout import broadcast

RULES: RuleTable = {}

A, B, C = 0, 1, 2


@rule_for(RULES, "Gemm", zero=((A, B), (C,)), linear=matrices.gemm)
def gemm(op: Op) -> Iterator[Fact]:
    """A product, and what is added to it: C is stretched to (M, N)."""
    yield from transposed_product(op, op.ins[A], op.ins[B])
    if op.has(C):
        yield from broadcast(op, op.ins[C], op.out)


def transposed_product(op: Op, a: str, b: str) -> Iterator[Fact]:
    """A (M, K) · B (K, N), either transposed at will."""
    y = op.out
    m, ka = (1, 0) if op.attr("transA", 0) else (0, 1)
    kb, n = (1, 0) if op.attr("transB", 0) else (0, 1)
    yield same(a, m, y, 0)
    yield same(b, n, y, 1)
    yield same(a, ka, b, kb, sums=True)
    yield Macs(((y, 0), (y, 1), (b, kb)))


@rule_for(RULES, "MatMul", zero=((A, B),), linear=matrices.product)
def matmul(op: Op) -> Iterator[Fact]:
    """A and B."""
    yield from multiplied(op, op.ins[A], op.ins[B])


def multiplied(op: Op, a: str, b: str) -> Iterator[Fact]:
    """A (…, M, K) · B (…, K, N), leading axes broadcast; a 1-D operand is a row or a column."""
    y = op.out
    ra, rb, ry = op.rank(a), op.rank(b), op.rank(y)
    rows, columns = int(ra > 1), int(rb > 1)
    yield same(a, ra - 1, b, max(rb - 2, 0), sums=True)
    yield Macs((*((y, i) for i in range(ry)), (a, ra - 1)))
    if rows:
        yield same(a, ra - 2, y, ry - 1 - columns)
    if columns:
        yield same(b, rb - 1, y, ry - 1)
    both_move = not (op.graph.is_constant(a) or op.graph.is_constant(b))
    for x, rank in ((a, ra), (b, rb)):
        shift = ry - rows - columns - (rank - 2)
        for axis in range(rank - 2):
            if op.shape(x)[axis] != 1:
                yield same(x, axis, y, axis + shift)
                if both_move:
                    yield Batch((x, axis))
