"""Operators that keep everything they touch, on purpose: each with a reason that a user can act on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnxprune.algebra.facts import Fact
from onnxprune.algebra.graph import Op, Shape
from onnxprune.algebra.registry import Rule, RuleTable, add
from onnxprune.rules.layout import pin_all

RULES: RuleTable = {}

ML, TRAINING = "ai.onnx.ml", "ai.onnx.preview.training"
MICROSOFT, BLOCKED = "com.microsoft", "com.microsoft.nchwc"

DRAWS = "draws random numbers in order, so that fewer would change the others"
PLACES = "makes each value from its place; fold it into a constant to let what uses it be cut"
PICKS = "returns positions, and only running the model tells how many"
FEATURES = "keeps a number per feature in an attribute, where nothing is cut; write it as Sub and Mul to have it cut"
GEMM = "keeps its weights in an attribute, where nothing is cut; write it as Gemm to have it cut"
NAMES = "knows its features by their place"
TEXT = "works on text, which holds no weights"
MAPS = "works on maps or sequences, which have no axes"
LISTS = "works on lists or optional values, which have no axes; write it with Split and Concat to have it cut"
LOSS = "is a training loss; take it out of the model to let what feeds it be cut"
STEP = "is a training step; give the model that inference runs"

UNPROVEN = "runs on no CPU, so that no cut of it can be proven here; cut the model before it is fused"
SEARCH = "holds whole models in its attributes, where nothing is cut; cut them before they are put together"
STREAMS = "normalises or mixes streams that lie in one axis; cut the model before it is fused"
LAYOUT = "holds weights in the layout of one machine; optimise the model after it is cut, or at the extended level"
HASHES = "works on token numbers, which hold no weights"
PACKED = "holds its weights in blocks of codes; cut the model before it is quantised"

PINNED: dict[tuple[str, str], str] = {
    ("", "Bernoulli"): DRAWS,
    ("", "Multinomial"): DRAWS,
    ("", "RandomNormal"): DRAWS,
    ("", "RandomNormalLike"): DRAWS,
    ("", "RandomUniform"): DRAWS,
    ("", "RandomUniformLike"): DRAWS,
    ("", "BlackmanWindow"): PLACES,
    ("", "EyeLike"): PLACES,
    ("", "HammingWindow"): PLACES,
    ("", "HannWindow"): PLACES,
    ("", "MelWeightMatrix"): PLACES,
    ("", "Range"): PLACES,
    ("", "NonMaxSuppression"): PICKS,
    ("", "NonZero"): PICKS,
    ("", "Unique"): PICKS,
    ("", "MaxUnpool"): "reads positions that are counted over all channels",
    ("", "MeanVarianceNormalization"): "divides by a deviation without an epsilon, which is zero where a unit is",
    ("", "ImageDecoder"): "decodes a file, which holds no weights",
    ("", "RegexFullMatch"): TEXT,
    ("", "StringConcat"): TEXT,
    ("", "StringNormalizer"): TEXT,
    ("", "StringSplit"): TEXT,
    ("", "TfIdfVectorizer"): "counts words, whose numbers and places are kept in attributes, where nothing is cut",
    ("", "ConcatFromSequence"): LISTS,
    ("", "Optional"): LISTS,
    ("", "OptionalGetElement"): LISTS,
    ("", "OptionalHasElement"): LISTS,
    ("", "SequenceAt"): LISTS,
    ("", "SequenceConstruct"): LISTS,
    ("", "SequenceEmpty"): LISTS,
    ("", "SequenceErase"): LISTS,
    ("", "SequenceInsert"): LISTS,
    ("", "SequenceLength"): LISTS,
    ("", "SequenceMap"): LISTS,
    ("", "SplitToSequence"): LISTS,
    ("", "NegativeLogLikelihoodLoss"): LOSS,
    ("", "SoftmaxCrossEntropyLoss"): LOSS,
    (ML, "ArrayFeatureExtractor"): "picks features by their place; write it as Gather to have it cut",
    (ML, "Binarizer"): "compares with a threshold; write it as Greater to have it cut",
    (ML, "CastMap"): MAPS,
    (ML, "CategoryMapper"): TEXT,
    (ML, "DictVectorizer"): MAPS,
    (ML, "FeatureVectorizer"): "joins features by sizes in an attribute; write it as Concat to have it cut",
    (ML, "Imputer"): "keeps a number per feature in an attribute, where nothing is cut",
    (ML, "LabelEncoder"): "looks values up in a table, in which zero need not stand for zero",
    (ML, "LinearClassifier"): GEMM,
    (ML, "LinearRegressor"): GEMM,
    (ML, "Normalizer"): "divides each row by its norm, so that removing a feature changes all others",
    (ML, "OneHotEncoder"): "has one place for each category, which it keeps in an attribute",
    (ML, "SVMClassifier"): "keeps its vectors in an attribute, where nothing is cut",
    (ML, "SVMRegressor"): "keeps its vectors in an attribute, where nothing is cut",
    (ML, "Scaler"): FEATURES,
    (ML, "TreeEnsemble"): NAMES,
    (ML, "TreeEnsembleClassifier"): NAMES,
    (ML, "TreeEnsembleRegressor"): NAMES,
    (ML, "ZipMap"): MAPS,
    (TRAINING, "Adagrad"): STEP,
    (TRAINING, "Adam"): STEP,
    (TRAINING, "Gradient"): STEP,
    (TRAINING, "Momentum"): STEP,
    (MICROSOFT, "AttnLSTM"): "attends to what it returned before; write it as LSTM to have it cut",
    (MICROSOFT, "BeamSearch"): SEARCH,
    (MICROSOFT, "BiasAdd"): UNPROVEN,
    (MICROSOFT, "BiasDropout"): UNPROVEN,
    (MICROSOFT, "BiasSoftmax"): UNPROVEN,
    (MICROSOFT, "BiasSplitGelu"): UNPROVEN,
    (MICROSOFT, "BifurcationDetector"): HASHES,
    (MICROSOFT, "BitmaskBiasDropout"): UNPROVEN,
    (MICROSOFT, "BitmaskDropout"): UNPROVEN,
    (MICROSOFT, "BranchwiseRMSNorm"): STREAMS,
    (MICROSOFT, "CDist"): "measures distances over all features, whose number it may divide by",
    (MICROSOFT, "ComplexMul"): UNPROVEN,
    (MICROSOFT, "ComplexMulConj"): UNPROVEN,
    (MICROSOFT, "ConvTransposeWithDynamicPads"): "takes pads at run time; write it as ConvTranspose to have it cut",
    (MICROSOFT, "CropAndResize"): "crops by regions that are given at run time",
    (MICROSOFT, "DecoderAttention"): UNPROVEN,
    (MICROSOFT, "DecoderMaskedSelfAttention"): UNPROVEN,
    (MICROSOFT, "DynamicSparseAttention"): UNPROVEN,
    (MICROSOFT, "DynamicTimeWarping"): "warps along both of its axes",
    (MICROSOFT, "EPContext"): "holds a compiled model; cut the model before it is compiled",
    (MICROSOFT, "EngramGate"): STREAMS,
    (MICROSOFT, "ExpandDims"): "takes its axis at run time; write it as Unsqueeze to have it cut",
    (MICROSOFT, "FusedMatMulActivation"): UNPROVEN,
    (MICROSOFT, "GatedDeltaNet"): UNPROVEN,
    (MICROSOFT, "GatedRMSNorm"): STREAMS,
    (MICROSOFT, "GatedRelativePositionBias"): UNPROVEN,
    (MICROSOFT, "GatherND"): "picks by positions of its own; write it as the GatherND of ONNX to have it cut",
    (MICROSOFT, "GemmFastGelu"): UNPROVEN,
    (MICROSOFT, "GemmaRotaryEmbedding"): UNPROVEN,
    (MICROSOFT, "GreedySearch"): SEARCH,
    (MICROSOFT, "GroupNorm"): UNPROVEN,
    (MICROSOFT, "HyperConnectionPostMix"): STREAMS,
    (MICROSOFT, "HyperConnectionPreMix"): STREAMS,
    (MICROSOFT, "Inverse"): "inverts matrices, so that removing an index changes all others",
    (MICROSOFT, "Irfft"): UNPROVEN,
    (MICROSOFT, "IsAllFinite"): UNPROVEN,
    (MICROSOFT, "LongformerAttention"): UNPROVEN,
    (MICROSOFT, "MatMulBnb4"): PACKED,
    (MICROSOFT, "MatMulFpQ4"): PACKED,
    (MICROSOFT, "MatMulInteger16"): "multiplies codes whose zero it does not name",
    (MICROSOFT, "MaxpoolWithMask"): "pools by a mask for all channels at once; write it as MaxPool to have it cut",
    (MICROSOFT, "MulInteger"): "multiplies codes whose zero it does not name",
    (MICROSOFT, "MurmurHash3"): HASHES,
    (MICROSOFT, "NGramHashMapping"): HASHES,
    (MICROSOFT, "NGramRepeatBlock"): HASHES,
    (MICROSOFT, "NhwcConv"): UNPROVEN,
    (MICROSOFT, "NhwcFusedConv"): UNPROVEN,
    (MICROSOFT, "NhwcMaxPool"): "pools codes whose channels come last; cut the model before it is quantised",
    (MICROSOFT, "PackedAttention"): UNPROVEN,
    (MICROSOFT, "PackedMultiHeadAttention"): UNPROVEN,
    (MICROSOFT, "PackedSparseAttentionIndexer"): UNPROVEN,
    (MICROSOFT, "PagedAttention"): UNPROVEN,
    (MICROSOFT, "Range"): PLACES,
    (MICROSOFT, "ReduceSumInteger"): "multiplies codes whose zero it does not name",
    (MICROSOFT, "RelativePositionBias"): UNPROVEN,
    (MICROSOFT, "RemovePadding"): UNPROVEN,
    (MICROSOFT, "RestorePadding"): UNPROVEN,
    (MICROSOFT, "Rfft"): UNPROVEN,
    (MICROSOFT, "SampleOp"): "serves as an example",
    (MICROSOFT, "Sampling"): SEARCH,
    (MICROSOFT, "SkipGroupNorm"): UNPROVEN,
    (MICROSOFT, "Snpe"): "holds a compiled model; cut the model before it is compiled",
    (MICROSOFT, "SparseAttention"): "shares its sparse layouts between heads by their number",
    (MICROSOFT, "SparseAttentionIndexer"): UNPROVEN,
    (MICROSOFT, "SparsePagedAttention"): UNPROVEN,
    (MICROSOFT, "SparseToDenseMatMul"): "multiplies by a sparse tensor, which is not cut",
    (MICROSOFT, "Tokenizer"): TEXT,
    (MICROSOFT, "TorchEmbedding"): UNPROVEN,
    (MICROSOFT, "UnfoldTensor"): "copies overlapping windows of one axis",
    (MICROSOFT, "Unique"): PICKS,
    (MICROSOFT, "VarlenCausalConvWithState"): UNPROVEN,
    (MICROSOFT, "VarlenNGramHashMapping"): HASHES,
    (MICROSOFT, "WhisperBeamSearch"): SEARCH,
    (MICROSOFT, "WordConvEmbedding"): "embeds words by their characters through sizes that it keeps in attributes",
    (BLOCKED, "AveragePool"): LAYOUT,
    (BLOCKED, "Conv"): LAYOUT,
    (BLOCKED, "GlobalAveragePool"): LAYOUT,
    (BLOCKED, "GlobalMaxPool"): LAYOUT,
    (BLOCKED, "MaxPool"): LAYOUT,
    (BLOCKED, "ReorderInput"): LAYOUT,
    (BLOCKED, "ReorderOutput"): LAYOUT,
    (BLOCKED, "Upsample"): LAYOUT,
}


def _like_its_input(op: Op) -> Iterator[Shape]:
    yield op.shape(op.ins[0])


def _one_row_per_input(op: Op) -> Iterator[Shape]:
    yield op.shape(op.ins[0])[0], op.attr("targets", 1)


SHAPES: dict[tuple[str, str], Callable[[Op], Iterator[Shape]]] = {
    (ML, "Imputer"): _like_its_input,
    (ML, "LinearRegressor"): _one_row_per_input,
    (ML, "Normalizer"): _like_its_input,
    (ML, "SVMRegressor"): _one_row_per_input,
    (ML, "Scaler"): _like_its_input,
}
"""Where ONNX's own inference gives up: what follows can still be cut."""


def pinned(op: Op) -> Iterator[Fact]:
    """Nothing may go; the table says why."""
    yield from pin_all(op, f"{op.label} {PINNED[op.domain, op.kind]}")


for key, reason in PINNED.items():
    add(RULES, key, Rule(pinned, shapes=SHAPES.get(key), pins=reason), "operator rule")
