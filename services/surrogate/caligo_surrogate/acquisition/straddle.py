"""The straddle: large where the level set may pass and little is known.

`weight sd(x) - |mean(x) - level|`: Bryan, Nichol, Genovese, Schneider, Miller and Wasserman, "Active learning for
identifying function level boundaries" (NIPS 2005); they take the weight 1.96.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf
from botorch.utils.transforms import t_batch_mode_transform
from numpy.typing import NDArray

from caligo.space import STRATEGY_COLUMN
from caligo_surrogate.acquisition.sweep import Sweep
from caligo_surrogate.escalation import UnsoundError
from caligo_surrogate.posterior import Posterior

ITERATIONS: Final = 2
"""L-BFGS-B iterations of an ascent: the harder a straddle is optimised, the worse the batch (decision 9)."""
LINE_SEARCH: Final = 4
"""Values that an iteration may take; at its kink the straddle would have twenty."""
_TINY: Final = 1e-12
"""Keeps the gradient of a square root finite at zero."""


class Straddle(AcquisitionFunction):
    """The straddle of a batch: sum over i of `weight sd_i - |mean_i - level|`.

    sd_i is the posterior standard deviation of point i after the noisy runs of the points before it, that is
    sqrt(L_ii^2 - noise_i) with L the Cholesky factor of the batch's posterior covariance plus noise: what one gets by
    choosing point after point, optimised over all points at once. With q = 1 it is the straddle.
    """

    def __init__(self, posterior: Posterior, level: float, weight: float) -> None:
        """Args:
        level: the level set's value in the posterior's unit.
        weight: of the standard deviation.
        """
        super().__init__(posterior)
        self.seen = posterior
        self.level = level
        self.weight = weight

    @t_batch_mode_transform()  # type: ignore[arg-type]  # its hint wants the base class itself
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, q, 9]."""
        mean, covariance = self.seen.joint(X)
        noise = self.seen.process(X).noise.detach()
        pivots = torch.linalg.cholesky(covariance + torch.diag_embed(noise)).diagonal(dim1=-2, dim2=-1).square()
        deviation = (pivots - noise).clamp_min(_TINY).sqrt()
        return (self.weight * deviation - (mean - self.level).abs()).sum(-1)


class Greedy:
    """The straddle of every point of a sweep, with a weight for each point of the batch."""

    def __init__(self, posterior: Posterior, sweep: Sweep, level: float, weights: NDArray[np.float64]) -> None:
        self._posterior = posterior
        self._points = sweep.points
        self._distance = (sweep.moments.mean - level).abs()
        self._weights = weights
        self._taken: list[torch.Tensor] = []

    def values(self, number: int, variance: torch.Tensor) -> torch.Tensor:
        """[m], of each point as the next one."""
        return float(self._weights[number]) * variance.sqrt() - self._distance

    def column(self, chosen: int) -> torch.Tensor:
        """Present covariance of every point with one of them, [m]."""
        column = self._posterior.between(self._points, self._points[chosen : chosen + 1]).squeeze(-1)
        for off in self._taken:
            column = column - off * off[chosen]
        return column.to(self._points.dtype)

    def believe(self, off: torch.Tensor) -> None:
        """Take off off', off [m], off the covariances."""
        self._taken.append(off)


def randomized_weights(n: int, seed: int) -> NDArray[np.float64]:
    """Weights of n straddles, roots of draws from the chi-squared distribution with two degrees of freedom, falling.

    Inatsu, Takeno, Kutsukake and Takeuchi, "Active learning for level set estimation using randomized straddle
    algorithms" (arXiv:2408.03144).
    """
    return np.sort(np.sqrt(np.random.default_rng(seed).chisquare(2, n)))[::-1]


def ascended(posterior: Posterior, batch: torch.Tensor, box: torch.Tensor, level: float, weight: float) -> torch.Tensor:
    """The batch [q, 9] after an ascent of its straddle over all points at once, strategies as they are.

    Raises:
        UnsoundError: the straddle is not finite.
    """
    value = Straddle(posterior, level, weight)
    start = batch.unsqueeze(0)
    found, _ = optimize_acqf(
        value,
        box,
        len(batch),
        num_restarts=1,
        batch_initial_conditions=start,
        fixed_features={STRATEGY_COLUMN: start[..., STRATEGY_COLUMN]},
        options={"maxiter": ITERATIONS, "maxls": LINE_SEARCH},
        return_best_only=True,
        retry_on_optimization_warning=False,
    )
    with torch.no_grad():
        both = torch.stack([batch, found])
        values = value(both)
    if not bool(values.isfinite().all()):
        raise UnsoundError(f"acquisition values {values.tolist()}")
    return both[values.argmax()]
