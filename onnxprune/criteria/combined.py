"""Several criteria as one, and how criteria are written: ``vote(l1,bn-scale,obs)``, ``threshold(2std)``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnxprune.criteria.base import CRITERIA, Criterion, Score, Scores, Subject, criterion
from onnxprune.errors import UsageError, unknown

DEEPEST = 20
PLAIN = ("l2", "bn-scale", "fpgm")
"""What is combined where nothing is named."""
WITH_DATA = ("wifv", "obs")
"""What is combined as well where there is data."""


def parse(text: str, table: Mapping[str, Criterion]) -> Score:
    """The score that a name, or a combination of names, stands for.

    Raises:
        UsageError: a criterion has no such name, or what is in parentheses makes no sense to it.
    """
    found = re.fullmatch(r"\s*([^\s(),]+)\s*(?:\((.*)\)\s*)?", text, re.DOTALL)
    if not found or text.count("(") > DEEPEST:
        raise _unreadable(text)
    name, inner = found[1], found[2]
    if name not in table:
        raise unknown("criterion", name, table)
    entry = table[name]
    if inner is None:
        return entry.score
    if entry.tune:
        return entry.tune(inner.strip())
    if entry.combine:
        return entry.combine([parse(piece, table) for piece in _pieces(inner, text)])
    raise UsageError(f"The criterion {name!r} takes nothing in parentheses, but {inner.strip()!r} was given.")


def _pieces(inner: str, text: str) -> Iterator[str]:
    """What stands between the commas that no parentheses enclose."""
    depth = start = 0
    for at, sign in enumerate(inner):
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            raise _unreadable(text)
        if sign == "," and depth == 0:
            yield inner[start:at]
            start = at + 1
    if depth:
        raise _unreadable(text)
    yield inner[start:]


def _unreadable(text: str) -> UsageError:
    short = text if len(text) < 80 else f"{text[:76]}..."
    return UsageError(f"The criterion {short!r} is not a name, or a name with a list in parentheses: vote(l1,obs).")


def ranks(scores: Scores) -> Scores:
    """The place of every score, 0 for the lowest; equal scores share the mean of their places."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[inverse])


def votes(table: Scores, ratio: float) -> Scores:
    """How many criteria do not mark a unit as one of the lowest; units of as many marks by their mean rank."""
    members, size = table.shape
    count = round(ratio * size)
    marks = np.zeros(size)
    for scores in table:
        marks[np.argsort(scores, kind="stable")[:count]] += 1
    return np.asarray(members - marks + np.mean([ranks(scores) for scores in table], axis=0) / size)


def _of(reduce: Callable[[Scores, Subject], Scores]) -> Callable[[Sequence[Score]], Score]:
    """A combiner, from a function of the scores (criteria, units)."""

    def combine(members: Sequence[Score]) -> Score:
        def score(subject: Subject) -> Scores:
            table = np.array([member(subject) for member in members])
            return reduce(table, subject) if np.isfinite(table).all() else np.full(subject.size, np.nan)

        return score

    return combine


def _normalised(table: Scores) -> Scores:
    """Ranks in [0, 1], criterion by criterion."""
    return np.asarray([ranks(scores) / max(1, table.shape[1] - 1) for scores in table])


VOTE = _of(lambda table, subject: votes(table, subject.ratio))
AVERAGE = _of(lambda table, subject: np.asarray(_normalised(table).mean(axis=0)))
LEAST = _of(lambda table, subject: np.asarray(_normalised(table).min(axis=0)))
MOST = _of(lambda table, subject: np.asarray(_normalised(table).max(axis=0)))


def _usual(subject: Subject) -> list[Score]:
    return [CRITERIA[name].score for name in (PLAIN if subject.read is None else PLAIN + WITH_DATA)]


@criterion(
    "vote",
    "each of vote(a,b,…) marks its lowest units; score: who does not mark it, then mean rank",
    "nothing",
    "Ho, Hull & Srihari, Decision Combination, 1994",
    combine=VOTE,
)
def vote(subject: Subject) -> Scores:
    """Majority of several criteria; of l2, bn-scale, fpgm, and with data wifv and obs, where none is named."""
    return VOTE(_usual(subject))(subject)


@criterion(
    "average",
    "mean over average(a,b,…) of rank/(C - 1)",
    "nothing",
    "Borda, Mémoire sur les élections, 1784; Dwork et al., Rank Aggregation, 2001",
    combine=AVERAGE,
)
def average(subject: Subject) -> Scores:
    """Mean rank by several criteria; of l2, bn-scale, fpgm, and with data wifv and obs, where none is named."""
    return AVERAGE(_usual(subject))(subject)


@criterion(
    "min",
    "min over min(a,b,…) of rank/(C - 1)",
    "nothing",
    "Ho, Hull & Srihari, Decision Combination, 1994",
    combine=LEAST,
)
def least(subject: Subject) -> Scores:
    """A unit goes if any criterion says so; of those that `vote` takes where none is named."""
    return LEAST(_usual(subject))(subject)


@criterion(
    "max",
    "max over max(a,b,…) of rank/(C - 1)",
    "nothing",
    "Ho, Hull & Srihari, Decision Combination, 1994",
    combine=MOST,
)
def most(subject: Subject) -> Scores:
    """A unit goes if all criteria say so; of those that `vote` takes where none is named."""
    return MOST(_usual(subject))(subject)


def per_price(members: Sequence[Score]) -> Score:
    """A score per parameter, or MAC, that removing the unit saves.

    Raises:
        UsageError: it is not one criterion.
    """
    if len(members) != 1:
        raise UsageError(f"complexity takes one criterion, as in complexity(obs), not {len(members)}.")

    def score(subject: Subject) -> Scores:
        found = members[0](subject)
        if subject.price is None:
            subject.note("what a unit saves is not known here: complexity scores by the loss alone")
            return found
        price = subject.price()
        return found / np.maximum(price, 1e-9 * price.max(initial=0.0) or 1.0)  # what saves nothing goes last

    return score


@criterion(
    "complexity",
    "score of complexity(a) / what removing the unit saves; a: obs, or l2 without data",
    "nothing",
    "Molchanov et al., Resource Efficient Inference (FLOPs), 2017",
    combine=per_price,
)
def complexity(subject: Subject) -> Scores:
    """Loss caused per cost saved."""
    return per_price([CRITERIA["l2" if subject.read is None else "obs"].score])(subject)
