"""`sensitivity`: what each group's removal costs, measured without cutting, and what a plan makes of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.algebra.analysis import Model
from onnxprune.algebra.graph import Graph
from onnxprune.budget import curves, heldout
from onnxprune.budget.curves import Curve
from onnxprune.budget.sensitivity import RATIOS, Known, read
from onnxprune.budget.study import Study
from onnxprune.data import synthetic
from onnxprune.data.runtime import ExecutionError, Session
from onnxprune.errors import PruneError, RefusedError, UsageError
from onnxprune.metrics.evidence import Bench, Evidence
from onnxprune.model.record import Record
from onnxprune.recovery.walk import Walk
from tests.laws import analyse, parse
from tests.material import save
from tests.studied import placed, redundant, rows
from tests.terminal import done, done_json, refused

pytestmark = pytest.mark.usefixtures("instant")
TWO = """net (float[N,8] x) => (float[N,4] y)
<float[8,16] u, float[16] c, float[16,24] v, float[24] d, float[24,4] w, float[4] b>
{ p = Gemm(x, u, c)  q = Relu(p)  r = Gemm(q, v, d)  s = Relu(r)  y = Gemm(s, w, b) }"""


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """A model of two groups, and its data."""
    return placed(tmp_path, parse(TWO))


# ---- what is measured ----------------------------------------------------------------------------------------------


def test_a_refit_makes_up_for_units_that_others_repeat(tmp_path: Path) -> None:
    """A third of the hidden units is there twice: without them, nothing is lost once the others are refitted."""
    model, data = placed(tmp_path, redundant())
    (group,) = onnxprune.sensitivity(model, data=data, ratios=[1 / 3]).groups
    third, end = group.points
    assert (third.removed, end.removed) == (4, 11)
    assert third.plain.error > 0.05
    assert third.refit.error < 0.01 * third.plain.error
    assert end.refit.error > 10 * third.refit.error


def test_the_plain_error_is_that_of_the_model_that_is_cut(given: tuple[Path, Path], tmp_path: Path) -> None:
    """What is fed to one session as weights is what surgery writes: the outputs of the file are as far off."""
    model, data = given
    found = onnxprune.sensitivity(model, data=data, ratios=[0.5], criterion="l2")
    analysis = analyse(onnx.load(model))
    assert [group.units for group in found.groups] == [len(analysis.members(g)) for g in range(analysis.groups)]
    assert "u:1" in found.groups[0].axes
    out = tmp_path / "cut.onnx"
    onnxprune.prune(model, out, ratio=0.5, criterion="l2", align=1, recover="none", protect=("w",))
    wanted = found.groups[0].at(0.5)
    assert wanted is not None
    assert wanted.plain.error == pytest.approx(_apart(model, out, data), rel=1e-4)


def _apart(dense: Path, cut: Path, data: Path) -> float:
    """The squared error of a cut model on the rows that a study holds out, as a fraction of the outputs' variance."""
    evidence = Evidence(data, samples=256)
    model = Model(Record(dense))
    bench = Bench(model, evidence, dense)
    held = Study(model, bench.calibration, bench.shapes).held_out.feeds
    a, b = (np.concatenate([Session(path).run(feed)[0] for feed in held]).astype(np.float64) for path in (dense, cut))
    return float(np.square(a - b).sum() / np.square(a - a.mean(0)).sum())


def test_every_ratio_is_measured_and_all_that_may_go(given: tuple[Path, Path]) -> None:
    model, data = given
    for group in onnxprune.sensitivity(model, data=data).groups:
        assert [p.removed for p in group.points] == [*(round(r * group.units) for r in RATIOS), group.units - 1]
        assert all(group.at(ratio) for ratio in RATIOS)


def test_the_most_sensitive_group_comes_first(tmp_path: Path) -> None:
    quiet = parse(TWO)
    for tensor in quiet.graph.initializer:
        if tensor.name == "v":  # of the first group's units all but three say nothing
            value = onnx.numpy_helper.to_array(tensor).copy()
            value[3:] *= 1e-3
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, "v"))
    model, data = placed(tmp_path, quiet)
    found = onnxprune.sensitivity(model, data=data)
    assert [group.axes[0] for group in found.by_error()] == [found.groups[1].axes[0], found.groups[0].axes[0]]


def test_without_data_inputs_are_made_up_and_that_is_said(given: tuple[Path, Path]) -> None:
    model, data = given
    assert not onnxprune.sensitivity(model).real
    assert "made-up rows" in done("sensitivity", model)
    assert "of your data" in done("sensitivity", model, "--data", data)


def test_labels_add_a_metric(given: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = given
    labels = Session(model).run({"x": rows()})[0].argmax(1)
    np.save(tmp_path / "labels.npy", labels)
    words = ("sensitivity", model, "--data", data, "--labels", tmp_path / "labels.npy")
    found = done_json(*words)
    assert found["metric"] == {"name": "accuracy", "dense": 1.0}
    scores = [p["score"] for group in found["groups"] for p in group["points"]]
    assert all(0 <= score <= 1 for score in scores)
    assert min(scores) < 0.9
    assert "accuracy, 100.0% as the model is" in done(*words)


def test_the_same_twice_is_the_same(given: tuple[Path, Path]) -> None:
    model, data = given
    first, second = (onnxprune.sensitivity(model, data=data).to_json() for _ in range(2))
    assert first == second


def test_a_model_with_nothing_to_prune_says_so(tmp_path: Path) -> None:
    model = save(parse("net (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"), tmp_path / "relu.onnx")
    assert "Nothing can be removed" in done("sensitivity", model)
    assert done_json("sensitivity", model)["groups"] == []


# ---- one session for all candidates --------------------------------------------------------------------------------


def test_candidates_of_a_group_share_one_session(given: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = given
    loaded, counted = [], []
    load = Walk._session

    def counting(self: Walk, *wanted: Any) -> Session | None:
        loaded.append(wanted)
        return load(self, *wanted)

    monkeypatch.setattr(Walk, "_session", counting)
    for ratios in ([0.5], RATIOS):
        loaded.clear()
        onnxprune.sensitivity(model, data=data, ratios=ratios)
        counted.append(len(loaded))
    assert counted[0] == counted[1]


@pytest.mark.parametrize("fed", [False, True])
def test_values_that_are_fed_give_what_values_that_are_built_in_give(fed: bool) -> None:
    graph = Graph(Record(parse(TWO)))
    feeds = [{"x": rows(3, seed)} for seed in range(2)]
    values = {name: np.asarray(graph.constant(name)) * np.float32(0.5) for name in ("u", "d")}
    expected = [y for (y,) in Walk(graph, feeds, values).map(["y"], lambda _, found: [found["y"]])]
    stepped = Walk(graph, feeds)
    for _ in range(2):
        found = stepped.tried(["y"], lambda _, found: found["y"], values, fed=fed)
        assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(expected, found, strict=True))
    dense = stepped.tried(["y"], lambda _, found: found["y"], {}, fed=fed)
    assert not np.allclose(dense[0], expected[0])


def test_what_an_operator_takes_as_a_constant_only_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(Record(parse(TWO)))
    feeds = [{"x": rows(3)}]
    values = {"u": np.asarray(graph.constant("u")) * np.float32(0.5)}
    plain = Walk(graph, feeds).tried(["y"], lambda _, found: found["y"], values, fed=False)
    ready, calls = Walk._ready, []

    def choosy(self: Walk, names: Any, fed: frozenset[str]) -> Any:
        calls.append(fed)
        if fed:
            raise ExecutionError("this must be a constant")
        return ready(self, names, fed)

    monkeypatch.setattr(Walk, "_ready", choosy)
    choosing = Walk(graph, feeds)
    for _ in range(2):
        assert np.array_equal(choosing.tried(["y"], lambda _, found: found["y"], values, fed=True)[0], plain[0])
    assert [bool(fed) for fed in calls] == [True, False, False]


def test_a_model_that_does_not_run_with_such_values_is_infinitely_wrong() -> None:
    graph = Graph(Record(parse(TWO)))
    held = heldout.HeldOut(graph, [{"x": rows(3)}])
    for fed in (False, True):
        assert held.loss({"u": np.zeros((3, 3), np.float32)}, fed=fed).error == np.inf


# ---- the plan ------------------------------------------------------------------------------------------------------


def measured(given: tuple[Path, Path], *more: object) -> Path:
    """A file of curves."""
    model, data = given
    path = model.parent / "curves.json"
    done("sensitivity", model, "--data", data, *more, "--json", path)
    return path


def test_a_plan_spends_by_the_curves_and_does_not_measure_them(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = given
    known = measured(given)
    words = ("plan", model, "--macs", "0.5", "--align", "1", "--schedule", "one-shot", "--data", data)
    done(*words, "-o", tmp_path / "a.json")

    def fail(*given: object) -> list[Curve]:
        raise AssertionError("measured again")

    monkeypatch.setattr("onnxprune.budget.curves.measured", fail)
    done(*words, "-o", tmp_path / "b.json", "--sensitivity", known)
    first, second = (json.loads((tmp_path / name).read_text("utf-8"))["groups"] for name in ("a.json", "b.json"))
    assert [len(group["kept"]) for group in first] == [len(group["kept"]) for group in second]


def test_the_budget_is_spent_by_what_the_file_says(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it says that the first group is dear, the second one pays."""
    model, data = given
    known = measured(given)
    document = json.loads(known.read_text("utf-8"))
    for point in document["groups"][0]["points"]:
        point["refit"]["error"] = 1e3
    known.write_text(json.dumps(document), "utf-8")
    spent, spend = [], curves.spend

    def watched(found: Any, removed: Any, *others: Any) -> Any:
        mask = spend(found, removed, *others)
        spent.append([int(mask[curve.order].sum()) for curve in found])
        return mask

    monkeypatch.setattr(curves, "spend", watched)
    words = ("--macs", "0.6", "--align", "1", "--schedule", "one-shot", "--sensitivity", known)
    done("plan", model, "-o", tmp_path / "p.json", "--data", data, *words)
    assert spent[0][0] == 0
    assert spent[0][1] > 0


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--seed", "1"), "data"),
        (("--samples", "32"), "data"),
        (("--criterion", "l2"), "criterion"),
        (("--protect", "w"), "protection"),
    ],
)
def test_curves_of_other_settings_are_refused(given: tuple[Path, Path], more: tuple[str, ...], what: str) -> None:
    model, data = given
    known = measured(given)
    words = ("plan", model, "-o", model.parent / "p.json", "--macs", "0.5", "--data", data, "--sensitivity", known)
    line = refused(3, *words, *more)
    assert f"was measured with another {what}" in line or ("--seed" in more and "another seed" in line)
    assert not (model.parent / "p.json").exists()


def test_curves_of_inputs_that_were_made_up_are_taken_where_the_same_are_made_up(
    given: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make up fewer rows for a model that takes long."""
    monkeypatch.setattr(synthetic, "WORK", 1000)
    model, _ = given
    done("sensitivity", model, "--json", tmp_path / "s.json")
    done(
        "prune",
        model,
        "-o",
        tmp_path / "out.onnx",
        "--macs",
        "0.7",
        "--align",
        "1",
        "--sensitivity",
        tmp_path / "s.json",
    )


def test_curves_of_another_model_are_refused(given: tuple[Path, Path], mlp: Path) -> None:
    known = measured(given)
    line = refused(3, "prune", mlp, "-o", mlp.parent / "o.onnx", "--macs", "0.5", "--sensitivity", known)
    assert "another model" in line


@pytest.mark.parametrize(
    ("code", "more"),
    [
        (2, ("--ratio", "0.5")),
        (2, ("--macs", "0.5", "--schedule", "scores")),
        (2, ("--macs", "0.5", "--recover", "none", "--criterion", "l2")),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "prune"])
def test_curves_that_would_go_unused_are_refused(
    given: tuple[Path, Path], verb: str, code: int, more: tuple[str, ...]
) -> None:
    model, _ = given
    known = measured(given)
    line = refused(code, verb, model, "-o", model.parent / "out.onnx", *more, "--sensitivity", known)
    assert "leave out --sensitivity" in line


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        "\x00",
        '{"format": "onnxprune-plan", "version": 1}',
        '{"format": "onnxprune-sensitivity", "version": 2, "settings": {}, "groups": []}',
        '{"format": "onnxprune-sensitivity", "version": 1, "settings": [1], "groups": []}',
        '{"format": "onnxprune-sensitivity", "version": 1, "settings": {}, "groups": [{}]}',
        '{"format": "onnxprune-sensitivity", "version": 1, "settings": {}, "groups": [{"points": [{"removed": 2,'
        ' "refit": {"error": 1}}, {"removed": 1, "refit": {"error": 1}}]}]}',
        '{"format": "onnxprune-sensitivity", "version": 1, "settings": {}, "groups": [{"points": [{"removed": 2,'
        ' "refit": {"error": "x"}}]}]}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_something_else_is_refused(given: tuple[Path, Path], content: str) -> None:
    model, data = given
    path = model.parent / "curves.json"
    path.write_text(content, "utf-8")
    words = ("plan", model, "-o", model.parent / "p.json", "--macs", "0.5", "--data", data, "--sensitivity", path)
    assert "is not what `onnxprune sensitivity" in refused(3, *words)


def test_losses_between_the_points_lie_on_straight_lines_and_never_fall() -> None:
    curve = Curve(np.arange(8), np.arange(8), np.zeros(8))
    known = Known("f", {}, [([2, 4, 7], [0.2, 0.1, float("inf")])])
    (found,) = known.curves([curve])
    assert found.losses[:5] == pytest.approx([0, 0.1, 0.2, 0.2, 0.2], abs=1e-5)
    assert (np.diff(found.losses) > 0).all()
    assert np.isfinite(found.losses).all()
    with pytest.raises(RefusedError, match="1 groups, the model 2"):
        known.curves([curve, curve])


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal(given: tuple[Path, Path]) -> None:
    model, data = given
    text = done("sensitivity", model, "--data", data)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("refitted") == 3
    many = done("sensitivity", model, *(word for n in range(1, 20) for word in ("--ratio", n / 20)))
    assert max(map(len, many.splitlines())) <= 80


def test_json_is_what_is_read_back(given: tuple[Path, Path]) -> None:
    found = read(str(measured(given)))
    assert set(found.settings) == {"model", "data", "criterion", "seed", "protection"}
    assert len(found.points) == 2


def test_the_picture_is_an_svg_with_every_group_and_no_markup_from_names(tmp_path: Path) -> None:
    model = parse(TWO)
    hostile = '<script>alert(1)</script>&"'
    for node in model.graph.node:
        node.input[:] = [hostile if name == "u" else name for name in node.input]
    next(t for t in model.graph.initializer if t.name == "u").name = hostile
    path = save(model, tmp_path / "m.onnx")
    to = tmp_path / "m.svg"
    done("sensitivity", path, "--picture", to, "--ratio", "0.5")
    root = ElementTree.fromstring(to.read_text("utf-8"))
    lines = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 4
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert "http" not in to.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("code", "more"),
    [
        (2, "--ratio 0"),
        (2, "--ratio 1.5"),
        (2, "--ratio nan"),
        (2, "--criterion auto"),
        (2, "--criterion none"),
        (2, "--samples 0"),
        (2, "--seed -1"),
        (2, "--picture out.png"),
        (2, "--json out.txt"),
        (2, "--metric f1"),
        (2, "--protect nothing-is-called-so"),
        (5, "--data nope.npz"),
        (5, "--picture no/such/folder.svg"),
    ],
)
def test_what_makes_no_sense_is_refused(mlp: Path, monkeypatch: pytest.MonkeyPatch, code: int, more: str) -> None:
    monkeypatch.chdir(mlp.parent)
    before = sorted(mlp.parent.iterdir())
    refused(code, "sensitivity", mlp, *more.split())
    assert sorted(mlp.parent.iterdir()) == before


def test_from_python_the_same_is_refused(mlp: Path) -> None:
    wrong: list[dict[str, Any]] = [{"ratios": []}, {"ratios": [2]}, {"samples": 0}, {"criterion": "auto"}]
    for given in wrong:
        with pytest.raises(UsageError):
            onnxprune.sensitivity(mlp, **given)
    with pytest.raises(PruneError):
        onnxprune.sensitivity(mlp.parent / "none.onnx")
