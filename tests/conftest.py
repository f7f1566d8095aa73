"""Fixtures that several modules use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from onnxprune.latency.timing import Contender, Limits, Timing, summarise
from onnxprune.verification import proof
from tests.material import save, tiny


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A file with the small model, alone in its folder."""
    return save(tiny(), tmp_path / "mlp.onnx")


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only waits for a clock: a measured latency says nothing about bytes and refusals."""

    def interleave(contenders: Sequence[Contender], limits: Limits, seed: int) -> list[Timing]:
        return summarise([[[1e-3]] for _ in contenders])

    monkeypatch.setattr(proof, "interleave", interleave)
