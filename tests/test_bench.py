"""`bench`: models timed against each other on the command line and from Python; no second is ever asserted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.data import runtime
from onnxprune.errors import PruneError, UsageError
from onnxprune.latency import apart, hardware
from tests.laws import parse
from tests.material import save, tiny
from tests.terminal import done, done_json, process, refused

HEAVY = """
heavy (float[1, 8, 64, 64] x) => (float[1, 8, 64, 64] y)
<float[64, 8, 3, 3] w1, float[64, 64, 3, 3] w2, float[8, 64, 3, 3] w3>
{ a = Conv<pads=[1,1,1,1]>(x, w1) b = Conv<pads=[1,1,1,1]>(a, w2) y = Conv<pads=[1,1,1,1]>(b, w3) }
"""
LIGHT = HEAVY.replace("64, 8, 3, 3", "4, 8, 3, 3").replace("64, 64, 3, 3", "4, 4, 3, 3").replace("8, 64, 3", "8, 4, 3")
STATES = """
states (float[batch, 4] x, float[2, batch, 4] h) => (float[2, batch, 4] y)
{ y = Add(x, h) }
"""
QUICK = ("--runs", 3, "--threads", 1)


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    return save(parse(HEAVY), tmp_path / "heavy.onnx")


@pytest.fixture
def light(tmp_path: Path) -> Path:
    return save(parse(LIGHT), tmp_path / "light.onnx")


def test_the_larger_model_is_slower_and_a_model_is_as_fast_as_itself(heavy: Path, light: Path) -> None:
    found = done_json("bench", heavy, light, heavy, "--threads", 1)
    first, second, again = found["measured"][0]["times"]
    assert first["ratio"] == 1
    assert second["interval"][1] < 0.5
    assert 0.9 < again["ratio"] < 1.1
    assert second["median"] < first["median"]
    for each in (first, second, again):
        low, high = each["quartiles"]
        assert 0 < each["quickest"] <= low <= each["median"] <= high


def test_every_provider_and_thread_count_is_measured_once(light: Path) -> None:
    found = done_json("bench", light, "--threads", 1, "--threads", 2, "--threads", 1, "--provider", "cpu", "--runs", 1)
    assert [(each["provider"], each["threads"]) for each in found["measured"]] == [("cpu", 1), ("cpu", 2)]
    machine = found["hardware"]["cpu"]
    assert machine["onnxruntime"] == runtime.version()
    assert machine["cores"] >= 1
    assert machine["processor"]


def test_the_terminal_shows_every_model_within_80_columns(heavy: Path, light: Path) -> None:
    shown = done("bench", heavy, light, *QUICK)
    assert max(map(len, shown.splitlines())) <= 80
    assert "1 thread" in shown
    assert shown.count(".onnx") == 2


def test_a_hostile_name_is_harmless(tmp_path: Path) -> None:
    model = save(tiny(), tmp_path / "[b]\x1b.onnx")
    shown = done("bench", model, *QUICK)
    assert "\x1b" not in shown
    assert "[b]?.onnx" in shown


def test_models_of_other_inputs_are_fed_their_own(mlp: Path, light: Path) -> None:
    found = done_json("bench", mlp, light, "--batch", 1, *QUICK)
    assert [model["inputs"] for model in found["models"]] == [{"x": [1, 8]}, {"x": [1, 8, 64, 64]}]


def test_a_batch_is_run_at_once_wherever_its_axis_lies(tmp_path: Path, mlp: Path) -> None:
    states = save(parse(STATES), tmp_path / "states.onnx")
    found = done_json("bench", mlp, states, "--batch", 5, *QUICK)
    assert [model["inputs"] for model in found["models"]] == [{"x": [5, 8]}, {"x": [5, 4], "h": [2, 5, 4]}]


def test_data_are_run_in_the_batches_asked_for(tmp_path: Path, mlp: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((6, 8), np.float32))
    words = ("bench", mlp, "--data", tmp_path / "d.npz", *QUICK)
    assert done_json(*words)["models"][0]["inputs"] == {"x": [1, 8]}
    assert done_json(*words, "--batch", 6)["models"][0]["inputs"] == {"x": [6, 8]}
    assert "no 7 rows" in refused(2, *words, "--batch", 7)


def test_a_given_shape_is_used(mlp: Path) -> None:
    assert done_json("bench", mlp, "--input-shape", "x:3x8", *QUICK)["models"][0]["inputs"] == {"x": [3, 8]}


def test_python_takes_models_in_memory_and_gives_what_json_does(mlp: Path) -> None:
    stages: list[str] = []
    found = onnxprune.bench([tiny(), mlp], runs=2, threads=[1], progress=stages.append)
    assert found.measured[0].timings[0].runs >= 2
    assert json.loads(json.dumps(found.to_json()))["measured"][0]["times"][1]["model"] == str(mlp)
    assert stages == ["reading", "reading", "timing on cpu, 1 thread"]


@pytest.mark.parametrize(
    ("code", "words", "line"),
    [
        (2, ["MLP", "--seconds", "nan"], "Seconds must be"),
        (2, ["MLP", "--seconds", "0"], "Seconds must be"),
        (2, ["MLP", "--seconds", "inf"], "Seconds must be"),
        (2, ["MLP", "--threads", "-1"], "--threads"),
        (2, ["MLP", "--threads", "99999"], "--threads"),
        (2, ["MLP", "--runs", "0"], "--runs"),
        (2, ["MLP", "--batch", "0"], "--batch"),
        (2, ["MLP", "--warmup", "-1"], "--warmup"),
        (2, ["MLP", "--input-shape", "q:1x8"], "No input is called 'q'"),
        (2, ["MLP", "--input-shape", "x:1x9"], "does not fit"),
        (2, ["LIGHT", "--batch", "2"], "of fixed size"),
        (2, [], "MODELS"),
        (1, ["MLP", "--batch", "99999999999"], "GiB"),
        (3, ["JUNK"], "not an ONNX model"),
        (4, ["MLP", "--provider", "warp"], "'warp' is not available"),
        (5, ["MLP", "GONE"], "Cannot read"),
        (2, ["MLP", "--json", "MLP.json", "--data", "MLP.json"], "named twice"),
    ],
)
def test_bad_input_is_one_line(mlp: Path, light: Path, code: int, words: list[str], line: str) -> None:
    save(b"junk", mlp.parent / "junk.onnx")
    places = {"MLP": mlp, "LIGHT": light, "JUNK": mlp.parent / "junk.onnx", "GONE": mlp.parent / "gone.onnx"}
    places["MLP.json"] = mlp.parent / "mlp.json"
    before = sorted(mlp.parent.iterdir())
    assert line in refused(code, "bench", *(places.get(word, word) for word in words))
    assert sorted(mlp.parent.iterdir()) == before


@pytest.mark.parametrize("wrong", [{"threads": []}, {"seconds": -1.0}, {"warmup": -1}, {"runs": 0}, {"batch": 0}])
def test_python_refuses_the_same(mlp: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        onnxprune.bench([mlp], **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="list of models"):
        onnxprune.bench(str(mlp))


def test_a_model_that_fails_is_refused(tmp_path: Path) -> None:
    broken = parse("broken (float[2, 3] x) => (float[4] y) <int64[1] s = {4}> { y = Reshape(x, s) }")
    refused(3, "bench", save(broken, tmp_path / "broken.onnx"), *QUICK)


def test_the_real_command_works_without_a_terminal(mlp: Path) -> None:
    done_apart = process("bench", mlp, *QUICK, NO_COLOR="1")
    assert done_apart.returncode == 0, done_apart.stderr
    assert done_apart.stderr == ""
    assert "\x1b" not in done_apart.stdout


def test_a_process_that_dies_is_an_error_and_so_is_what_it_raised() -> None:
    with pytest.raises(PruneError, match="ended early, with code -6"):
        apart.call(os.abort)
    with pytest.raises(onnxprune.ProviderError, match="warp"):
        apart.call(runtime.provider, "warp")


def test_what_native_code_prints_does_not_spoil_the_answer() -> None:
    assert apart.call(os.write, 1, b"noise\n") == 6


def test_a_device_that_cannot_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    hardware.accelerator.cache_clear()
    assert hardware.accelerator("CPUExecutionProvider") == ""
    assert hardware.accelerator("CUDAExecutionProvider") == "unknown"
    hardware.accelerator.cache_clear()


def test_models_written_for_a_newer_runtime_are_refused(tmp_path: Path) -> None:
    model = tiny()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 5
    refused(3, "bench", save(model, tmp_path / "new.onnx"), *QUICK)
