"""What must hold of a model before anything reads it; ONNX's own checker comes last and knows the operators.

The checker, shape inference and runtimes each take some models that the others misread. What is ambiguous, or would
make a reader hang, is refused here.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

import onnx

from onnxprune.errors import RefusedError
from onnxprune.model.tensors import KNOWN_TYPES, TYPED_FIELDS, entries, is_external, nbytes

MOST_NODES = 1_000_000  # once every function call is replaced by the function's body
OF_ONNXRUNTIME = {"LayerNormalization": 17, "SimplifiedLayerNormalization": None}
"""Operators that onnxruntime's optimiser writes into ONNX's own domain, and since which opset they belong there."""
DAMAGED = "The file is damaged; export or download it again."

TYPED = attrgetter(*TYPED_FIELDS)
Function = tuple[str, str, str]


def check(model: onnx.ModelProto, name: str, cut: Mapping[int, int]) -> None:
    """Refuse a model that is not sound.

    Args:
        model: the model.
        name: how messages call it.
        cut: for each initializer whose ``raw_data`` was left on disk, the bytes there.

    Raises:
        RefusedError: it is not sound.
    """
    if not model.HasField("graph"):
        raise RefusedError(f"{name!r} holds no graph. {DAMAGED}")
    subgraphs = list(_subgraphs(_nodes(model)))
    _check_opsets(model, name)
    _check_names([model.graph, *subgraphs], name)
    _check_ends(model.graph, name)
    if model.functions:
        _check_functions(model, name)
    _check_initializers(model.graph, name, cut)
    for tensor in _inner_tensors(model, subgraphs):
        fault = "has external data" if is_external(tensor) else _fault(tensor)
        if fault:
            place = "inside a node, a subgraph or a sparse initializer"
            raise RefusedError(f"Tensor {tensor.name!r} {place} of {name!r} {fault}. Load the model and save it anew.")
    _run_checker(model, name, cut)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the main graph and of the functions."""
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """The bodies of control flow nodes, however deep."""
    for node in nodes:
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                yield body
                yield from _subgraphs(body.node)


def _check_opsets(model: onnx.ModelProto, name: str) -> None:
    domains = ["" if o.domain == "ai.onnx" else o.domain for o in model.opset_import]
    if not domains:
        raise RefusedError(f"{name!r} imports no opset, so its operators have no meaning. Export it again.")
    if len(set(domains)) < len(set(zip(domains, (o.version for o in model.opset_import), strict=True))):
        raise RefusedError(f"{name!r} imports two opsets for one domain. Keep the one that its nodes were written for.")
    latest = onnx.defs.onnx_opset_version()
    for opset, domain in zip(model.opset_import, domains, strict=True):
        if opset.version < 1:
            raise RefusedError(f"{name!r} imports opset {opset.version} of domain {domain!r}; the first one is 1.")
        if domain == "" and opset.version > latest:
            raise RefusedError(
                f"{name!r} is of opset {opset.version}; onnx {onnx.__version__} knows opsets up to {latest}."
                " Install a newer onnx, or export the model for an older opset."
            )


def _check_names(graphs: Iterable[onnx.GraphProto], name: str) -> None:
    """Protobuf hands out text that is no UTF-8 as ``bytes``, which equals no name."""
    odd = next((text for graph in graphs for text in _texts(graph) if not isinstance(text, str)), None)
    if odd is not None:
        raise RefusedError(f"{name!r} has a name that is not UTF-8 text: {odd!r}. {DAMAGED}")


def _texts(graph: onnx.GraphProto) -> set[str]:
    texts: set[str] = set()
    for node in graph.node:
        texts.update((node.name, node.op_type, node.domain), node.input, node.output)
    for value in (*graph.input, *graph.output, *graph.value_info):
        texts.add(value.name)
        texts.update(dim.dim_param for dim in value.type.tensor_type.shape.dim)
    texts.update(tensor.name for tensor in graph.initializer)
    texts.update(sparse.values.name for sparse in graph.sparse_initializer)
    return texts


def _check_ends(graph: onnx.GraphProto, name: str) -> None:
    if not graph.output:
        raise RefusedError(f"{name!r} has no output, so nothing that it computes can be seen.")
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind not in KNOWN_TYPES:
            raise RefusedError(f"Input {value.name!r} of {name!r} has no known data type ({kind}).")


def _check_functions(model: onnx.ModelProto, name: str) -> None:
    """A few functions that call each other can stand for more nodes than any reader survives."""
    calls = {(f.domain, f.name, _overload(f)): _calls(f.node) for f in model.functions}
    sorter = graphlib.TopologicalSorter({key: [c for c in found if c in calls] for key, found in calls.items()})
    try:
        order = list(sorter.static_order())
    except graphlib.CycleError as error:
        raise RefusedError(f"{name!r} has a function that calls itself, which ONNX does not allow.") from error
    sizes: dict[Function, int] = {}
    for key in order:
        sizes[key] = sum(count * sizes.get(called, 1) for called, count in calls[key].items())
    if sum(count * sizes.get(called, 1) for called, count in _calls(model.graph.node).items()) > MOST_NODES:
        raise RefusedError(f"{name!r} stands for more than {MOST_NODES:,} nodes once its functions are written out.")


def _calls(nodes: Sequence[onnx.NodeProto]) -> Counter[Function]:
    inner = (node for body in _subgraphs(nodes) for node in body.node)
    return Counter((node.domain, node.op_type, _overload(node)) for node in (*nodes, *inner))


def _overload(described: onnx.NodeProto | onnx.FunctionProto) -> str:
    return str(getattr(described, "overload", ""))


def _check_initializers(graph: onnx.GraphProto, name: str, cut: Mapping[int, int]) -> None:
    names = Counter(tensor.name for tensor in graph.initializer)
    repeated = next((n for n, count in names.items() if count > 1), None)
    if repeated is not None:
        raise RefusedError(f"{name!r} has two initializers called {repeated!r}. Give each a name of its own.")
    for index, tensor in enumerate(graph.initializer):
        if fault := _fault(tensor, cut.get(index)):
            raise RefusedError(f"Initializer {tensor.name!r} of {name!r} {fault}. {DAMAGED}")


def _fault(tensor: onnx.TensorProto, on_disk: int | None = None) -> str:
    """What is wrong with a tensor; empty if nothing is."""
    if tensor.data_type not in KNOWN_TYPES:
        return f"has no known data type ({tensor.data_type})"
    if min(tensor.dims, default=0) < 0:
        return f"has a negative dimension: {list(tensor.dims)}"
    if tensor.HasField("segment"):
        return "is one segment of a tensor, which no runtime reads"
    inside = len(tensor.raw_data) if tensor.HasField("raw_data") else None
    typed = sum(map(len, TYPED(tensor)))
    if not _fits(tensor, inside if on_disk is None else on_disk, typed) or None not in (inside, on_disk):
        return f"holds data that does not fit its type and shape {list(tensor.dims)}"
    return ""


def _fits(tensor: onnx.TensorProto, raw: int | None, typed: int) -> bool:
    """Whether the data is there once, and as much of it as the type and the shape say."""
    text = tensor.data_type == onnx.TensorProto.STRING
    if is_external(tensor):
        return not (raw or typed or text)
    if raw is not None:
        return raw == nbytes(tensor) and not typed and not text
    return typed == entries(tensor)


def _inner_tensors(model: onnx.ModelProto, subgraphs: Sequence[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor but the main graph's initializers."""
    for body in subgraphs:
        yield from body.initializer
    for graph in (model.graph, *subgraphs):
        yield from (t for sparse in graph.sparse_initializer for t in (sparse.values, sparse.indices))
    for nodes in (_nodes(model), *(body.node for body in subgraphs)):
        yield from (t for node in nodes for attribute in node.attribute for t in _tensors(attribute))


def _tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.type == onnx.AttributeProto.TENSOR:
        yield attribute.t
    elif attribute.type == onnx.AttributeProto.TENSORS:
        yield from attribute.tensors
    elif attribute.type in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
        one = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        yield from (t for sparse in (*one, *attribute.sparse_tensors) for t in (sparse.values, sparse.indices))


def _run_checker(model: onnx.ModelProto, name: str, cut: Mapping[int, int]) -> None:
    """ONNX's checker, on the structure: a weight that lies on disk is an empty tensor there."""
    hollow = onnx.ModelProto()
    hollow.CopyFrom(model)
    for index, tensor in enumerate(hollow.graph.initializer):
        if index in cut or is_external(tensor):
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    foreign = [node for node in hollow.graph.node if is_of_onnxruntime(model, node)]
    for node in foreign:  # the checker passes over the operators of a domain that it does not know
        node.domain = "onnxruntime"
    if foreign:
        hollow.opset_import.append(onnx.helper.make_opsetid("onnxruntime", 1))
    try:
        onnx.checker.check_model(hollow)
    except Exception as error:
        reason = " ".join(str(error).split("==>")[0].split())
        raise RefusedError(f"{name!r} is not a valid ONNX model: {reason}") from error


def is_of_onnxruntime(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether only onnxruntime knows this operator of ONNX's own domain."""
    if node.op_type not in OF_ONNXRUNTIME or node.domain not in ("", "ai.onnx"):
        return False
    since = OF_ONNXRUNTIME[node.op_type]
    return since is None or any(o.domain in ("", "ai.onnx") and o.version < since for o in model.opset_import)
