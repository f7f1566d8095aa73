"""The report in a real browser: it says nothing on the console, asks for nothing, and shows every figure."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from onnxprune.report import document, page
from tests.page import Element, read
from tests.test_report import FIGURES, Document, folder, poisoned, result

__all__ = ["folder", "result"]  # fixtures
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = [
    pytest.mark.usefixtures("instant"),
    pytest.mark.skipif(not BROWSER, reason="no chromium, chromium-browser or google-chrome is installed"),
]
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-extensions --disable-default-apps --metrics-recording-only"
    " --enable-logging=stderr --v=0 --dump-dom"
)


class Seen(NamedTuple):
    """What a browser made of a page: its elements, its console, and what it asked the network for."""

    dom: Element
    console: list[str]
    requests: set[str]


def opened(text: str, place: Path) -> Seen:
    """Open a page."""
    (place / "page.html").write_text(text, encoding="utf-8")
    own = [f"--user-data-dir={place / 'profile'}", f"--log-net-log={place / 'net.json'}", f"{place / 'page.html'}"]
    done = subprocess.run([BROWSER, *QUIET.split(), *own], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    log = json.loads((place / "net.json").read_text(encoding="utf-8"))
    hosts = set(re.findall(r'"(?:url|host)": ?"((?:https?|wss?)://[^"]+)"', json.dumps(log["events"])))
    return Seen(read(done.stdout), console, {host for host in hosts if ".google" not in host})


def test_a_browser_shows_every_figure_and_has_nothing_to_complain_of(result: Document, tmp_path: Path) -> None:
    seen = opened(page.html(document.check(result)), tmp_path)
    assert seen.console == []
    assert seen.requests == set()
    assert {f.attributes["id"] for f in seen.dom.every("figure")} == FIGURES
    assert all(list(figure.every("svg")) for figure in seen.dom.every("figure"))


def test_a_browser_takes_hostile_names_for_text(result: Document, tmp_path: Path) -> None:
    seen = opened(page.html(document.check(poisoned(result))), tmp_path)
    assert seen.console == []
    assert seen.requests == set()
    assert not list(seen.dom.every("script"))
    assert '<script>alert("1")</script>' in seen.dom.text


def test_a_page_that_complains_and_asks_would_be_noticed(tmp_path: Path) -> None:
    asking = '<p>x</p><script>console.error("broken")</script><iframe src="http://127.0.0.1:9/x"></iframe>'
    seen = opened(f"<!doctype html><html><head><title>t</title></head><body>{asking}</body></html>", tmp_path)
    assert any("broken" in line for line in seen.console)
    assert any("127.0.0.1:9" in url for url in seen.requests)
