"""Point after point: what a batch's earlier points will tell is taken off the variances before the next is chosen."""

from __future__ import annotations

from typing import Protocol

import torch

from caligo_surrogate.acquisition.sweep import Sweep
from caligo_surrogate.posterior import Posterior


class Rule(Protocol):
    """How the points of a sweep are valued while a batch grows."""

    def values(self, number: int, variance: torch.Tensor) -> torch.Tensor:
        """Of every point [m] as the batch's next one, of that number, given their present variances [m]."""

    def believe(self, chosen: int, off: torch.Tensor) -> None:
        """The point of that number in the sweep was chosen; its run takes off^2, [m], off the variances."""


def one_by_one(posterior: Posterior, sweep: Sweep, size: int, rule: Rule) -> torch.Tensor:
    """A batch [size, 9] of the sweep's points, each of the greatest value given those before it.

    With c the posterior covariance, a run at x takes c(s, x)^2 / (v(x) + noise(x)) off the variance at s: one more row
    of a Cholesky factor.
    """
    variance = sweep.moments.variance.clone()
    taken: list[torch.Tensor] = []
    chosen: list[int] = []
    with torch.no_grad():
        for number in range(size):
            values = rule.values(number, variance)
            values[chosen] = -torch.inf
            best = int(values.argmax())
            chosen.append(best)
            column = posterior.between(sweep.points, sweep.points[best : best + 1]).squeeze(-1).to(variance.dtype)
            for off in taken:
                column = column - off * off[best]
            off = column / (variance[best].clamp_min(0) + sweep.moments.noise[best]).sqrt()
            taken.append(off)
            variance = (variance - off.square()).clamp_min(0)
            rule.believe(best, off)
    return sweep.points[chosen]
