"""Structured pruning of ONNX models on the graph alone: plan, remove, prove.

The verbs of the command line as functions, for instance::

    import onnxprune

    result = onnxprune.prune("model.onnx", "small.onnx", macs=0.5, data="calibration.npz")
    print(result.applied.error)
"""

from __future__ import annotations

from onnxprune.api import apply as apply
from onnxprune.api import explainer as explainer
from onnxprune.api import inspect as inspect
from onnxprune.api import plan as plan
from onnxprune.api import prune as prune
from onnxprune.api import run as run
from onnxprune.comparing.verb import compare as compare
from onnxprune.errors import FileError as FileError
from onnxprune.errors import ProviderError as ProviderError
from onnxprune.errors import PruneError as PruneError
from onnxprune.errors import RefusedError as RefusedError
from onnxprune.errors import UsageError as UsageError
from onnxprune.latency.bench import bench as bench
from onnxprune.plan import Plan as Plan
from onnxprune.replay import read_plan as read_plan
from onnxprune.sensitivity import sensitivity as sensitivity
from onnxprune.verification.verb import verify as verify
from onnxprune.wishes import Recipe as Recipe

__all__ = [
    "FileError",
    "Plan",
    "ProviderError",
    "PruneError",
    "Recipe",
    "RefusedError",
    "UsageError",
    "apply",
    "bench",
    "compare",
    "explainer",
    "inspect",
    "plan",
    "prune",
    "read_plan",
    "run",
    "sensitivity",
    "verify",
]
