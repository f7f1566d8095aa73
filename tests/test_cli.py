"""The command line: every verb, every way to ask for JSON, and what becomes of its streams."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxprune import api
from onnxprune.algebra.registry import load
from onnxprune.passes import find
from onnxprune.plan import Plan
from onnxprune.report import results
from onnxprune.verification import proof
from tests.laws import parse
from tests.material import save, snapshot, weights
from tests.terminal import done, done_json, process, refused, run

pytestmark = pytest.mark.usefixtures("instant")
MODELS = Path(__file__).parents[1] / "models"
MLP, DATA = MODELS / "mlp.onnx", MODELS / "data" / "test.npz"
LABELS = MODELS / "data" / "test-labels.npy"


# ---- the verbs ---------------------------------------------------------------------------------------------------


def test_the_help_names_every_verb_and_every_exit_code() -> None:
    text = done("--help")
    for verb in ("inspect", "explain", "prune", "plan", "apply", "verify", "run", "passes", "criteria", "operators"):
        assert f"\n  {verb} " in text
        assert "Usage: onnxprune" in done(verb, "--help")
    assert "0 done, 1 a check failed, 2 usage, 3 input refused, 4 provider" in text
    assert onnxprune_version() in done("--version")


def onnxprune_version() -> str:
    return str(results.environment()["onnxprune"])


def test_prune_with_data_and_labels_measures_what_it_cost(tmp_path: Path) -> None:
    """As the README shows it, on the smallest of the reference models."""
    out, plan, report = tmp_path / "small.onnx", tmp_path / "plan.json", tmp_path / "report.json"
    given = ("--data", DATA, "--labels", LABELS, "--plan", plan, "--report", report)
    text = done("prune", MLP, "-o", out, "--recover", "none", "--ratio", "0.5", "--align", "8", *given)
    assert "Removed ≡ zeroed" in text
    assert "88.25%" in text
    assert "2,000 rows of your data" in text
    assert weights(out)["hidden.weight"].shape[0] == 32
    onnx.checker.check_model(str(out), full_check=True)
    document = json.loads(report.read_text(encoding="utf-8"))
    assert document["verified"]
    assert document["fidelity"]["rows"] == 2000
    dense, pruned = document["fidelity"]["scores"]
    assert dense == 0.8825
    assert 0.5 < pruned < dense
    assert document["bytes"] == {"before": MLP.stat().st_size, "after": out.stat().st_size}
    assert document["cost"]["after"]["params"] == sum(array.size for array in weights(out).values())
    assert Plan.loads(plan.read_text(encoding="utf-8")).source["name"] == "mlp.onnx"
    assert sorted(snapshot(tmp_path)) == ["plan.json", "report.json", "small.onnx"]


@pytest.mark.parametrize("budget", ["--ratio", "--params", "--macs"])
def test_each_budget_is_met(tmp_path: Path, budget: str) -> None:
    found = done_json(
        "prune", MODELS / "cnn.onnx", "-o", tmp_path / "x.onnx", "--recover", "none", budget, "0.5", "--align", "4"
    )
    before, after = found["cost"]["before"], found["cost"]["after"]
    if budget == "--ratio":
        assert all(group["kept"] == -(-group["units"] // 2) for group in found["groups"])
    else:
        assert 0.4 < after[budget[2:]] / before[budget[2:]] <= 0.5


def test_plan_and_apply_are_prune_in_two_steps(tmp_path: Path) -> None:
    assert "Wrote" in done("plan", MLP, "-o", tmp_path / "plan.json", "--recover", "none", "--ratio", "0.5")
    assert "Removed ≡ zeroed" in done("apply", MLP, tmp_path / "plan.json", "-o", tmp_path / "a.onnx")
    done("prune", MLP, "-o", tmp_path / "b.onnx", "--recover", "none", "--ratio", "0.5")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_nothing_to_remove_is_said_and_copied(tmp_path: Path) -> None:
    assert "byte for byte" in done("prune", MLP, "-o", tmp_path / "x.onnx", "--recover", "none", "--ratio", "0")
    assert (tmp_path / "x.onnx").read_bytes() == MLP.read_bytes()
    assert "Nothing is to be removed" in done(
        "plan", MLP, "-o", tmp_path / "p.json", "--recover", "none", "--ratio", "0"
    )


def test_verify_says_equal_or_fails(tmp_path: Path) -> None:
    done("plan", MLP, "-o", tmp_path / "plan.json", "--recover", "none", "--ratio", "0.5")
    done("apply", MLP, tmp_path / "plan.json", "-o", tmp_path / "x.onnx")
    assert "equal" in done("verify", MLP, MLP)
    assert "equal" in done("verify", MLP, tmp_path / "x.onnx", "--plan", tmp_path / "plan.json")
    result = run("verify", MLP, tmp_path / "x.onnx", "--data", DATA)
    assert result.exit_code == 1
    assert "DIFFERS" in result.stdout
    assert result.stderr.startswith("Error: ")
    assert "does not give the outputs of" in result.stderr


def test_in_place_is_asked_for(tmp_path: Path) -> None:
    model = Path(shutil.copy(MLP, tmp_path / "model.onnx"))
    assert "--in-place" in refused(2, "prune", model, "-o", model, "--recover", "none", "--ratio", "0.5")
    assert model.read_bytes() == MLP.read_bytes()
    done("prune", model, "-o", model, "--recover", "none", "--ratio", "0.5", "--in-place")
    assert list(snapshot(tmp_path)) == ["model.onnx"]
    assert model.stat().st_size < MLP.stat().st_size


def test_explain_answers_each_of_its_questions() -> None:
    cnn = MODELS / "cnn.onnx"
    assert "because" in done("explain", cnn)
    assert "may be cut" in done("explain", MLP, "--tensor", "hidden.weight")
    assert "is an output of the model" in done("explain", MLP, "--tensor", "logits")
    assert "is tied by" in done("explain", cnn, "--group", "0")
    assert "stays" in done("explain", cnn, "--op", "Gemm")
    assert "protected by 'hidden.weight'" in done(
        "explain", MLP, "--tensor", "hidden.weight", "--protect", "hidden.weight"
    )


@pytest.mark.parametrize("name", ["remove-channels", "zero-channels"])
def test_a_pass_runs_by_its_name_with_its_fields_as_options(tmp_path: Path, name: str) -> None:
    out = tmp_path / "x.onnx"
    text = done("run", name, MLP, "-o", out, "--ratio", "0.5", "--align", "8", "--protect", "logits", "--protect-last")
    assert name in text
    onnx.checker.check_model(str(out), full_check=True)
    help_text = done("run", name, "--help")
    for option in ("--ratio", "--min-keep", "--protect-first", "--seed", "--in-place", "--json"):
        assert option in help_text
    assert find(name).__doc__
    assert name in done("run", "--help")


def test_a_pass_that_changes_nothing_copies(tmp_path: Path) -> None:
    assert "nothing to do" in done("run", "zero-channels", MLP, "-o", tmp_path / "x.onnx", "--ratio", "0")
    assert (tmp_path / "x.onnx").read_bytes() == MLP.read_bytes()


@pytest.mark.parametrize("table", ["passes", "criteria"])
def test_tables_are_listed_with_their_meaning(table: str) -> None:
    text = done(table)
    assert all(name in text for name in load(table))
    listed = done_json(table)
    assert list(listed) == sorted(load(table))
    assert all(listed.values())


# ---- JSON --------------------------------------------------------------------------------------------------------

VERBS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "{model}"),
    "explain": ("explain", "{model}"),
    "explain --tensor": ("explain", "{model}", "--tensor", "hidden.weight"),
    "explain --group": ("explain", "{model}", "--group", "0"),
    "explain --op": ("explain", "{model}", "--op", "Gemm"),
    "prune": ("prune", "{model}", "-o", "{folder}/x.onnx", "--recover", "none", "--ratio", "0.5"),
    "prune nothing": ("prune", "{model}", "-o", "{folder}/x.onnx", "--recover", "none", "--ratio", "0"),
    "plan": ("plan", "{model}", "-o", "{folder}/p.json", "--recover", "none", "--ratio", "0.5"),
    "verify": ("verify", "{model}", "{model}"),
    "run": ("run", "zero-channels", "{model}", "-o", "{folder}/x.onnx", "--ratio", "0.5"),
    "passes": ("passes",),
    "criteria": ("criteria",),
    "operators": ("operators",),
}


def filled(verb: str, folder: Path) -> list[str]:
    return [word.format(model=folder / "mlp.onnx", folder=folder) for word in VERBS[verb]]


def strict(text: str) -> Any:
    """Read JSON as its standard has it, without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(MLP, tmp_path / "mlp.onnx")
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_json_on_every_way_of_asking(folder: Path, verb: str) -> None:
    words = filled(verb, folder)
    for extra in (["--json"], ["--json", "-"], ["--json=-"]):
        assert isinstance(strict(done(*words, *extra)), dict)
    shown = done(*words, "--json", folder / "found.json")
    assert not shown.startswith("{")
    assert isinstance(strict((folder / "found.json").read_text(encoding="utf-8")), dict)


def test_apply_prints_json_too(folder: Path) -> None:
    done("plan", folder / "mlp.onnx", "-o", folder / "p.json", "--recover", "none", "--ratio", "0.5")
    found = strict(done("apply", "--json", "-", folder / "mlp.onnx", folder / "p.json", "-o", folder / "x.onnx"))
    assert found["verified"]


@pytest.mark.parametrize("word", ["--json", "--json=-"])
def test_the_model_may_follow_the_option(folder: Path, word: str) -> None:
    before = snapshot(folder)
    assert strict(done("inspect", word, folder / "mlp.onnx"))["model"]["nodes"] == 4
    assert snapshot(folder) == before


def test_json_overwrites_no_model(folder: Path) -> None:
    before = snapshot(folder)
    model = folder / "mlp.onnx"
    assert "does not end in '.json'" in refused(2, "inspect", f"--json={model}", model)
    assert snapshot(folder) == before
    shutil.move(model, folder / "model.json")
    before = snapshot(folder)
    model = folder / "model.json"
    assert "named twice" in refused(2, "inspect", model, "--json", model)
    assert "Missing argument 'MODEL'" in refused(2, "inspect", "--json", model)
    assert "named twice" in refused(2, "verify", MLP, model, "--json", model)
    assert "named twice" in refused(2, "plan", model, "-o", folder / "p.json", "--json", folder / "p.json")
    assert snapshot(folder) == before


def test_json_on_a_terminal_is_plain_ascii(tmp_path: Path) -> None:
    model = parse("m (float[n, 2] x) => (float[n, 2] y) { y = Identity(x) }")
    model.graph.input[0].name = model.graph.node[0].input[0] = "\x1b[31mrød\u202e\x9b"
    text = done("inspect", save(model, tmp_path / "x.onnx"), "--json")
    assert text.isascii()
    assert list(strict(text)["model"]["inputs"]) == ["\x1b[31mrød\u202e\x9b"]


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("inspect", MLP), ("inspect", MLP, "--json"), ("--help",)])
def test_a_reader_that_leaves_early_is_no_error(words: tuple[object, ...]) -> None:
    result = process(*words, shell="| true")
    assert result.stderr == ""
    result = process(*words, shell="| head -c 5")
    assert len(result.stdout) == 5
    assert result.stderr == ""


@pytest.mark.parametrize("words", [("inspect", MLP), ("inspect", MLP, "--json"), ("--help",)])
def test_a_full_disk_behind_the_output_is_one_line(words: tuple[object, ...]) -> None:
    result = process(*words, shell="> /dev/full")
    assert result.returncode == 5
    assert result.stderr.startswith("Error: ")
    assert "No space left on device" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_closed_streams_change_nothing(tmp_path: Path) -> None:
    words = ("prune", MLP, "-o", tmp_path / "x.onnx", "--recover", "none", "--ratio", "0.5")
    result = process(*words, shell=">&-")
    assert (result.returncode, result.stderr) == (0, "")
    first = (tmp_path / "x.onnx").read_bytes()
    result = process(*words, shell="<&- 2>&-")
    assert result.returncode == 0
    assert (tmp_path / "x.onnx").read_bytes() == first
    assert process("inspect", tmp_path / "nope", shell="2>&-").returncode == 5


def test_a_locale_without_letters_is_enough(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    model = Path(shutil.copy(MLP, tmp_path / "modèle.onnx"))
    for words in (
        ("prune", model, "-o", tmp_path / "sortie·.onnx", "--recover", "none", "--ratio", "0.5"),
        ("inspect", model, "--json"),
    ):
        result = process(*words, **plain)
        assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "sortie·.onnx").exists()
    result = process("inspect", tmp_path / "né", **plain)
    assert result.returncode == 5
    assert result.stderr.startswith("Error: Cannot read")


def test_a_file_name_in_another_encoding_is_told_what_to_do(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/mod\xe8le.onnx"
    with open(name, "wb") as file:
        file.write(MLP.read_bytes())
    assert "hidden.weight" in done("inspect", os.fsdecode(name))
    assert "Rename the file" in refused(
        5, "prune", os.fsdecode(name), "-o", tmp_path / "x.onnx", "--recover", "none", "--ratio", "0.5"
    )


# ---- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            ZeroDivisionError("by zero\nof all things"),
            1,
            "Internal error, please report it: ZeroDivisionError: by zero",
        ),
        (MemoryError(), 1, "Out of memory."),
        (OSError(28, "No space left on device", "/somewhere"), 5, "'/somewhere': No space left on device."),
        (OSError("odd"), 5, "Cannot read or write: odd."),
        (KeyboardInterrupt(), 1, "Aborted!"),
    ],
)
def test_a_fault_is_one_line_and_a_traceback_only_on_request(
    monkeypatch: pytest.MonkeyPatch, fault: BaseException, code: int, words: str
) -> None:
    def fail(*given: object, **more: object) -> None:
        raise fault

    monkeypatch.setattr(api, "inspect", fail)
    result = run("inspect", MLP)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    if not isinstance(fault, KeyboardInterrupt):
        assert "Traceback" in run("--debug", "inspect", MLP).stderr


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(proof, "compare", interrupt)
    assert run("prune", MLP, "-o", tmp_path / "x.onnx", "--recover", "none", "--ratio", "0.5").exit_code == 1
    assert snapshot(tmp_path) == {}
