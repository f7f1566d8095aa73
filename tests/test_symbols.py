"""Products of sizes: what is said of them holds for every value that the names may take."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.algebra.symbols import Dim, Product, atom, over, settled, split, times

NAMES = ("batch", "s", "N", "?y.0", "unk__3", "x1", "a b", "-1")
SIZES = st.integers(1, 12)
products = st.builds(
    lambda factor, names: Product(factor, tuple(sorted(names))).dim, SIZES, st.lists(st.sampled_from(NAMES), max_size=4)
)
values = st.fixed_dictionaries(dict.fromkeys(NAMES, SIZES))
Values = dict[str, int]


def value(dim: Dim, names: Values) -> int:
    """What a size is once its names are known."""
    factor, found = split(dim)
    return factor * math.prod(names[name] for name in found)


@given(products)
def test_a_product_is_told_by_its_parts(dim: Dim) -> None:
    assert split(dim).dim == dim


@given(products, products, values)
def test_times_is_the_product_whatever_the_names_turn_out_to_be(a: Dim, b: Dim, names: Values) -> None:
    assert value(times(a, b), names) == value(a, names) * value(b, names)


@given(products, products, products)
def test_the_order_of_factors_does_not_matter(a: Dim, b: Dim, c: Dim) -> None:
    assert times(a, b) == times(b, a)
    assert times(times(a, b), c) == times(a, times(b, c))


@given(products, products)
def test_what_was_multiplied_is_divided_again(a: Dim, b: Dim) -> None:
    assert over(times(a, b), b) == a


@given(products, products, values)
def test_a_quotient_leaves_no_remainder(a: Dim, b: Dim, names: Values) -> None:
    quotient = over(a, b)
    if quotient is not None:
        assert times(quotient, b) == a
        assert value(quotient, names) * value(b, names) == value(a, names)


@given(products, products, st.lists(values, min_size=30, max_size=30))
def test_there_is_no_quotient_only_where_some_values_leave_a_remainder(a: Dim, b: Dim, tried: list[Values]) -> None:
    """Primes that divide nothing else tell a name that is missing; no more than a few values are needed."""
    if over(a, b) is not None:
        return
    primes = dict(zip(NAMES, (101, 103, 107, 109, 113, 127, 131, 137), strict=True))
    ones = dict.fromkeys(NAMES, 1)
    assert any(value(a, names) % value(b, names) for names in (primes, ones, *tried))


@given(st.integers(0, 5), products)
def test_nothing_is_divided_by_nothing(factor: int, dim: Dim) -> None:
    assert over(dim, 0) is None
    assert times(0, dim) == 0
    assert over(0, factor) == (0 if factor else None)


@given(st.text("0123456789*ab·?²٣", min_size=1), SIZES, values)
def test_a_declared_name_is_never_taken_for_a_product(name: str, factor: int, names: Values) -> None:
    alone = atom(name)
    assert split(alone) == Product(1, (alone,))
    assert split(times(factor, alone)) == Product(factor, (alone,))
    assert over(times(factor, alone), alone) == factor


@pytest.mark.parametrize(
    ("name", "proves"),
    [("batch", True), ("a b", True), ("x12", True), ("2*n", False), ("a*b", False), ("12", False), ("*", False)],
)
def test_only_a_name_that_could_be_nothing_else_proves_anything(name: str, proves: bool) -> None:
    assert settled(atom(name)) is proves
    assert settled(times(3, atom(name))) is proves


@pytest.mark.parametrize(
    ("dim", "known"),
    [
        (7, True),
        ("n", True),
        ("3*n", True),
        ("?y.0", False),
        ("2*?y.0", False),
        ("n*unk__3", False),
        ("unk__3*n", False),
    ],
)
def test_names_that_inference_made_up_settle_nothing(dim: Dim, known: bool) -> None:
    assert settled(dim) is known


EXAMPLES: list[tuple[Dim, Dim, Dim | None]] = [
    ("12*n", 4, "3*n"),
    ("12*n", "n", 12),
    ("12*n", "4*n", 3),
    ("12*n", 12, "n"),
    ("m*n*n", "n", "m*n"),
    ("n", "n", 1),
    (24, 6, 4),
    ("12*n", 5, None),
    ("12*n", "m", None),
    ("12*n", "24*n", None),
    ("n", "n*n", None),
    (24, "n", None),
]


@pytest.mark.parametrize(("a", "b", "quotient"), EXAMPLES)
def test_quotients(a: Dim, b: Dim, quotient: Dim | None) -> None:
    assert over(a, b) == quotient
