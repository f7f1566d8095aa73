"""Fixtures that several modules use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from onnxprune.data import runtime
from onnxprune.data.runtime import Feed, Session
from tests.material import save, tiny


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A file with the small model, alone in its folder."""
    return save(tiny(), tmp_path / "mlp.onnx")


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only waits for a clock: a measured latency says nothing about bytes and refusals."""

    def latency(sessions: Sequence[Session], feed: Feed, **given: float) -> list[float]:
        return [1.0 for _ in sessions]

    monkeypatch.setattr(runtime, "latency", latency)
