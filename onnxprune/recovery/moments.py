"""What a linear layer reads, in numbers that add up over samples: means, second moments, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over the rows that a layer reads, all float64. Sums of disjoint rows add up.

    Attributes:
        rows: how many rows there were.
        total: (D), the sum of x.
        products: (D, D), the sum of x xᵀ, not centred.
        positive: (D), how many entries were above zero.
        magnitude: (D), the sum of |x|.
    """

    rows: int
    total: Matrix
    products: Matrix
    positive: Matrix
    magnitude: Matrix

    @classmethod
    def of(cls, x: Matrix) -> Moments:
        """The moments of rows (n, D)."""
        return cls(len(x), x.sum(0), x.T @ x, (x > 0).sum(0).astype(np.float64), np.abs(x).sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.total + other.total,
            self.products + other.products,
            self.positive + other.positive,
            self.magnitude + other.magnitude,
        )


@dataclass(frozen=True)
class Layer:
    """A linear layer y = W x + b and the moments of what it reads on the calibration data.

    Attributes:
        label: how messages name its node.
        weight: W, (O, D), float64.
        moments: of its rows x.
    """

    label: str
    weight: Matrix
    moments: Moments

    @property
    def mean(self) -> Matrix:
        """E[x], (D)."""
        return self.moments.total / self.moments.rows

    @property
    def gram(self) -> Matrix:
        """E[x xᵀ], (D, D), not centred."""
        return self.moments.products / self.moments.rows

    @cached_property
    def covariance(self) -> Matrix:
        """E[(x - E x)(x - E x)ᵀ], (D, D)."""
        return self.gram - np.outer(self.mean, self.mean)

    @cached_property
    def spread(self) -> float:
        """E‖y - E y‖², the variance of all outputs together; what errors are compared with."""
        return float(np.einsum("od,de,oe->", self.weight, self.covariance, self.weight, optimize=True))
