"""The plan: a small, readable JSON document that says what to remove from which model; replayed, the same bytes.

``keep`` is what `apply` obeys; everything else is there for people, and to check that model and plan belong together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.algebra.pins import Protection
from onnxprune.budget.allocation import allocate
from onnxprune.budget.ranking import rank
from onnxprune.errors import RefusedError, UsageError
from onnxprune.model.record import Record
from onnxprune.recovery.methods import METHODS
from onnxprune.surgery import removal
from onnxprune.wishes import Recipe

FORMAT = "onnxprune-plan"
VERSION = 1

RECORDED = ("recover", "schedule", "samples", "data", "labels", "metric", "eval", "allow-overlap", "provider")
"""What a recipe says beyond what decides alone; a plan remembers it."""

Keep = dict[str, dict[int, list[int]]]


@dataclass(frozen=True)
class Plan:
    """What to remove from one model.

    Attributes:
        source: the model's name, sha256 and bytes.
        recipe: what was asked for, as plain data.
        keep: for each constant tensor that is cut, the kept indices of each axis.
        groups: for each group its units, which are kept, and the weight axes it cuts.
        cost: before and after.
        recovery: how what is left was made to make up for what went, and what held-out data said; empty if it was not.
    """

    source: dict[str, Any]
    recipe: dict[str, Any]
    keep: Keep
    groups: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, dict[str, int]] = field(default_factory=dict)
    recovery: dict[str, Any] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the plan removes nothing."""
        return not self.keep

    @property
    def samples(self) -> int:
        """How many rows of the user's data calibrated."""
        return int(self.recovery.get("samples", 0)) if self.recovery.get("data") == "given" else 0

    @property
    def seed(self) -> int:
        """Of everything random."""
        return int(self.recipe.get("seed", 0))

    @property
    def protection(self) -> Protection:
        """What was to stay whole; it takes part in which axes belong together."""
        names = self.recipe.get("protect", ())
        ends = bool(self.recipe.get("protect_first")), bool(self.recipe.get("protect_last"))
        choices = str(self.recipe.get("attention", "heads")), bool(self.recipe.get("normalized_axes"))
        return Protection(tuple(names), *ends, *choices)

    def recording(self, asked: Mapping[str, Any]) -> Plan:
        """The same, with all else that was asked for written into its recipe: effort, data, providers."""
        said = {name.replace("-", "_"): value for name, value in asked.items() if name in RECORDED}
        return replace(self, recipe={**self.recipe, **said})

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
            document = _typed(json.loads(text, object_pairs_hook=_unrepeated), dict, "the document")
            if document["format"] != FORMAT or type(document["version"]) is not int or document["version"] != VERSION:
                raise RefusedError(f"{name!r} is not a plan of format {FORMAT!r}, version {VERSION}.")
            parts = {key: _typed(document[key], kind, repr(key)) for key, kind in PARTS.items()}
            parts["recovery"] = _typed(document.get("recovery", {}), dict, "'recovery'")
            keep = {n: _axes(axes, n) for n, axes in parts.pop("keep").items()}
            _typed(parts["source"]["sha256"], str, "sha256")
            _check_recipe(parts["recipe"])
            _check_recovery(parts["recovery"])
        except KeyError as error:
            raise RefusedError(f"{name!r} is not a plan: it has no {error}.") from error
        except RecursionError as error:
            raise RefusedError(f"{name!r} is not a plan: it is nested too deeply.") from error
        except (ValueError, TypeError) as error:
            raise RefusedError(f"{name!r} is not a plan: {error}.") from error
        return cls(keep=keep, **parts)


WORDS = {dict: "an object", list: "a list", int: "a whole number", str: "text"}
PARTS: dict[str, type] = {"source": dict, "recipe": dict, "keep": dict, "groups": list, "cost": dict}


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names one thing twice")
    return found


def _typed(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{name} must be {WORDS[kind]}")
    return value


def _axes(axes: Any, name: str) -> dict[int, list[int]]:
    found = {}
    for axis, kept in _typed(axes, dict, f"'keep' of {name!r}").items():
        where = f"'keep' of {name!r}, axis {axis!r},"
        if not re.fullmatch("0|[1-9][0-9]{0,8}", axis):
            raise ValueError(f"{where} is no axis")
        found[int(axis)] = [_typed(index, int, f"each index in {where}") for index in _typed(kept, list, where)]
    return found


def _check_recipe(recipe: Mapping[str, Any]) -> None:
    """What applying a plan reads of its recipe."""
    for pattern in _typed(recipe.get("protect", []), list, "protect"):
        _typed(pattern, str, "protect")
    if _typed(recipe.get("seed", 0), int, "seed") < 0:
        raise ValueError("seed is negative")
    for shape in _typed(recipe.get("input_shapes", {}), dict, "input_shapes").values():
        if any(_typed(size, int, "a size") < 1 for size in _typed(shape, list, "input_shapes")):
            raise ValueError("an input shape has sizes that are not positive")


def _check_recovery(recovery: Mapping[str, Any]) -> None:
    """What applying a plan reads of its recovery."""
    if recovery and _typed(recovery.get("recover"), str, "recover") not in METHODS:
        raise ValueError(f"recovery {recovery['recover']!r} is not known")
    if recovery and (
        recovery.get("data") not in ("given", "synthetic") or _typed(recovery.get("samples"), int, "samples") < 0
    ):
        raise ValueError("what it recovers with is not known")


@dataclass(frozen=True)
class Decision:
    """A plan with the units that it removes."""

    plan: Plan
    removed: Mask


def decide(model: Model, recipe: Recipe, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Decision:
    """Score the weights, allocate, and write down what goes.

    Raises:
        UsageError: the recipe is not valid, or asks for what only data can tell.
        PruneError: its budget is out of reach.
    """
    budget = recipe.budget
    if budget.max_drop is not None:
        raise UsageError("How much a model may become worse is measured: --max-drop needs --data, and recovery.")
    hashing = ThreadPoolExecutor(1).submit(source_of, model.record)  # hashing leaves the interpreter free
    ranking = rank(model.analysis, recipe.criterion or "l2", recipe.seed, ratio=budget.ratio)
    cost = CostModel(model.analysis, input_shapes)
    removed = allocate(model.analysis, ranking, budget, cost)
    return Decision(written(model, recipe, cost, removed, ranking.unscored, hashing.result()), removed)


def written(
    model: Model,
    recipe: Recipe,
    cost: CostModel,
    removed: Mask,
    unscored: Mapping[int, str],
    source: dict[str, Any],
    recovery: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan that removes these units."""
    analysis = model.analysis
    asked = {**asdict(recipe), "align": recipe.budget.align, "protect": list(recipe.protect)}
    return Plan(
        source=source,
        recipe={**asked, "input_shapes": {n: list(s) for n, s in cost.input_shapes.items()}},
        keep=removal.keeps(analysis, removed),
        groups=[_group(analysis, unscored, removed, g) for g in range(analysis.groups)],
        cost={"before": cost.dense.to_json(), "after": cost(removed).to_json()},
        recovery=dict(recovery or {}),
    )


def source_of(record: Record) -> dict[str, Any]:
    """How a plan names its model."""
    name = record.path.name if record.path else ""
    return {"name": name, "sha256": record.sha256, "bytes": record.nbytes}


def _group(analysis: Analysis, unscored: Mapping[int, str], removed: Mask, group: int) -> dict[str, Any]:
    units = analysis.members(group)
    found: dict[str, Any] = {
        "id": group,
        "kind": analysis.kind(group),
        "units": len(units),
        "kept": np.flatnonzero(~removed[units]).tolist(),
        "axes": [f"{name}:{axis}" for name, axis in analysis.weight_axes_of(group)],
    }
    if analysis.approximate[units].any():
        found["mask_equivalent"] = False
    if group in unscored:
        found["stays"] = unscored[group]
    return found


def check_source(plan: Plan, record: Record) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        RefusedError: it was.
    """
    planned, found = str(plan.source["sha256"]), record.sha256
    if planned != found:
        raise RefusedError(
            f"The plan was made for another model (sha256 {planned[:12]}…, not {found[:12]}…)."
            " Make a plan for this one."
        )


def removed_by(plan: Plan, analysis: Analysis) -> Mask:
    """The units that a plan removes from a model.

    Raises:
        RefusedError: the plan belongs to another model, or would take a part of a unit, or of what may not be cut.
    """
    check_source(plan, analysis.graph.record)
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
        named = axis[0] if axis[0] in plan.keep else analysis.graph.copies.get(axis[0], axis[0])
        listed = plan.keep.get(named, {}).get(axis[1])
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
