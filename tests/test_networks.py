"""Whole networks: the models that ship, and classic architectures with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from tests.benchmarks import light

MODELS = Path(__file__).parents[1] / "models"
SHARE = {"mlp": 0.49, "cnn": 0.74, "resnet": 0.74, "mobilenet": 0.71}
SMALL = {"densenet121": 0.70, "inception_v1": 0.70, "inception_v2": 0.70, "resnet50": 0.70, "shufflenet": 0.60,
         "squeezenet": 0.62}  # fmt: skip


def half(path: Path, out: Path) -> float:
    """Prune half of every group; the share of the parameters that went."""
    result = onnxprune.prune(path, out, recover="none", ratio=0.5, align=1)
    assert result.applied.verified
    assert result.applied.error < 1e-5
    return 1 - result.plan.cost["after"]["params"] / result.plan.cost["before"]["params"]


@pytest.mark.parametrize("name", SHARE)
def test_models_that_ship_lose_what_the_algebra_allows(name: str, tmp_path: Path) -> None:
    assert half(MODELS / f"{name}.onnx", tmp_path / "out.onnx") >= SHARE[name]


@pytest.mark.parametrize("name", SMALL)
def test_classic_architectures_lose_what_the_algebra_allows(name: str, tmp_path: Path) -> None:
    onnx.save(light.network(name), tmp_path / "model.onnx")
    assert half(tmp_path / "model.onnx", tmp_path / "out.onnx") >= SMALL[name]


def test_real_images_and_labels_are_measured(tmp_path: Path) -> None:
    data = MODELS / "data"
    result = onnxprune.prune(
        MODELS / "cnn.onnx", tmp_path / "out.onnx", recover="none", macs=0.9, align=1, data=data / "test.npz",
        labels=data / "test-labels.npy",
    )  # fmt: skip
    assert result.fidelity
    assert result.fidelity.real
    assert result.fidelity.rows == 2000
    assert result.fidelity.scores
    dense, pruned = result.fidelity.scores
    assert dense > 0.92
    assert pruned > 0.5
    assert result.plan.cost["after"]["macs"] <= 0.9 * result.plan.cost["before"]["macs"]


def test_the_plan_says_which_slices_were_kept(tmp_path: Path) -> None:
    source, out = MODELS / "resnet.onnx", tmp_path / "out.onnx"
    plan = onnxprune.prune(source, out, recover="none", ratio=0.4, align=1).plan
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    assert plan.keep
    for name, value in before.items():
        for axis, kept in plan.keep.get(name, {}).items():
            value = np.take(value, kept, axis)
        assert after[name].tobytes() == value.tobytes()
