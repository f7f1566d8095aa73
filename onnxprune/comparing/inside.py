"""Looking inside: which layers correspond, how far each agrees, and where two models part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.comparing import tracing
from onnxprune.comparing.causes import Diagnosis, Divergence, labels
from onnxprune.comparing.layers import Layer
from onnxprune.comparing.matching import by_weights, even
from onnxprune.comparing.meeting import Meeting
from onnxprune.comparing.results import LayerPair
from onnxprune.comparing.signals import ABRUPT, CEILING, MARGIN
from onnxprune.comparing.weights import allowed, difference
from onnxprune.errors import PruneError

Labels = Mapping[str, str]


@dataclass
class Inside:
    """What was found.

    Attributes:
        layers: pairs of linear layers.
        alone: the layers of each model that have no counterpart.
        divergences: where the models part, in the order of the first.
        note: what could not be seen.
    """

    layers: list[LayerPair]
    alone: tuple[list[str], list[str]]
    divergences: list[Divergence] = field(default_factory=list)
    note: str = ""


def look(meeting: Meeting, *, differ: bool) -> Inside:
    """Compare two models layer by layer, and say where they part if their outputs differ."""
    one, other = (subject.line for subject in meeting.pair)
    names = labels(meeting.pair[0].graph), labels(meeting.pair[1].graph)
    pairs = by_weights(one.layers, other.layers)
    ceiling = CEILING[meeting.precision]
    even(pairs, allowed(ceiling))
    alone = _others(one.layers, [a for a, _ in pairs], names[0]), _others(other.layers, [b for _, b in pairs], names[1])
    apart = {a.end[0]: difference(a.weight, b.weight, allowed(ceiling), a.taps) for a, b in pairs}
    ins, outs = ({b.first.name: b.second.name for b in side} for side in (meeting.ins, meeting.outs))
    divergences: list[Divergence] = []
    made, note = None, ""
    try:
        made = tracing.trace((one, other), meeting.both(meeting.telling), pairs, (ins, outs), ceiling)
        note = f"{made.unseen} tensors too large to hold were not compared." if made.unseen else ""
        abrupt = ABRUPT.get(meeting.precision, MARGIN)
        drops = tracing.drops(made, abrupt, [end for end, what in apart.items() if what]) if differ else []
        divergences = list(map(Diagnosis(made, names, ceiling), drops))
    except PruneError as error:
        note = f"What lies inside could not be run: {error}"
    likeness = made.likeness if made else {}
    if 2 * len(pairs) < max(len(one.layers), len(other.layers)):
        note = f"{note} Few layers correspond: these may not be the same network.".strip()
    layers = []
    for a, b in pairs:
        known = likeness.get(a.end[0])
        shape = (a.raw.shape[0], a.raw.shape[1])
        level, moved = (known.level, known.moved) if known else (None, False)
        layers.append(LayerPair((_label(a, names[0]), _label(b, names[1])), shape, apart[a.end[0]], level, moved))
    return Inside(layers, alone, divergences, note)


def _label(layer: Layer, names: Labels) -> str:
    return names.get(layer.op.out, layer.op.label)


def _others(layers: Sequence[Layer], paired: Sequence[Layer], names: Labels) -> list[str]:
    known = set(map(id, paired))
    return [_label(layer, names) for layer in layers if id(layer) not in known]
