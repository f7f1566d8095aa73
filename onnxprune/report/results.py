"""Results of the verbs: plain, typed, and ready to become JSON."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

from onnxprune.algebra.analysis import Model
from onnxprune.algebra.cost import Cost
from onnxprune.algebra.explain import Explainer
from onnxprune.data import runtime
from onnxprune.latency.timing import Timing
from onnxprune.plan import Plan
from onnxprune.report.details import Details
from onnxprune.verification.comparison import Comparison
from onnxprune.verification.questions import Answers

Proof = Mapping[str, list[Comparison]]
FORMAT, VERSION = "onnxprune-result", 1
"""What the JSON of a pruning calls itself, so that it can be told from other files."""


def environment() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: version(name) for name in ("onnxprune", "onnx", "numpy")}
    # builds of ONNX Runtime for other hardware are packages of other names
    return {
        **packages,
        "onnxruntime": runtime.version(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _worst(proof: Proof) -> float:
    return max((c.relative for found in proof.values() for c in found), default=0.0)


@dataclass(frozen=True)
class Inspection:
    """What is in a model, what can go, and why the rest cannot.

    Attributes:
        model: its name, opsets, nodes, operators, inputs and outputs.
        cost: as it is.
        least: with every group at its minimum of one unit.
        groups: units and weight axes of each group.
        staying: ``(reason, weights, parameters)`` of what no unit touches.
    """

    model: dict[str, Any]
    cost: Cost
    least: Cost
    groups: list[dict[str, Any]]
    staying: list[tuple[str, int, int]]

    @classmethod
    def of(cls, model: Model, cost: Cost, least: Cost, explainer: Explainer) -> Inspection:
        """Gather everything about a model."""
        graph, analysis = model.graph, model.analysis
        groups = [
            {
                "id": g,
                "kind": analysis.kind(g),
                "units": len(analysis.members(g)),
                "axes": [f"{name}:{axis}" for name, axis in analysis.weight_axes_of(g)],
            }
            for g in range(analysis.groups)
        ]
        facts = {
            "name": model.record.name,
            "ir_version": model.record.proto.ir_version,
            "producer": f"{model.record.proto.producer_name} {model.record.proto.producer_version}".strip(),
            "opsets": {domain or "ai.onnx": version for domain, version in graph.opsets.items()},
            "nodes": len(graph.ops),
            "operators": dict(Counter(op.kind for op in graph.ops).most_common()),
            "inputs": {v.name: list(graph.shapes.get(v.name, ())) for v in graph.inputs},
            "outputs": {v.name: list(graph.shapes.get(v.name, ())) for v in graph.proto.output},
        }
        return cls(facts, cost, least, groups, explainer.staying())

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        staying = [{"why": why, "weights": n, "params": p} for why, n, p in self.staying]
        found = {"model": self.model, "cost": self.cost.to_json(), "least": self.least.to_json()}
        return {**found, "groups": self.groups, "staying": staying}


@dataclass(frozen=True)
class Applied:
    """A plan, carried out.

    Attributes:
        out: the file written.
        verified: whether removed equals zeroed on every provider.
        proof: the comparisons, by provider.
        bytes: on disk, before and after.
        note: what else the user should know.
    """

    out: str
    verified: bool
    proof: Proof = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def nothing(cls, out: str, why: str) -> Applied:
        """Nothing was to be removed; the output is the input."""
        return cls(out, True, note=f"{why} The output is the input, byte for byte.")

    def noting(self, note: str) -> Applied:
        """The same, with one more note."""
        return replace(self, note=" ".join(filter(None, (self.note, note))))

    @property
    def error(self) -> float:
        """The largest difference between removed and zeroed, as a fraction of the output's range."""
        return _worst(self.proof)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        proof = {name: [c.to_json() for c in found] for name, found in self.proof.items()}
        return {
            "out": self.out,
            "verified": self.verified,
            "removed_vs_zeroed": {"max_relative_error": self.error, "providers": proof},
            "bytes": self.bytes,
            "note": self.note,
        }


@dataclass(frozen=True)
class Fidelity:
    """Dense against pruned.

    Attributes:
        outputs: how each output differs.
        rows: of input.
        real: whether they were the user's data; seeded noise otherwise.
        metric: what was measured with labels; empty without.
        scores: what it gave, dense and pruned.
        latency_ms: median milliseconds of one run of one row, dense and pruned, measured in turns.
        seen: whether the rows calibrated, too, which flatters.
        latency_ratio, latency_interval: how much of the dense model's time the pruned one takes, and where that lies
            with 95 % confidence.
        latency_quartiles_ms: what a quarter of the runs stays below, and what a quarter exceeds, dense and pruned.
    """

    outputs: list[Comparison]
    rows: int
    real: bool
    metric: str
    scores: list[float] | None
    latency_ms: list[float]
    seen: bool = False
    latency_quartiles_ms: Sequence[tuple[float, float]] = ()
    latency_ratio: float = 1.0
    latency_interval: tuple[float, float] = (1.0, 1.0)

    def timed(self, timings: Sequence[Timing]) -> Fidelity:
        """The same with better timings, of the dense model and of the pruned one."""
        return replace(
            self,
            latency_ms=[timing.median for timing in timings],
            latency_quartiles_ms=[timing.quartiles for timing in timings],
            latency_ratio=timings[-1].ratio,
            latency_interval=timings[-1].interval,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "outputs": [c.to_json() for c in self.outputs]}


@dataclass(frozen=True)
class Pruned:
    """What `prune` did."""

    plan: Plan
    applied: Applied
    fidelity: Fidelity | None
    out: str
    details: Details = field(default_factory=Details)

    def to_json(self) -> dict[str, Any]:
        """As plain data; the plan's index lists are left to the plan itself."""
        groups = [{**g, "kept": len(g["kept"])} for g in self.plan.groups]
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.plan.source,
            "recipe": self.plan.recipe,
            "cost": self.plan.cost,
            "groups": groups,
            "recovery": self.plan.recovery,
            **self.applied.to_json(),
            "fidelity": self.fidelity.to_json() if self.fidelity else None,
            "details": self.details.to_json(),
            "environment": environment(),
        }


@dataclass(frozen=True)
class Verified:
    """Whether two models give the same outputs, or one gives the same ones everywhere.

    Attributes:
        answers: to each question by itself.
        against: what was done to the reference.
        problem: what else is wrong.
    """

    answers: Answers
    against: str = ""
    problem: str = ""

    def __bool__(self) -> bool:
        return not self.problem and bool(self.answers)

    @property
    def proof(self) -> Proof:
        """The candidate against the reference, by provider."""
        return self.answers.surgery

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        found = {"equal": bool(self), "reference": self.against, "problem": self.problem}
        return {**found, **self.answers.to_json(), "environment": environment()}


@dataclass(frozen=True)
class Ran:
    """What a pass did."""

    name: str
    out: str
    changed: bool
    numbers: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)
