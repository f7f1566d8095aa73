"""Operators that keep everything on purpose: each says why, and leaves what does not touch it alone."""

from __future__ import annotations

import re

import onnx
import pytest

from onnxprune.rules.pinned import BLOCKED, ML, PINNED, SHAPES, TRAINING
from tests.laws import difference, every_other, groups, parse, reasons
from tests.rules.cases import LIMIT, Case

NETWORK = """g (float[N,4] x) => (float[N,5] y) <{shape}float[4,8] w, float[8,5] v, float[5,6] k, float[6,5] u> {{
    h = MatMul(x, w)  {steps}  a = MatMul(z, v)  b = MatMul(a, k)  y = MatMul(b, u)
}}"""
AFTER = {"k:1 u:0": 6}
FOLLOWED = """g (float[N,3] x) => (float[N,5] y) <float[{width},8] w, float[8,5] v> {{
    z = ai.onnx.ml.{node}(x)  h = MatMul(z, w)  y = MatMul(h, v)
}}"""
# how each of these is written; what follows it is as wide as what it takes, or as its targets
WRITTEN = {
    "Imputer": ("Imputer <imputed_value_floats = [1.5], replaced_value_float = 0.0>", 3),
    "LinearRegressor": ("LinearRegressor <coefficients = [1.0,2.0,3.0,4.0,5.0,6.0], targets = 2>", 2),
    "Normalizer": ('Normalizer <norm = "L2">', 3),
    "SVMRegressor": ("SVMRegressor <coefficients = [1.0,2.0,3.0], rho = [0.5], kernel_params = [0.0,0.0,0.0]>", 1),
    "Scaler": ("Scaler <offset = [0.5,0.5,0.5], scale = [1.0,2.0,3.0]>", 3),
}
# what is not valid when it takes one input, gives one output and has no attributes
STEPS = {
    "RandomNormal": "r = RandomNormal <shape = [8]> ()  z = Add(h, r)",
    "RandomUniform": "r = RandomUniform <shape = [8]> ()  z = Add(h, r)",
    "MelWeightMatrix": "z = MelWeightMatrix(h, h, h, h, h)",
    "MaxUnpool": "z = MaxUnpool <kernel_shape = [2]> (h, h)",
    "Range": "z = Range(h, h, h)",
    "ConcatFromSequence": "z = ConcatFromSequence <axis = 0> (h)",
    "SequenceEmpty": "e = SequenceEmpty()  z = SequenceInsert(e, h)",
    "SequenceMap": "z = SequenceMap <body = one (float[N,8] a) => (float[N,8] b) { b = Relu(a) }> (h)",
    "StringSplit": "z, n = StringSplit(h)",
    "TfIdfVectorizer": 'z = TfIdfVectorizer <mode = "TF", max_gram_length = 1, max_skip_count = 0, min_gram_length = 1,'
    " ngram_counts = [0], ngram_indexes = [0]> (h)",
    "CategoryMapper": 'z = ai.onnx.ml.CategoryMapper <cats_int64s = [1], cats_strings = ["a"]> (h)',
    "LinearClassifier": "z, p = ai.onnx.ml.LinearClassifier <coefficients = [1.0]> (h)",
    "SVMClassifier": "z, p = ai.onnx.ml.SVMClassifier(h)",
    "TreeEnsembleClassifier": "z, p = ai.onnx.ml.TreeEnsembleClassifier(h)",
    "TreeEnsemble": "z = ai.onnx.ml.TreeEnsemble <tree_roots = [0], nodes_featureids = [0],"
    " nodes_splits = float[1] {0.5}, nodes_modes = uint8[1] {0}, nodes_truenodeids = [0], nodes_falsenodeids = [0],"
    " nodes_trueleafs = [1], nodes_falseleafs = [1], leaf_targetids = [0], leaf_weights = float[1] {0.5}> (h)",
    "Gradient": 'z = ai.onnx.preview.training.Gradient <xs = ["h"], y = "h"> (h)',
    "Adagrad": "z, s = ai.onnx.preview.training.Adagrad(h, h, h, h, h)",
    "Adam": "z, s, t = ai.onnx.preview.training.Adam(h, h, h, h, h, h)",
    "Momentum": 'z, s = ai.onnx.preview.training.Momentum <alpha = 0.5, beta = 0.5, mode = "standard",'
    " norm_coefficient = 0.5> (h, h, h, h, h)",
}
PAIRS = (
    "ArrayFeatureExtractor",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "SequenceAt",
    "SequenceInsert",
    "SoftmaxCrossEntropyLoss",
    "StringConcat",
)


def written(domain: str, kind: str) -> str:
    return f"{domain}.{kind}" if domain else kind


def network(key: tuple[str, str], shape: str = "float[N,8] z, ") -> str:
    plain = f"z = {written(*key)}({'h, h' if key[1] in PAIRS else 'h'})"
    return NETWORK.format(steps=STEPS.get(key[1], plain), shape=shape)


def model(text: str) -> onnx.ModelProto:
    parsed = parse(text, opset=22)
    for domain, version in ((ML, 5 if "ml.TreeEnsemble <" in text else 3), (BLOCKED, 1), (TRAINING, 1)):
        parsed.opset_import.append(onnx.helper.make_opsetid(domain, version))
    return parsed


GRAPHS: dict[str, Case] = {key[1]: Case(network(key), AFTER, why, 22) for key, why in PINNED.items()}

TOUCHING = [key for key in PINNED if key[1] != "SequenceEmpty"]  # which has nothing to say about any axis


@pytest.mark.parametrize("key", TOUCHING, ids=[written(*key) for key in TOUCHING])
def test_nothing_goes_that_it_touches_and_the_reason_is_given(key: tuple[str, str]) -> None:
    found = model(network(key))
    assert not [axes for axes in groups(found) if "w:1" in axes or "v:0" in axes]
    assert re.search(rf"{key[1]} #1 \('.'\) {re.escape(PINNED[key])}", reasons(found))


@pytest.mark.parametrize("key", TOUCHING, ids=[written(*key) for key in TOUCHING])
def test_the_reason_is_given_even_where_shapes_are_not_known(key: tuple[str, str]) -> None:
    found = reasons(model(network(key, shape="")))
    assert re.search(rf"{key[1]} #1 \('.'\) {re.escape(PINNED[key])}", found)
    assert f"at {key[1]} #1" not in found


@pytest.mark.parametrize("key", SHAPES, ids=[written(*key) for key in SHAPES])
def test_what_follows_is_cut_where_only_we_know_its_shape(key: tuple[str, str]) -> None:
    node, width = WRITTEN[key[1]]
    name, _, attributes = node.partition(" ")
    network = model(FOLLOWED.format(node=f"{name} {attributes} ", width=width))
    assert groups(network) == {"v:0 w:1": 8}
    del network.opset_import[-1]  # that of training, which a runtime need not know
    assert difference(network, every_other(network)) <= LIMIT


@pytest.mark.parametrize("why", sorted(set(PINNED.values())))
def test_a_reason_completes_a_sentence(why: str) -> None:
    assert why[0].islower()
    assert not why.endswith(".")
    assert why.split()[0].endswith("s")
