"""CUDA: with a device, everything; without one, all that can be told without it, and why the rest is left out.

``python -m tests.cuda`` does the same checks for five models, with timings and a table.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.data import runtime
from onnxprune.data.runtime import Session
from onnxprune.errors import ProviderError, PruneError
from onnxprune.report import results
from tests import cuda
from tests.material import save, tiny
from tests.pretended import pretend
from tests.terminal import done, run


def missing() -> str:
    """Why nothing can run on CUDA here; empty if it can."""
    try:
        Session(tiny().SerializeToString(), "cuda")
    except PruneError as error:
        return str(error)
    return ""


WHY_NOT = missing()
needs_cuda = [pytest.mark.cuda, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


@pytest.mark.parametrize("model", [pytest.param(path, marks=needs_cuda, id=path.stem) for path in cuda.MODELS])
def test_cuda_gives_what_the_cpu_gives_and_runs_nearly_all_of_it(model: Path) -> None:
    found = cuda.checked(model, "cuda", seconds=0.5)
    assert found["equal"]
    assert found["share_of_macs"] > 0.9


# ---- without a device ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not WHY_NOT, reason="this machine has CUDA")
def test_the_command_says_in_one_line_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main([]) == ProviderError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "Install onnxruntime-gpu" in err
    assert WHY_NOT in err


def test_five_models_of_different_kinds_are_checked() -> None:
    assert len(cuda.MODELS) == 5
    assert all(path.exists() for path in cuda.MODELS)


@pytest.mark.usefixtures("instant")
def test_the_command_says_all_there_is_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU against itself, as it does on CUDA."""
    model = save(tiny(), tmp_path / "tiny.onnx")
    to = tmp_path / "found.json"
    words = [str(model), "--provider", "cpu", "--seconds", "0.1", "--json", str(to)]
    assert cuda.main(words) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["model", "removed≡zeroed"]
    assert row.split()[0] == "tiny"
    (found,) = json.loads(to.read_text(encoding="utf-8"))["models"]
    assert found["equal"]
    assert found["share_of_macs"] == 1
    assert all(time > 0 for time in found["latency_ms"])
    assert found["details"]["pruned"]["placement"]["cpu"]


@pytest.mark.usefixtures("instant")
def test_the_command_fails_where_a_provider_errs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"model": "m", "equal": False, "removed_vs_zeroed": 0.0, "dense": 0.01, "pruned": 0.0}
    more = {"share_of_macs": 1.0, "latency_ms": [2.0, 1.0]}
    monkeypatch.setattr(cuda, "checked", lambda *given: {**found, **more})
    assert cuda.main([str(tmp_path)]) == 1
    assert "m DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cuda", "CUDA", "Cuda", "CUDAExecutionProvider"])
def test_cuda_is_found_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    assert runtime.provider(name) == "CUDAExecutionProvider"


def test_comparisons_keep_all_bits_of_a_float(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretend(monkeypatch)
    Session(mlp, "cuda")
    assert made.options == {"use_tf32": "0"}
    Session(mlp, "cpu")
    assert made.options == {}


@pytest.mark.usefixtures("instant")
def test_prune_proves_itself_on_every_provider(mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    out = tmp_path / "out.onnx"
    words = ("prune", mlp, "-o", out, "--ratio", "0.5", "--recover", "none", "--provider", "cpu", "--provider", "cuda")
    assert "Removed ≡ zeroed on cpu, cuda" in done(*words)


@pytest.mark.usefixtures("instant")
def test_prune_writes_nothing_where_the_provider_runs_nothing(
    mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, lambda kind: False)
    out = tmp_path / "out.onnx"
    result = run("prune", mlp, "-o", out, "--ratio", "0.5", "--recover", "none", "--provider", "cuda")
    assert result.exit_code == 4
    assert not out.exists()


def test_a_provider_that_does_not_load_says_why(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a library of CUDA's is not found, and ONNX Runtime goes on without it."""
    made = pretend(monkeypatch)
    monkeypatch.setattr(made, "get_providers", lambda self: ["CPUExecutionProvider"])
    result = run("verify", mlp, "--provider", "cuda")
    assert result.exit_code == 4
    assert "fell back from CUDAExecutionProvider" in result.stderr


def test_a_build_of_another_package_name_can_tell_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA, the package is called onnxruntime-gpu, and no package is called onnxruntime."""

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(results, "version", version)
    assert results.environment()["onnxruntime"] == ort.__version__


def test_a_wrong_kernel_is_a_failure(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of one row is off by a hundredth of the range."""

    def wrong(outputs: list[np.ndarray]) -> list[np.ndarray]:
        spoilt = [output.copy() for output in outputs]
        spoilt[0].flat[0] += np.float32(0.01 * np.ptp(spoilt[0]))
        return spoilt

    pretend(monkeypatch, wrong=wrong)
    assert not onnxprune.verify(mlp, providers=["cuda"])
