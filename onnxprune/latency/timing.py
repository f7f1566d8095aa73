"""Timing in turns: every contender runs in every round, in an order drawn anew, so that all share the machine's moods.

Other processes only ever add time, in bursts. A turn is therefore worth its quickest run (Chen and Revels, 2016), and
two contenders are compared round by round: the median of the ratios of their turns, which are of as many runs each,
moves only if half of the rounds were disturbed for one of them and not for the other. Its interval needs no model of
the noise: the median lies between two order statistics as often as a coin falls on one side (Conover, 1999). A
contender against itself gives 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]  # seconds, of every round, contender and run of a turn
Contender = Callable[[], object]

TURN = 0.01  # seconds that a turn of the slowest contender takes, at least
MOST_RUNS = 1000  # of a turn
LEAST = 24  # rounds before a comparison can be called sure
PRECISION = 0.01  # a comparison is sure when its interval reaches no further than this to either side
CONFIDENCE = 1.96  # standard deviations: 95 %


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        seconds: the most that timing may take; it ends earlier once every comparison is sure.
        rounds: how many rounds to time, whatever it takes and however sure they are.
        warmup: untimed runs of each contender before.
    """

    seconds: float = 10.0
    rounds: int | None = None
    warmup: int = 3


@dataclass(frozen=True)
class Timing:
    """How long one contender takes.

    Attributes:
        median: milliseconds of one run.
        quartiles: what a quarter of the runs stays below, and what a quarter exceeds.
        quickest: the quickest run.
        runs: how many were timed.
        ratio: how much of the first contender's time it takes.
        interval: where the ratio lies with 95 % confidence.
    """

    median: float
    quartiles: tuple[float, float]
    quickest: float
    runs: int
    ratio: float
    interval: tuple[float, float]


def interleave(contenders: Sequence[Contender], limits: Limits, seed: int) -> list[Timing]:
    """Time contenders in turns.

    Args:
        contenders: what is to be run; each of them once is one run.
        limits: when to stop.
        seed: of the order of each round.
    """
    runs = min(_runs_of_a_turn(contender, limits.warmup) for contender in contenders)
    times: list[list[list[float]]] = [[] for _ in contenders]
    rng = np.random.default_rng(seed)
    end = time.perf_counter() + limits.seconds
    while not _enough(times, limits, end):
        for number in rng.permutation(len(contenders)):
            times[number].append(_turn(contenders[number], runs))
    return summarise(times)


def _runs_of_a_turn(contender: Contender, warmup: int) -> int:
    quickest = min(_turn(contender, warmup + 1))
    return int(np.clip(TURN / max(quickest, 1e-9), 1, MOST_RUNS))


def _turn(contender: Contender, runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        contender()
        taken.append(time.perf_counter() - start)
    return taken


def _enough(times: Sequence[Sequence[Sequence[float]]], limits: Limits, end: float) -> bool:
    rounds = len(times[0])
    if limits.rounds is not None:
        return rounds >= limits.rounds
    if rounds and time.perf_counter() >= end:
        return True
    sure = rounds >= LEAST and rounds % 8 == 0 and len(times) > 1
    return sure and all(high / low <= (1 + PRECISION) ** 2 for _, (low, high) in _against_first(times))


def summarise(times: Sequence[Sequence[Sequence[float]]]) -> list[Timing]:
    """What the times of the runs say, by contender, round and run in seconds."""
    found = []
    for rounds, (ratio, interval) in zip(times, _against_first(times), strict=True):
        runs = 1e3 * np.concatenate([np.asarray(turn) for turn in rounds])
        low, median, high = np.quantile(runs, (0.25, 0.5, 0.75)).tolist()
        found.append(Timing(median, (low, high), float(runs.min()), runs.size, ratio, interval))
    return found


def _against_first(times: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, tuple[float, float]]]:
    """The median ratio of each contender's turns to the first one's, and where it lies with 95 % confidence."""
    turns = np.log(np.array([[min(turn) for turn in rounds] for rounds in times]))
    ratios = np.sort(np.exp(turns - turns[0]), axis=1)
    rounds = ratios.shape[1]
    outer = max(0, math.floor((rounds - CONFIDENCE * math.sqrt(rounds)) / 2))
    return [(float(np.median(row)), (float(row[outer]), float(row[-1 - outer]))) for row in ratios]
