"""Timing in turns: what is estimated from times, and that a burst of other work does not move it."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.latency import timing
from onnxprune.latency.timing import Limits, interleave, summarise


def rounds(rng: np.random.Generator, quick: float, count: int = 60, runs: int = 5) -> list[list[float]]:
    """Turns of a contender whose runs others make up to six times as slow, a third of the time."""
    busy = np.where(rng.random((count, runs)) < 1 / 3, rng.uniform(1, 6, (count, runs)), 1.0)
    return [list(turn) for turn in quick * busy * rng.uniform(1, 1.02, (count, runs))]


@given(st.integers(0, 1000), st.floats(0.2, 5.0))
def test_the_ratio_is_that_of_the_quiet_runs(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = summarise([rounds(rng, 0.003), rounds(rng, 0.003 * factor)])
    assert (first.ratio, first.interval) == (1.0, (1.0, 1.0))
    assert second.ratio == pytest.approx(factor, rel=5e-3)
    assert second.interval[0] <= second.ratio <= second.interval[1]


@given(st.integers(0, 1000), st.integers(1, 40))
def test_swapping_two_contenders_inverts_the_ratio(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rounds(rng, 0.002, 2 * count - 1), rounds(rng, 0.003, 2 * count - 1)
    there, back = summarise([a, b])[1], summarise([b, a])[1]
    assert there.ratio == pytest.approx(1 / back.ratio, rel=1e-12)
    assert there.interval == pytest.approx((1 / back.interval[1], 1 / back.interval[0]), rel=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of pure noise around 1.1, not in more and not in much fewer than 95 of 100."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        noise = np.exp(rng.standard_normal((2, 40, 1)) / 10)
        low, high = summarise([noise[0].tolist(), (1.1 * noise[1]).tolist()])[1].interval
        held += low <= 1.1 <= high
    assert 930 <= held <= 985


def test_medians_and_quartiles_are_of_all_runs_in_milliseconds() -> None:
    (found,) = summarise([[[0.001, 0.002], [0.003, 0.004], [0.005]]])
    assert (found.median, found.quartiles, found.quickest, found.runs) == (3.0, (2.0, 4.0), 1.0, 5)


class Clock:
    """Time that passes only when a contender runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.log: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def contender(self, name: str, *seconds: float) -> timing.Contender:
        """One that takes these seconds in turn."""
        takes = itertools.cycle(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += next(takes)

        return run


def test_every_contender_runs_in_every_round_and_none_is_always_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    interleave([clock.contender("a", 1.0), clock.contender("b", 1.0)], Limits(rounds=30, warmup=0), seed=0)
    assert clock.log[:2] == ["a", "b"]  # to learn how long they take
    pairs = [tuple(clock.log[at : at + 2]) for at in range(2, len(clock.log), 2)]
    assert len(pairs) == 30
    assert set(pairs) == {("a", "b"), ("b", "a")}


def test_all_run_as_often_in_a_turn_as_fills_that_of_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    contenders = [clock.contender("slow", timing.TURN / 7.5), clock.contender("quick", timing.TURN / 75)]
    slow, quick = interleave(contenders, Limits(rounds=3), seed=0)
    assert (slow.runs, quick.runs) == (21, 21)


def test_it_ends_when_every_ratio_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sure = interleave([clock.contender("a", 0.5), clock.contender("b", 0.5)], Limits(seconds=1e3), seed=0)
    unsure = interleave([clock.contender("a", 0.5), clock.contender("b", 0.2, 0.9)], Limits(seconds=1e3), seed=0)
    assert sure[0].runs == timing.LEAST
    assert unsure[0].runs > 900


def test_it_ends_when_time_is_up_but_not_before_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = interleave([clock.contender("a", 0.5), clock.contender("b", 0.6)], Limits(seconds=0.1), seed=0)
    assert [each.runs for each in found] == [1, 1]
    assert found[1].ratio == pytest.approx(1.2)
