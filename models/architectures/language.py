"""Language: encoders, decoders, and both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.architectures.build import Builder, Call, Case, Options, library

LENGTH = 12  # tokens of an example
HIDDEN: Options = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
}


def tokens(vocabulary: int, length: int = LENGTH) -> dict[str, Tensor]:
    """Two sentences, of which one is shorter."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, length - 4 :] = 0
    return {"input_ids": torch.randint(0, vocabulary, (2, length)), "attention_mask": mask}


def text(network: nn.Module, vocabulary: int, output: str, **fixed: Any) -> Case:
    """A network from tokens and their mask to one output."""
    inputs = tokens(vocabulary)
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Case(Call(network, tuple(inputs), (output,), **fixed), inputs, axes, (output,))


def bert(full: bool) -> Case:
    """BERT: an encoder with a classifier on its pooled first token."""
    transformers = library("transformers")

    config = transformers.BertConfig() if full else transformers.BertConfig(**HIDDEN)
    return text(transformers.BertForSequenceClassification(config), config.vocab_size, "logits")


def distilbert(full: bool) -> Case:
    """DistilBERT, with a prediction for each token."""
    transformers = library("transformers")

    small: Options = {
        "vocab_size": 100,
        "dim": 48,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 96,
        "max_position_embeddings": 32,
    }
    config = transformers.DistilBertConfig() if full else transformers.DistilBertConfig(**small)
    return text(transformers.DistilBertForTokenClassification(config), config.vocab_size, "logits")


def albert(full: bool) -> Case:
    """ALBERT: the same weights in every layer, and factored embeddings."""
    transformers = library("transformers")

    base: Options = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    config = transformers.AlbertConfig(**base) if full else transformers.AlbertConfig(**HIDDEN, embedding_size=16)
    return text(transformers.AlbertForSequenceClassification(config), config.vocab_size, "logits")


def gpt2(full: bool) -> Case:
    """GPT-2: a decoder whose last layer is its embedding, and which fuses q, k and v."""
    transformers = library("transformers")

    small: Options = {"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config = transformers.GPT2Config() if full else transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=0)
    return text(transformers.GPT2LMHeadModel(config), config.vocab_size, "logits", use_cache=False)


def _llama(transformers: Any, full: bool) -> Any:
    """Its configuration: the true width of TinyLlama-1.1B with two of its 22 layers, which are all alike."""
    true: Options = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_hidden_layers": 2}
    if full:
        return transformers.LlamaConfig(**true, num_key_value_heads=4)
    return transformers.LlamaConfig(**HIDDEN, num_key_value_heads=2)


def llama(full: bool) -> Case:
    """Llama: grouped queries, rotary positions, gated feed-forward, RMS normalisation."""
    transformers = library("transformers")
    config = _llama(transformers, full)
    return text(transformers.LlamaForCausalLM(config), config.vocab_size, "logits", use_cache=False)


def mixtral(full: bool) -> Case:
    """Mixtral: of several feed-forwards, each token's router picks two, whose weights are gathered."""
    transformers = library("transformers")

    # A sixteenth of the true experts: one layer of the original has 1.4 billion parameters.
    true: Options = {"hidden_size": 1024, "intermediate_size": 3584, "num_attention_heads": 16, "num_hidden_layers": 2}
    small: Options = {**HIDDEN, "num_key_value_heads": 2, "num_local_experts": 4}
    config = transformers.MixtralConfig(**true, num_key_value_heads=4) if full else transformers.MixtralConfig(**small)
    config._experts_implementation = "batched_mm"
    return text(transformers.MixtralForCausalLM(config), config.vocab_size, "logits", use_cache=False)


class Cached(nn.Module):
    """A decoder that takes and returns the keys and values of what it has read before."""

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Logits of the new tokens, then keys and values layer by layer."""
        transformers = library("transformers")

        cache = transformers.DynamicCache()
        for layer in range(self.layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.network(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        present = [value for layer in cache.layers for value in (layer.keys, layer.values)]
        return (found.logits, *present)


def _cached(network: nn.Module, vocabulary: int, layers: int, heads: int, size: int) -> Case:
    """Three new tokens after five others."""
    inputs = {"input_ids": torch.randint(0, vocabulary, (2, 3)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    inputs["attention_mask"][1, :2] = 0
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "total"}}
    names = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    for name in names:
        inputs[f"past.{name}"] = torch.randn(2, heads, 5, size)
        axes[f"past.{name}"] = {0: "batch", 2: "past"}
    return Case(Cached(network, layers), inputs, axes, ("logits", *(f"present.{name}" for name in names)))


def gpt2_past(full: bool) -> Case:
    """GPT-2 with past keys and values."""
    transformers = library("transformers")

    small: Options = {"vocab_size": 100, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config = transformers.GPT2Config() if full else transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=0)
    size = config.n_embd // config.n_head
    return _cached(transformers.GPT2LMHeadModel(config), config.vocab_size, config.n_layer, config.n_head, size)


def llama_past(full: bool) -> Case:
    """Llama with past keys and values."""
    transformers = library("transformers")
    config = _llama(transformers, full)
    layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    return _cached(transformers.LlamaForCausalLM(config), config.vocab_size, layers, heads, size)


def _t5(full: bool) -> Any:
    transformers = library("transformers")

    small: Options = {"vocab_size": 100, "d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}
    return transformers.T5Config(use_cache=False) if full else transformers.T5Config(**small, use_cache=False)


def t5_encoder(full: bool) -> Case:
    """T5's encoder: positions as a bias of the first layer's attention that all layers share."""
    transformers = library("transformers")

    return text(transformers.T5EncoderModel(_t5(full)), _t5(full).vocab_size, "last_hidden_state")


def t5(full: bool) -> Case:
    """T5: encoder and decoder."""
    transformers = library("transformers")

    config = _t5(full)
    inputs = tokens(config.vocab_size) | {"decoder_input_ids": torch.randint(0, config.vocab_size, (2, 7))}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs} | {"decoder_input_ids": {0: "batch", 1: "written"}}
    network = Call(transformers.T5ForConditionalGeneration(config), tuple(inputs), ("logits",))
    return Case(network, inputs, axes, ("logits",))


NETWORKS: dict[str, Builder] = {
    "bert": bert,
    "llama": llama,
    "distilbert": distilbert,
    "albert": albert,
    "gpt2": gpt2,
    "gpt2_past": gpt2_past,
    "llama_past": llama_past,
    "mixtral": mixtral,
    "t5_encoder": t5_encoder,
    "t5": t5,
}
