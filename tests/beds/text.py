"""Words for MiniLM: how alike two of them are, against what people say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tests.beds import data
from tests.beds.bed import (
    CALIBRATION,
    Array,
    Bed,
    Context,
    Factory,
    Feed,
    Goal,
    Metrics,
    MissingError,
    batches,
    ratio,
    session,
)

FFN = ((0.25, 0.99, 0.005), (0.5, 0.96, 0.02))  # removed; least cosine; drop of Spearman's rho
LONG = 8  # tokens of a calibration phrase, its two ends included


@cache
def pairs(name: str) -> list[tuple[str, str, float]]:
    """Pairs of words, and how similar people find them."""
    lines = (data.package("words") / name).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(first, second, float(score)) for first, second, score, *_ in rows]


def words(name: str) -> set[str]:
    """All words of a list of pairs."""
    return {word for pair in pairs(name) for word in pair[:2]}


TEST = "wordsim353.tsv"
OTHER = "simlex999.txt"


def other_words() -> list[str]:
    """Words to calibrate with: none of them, in whatever case, is measured on."""
    tested = {word.lower() for word in words(TEST)}
    return sorted({word.lower() for word in words(OTHER)} - tested)


@cache
def tokenizer() -> Any:
    """MiniLM's, with ids of words, attention mask and type ids.

    Raises:
        MissingError: the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingError("the package tokenizers is not installed") from error
    return Tokenizer.from_file(str(data.package("tokenizer") / "tokenizer.json"))


def encode(texts: list[str]) -> Feed:
    """Texts as one padded batch."""
    maker = tokenizer()
    maker.no_truncation()
    maker.enable_padding()
    found = maker.encode_batch(texts)
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(item, key) for item in found], dtype=np.int64) for name, key in columns.items()}


def _word_samples(seed: int) -> list[Feed]:
    """Half single words, half phrases, each of one length: no padding distorts what is measured on them."""
    rng = np.random.default_rng(seed)
    vocabulary = other_words()
    single = [word for word in vocabulary if int(encode([word])["attention_mask"].sum()) == 3]
    few = CALIBRATION // 2
    phrases = [" ".join(rng.choice(single, LONG - 2, replace=False)) for _ in range(CALIBRATION - few)]
    return [encode([str(word) for word in rng.choice(single, few, replace=False)]), encode(phrases)]


def embed(path: Path, texts: list[str]) -> Array:
    """Sentence embeddings of length one."""
    model = session(path)
    parts = [model.run(["sentence_embedding"], part)[0] for part in batches(encode(texts))]
    found = np.concatenate(parts)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def minilm(context: Context) -> Bed:
    """all-MiniLM-L6-v2: the neurons of its feed-forward layers go, attention stays."""
    model = data.model("minilm-l6/all_minilm_l6_v2.onnx", context)
    scored = pairs(TEST)[: context.items]
    first, second, human = (list(column) for column in zip(*scored, strict=True))
    texts = [*first, *second]
    dense = embed(model, texts)

    def measure(path: Path) -> Metrics:
        found = embed(path, texts)
        likeness = (found[: len(first)] * found[len(first) :]).sum(1)
        cosine = float((found * dense).sum(1).mean())
        return {"cosine to dense": cosine, "Spearman": float(spearmanr(likeness, human).statistic)}

    budgets = [
        ratio(
            removed,
            "the FFN neurons",
            Goal("cosine to dense", cosine),
            Goal("Spearman", drop=drop),
            protect=("*.attention.self.*",),
        )
        for removed, cosine, drop in FFN
    ]
    shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, LONG))
    return Bed("minilm-l6", model, _word_samples, measure, budgets, len(scored), shapes)


BEDS: dict[str, Factory] = {"minilm-l6": minilm}
