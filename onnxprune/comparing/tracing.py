"""Which tensor of one model is which of the other, and how far each pair agrees on the same inputs.

A pair is known from the signature or from two layers with the same weights; else it holds the same values in whatever
layout; else it is made by the same operator from tensors that are paired already; else it holds about the same values
and lies where it should.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.comparing.matching import Pair
from onnxprune.comparing.signals import MARGIN, Likeness, apart, likeness, moments, tells
from onnxprune.comparing.stations import Line, Station
from onnxprune.data.inputs import Feed
from onnxprune.model.record import Array
from onnxprune.recovery.walk import Walk

Moments = NDArray[np.float64]

MEMORY = 1 << 30  # bytes of a model's tensors that are held
CLOSE = 0.5  # difference of moments up to which tensors are compared in full
TRIES = 4  # tensors that one is compared with in full, at most
SUSPECT = 3.0  # decibels that a layer may not lose whose weights differ
ENOUGH = 10.0  # decibels from which on two tensors are taken for the same


@dataclass
class Trace:
    """The tensors of two models, paired.

    Attributes:
        partner: for tensors of the first model those of the second.
        likeness: how far each pair agrees, where both are known.
        unseen: how many tensors there was no room for.
    """

    lines: tuple[Line, Line]
    ceiling: float
    values: tuple[Mapping[str, Array], Mapping[str, Array]]
    unseen: int = 0
    partner: dict[str, str] = field(default_factory=dict)
    likeness: dict[str, Likeness] = field(default_factory=dict)

    def pair(self, first: str, second: str, *, in_place: bool = False) -> None:
        """Enter a pair, and how far it agrees."""
        self.partner[first] = second
        values = self.values[0].get(first), self.values[1].get(second)
        if values[0] is not None and values[1] is not None:
            found = likeness(values[0], values[1], self.ceiling, in_place=in_place)
            if found is not None:
                self.likeness[first] = found


def observe(line: Line, feed: Feed) -> tuple[dict[str, Array], int]:
    """The values of a model's tensors in one run, and how many tensors there was no room for.

    The tensors at the ends of layers come first, then the others in the order in which they are made.

    Raises:
        ExecutionError: the model does not run.
    """
    graph = line.graph
    walk = Walk(graph, [feed])
    outputs = {value.name for value in graph.proto.output}
    first = [name for station in line.stations if station.layer for name in (*station.outs, *station.ins)]
    rest = [name for station in line.stations for name in station.outs if name in graph.types]
    names = [name for name in dict.fromkeys([*first, *rest]) if name in walk.maker or name in feed]
    wanted, size = [], 0
    for name in names:
        dims = [dim if isinstance(dim, int) else 1 for dim in graph.shapes.get(name, ())]
        size += 4 * int(np.prod(dims, dtype=np.float64))
        if size <= MEMORY or name in outputs:
            wanted.append(name)
    found = next(walk.map([*feed, *wanted], lambda _, values: dict(values)))
    tensors = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return tensors, len(names) - len(wanted)


def trace(
    lines: tuple[Line, Line],
    feeds: tuple[Feed, Feed],
    layers: Sequence[Pair],
    ports: tuple[Mapping[str, str], Mapping[str, str]],
    ceiling: float,
) -> Trace:
    """Pair the tensors of two models.

    Args:
        lines: the models.
        feeds: the same inputs, as each takes them.
        layers: pairs of layers.
        ports: the inputs and the outputs of the first model, with those of the second.
        ceiling: decibels that rounding leaves.

    Raises:
        ExecutionError: a model does not run with its inner tensors as outputs.
    """
    (first, unseen), (second, hidden) = (observe(line, feed) for line, feed in zip(lines, feeds, strict=True))
    made = Trace(lines, ceiling, (first, second), max(unseen, hidden))
    for a, b in ports[0].items():
        made.pair(a, b, in_place=True)
    for one, other in layers:
        made.pair(one.end[0], other.end[0])
    for a, b in ports[1].items():
        made.pair(a, b, in_place=True)
    _by_values(made)
    _by_structure(made)
    _by_likeness(made)
    return made


def _by_values(made: Trace) -> None:
    """Pair what holds the same values up to rounding, in the order of the first model."""
    free = _Free(made, carriers=True)
    for station in made.lines[0].stations:
        for name in (out for out in station.outs if out in made.values[0] and out not in made.partner):
            levels = free.near(name, range(len(made.lines[1].stations)))
            best = max(levels, key=lambda other: levels[other], default="")
            if best and levels[best] >= made.ceiling - MARGIN:
                made.pair(name, best)
                free.taken.add(best)


def _by_likeness(made: Trace) -> None:
    """Pair what holds about the same values and lies where it should, the likest first."""
    within = _neighbourhood(made)
    free = _Free(made, carriers=False)
    found: list[tuple[float, str, str]] = []
    for station in made.lines[0].stations:
        allowed = within(station)
        for name in (out for out in station.outs if out in made.values[0] and out not in made.partner):
            if not station.carries:
                found += [(level, name, other) for other, level in free.near(name, allowed).items() if level >= ENOUGH]
    for _, name, other in sorted(found, key=lambda each: -each[0]):
        if name not in made.partner and other not in free.taken:
            made.pair(name, other)
            free.taken.add(other)


class _Free:
    """The tensors of the second model that have no partner yet.

    Args:
        made: the trace.
        carriers: whether those count that only carry others' values.
    """

    def __init__(self, made: Trace, *, carriers: bool) -> None:
        self.made, self.taken = made, set(made.partner.values())
        self.place: dict[str, int] = {}
        self.by_size: dict[int, list[str]] = {}
        self.moments: dict[str, Moments] = {}
        for number, station in enumerate(made.lines[1].stations):
            for name in station.outs if carriers or not station.carries else ():
                value = made.values[1].get(name)
                if value is not None and name not in self.taken and tells(value):
                    self.place[name], self.moments[name] = number, moments(value)
                    self.by_size.setdefault(value.size, []).append(name)

    def near(self, name: str, places: range) -> dict[str, float]:
        """How far the few agree with a tensor that are made in these places and whose moments are nearest."""
        value = self.made.values[0][name]
        free = [n for n in self.by_size.get(value.size, ()) if n not in self.taken and self.place[n] in places]
        if not free or not tells(value):
            return {}
        far = apart(moments(value), [self.moments[other] for other in free])
        near = [free[n] for n in np.argsort(far, kind="stable")[:TRIES] if far[n] <= CLOSE]
        found: dict[str, float] = {}
        for other in near:
            known = likeness(value, self.made.values[1][other], self.made.ceiling)
            if known is not None:
                found[other] = known.level
                if known.level >= self.made.ceiling - MARGIN and not known.moved:
                    break
        return found


def _neighbourhood(made: Trace) -> Callable[[Station], range]:
    """Where the partner of what a station makes can lie: behind those of what it reads, before the next layer's."""
    one, other = made.lines
    place = {name: n for n, station in enumerate(other.stations) for name in station.outs}
    behind: dict[str, int] = {}
    ahead: dict[int, int] = {}
    ends = len(other.stations)
    for station in reversed(one.stations):
        ahead[id(station)] = ends
        if station.layer and station.outs[0] in made.partner:
            ends = min(ends, place[made.partner[station.outs[0]]])

    def within(station: Station) -> range:
        start = max((behind.get(name, -1) for name in station.ins), default=-1)
        for name in station.outs:
            behind[name] = place.get(made.partner.get(name, ""), start)
        return range(start + 1, ahead[id(station)])

    return within


def _by_structure(made: Trace) -> None:
    """Pair what the same operator makes of paired tensors, where nothing else was found."""
    one, other = made.lines
    taken = set(made.partner.values())
    for station in one.stations:
        name = station.outs[0] if station.outs else ""
        if not name or name in made.partner or station.carries:
            continue
        match = next((s for s in _alike(made, station, other) if s.outs[0] not in taken), None)
        if match is not None:
            made.pair(name, match.outs[0])
            taken.add(match.outs[0])


def _alike(made: Trace, station: Station, other: Line) -> Iterable[Station]:
    """The stations of the other model that do the same with the partner of what this one reads."""
    sources = [made.partner.get(name) or made.partner.get(made.lines[0].source(name)) for name in station.ins]
    if not sources or sources[0] is None:
        return
    wanted = {other.source(name) for name in sources if name is not None}
    for found in other.readers(sources[0]):
        if found.kind == station.kind and found.outs and wanted <= {other.source(name) for name in found.ins}:
            yield found


@dataclass
class Drop:
    """Where two models part: the first station that loses much of the agreement that its inputs still have.

    Attributes:
        stations: of each model those between what agrees and what does not, the last one being that which differs.
        before, after: decibels at its inputs and behind it.
        moved: the input whose channels lie in another order there, if one does.
    """

    stations: tuple[list[Station], list[Station]]
    before: float
    after: float
    moved: str = ""


def drops(made: Trace, abrupt: float, suspects: Collection[str]) -> list[Drop]:
    """Where agreement is lost at once and not regained further on, in the order of the first model.

    Args:
        made: the trace.
        abrupt: decibels that one station may not lose.
        suspects: the ends of layers whose weights differ, of which `SUSPECT` decibels suffice.
    """
    line = made.lines[0]
    levels: dict[str, tuple[float, frozenset[str]]] = {}
    for name in (value.name for value in line.graph.inputs):
        known = made.likeness.get(name, Likeness(made.ceiling))
        levels[name] = known.level, frozenset({name})
    found: list[tuple[str, Drop]] = []
    for station in line.stations:
        read = [levels[name] for name in station.ins if name in levels]
        before = min((level for level, _ in read), default=made.ceiling)
        border = frozenset[str]().union(*(names for _, names in read))
        for name in station.outs:
            found_there = made.likeness.get(name)
            if found_there is None or not _tells(made, name):
                levels[name] = before, border
                continue
            levels[name] = found_there.level, frozenset({name})
            if min(made.ceiling, before) - found_there.level >= (SUSPECT if name in suspects else abrupt):
                found.append((name, _drop(made, station, name, border, before)))
    return [drop for name, drop in found if not _regained(made, name)]


def _tells(made: Trace, name: str) -> bool:
    value = made.values[0][name]
    return tells(value) or name in {output.name for output in made.lines[0].graph.proto.output}


def _drop(made: Trace, station: Station, name: str, border: frozenset[str], before: float) -> Drop:
    one, other = made.lines
    there = other.maker.get(made.partner[name])
    beyond = {made.partner[n] for n in border}
    stations = one.between(border, station), other.between(beyond, there) if there else []
    moved = next((n for n in sorted(border) if made.likeness.get(n, Likeness(0.0)).moved), "")
    return Drop(stations, before, made.likeness[name].level, moved)


def _regained(made: Trace, name: str) -> bool:
    """Whether something that is computed from a tensor agrees as well as rounding lets it."""
    touched = {name}
    for station in made.lines[0].stations:
        if touched.isdisjoint(station.ins):
            continue
        touched.update(station.outs)
        if any(_healthy(made, out) for out in station.outs):
            return True
    return False


def _healthy(made: Trace, name: str) -> bool:
    known = made.likeness.get(name)
    return known is not None and known.level >= made.ceiling - MARGIN and tells(made.values[0][name])
