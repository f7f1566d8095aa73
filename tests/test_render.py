"""What people read: no line too wide, no name that writes on the terminal, no list without an end."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxprune.cli.render import amount, clean
from tests.laws import parse
from tests.material import save, tiny
from tests.terminal import run

pytestmark = pytest.mark.usefixtures("instant")
MODELS = Path(__file__).parents[1] / "models"

HOSTILE = {
    "escape": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "control": "a\x00b\x08c\rd\x7fe\x9bf",
    "markup": "[bold red]x[/bold red][link=http://x]y[/link]",
    "unbalanced": "[/nope] [",
    "newline": "first\nsecond\ttab",
    "both ways": "a\u202eb\u2066c\u200d",
    "no end": "n" * 100_000,
    "html": "<script>alert(1)</script>",
    "wide": "層" * 50,
    "emoji": ":warning: :bomb:",
}


def renamed(old: dict[str, str]) -> onnx.ModelProto:
    """The small model with other names, everywhere."""
    model = tiny()
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [old.get(name, name) for name in names]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = old.get(value.name, value.name)
    return model


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_harms_no_verb(tmp_path: Path, name: str) -> None:
    names = {old: f"{name} {old}" for old in ("x", "h", "r", "w1", "b2", "y")}
    model = renamed(names)
    model.producer_name = name
    model.graph.node[0].name = name
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    path = save(model, tmp_path / "model.onnx")
    out = ("-o", tmp_path / "out.onnx", "--ratio", "0.5")
    for words in (
        ("inspect", path),
        ("explain", path),
        ("explain", path, "--tensor", names["w1"]),
        ("explain", path, "--tensor", names["y"]),
        ("explain", path, "--group", "0"),
        ("explain", path, "--op", "Gemm"),
        ("prune", path, *out),
        ("verify", path, tmp_path / "out.onnx"),
        ("explain", path, "--tensor", "unknown"),
        ("prune", path, *out, "--data", MODELS / "data" / "test.npz"),
        ("prune", path, *out, "--input-shape", "q:1"),
    ):
        result = run(*words)
        assert result.exit_code in (0, 1, 2), result.stderr
        assert "Internal error" not in result.stderr
        for text in (result.stdout, result.stderr):
            assert len(text) < 30_000
            assert all(c.isprintable() or c == "\n" for c in text), repr(text)
        assert len(result.stderr.splitlines()) <= 1


def test_markup_in_a_name_is_shown_as_it_is(tmp_path: Path) -> None:
    path = save(renamed({"x": "[bold]x[/bold]"}), tmp_path / "model.onnx")
    assert "[bold]x[/bold]" in run("inspect", path).stdout


@pytest.mark.parametrize("verb", ["inspect", "explain"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "mobilenet"])
def test_no_line_is_wider_than_80_columns(verb: str, name: str) -> None:
    result = run(verb, MODELS / f"{name}.onnx")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_long_lists_end(tmp_path: Path) -> None:
    count = 60
    body = " ".join(f"a{i} = MatMul(x, v{i}) r{i} = Relu(a{i}) y{i} = MatMul(r{i}, w{i})" for i in range(count))
    outputs = ", ".join(f"float[n, 4] y{i}" for i in range(count))
    declared = ", ".join(f"float[4, 8] v{i}, float[8, 4] w{i}" for i in range(count))
    path = save(parse(f"m (float[n, 4] x) => ({outputs}) <{declared}> {{ {body} }}"), tmp_path / "model.onnx")
    text = run("inspect", path).stdout
    assert "60 groups can be cut" in text
    assert "… and 12 more (--json lists all)" in text
    assert len(text.splitlines()) < 120


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (9_999_999, "9,999,999"), (25_557_032, "25.6 M"), (4.1e10, "41.0 G")],
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert amount(value) == text


def test_a_long_name_keeps_its_ends() -> None:
    found = clean("begin" + "x" * 1000 + "end").plain
    assert len(found) <= 60
    assert re.fullmatch(r"beginx+…x+end", found)
