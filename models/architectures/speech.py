"""Speech: encoders of sound and the decoder that writes what was said."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.architectures.build import Builder, Call, Case, Options, library


def _whisper(full: bool) -> Any:
    transformers = library("transformers")

    if full:  # whisper-tiny
        return transformers.WhisperConfig(encoder_attention_heads=6, decoder_attention_heads=6)
    layers: Options = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    widths: Options = {
        "d_model": 48,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96,
        "vocab_size": 100,
        "num_mel_bins": 16,
    }
    special: Options = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    return transformers.WhisperConfig(**layers, **widths, **special, max_source_positions=20, max_target_positions=24)


def whisper_encoder(full: bool) -> Case:
    """Whisper's encoder: convolutions over a spectrogram, fixed positions, layers normalised first."""
    transformers = library("transformers")

    config = _whisper(full)
    network = Call(transformers.WhisperModel(config).encoder, ("input_features",), ("last_hidden_state",))
    inputs = {"input_features": torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions)}
    return Case(network, inputs, {"input_features": {0: "batch"}}, ("last_hidden_state",))


class Decoder(nn.Module):
    """Whisper's decoder with its last layer, which is its embedding."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.decoder, self.head = network.model.decoder, network.proj_out

    def forward(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> Tensor:
        """Logits from tokens and what the encoder returned."""
        found = self.decoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=states, use_cache=False
        )
        return self.head(found.last_hidden_state)  # type: ignore[no-any-return]


def whisper_decoder(full: bool) -> Case:
    """Whisper's decoder without a cache."""
    transformers = library("transformers")

    config = _whisper(full)
    ids = torch.randint(0, config.vocab_size, (2, 6))
    states = torch.randn(2, config.max_source_positions, config.d_model)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "states": states}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs} | {"states": {0: "batch"}}
    return Case(Decoder(transformers.WhisperForConditionalGeneration(config)), inputs, axes, ("logits",))


class CachedDecoder(Decoder):
    """The decoder with keys and values of what it wrote, and of the sound."""

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Logits of the new token, then keys and values of what was written, layer by layer."""
        transformers = library("transformers")

        own, cross = transformers.DynamicCache(), transformers.DynamicCache()
        for layer in range(len(past) // 4):
            own.update(past[4 * layer], past[4 * layer + 1], layer)
            cross.update(past[4 * layer + 2], past[4 * layer + 3], layer)
        # What the encoder returned is not read when its keys and values are there; its presence is asked for.
        states = past[2].new_zeros(past[2].shape[0], past[2].shape[2], past[2].shape[1] * past[2].shape[3])
        cache = transformers.EncoderDecoderCache(own, cross)
        found = self.decoder(input_ids=input_ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True)
        present = [value for layer in own.layers for value in (layer.keys, layer.values)]
        return (self.head(found.last_hidden_state), *present)


def whisper_decoder_past(full: bool) -> Case:
    """Whisper's decoder with a cache: one new token."""
    transformers = library("transformers")

    config = _whisper(full)
    heads, size = config.decoder_attention_heads, config.d_model // config.decoder_attention_heads
    inputs = {"input_ids": torch.randint(0, config.vocab_size, (2, 1))}
    axes = {"input_ids": {0: "batch"}}
    for layer in range(config.decoder_layers):
        for kind, length in (("own", 5), ("sound", config.max_source_positions)):
            for part in ("key", "value"):
                inputs[f"past.{layer}.{kind}.{part}"] = torch.randn(2, heads, length, size)
                axes[f"past.{layer}.{kind}.{part}"] = {0: "batch"} | ({2: "past"} if kind == "own" else {})
    present = [f"present.{layer}.{part}" for layer in range(config.decoder_layers) for part in ("key", "value")]
    return Case(CachedDecoder(transformers.WhisperForConditionalGeneration(config)), inputs, axes, ("logits", *present))


def wav2vec2(full: bool) -> Case:
    """wav2vec 2.0: convolutions over samples, a grouped convolution for positions, a character for each frame."""
    transformers = library("transformers")

    small: Options = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "conv_dim": (32, 32, 32),
        "conv_stride": (5, 2, 2),
        "conv_kernel": (10, 3, 3),
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
    }
    config = transformers.Wav2Vec2Config() if full else transformers.Wav2Vec2Config(**small)
    network = Call(transformers.Wav2Vec2ForCTC(config), ("input_values",), ("logits",))
    inputs = {"input_values": torch.randn(2, 8000 if full else 800)}
    return Case(network, inputs, {"input_values": {0: "batch", 1: "samples"}}, ("logits",))


NETWORKS: dict[str, Builder] = {
    "whisper_encoder": whisper_encoder,
    "whisper_decoder": whisper_decoder,
    "whisper_decoder_past": whisper_decoder_past,
    "wav2vec2": wav2vec2,
}
