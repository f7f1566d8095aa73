"""Results on disk: one JSON document that runs are merged into, by bed, budget, row and seed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.beds.bed import Budget, Metrics

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Run:
    """One model that a row wrote, and what it measured; or why there is none.

    Attributes:
        bed, budget, row, seed: what was run.
        metrics: what the written model measures.
        kept: fractions of the dense model's parameters, MACs and bytes that it has.
        seconds: that the row took.
        failed: why there is no model; empty if there is one.
    """

    bed: str
    budget: str
    row: str
    seed: int
    metrics: Metrics = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failed: str = ""

    @property
    def key(self) -> Key:
        """What it is merged by."""
        return self.bed, self.budget, self.row, self.seed


@dataclass
class Results:
    """All that was measured.

    Attributes:
        beds: for each bed its dense metrics, its number of test items, and its budgets with their goals.
        runs: by key.
    """

    beds: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[Key, Run] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """What was measured before, if anything."""
        if not path.exists():
            return cls()
        document = json.loads(path.read_text(encoding="utf-8"))
        runs = [Run(**entry) for entry in document["runs"]]
        return cls(document["beds"], {run.key: run for run in runs})

    def write(self, path: Path) -> None:
        """Replace the document in one step."""
        runs = [asdict(self.runs[key]) for key in sorted(self.runs)]
        beds = {name: self.beds[name] for name in sorted(self.beds)}
        text = json.dumps({"beds": beds, "runs": runs}, indent=1, ensure_ascii=False) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.{os.getpid()}")
        half.write_text(text, encoding="utf-8")
        half.replace(path)

    def open(self, name: str, dense: Metrics, items: int, budgets: Sequence[Budget]) -> int:
        """Begin or go on with a bed; runs that cannot be compared with what comes are dropped, and counted.

        Runs stay if the bed has their budget still, and measures on as many items.
        """
        same = name not in self.beds or self.beds[name]["items"] == items
        names = {budget.name for budget in budgets}
        stale = [key for key in self.runs if key[0] == name and not (same and key[1] in names)]
        for key in stale:
            del self.runs[key]
        plain = {b.name: {"recipe": b.recipe, "goals": [asdict(goal) for goal in b.goals]} for b in budgets}
        self.beds[name] = {"dense": dense, "items": items, "budgets": plain}
        return len(stale)

    def add(self, run: Run) -> None:
        """Put a run in, in place of one with the same key."""
        self.runs[run.key] = run

    def of(self, bed: str, budget: str, row: str) -> list[Run]:
        """All seeds of a cell."""
        return [run for key, run in sorted(self.runs.items()) if key[:3] == (bed, budget, row)]
