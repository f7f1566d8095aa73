"""Recipes: they say all that the command line can, the same way, and whatever is wrong in one is one clear line."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import recipes
from onnxprune.cli import main
from onnxprune.cli.recipe import BUDGETS, PATHS, keys_of, name_of
from tests.material import save, snapshot, tiny
from tests.studied import placed, redundant
from tests.terminal import done, done_json, refused, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.usefixtures("instant")
PRUNE = main.commands["prune"]
KEYS = keys_of(PRUNE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in a folder of its own."""
    (tmp_path / "in").mkdir()
    return save(tiny(), tmp_path / "in" / "model.onnx")


def recipe(folder: Path, text: str) -> Path:
    """A recipe in a folder."""
    (folder / "r.toml").write_text(text, encoding="utf-8")
    return folder / "r.toml"


def written(model: Path, text: str, *words: object) -> Any:
    """What a recipe's recipe becomes in the plan, options added; the model and the output are named here."""
    plan = model.parent.parent / "plan.json"
    given = ("--recipe", recipe(model.parent, text), "-o", model.parent / "out.onnx", "--plan", plan)
    done("prune", model, *given, *words)
    return json.loads(plan.read_text(encoding="utf-8"))["recipe"]


# ---- the round trip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--macs", "0.5", "--align", "1", "--seed", "3", "--min-keep", "2"],
        [
            "--ratio",
            "0.4",
            "--recover",
            "none",
            "--criterion",
            "vote(l1,l2)",
            "--protect",
            "[b]",
            "--protect",
            "b*",
        ],
        ["--params", "0.7", "--schedule", "one-shot", "--samples", "64", "--align", "1"],
    ],
)
def test_the_recipe_that_a_report_shows_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    placed(tmp_path, redundant())
    monkeypatch.chdir(tmp_path)
    given = [*options, "--data", "data.npz", "--plan", "plan.json", "--report", "report.md", "--report", "report.json"]
    result = run("prune", "model.onnx", "-o", "out.onnx", *given)
    assert result.exit_code == 0, result.stderr
    first = snapshot(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    command, toml = (block.split("````")[0] for block in (text.split(f"````{kind}\n")[1] for kind in ("sh", "toml")))
    for path in tmp_path.glob("[opr]*.*"):
        path.unlink()
    recipe(tmp_path, toml)
    assert run("prune", "--recipe", "r.toml").exit_code == 0
    (tmp_path / "r.toml").unlink()
    assert same(snapshot(tmp_path), first)
    assert run(*shlex.split(command)[1:]).exit_code == 0
    assert same(snapshot(tmp_path), first)


def same(found: dict[str, Any], first: dict[str, Any]) -> bool:
    """Whether a folder holds what it did, measured times left aside; the model was written."""
    timed = ("report.md", "report.json")
    return (
        found.keys() == first.keys() and all(found[n] == first[n] for n in first if n not in timed) and len(first) > 4
    )


VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**63), 2**63 - 1), st.booleans(),
    st.floats(allow_nan=False),
)  # fmt: skip


@given(st.one_of(VALUES, st.lists(VALUES, max_size=4)))
def test_values_are_written_as_they_are_read(value: object) -> None:
    text = f"key = {recipes.toml_value(value)}\n"
    assert tomllib.loads(text) == {"key": value}
    assert text[:-1].isprintable()


def test_what_is_no_unicode_is_still_toml() -> None:
    assert tomllib.loads(f"key = {recipes.toml_value(os.fsdecode(b'a/%s' % bytes([0xFF])))}") == {"key": "a/?"}


# ---- everything the command line can say -------------------------------------------------------------------------


def test_a_recipe_can_say_all_that_the_command_line_can() -> None:
    options = {name_of(p) for p in PRUNE.params} - {"recipe"}
    assert set(KEYS) == options
    assert {"model", "out", "macs", "align", "data", "recover", "provider", "report", "in-place"} <= options
    for p in PRUNE.params:
        if isinstance(p, click.Option) and p.metavar in ("FILE", "PATH", "OUT", "[FILE]") and name_of(p) in KEYS:
            assert name_of(p) in PATHS
            assert KEYS[name_of(p)].path
    assert {p.name for p in PRUNE.params} >= {"ratio", "params", "macs", "bytes", "max_drop"} <= set(BUDGETS)


def test_every_kind_of_key_reaches_the_plan(model: Path) -> None:
    text = 'ratio = 0.25\nrecover = "none"\nalign = 4\nmin_keep = 3\nprotect = ["b2*"]\nprotect-last = false\nseed = 7'
    found = written(model, text)
    wanted = {"ratio": 0.25, "align": 4, "min_keep": 3, "protect": ["b2*"], "protect_last": False, "seed": 7}
    assert {name: found[name] for name in wanted} == wanted
    assert found["recover"] == "none"


def test_tables_are_headings(model: Path) -> None:
    flat = written(model, 'ratio = 1\nrecover = "none"\nalign = "auto"\nprotect = "b1"')
    tables = written(
        model, '[budget]\nratio = 1\nalign="auto"\n[recovery]\nrecover = "none"\n[protection]\nprotect = "b1"'
    )
    assert flat == tables


def test_the_command_line_goes_before_the_recipe(model: Path) -> None:
    text = 'ratio = 0.25\nrecover = "none"\nseed = 7\nprotect = ["y", "b2"]\nalign = 1'
    assert written(model, text, "--ratio", "0.5")["ratio"] == 0.5
    assert written(model, text, "--seed", "0")["seed"] == 0
    assert written(model, text, "--protect", "y")["protect"] == ["y"]
    other = written(model, text, "--params", "0.5", "--protect", "x")
    assert (other["ratio"], other["params"]) == (None, 0.5)


def test_two_budgets_in_one_recipe_are_two_budgets(model: Path) -> None:
    path = recipe(model.parent, "ratio = 0.5\nmacs = 0.5\n")
    assert "Give one of" in refused(2, "prune", model, "-o", model.parent / "o.onnx", "--recipe", path)


def test_paths_start_where_the_recipe_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    placed(tmp_path / "deep", redundant())
    text = 'model = "model.onnx"\nout = "../out.onnx"\ndata = "data.npz"\nratio = 0.5\nreport = ["../r.html"]'
    recipe(tmp_path / "deep", f'{text}\nrecover = "none"')
    monkeypatch.chdir(tmp_path)
    done("prune", "--recipe", "deep/r.toml")
    assert {"out.onnx", "r.html", "deep"} == {path.name for path in tmp_path.iterdir()}


def test_a_json_place_of_minus_is_the_terminal(model: Path) -> None:
    path = recipe(model.parent, 'ratio = 0.5\nrecover = "none"\njson = "-"\n')
    found = json.loads(done("prune", model, "-o", model.parent / "o.onnx", "--recipe", path))
    assert found["request"]["ratio"] == 0.5


def test_a_plan_takes_the_same_recipe(model: Path) -> None:
    text = (
        f'model = "{model.name}"\nout = "small.onnx"\nplan = "p.json"\nratio = 0.5\nrecover = "none"\nprovider = "cpu"'
    )
    path = recipe(model.parent, text)
    assert not {"small.onnx", "p.json"} & set(os.listdir(model.parent))
    done("plan", "--recipe", path)
    planned = (model.parent / "p.json").read_text(encoding="utf-8")
    assert not (model.parent / "small.onnx").exists()
    done("prune", "--recipe", path)
    pruned = json.loads((model.parent / "p.json").read_text(encoding="utf-8"))
    assert json.loads(planned)["keep"] == pruned["keep"]


def test_a_plan_of_a_recipe_without_a_place_for_it_writes_no_model(model: Path) -> None:
    path = recipe(model.parent, 'out = "small.onnx"\nratio = 0.5\nrecover = "none"')
    assert "Missing option '-o'" in refused(2, "plan", model, "--recipe", path)
    assert not (model.parent / "small.onnx").exists()


def test_what_ran_is_in_plan_and_report_and_not_in_the_model(tmp_path: Path) -> None:
    model, data = placed(tmp_path, redundant())
    data = data.rename(tmp_path / "secretname.npz")
    given = ("--ratio", ".5", "--align", "1", "--data", data, "--plan", tmp_path / "p.json")
    found = done_json("prune", model, "-o", tmp_path / "o.onnx", *given)
    assert found["request"]["data"] == str(data)
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["recipe"]["data"] == str(data)
    assert found["environment"]["onnxprune"]
    written = (tmp_path / "o.onnx").read_bytes()
    assert b"secretname" not in written
    assert found["environment"]["onnxruntime"].encode() not in written


# ---- what is wrong with it ---------------------------------------------------------------------------------------

WRONG = [
    ("rati = 0.5", "no key 'rati' to offer. Did you mean 'ratio' or "),
    ("[budget]\nmac = 0.5", "no key 'mac' to offer. Did you mean 'macs'"),
    ("zzzzzz = 1", "no key 'zzzzzz' to offer. Known: align"),
    ("recipe = 'x.toml'", "no key 'recipe'"),
    ("help = true", "no key 'help'"),
    ("[bugdet]\nmacs = 0.5", "no table 'bugdet' to offer. Did you mean 'budget'?"),
    ("[budget.macs]\nx = 1", "'macs' must be a number, not a table"),
    ("macs = '0.5'", "'macs' must be a number, not '0.5'"),
    ("macs = true", "'macs' must be a number, not true"),
    ("macs = [0.5]", "'macs' must be a number, not a list"),
    ("macs = nan", "macs must lie in [0, 1]"),
    ("macs = 1.5", "macs must lie in [0, 1]"),
    ("macs = 2024-01-01", "'macs' must be a number, not a date or a time"),
    ("seed = 1.0", "'seed' must be a whole number, not 1.0"),
    ("seed = -1", "-1 is not in the range"),
    ("align = 1.5", "'align' must be a whole number or 'auto', not 1.5"),
    ("align = 'wide'", "neither a whole number nor 'auto'"),
    ("protect = [1]", "'protect' must be text, or a list of it, not a list"),
    ("protect = 1", "'protect' must be text, or a list of it, not 1"),
    ("protect-last = 1", "'protect-last' must be true or false, not 1"),
    ("protect-last = 'yes'", "'protect-last' must be true or false"),
    ("recover = 'magic'", "'magic' is not one of"),
    ("data = 3", "'data' must be text, not 3"),
    ("min-keep = 1\nmin_keep = 2", "gives 'min-keep' twice"),
    ("seed = 1\n[budget]\nseed = 2", "gives 'seed' twice"),
    ("macs = ", "is no TOML"),
    ("macs = 0.5\nmacs = 0.5", "is no TOML"),
    ("\x00", "is no TOML"),
    ("report = ['r.pdf']\nratio = 0.5", "ends in none of .html, .md, .json"),
    ("report = ['r.toml']\nratio = 0.5", "named twice"),
    ("ratio = 0.5\njson = 'x.txt'", "does not end in '.json'"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG])
def test_what_is_wrong_is_one_line_and_nothing_is_written(model: Path, text: str, words: str) -> None:
    path = recipe(model.parent, text)
    before = snapshot(model.parent)
    assert words in refused(2, "prune", model, "-o", model.parent / "o.onnx", "--recipe", path)
    assert snapshot(model.parent) == before


def test_files_that_are_no_recipe(model: Path, tmp_path: Path) -> None:
    given = ("prune", model, "-o", tmp_path / "o.onnx", "--recipe")
    assert "No such file" in refused(5, *given, tmp_path / "none.toml")
    assert "it is a directory" in refused(5, *given, tmp_path)
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in refused(2, *given, tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("a = " + "[" * 100_000, encoding="utf-8")
    assert "r.toml" in refused(2, *given, tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("#" * (recipes.LARGEST + 1), encoding="utf-8")
    assert "exceeds 1 MiB" in refused(2, *given, tmp_path / "r.toml")


def test_a_recipe_is_not_written_over(model: Path) -> None:
    path = recipe(model.parent, "ratio = 0.5\n")
    assert "named twice" in refused(2, "prune", model, "-o", path, "--recipe", path)
    assert "named twice" in refused(2, "plan", model, "-o", path, "--recipe", path)
    assert path.read_text(encoding="utf-8") == "ratio = 0.5\n"


def test_a_result_of_the_library_is_told_as_a_command_too() -> None:
    asked = {"ratio": None, "macs": 0.5, "seed": 0, "align": 8, "protect": ["a b"], "input_shapes": {"x": [1, 3]}}
    found = recipes.request_of({"source": {"name": "m.onnx"}, "out": "", "recipe": asked})
    wanted = "onnxprune prune m.onnx -o pruned.onnx --macs 0.5 --align 8 --protect 'a b' --input-shape x:1x3"
    assert recipes.command(found) == wanted
    assert tomllib.loads(recipes.dumps(found)) == dict(found)
    assert math.isclose(found["macs"], 0.5)
