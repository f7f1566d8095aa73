"""The bench of architectures at small width: every file is cut, removing equals zeroing, and enough goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.architectures import Entry, entries, load
from onnxprune.algebra.analysis import Model
from onnxprune.metrics.evidence import Bench, Evidence
from onnxprune.model.record import Record
from onnxprune.plan import decide
from onnxprune.verification.proof import cut_and_prove
from onnxprune.wishes import Recipe

CLOSE = 1e-4  # of an output's range
ENTRIES = entries("small")
AT_LEAST = {
    "albert": 0.43,
    "bert": 0.42,
    "clip": 0.39,
    "convnext_tiny": 0.37,
    "cross_attention": 0.49,
    "cspresnet50": 0.72,
    "deepfm": 0.67,
    "deit": 0.41,
    "densenet121": 0.72,
    "diffusion_unet": 0.69,
    "distilbert": 0.41,
    "efficientnet_b0": 0.67,
    "ghostnet": 0.70,
    "gnn_dense": 0.67,
    "gnn_messages": 0.64,
    "gpt2": 0.41,
    "gpt2_past": 0.27,
    "gru_classifier": 0.72,
    "hrnet": 0.74,
    "inception_v3": 0.74,
    "jax_cnn": 0.66,
    "jax_mlp": 0.32,
    "jax_transformer": 0.46,
    "jax_transformer_functions": 0.46,
    "keras_bigru": 0.72,
    "keras_bilstm": 0.72,
    "keras_densenet": 0.74,
    "keras_efficientnet": 0.69,
    "keras_mlp": 0.68,
    "keras_mobilenet_v2": 0.71,
    "keras_mobilenet_v3": 0.72,
    "keras_resnet": 0.71,
    "keras_transformer": 0.50,
    "keras_unet": 0.74,
    "llama": 0.40,
    "llama_past": 0.35,
    "lstm_classifier": 0.70,
    "mixtral": 0.46,
    "mlp_mixer": 0.39,
    "mobilenet_v1": 0.65,
    "mobilenet_v2": 0.67,
    "mobilenet_v3": 0.70,
    "mobilevit": 0.64,
    "moe_dense": 0.45,
    "moe_routed": 0.41,
    "paddle_lstm": 0.69,
    "paddle_mobilenet": 0.70,
    "paddle_resnet": 0.74,
    "paddle_shufflenet": 0.66,
    "paddle_transformer": 0.46,
    "pixelshuffle_sr": 0.72,
    "recommender": 0.62,
    "regnet_y": 0.72,
    "res2net50": 0.71,
    "resnet18": 0.71,
    "resnet50": 0.69,
    "resnext50": 0.69,
    "segformer": 0.34,
    "seq2seq": 0.69,
    "shufflenet_v1": 0.56,
    "shufflenet_v2": 0.67,
    "sklearn_boosting": 0.00,
    "sklearn_logistic": 0.00,
    "sklearn_mlp": 0.64,
    "sklearn_pca_mlp": 0.68,
    "ssd_head": 0.58,
    "swin_timm": 0.42,
    "swin_torchvision": 0.44,
    "t5": 0.45,
    "t5_encoder": 0.43,
    "transformer_encoder": 0.49,
    "transformer_encoder_prenorm": 0.49,
    "unet": 0.74,
    "unet_bilinear": 0.74,
    "vgg16_bn": 0.73,
    "vit_b16": 0.39,
    "vit_timm": 0.41,
    "wav2vec2": 0.40,
    "whisper_decoder": 0.41,
    "whisper_decoder_past": 0.15,
    "whisper_encoder": 0.48,
    "yolos": 0.40,
    "yolov5": 0.72,
    "yolov8": 0.73,
}
"""The share of all parameters that goes from each architecture, whatever exported it, at half of every group."""


def test_every_architecture_has_its_share() -> None:
    assert {entry.name for entry in ENTRIES} == AT_LEAST.keys()


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.label for entry in ENTRIES])
def test_half_of_every_group_goes_and_removing_equals_zeroing(entry: Entry, tmp_path: Path) -> None:
    source = tmp_path / "dense.onnx"
    source.write_bytes(load(entry).SerializeToString())
    model = Model(Record(source))
    bench = Bench(model, Evidence(), source)
    decision = decide(model, Recipe(ratio=0.5, align=1), bench.shapes)
    if not AT_LEAST[entry.name]:  # its weights are attributes, of which nothing is cut
        assert decision.plan.empty
        return
    _, applied = cut_and_prove(bench, model, decision.removed, tmp_path, None, lambda _: None, keep_unverified=False)
    assert applied.verified
    assert applied.error <= CLOSE
    assert "proves little" not in applied.note
    cost = decision.plan.cost
    assert 1 - cost["after"]["params"] / cost["before"]["params"] >= AT_LEAST[entry.name]
