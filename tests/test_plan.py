"""Plans: read back as written, replayed to the same bytes, and refused where they do not fit."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import FileError, RefusedError, UsageError
from onnxprune.model import wire
from onnxprune.plan import Plan
from onnxprune.wishes import Recipe
from tests.laws import parse
from tests.material import changed, save, save_external, snapshot, tiny, weights, within

pytestmark = pytest.mark.usefixtures("instant")
MODELS = Path(__file__).parents[1] / "models"
Document = dict[str, Any]


@pytest.fixture
def plan(mlp: Path) -> Plan:
    return onnxprune.plan(mlp, recover="none", ratio=0.5, align=8)


@pytest.fixture
def document(plan: Plan) -> Document:
    found: Document = json.loads(plan.dumps())
    return found


# ---- what a plan is ----------------------------------------------------------------------------------------------


def test_a_plan_reads_back_as_it_was(plan: Plan) -> None:
    again = Plan.loads(plan.dumps())
    assert again.dumps() == plan.dumps()
    assert (again.keep, again.source, again.groups, again.cost) == (plan.keep, plan.source, plan.groups, plan.cost)


def test_a_plan_says_what_it_does_in_plain_words(document: Document, mlp: Path) -> None:
    assert (document["format"], document["version"]) == ("onnxprune-plan", 1)
    assert document["source"]["name"] == mlp.name
    assert document["source"]["bytes"] == mlp.stat().st_size
    assert document["recipe"]["ratio"] == 0.5
    assert document["recipe"]["align"] == 8
    assert {name: list(axes) for name, axes in document["keep"].items()} == {"w1": ["1"], "b1": ["0"], "w2": ["0"]}
    (group,) = document["groups"]
    assert (group["units"], len(group["kept"])) == (64, 32)
    assert document["cost"]["before"]["params"] == 8 * 64 + 64 + 64 * 4 + 4
    assert document["cost"]["after"]["params"] == 8 * 32 + 32 + 32 * 4 + 4


def test_the_same_question_gives_the_same_plan(mlp: Path, plan: Plan) -> None:
    assert onnxprune.plan(mlp, recover="none", ratio=0.5, align=8).dumps() == plan.dumps()
    assert onnxprune.plan(mlp.read_bytes(), recover="none", ratio=0.5, align=8).keep == plan.keep


def test_the_best_scored_units_are_kept(plan: Plan, mlp: Path) -> None:
    found = weights(mlp)
    norms = [np.linalg.norm(found["w1"], axis=0), np.abs(found["b1"]), np.linalg.norm(found["w2"], axis=1)]
    assert plan.keep["w1"][1] == sorted(np.argsort(-sum(norms), kind="stable")[:32].tolist())


# ---- replay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "mobilenet"])
def test_a_replay_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = MODELS / f"{name}.onnx"
    result = onnxprune.prune(source, tmp_path / "a.onnx", recover="none", ratio=0.5)
    (tmp_path / "plan.json").write_text(result.plan.dumps(), encoding="utf-8")
    applied = onnxprune.apply(source, tmp_path / "plan.json", tmp_path / "b.onnx")
    assert applied.verified
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_replay_of_a_model_with_external_data_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save_external(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    result = onnxprune.prune(source, tmp_path / "a" / "x.onnx", recover="none", ratio=0.5)
    onnxprune.apply(source, result.plan, tmp_path / "b" / "x.onnx")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_plan_that_was_edited_by_hand_is_obeyed(mlp: Path, document: Document) -> None:
    kept = list(range(10))
    document["keep"] = {"w1": {"1": kept}, "b1": {"0": kept}, "w2": {"0": kept}}
    out = mlp.with_name("out.onnx")
    onnxprune.apply(mlp, Plan.loads(json.dumps(document)), out)
    assert np.array_equal(weights(out)["w1"], weights(mlp)["w1"][:, :10])
    assert np.array_equal(weights(out)["w2"], weights(mlp)["w2"][:10])


def test_what_was_protected_stays_protected_in_a_replay(tmp_path: Path) -> None:
    source = MODELS / "cnn.onnx"
    result = onnxprune.prune(source, tmp_path / "a.onnx", recover="none", ratio=0.5, protect_first=True)
    onnxprune.apply(source, result.plan, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("verb", ["prune", "apply"])
def test_a_plan_that_removes_nothing_gives_back_the_input(tmp_path: Path, verb: str, external: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = save_external(tmp_path / "in") if external else save(tiny(), tmp_path / "in" / "model.onnx")
    if verb == "prune":
        onnxprune.prune(source, tmp_path / "out" / "model.onnx", recover="none", ratio=0)
    else:
        applied = onnxprune.apply(
            source, onnxprune.plan(source, recover="none", ratio=0), tmp_path / "out" / "model.onnx"
        )
        assert applied.verified
        assert "byte for byte" in applied.note
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "in")


def test_a_model_that_no_serializer_would_write_is_given_back_as_it_came(tmp_path: Path) -> None:
    """An unknown field, and the graph last: the bytes are the record, not what is understood of them."""
    model = tiny()
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    data = wire.tag(100, 3) + b"abc" + model.SerializeToString() + wire.tag(wire.GRAPH, len(graph)) + graph
    source = save(data, tmp_path / "odd.onnx")
    onnxprune.prune(source, tmp_path / "out.onnx", recover="none", ratio=0)
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


# ---- refusals ----------------------------------------------------------------------------------------------------

Edit = Callable[[Document], object]


def put(*path: str, value: object) -> Edit:
    """Set one entry of the document."""

    def edit(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return edit


def drop(*path: str) -> Edit:
    def edit(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return edit


def kept(change: Callable[[list[int]], list[Any]]) -> Edit:
    """Change the kept columns of `w1`."""

    def edit(document: Document) -> None:
        document["keep"]["w1"]["1"] = change(document["keep"]["w1"]["1"])

    return edit


EDITS: dict[str, tuple[Edit, str]] = {
    "another version": (put("version", value=2), "version 1"),
    "a version that equals one": (put("version", value=True), "version 1"),
    "another format": (put("format", value="x"), "not a plan of format"),
    "another model": (put("source", "sha256", value="0" * 64), "made for another model"),
    "no hash": (drop("source", "sha256"), "it has no 'sha256'"),
    "a hash that is no text": (put("source", "sha256", value=3), "sha256 must be text"),
    "no source": (drop("source"), "it has no 'source'"),
    "no keep": (drop("keep"), "it has no 'keep'"),
    "a source that is a list": (put("source", value=[]), "'source' must be an object"),
    "a keep that is a list": (put("keep", value=[]), "'keep' must be an object"),
    "a recipe that is text": (put("recipe", value="x"), "'recipe' must be an object"),
    "no groups": (put("groups", value=None), "'groups' must be a list"),
    "no cost": (put("cost", value=None), "'cost' must be an object"),
    "a tensor without axes": (put("keep", "w1", value="ab"), "'keep' of 'w1' must be an object"),
    "an unknown tensor": (put("keep", "nope", value={"0": [0]}), "names 'nope'"),
    "an activation": (put("keep", "h", value={"1": [0]}), "names 'h', which is no constant tensor"),
    "an axis too many": (put("keep", "w1", "5", value=[0]), "'w1', axis 5"),
    "a negative axis": (put("keep", "w1", "-1", value=[0]), "axis '-1', is no axis"),
    "an axis by another name": (put("keep", "w1", "01", value=[0]), "axis '01', is no axis"),
    "an axis in words": (put("keep", "w1", "one", value=[0]), "axis 'one', is no axis"),
    "an index out of range": (kept(lambda k: [*k[:-1], 64]), "do not fit its shape [8, 64]"),
    "a negative index": (kept(lambda k: [-1, *k[1:]]), "do not fit its shape"),
    "a huge index": (kept(lambda k: [10**30]), "do not fit its shape"),
    "unsorted indices": (kept(lambda k: k[::-1]), "do not fit its shape"),
    "an index twice": (kept(lambda k: [k[0], *k]), "do not fit its shape"),
    "no index": (kept(lambda k: []), "do not fit its shape"),
    "fractions": (kept(lambda k: [float(i) for i in k]), "must be a whole number"),
    "truth values": (kept(lambda k: [False, True]), "must be a whole number"),
    "text for indices": (put("keep", "w1", "1", value="abc"), "must be a list"),
    "nothing for indices": (put("keep", "w1", "1", value=None), "must be a list"),
    "a part of a unit": (kept(lambda k: k[:-1]), "must lose it too"),
    "a unit in one tensor only": (drop("keep", "b1"), "'b1', axis 0, must lose it too"),
    "what must stay": (put("keep", "b2", value={"0": [0, 1]}), "removes index 2 of 'b2', axis 0, which must stay"),
    "shapes that are text": (put("recipe", "input_shapes", value="x"), "input_shapes must be an object"),
    "a shape of an unknown input": (put("recipe", "input_shapes", value={"q": [1]}), "No input is called 'q'"),
    "a shape of another rank": (put("recipe", "input_shapes", value={"x": [1]}), "does not fit"),
    "a shape in words": (put("recipe", "input_shapes", value={"x": ["a", 8]}), "must be a whole number"),
    "a negative shape": (put("recipe", "input_shapes", value={"x": [-4, 8]}), "not positive"),
    "protection that is text": (put("recipe", "protect", value="x"), "protect must be a list"),
    "protection of nothing": (put("recipe", "protect", value=["nope*"]), "'nope*'"),
}


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
def test_a_plan_that_does_not_fit_is_refused(mlp: Path, document: Document, edit: Edit, words: str) -> None:
    edited = copy.deepcopy(document)
    edit(edited)
    path = mlp.with_name("plan.json")
    path.write_text(json.dumps(edited), encoding="utf-8")
    before = snapshot(mlp.parent)
    with pytest.raises(RefusedError) as refusal:
        onnxprune.apply(mlp, path, mlp.with_name("out.onnx"))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert snapshot(mlp.parent) == before
    with pytest.raises(RefusedError):
        onnxprune.verify(mlp, mlp, plan=path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"NaN",
        b'"plan"',
        b"\x89PNG\r\n",
        b'{"a": "\xe9"}',
        b"[" * 100_000,
        b'{"version": ' + b"1" * 5000 + b"}",
        b'{"format": "onnxprune-plan", "format": "onnxprune-plan"}',
    ],
)
def test_what_is_no_plan_is_refused(mlp: Path, text: bytes) -> None:
    path = save(text, mlp.with_name("plan.json"))
    with pytest.raises(RefusedError, match=r"plan\.json' is not a plan"):
        onnxprune.apply(mlp, path, mlp.with_name("out.onnx"))
    assert not mlp.with_name("out.onnx").exists()


def test_one_tensor_named_twice_is_refused(mlp: Path, document: Document) -> None:
    text = json.dumps(document).replace('"w1": {', '"w1": {"0": [0]}, "w1": {', 1)
    with pytest.raises(RefusedError, match="twice"):
        Plan.loads(text)


def test_a_plan_file_that_cannot_be_read_is_no_refusal(mlp: Path) -> None:
    os.mkfifo(mlp.with_name("pipe"))
    for name in ("nope.json", "pipe", "."):
        with within(5), pytest.raises(FileError, match="Cannot read"):
            onnxprune.apply(mlp, mlp.parent / name, mlp.with_name("out.onnx"))


def test_a_plan_is_for_one_model_only(mlp: Path, plan: Plan) -> None:
    other = save(changed(lambda m: m.metadata_props.add(key="a", value="b")), mlp.with_name("other.onnx"))
    with pytest.raises(RefusedError, match="made for another model"):
        onnxprune.apply(other, plan, mlp.with_name("out.onnx"))
    with pytest.raises(RefusedError, match="made for another model"):
        onnxprune.apply(MODELS / "cnn.onnx", plan, mlp.with_name("out.onnx"))


# ---- recipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Give one of ratio, params, macs, bytes, latency, speedup and max_drop; got none"),
        ({"ratio": 0.5, "macs": 0.5}, "got ratio, macs"),
        ({"ratio": -0.1}, "ratio must lie in [0, 1], not -0.1"),
        ({"ratio": 1.5}, "not 1.5"),
        ({"ratio": float("nan")}, "not nan"),
        ({"params": float("inf")}, "not inf"),
        ({"ratio": 0.5, "align": 0}, "align must be at least 1"),
        ({"ratio": 0.5, "align": -3}, "align must be at least 1"),
        ({"ratio": 0.5, "align": "x"}, "align must be a whole number or 'auto'"),
        ({"ratio": 0.5, "min_keep": 0}, "min_keep must be at least 1"),
        ({"ratio": 0.5, "seed": -1}, "seed must be at least 0"),
        ({"ratio": 0.5, "criterion": "l22"}, "Did you mean 'l2'"),
        ({"ratio": 0.5, "protect": ("nope*",)}, "Nothing to protect is called 'nope*'"),
        ({"ratio": 0.5, "protect": ("",)}, "A name to protect is empty"),
        ({"rato": 0.5}, "There is no option 'rato'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(mlp: Path, given: dict[str, Any], words: str) -> None:
    before = snapshot(mlp.parent)
    for decide in (
        lambda: onnxprune.plan(mlp, **given),
        lambda: onnxprune.prune(mlp, mlp.with_name("out.onnx"), **given),
    ):
        with pytest.raises(UsageError) as refusal:
            decide()
        assert words in str(refusal.value)
    assert snapshot(mlp.parent) == before


def test_the_recipe_is_written_into_the_plan(mlp: Path) -> None:
    plan = onnxprune.plan(
        mlp, recover="none", ratio=0.25, criterion="random", seed=7, min_keep=3, align=4, input_shapes={"x": (2, 8)}
    )
    assert plan.recipe["input_shapes"] == {"x": [2, 8]}
    rest = {k: v for k, v in plan.recipe.items() if k != "input_shapes"}
    again = Recipe(**{**rest, "protect": tuple(rest["protect"])})
    assert (again.ratio, again.criterion, again.seed, again.min_keep, again.align) == (0.25, "random", 7, 3, 4)


def test_open_sizes_are_found_for_counting_and_kept_for_the_replay(tmp_path: Path) -> None:
    text = """
    m (float[n, 3, h, w] x) => (float[n, 4, h, w] y) <float[16, 3, 1, 1] w1, float[4, 16, 1, 1] w2>
    { a = Conv(x, w1) r = Relu(a) y = Conv(r, w2) }
    """
    source = save(parse(text), tmp_path / "model.onnx")
    plan = onnxprune.plan(source, recover="none", macs=0.5, align=1)
    assert plan.recipe["input_shapes"] == {"x": [1, 3, 64, 64]}
    assert plan.cost["before"]["macs"] == 64 * 64 * (3 * 16 + 16 * 4)
    assert onnxprune.apply(source, plan, tmp_path / "out.onnx").verified
