"""Write the structures: ``python -m models.architectures.export --width small [NAME-glob ...]``.

Each network is built with random weights, exported by each of torch's exporters, run in ONNX Runtime, and stored
without its weights. It needs torch, torchvision, timm, transformers and onnxscript.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import inspect
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch

from models.architectures import EXAMPLE, STRUCTURES, SUFFIX, Array, Entry, feed, load, noise
from models.architectures.build import Axes, Builder, Case, randomise, torchvision_operators

NEW = {"Attention", "RMSNormalization", "RotaryEmbedding", "Swish"}  # what opset 23 and later have for networks
FAMILIES = ("convolutional", "dense", "detection", "vision", "language", "speech", "sequence")
SEED = 20
ALIKE = 1e-3  # of its largest value may an output differ between torch and ONNX Runtime


class Variant(NamedTuple):
    """One way to export: by what, for which operator set, with open sizes or without."""

    exporter: str
    opset: int
    batch: str


VARIANTS = {
    "small": (
        Variant("torchscript", 17, "dynamic"),
        Variant("dynamo", 18, "fixed"),
        Variant("torchscript", 13, "fixed"),  # or 14 or 16, where 13 lacks an operator
        Variant("dynamo", 20, "dynamic"),
        Variant("dynamo", 23, "dynamic"),  # where it has operators that the others take apart
    ),
    "full": (Variant("torchscript", 17, "dynamic"), Variant("dynamo", 18, "fixed")),
}


class SameError(Exception):
    """A model that is the same for another operator set."""


class RefusedError(Exception):
    """A model that was exported but does not do what its entry says."""


def builders(family: str) -> dict[str, Builder]:
    """The networks of a family by name."""
    found: dict[str, Builder] = importlib.import_module(f"models.architectures.{family}").NETWORKS
    return found


def make(builder: Builder, entry: Entry) -> int:
    """Build, export, check and store one structure, and say how many bytes it takes.

    Raises:
        RefusedError: what was exported does not do what the network does.
        SameError: it has nothing that an earlier operator set has not.
    """
    torch.manual_seed(SEED)
    case = builder(entry.width == "full")
    randomise(case.module)
    case.module.eval()
    if entry.batch == "fixed":
        case = _fix(case)
    model = export(case, entry.exporter, entry.opset)
    if entry.opset >= 23 and not NEW & {node.op_type for node in model.graph.node}:
        raise SameError
    clean(model)
    describe(model, case)
    compare(model, case)
    return store(model, entry)


def make_some(builder: Builder, entry: Entry) -> tuple[int, Entry]:
    """Make one structure, or the one that may stand in for it, and say which.

    Raises:
        RefusedError: what was exported does not do what the network does.
        SameError: it has nothing that an earlier operator set has not.
    """
    try:
        return make(builder, entry), entry
    except SameError:
        raise
    except Exception as error:
        other = _instead(entry)
        if other == entry:
            raise
        try:
            return make_some(builder, other)
        except Exception:
            raise error from error.__cause__


def _instead(entry: Entry) -> Entry:
    """Opset 13 lacks operators that 14 or 16 has; opset 23's rotary positions do not broadcast over a batch."""
    others = {(13, "fixed"): (14, "fixed"), (14, "fixed"): (16, "fixed"), (23, "dynamic"): (23, "fixed")}
    opset, batch = others.get((entry.opset, entry.batch), (entry.opset, entry.batch))
    path = entry.path.with_name(f"{entry.name}.{entry.exporter}.op{opset}.{batch}{SUFFIX}")
    return entry._replace(opset=opset, batch=batch, path=path)


def _fix(case: Case) -> Case:
    """A batch of one and nothing open."""
    batch = {
        name: next((axis for axis, size in axes.items() if size == "batch"), None)
        for name, axes in case.dynamic.items()
    }
    inputs = {}
    for name, tensor in case.inputs.items():
        axis = batch.get(name)
        inputs[name] = tensor if axis is None else tensor.narrow(axis, 0, 1).contiguous()
    return case._replace(inputs=inputs, dynamic={})


def export(case: Case, exporter: str, opset: int) -> onnx.ModelProto:
    """Export by one exporter; dynamo with fused attention and every open size if it can, else with less."""
    if exporter == "torchscript":
        use_attention(case.module, "eager")
        return _torchscript(case, opset)
    batch = {name: {a: size for a, size in axes.items() if size == "batch"} for name, axes in case.dynamic.items()}
    sizes = [case.dynamic] if case.dynamic == batch else [case.dynamic, batch]
    attempts = [(attention, dynamic) for dynamic in sizes for attention in ("sdpa", "eager")]
    errors: list[Exception] = []
    for attention, dynamic in attempts:
        use_attention(case.module, attention)
        try:
            return _dynamo(case, opset, dynamic)
        except Exception as error:
            errors.append(error)
    raise errors[0]


def use_attention(module: torch.nn.Module, kind: str) -> None:
    """Choose how networks of transformers compute attention, where they leave it open."""
    for part in module.modules():
        choose = getattr(part, "set_attn_implementation", None)
        if callable(choose):
            with contextlib.suppress(ValueError):
                choose(kind)


def _torchscript(case: Case, opset: int) -> onnx.ModelProto:
    """By tracing; before opset 17 the normalisations stay nodes of their own, from then on they are folded."""
    kept = torch.onnx.TrainingMode.PRESERVE if opset < 17 else torch.onnx.TrainingMode.EVAL
    file = io.BytesIO()
    torch.onnx.export(
        case.module,
        tuple(case.inputs.values()),
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=opset,
        input_names=list(case.inputs),
        output_names=list(case.outputs),
        dynamic_axes=case.dynamic and (case.traced or case.dynamic),
        training=kept,
    )
    return onnx.load_model_from_string(file.getvalue())


def _dynamo(case: Case, opset: int, dynamic: Axes) -> onnx.ModelProto:
    shapes: Any = tuple(dynamic.get(name, {}) for name in case.inputs) if dynamic else None
    code = case.module.forward.__code__
    if shapes and code.co_flags & inspect.CO_VARARGS:
        shapes = (*shapes[: code.co_argcount - 1], shapes[code.co_argcount - 1 :])
    program = torch.onnx.export(
        case.module,
        tuple(case.inputs.values()),
        dynamo=True,
        opset_version=opset,
        input_names=list(case.inputs),
        output_names=list(case.outputs),
        dynamic_shapes=shapes,
        verbose=False,
    )
    if program is None:
        raise RefusedError("the exporter returned nothing")
    return program.model_proto


def clean(model: onnx.ModelProto) -> None:
    """Take out what says where and by which lines of code the model was made."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    for _, tensor in noise.tensors(model):
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for function in model.functions:
        _clean(function)
    _clean(model.graph)


def _clean(body: noise.Bodies) -> None:
    body.ClearField("doc_string")
    body.ClearField("metadata_props")
    values = [*body.value_info, *body.input, *body.output] if isinstance(body, onnx.GraphProto) else body.value_info
    for item in [*values, *body.node]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for node in body.node:
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _clean(graph)


def describe(model: onnx.ModelProto, case: Case) -> None:
    """Note the shapes of inputs that the model runs on, and the range of whole numbers."""
    facts: dict[str, dict[str, Any]] = {}
    for name, tensor in case.inputs.items():
        facts[name] = {"shape": list(tensor.shape)}
        if name.endswith("mask"):
            facts[name]["mask"] = True
        elif not tensor.is_floating_point():
            facts[name] |= {"low": int(tensor.min()), "high": int(tensor.max())}
    present = {value.name for value in model.graph.input}
    text = json.dumps({name: fact for name, fact in facts.items() if name in present})
    model.metadata_props.add(key=EXAMPLE, value=text)


def compare(model: onnx.ModelProto, case: Case) -> None:
    """Refuse a model that computes something else than the network."""
    present = {value.name for value in model.graph.input}
    inputs = {name: tensor.numpy() for name, tensor in case.inputs.items() if name in present}
    with torch.no_grad():
        wanted = case.module(*case.inputs.values())
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
    for name, a, b in zip(case.outputs, _run(_session(model), inputs), wanted, strict=True):
        apart, size = float(np.abs(a - b.numpy()).max()), float(b.abs().max())
        if apart > ALIKE * max(size, 1e-3):
            raise RefusedError(f"{name} is {apart:.1g} apart from the network's, of at most {size:.1g}")


def store(model: onnx.ModelProto, entry: Entry) -> int:
    """Write the structure and keep it only if what can be loaded from it runs."""
    _check(model, entry)
    noise.strip(model)
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.path.with_suffix(".partial")
    partial.write_bytes(gzip.compress(model.SerializeToString(deterministic=True), 9, mtime=0))
    try:
        _check(load(entry._replace(path=partial)), entry)
        partial.replace(entry.path)
    finally:
        partial.unlink(missing_ok=True)
    return entry.path.stat().st_size


def _session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _check(model: onnx.ModelProto, entry: Entry) -> None:
    session = _session(model)
    first = _run(session, feed(model, 1))
    if all(_same(a, b) for a, b in zip(first, _run(session, feed(model, 2)), strict=True)):
        raise RefusedError("its outputs do not depend on its inputs")
    if entry.batch == "dynamic":
        _run(session, feed(model, 3, {"batch": 3}))


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-6, atol=0))


def _run(session: Any, inputs: dict[str, Array]) -> list[Array]:
    found: list[Array] = session.run(None, inputs)
    if not all(np.isfinite(array).all() for array in found):
        raise RefusedError("an output is not finite")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what exporters print, be it from C++; their errors are caught and told in a line."""
    sys.stdout.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)


def plan(width: str, globs: list[str]) -> Iterator[tuple[Builder, Entry]]:
    """What is to be made."""
    for family in FAMILIES:
        for name, builder in builders(family).items():
            if any(fnmatchcase(name, glob) for glob in globs or ["*"]):
                for exporter, opset, batch in VARIANTS[width]:
                    path = STRUCTURES / width / f"{name}.{exporter}.op{opset}.{batch}{SUFFIX}"
                    yield builder, Entry(name, exporter, opset, batch, width, path)


def main() -> int:
    """Make the structures that the arguments name, and sum up what could not be made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", choices=list(VARIANTS), default="small")
    parser.add_argument("--missing", action="store_true", help="make only what is not there yet")
    parser.add_argument("names", nargs="*", metavar="NAME-glob")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    library, failed = torchvision_operators(), []
    for builder, entry in plan(options.width, options.names):
        if options.missing and any(e.path.exists() for e in (entry, _instead(entry), _instead(_instead(entry)))):
            continue
        start = time.perf_counter()
        try:
            with quiet():
                size, entry = make_some(builder, entry)
            print(f"{entry.label}: {size:,} bytes, {time.perf_counter() - start:.1f} s", flush=True)
        except SameError:
            print(f"{entry.label}: has no operator that is new", flush=True)
        except Exception as error:
            failed.append(f"{entry.label}: {_line(error)}")
            print("FAILED " + failed[-1], flush=True)
    print(f"{len(failed)} failed", *failed, sep="\n")
    del library
    return 1 if failed else 0


def _line(error: BaseException) -> str:
    """What an error began with, in a line: exporters wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(main())
