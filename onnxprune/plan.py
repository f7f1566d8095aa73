"""The plan: a small, readable JSON document that says what to remove from which model; replayed, the same bytes.

``keep`` is what `apply` obeys; everything else is there for people, and to check that model and plan belong together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxprune import surgery
from onnxprune.allocation import Budget, allocate, auto_align
from onnxprune.analysis import Analysis, Model
from onnxprune.closure import Mask
from onnxprune.cost import CostModel
from onnxprune.criteria import Ranking, rank
from onnxprune.errors import RefusedError, UsageError, unknown
from onnxprune.pins import ATTENTION, Protection
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
        attention: what of an attention goes, ``"heads"`` or ``"dims"``.
        normalized_axes: whether axes that a normalisation runs over may go; removing is not zeroing there.
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
    attention: str = "heads"
    normalized_axes: bool = False
    seed: int = 0

    @property
    def protection(self) -> Protection:
        """What stays whole.

        Raises:
            UsageError: a name is empty.
        """
        if not all(self.protect):
            raise UsageError("A name to protect is empty. Name a node or a tensor.")
        if self.attention not in ATTENTION:
            raise unknown("way to cut attention", self.attention, ATTENTION)
        choices = self.attention, self.normalized_axes
        return Protection(tuple(self.protect), self.protect_first, self.protect_last, *choices)

    @property
    def budget(self) -> Budget:
        """How much goes.

        Raises:
            UsageError: a number is out of range, or not exactly one budget is given.
        """
        if self.align != "auto" and not isinstance(self.align, int):
            raise UsageError(f"align must be a whole number or 'auto', not {self.align!r}.")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, not {self.seed!r}.")
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

    @property
    def protection(self) -> Protection:
        """What was to stay whole; it takes part in which axes belong together."""
        names = self.recipe.get("protect", ())
        ends = bool(self.recipe.get("protect_first")), bool(self.recipe.get("protect_last"))
        choices = str(self.recipe.get("attention", "heads")), bool(self.recipe.get("normalized_axes"))
        return Protection(tuple(names), *ends, *choices)

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
            keep = {n: _axes(axes, n) for n, axes in parts.pop("keep").items()}
            _typed(parts["source"]["sha256"], str, "sha256")
            _check_recipe(parts["recipe"])
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
    for shape in _typed(recipe.get("input_shapes", {}), dict, "input_shapes").values():
        if any(_typed(size, int, "a size") < 1 for size in _typed(shape, list, "input_shapes")):
            raise ValueError("an input shape has sizes that are not positive")


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
        "kind": analysis.kind(group),
        "units": len(units),
        "kept": np.flatnonzero(~removed[units]).tolist(),
        "axes": [f"{name}:{axis}" for name, axis in analysis.weight_axes_of(group)],
    }
    if analysis.approximate[units].any():
        found["mask_equivalent"] = False
    if group in ranking.unscored:
        found["stays"] = ranking.unscored[group]
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
