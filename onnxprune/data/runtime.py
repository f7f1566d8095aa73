"""The only door to ONNX Runtime: sessions on a named provider, without silent fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.errors import ProviderError, PruneError
from onnxprune.model import files
from onnxprune.model.record import Array

Feed = Mapping[str, Array]
SILENT = 4  # ONNX Runtime's log level "fatal": failures come back as exceptions
CPU = "CPUExecutionProvider"
ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
LEVELS = tuple(_LEVELS)
"""How far ONNX Runtime may optimise a graph; every level is right, and they differ by rounding."""
_POOL: list[int] = []  # the size of the pool that sessions share, once there is one
_RECORDING = "session.record_ep_graph_assignment_info"  # ONNX Runtime 1.24 and later; others take no notice


class ExecutionError(PruneError):
    """ONNX Runtime could not load or run a model."""


def provider(name: str) -> str:
    """The full name of an execution provider: ``cpu``, ``cuda``, or any that ONNX Runtime lists.

    Raises:
        ProviderError: this build of ONNX Runtime has no such provider.
    """
    available = ort.get_available_providers()
    shorts = {short(full): full for full in available}
    found = name if name in available else shorts.get(name.lower())
    if found is None:
        raise ProviderError(
            f"Execution provider {name!r} is not available in this ONNX Runtime {ort.__version__};"
            f" it has {', '.join(sorted(shorts))}."
        )
    return str(found)


def short(full: str) -> str:
    """How people name an execution provider: ``cuda`` for ``CUDAExecutionProvider``."""
    return full.removesuffix("ExecutionProvider").lower()


def share_pool(threads: int = 0) -> None:
    """Size the pool of threads that the sessions of this process share; the first call decides.

    Args:
        threads: how many work on one operator; 0: one per core.
    """
    if not _POOL:
        ort.set_global_thread_pool_sizes(threads, 1)
        _POOL.append(threads)


class Session:
    """A model loaded on one provider.

    Args:
        model: a path, or the bytes of a model without external data.
        on: a provider, as `provider` takes it.
        threads: of one operator; 0 shares one pool of threads with all other sessions of this process: two pools of
            which one still spins while the other works would make each other slow.
        optimization: how far ONNX Runtime may fuse and reorder, one of `LEVELS`.
        profile: where ONNX Runtime writes which node ran where and for how long: the beginning of a file name.
        exact: whether CUDA must keep all bits of a float; by default it need not, and is faster.

    Raises:
        ProviderError: the provider is missing, or ONNX Runtime fell back to another.
        ExecutionError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: Path | bytes,
        on: str = "cpu",
        *,
        threads: int = 0,
        optimization: str = "all",
        profile: Path | None = None,
        exact: bool = True,
    ) -> None:
        wanted = provider(on)
        self.name = "a part of the model" if isinstance(model, bytes) else model.name
        source = model if isinstance(model, bytes) else files.native(model)
        options = ort.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = threads
        if _POOL:  # ONNX Runtime takes no session with threads of its own once there is a shared pool
            options.use_per_session_threads = False
        options.graph_optimization_level = _LEVELS[optimization]
        if wanted != CPU:
            options.add_session_config_entry(_RECORDING, "1")
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        settings: dict[str, str] = {"use_tf32": "0"} if wanted == "CUDAExecutionProvider" and exact else {}
        try:
            self._session = ort.InferenceSession(source, options, providers=[(wanted, settings)])
        except Exception as error:
            raise ExecutionError(f"ONNX Runtime cannot load {self.name!r}: {_one_line(error)}") from error
        self.provider = wanted
        self._refuse_fallback()
        self.outputs = [output.name for output in self._session.get_outputs()]

    def _refuse_fallback(self) -> None:
        first = self._session.get_providers()[0]
        placed = self.assigned() or []
        if first != self.provider:
            raise ProviderError(f"ONNX Runtime fell back from {self.provider} to {first}.")
        if placed and all(provider != self.provider for _, provider in placed):
            raise ProviderError(
                f"ONNX Runtime lists {self.provider} and runs nothing on it: all {len(placed)} nodes of"
                f" {self.name!r} fell back to {placed[0][1]}."
            )

    def assigned(self) -> list[tuple[str, str]] | None:
        """Each node's name and the provider that it was given to; ``None`` if this ONNX Runtime does not tell."""
        if self.provider == CPU or not hasattr(self._session, "get_provider_graph_assignment_info"):
            return None
        parts = self._session.get_provider_graph_assignment_info()
        return [(node.name, part.ep_name) for part in parts for node in part.get_nodes()]

    def profile(self) -> Path:
        """Stop profiling; the file that says what ran where."""
        return Path(self._session.end_profiling())

    def run(self, feed: Feed) -> list[Any]:
        """All outputs, in the model's order.

        Raises:
            ExecutionError: the model fails on this input.
        """
        try:
            return list(self._session.run(None, dict(feed)))
        except Exception as error:
            raise ExecutionError(f"ONNX Runtime cannot run {self.name!r}: {_one_line(error)}") from error

    def bound(self, feed: Feed) -> Callable[[], object]:
        """One run without the copies that no deployment would make: on CUDA, what goes in and out stays there.

        Raises:
            ExecutionError: the model fails on this input.
        """
        given = dict(feed)
        tensors = all(output.type.startswith("tensor") for output in self._session.get_outputs())
        if self.provider not in ON_CUDA or not tensors or any(array.dtype == object for array in given.values()):
            return lambda: self._session.run(None, given)
        binding = self._session.io_binding()
        for name, array in given.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for name in self.outputs:
            binding.bind_output(name, "cuda")

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


def version() -> str:
    """ONNX Runtime's version."""
    return str(ort.__version__)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
