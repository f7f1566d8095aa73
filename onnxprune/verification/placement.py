"""Which provider really ran what: node by node, and as a share of the multiply-accumulates.

ONNX Runtime says to which provider it gave each node (since 1.24); before, a profile of one run does. It fuses a few
nodes before it gives them away (a BatchNormalization into its Conv, a MatMul and its Add into a Gemm): what is made of
them mostly carries a name that holds theirs, and where it does not, they are looked up in a session that fuses
nothing. A node that was folded into a constant runs nowhere. A provider that compiles whole parts of a graph tells
a profile no names: then only its share of the time is known.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.analysis import Analysis
from onnxprune.algebra.cost import CostModel
from onnxprune.data.inputs import Feed, Shapes
from onnxprune.data.runtime import CPU, Session, provider, short
from onnxprune.errors import ProviderError
from onnxprune.model.homes import locate
from onnxprune.surgery import saving
from onnxprune.surgery.removal import Draft

MARK = "onnxprune:{}:"  # a node's name in the copy that is placed: its own may be missing, or not be unique
MARKS = re.compile("onnxprune:([0-9]+):")


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a model ran.

    Attributes:
        provider: the one that was asked for.
        optimization: how far ONNX Runtime might fuse.
        nodes: how many nodes each provider ran, by name.
        macs: how many multiply-accumulates.
        time: the fraction of a run's time that each took; empty where ONNX Runtime says by itself what ran where.
        elsewhere: ``(node, operator, provider, multiply-accumulates)`` of what another provider ran, the largest first.
        unknown: how many nodes with multiply-accumulates could not be found.
    """

    provider: str
    optimization: str
    nodes: dict[str, int]
    macs: dict[str, int]
    time: dict[str, float]
    elsewhere: list[tuple[str, str, str, int]]
    unknown: int = 0

    @property
    def measure(self) -> str:
        """What `share` is a share of: the multiply-accumulates, or where they are not known the time, or the nodes."""
        if self.unknown and self.time:
            return "time"
        return "MACs" if sum(self.macs.values()) else "nodes"

    @property
    def share(self) -> float:
        """The part of the work that the provider did."""
        by_measure: dict[str, Mapping[str, float]] = {"time": self.time, "MACs": self.macs, "nodes": self.nodes}
        found = by_measure[self.measure]
        return float(found.get(self.provider, 0) / (sum(found.values()) or 1))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        elsewhere = [
            {"node": node, "op": op, "provider": where, "macs": macs} for node, op, where, macs in self.elsewhere
        ]
        return {
            "provider": self.provider,
            "optimization": self.optimization,
            "share": self.share,
            "share_of": self.measure,
            "nodes": self.nodes,
            "macs": self.macs,
            "time": self.time,
            "elsewhere": elsewhere,
            "unknown": self.unknown,
        }


def placed(analysis: Analysis, on: str, optimization: str, feed: Feed, shapes: Shapes, folder: Path) -> Placement:
    """Where the nodes of a model run.

    Args:
        analysis: of the model.
        on: the provider.
        optimization: as `onnxprune.data.runtime.Session` takes it.
        feed: what the model is run on, where it takes a run.
        shapes: of the inputs that leave sizes open, for multiply-accumulates.
        folder: where a copy of the model may lie.

    Raises:
        ProviderError: the provider is missing, or runs nothing.
    """
    macs = CostModel(analysis, shapes).macs_by_node(np.zeros(analysis.units, dtype=bool))
    if provider(on) == CPU:  # there is nothing to fall back to
        where, time = dict.fromkeys(range(len(macs)), CPU), dict[str, float]()
    else:
        where, time = _found(_marked(analysis, folder), on, optimization, feed, folder)
        missing = {int(place) for place in np.flatnonzero(macs)} - set(where)
        if missing and optimization != "off":
            unfused, _ = _found(folder / "marked.onnx", on, "off", feed, folder)
            where |= {place: unfused[place] for place in missing & set(unfused)}
    if where and provider(on) not in where.values() and short(provider(on)) not in time:
        raise ProviderError(f"ONNX Runtime lists {provider(on)} and runs nothing on it: all nodes fell back.")
    return _summed(analysis, macs, where, time, on, optimization)


def _summed(
    analysis: Analysis,
    macs: np.typing.NDArray[np.int64],
    where: dict[int, str],
    time: dict[str, float],
    on: str,
    level: str,
) -> Placement:
    wanted = short(provider(on))
    work: Counter[str] = Counter()
    elsewhere = []
    for place, full in where.items():
        work[short(full)] += int(macs[place])
        if short(full) != wanted:
            op = analysis.graph.ops[place]
            elsewhere.append((op.node.name or op.out, op.kind, short(full), int(macs[place])))
    return Placement(
        wanted,
        level,
        dict(Counter(map(short, where.values()))),
        dict(work),
        time,
        sorted(elsewhere, key=lambda found: -found[3]),
        int((macs > 0).sum() - sum(macs[place] > 0 for place in where)),
    )


def _marked(analysis: Analysis, folder: Path) -> Path:
    """A copy of the model in which every node's name says which one it is."""
    record, proto = analysis.graph.record, onnx.ModelProto()
    proto.CopyFrom(record.structure)
    for op in analysis.graph.ops:
        locate(proto.graph, op.home.path).node[op.place].name = MARK.format(op.index)
    return saving.write(Draft(record, proto), folder, "marked.onnx")


def _found(path: Path, on: str, level: str, feed: Feed, folder: Path) -> tuple[dict[int, str], dict[str, float]]:
    """The provider of each node that was found, and the share of the time of each provider if a profile was taken."""
    session = Session(path, on, optimization=level)
    assigned = session.assigned()
    if assigned is not None:
        return _by_place(assigned), {}
    session = Session(path, on, optimization=level, profile=folder / "profile")
    session.run(feed)
    events = json.loads(session.profile().read_text(encoding="utf-8"))
    ran = [event for event in events if event.get("cat") == "Node" and event.get("args", {}).get("provider")]
    time: Counter[str] = Counter()
    for event in ran:
        time[short(event["args"]["provider"])] += event["dur"]
    total = sum(time.values()) or 1
    names = ((event["name"], event["args"]["provider"]) for event in ran)
    return _by_place(names), {name: spent / total for name, spent in time.items()}


def _by_place(assigned: Iterable[tuple[str, str]]) -> dict[int, str]:
    return {int(place): where for name, where in assigned for place in MARKS.findall(name)}
