"""Recovery on the command line: data in, tables and JSON out, bad wishes refused, the same bytes on any machine."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.budget.study import Study
from onnxprune.data.runtime import Session
from onnxprune.recovery.methods import METHODS
from onnxprune.verification import proof
from onnxprune.wishes import SCHEDULES
from tests.laws import parse
from tests.linears import batches
from tests.material import save, snapshot, within
from tests.studied import placed, redundant, rows
from tests.terminal import done, done_json, process, refused

instant = pytest.mark.usefixtures("instant")
PRUNE = ("--ratio", "0.5", "--align", "1")
ROWS = 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, data with labels that it mostly gets right, and other data."""
    model, _ = placed(tmp_path, redundant(), x=rows(ROWS))
    answers = Session(model).run({"x": rows(ROWS)})[0].argmax(1)
    answers[::10] = (answers[::10] + 1) % 4
    np.save(tmp_path / "labels.npy", answers)
    np.savez(tmp_path / "other.npz", x=rows(60, seed=9))
    np.savez(tmp_path / "mixed.npz", x=np.concatenate([rows(60, seed=9), rows(ROWS)[17:19]]))
    np.savez(tmp_path / "few.npz", x=rows(10))
    np.save(tmp_path / "short.npy", answers[:-1])
    np.save(tmp_path / "high.npy", answers + 3)
    np.save(tmp_path / "matrix.npy", np.zeros((ROWS, 3, 2), dtype=np.int64))
    np.save(tmp_path / "floats.npy", answers + 0.5)
    return tmp_path


def pruned(folder: Path, *words: object, data: str = "data.npz") -> Any:
    given = ("--data", folder / data) if data else ()
    return done_json("prune", folder / "model.onnx", "-o", folder / "out.onnx", *given, *PRUNE, *words)


@instant
@pytest.mark.parametrize(("samples", "left"), [(50, 150), (150, 100), (500, 100)])
def test_labelled_data_are_split_and_half_are_left(folder: Path, samples: int, left: int) -> None:
    found = pruned(folder, "--labels", folder / "labels.npy", "--samples", samples)
    assert found["recovery"]["samples"] == ROWS - left
    assert found["fidelity"]["rows"] == left
    assert found["fidelity"]["metric"] == "accuracy"
    assert found["fidelity"]["scores"][0] == pytest.approx(0.9, abs=0.05)
    assert found["fidelity"]["seen"] is False


@instant
def test_what_evaluates_never_calibrates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the study is given and rows that the result is measured on, taken together, are the data."""
    seen: dict[str, list[bytes]] = {}
    fidelity = proof.fidelity

    def spy(model: Any, feeds: Any, *more: Any, **words: Any) -> Any:
        seen["calibration"] = [row.tobytes() for feed in feeds for row in feed["x"]]
        return Study(model, feeds, *more, **words)

    def look(bench: Any, cut: Path) -> Any:
        seen["evaluation"] = [row.tobytes() for feed in bench.feeds for row in feed["x"]]
        return fidelity(bench, cut)

    monkeypatch.setattr("onnxprune.budget.decision.Study", spy)
    monkeypatch.setattr(proof, "fidelity", look)
    for words in (("--labels", folder / "labels.npy"), ("--samples", 64)):
        pruned(folder, *words)
        assert not set(seen["calibration"]) & set(seen["evaluation"])
        assert sorted(seen["calibration"] + seen["evaluation"]) == sorted(row.tobytes() for row in rows(ROWS))
    pruned(folder, "--allow-overlap", "--samples", 64)
    assert set(seen["calibration"]) < set(seen["evaluation"])


@instant
def test_labels_follow_their_rows(folder: Path) -> None:
    """Were they mixed up, the dense model would guess."""
    for seed in range(3):
        found = pruned(folder, "--labels", folder / "labels.npy", "--samples", 64, "--seed", seed)
        assert found["fidelity"]["scores"][0] > 0.85


@instant
def test_evaluation_data_that_calibrate_are_refused_unless_that_is_asked_for(folder: Path) -> None:
    before = snapshot(folder)
    words = ("prune", folder / "model.onnx", "-o", folder / "out.onnx", "--data", folder / "data.npz", *PRUNE)
    line = refused(2, *words, "--eval", folder / "mixed.npz")
    assert "2 rows of the evaluation data are in the calibration data" in line
    assert "--allow-overlap" in line
    assert snapshot(folder) == before
    found = done_json(*words, "--eval", folder / "mixed.npz", "--allow-overlap")
    assert found["fidelity"]["rows"] == 62
    found = done_json(*words, "--eval", folder / "other.npz")
    assert found["fidelity"]["rows"] == 60
    assert found["recovery"]["samples"] == ROWS
    assert found["fidelity"]["seen"] is False


@instant
def test_where_nothing_is_left_to_evaluate_that_is_said(folder: Path) -> None:
    found = pruned(folder, data="few.npz")
    assert found["fidelity"]["seen"] is True
    assert found["fidelity"]["rows"] == found["recovery"]["samples"] == 10
    words = ("prune", folder / "model.onnx", "-o", folder / "out.onnx", "--data", folder / "few.npz", *PRUNE)
    assert "on 10 rows of the calibration data itself, which flatters (give --eval)" in " ".join(done(*words).split())
    assert "flatters" not in done(*words, "--samples", 5)
    assert "flatters" not in done(*words, "--recover", "none")


@instant
def test_the_result_says_how_it_was_recovered(folder: Path) -> None:
    found = pruned(folder, "--samples", 100)["recovery"]
    assert found.keys() == {"recover", "data", "samples", "criterion", "allocation", "sha256", "held_out", "layers"}
    assert (found["recover"], found["data"], found["samples"]) == ("auto", "given", 100)
    assert (found["criterion"], found["allocation"]) == ("obs", "scores")
    assert 0 < found["held_out"]["error"] < 0.05
    assert 0.8 < found["held_out"]["agreement"] <= 1
    (layer,) = found["layers"]
    assert layer.keys() == {"layer", "ridge", "before", "after", "note"}
    assert 0 <= layer["after"] < layer["before"]
    blind = pruned(folder, data="")["recovery"]
    assert (blind["data"], blind["samples"]) == ("synthetic", 768)
    means = pruned(folder, "--recover", "mean")["recovery"]
    assert means["layers"][0]["ridge"] == "inf"
    assert pruned(folder, "--recover", "none")["recovery"] == {}


@instant
@pytest.mark.parametrize("words", [(), ("--labels", "labels.npy"), ("--samples", "150"), ("--recover", "none")])
def test_tables_fit_into_80_columns(folder: Path, words: tuple[str, ...]) -> None:
    given = [folder / word if word.endswith(".npy") else word for word in words]
    text = done(
        "prune", folder / "model.onnx", "-o", folder / "out.onnx", "--data", folder / "data.npz", *given, *PRUNE
    )
    lines = [line for line in text.splitlines() if str(folder) not in line]
    assert max(map(len, lines)) <= 80
    assert "Removed ≡ zeroed on cpu" in text
    for word in ("parameters", "MACs", "bytes", "latency, 1 row (ms)", *(["accuracy"] if "--labels" in words else [])):
        assert re.search(rf"^{re.escape(word)} ", text, re.MULTILINE), word
    assert ("held-out data" in text) == ("none" not in words)


@pytest.mark.parametrize("verb", ["prune", "plan"])
def test_the_help_names_every_way_to_recover_and_spend(verb: str) -> None:
    text = done(verb, "--help")
    assert max(map(len, text.splitlines())) <= 80
    flat = re.sub(r"\s+", "", text)
    assert f"[{'|'.join(METHODS)}]" in flat
    assert f"[{'|'.join(SCHEDULES)}]" in flat
    for option in ("--data", "--samples", "--max-drop", "--step", "--bytes", "--criterion", "--seed"):
        assert f"  {option} " in text
    for option in ("--labels", "--metric", "--eval", "--allow-overlap"):
        assert (f"  {option} " in text) == (verb == "prune")


# Words in braces are names in the folder. Each case is: exit code, the options after `prune model -o out`, words.
REFUSED: list[tuple[int, str, str]] = [
    (2, "--macs .5 --step 3", "A step is written K/N"),
    (2, "--macs .5 --step 3/2", "A step is written K/N"),
    (2, "--macs .5 --step 0/2", "A step is written K/N"),
    (2, "--macs .5 --step=-1/2", "A step is written K/N"),
    (2, "--macs .5 --step 1/x", "A step is written K/N"),
    (2, "--max-drop .1 --step 1/2", "cannot be divided into steps"),
    (2, "--macs .5 --samples 0", "samples must be at least 1, not 0"),
    (2, "--macs .5 --samples=-5", "samples must be at least 1"),
    (2, "--macs .5 --samples x", "'x' is not a valid integer"),
    (2, "--max-drop 2", "max_drop must lie in [0, 1], not 2.0"),
    (2, "--max-drop=-0.1", "max_drop must lie in [0, 1]"),
    (2, "--max-drop nan", "max_drop must lie in [0, 1]"),
    (2, "--max-drop .1 --macs .5", "got macs, max_drop"),
    (2, "--max-drop .1 --recover none --criterion nope", "No criterion is called 'nope'"),
    (2, "--bytes 1.5", "bytes must lie in [0, 1]"),
    (1, "--bytes .01", "bytes cannot be brought to 0.01"),
    (2, "--macs .5 --recover nope", "'nope' is not one of"),
    (2, "--macs .5 --schedule nope", "'nope' is not one of"),
    (2, "--macs .5 --criterion obs --recover none", "'obs' needs data: give --data"),
    (2, "--macs .5 --criterion vote(l1,obs) --recover none", "'vote(l1,obs)' needs data: give --data"),
    (2, "--macs .5 --criterion vote(l1,nope) --data {data.npz}", "'nope'"),
    (2, "--macs .5 --criterion vote(l1 --data {data.npz}", "vote(l1"),
    (2, "--macs .5 --data {data.npz} --metric nope", "No metric is called 'nope'"),
    (2, "--macs .5 --data {data.npz} --metric accuracy", "'accuracy' needs labels: give --labels"),
    (2, "--max-drop .1 --data {data.npz} --metric f1", "'f1' needs labels: give --labels"),
    (2, "--macs .5 --labels {labels.npy}", "Labels need data"),
    (2, "--macs .5 --data {data.npz} --labels {short.npy}", "one per row of data"),
    (1, "--macs .5 --data {data.npz} --labels {matrix.npy}", "gives 100 answers for 600 labels"),
    (2, "--macs .5 --data {data.npz} --labels {floats.npy}", "whole numbers"),
    (2, "--macs .5 --data {data.npz} --labels {high.npy}", "4 classes"),
    (2, "--macs .5 --data {data.npz} --eval {other.npz} --labels {labels.npy}", "one per row of data"),
    (2, "--macs .5 --data {data.npz} --eval {data.npz}", "200 rows of the evaluation data"),
    (5, "--macs .5 --data {data.npz} --eval {nope.npz}", "No such file"),
    (5, "--macs .5 --data {nope.npz}", "No such file"),
    (2, "--macs .5 --data {labels.npy}", "labels.npy"),
]


@instant
@pytest.mark.parametrize(("code", "options", "words"), REFUSED, ids=[options for _, options, _ in REFUSED])
def test_a_wish_that_makes_no_sense_is_one_line(folder: Path, code: int, options: str, words: str) -> None:
    given = [word.replace("{", f"{folder}/").replace("}", "") for word in options.split()]
    before = snapshot(folder)
    with within(10):
        assert words in refused(code, "prune", folder / "model.onnx", "-o", folder / "out.onnx", *given)
    assert snapshot(folder) == before


@instant
def test_a_plan_that_was_made_with_data_asks_for_them(folder: Path) -> None:
    done("plan", folder / "model.onnx", "-o", folder / "plan.json", "--data", folder / "data.npz", *PRUNE)
    words = ("apply", folder / "model.onnx", folder / "plan.json", "-o", folder / "out.onnx")
    before = snapshot(folder)
    assert "The plan was made with data: give the same --data, or --recover none" in refused(2, *words)
    assert snapshot(folder) == before
    done(*words, "--data", folder / "data.npz")
    first = (folder / "out.onnx").read_bytes()
    pruned(folder)
    assert (folder / "out.onnx").read_bytes() == first
    done("verify", folder / "model.onnx", folder / "out.onnx", "--plan", folder / "plan.json")
    done(*words, "--recover", "none")
    assert (folder / "out.onnx").read_bytes() != first
    done("verify", folder / "model.onnx", folder / "out.onnx", "--plan", folder / "plan.json")


@instant
def test_as_much_goes_as_labels_allow(folder: Path) -> None:
    kept = []
    for allowed in ("0.01", "0.1", "0.4"):
        words = ("--data", folder / "data.npz", "--labels", folder / "labels.npy", "--align", "1")
        found = done_json("prune", folder / "model.onnx", "-o", folder / "out.onnx", "--max-drop", allowed, *words)
        dense, now = found["fidelity"]["scores"]
        assert dense - now <= float(allowed) + 0.03  # the last fit is on all batches
        kept.append(found["cost"]["after"]["macs"])
    assert kept[0] >= kept[1] > kept[2]


PICTURES = """g (float[N,3,12,12] x) => (float[N,4] y) <float[16,3,3,3] u, float[16] c, float[16,16,3,3] v,
    float[16] d, float[4,16] w> { q = Conv(x, u, c)  h = Relu(q)  r = Conv(h, v, d)  k = Relu(r)
    p = GlobalAveragePool(k)  f = Flatten(p)  y = Gemm <transB = 1> (f, w) }"""


def test_the_bytes_depend_on_neither_threads_nor_hashes(tmp_path: Path) -> None:
    """Two processes: one of a single thread on a single core, one that takes what there is."""
    model = save(parse(PICTURES), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **batches({"x": (-1, 3, 12, 12)}, 1, 64)[0])  # type: ignore[arg-type]
    found = []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for threads, hashes in (("1", "1"), ("2", "2")):
        out = tmp_path / f"{threads}.onnx"
        words = ("prune", model, "-o", out, "--data", tmp_path / "data.npz", "--macs", ".5", "--align", "1")
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        alone = {**dict.fromkeys(names, threads), "PYTHONHASHSEED": hashes}
        if cores and threads == "1":
            os.sched_setaffinity(0, cores[:1])
        try:
            result = process(*words, "--plan", tmp_path / f"{threads}.json", **alone)
        finally:
            if cores:
                os.sched_setaffinity(0, cores)
        assert result.returncode == 0, result.stderr
        found.append((out.read_bytes(), (tmp_path / f"{threads}.json").read_bytes()))
    assert found[0] == found[1]


@instant
def test_the_bytes_do_not_depend_on_the_number_of_cpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cpus in (1, 2, 7):
        monkeypatch.setattr("os.cpu_count", partial(int, cpus))
        pruned(folder, "--criterion", "vote(l1,obs)")
        found.append((folder / "out.onnx").read_bytes())
    assert found[0] == found[1] == found[2]


@instant
def test_the_seed_draws_what_calibrates(folder: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        pruned(folder, "--samples", 40, "--seed", seed)
        found.append((folder / "out.onnx").read_bytes())
    assert found[0] == found[1] != found[2]
