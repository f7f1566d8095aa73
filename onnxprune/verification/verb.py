"""`verify`: two models, or one in several places, asked the three questions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.pins import Protection
from onnxprune.budget import decision
from onnxprune.data.inputs import Data
from onnxprune.errors import UsageError
from onnxprune.metrics.evidence import Bench, Evidence, check_memory
from onnxprune.model.record import Record, Source
from onnxprune.plan import Plan, check_source, removed_by
from onnxprune.replay import blaming_plan, planned_shapes, read_plan
from onnxprune.report.results import Verified
from onnxprune.surgery import removal, saving
from onnxprune.verification import questions
from onnxprune.verification.divergence import survivors
from onnxprune.verification.questions import Questions

INEXACT = (
    "its plan cuts axes that a normalisation runs over, where removing is not zeroing, so that outputs rightly differ;"
    " compare without --plan"
)


def verify(
    reference: Source,
    candidate: Source | None = None,
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    data: Data | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    providers: Sequence[str] = ("cpu",),
    optimization: Sequence[str] | None = None,
    tolerance: float | None = None,
    equal_nan: bool = False,
    require_share: float | None = None,
    seed: int = 0,
) -> Verified:
    """Whether two models give the same outputs; with a plan, whether the second is the first with its units zeroed.

    Where the plan recovered, the first takes over the second's kept weights before its units are zeroed.

    Args:
        reference: a model.
        candidate: another; without one, the reference is compared with itself, from provider to provider.
        plan: what was done to the reference.
        data: the user's inputs; seeded ones are taken, too.
        input_shapes: for inputs whose shape is open.
        providers: execution providers by name; each is compared with the CPU, too.
        optimization: how far ONNX Runtime may optimise (see `onnxprune.data.runtime.LEVELS`); ``"all"`` by default, for
            one model alone both ``"off"`` and ``"all"``.
        tolerance: what may differ, as a fraction of each output's range; by default it follows from the type.
        equal_nan: whether NaN in both models is agreement.
        require_share: the fraction of the multiply-accumulates that every provider must run itself.
        seed: of seeded inputs.

    Raises:
        RefusedError: a model or the plan cannot be taken.
        ProviderError: a provider is missing, or runs nothing of a model.
        PruneError: their outputs are not even called the same.
    """
    where = questions.setups(providers, optimization or (("all",) if candidate is not None else ("off", "all")))
    allowed = questions.rules(tolerance, equal_nan, require_share)
    if plan is not None and candidate is None:
        raise UsageError("A plan says how two models differ: name the second one, too.")
    wanted = plan if plan is None or isinstance(plan, Plan) else read_plan(plan)
    model = Model(Record(reference), wanted.protection if wanted else Protection())
    other = model if candidate is None else Model(Record(candidate))
    shapes = input_shapes or {}
    if wanted is not None:
        check_source(wanted, model.record)
        with blaming_plan():
            removed = removed_by(wanted, model.analysis)
            shapes = shapes or ({} if data is not None else planned_shapes(wanted, model))
    check_memory(other.graph)
    problem, kept, inexact = "", None, False
    with TemporaryDirectory(prefix="onnxprune-") as name:
        folder = Path(name)
        first, second = _file(model.record, folder / "reference"), _file(other.record, folder / "candidate")
        bench = Bench(model, Evidence(data, input_shapes=shapes, providers=providers, seed=seed), first)
        if wanted is not None:
            final, gone, problem = decision.adopting(model, other, wanted, removed)
            kept, inexact = survivors(final.analysis, gone), bool((gone & final.analysis.approximate).any())
            first = saving.write(removal.zero(final.analysis, gone), folder / "zeroed", "zeroed.onnx")
        ask = Questions([*bench.seeded, *bench.feeds], where, allowed)
        if candidate is not None:
            ask.same(first, second, kept, bench.session if wanted else None)
        if candidate is None or len(where) > 1 or where[0].provider != "cpu":
            ask.agreed(second)
        if wanted is not None:
            ask.cost(bench.session, second)
        ask.placed(other.analysis, bench.shapes, folder / "marked", require_share)
    if inexact and not ask.answers:
        problem = problem or INEXACT
    return Verified(ask.answers, "zeroed by the plan" if wanted else "", problem or ask.problem)


def _file(record: Record, folder: Path) -> Path:
    return record.path or saving.copy(record, folder, "model.onnx")
