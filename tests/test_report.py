"""Reports: complete, self-contained, the same bytes each time, and harmless whatever a model calls its nodes."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import RefusedError
from onnxprune.report import document, drawing, page, wording
from tests.material import save, tiny
from tests.page import Element, read
from tests.studied import placed, redundant
from tests.terminal import done, refused, run

pytestmark = pytest.mark.usefixtures("instant")
Document = dict[str, Any]
HOSTILE = '</title></svg><script>alert("1")</script>|`a`\n\u202e\x1b[31m*_[x](http://x.example)\x00&amp;'
FIGURES = {"widths-figure", "tradeoff-figure", "losses-figure", "latency-figure", "refits-figure"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pruning's three reports: of a model that data decided on."""
    found = tmp_path_factory.mktemp("report")
    model, data = placed(found, redundant())
    words = ["prune", model, "-o", found / "small.onnx", "--macs", "0.5", "--align", "1", "--data", data]
    for suffix in page.SUFFIXES:
        words += ["--report", found / f"report{suffix}"]
    assert run(*words).exit_code == 0
    return found


@pytest.fixture(scope="module")
def result(folder: Path) -> Document:
    """What was measured of it, with a metric."""
    found: Document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found["fidelity"] |= {"metric": "accuracy", "scores": [0.9, 0.875]}
    found["fidelity"] |= {"latency_ms": [2.0, 1.0], "latency_quartiles_ms": [[1.5, 2.5], [0.75, 1.25]]}
    return found


@pytest.fixture(scope="module")
def drawn(result: Document) -> Element:
    """Its page."""
    return read(page.html(document.check(result)))


# ---- what is on the page -----------------------------------------------------------------------------------------


def test_every_figure_is_there_and_says_what_it_shows(drawn: Element) -> None:
    assert {f.attributes["id"] for f in drawn.every("figure")} == FIGURES
    for figure in drawn.every("figure"):
        assert len(figure.one("figcaption").text) > 40
        assert list(figure.every("svg"))
    for picture in drawn.every("svg"):
        assert picture.attributes["role"] == "img"
        said = [picture.one("title"), picture.one("desc")]
        assert [e.attributes["id"] for e in said] == picture.attributes["aria-labelledby"].split()
        assert all(e.text.strip() for e in said)
        assert any(e.tag in ("rect", "circle", "line") for e in picture.every())


def test_tables_have_a_caption_and_every_row_a_head(drawn: Element) -> None:
    for table in drawn.every("table"):
        assert table.one("caption").text
        width = len(list(table.one("thead").every("th")))
        rows = list(table.one("tbody").every("tr"))
        assert rows
        for row in rows:
            assert [cell.tag for cell in row.children] == ["th", *["td"] * (width - 1)]


def test_the_page_needs_nothing_else(drawn: Element, folder: Path) -> None:
    tags = {e.tag for e in drawn.every()}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for element in drawn.every():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), name
            assert name not in ("href", "src") or value.startswith(("#", "data:,")), value
    style = next(drawn.every("style")).text
    assert "url(" not in style
    assert "@import" not in style
    assert "//" not in (folder / "report.html").read_text(encoding="utf-8").split("</style>")[0]


def test_names_on_the_page_are_unique_and_links_lead_somewhere(drawn: Element) -> None:
    names = [e.attributes["id"] for e in drawn.every() if "id" in e.attributes]
    assert len(names) == len(set(names))
    links = {e.attributes["href"] for e in drawn.every("a")}
    assert len(links) > 6
    assert {link[1:] for link in links} <= set(names)


def test_what_was_measured_is_what_is_said(drawn: Element, result: Document) -> None:
    text = drawn.text
    for cost in result["cost"].values():
        assert f"{cost['params']:,}" in text
        assert f"{cost['macs']:,}" in text
    for said in ("90.00 %", "87.50 %", "\N{MINUS SIGN}2.50 pt", "2.00 ×", "Verified on cpu", "keep 50.0 % of the mult"):
        assert said in text
    for step in result["recovery"]["layers"]:
        assert step["layer"] in text
    for each in result["details"]["staying"]:
        assert each["why"] in text
    for trial in result["details"]["tried"]:
        assert trial["name"] in text
    assert result["environment"]["onnxruntime"] in text


def test_bars_are_as_long_as_layers_are_wide(drawn: Element, result: Document) -> None:
    (picture,) = (svg for svg in drawn.every("svg") if svg.attributes["id"] == "widths-0")
    bars = [(r.attributes["class"], float(r.attributes["width"].rstrip("%"))) for r in picture.every("rect")]
    before, after = ([width for kind, width in bars if kind == wanted] for wanted in ("before", "after"))
    layers = result["details"]["layers"]
    assert any(layer["after"] < layer["before"] for layer in layers)
    for layer, full, left in zip(layers, before, after, strict=True):
        assert math.isclose(left / full, layer["after"] / layer["before"], rel_tol=2e-3)
        assert math.isclose(full / before[0], layer["before"] / layers[0]["before"], rel_tol=2e-3)


def test_whiskers_reach_from_quartile_to_quartile(drawn: Element) -> None:
    (picture,) = (svg for svg in drawn.every("svg") if svg.attributes["id"] == "latency")
    lines = [e.attributes for e in picture.every("line") if e.attributes["class"] == "whisker"]
    ends = {(float(e["x1"].rstrip("%")), float(e["x2"].rstrip("%"))) for e in lines if e["y1"] == e["y2"]}
    (bar,) = (
        float(r.attributes["width"].rstrip("%")) for r in picture.every("rect") if r.attributes["class"] == "before"
    )
    expected = {(bar * low / 2.0, bar * high / 2.0) for low, high in ((1.5, 2.5), (0.75, 1.25))}
    assert {(round(a, 1), round(b, 1)) for a, b in ends} == {(round(a, 1), round(b, 1)) for a, b in expected}


def test_the_chosen_trial_is_the_plans(result: Document) -> None:
    names = [trial["name"] for trial in result["details"]["tried"]]
    assert result["recovery"]["allocation"] in names
    for name in names:
        found = read(page.html({**result, "recovery": {**result["recovery"], "allocation": name}}))
        chosen = [row.children for row in found.every("tr") if "(chosen)" in row.children[0].text]
        assert [cells[1].text for cells in chosen] == [name]
        assert [e.attributes["class"] for e in found.every("circle") if f": {name}" in e.text] == ["chosen"]


def test_many_layers_are_folded_and_none_is_lost(result: Document) -> None:
    many = copy.deepcopy(result)
    many["details"]["layers"] = [
        {"layer": f"layer {n}", "group": n % 3 or None, "before": 64 + n, "after": 32} for n in range(200)
    ]
    found = read(page.html(document.check(many)))
    (figure,) = (f for f in found.every("figure") if f.attributes["id"] == "widths-figure")
    assert "profile-figure" in {f.attributes["id"] for f in found.every("figure")}
    names = [t.text for t in figure.every("text") if t.text.startswith("layer")]
    assert names == [f"layer {n}" for n in range(200)]
    folded = {t.text for t in figure.one("details").every("text")}
    assert {"layer 15", "layer 16"} & folded == {"layer 16"}


def test_a_model_with_nothing_to_prune_says_so(tmp_path: Path) -> None:
    model = save(tiny(), tmp_path / "m.onnx")
    done(
        "prune", model, "-o", tmp_path / "o.onnx", "--ratio", "0", "--recover", "none", "--report", tmp_path / "r.html"
    )
    found = read((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Nothing was removed" in found.text
    assert "What could not be pruned" in found.text


def test_what_failed_is_not_called_verified(result: Document) -> None:
    (verdict,) = (
        e
        for e in read(page.html({**result, "verified": False})).every("p")
        if "verdict" in e.attributes.get("class", "")
    )
    assert "Not verified" in verdict.text
    assert "bad" in verdict.attributes["class"]


# ---- determinism -------------------------------------------------------------------------------------------------


def test_a_report_drawn_later_is_the_one_drawn_at_once(folder: Path, tmp_path: Path) -> None:
    words = [word for suffix in page.SUFFIXES for word in ("-o", tmp_path / f"later{suffix}")]
    done("report", folder / "report.json", *words)
    for suffix in page.SUFFIXES:
        assert (tmp_path / f"later{suffix}").read_bytes() == (folder / f"report{suffix}").read_bytes()


def test_json_on_the_terminal_can_be_drawn_too(tmp_path: Path) -> None:
    model, out = save(tiny(), tmp_path / "m.onnx"), tmp_path / "o.onnx"
    done("prune", model, "-o", out, "--ratio", ".5", "--recover", "none", "--json", tmp_path / "r.json")
    done("report", tmp_path / "r.json", "-o", tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text(encoding="utf-8").startswith("# m.onnx, pruned\n")


# ---- hostile names -----------------------------------------------------------------------------------------------


def poisoned(value: Any, keep: str = "") -> Any:
    """The same document with a hostile name for every text in it."""
    if isinstance(value, dict):
        return {key: poisoned(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, keep) for each in value]
    return HOSTILE if isinstance(value, str) and keep not in ("format", "error") and value != "inf" else value


def test_hostile_names_are_text_in_html(result: Document, drawn: Element) -> None:
    text = page.html(document.check(poisoned(result)))
    found = read(text)
    assert {e.tag for e in found.every()} <= {e.tag for e in drawn.every()}
    assert '</title></svg><script>alert("1")</script>|`a`␊[U+202E]␛[31m*_[x](http://x.example)␀&amp;' in found.text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert all(text.count(f"<{tag}") == text.count(f"</{tag}>") for tag in ("svg", "table", "section", "figure"))


def test_hostile_names_are_text_in_markdown(result: Document) -> None:
    text = page.markdown(document.check(poisoned(result)))
    assert all(c.isprintable() or c == "\n" for c in text)
    prose = re.sub(r"(?s)````.*?````", "", text)
    assert not re.search(r"(?<!\\)<", prose)
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)`|http:/", prose)
    for table in re.findall(r"(?m)(?:^\|.*\n)+", prose):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_a_hostile_model_is_reported(tmp_path: Path) -> None:
    model = tiny()
    for tensor in model.graph.initializer:
        tensor.name += HOSTILE
    for number, node in enumerate(model.graph.node):
        node.input[:] = [f"{name}{HOSTILE}" if name[0] in "wb" else name for name in node.input]
        node.name = f"{HOSTILE}{number}"
    path = save(model, tmp_path / "m.onnx")
    words = ("--ratio", ".5", "--recover", "none", "--report", tmp_path / "r.html", "--report", tmp_path / "r.md")
    done("prune", path, "-o", tmp_path / "o.onnx", *words)
    found = read((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "<script>alert" in found.text
    assert not list(found.every("script"))


@given(st.text())
def test_visible_text_is_printable_and_printable_text_stays(text: str) -> None:
    assert wording.visible(text).isprintable()
    assert wording.visible(wording.visible(text)) == wording.visible(text)
    assert not text.isprintable() or wording.visible(text) == text
    assert len(wording.name(text, 20)) <= 20 * len("[U+10FFFF]")


# ---- the document ------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document; of lists, the first entry stands for all."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places(each, (*path, key))


def opened(whole: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """A copy of a document, and what in it holds a place."""
    found = inner = copy.deepcopy(whole)
    for key in path[:-1]:
        inner = inner[key]
    return found, inner


def accepted(found: Document) -> bool:
    """Whether a document passes the check."""
    try:
        document.check(found)
    except RefusedError:
        return False
    return True


def test_whatever_is_wrong_with_a_document_is_refused_or_can_be_drawn(result: Document) -> None:
    refusals = drawings = 0
    for path in list(places(result))[1:]:
        for odd in (None, "x", -1, 0, 1e300, math.nan, math.inf, True, [], {}, [1], {"a": 1}):
            changed, inner = opened(result, path)
            inner[path[-1]] = odd
            if accepted(changed):
                page.html(changed)
                page.markdown(changed)
                drawings += 1
            else:
                refusals += 1
    assert refusals > drawings > 100


def test_what_is_missing_is_named(result: Document) -> None:
    for path in (("cost",), ("source", "name"), ("groups", 0, "kept"), ("fidelity", "outputs", 0, "cosine")):
        changed, inner = opened(result, path)
        del inner[path[-1]]
        with pytest.raises(RefusedError, match=str(path[-1])):
            document.check(changed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "not a result of"),
        ("{}", "not a result of"),
        ('{"format": "onnxprune-plan", "version": 1}', "not a result of"),
        ('{"format": "onnxprune-result", "version": 2}', "not a result of"),
        ('{"format": "onnxprune-result", "version": 1}', "no 'source'"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    assert words in refused(3, "report", tmp_path / "r.json", "-o", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_files_that_are_none_are_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "no JSON" in refused(3, "report", tmp_path / "binary.json", "-o", tmp_path / "r.html")
    assert "No such file" in refused(5, "report", tmp_path / "none.json", "-o", tmp_path / "r.html")
    assert "directory" in refused(5, "report", tmp_path, "-o", tmp_path / "r.html")
    assert "named twice" in refused(2, "report", folder / "report.json", "-o", folder / "report.json")
    assert "no directory" in refused(5, "report", folder / "report.json", "-o", tmp_path / "none" / "r.html")
    assert "ends in none of" in refused(2, "report", folder / "report.json", "-o", tmp_path / "r.pdf")


@pytest.mark.parametrize("place", ["r.txt", "r", "r.html.gz"])
def test_another_suffix_is_refused_before_any_work(tmp_path: Path, place: str) -> None:
    words = ("--ratio", ".5", "--report", tmp_path / "r.html", "--report", tmp_path / place)
    line = refused(2, "prune", tmp_path / "none.onnx", "-o", tmp_path / "o.onnx", *words)
    assert ".html, .md, .json" in line


def test_two_reports_need_two_places(tmp_path: Path) -> None:
    words = ("--ratio", ".5", "--report", tmp_path / "r.html", "--report", tmp_path / "r.html")
    assert "named twice" in refused(2, "prune", tmp_path / "none.onnx", "-o", tmp_path / "o.onnx", *words)


# ---- drawing -----------------------------------------------------------------------------------------------------


@given(st.floats(1e-12, 1e12))
def test_ticks_reach_what_they_must_and_hardly_more(high: float) -> None:
    found = drawing.ticks(high)
    assert 0.999 * high <= found[-1] <= 2.6 * high
    assert 2 <= len(found) <= 6
    assert found[0] == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 300)), max_size=10))
def test_labels_that_would_overlap_are_moved_apart(places: list[tuple[float, float]]) -> None:
    moved = drawing.apart(places, 14, 8)
    assert all(after >= before for (_, before), after in zip(places, moved, strict=True))
    for a, b in combinations(range(len(places)), 2):
        assert abs(places[a][0] - places[b][0]) >= 8 or abs(moved[a] - moved[b]) >= 14 - 1e-9
    if len(places) == 1:
        assert moved == [places[0][1]]
