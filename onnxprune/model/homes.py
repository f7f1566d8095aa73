"""Where a node lives: in the main graph, or in the body of a control flow node. Every tensor has one name in all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

Path = tuple[tuple[int, str, int], ...]  # from the main graph: a node, its attribute, which of that one's graphs


@dataclass(frozen=True)
class Home:
    """One graph of a model.

    Attributes:
        path: how to get there from the main graph.
        proto: the graph.
        names: for each name that its nodes may read or write, what the whole model calls it.
        initializers: its constants, by what the whole model calls them.
    """

    path: Path
    proto: onnx.GraphProto
    names: Mapping[str, str]
    initializers: Mapping[str, onnx.TensorProto]

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is handed in, by what the whole model calls it."""
        return tuple(self.names[value.name] for value in self.proto.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is handed out, by what the whole model calls it."""
        return tuple(self.names.get(value.name, value.name) for value in self.proto.output)


class Namer:
    """Gives every tensor of a model one name; bodies may use a name that stands for something else elsewhere."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def home(self, path: Path, proto: onnx.GraphProto, outer: Mapping[str, str]) -> Home:
        """A graph with names of its own, inside one whose names are ``outer``."""
        local = [value.name for value in proto.input] + [tensor.name for tensor in proto.initializer]
        local += [sparse.values.name for sparse in proto.sparse_initializer]
        local += [name for node in proto.node for name in node.output if name]
        own = {name: self.unique(name) for name in dict.fromkeys(local)}
        return Home(path, proto, {**outer, **own}, {own[tensor.name]: tensor for tensor in proto.initializer})

    def unique(self, name: str) -> str:
        """A name that stands for nothing yet."""
        unique, number = name, 1
        while unique in self._used:
            number += 1
            unique = f"{name}@{number}"
        self._used.add(unique)
        return unique


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, int, onnx.GraphProto]]:
    """The graphs inside a node: the attribute that holds it, which of its graphs, and the graph."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, 0, attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from ((attribute.name, number, graph) for number, graph in enumerate(attribute.graphs))


def locate(graph: onnx.GraphProto, path: Path) -> onnx.GraphProto:
    """The graph of a model, or of a copy of it, at a path."""
    for place, attribute, number in path:
        graph = next(g for name, k, g in bodies(graph.node[place]) if (name, k) == (attribute, number))
    return graph


def captures(node: onnx.NodeProto) -> set[str]:
    """Names that a node's bodies (If, Loop, Scan) may read from the graph around them."""
    names: set[str] = set()
    for _, _, body in bodies(node):
        for inner in body.node:
            names.update(inner.input)
            names |= captures(inner)
        names.update(output.name for output in body.output)
    return names


def drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove what makes or holds these tensors, as far as nothing reads them any more."""
    while True:
        read = {name for node in graph.node for name in (*node.input, *captures(node))}
        read.update(output.name for output in graph.output)
        unread = names - read
        idle = [place for place, node in enumerate(graph.node) if node.output and unread.issuperset(node.output)]
        for place in reversed(idle):
            del graph.node[place]
        if not idle:
            break
    for field_of in (graph.initializer, graph.input):
        for place in reversed([place for place, value in enumerate(field_of) if value.name in unread]):
            del field_of[place]
