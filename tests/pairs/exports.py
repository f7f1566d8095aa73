"""One network as several exporters write it, small: by hand, in ONNX text and numpy; and ways to plant a difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.laws import parse

Array = NDArray[Any]

CHANNELS_FIRST = """
net (float[N,3,8,8] image) => (float[N,6] scores)
<float[12,3,3,3] w1, float[12] scale1, float[12] b1, float[12] m1, float[12] var1, float[12,1,3,3] w2, float[12] b2,
 float[12,12,1,1] w3, float[12] scale3, float[12] b3, float[12] m3, float[12] var3, float[192,16] w4, float[16] b4,
 float[16,6] w5, float[6] b5>
{
    [first] c1 = Conv <pads=[1,1,1,1]> (image, w1)
    [norm1] n1 = BatchNormalization <epsilon=0.001> (c1, scale1, b1, m1, var1)
    [act1] r1 = Relu (n1)
    [depth] c2 = Conv <group=12, pads=[1,1,1,1]> (r1, w2, b2)
    [act2] r2 = Clip (c2)
    [point] c3 = Conv (r2, w3)
    [norm3] n3 = BatchNormalization (c3, scale3, b3, m3, var3)
    [sum] s = Add (r1, n3)
    [pool] p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (s)
    [flat] f = Flatten (p)
    [hidden] h = Gemm (f, w4, b4)
    [act4] r4 = LeakyRelu <alpha=0.1> (h)
    [head] scores = Gemm (r4, w5, b5)
}
"""
CHANNELS_LAST = """
net (float[batch,8,8,3] pixels) => (float[batch,6] logits)
<float[3,3,3,12] w1, float[12] scale1, float[12] b1, float[12] m1, float[12] var1, float[3,3,12,1] w2, float[12] b2,
 float[1,1,12,12] w3, float[12] scale3, float[12] b3, float[12] m3, float[12] var3, float[192,16] w4, float[16] b4,
 float[16,6] w5, float[6] b5>
{
    x = Transpose <perm=[0,3,1,2]> (pixels)
    k1 = Transpose <perm=[3,2,0,1]> (w1)
    [tf_first] c1 = Conv <auto_pad="SAME_UPPER"> (x, k1)
    [tf_norm1] n1 = BatchNormalization <epsilon=0.001> (c1, scale1, b1, m1, var1)
    [tf_relu] r1 = Relu (n1)
    k2 = Transpose <perm=[2,3,0,1]> (w2)
    [tf_depth] c2 = Conv <group=12, auto_pad="SAME_UPPER"> (r1, k2)
    y2 = Transpose <perm=[0,2,3,1]> (c2)
    [tf_bias] z2 = Add (y2, b2)
    x2 = Transpose <perm=[0,3,1,2]> (z2)
    k3 = Transpose <perm=[3,2,0,1]> (w3)
    [tf_point] c3 = Conv (x2, k3)
    [tf_norm3] n3 = BatchNormalization (c3, scale3, b3, m3, var3)
    [tf_sum] s = Add (n3, r1)
    [tf_pool] p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (s)
    t = Transpose <perm=[0,2,3,1]> (p)
    shape = Constant <value_ints=[-1,192]> ()
    f = Reshape (t, shape)
    [tf_hidden] m4 = MatMul (f, w4)
    h = Add (m4, b4)
    [tf_act] r4 = LeakyRelu <alpha=0.1> (h)
    [tf_head] m5 = MatMul (r4, w5)
    logits = Add (m5, b5)
}
"""
ENCODER = """
net (float[N,5,16] tokens) => (float[N,5,4] scores)
<float[16,16] wq, float[16] bq, float[16,16] wk, float[16] bk, float[16,16] wv, float[16] bv, float[16,16] wo,
 float[16] bo, float[16] scale1, float[16] shift1, float[16,32] wu, float[32] bu, float[32,16] wd, float[16] bd,
 float[16] scale2, float[16] shift2, float[16,4] wh, float[4] bh>
{
    [query] q0 = MatMul (tokens, wq)
    q = Add (q0, bq)
    [key] k0 = MatMul (tokens, wk)
    k = Add (k0, bk)
    [value] v0 = MatMul (tokens, wv)
    v = Add (v0, bv)
    kt = Transpose <perm=[0,2,1]> (k)
    [scores] a = MatMul (q, kt)
    [soft] w = Softmax <axis=-1> (a)
    [mix] m = MatMul (w, v)
    [out] o0 = MatMul (m, wo)
    o = Add (o0, bo)
    [sum1] s1 = Add (o, tokens)
    NORM1
    [up] u0 = MatMul (l1, wu)
    u = Add (u0, bu)
    [gate] g = Relu (u)
    [down] d0 = MatMul (g, wd)
    d = Add (d0, bd)
    [sum2] s2 = Add (d, l1)
    NORM2
    [head] h0 = MatMul (l2, wh)
    scores = Add (h0, bh)
}
"""
FUSED = "[layernorm{n}] l{n} = LayerNormalization <axis=-1, epsilon=0.00001> (s{n}, scale{n}, shift{n})"
WRITTEN_OUT = """
    two{n} = Constant <value_float=2.0> ()
    eps{n} = Constant <value_float=0.00001> ()
    mean{n} = ReduceMean <axes=[-1]> (s{n})
    [centre{n}] c{n} = Sub (s{n}, mean{n})
    square{n} = Pow (c{n}, two{n})
    variance{n} = ReduceMean <axes=[-1]> (square{n})
    safe{n} = Add (variance{n}, eps{n})
    root{n} = Sqrt (safe{n})
    unit{n} = Div (c{n}, root{n})
    scaled{n} = Mul (unit{n}, scale{n})
    [layernorm{n}] l{n} = Add (scaled{n}, shift{n})
"""


def channels_first() -> onnx.ModelProto:
    """A convolutional network as torch exports it, batch normalisation unfolded."""
    return parse(CHANNELS_FIRST, seed=1)


def channels_last() -> onnx.ModelProto:
    """The same as tf2onnx writes it: NHWC in front, kernels turned at run time, dense layers without bias."""
    values = weights(channels_first())
    turned = {
        "w1": values["w1"].transpose(2, 3, 1, 0),
        "w2": values["w2"].transpose(2, 3, 0, 1),
        "w3": values["w3"].transpose(2, 3, 1, 0),
        "w4": values["w4"].reshape(12, 4, 4, 16).transpose(1, 2, 0, 3).reshape(192, 16),
    }
    return with_weights(parse(CHANNELS_LAST), {**values, **turned})


def encoder(*, fused: bool) -> onnx.ModelProto:
    """A transformer's block, its normalisation one node or written out."""
    text = ENCODER
    for number in (1, 2):
        text = text.replace(f"NORM{number}", (FUSED if fused else WRITTEN_OUT).format(n=number))
    return parse(text, seed=2)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """The initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def with_weights(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of a model with other values in the initializers of these names."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return made


def changed(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> onnx.ModelProto:
    """A copy of a model with one weight changed."""
    return with_weights(model, {name: change(weights(model)[name].copy())})


def with_attribute(model: onnx.ModelProto, node: str, name: str, value: Any) -> onnx.ModelProto:
    """A copy of a model with one attribute changed."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    found = next(n for n in made.graph.node if n.name == node)
    kept = [attribute for attribute in found.attribute if attribute.name != name]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(name, value)])
    return made


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every batch normalisation folded into the convolution before it."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    values = weights(made)
    for norm in [node for node in made.graph.node if node.op_type == "BatchNormalization"]:
        conv = next(node for node in made.graph.node if norm.input[0] in node.output)
        gamma, beta, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:5])
        scale = gamma / np.sqrt(variance + next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5))
        values[conv.input[1]] = (values[conv.input[1]] * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
        values[norm.input[2]] = (beta - mean * scale).astype(np.float32)
        conv.input.append(norm.input[2])
        conv.output[0] = norm.output[0]
        made.graph.node.remove(norm)
    read = {name for node in made.graph.node for name in node.input}
    for tensor in [tensor for tensor in made.graph.initializer if tensor.name not in read]:
        made.graph.initializer.remove(tensor)
    return with_weights(made, values)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in half precision, inputs and outputs included."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


def coded(model: onnx.ModelProto, ranges: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with 8-bit codes: of every weight that is multiplied, and of these tensors up to these magnitudes."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    values, nodes = weights(made), []
    for node in made.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in values:
            nodes += _coded_weight(made, node, values[node.input[1]])
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in ranges:
                node.output[place] = f"{name}.raw"
                nodes += _coded_tensor(made, f"{name}.raw", name, ranges[name])
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _coded_weight(model: onnx.ModelProto, node: onnx.NodeProto, weight: Array) -> list[onnx.NodeProto]:
    axis = 0 if node.op_type == "Conv" else weight.ndim - 1
    others = tuple(number for number in range(weight.ndim) if number != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    shape = [-1 if number == axis else 1 for number in range(weight.ndim)]
    name = f"{node.input[1]}.codes"
    codes = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    model.graph.initializer.extend(
        [numpy_helper.from_array(codes, name), numpy_helper.from_array(scale, f"{name}.scale")]
    )
    node.input[1] = f"{name}.read"
    return [helper.make_node("DequantizeLinear", [name, f"{name}.scale"], [node.input[1]], axis=axis)]


def _coded_tensor(model: onnx.ModelProto, raw: str, name: str, largest: float) -> list[onnx.NodeProto]:
    given = np.float32(largest / 127), np.int8(0)
    ends = [f"{name}.scale", f"{name}.zero"]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for v, n in zip(given, ends, strict=True))
    return [
        helper.make_node("QuantizeLinear", [raw, *ends], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [name]),
    ]


def swapped(first: int, second: int, axis: int) -> Callable[[Array], Array]:
    """Exchange two indices of an axis."""

    def swap(weight: Array) -> Array:
        order = np.arange(weight.shape[axis])
        order[[first, second]] = second, first
        return weight.take(order, axis)

    return swap
