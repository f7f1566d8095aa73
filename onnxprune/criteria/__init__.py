"""Criteria: how much a unit matters, under the names that practitioners know."""

from __future__ import annotations

from onnxprune.criteria import activations, combined, gradients, obs, search, weights
from onnxprune.criteria.base import CRITERIA, Criterion, Part, Score, Scores, Slice, Subject, criterion

__all__ = [
    "CRITERIA",
    "Criterion",
    "Part",
    "Score",
    "Scores",
    "Slice",
    "Subject",
    "activations",
    "combined",
    "criterion",
    "gradients",
    "obs",
    "search",
    "weights",
]
