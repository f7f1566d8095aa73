"""Budgets of time: met as the clock says, not as the table does, and refused with a reason where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.algebra.closure import Mask
from onnxprune.budget import clock as module
from onnxprune.budget.clock import CONFIRMED, SLACK, TRIES, Clock
from onnxprune.errors import PruneError, UsageError
from onnxprune.latency.table import Part
from onnxprune.latency.timing import Limits, Timing, summarise
from onnxprune.metrics.evidence import Bench
from onnxprune.verification import proof
from tests.material import snapshot, weights
from tests.studied import placed, redundant
from tests.terminal import done, refused

pytestmark = pytest.mark.usefixtures("instant")
UNITS = 100


class Table:
    """A table that thinks time falls with the square of what is left, in equal parts by group."""

    dense = 2.0

    def __init__(self, analysis: Any, feed: Any, provider: str = "cpu", **others: Any) -> None:
        self.analysis = analysis

    def __call__(self, removed: Mask) -> float:
        """Milliseconds."""
        return float(self.dense * np.square(1 - removed.mean()))

    def where(self) -> list[Part]:
        """Three quarters in one place."""
        return [Part("Conv 'a'", 1.5, 0.75), Part("Gemm 'b'", 0.5, 0.25)]

    def steps(self, group: int) -> list[int]:
        """Multiples of three."""
        units = len(self.analysis.members(group))
        return [*range(3, units, 3), units]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], list[float]]:
    """A machine on which a model takes what a function makes of the fraction of its bytes that is left."""

    def installed(time: Callable[[float], float]) -> list[float]:
        asked: list[float] = []

        def against_dense(bench: Bench, cut: Path, limits: Limits) -> list[Timing]:
            before, after = (sum(array.size for array in weights(file).values()) for file in (bench.file, cut))
            asked.append(after / before)
            return summarise([[[1.0]], [[time(after / before)]]])

        monkeypatch.setattr(module, "against_dense", against_dense)
        monkeypatch.setattr(module, "LatencyModel", Table)
        return asked

    return installed


def spending(share: float) -> Mask:
    """What the table says must go for a share of the time, of a hundred units."""
    if share < 0.01:
        raise PruneError("out of reach.")
    removed = np.zeros(UNITS, dtype=bool)
    removed[: round(UNITS * (1 - share))] = True
    return removed


def clock(time: Callable[[float], float]) -> tuple[Clock, list[float]]:
    """A clock without a model: what a mask takes is a function of the fraction that is left."""
    made, asked = Clock.__new__(Clock), []
    made.progress, made._bias, made._shares, made.table = (lambda stage: None), 1.0, {}, Table(None, None)  # type: ignore[assignment]

    def measured(removed: Mask) -> float:
        asked.append(float(1 - removed.mean()))
        return time(asked[-1])

    made._measured = measured  # type: ignore[method-assign]
    return made, asked


@pytest.mark.parametrize(
    "time", [lambda left: left, lambda left: 0.2 + 0.8 * left, lambda left: left**2, lambda left: left**0.5]
)
def test_a_budget_is_met_whatever_the_table_thinks(time: Callable[[float], float]) -> None:
    """And hardly more than that: no more goes than has to, to within the slack and a unit."""
    made, asked = clock(time)
    left = 1 - made.met(spending, 0.6).mean()
    assert 0.6 * (1 - SLACK) - 0.02 <= time(float(left)) <= 0.6
    assert len(asked) <= TRIES


def test_what_one_search_has_learnt_serves_the_next() -> None:
    made, asked = clock(lambda left: 0.2 + 0.8 * left)
    made.met(spending, 0.6)
    first = len(asked)
    made.met(spending, 0.6)
    assert len(asked) - first <= 1
    assert first > 1


def test_the_same_choice_is_timed_once() -> None:
    made, asked = clock(lambda left: 0.99)
    with pytest.raises(PruneError):
        made.met(lambda share: spending(0.5), 0.6)
    assert asked == [0.5]


def test_a_budget_that_no_width_meets_is_refused_with_what_takes_the_time() -> None:
    made, _ = clock(lambda left: 0.9 + 0.1 * left)
    with pytest.raises(PruneError, match=r"Of the dense model's 2 ms most go to: Conv 'a' 75%, Gemm 'b' 25%\."):
        made.met(spending, 0.6)


def test_prune_meets_it_end_to_end(tmp_path: Path, machine: Any) -> None:
    machine(lambda left: 0.1 + 0.9 * left)
    model, data = placed(tmp_path, redundant())
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=data, speedup=1.5)
    assert result.fidelity
    before, after = result.fidelity.latency_ms
    assert 1 / 1.5 * 0.8 <= after / before <= 1 / 1.5
    assert {len(group["kept"]) % 3 for group in result.plan.groups} == {0}, "only widths that are quick here"
    assert result.plan.recipe["speedup"] == 1.5


def test_an_alignment_that_was_asked_for_wins_over_what_is_quick(tmp_path: Path, machine: Any) -> None:
    machine(lambda left: left)
    model, data = placed(tmp_path, redundant())
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=data, latency=0.75, align=4, recover="none")
    assert {len(group["kept"]) % 4 for group in result.plan.groups} == {0}


@pytest.mark.parametrize("schedule", ["scores", "one-shot", "iterative"])
def test_every_schedule_meets_it(schedule: str, tmp_path: Path, machine: Any) -> None:
    machine(lambda left: 0.1 + 0.9 * left)
    model, data = placed(tmp_path, redundant())
    result = onnxprune.prune(model, tmp_path / "out.onnx", data=data, latency=0.6, schedule=schedule, align=1)
    assert result.fidelity
    assert result.fidelity.latency_ms[1] <= 0.6 * result.fidelity.latency_ms[0]


def test_a_result_that_is_not_as_quick_is_not_written(tmp_path: Path, machine: Any) -> None:
    """Proposals were quick, the result is not: the machine has changed its mind."""
    model, data = placed(tmp_path, redundant())
    calls = machine(lambda left: left)
    onnxprune.prune(model, None, data=data, latency=0.6)
    last = len(calls)

    def slow_in_the_end(left: float) -> float:
        return left if len(again) < last else 1.1

    again = machine(slow_in_the_end)
    before = snapshot(tmp_path)
    words = ("prune", model, "-o", tmp_path / "slow.onnx", "--data", data, "--latency", "0.6")
    message = refused(1, *words)
    assert "The result takes 110.0% of the dense model's time, and not 60.0%. Of the dense model's" in message
    assert "--allow-slower" in message
    assert snapshot(tmp_path) == before
    again = machine(slow_in_the_end)
    assert "110.0%" in " ".join(done(*words, "--allow-slower").split())
    assert (tmp_path / "slow.onnx").exists()


def test_fewer_operations_that_take_longer_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def against_dense(bench: Bench, cut: Path, given: Limits) -> list[Timing]:
        limits.append(given)
        return summarise([[[1.0]], [[1.2]]])

    monkeypatch.setattr(proof, "against_dense", against_dense)
    model, data = placed(tmp_path, redundant())
    before = snapshot(tmp_path)
    words = ("prune", model, "-o", tmp_path / "slow.onnx", "--data", data, "--macs", "0.7")
    message = refused(1, *words)
    assert "takes 120% of the dense model's time on this machine" in message
    assert "Nothing was written; --allow-slower" in message
    assert snapshot(tmp_path) == before
    assert limits[1].seconds > limits[0].seconds, "it is measured for longer before it is refused"
    assert "120%" in done(*words, "--allow-slower")
    assert (tmp_path / "slow.onnx").exists()
    assert "120%" in done(*words, "--align", "1"), "widths that were asked for are written, and what they cost is said"


def test_the_margin_of_the_confirmation_is_small() -> None:
    assert CONFIRMED <= 0.05


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"latency": 0.5, "speedup": 2.0}, "one of latency and speedup"),
        ({"speedup": 0.9}, "speedup must be at least 1, not 0.9"),
        ({"speedup": float("nan")}, "speedup must be at least 1"),
        ({"latency": 1.5}, r"latency must lie in \[0, 1\]"),
        ({"latency": 0.5, "macs": 0.5}, "got macs, latency"),
    ],
)
def test_nonsense_is_refused_before_any_work(wishes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, _ = placed(tmp_path, redundant())
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match=message):
        onnxprune.prune(model, tmp_path / "out.onnx", **wishes)
    assert snapshot(tmp_path) == before
