"""Proof and measurement: the removed model, written and checked, is run against the zeroed one and the dense one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.closure import Mask
from onnxprune.data.runtime import Session
from onnxprune.errors import PruneError
from onnxprune.latency.bench import against_dense
from onnxprune.latency.timing import Limits
from onnxprune.metrics import catalogue
from onnxprune.metrics.evidence import Bench, rows
from onnxprune.model import files
from onnxprune.model.record import Record
from onnxprune.report.results import Applied, Fidelity, Proof
from onnxprune.surgery import removal, saving
from onnxprune.verification.comparison import compare
from onnxprune.verification.divergence import survivors
from onnxprune.verification.questions import Questions, setups

QUICKLY, SURELY = Limits(seconds=1.0), Limits(seconds=10.0)
SLOWER = 1.02  # of the dense model's time: what surely takes more is slower


def cut_and_prove(
    bench: Bench,
    model: Model,
    removed: Mask,
    folder: Path,
    target: Path | None,
    progress: Callable[[str], None],
    *,
    keep_unverified: bool,
) -> tuple[Path, Applied]:
    """Write the removed and the zeroed model into a folder, and compare them on every provider.

    Args:
        bench: the source, and what models are run on.
        model: the source, or what recovery made of it, still uncut.
        removed: the units that go.
        folder: where to write.
        target: where the result will lie, for its name.
        progress: called with the name of each stage.
        keep_unverified: go on if the proof fails.

    Returns:
        Where the removed model lies, and what was found.

    Raises:
        PruneError: the removed model fails the ONNX checker, or differs from the zeroed one.
    """
    analysis = model.analysis
    progress("removing")
    cut = saving.write(removal.remove(analysis, removed), folder / "made", target.name if target else "pruned.onnx")
    note = check(cut, bench.model.record)
    progress("proving that removed equals zeroed")
    exact = removed & ~analysis.approximate
    provable = cut
    if exact.sum() < removed.sum():
        provable = saving.write(removal.remove(analysis, exact), folder / "provable", "provable.onnx")
    zeroed = saving.write(removal.zero(analysis, exact), folder / "zeroed", "zeroed.onnx")
    ask = Questions(bench.proof, setups(bench.evidence.providers, ["all"]))
    ask.same(zeroed, provable, survivors(analysis, exact), bench.session)
    proof = ask.answers.surgery
    problem = "" if ask.answers else f"Removed and zeroed differ {ask.answers.reason}."
    if problem and not keep_unverified:
        raise PruneError(f"{problem} Nothing was written.")
    before = bench.model.record.nbytes
    after = sum(path.stat().st_size for path in cut.parent.rglob("*") if path.is_file())
    notes = " ".join(filter(None, (problem, note, _what_proves_little(proof), _what_is_not_proven(removed, exact))))
    return cut, Applied(str(target or ""), not problem, proof, {"before": before, "after": after}, notes)


def _what_is_not_proven(removed: Mask, exact: Mask) -> str:
    open_units = int(removed.sum() - exact.sum())
    if not open_units:
        return ""
    return (
        f"Not mask-equivalent: a normalisation runs over {open_units:,} of the {removed.sum():,} units removed, where"
        " removing is not zeroing. The proof covers the others; what these cost shows in the outputs alone."
    )


def _what_proves_little(proof: Proof) -> str:
    flat = sorted({c.output for found in proof.values() for c in found if not c.range and c.dtype.startswith("float")})
    if not flat:
        return ""
    return f"{', '.join(map(repr, flat))}: constant on every input tried, which proves little; give --data."


def check(path: Path, source: Record) -> str:
    """The full ONNX checker on a new model; a fault that the source has, too, is noted.

    Raises:
        PruneError: it fails where the source passes.
    """
    fault = _fault(path)
    if fault and (source.path is None or not _fault(source.path)):
        raise PruneError(f"The result fails the ONNX checker: {fault[:300]}")
    return "The ONNX checker finds the same fault in the input as in the output." if fault else ""


def _fault(path: Path) -> str:
    try:
        onnx.checker.check_model(files.native(path), full_check=True)
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def fidelity(bench: Bench, cut: Path) -> Fidelity:
    """What the cut cost: outputs, accuracy and latency, dense against pruned."""
    pruned = Session(cut, bench.evidence.providers[0])
    feeds = bench.feeds or bench.seeded
    found = compare(bench.session, pruned, feeds)
    scores = None
    if bench.metric is not None:
        outputs = [catalogue.collect(session, feeds) for session in (bench.session, pruned)]
        against = bench.labels if bench.labels is not None else outputs[0]
        scores = [catalogue.score(bench.metric, each, against) for each in outputs]
    name = bench.metric.name if bench.metric else ""
    seen = bench.seen and bool(bench.feeds)
    return Fidelity(found, rows(feeds), bool(bench.feeds), name, scores, [], seen).timed(
        against_dense(bench, cut, QUICKLY)
    )


def slower(bench: Bench, cut: Path, fidelity: Fidelity) -> tuple[Fidelity, str]:
    """What to say of a model that has become slower; what looks as if it had is timed for longer first."""
    if fidelity.latency_interval[0] > SLOWER:
        fidelity = fidelity.timed(against_dense(bench, cut, SURELY))
    if fidelity.latency_interval[0] <= SLOWER:
        return fidelity, ""
    told = f"The result takes {fidelity.latency_ratio:.0%} of the dense model's time on this machine:"
    return fidelity, f"{told} --latency chooses widths that are quick here, and --align 16 often does."
