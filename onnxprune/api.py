"""The verbs: what a user can ask for. Each returns a result that prints well and becomes JSON; none prints or exits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import numpy as np

from onnxprune import passes as pass_table
from onnxprune import plan as plans
from onnxprune.algebra.analysis import Model
from onnxprune.algebra.cost import CostModel
from onnxprune.algebra.explain import Explainer
from onnxprune.algebra.pins import Protection
from onnxprune.budget import decision
from onnxprune.data import inputs
from onnxprune.data.inputs import Data, Shapes
from onnxprune.data.runtime import Session
from onnxprune.errors import FileError, PruneError, UsageError
from onnxprune.metrics.catalogue import Labels
from onnxprune.metrics.evidence import Bench, Evidence, attempt, check_memory, load_given
from onnxprune.model import files
from onnxprune.model.record import Record, Source
from onnxprune.plan import Plan
from onnxprune.replay import blaming_plan, planned_shapes, read_plan
from onnxprune.report.details import Details
from onnxprune.report.results import Applied, Inspection, Pruned, Ran
from onnxprune.surgery import saving
from onnxprune.verification import proof
from onnxprune.wishes import Effort, Recipe

Target = str | os.PathLike[str]
Progress = Callable[[str], None]


def _silent(stage: str) -> None:
    """Show no progress."""


def inspect(source: Source, *, input_shapes: Mapping[str, Sequence[int]] | None = None, **wishes: Any) -> Inspection:
    """What is in a model, what can go, and why the rest cannot.

    Args:
        source: the model.
        input_shapes: for inputs whose shape is open; MACs are counted there.
        **wishes: what may go and what stays, as in `onnxprune.wishes.Recipe`.

    Raises:
        FileError, RefusedError: the model cannot be read, or is not one.
    """
    model = Model(Record(source), _recipe({"ratio": 0.0, **wishes}).protection)
    cost = CostModel(model.analysis, _bound_or_open(model, input_shapes or {}))
    everything = model.analysis.least()
    return Inspection.of(model, cost.dense, cost(everything), Explainer(model.analysis))


def explainer(source: Source, **wishes: Any) -> Explainer:
    """Answers why an axis stays, and who holds a group together; takes the wishes that `inspect` does."""
    return Explainer(Model(Record(source), _recipe({"ratio": 0.0, **wishes}).protection).analysis)


def plan(
    source: Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    data: Data | None = None,
    progress: Progress = _silent,
    **recipe: Any,
) -> Plan:
    """Decide what goes, without touching anything.

    Args:
        source: the model.
        input_shapes: for inputs whose shape is open; MACs are counted there.
        data: calibrates; shapes are taken from it if none are given.
        progress: called with the name of each stage.
        **recipe: the fields of `onnxprune.wishes.Recipe` and `onnxprune.wishes.Effort`.

    Raises:
        UsageError: the recipe is not valid.
        PruneError: its budget is out of reach.
    """
    wanted, effort = _wishes(recipe)
    model = Model(Record(source), wanted.protection)
    given = dict(input_shapes or {})
    if decision.is_plain(wanted, effort):
        if data is not None and not given:
            first = inputs.load_data(model.graph, data)[0]
            given = dict(inputs.bind(model.graph, {}, [first], lambda _: []))
        return plans.decide(model, wanted, _bound_or_open(model, given, needed=wanted.macs is not None)).plan
    _ = wanted.budget
    with _folder(None) as folder:
        evidence = Evidence(data, samples=effort.samples, input_shapes=given, seed=wanted.seed)
        bench = Bench(model, evidence, _file(model.record, folder / "dense"))
        return decision.decide(bench, wanted, effort, progress).plan


def prune(
    source: Source,
    out: Target | None = None,
    *,
    data: Data | None = None,
    labels: str | os.PathLike[str] | Labels | None = None,
    evaluation: Data | None = None,
    metric: str | None = None,
    allow_overlap: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    providers: Sequence[str] = ("cpu",),
    in_place: bool = False,
    keep_unverified: bool = False,
    allow_slower: bool = False,
    progress: Progress = _silent,
    **recipe: Any,
) -> Pruned:
    """Plan, recover, remove, prove that removed equals zeroed, measure what it cost, and write the result.

    Rows of ``data`` calibrate, drawn at random, as many as ``samples`` says, of labelled data half at most; the others
    evaluate, unless ``evaluation`` does.

    Args:
        source: the model.
        out: where to write; ``None`` writes nothing and only measures.
        data: the user's inputs (see `onnxprune.data.inputs.load_data`).
        labels: what should come out, row by row, of ``evaluation`` or else of ``data``
            (see `onnxprune.metrics.catalogue`).
        evaluation: inputs that the result is measured on.
        metric: what is measured with labels; accuracy by default.
        allow_overlap: evaluate on what calibrates, too.
        input_shapes: for inputs whose shape is open.
        providers: execution providers by name.
        in_place: allow ``out`` to be the source.
        keep_unverified: write even if the proof fails.
        allow_slower: write even if the result is not as quick as a budget of time asks for, or if fewer
            multiply-accumulates turn out to take longer at widths that no ``align`` asked for.
        progress: called with the name of each stage.
        **recipe: the fields of `onnxprune.wishes.Recipe` and `onnxprune.wishes.Effort`.

    Raises:
        PruneError: the budget is out of reach, or the proof failed; nothing was written.
        UsageError, RefusedError, ProviderError, FileError: see `onnxprune.errors`.
    """
    wanted, effort = _wishes(recipe)
    _ = wanted.budget  # refuses nonsense before any work
    progress("reading")
    model = Model(Record(source), wanted.protection)
    target = _target(model.record, out, in_place=in_place)
    progress("analysing")
    samples = 0 if decision.is_plain(wanted, effort) else effort.samples
    evidence = Evidence(
        data, labels, evaluation, metric, samples, allow_overlap, input_shapes or {}, providers, wanted.seed
    )
    with _folder(target) as folder:
        if not model.analysis.units:
            load_given(model.graph, evidence)  # what is wrong is an error whatever there is to prune
            return _untouched(model, plans.decide(model, wanted).plan, target, folder)
        bench = Bench(model, evidence, _file(model.record, folder / "dense"))
        decided = decision.decide(bench, wanted, effort, progress)
        if decided.plan.empty:
            return _untouched(model, decided.plan, target, folder)
        cut, applied = proof.cut_and_prove(
            bench, decided.model, decided.removed, folder, target, progress, keep_unverified=keep_unverified
        )
        progress("measuring")
        fidelity = proof.fidelity(bench, cut)
        if decided.clock is not None:
            keep = wanted.budget.keep or 1.0
            timings, told = decided.clock.confirmed(cut, keep, allow_slower=allow_slower)
            fidelity, applied = fidelity.timed(timings), applied.noting(told)
        else:
            fidelity, told = proof.slower(bench, cut, fidelity)
            if told and wanted.macs is not None and wanted.align == "auto" and not allow_slower:
                raise PruneError(f"{told} Nothing was written; --allow-slower writes it anyway.")
            applied = applied.noting(told)
        if target is not None:
            saving.publish(cut, target)
    details = Details.of(decided.model, decided.removed, decided.tried, decided.losses)
    return Pruned(decided.plan, applied.noting(decided.note), fidelity, str(target) if target else "", details)


def apply(
    source: Source,
    plan: Plan | Target,
    out: Target,
    *,
    data: Data | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    providers: Sequence[str] = ("cpu",),
    in_place: bool = False,
    keep_unverified: bool = False,
    recover: str | None = None,
    progress: Progress = _silent,
) -> Applied:
    """Do what a plan says, prove it, and write the result. The same plan, and the same data, give the same bytes.

    Args:
        source: the model.
        plan: the plan, or its file.
        out: where to write.
        data: the user's inputs; what a plan was made with, if it recovers with data.
        input_shapes: for inputs whose shape is open.
        providers: execution providers by name.
        in_place: allow ``out`` to be the source.
        keep_unverified: write even if the proof fails.
        recover: ``"none"`` leaves every kept weight as it is, whatever the plan says.
        progress: called with the name of each stage.

    Raises:
        RefusedError: the plan is not one, or not for this model.
        PruneError: the proof failed; nothing was written.
    """
    progress("reading")
    wanted = plan if isinstance(plan, Plan) else read_plan(plan)
    model = Model(Record(source), wanted.protection)
    plans.check_source(wanted, model.record)
    target = _target(model.record, out, in_place=in_place)
    with blaming_plan():
        removed = plans.removed_by(wanted, model.analysis)
        planned = planned_shapes(wanted, model)
    with _folder(target) as folder:
        if not removed.any():
            _untouched(model, wanted, target, folder)
            return Applied.nothing(str(target), "The plan removes nothing.")
        shapes = input_shapes or ({} if data is not None else planned)
        samples, seed = (0 if recover == "none" else wanted.samples), wanted.seed
        evidence = Evidence(data, samples=samples, input_shapes=shapes, providers=providers, seed=seed)
        bench = Bench(model, evidence, _file(model.record, folder / "dense"))
        final, gone = (model, removed) if recover == "none" else decision.refitted(bench, wanted, removed, progress)
        cut, applied = proof.cut_and_prove(
            bench, final, gone, folder, target, progress, keep_unverified=keep_unverified
        )
        saving.publish(cut, target)
    return applied


def run(pass_name: str, source: Source, out: Target, *, in_place: bool = False, **options: Any) -> Ran:
    """Run one pass and write what it made, if it passes the ONNX checker.

    Raises:
        UsageError: there is no such pass, or it has no such option.
    """
    kind = pass_table.find(pass_name)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if not set(options) <= known:
        raise UsageError(f"Pass {pass_name!r} has no option {sorted(set(options) - known)[0]!r}.")
    chosen = kind(**options)
    model = Model(Record(source), getattr(chosen, "protection", None) or Protection())
    target = _target(model.record, out, in_place=in_place)
    result = chosen.run(model)
    with _folder(target) as folder:
        if result.draft is None:
            made = saving.copy(model.record, folder / "made", target.name)
        else:
            made = saving.write(result.draft, folder / "made", target.name)
            proof.check(made, model.record)
        saving.publish(made, target)
    return Ran(pass_name, str(target), result.draft is not None, result.numbers)


def _recipe(given: Mapping[str, Any]) -> Recipe:
    known = {f.name for f in fields(Recipe)}
    if not set(given) <= known:
        raise UsageError(f"There is no option {sorted(set(given) - known)[0]!r}; known: {', '.join(sorted(known))}.")
    return Recipe(**given)


def _wishes(given: Mapping[str, Any]) -> tuple[Recipe, Effort]:
    efforts = {f.name for f in fields(Effort)}
    effort = Effort(**{name: value for name, value in given.items() if name in efforts})
    recipe = _recipe({name: value for name, value in given.items() if name not in efforts})
    decision.check_effort(recipe, effort)
    return recipe, effort


@overload
def _target(record: Record, out: Target, *, in_place: bool) -> Path: ...
@overload
def _target(record: Record, out: Target | None, *, in_place: bool) -> Path | None: ...
def _target(record: Record, out: Target | None, *, in_place: bool) -> Path | None:
    if out is None:
        return None
    if os.path.basename(out) in ("", ".", ".."):
        raise FileError(f"Cannot write {os.fspath(out)!r}: it is a directory. Name a file in it.")
    saving.check_target(record, Path(out), in_place=in_place)
    return Path(out)


def _file(record: Record, folder: Path) -> Path:
    """The file that a runtime can load a model from."""
    return record.path or saving.copy(record, folder, "model.onnx")


@contextmanager
def _folder(target: Path | None) -> Iterator[Path]:
    """Where drafts lie until they are proved: beside the target, so that moving them is atomic."""
    if target is not None:
        with files.workspace(target) as folder:
            yield folder
    else:
        with TemporaryDirectory(prefix="onnxprune-") as name:
            yield Path(name)


def _bound_or_open(model: Model, given: Mapping[str, Sequence[int]], *, needed: bool = False) -> Shapes:
    """Input shapes for counting MACs; sizes stay open (counted as 1) if none runs and none is needed."""
    with TemporaryDirectory(prefix="onnxprune-") as name:

        @cache
        def session() -> Session:
            check_memory(model.graph)
            return Session(_file(model.record, Path(name)))

        try:
            return inputs.bind(model.graph, given, [], lambda feed: attempt(session(), feed))
        except PruneError:
            if needed or given:
                raise
            return {}


def _untouched(model: Model, plan: Plan, target: Path | None, folder: Path) -> Pruned:
    """Nothing goes: the output is the input, byte for byte."""
    if target is not None:
        saving.publish(saving.copy(model.record, folder / "made", target.name), target)
    out = str(target) if target else ""
    details = Details.of(model, np.zeros(model.analysis.units, dtype=bool))
    return Pruned(plan, Applied.nothing(out, _why_nothing(plan)), None, out, details)


def _why_nothing(plan: Plan) -> str:
    if not plan.groups:
        return "This model has nothing to prune; `onnxprune inspect` says why."
    align = plan.recipe.get("align", 1)
    wide = f" and --align {align}" if align != 1 else ""
    return f"This budget{wide} leaves every group as it is."
