"""The only door to onnx-graphsurgeon: single nodes are edited in its view and put back into the record's structure.

Only the nodes that an edit touches pass through the view, so whatever graphsurgeon cannot carry (metadata, quantisation
annotations, exotic types elsewhere in the model) is never in its hands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_graphsurgeon as gs

INSERTED = "\0inserted:"
KEPT_FIELDS = ("doc_string", "metadata_props", "overload", "device_configurations")


class Rewiring:
    """Edits some nodes of a model in place.

    Args:
        model: the model that is edited.
        graph: its main graph, or the body of one of its nodes.
        nodes: the indices of the nodes that may be edited.
    """

    def __init__(self, model: onnx.ModelProto, graph: onnx.GraphProto, nodes: Iterable[int]) -> None:
        self._graph = graph
        self._indices = sorted(set(nodes))
        part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        part.graph.node.extend(graph.node[i] for i in self._indices)
        view = gs.import_onnx(part)
        self._runs: dict[int, list[Any]] = {i: [node] for i, node in zip(self._indices, view.nodes, strict=True)}
        self._view = view
        self._tensors = view.tensors()

    def _node(self, index: int) -> Any:
        return next(n for n in self._runs[index] if not n.name.startswith(INSERTED))

    def set_attribute(self, index: int, name: str, value: int | list[int]) -> None:
        """Give an attribute a new value."""
        self._node(index).attrs[name] = value

    def drop_attribute(self, index: int, name: str) -> None:
        """Remove an attribute, if it is there."""
        self._node(index).attrs.pop(name, None)

    def set_input(self, index: int, slot: int, tensor: str) -> None:
        """Read another tensor; absent optional inputs before it stay absent."""
        inputs = self._node(index).inputs
        while len(inputs) <= slot:
            inputs.append(gs.Variable.empty())
        inputs[slot] = self._tensor(tensor)

    def before(self, index: int, kind: str, inputs: list[str], output: str) -> None:
        """Insert a node right before this one."""
        run = self._runs[index]
        run.insert(run.index(self._node(index)), self._made(kind, inputs, output, {}))

    def after(self, index: int, kind: str, inner: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        """Insert a node right after this one that takes over its first output's name, now called ``inner``."""
        node, run = self._node(index), self._runs[index]
        final = node.outputs[0]
        node.outputs = [self._tensor(inner), *list(node.outputs)[1:]]
        run.insert(run.index(node) + 1, self._made(kind, [inner, *inputs], final.name, attributes))

    def commit(self) -> None:
        """Put the edited nodes back, each in its old place."""
        self._view.nodes = [node for index in self._indices for node in self._runs[index]]
        exported = iter(gs.export_onnx(self._view, do_type_check=False).graph.node)
        replaced = {index: [next(exported) for _ in self._runs[index]] for index in self._indices}
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(self._graph.node):
            run = replaced.get(index, [node])
            for new in run if index in replaced else []:
                if new.name.startswith(INSERTED):
                    new.name = ""
                else:
                    _restore(new, node)
            nodes += run
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(kept)

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            self._tensors[name] = gs.Variable(name)
        return self._tensors[name]

    def _made(self, kind: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> Any:
        tensors = [self._tensor(name) for name in inputs]
        name = f"{INSERTED}{output}"  # the view wants names that differ; they are dropped on the way out
        return gs.Node(op=kind, name=name, attrs=attributes, inputs=tensors, outputs=[self._tensor(output)])


def _restore(new: onnx.NodeProto, old: onnx.NodeProto) -> None:
    """Carry over what the view does not hold."""
    known = set(onnx.NodeProto.DESCRIPTOR.fields_by_name)
    for name in KEPT_FIELDS:
        if name in known and (value := getattr(old, name)):
            if isinstance(value, str):
                setattr(new, name, value)
            else:
                getattr(new, name).MergeFrom(value)
