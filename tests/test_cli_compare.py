"""The command `compare`: exit codes, what it prints, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.laws import parse
from tests.pairs.exports import changed, channels_first, channels_last, folded, swapped
from tests.terminal import done, done_json, refused, run

ROOT = Path(__file__).parents[1]
QUICK = ("--seconds", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pairs")
    onnx.save(channels_first(), made / "first.onnx")
    onnx.save(channels_last(), made / "last.onnx")
    onnx.save(folded(channels_first()), made / "folded.onnx")
    onnx.save(changed(channels_first(), "w3", swapped(3, 7, 0)), made / "wrong.onnx")
    rng = np.random.default_rng(0)
    np.savez(made / "x.npz", image=rng.standard_normal((4, 3, 8, 8)).astype(np.float32))
    return made


def test_equal_exports_leave_0(folder: Path) -> None:
    said = done("compare", folder / "first.onnx", folder / "last.onnx", "--seconds", "0.05")
    assert all(len(line) <= 80 for line in said.splitlines())
    for words in ("Input image is pixels (its axes are 0, 2, 3, 1 of the first's)", "Output scores is logits"):
        assert words in said
    for words in ("latency", "units in them", "5 linear layers correspond", "equal", "of seeded noise"):
        assert words in said
    assert "They part" not in said


def test_a_difference_leaves_1_and_is_named(folder: Path) -> None:
    result = run("compare", folder / "wrong.onnx", folder / "last.onnx", *QUICK)
    assert result.exit_code == 1
    said = result.stdout
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "They part at Conv 'point' / Conv 'tf_point'" in said
    assert "weights: output channels 3 and 7 are swapped" in said
    assert "DIFFERS" in said
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert "it begins at Conv 'point' (weights: output channels 3 and 7 are swapped)" in line
    assert run("compare", folder / "wrong.onnx", folder / "last.onnx", "--tolerance", "10", *QUICK).exit_code == 0


def test_json_says_all_of_it(folder: Path, tmp_path: Path) -> None:
    found = done_json("compare", folder / "first.onnx", folder / "folded.onnx", "--data", folder / "x.npz", *QUICK)
    assert found["equal"] is True
    assert found["real"] is True
    assert found["rows"] == 4
    assert len(found["layers"]) == 5
    assert found["inputs"][0]["first"]["name"] == "image"
    out = tmp_path / "found.json"
    result = run("compare", folder / "first.onnx", folder / "wrong.onnx", *QUICK, "--json", out)
    assert result.exit_code == 1
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["equal"] is False
    assert written["divergence"]["nodes"] == ["Conv 'point'", "Conv 'point'"]


def test_data_is_that_of_the_first_model(folder: Path) -> None:
    words = ("compare", folder / "last.onnx", folder / "first.onnx", *QUICK)
    assert "'pixels'" in refused(2, *words, "--data", _data(folder, wrong=(4, 8, 8, 3)))
    np.savez(folder / "y.npz", pixels=np.load(folder / "x.npz")["image"].transpose(0, 2, 3, 1))
    assert "4 rows of your data" in done(*words, "--data", folder / "y.npz")


def _data(folder: Path, wrong: tuple[int, ...]) -> Path:
    np.savez(folder / "wrong.npz", other=np.zeros(wrong, np.float32), more=np.zeros(3))
    return folder / "wrong.npz"


def test_a_fixed_batch_takes_the_data_in_parts(tmp_path: Path, folder: Path) -> None:
    fixed = channels_first()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, tmp_path / "fixed.onnx")
    for first, second in (("first", "fixed"), ("fixed", "first")):
        places = [tmp_path / f"{name}.onnx" if name == "fixed" else folder / f"{name}.onnx" for name in (first, second)]
        assert done_json("compare", *places, "--data", folder / "x.npz", *QUICK)["rows"] == 4
        assert done_json("compare", *places, *QUICK)["equal"] is True


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--map", "image"), 2, "NAME_IN_A=NAME_IN_B"),
        (("--map", "nothing=pixels"), 2, "'nothing'"),
        (("--map", "image=nothing"), 2, "'nothing'"),
        (("--map", "image=logits"), 2, "'logits'"),
        (("--map", "scores="), 3, "'logits'"),
        (("--tolerance", "-1"), 2, "-1"),
        (("--tolerance", "nan"), 2, "nan"),
        (("--provider", "nowhere"), 4, "nowhere"),
        (("--input-shape", "image:1x4x8x8"), 2, "does not fit"),
        (("--input-shape", "none:1x3x8x8"), 2, "'none'"),
        (("--data", "missing.npz"), 5, "missing.npz"),
        (("--seconds", "-1"), 2, "-1"),
    ],
)
def test_what_cannot_be_done_is_refused(folder: Path, options: tuple[str, ...], code: int, says: str) -> None:
    assert says in refused(code, "compare", folder / "first.onnx", folder / "last.onnx", *options)


def test_models_that_do_not_correspond_are_refused(folder: Path, tmp_path: Path) -> None:
    onnx.save(parse("net (float[N,5] x) => (float[N,5] y) { y = Relu (x) }"), tmp_path / "other.onnx")
    assert "'image' (float32 [?, 3, 8, 8]) fits nothing" in refused(
        3, "compare", folder / "first.onnx", tmp_path / "other.onnx"
    )
    (tmp_path / "text.onnx").write_text("no model")
    assert "not an ONNX model" in refused(3, "compare", folder / "first.onnx", tmp_path / "text.onnx")
    assert "missing.onnx" in refused(5, "compare", folder / "first.onnx", tmp_path / "missing.onnx")
    onnx.save(
        parse("net (float[N,3,8,8] x) => (float[N,6] y) <int64[2] s> { y = Reshape (x, s) }"), tmp_path / "fails.onnx"
    )
    assert "fails.onnx" in refused(3, "compare", folder / "first.onnx", tmp_path / "fails.onnx")


def test_outputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    text = "net (float[N,3,8,8] x) => (float[N,3,h,w] y) {{ y = MaxPool <kernel_shape=[2,2], strides=[{s},{s}]> (x) }}"
    for stride in (1, 2):
        onnx.save(parse(text.format(s=stride)), tmp_path / f"{stride}.onnx")
    assert "output 'y'" in refused(3, "compare", tmp_path / "1.onnx", tmp_path / "2.onnx")


def test_hostile_names_are_harmless(tmp_path: Path) -> None:
    model = channels_first()
    for node in model.graph.node:
        node.name = f"[red]\x1b[31m{node.name}[/red]\n"
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(changed(model, "w3", swapped(3, 7, 0)), tmp_path / "b.onnx")
    result = run("compare", tmp_path / "a.onnx", tmp_path / "b.onnx", *QUICK)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "[red]" in result.stdout
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_readme_model_is_itself() -> None:
    model = ROOT / "models" / "resnet.onnx"
    found = done_json("compare", model, model, *QUICK)
    assert found["equal"] is True
    assert all(layer["level"] == 300 and not layer["weights"] for layer in found["layers"])


def test_sensitivity_stands_side_by_side(folder: Path) -> None:
    """Two exports of one network are about as sensitive; the order in which batches are summed may differ."""
    found = done_json("compare", folder / "first.onnx", folder / "folded.onnx", *QUICK, "--sensitivity")
    one, other = (side["measures"]["error, half of a group cut"] for side in found["sides"])
    assert 0 < one < 1
    assert 0 < other < 1
    assert "half of a group" in done("compare", folder / "first.onnx", folder / "last.onnx", *QUICK, "--sensitivity")
    plain = done_json("compare", folder / "first.onnx", folder / "last.onnx", *QUICK)
    assert plain["sides"][0]["measures"] == {}
