"""Criteria of gradients: g, the derivative of a sample's loss by a gate of 1 behind a unit, that is, by its scale.

At a gate of 1 the derivative is also Σ w·∂L/∂w of whatever scales with the gate.
"""

from __future__ import annotations

import numpy as np

from onnxprune.criteria.base import Scores, Subject, criterion


@criterion("taylor", "|E g|", "gradients", "Molchanov et al., Importance Estimation for Neural Network Pruning, 2019")
def taylor(subject: Subject) -> Scores:
    """First-order change of the loss when the unit goes."""
    return np.asarray(np.abs(subject.gates.mean(axis=0, dtype=np.float64)))


@criterion("fisher", "½E[g²]", "gradients", "Theis et al., Faster Gaze Prediction with Dense Networks, 2018")
def fisher(subject: Subject) -> Scores:
    """Second-order change of the loss when the unit goes, where the loss is at a minimum."""
    return np.asarray(np.square(subject.gates, dtype=np.float64).mean(axis=0) / 2)


@criterion("gradient", "E|g|", "gradients", "Mozer & Smolensky, Skeletonization, 1989")
def gradient(subject: Subject) -> Scores:
    """Mean magnitude of the gradient: changes of one sample do not cancel those of another."""
    return np.asarray(np.abs(subject.gates).mean(axis=0, dtype=np.float64))
