"""Point after point: what a batch's earlier points will tell is taken off the variances before the next is chosen."""

from __future__ import annotations

from typing import Protocol

import torch

from caligo_surrogate.acquisition.sweep import Sweep


class Rule(Protocol):
    """How the points of a sweep are valued while a batch grows."""

    def values(self, number: int, variance: torch.Tensor) -> torch.Tensor:
        """Of every point [m] as the batch's next one, of that number, given their present variances [m]."""

    def column(self, chosen: int) -> torch.Tensor:
        """Present covariance of every point with one of them, [m]."""

    def believe(self, off: torch.Tensor) -> None:
        """A point was chosen; its run takes off off' off the covariances, off [m]."""


def one_by_one(sweep: Sweep, size: int, rule: Rule) -> torch.Tensor:
    """A batch [size, 9] of the sweep's points, each of the greatest value given those before it.

    With c the posterior covariance, a run at x takes c(s, x)^2 / (v(x) + noise(x)) off the variance at s: one more row
    of a Cholesky factor.
    """
    variance = sweep.moments.variance.clone()
    chosen: list[int] = []
    with torch.no_grad():
        for number in range(size):
            values = rule.values(number, variance)
            values[chosen] = -torch.inf
            best = int(values.argmax())
            chosen.append(best)
            off = rule.column(best) / (variance[best].clamp_min(0) + sweep.moments.noise[best]).sqrt()
            variance = (variance - off.square()).clamp_min(0)
            rule.believe(off)
    return sweep.points[chosen]
