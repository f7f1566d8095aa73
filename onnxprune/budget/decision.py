"""From a bench and the user's wishes to a decision: by scores alone, or by a study of data, the user's or made up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxprune import plan as plans
from onnxprune.algebra.analysis import Analysis, Model
from onnxprune.algebra.closure import Mask
from onnxprune.algebra.cost import CostModel
from onnxprune.algebra.graph import Graph
from onnxprune.algebra.linear import layers
from onnxprune.budget import sensitivity
from onnxprune.budget.clock import Clock
from onnxprune.budget.curves import Curve
from onnxprune.budget.ranking import needs
from onnxprune.budget.study import Candidate, Study, Trial, carried
from onnxprune.data import sampling
from onnxprune.data.inputs import Feed
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.data.synthetic import synthetic
from onnxprune.errors import UsageError
from onnxprune.metrics import catalogue
from onnxprune.metrics.evidence import Bench
from onnxprune.model.edits import LARGEST, adopted, digest, grown, with_values
from onnxprune.model.tensors import FLOATS
from onnxprune.plan import Plan
from onnxprune.recovery.walk import Values
from onnxprune.surgery import removal
from onnxprune.wishes import Effort, Recipe

DEFAULT, PLAIN = "obs", "l2"  # criteria; the second where nothing makes up for what goes
BLIND_SHARE = 0.5  # of the multiply-accumulates; what is left of a model beyond that, made-up inputs do not vouch for
BLIND = "More than half of the MACs went on made-up inputs alone: measure the result before it is used."
FOREIGN = (
    "its weights are not those that the plan's recovery wrote; other data, or another machine, give others:"
    " apply the plan again, or compare without --plan"
)


@dataclass(frozen=True)
class Decided:
    """What goes, and the model that it goes from: the source, or what recovery made of it.

    Attributes:
        plan: what goes.
        model: what it goes from.
        removed: the units of that model that go.
        note: what the user should know.
        tried: the candidates, if any were judged.
        clock: what a budget of time was measured with.
        losses: the loss curves of the dense model, group by group, if they were measured.
    """

    plan: Plan
    model: Model
    removed: Mask
    note: str = ""
    tried: Sequence[Trial] = ()
    losses: Sequence[Curve] = ()
    clock: Clock | None = None


def decide(bench: Bench, recipe: Recipe, effort: Effort, progress: Callable[[str], None]) -> Decided:
    """Decide what goes; with recovery, also what the rest becomes.

    Raises:
        UsageError: what was asked for needs data, and there are none.
        PruneError: the budget is out of reach.
    """
    wanted = needs(recipe.criterion or "") - {"nothing"}
    if wanted and not bench.calibration and effort.recover == "none":
        raise UsageError(f"Criterion {recipe.criterion!r} needs {' and '.join(sorted(wanted))}: give --data.")
    plain = is_plain(recipe, effort)
    why = "" if plain or not bench.model.analysis.units else _why_not(bench)
    if plain or why or not bench.model.analysis.units:
        if why and wanted:
            raise UsageError(f"Criterion {recipe.criterion!r} cannot be used here: {why}.")
        if why and recipe.timed:
            raise UsageError(f"A budget of time cannot be met here: {why}.")
        if why and recipe.max_drop is not None:
            raise UsageError(f"How much this model becomes worse cannot be measured: {why}.")
        progress("scoring")
        found = plans.decide(bench.model, recipe, bench.shapes)
        return Decided(found.plan, bench.model, found.removed, f"Nothing was recovered: {why}." if why else "")
    return _studied(bench, recipe, effort, progress)


def check_effort(recipe: Recipe, effort: Effort) -> None:
    """Refuse loss curves that would go unused.

    Raises:
        UsageError: nothing is spent by loss curves.
    """
    plain = is_plain(recipe, effort) or recipe.ratio is not None or effort.schedule == "scores"
    if effort.sensitivity is not None and plain:
        raise UsageError(
            "This budget is not spent by loss curves: leave out --sensitivity, or give --params, --macs, --bytes or"
            " --max-drop, and neither --schedule scores nor --recover none."
        )


def is_plain(recipe: Recipe, effort: Effort) -> bool:
    """Whether the weights alone decide, and stay as they are."""
    measured = recipe.max_drop is not None or recipe.timed or recipe.criterion == "auto"
    return effort.recover == "none" and not measured and not needs(recipe.criterion or "") - {"nothing"}


def _why_not(bench: Bench) -> str:
    """Why a model cannot be studied; empty if it can."""
    model = bench.model
    if model.record.nbytes > LARGEST:
        return f"the model exceeds {LARGEST >> 30} GiB"
    if not any(True for _ in layers(model.graph, model.analysis.rule)):
        return "it has no linear layer whose weight is a constant of its own"
    return ""


def _studied(bench: Bench, recipe: Recipe, effort: Effort, progress: Callable[[str], None]) -> Decided:
    model = bench.model
    try:
        feeds = bench.calibration or made_up(bench, recipe.seed)
        study = _study(bench, feeds, recipe, effort, progress)
        if recipe.timed:
            study.clock = Clock(bench, study.analysis, progress)
            study.cost = study.clock.cost
            study.widths = study.clock.widths if recipe.align == "auto" else None
        best = study.best(_criterion(recipe, effort), recipe.budget, effort.schedule)
        helps = bool(best.steps) and study.helps(best)
        record, steps = study.finished(best.removed) if helps else (model.record, [])
    except ExecutionError as error:
        if recipe.timed or recipe.max_drop is not None or needs(recipe.criterion or "") - {"nothing"}:
            raise
        found = plans.decide(model, recipe, bench.shapes)
        note = f"Nothing was recovered: a part of the model does not run by itself ({error})."
        return Decided(found.plan, model, found.removed, note)
    final = Model(record, model.protection) if helps else model
    cut = carried(best.removed, study.analysis, final.analysis)
    recovery = {
        "recover": effort.recover if helps else "none",
        "data": "given" if bench.calibration else "synthetic",
        "samples": sum(len(sampling.rows_of(model.graph, [feed])) for feed in feeds),
        "criterion": best.criterion,
        "allocation": best.name,
        "sha256": _digest(final, final.graph, cut),
        "held_out": best.loss.to_json(),
        "layers": [step.to_json() for step in steps],
    }
    gone = carried(best.removed, study.analysis, model.analysis)
    source, cost = plans.source_of(model.record), CostModel(model.analysis, bench.shapes)
    plan = plans.written(model, recipe, cost, gone, study.unscored, source, recovery)
    far = BLIND if not bench.calibration and _share(plan) < BLIND_SHARE else ""
    note = " ".join(
        [
            *filter(None, (*study.notes, far)),
            _told(best, blind=not bench.calibration, helps=helps or effort.recover == "none"),
        ]
    )
    return Decided(plan, final, cut, note, study.tried, study.losses, study.clock)


def _criterion(recipe: Recipe, effort: Effort) -> str:
    return recipe.criterion or (PLAIN if effort.recover == "none" else DEFAULT)


def made_up(bench: Bench, seed: int) -> list[Feed]:
    """Calibration batches for want of data.

    Raises:
        ExecutionError: the model does not run on them.
    """
    cost = CostModel(bench.model.analysis, bench.shapes)
    return synthetic(bench.model.graph, bench.shapes, seed, cost.dense.macs)


def _study(
    bench: Bench, feeds: Sequence[Feed], recipe: Recipe, effort: Effort, progress: Callable[[str], None]
) -> Study:
    study = Study(bench.model, feeds, bench.shapes, recipe.seed, effort.recover, progress, blind=not bench.calibration)
    study.labels = bench.calibration_labels
    if effort.sensitivity is not None:
        study.known = sensitivity.known(effort.sensitivity, study, _criterion(recipe, effort)).curves
    metric, labels = bench.metric, bench.labels
    if metric is not None and labels is not None:
        dense = catalogue.measure(metric, bench.session, bench.feeds, labels)

        def drop(values: Values) -> float:
            changed = Session(bytes(with_values(study.analysis.graph, values).buffer))
            return catalogue.loss(metric, dense, catalogue.measure(metric, changed, bench.feeds, labels))

        study.measure = drop
    return study


def refitted(bench: Bench, plan: Plan, removed: Mask, progress: Callable[[str], None]) -> tuple[Model, Mask]:
    """What the recovery that a plan names makes of a model, on the bench's data: the same data give the same bytes.

    Raises:
        UsageError: the plan was made with data, and there are none.
    """
    model, recovery = bench.model, plan.recovery
    if recovery.get("recover", "none") == "none":
        return model, removed
    if plan.samples and not bench.calibration:
        raise UsageError("The plan was made with data: give the same --data, or --recover none to leave weights alone.")
    seed = plan.seed
    feeds = bench.calibration if plan.samples else made_up(bench, seed)
    blind = not plan.samples
    study = Study(model, feeds, bench.shapes, seed, str(recovery["recover"]), progress, blind=blind)
    record, _ = study.finished(carried(removed, model.analysis, study.analysis))
    final = Model(record, model.protection)
    return final, carried(removed, model.analysis, final.analysis)


def adopting(model: Model, other: Model, plan: Plan, removed: Mask) -> tuple[Model, Mask, str]:
    """The model that a plan was made for, with the kept weights of what the plan's recovery made of it.

    Beside it the units to zero, and what is wrong with those weights, if they are not those that were written.
    """
    plain = plan.recovery.get("recover", "none") == "none"
    if plain or _digest(model, model.graph, removed) == _digest(model, other.graph, removed, cut=True):
        return model, removed, ""
    analysis = model.analysis
    like = Analysis(grown(model.graph, analysis.rule, other.graph), model.protection)
    record = adopted(like.graph, other.graph, removal.keeps(like, carried(removed, analysis, like)))
    final = Model(record, model.protection)
    gone = carried(removed, analysis, final.analysis)
    written = plan.recovery.get("sha256")
    alike = written is None or written == _digest(final, other.graph, gone, cut=True)
    return final, gone, "" if alike else FOREIGN


def _digest(model: Model, graph: Graph, removed: Mask, *, cut: bool = False) -> str:
    """A hash of a model's weights without these units, read from a graph in which they are cut already, or not yet."""
    keeps, copies = removal.keeps(model.analysis, removed), model.graph.copies
    names = [
        name
        for name in model.graph.constants()
        if model.graph.constant_tensor(name).data_type in FLOATS and (name not in copies or name in keeps)
    ]
    return digest(graph, {} if cut else keeps, names)


def _share(plan: Plan) -> float:
    """The fraction of multiply-accumulates that a plan keeps."""
    return plan.cost["after"]["macs"] / max(plan.cost["before"]["macs"], 1)


def _told(best: Candidate, *, blind: bool, helps: bool) -> str:
    """What the user should know of how much was risked."""
    where = "held-out synthetic inputs" if blind else "held-out data"
    told = f"On {where} outputs are off by {best.loss.error:.2%} of their variance."
    if not math.isfinite(best.loss.error):
        told = f"On {where} outputs cannot be compared with the dense model's."
    if blind:
        told += " Calibrated without data; real inputs (--data) do better, and tell more."
    if helps:
        return told
    return f"{told} {'Recovery did no good there and was taken back.' if best.steps else 'Nothing could be refitted.'}"
