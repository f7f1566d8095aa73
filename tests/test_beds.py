"""The harness of ``tests.beds``: merging, rendering, and keeping what is measured apart from what is calibrated on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from onnxprune.errors import UsageError
from tests.beds import bed as beds
from tests.beds import data, fmnist, rows, table
from tests.beds.bed import Bed, Budget, Goal, Metrics
from tests.beds.store import Results, Run

HALF = beds.macs(0.5, Goal("accuracy", 0.9), Goal("accuracy", 0.8, row="data-free"), Goal("speed"))


def results(*runs: Run) -> Results:
    found = Results()
    found.open("net", {"accuracy": 0.95, "speed": 3.0}, 100, [HALF])
    for run in runs:
        found.add(run)
    return found


def made(row: str, seed: int, accuracy: float, kept: float = 0.5) -> Run:
    return Run("net", HALF.name, row, seed, {"accuracy": accuracy, "speed": 3.0}, {"macs": kept, "params": 0.6}, 1.0)


def lines(found: Results) -> list[list[str]]:
    text = [line for line in table.render(found).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text]


def test_a_cell_is_the_mean_and_the_deviation_over_the_seeds() -> None:
    head, _, first, *_ = lines(results(made("default", 0, 0.90), made("default", 1, 0.92), made("default", 2, 0.94)))
    assert first[head.index("default")] == "0.9200 ± 0.0200"
    assert first[head.index("reached")] == "yes"
    assert first[head.index("best")] == "default"


def test_a_goal_that_is_missed_says_by_how_much() -> None:
    head, _, first, *_ = lines(results(made("default", 0, 0.88)))
    assert first[head.index("reached")] == "**no**, -0.0200"


def test_each_goal_has_a_line_and_is_judged_on_its_own_row() -> None:
    head, _, first, second, third = lines(results(made("default", 0, 0.95), made("data-free", 0, 0.7)))
    goals = [line[head.index("goal")] for line in (first, second, third)]
    assert goals == ["default ≥ 0.9", "data-free ≥ 0.8", ""]
    assert second[head.index("default")] == ""
    assert second[head.index("reached")].startswith("**no**")
    assert third[head.index("metric")] == "speed"


def test_an_allowed_drop_counts_from_the_dense_figure() -> None:
    assert table.target({"least": None, "drop": 0.02}, 0.95) == pytest.approx(0.93)
    assert table.reached(0.93, 0.93) == "yes"
    assert table.reached(None, 0.93) == "not measured"


def test_a_failure_is_shown_with_its_reason_and_reaches_nothing() -> None:
    failed = Run("net", HALF.name, "default", 1, failed="failed: UsageError: no such recipe")
    found = results(made("default", 0, 0.99), failed)
    head, _, first, *_ = lines(found)
    assert first[head.index("default")] == "0.9900, 1/2 failed"
    assert first[head.index("reached")] == "not measured"
    assert "- net, default: failed: UsageError: no such recipe" in table.render(found)


def test_a_share_that_was_not_asked_for_is_shown() -> None:
    head, _, first, *_ = lines(results(made("onnxsim", 0, 0.9, kept=0.8)))
    assert first[head.index("onnxsim")] == "0.9000 (80%)"


def test_runs_are_merged_by_bed_budget_row_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "beds.json"
    results(made("default", 0, 0.1), made("default", 1, 0.2)).write(path)
    again = Results.read(path)
    again.open("net", {"accuracy": 0.95, "speed": 3.0}, 100, [HALF])
    again.add(made("default", 1, 0.3))
    again.add(made("l1", 0, 0.4))
    again.write(path)
    last = Results.read(path)
    assert [(run.row, run.seed, run.metrics["accuracy"]) for run in last.runs.values()] == [
        ("default", 0, 0.1),
        ("default", 1, 0.3),
        ("l1", 0, 0.4),
    ]
    assert table.render(last) == table.render(again)


def test_runs_on_other_items_or_of_a_budget_that_is_gone_are_dropped() -> None:
    found = results(made("default", 0, 0.1))
    assert found.open("net", {"accuracy": 0.95}, 100, [HALF]) == 0
    assert found.open("net", {"accuracy": 0.95}, 50, [HALF]) == 1
    found = results(made("default", 0, 0.1))
    assert found.open("net", {"accuracy": 0.95}, 100, [beds.macs(0.3)]) == 1


def test_what_is_drawn_is_distinct_and_depends_on_the_seed_alone() -> None:
    first, again, other = beds.draw(0, 1000), beds.draw(0, 1000), beds.draw(1, 1000)
    assert len(set(first.tolist())) == beds.CALIBRATION
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_calibration_images_are_none_that_are_measured_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(split: str) -> tuple[beds.Array, beds.Array]:
        first = {"train": 0, "t10k": 100}[split]
        pixels = np.repeat(np.arange(first, first + 100, dtype=np.uint8), 28 * 28).reshape(100, 1, 28, 28)
        return pixels, np.zeros(100, dtype=np.int64)

    monkeypatch.setattr(data, "fashion_mnist", fake)
    fmnist.images.cache_clear()
    try:
        tested = {image.tobytes() for image in fmnist.images("t10k")[0]}
        used = {image.tobytes() for image in fmnist.calibration(3)["input"]}
    finally:
        fmnist.images.cache_clear()
    assert used
    assert not used & tested


def test_words_to_calibrate_with_are_none_that_are_measured_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = pytest.importorskip("tests.beds.text")
    (tmp_path / "wordsim353.tsv").write_text("# Word 1\tWord 2\tHuman\nTiger\tcat\t7.35\n", encoding="utf-8")
    lines = "tiger\told\t1.58\nnew\tCat\t2.5\n"
    (tmp_path / "simlex999.txt").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(data, "package", lambda name: tmp_path)
    text.pairs.cache_clear()
    try:
        assert text.pairs(text.TEST) == [("Tiger", "cat", 7.35)]
        assert text.other_words() == ["new", "old"]
    finally:
        text.pairs.cache_clear()


def test_photos_faces_and_files_come_in_two_halves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    from tests.beds import vision

    assert not set(vision.PHOTOS["calibration"]) & set(vision.PHOTOS["test"])
    patches = np.repeat(np.arange(200, dtype=np.float32), 25 * 25).reshape(200, 25, 25)
    np.save(tmp_path / "lfw_subset.npy", patches)
    monkeypatch.setattr(data, "package", lambda name: tmp_path)
    vision.faces.cache_clear()
    try:
        halves = [vision.faces(part) for part in ("calibration", "test")]
    finally:
        vision.faces.cache_clear()
    values = [{float(pixel) for pixel in pixels[:, 0, 0, 0]} for pixels, _ in halves]
    assert not values[0] & values[1]
    assert [int(known.sum()) for _, known in halves] == [200, 200]


def test_images_are_read_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for name, header, body in (("images-idx3", 16, pixels), ("labels-idx1", 8, np.array([7, 3], dtype=np.uint8))):
        with gzip.open(tmp_path / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(bytes(header) + body.tobytes())
    monkeypatch.setattr(data, "INSTALLED", tmp_path)
    images, labels = data.fashion_mnist("train")
    assert images.shape == (2, 1, 28, 28)
    assert np.array_equal(images.ravel(), pixels)
    assert labels.tolist() == [7, 3]


def test_a_row_that_fails_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.beds import __main__ as command

    def measure(path: Path) -> Metrics:
        raise AssertionError("there is nothing to measure")

    def fails(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
        raise UsageError("no such\nrecipe")

    net = Bed("net", Path("net.onnx"), lambda seed: {}, measure, [HALF], 100)
    run = command.attempt(net, HALF, "default", fails, 2)
    assert run.failed == "failed: UsageError: no such recipe"
    assert run.key == ("net", HALF.name, "default", 2)
    assert [name for _, name, _ in command.jobs(net, rows.ROWS, ["l1"], 3)] == ["l1"]
    assert len(command.jobs(net, rows.ROWS, [], 3)) == 1 + 3 * (len(rows.ROWS) - 1)


def test_the_manifest_of_the_networks_names_what_is_there() -> None:
    for file in fmnist.FILES.values():
        assert (data.ROOT / "models" / file).exists()


def test_results_are_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "beds.json"
    results(made("l1", 0, 0.5)).write(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["beds"]["net"]["budgets"][HALF.name]["recipe"] == {"macs": 0.5, "align": 1}
    assert document["runs"][0]["kept"] == {"macs": 0.5, "params": 0.6}


def test_the_short_table_goes_between_the_marks_of_a_page() -> None:
    found = results(made("default", 0, 0.91), made("default", 1, 0.93), made("l1", 0, 0.5))
    page = f"head\n{table.MARKS[0]}\nold\n{table.MARKS[1]}\ntail\n"
    filled = table.inserted(page, table.brief(found))
    assert filled.startswith(f"head\n{table.MARKS[0]}\n| bed |")
    assert filled.endswith(f"|\n{table.MARKS[1]}\ntail\n")
    assert "0.920 ± 0.014" in filled
    assert "old" not in filled
    assert table.inserted(filled, table.brief(found)) == filled
    with pytest.raises(ValueError, match="no lines"):
        table.inserted("a page", "lines")
