"""The plan: a small, readable JSON document that says what to remove from which model; replayed, the same bytes.

``keep`` is what `apply` obeys; everything else is there for people, and to check that model and plan belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxprune import surgery
from onnxprune.allocation import Budget, allocate, auto_align
from onnxprune.analysis import Analysis, Model, Protection
from onnxprune.closure import Mask
from onnxprune.cost import Cost, CostModel
from onnxprune.criteria import Ranking, rank
from onnxprune.errors import RefusedError, UsageError
from onnxprune.record import Record

FORMAT = "onnxprune-plan"
VERSION = 1

Keep = dict[str, dict[int, list[int]]]


@dataclass(frozen=True)
class Recipe:
    """What the user asked for.

    Attributes:
        ratio, params, macs: the budget; exactly one is given (see `onnxprune.allocation.Budget`).
        criterion: the name of a criterion.
        align: kept widths are multiples of this; ``"auto"`` is 16 on CPUs with AVX-512, else 8.
        min_keep: the units that every group keeps at least.
        protect: names or globs of nodes and tensors that stay whole.
        protect_first, protect_last: whether the first, the last layers stay whole.
        seed: of everything random.
    """

    ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    criterion: str = "l2"
    align: int | str = "auto"
    min_keep: int = 1
    protect: tuple[str, ...] = ()
    protect_first: bool = False
    protect_last: bool = False
    seed: int = 0

    @property
    def protection(self) -> Protection:
        """What stays whole."""
        return Protection(tuple(self.protect), self.protect_first, self.protect_last)

    @property
    def budget(self) -> Budget:
        """How much goes.

        Raises:
            UsageError: a number is out of range, or not exactly one budget is given.
        """
        if self.align != "auto" and not isinstance(self.align, int):
            raise UsageError(f"align must be a whole number or 'auto', not {self.align!r}.")
        align = auto_align() if self.align == "auto" else int(self.align)
        return Budget(self.ratio, self.params, self.macs, align, self.min_keep)


@dataclass(frozen=True)
class Plan:
    """What to remove from one model.

    Attributes:
        source: the model's name, sha256 and bytes.
        recipe: what was asked for, as plain data.
        keep: for each constant tensor that is cut, the kept indices of each axis.
        groups: for each group its units, which are kept, and the weight axes it cuts.
        cost: before and after.
    """

    source: dict[str, Any]
    recipe: dict[str, Any]
    keep: Keep
    groups: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the plan removes nothing."""
        return not self.keep

    def dumps(self) -> str:
        """The plan as JSON text; the same plan is the same text."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        document["keep"] = {n: {str(a): k for a, k in axes.items()} for n, axes in self.keep.items()}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str, name: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            RefusedError: the text is not a plan of a version that we know.
        """
        try:
            document = json.loads(text)
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise RefusedError(f"{name!r} is not a plan of format {FORMAT!r}, version {VERSION}.")
            keep = {n: {int(a): _indices(k) for a, k in axes.items()} for n, axes in document["keep"].items()}
            parts = {key: document[key] for key in ("source", "recipe", "groups", "cost")}
            str(parts["source"]["sha256"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RefusedError(f"{name!r} is not a plan: {type(error).__name__}: {error}.") from error
        return cls(keep=keep, **parts)


def _indices(values: Any) -> list[int]:
    if not all(type(value) is int for value in values):
        raise TypeError("kept indices must be whole numbers")
    return list(values)


@dataclass(frozen=True)
class Decision:
    """A plan with the units that it removes."""

    plan: Plan
    removed: Mask


def decide(model: Model, recipe: Recipe, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Decision:
    """Score, allocate, and write down what goes.

    Raises:
        UsageError: the recipe is not valid.
        PruneError: its budget is out of reach.
    """
    budget = recipe.budget
    hashing = ThreadPoolExecutor(1).submit(source_of, model.record)  # hashing leaves the interpreter free
    analysis = model.analysis
    ranking = rank(analysis, recipe.criterion, recipe.seed)
    cost = CostModel(analysis, input_shapes)
    removed = allocate(analysis, ranking, budget, cost)
    written = {**asdict(recipe), "align": budget.align, "protect": list(recipe.protect)}
    plan = Plan(
        source=hashing.result(),
        recipe={**written, "input_shapes": {n: list(s) for n, s in (input_shapes or {}).items()}},
        keep=surgery.keeps(analysis, removed),
        groups=[_group(analysis, ranking, removed, g) for g in range(analysis.groups)],
        cost={"before": cost.dense.to_json(), "after": cost(removed).to_json()},
    )
    return Decision(plan, removed)


def source_of(record: Record) -> dict[str, Any]:
    """How a plan names its model."""
    name = record.path.name if record.path else ""
    return {"name": name, "sha256": record.sha256, "bytes": record.nbytes}


def _group(analysis: Analysis, ranking: Ranking, removed: Mask, group: int) -> dict[str, Any]:
    units = analysis.members(group)
    found: dict[str, Any] = {
        "id": group,
        "units": len(units),
        "kept": np.flatnonzero(~removed[units]).tolist(),
        "axes": [f"{name}:{axis}" for name, axis in analysis.weight_axes_of(group)],
    }
    if group in ranking.unscored:
        found["stays"] = ranking.unscored[group]
    return found


def removed_by(plan: Plan, analysis: Analysis) -> Mask:
    """The units that a plan removes from a model.

    Raises:
        RefusedError: the plan belongs to another model, or would take a part of a unit, or of what may not be cut.
    """
    record = analysis.graph.record
    planned, found = str(plan.source["sha256"]), record.sha256
    if planned != found:
        raise RefusedError(f"The plan was made for another model (sha256 {planned[:12]}…, not {found[:12]}…).")
    slices = dict(analysis.slices())
    removed = np.zeros(analysis.units, dtype=bool)
    for axis, kept in _entries(plan, analysis):
        gone = ~kept
        units = slices.get(axis, np.full(gone.size, -1))
        if (units[gone] < 0).any():
            at = int(np.flatnonzero(gone & (units < 0))[0])
            raise RefusedError(f"The plan removes index {at} of {axis[0]!r}, axis {axis[1]}, which must stay.")
        removed[units[gone]] = True
    for axis, units in slices.items():
        gone = (units >= 0) & removed[units]
        listed = plan.keep.get(axis[0], {}).get(axis[1])
        if gone.any() and (listed is None or gone[listed].any()):
            raise RefusedError(f"The plan keeps a part of a unit: {axis[0]!r}, axis {axis[1]}, must lose it too.")
    return removed


def _entries(plan: Plan, analysis: Analysis) -> list[tuple[tuple[str, int], Mask]]:
    entries = []
    for name, axes in plan.keep.items():
        if not analysis.graph.is_constant(name):
            raise RefusedError(f"The plan names {name!r}, which is no constant tensor of the model.")
        dims = analysis.graph.constant_tensor(name).dims
        for axis, kept in axes.items():
            if (
                not 0 <= axis < len(dims)
                or sorted(set(kept)) != kept
                or not kept
                or not 0 <= kept[0] <= kept[-1] < dims[axis]
            ):
                raise RefusedError(f"The plan's indices for {name!r}, axis {axis}, do not fit its shape {list(dims)}.")
            mask = np.zeros(dims[axis], dtype=bool)
            mask[kept] = True
            entries.append(((name, axis), mask))
    return entries


def cost_of(data: Mapping[str, int]) -> Cost:
    """A cost that a plan holds."""
    return Cost(**data)
