"""Criteria of gradients: g, the derivative of a sample's loss by a gate of 1 behind a unit, that is, by its scale.

At a gate of 1 the derivative is also Σ w·∂L/∂w of whatever scales with the gate.
"""

from __future__ import annotations

from functools import wraps

import numpy as np

from onnxprune.criteria.base import Score, Scores, Subject, criterion
from onnxprune.criteria.weights import group_norm

BLIND = "the calibration data have no labels: losses are taken at what the model itself answers"


def of_losses(score: Score) -> Score:
    """A criterion of losses: says so where they know no labels; `group_norm` where no gate is behind any unit."""

    @wraps(score)
    def call(subject: Subject) -> Scores:
        found = of_gates(subject, score(subject))
        if not subject.labelled():
            subject.note(BLIND)
        return found

    return call


def of_gates(subject: Subject, found: Scores) -> Scores:
    """These scores, or `group_norm` where nothing sums over the units, so that no gate is behind them."""
    if not np.isnan(found).all():
        return found
    subject.note("nothing sums over these units: scored by group-norm")
    return group_norm(subject)


@criterion("taylor", "|E g|", "gradients", "Molchanov et al., Importance Estimation for Neural Network Pruning, 2019")
@of_losses
def taylor(subject: Subject) -> Scores:
    """First-order change of the loss when the unit goes; without labels E|g|, as E g vanishes at drawn classes."""
    if not subject.labelled():
        subject.note("without labels the mean gradient vanishes: taylor takes the mean of magnitudes")
        return np.asarray(np.abs(subject.gates).mean(axis=0, dtype=np.float64))
    return np.asarray(np.abs(subject.gates.mean(axis=0, dtype=np.float64)))


@criterion("fisher", "½E[g²]", "gradients", "Theis et al., Faster Gaze Prediction with Dense Networks, 2018")
@of_losses
def fisher(subject: Subject) -> Scores:
    """Second-order change of the loss when the unit goes, where the loss is at a minimum."""
    return np.asarray(np.square(subject.gates, dtype=np.float64).mean(axis=0) / 2)


@criterion("gradient", "E|g|", "gradients", "Mozer & Smolensky, Skeletonization, 1989")
@of_losses
def gradient(subject: Subject) -> Scores:
    """Mean magnitude of the gradient: changes of one sample do not cancel those of another."""
    return np.asarray(np.abs(subject.gates).mean(axis=0, dtype=np.float64))


@criterion("mse-output", "E‖∂y/∂g‖²", "gradients", "LeCun et al., Optimal Brain Damage, 1990")
def mse_output(subject: Subject) -> Scores:
    """Squared change of the outputs when the unit goes, to first order, as a fraction of their variance (no labels)."""
    return of_gates(subject, np.asarray(np.square(subject.projections, dtype=np.float64).mean(axis=0)))
