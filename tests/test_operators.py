"""The list of operators: complete, and the same as the page that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.algebra.operators import ONNX, Known, page, registered, status, unknown
from onnxprune.cli import main
from onnxprune.rules import RULES

PAGE = Path(onnxprune.__file__).parent / "rules" / "OPERATORS.md"
COVERED = ("", "ai.onnx.ml", "ai.onnx.preview.training")
SCHEMAS = (1, 23)  # the version of onnx whose operators are covered


def run(*options: str) -> str:
    result = CliRunner().invoke(main, ["operators", *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_page_is_what_the_registry_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(registered()), "onnxprune operators --markdown > the page"
    assert run("--markdown") == page(registered())


@pytest.mark.skipif(tuple(map(int, onnx.__version__.split(".")[:2])) != SCHEMAS, reason="of another version of onnx")
def test_every_operator_that_onnx_knows_has_a_rule_or_a_reason() -> None:
    assert not [entry for entry in unknown() if (entry.domain if entry.domain != ONNX else "") in COVERED]


def test_an_operator_has_a_rule_a_reason_or_nothing() -> None:
    assert status("", "Conv") == "rule"
    assert status("ai.onnx.ml", "ZipMap") == "pinned: works on maps or sequences, which have no axes"
    assert status("", "Frobnicate") == status("some.where", "Conv") == "no rule"


def test_what_is_said_is_the_first_sentence_of_a_rule_or_its_reason() -> None:
    known = {(entry.domain, entry.operator): entry for entry in registered()}
    assert known[ONNX, "Relu"] == Known(ONNX, "Relu", "rule", "Every axis of x is the same axis of y.")
    assert known["ai.onnx.ml", "CastMap"].says == "Works on maps or sequences, which have no axes."
    assert all(entry.says.endswith(".") for entry in known.values())
    assert len(known) == len(RULES)


def test_an_operator_without_a_rule_is_listed_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {key: rule for key, rule in RULES.items() if key != ("", "Relu")}
    monkeypatch.setattr("onnxprune.algebra.operators.load", lambda group: without)
    assert [(entry.domain, entry.status) for entry in unknown() if entry.operator == "Relu"] == [(ONNX, "no rule")]
    assert "| Relu |" not in page(registered())
    assert "Relu " in run()


def test_the_list_fits_a_terminal_and_names_every_operator() -> None:
    lines = run().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"{ONNX}:"
    first = {line.split(" ")[0] for line in lines if line}
    assert {kind for _, kind in RULES} <= first


def test_the_list_is_data_too() -> None:
    listed = json.loads(run("--json"))["operators"]
    assert {"domain": ONNX, "operator": "Abs", "status": "rule", "says": "Every axis of x is the same axis of y."} in (
        listed
    )
    assert {entry["status"] for entry in listed} <= {"rule", "pinned", "no rule"}


def test_a_page_and_data_are_not_printed_at_once() -> None:
    result = CliRunner().invoke(main, ["operators", "--markdown", "--json"])
    assert result.exit_code == 2
    assert "Give one of --markdown and --json." in result.output


def test_a_bar_in_a_sentence_does_not_end_its_cell() -> None:
    assert r"| a \| b |" in page([Known("d", "Op", "rule", "a | b")])
