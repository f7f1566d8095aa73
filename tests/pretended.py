"""An execution provider that is not there: the CPU under another name, which may take some nodes only, or err."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest

NAME = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
Takes = Callable[[str], bool]
Wrong = Callable[[list[Any]], list[Any]]


class Pretended:
    """A session on the CPU that says it is on CUDA.

    Args:
        takes: whether the provider runs nodes of this operator; the CPU runs the others.
        wrong: what it makes of the outputs.
        tells: whether this ONNX Runtime says what runs where; only a profile does otherwise.
    """

    takes: Takes = staticmethod(lambda kind: True)
    wrong: Wrong = staticmethod(lambda outputs: outputs)
    tells = True
    options: dict[str, Any] = {}  # noqa: RUF012 - of the last session

    def __init__(self, model: Any, options: ort.SessionOptions, providers: list[Any]) -> None:
        (self.provider, settings) = providers[0]
        type(self).options = settings
        whole = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        self.nodes = whole.graph.node
        self.inner = SESSION(model, options, providers=[CPU])
        if self.provider == NAME and self.tells:
            self.get_provider_graph_assignment_info = self._assigned

    def get_providers(self) -> list[str]:
        """As ONNX Runtime answers: the one that was asked for, then the CPU."""
        return [self.provider] if self.provider == CPU else [self.provider, CPU]

    def get_outputs(self) -> Any:
        """The model's outputs."""
        return self.inner.get_outputs()

    def run(self, names: Any, feed: Any) -> list[Any]:
        """Run on the CPU."""
        outputs = self.inner.run(names, feed)
        return self.wrong(outputs) if self.provider == NAME else outputs

    def end_profiling(self) -> str:
        """The CPU's profile, with the names of who is said to have run what."""
        path = Path(self.inner.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        for event in events:
            if self.takes(event.get("args", {}).get("op_name", "")) and event.get("cat") == "Node":
                event["args"]["provider"] = NAME
        path.write_text(json.dumps(events), encoding="utf-8")
        return str(path)

    def _assigned(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=NAME if self.takes(node.op_type) else CPU, get_nodes=lambda node=node: [node])
            for node in self.nodes
        ]


SESSION = ort.InferenceSession


def pretend(
    patch: pytest.MonkeyPatch,
    takes: Takes = lambda kind: True,
    wrong: Wrong = lambda outputs: outputs,
    *,
    tells: bool = True,
) -> type[Pretended]:
    """Let ONNX Runtime have a CUDA provider; returns the sessions' class."""
    made = type("Made", (Pretended,), {"takes": staticmethod(takes), "wrong": staticmethod(wrong), "tells": tells})
    patch.setattr(ort, "InferenceSession", made)
    patch.setattr(ort, "get_available_providers", lambda: [NAME, CPU])
    return made
