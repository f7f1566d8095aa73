"""Fixtures that several modules use."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.latency.timing import Timing, summarise
from onnxprune.verification import proof
from tests.material import save, tiny


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A file with the small model, alone in its folder."""
    return save(tiny(), tmp_path / "mlp.onnx")


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only waits for a clock: a measured latency says nothing about bytes and refusals."""

    def against_dense(*given: object) -> list[Timing]:
        return summarise([[[1e-3]], [[1e-3]]])

    monkeypatch.setattr(proof, "against_dense", against_dense)
