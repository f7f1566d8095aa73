"""The rows of the table: each is one way to prune, from a bed, a budget and a seed to a written model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxprune import api
from onnxprune.algebra.cost import Cost
from tests.beds.bed import Bed, Budget, Feed, Feeds

Row = Callable[[Bed, Budget, int, Path], None]

WHOLE = 0.999  # of the dense model: more than that is all of it
STEPS = 7  # of the bisection for the sparsity that a peer needs to meet a budget
PEER = Path(__file__).with_name("peer.py")


def _prune(bed: Bed, out: Path, **given: Any) -> None:
    """Prune, and write what comes out: with widths that no machine likes, it may be slower than before."""
    api.prune(bed.model, out, allow_slower=True, **given)


def l1(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """Removal by L1 norm; nothing is repaired."""
    _prune(bed, out, criterion="l1", recover="none", seed=seed, input_shapes=bed.shapes, **budget.recipe)


def l1_bn(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """Removal by L1 norm, and the statistics of BatchNormalization computed again."""
    given = bed.calibration(seed)
    _prune(bed, out, criterion="l1", schedule="scores", recover="bn", data=given, seed=seed, **budget.recipe)


def merge(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """Removal by L2 norm, what goes merged into what is most like it; the best of the rivals that use no data."""
    given: dict[str, Any] = {"criterion": "l2", "schedule": "scores", "recover": "merge", **budget.recipe}
    _prune(bed, out, seed=seed, input_shapes=bed.shapes, **given)


def data_free(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """What the tool does by default when it is given no data."""
    _prune(bed, out, seed=seed, input_shapes=bed.shapes, **budget.recipe)


def default(bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """What the tool does by default with unlabelled samples."""
    _prune(bed, out, data=bed.calibration(seed), seed=seed, **budget.recipe)


ROWS: dict[str, Row] = {"l1": l1, "l1+bn": l1_bn, "merge": merge, "data-free": data_free, "default": default}
SEEDLESS = {"l1"}  # nothing in them is drawn: one seed tells all
PEERS = "onnxsim"


def with_peer(interpreter: str | None) -> dict[str, Row]:
    """All rows; the peer's only if there is an interpreter that has it."""
    if interpreter is None:
        return dict(ROWS)
    return {**ROWS, PEERS: lambda bed, budget, seed, out: onnxsim(interpreter, bed, budget, seed, out)}


def onnxsim(interpreter: str, bed: Bed, budget: Budget, seed: int, out: Path) -> None:
    """The peer's calibrated structured pruning and ridge refit, at the sparsity that keeps what the budget keeps.

    It takes a fraction of channels and no other budget, so the sparsity is found by bisection on the cost of what it
    writes. What it leaves alone counts as kept: it may stay above the budget, and the table then says by how much.

    Raises:
        ValueError: it removes nothing from this model, or what it needs it cannot do.
    """
    heads = not budget.recipe.get("protect")
    wanted = [(what, budget.recipe[what]) for what in ("macs", "params") if what in budget.recipe]
    with TemporaryDirectory() as folder, _Peer(interpreter, bed, seed, out, Path(folder)) as peer:
        sparsity = _bisect(peer, bed, *wanted[0], heads=heads) if wanted else budget.recipe["ratio"]
        peer.ask(sparsity=sparsity, heads=heads, final=True)
    if min(kept(out, bed)["params"], kept(out, bed)["macs"]) > WHOLE:
        raise ValueError("onnxsim removes nothing")


class _Peer(AbstractContextManager["_Peer"]):
    """A running `tests.beds.peer`; what it prints besides its answers goes to a file."""

    def __init__(self, interpreter: str, bed: Bed, seed: int, out: Path, folder: Path) -> None:
        self.out = out
        self._log = (folder / "log").open("w+", encoding="utf-8", errors="replace")
        command = [interpreter, str(PEER), str(bed.model), str(out), *_save(bed.calibration(seed), folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, text=True)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, **wish: object) -> None:
        """Have it write a model.

        Raises:
            ValueError: it ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # the log says why
            print(json.dumps(wish), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.strip() == "done":
                return
        self._log.seek(0)
        raise ValueError((self._log.read().strip().splitlines() or ["the peer ended"])[-1])


def _bisect(peer: _Peer, bed: Bed, what: str, fraction: float, *, heads: bool) -> float:
    """The least sparsity that meets the budget, or the largest tried if none does."""
    limit = fraction * getattr(cost(bed.model, bed), what)
    low, high = 0.0, 0.95
    for _ in range(STEPS):
        middle = (low + high) / 2
        peer.ask(sparsity=middle, heads=heads, final=False)
        if getattr(cost(peer.out, bed), what) <= limit:
            high = middle
        else:
            low = middle
    return high


def _save(given: Feeds, folder: Path) -> list[str]:
    """Feeds as files that another interpreter reads."""
    feeds: list[Feed] = given if isinstance(given, list) else [given]
    paths = [str(folder / f"{number}.npz") for number in range(len(feeds))]
    for path, feed in zip(paths, feeds, strict=True):
        arrays: dict[str, Any] = dict(feed)
        np.savez(path, **arrays)
    return paths


def cost(path: Path, bed: Bed) -> Cost:
    """What a file costs, at the bed's shapes."""
    return api.inspect(path, input_shapes=bed.shapes).cost


def kept(path: Path, bed: Bed) -> dict[str, float]:
    """The fractions of the dense model that a file still has."""
    dense, now = cost(bed.model, bed), cost(path, bed)
    return {what: round(getattr(now, what) / max(getattr(dense, what), 1), 4) for what in ("params", "macs", "bytes")}
