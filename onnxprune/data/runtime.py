"""The only door to ONNX Runtime: sessions on a named provider, without silent fallback, and timing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.errors import ProviderError, PruneError
from onnxprune.model import files
from onnxprune.model.record import Array

Feed = Mapping[str, Array]
SILENT = 4  # ONNX Runtime's log level "fatal": failures come back as exceptions


class ExecutionError(PruneError):
    """ONNX Runtime could not load or run a model."""


def provider(name: str) -> str:
    """The full name of an execution provider: ``cpu``, ``cuda``, or any that ONNX Runtime lists.

    Raises:
        ProviderError: this build of ONNX Runtime has no such provider.
    """
    available = ort.get_available_providers()
    short = {full.removesuffix("ExecutionProvider").lower(): full for full in available}
    found = name if name in available else short.get(name.lower())
    if found is None:
        raise ProviderError(
            f"Execution provider {name!r} is not available in this ONNX Runtime {ort.__version__};"
            f" it has {', '.join(sorted(short))}."
        )
    return str(found)


class Session:
    """A model loaded on one provider.

    Args:
        model: a path, or the bytes of a model without external data.
        on: a provider, as `provider` takes it.
        threads: of one operator; 0 lets ONNX Runtime choose.
        optimised: whether ONNX Runtime may fuse and reorder; both ways are right, and differ by rounding.

    Raises:
        ProviderError: the provider is missing, or ONNX Runtime fell back to another.
        ExecutionError: the model cannot be loaded.
    """

    def __init__(self, model: Path | bytes, on: str = "cpu", *, threads: int = 0, optimised: bool = True) -> None:
        wanted = provider(on)
        self.name = "a part of the model" if isinstance(model, bytes) else model.name
        source = model if isinstance(model, bytes) else files.native(model)
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings: dict[str, str] = {"use_tf32": "0"} if wanted == "CUDAExecutionProvider" else {}
        try:
            self._session = ort.InferenceSession(source, options, providers=[(wanted, settings)])
        except Exception as error:
            raise ExecutionError(f"ONNX Runtime cannot load {self.name!r}: {_one_line(error)}") from error
        if self._session.get_providers()[0] != wanted:
            raise ProviderError(f"ONNX Runtime fell back from {wanted} to {self._session.get_providers()[0]}.")
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in the model's order.

        Raises:
            ExecutionError: the model fails on this input.
        """
        try:
            return list(self._session.run(None, dict(feed)))
        except Exception as error:
            raise ExecutionError(f"ONNX Runtime cannot run {self.name!r}: {_one_line(error)}") from error


def latency(sessions: Sequence[Session], feed: Feed, *, seconds: float = 1.0, least: int = 5) -> list[float]:
    """The median milliseconds of one run of each session, taken in turns so that all share the machine's moods."""
    for session in sessions:
        session.run(feed)
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < least:
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(feed)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) * 1e3 for taken in times]


def version() -> str:
    """ONNX Runtime's version."""
    return str(ort.__version__)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
