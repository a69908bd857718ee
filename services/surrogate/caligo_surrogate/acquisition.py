"""Where to look next: the straddle at the cliff, for one point and for a joint batch.

The straddle of Bryan, Nichol, Genovese, Schneider, Miller and Wasserman ("Active learning for identifying function
level boundaries", NIPS 2005): `1.96 sd(x) - |mean(x) - level|`, large where the level set may pass and little is
known.
"""

from __future__ import annotations

from typing import Final

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf
from botorch.utils.transforms import t_batch_mode_transform
from torch.quasirandom import SobolEngine

from caligo.space import STRATEGY_COLUMN, Space, Strategy
from caligo_surrogate.gp import EfficiencyGP
from caligo_surrogate.solvers import Numerics, UnsoundError

STARTS: Final = 4
"""Joint optimisations, each from the best batch of a Sobol sweep of its own."""
SWEEP: Final = 512
"""Candidates a sweep."""
ITERATIONS: Final = 2
"""L-BFGS-B iterations. The straddle's maxima lie on edges and corners of the box, where the standard deviation is
greatest and little of the volume is, so the last of an ascent costs more than it brings: on the closed-form margin of
the `cliff` space, 150 Latin hypercube rows and then batches of 8 up to 300 rows, 3 seeds, the mean Brier score of
"key" was 0.0426 with 2 iterations, 0.0440 with 5, 0.0476 with 40, and 0.0492 for a Latin hypercube of 300."""
_TINY: Final = 1e-12
"""Keeps the gradient of a square root finite at zero."""


class Straddle(AcquisitionFunction):
    """The straddle of single points, analytic and differentiable."""

    def __init__(self, model: EfficiencyGP, level: float, weight: float) -> None:
        """Args:
        level: the level set's value in the model's units.
        weight: of the standard deviation; Bryan et al. take 1.96.
        """
        super().__init__(model)
        self.gp = model
        self.level = level
        self.weight = weight

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]  # its hint wants the base class itself
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, 1, 9]."""
        posterior = self.gp.posterior(X)
        mean = posterior.mean[..., 0, 0]
        variance = posterior.variance[..., 0, 0]
        return self.weight * variance.clamp_min(_TINY).sqrt() - (mean - self.level).abs()


class JointStraddle(AcquisitionFunction):
    """The straddle of a batch: sum over i of `weight sd_i - |mean_i - level|`.

    sd_i is the posterior standard deviation of point i after the noisy runs of the points before it, that is
    sqrt(L_ii^2 - noise) with L the Cholesky factor of the batch's posterior covariance plus noise. A Gaussian
    process's variances do not depend on outcomes, so this is exact, without sampling, and it is what one gets by
    choosing point after point, optimised over all points at once: two points that would tell the same count once.
    The other joint form, the expectation of the batch's greatest straddle over posterior samples, rewards a batch for
    its single best point and leaves the rest idle; in trials it found the cliff later than a Latin hypercube did.
    With q = 1 the value is that of `Straddle`.
    """

    def __init__(self, model: EfficiencyGP, level: float, weight: float) -> None:
        """Arguments as for `Straddle`; pending points are rows of the model (`believe`)."""
        super().__init__(model)
        self.gp = model
        self.level = level
        self.weight = weight

    @t_batch_mode_transform()  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, q, 9]."""
        distribution = self.gp.posterior(X).distribution
        noise = self.gp.noise
        q = X.shape[-2]
        covariance = distribution.covariance_matrix + noise * torch.eye(q, dtype=X.dtype, device=X.device)
        diagonal = torch.linalg.cholesky(covariance).diagonal(dim1=-2, dim2=-1)
        deviation = (diagonal.square() - noise).clamp_min(_TINY).sqrt()
        return (self.weight * deviation - (distribution.mean - self.level).abs()).sum(-1)


def search_box(space: Space, like: torch.Tensor) -> torch.Tensor:
    """Bounds [2, 9] of the search in unit coordinates; parameters that the space fixes have no width."""
    low, high = space.model_bounds()
    box = torch.zeros(2, len(low), dtype=like.dtype, device=like.device)
    box[1] = torch.as_tensor(high > low)
    box[0, STRATEGY_COLUMN] = float(space.blind_fraction == 1)
    box[1, STRATEGY_COLUMN] = float(space.blind_fraction > 0)
    return box


def propose(gp: EfficiencyGP, box: torch.Tensor, size: int, level: float, weight: float, seed: int) -> torch.Tensor:
    """The joint batch with the greatest straddle, unit coordinates [size, 9].

    A scrambled Sobol sequence is cut into sweeps; the best batch of each, chosen point after point, starts a joint
    ascent over all continuous coordinates at once (`optimize_acqf`, analytic gradients). A point's strategy is that of
    its Sobol point during the ascent; afterwards strategies are exchanged one by one while that helps.

    Args:
        gp: conditioned on the rows and on what is pending.
        box: bounds from `search_box`.
        level, weight: as for `Straddle`, in the model's units.
        seed: of the Sobol sequence's scrambling.

    Raises:
        UnsoundError: the model's numbers cannot be right.
    """
    acquisition = Straddle(gp, level, weight) if size == 1 else JointStraddle(gp, level, weight)
    sobol = SobolEngine(box.shape[-1], scramble=True, seed=seed)
    starts = torch.stack(
        [_best_of_sweep(gp, _sweep(sobol, max(SWEEP, 4 * size), box), size, level, weight) for _ in range(STARTS)]
    )
    ascended, _ = optimize_acqf(
        acquisition,
        box,
        size,
        num_restarts=STARTS,
        batch_initial_conditions=starts,
        fixed_features={STRATEGY_COLUMN: starts[..., STRATEGY_COLUMN]},
        options={"maxiter": ITERATIONS},
        return_best_only=False,
        retry_on_optimization_warning=False,
    )
    batches = torch.cat([starts, ascended])
    with torch.no_grad():
        values = acquisition(batches)
        if not bool(values.isfinite().all()):
            raise UnsoundError(f"acquisition values {values.tolist()}")
        best = batches[values.argmax()]
        if bool(box[0, STRATEGY_COLUMN] < box[1, STRATEGY_COLUMN]):
            best = _exchange_strategies(acquisition, best, values.max())
    return best


def believe(gp: EfficiencyGP, pending: torch.Tensor, numerics: Numerics) -> EfficiencyGP:
    """The process with the pending points [m, 9] as rows at their posterior means.

    The mean stays what it was and the variance falls as it will when the runs come back, whatever they say.
    """
    with torch.no_grad():
        expected = gp.posterior(pending).mean.squeeze(-1)
    return gp.conditioned(torch.cat([gp.inputs, pending]), torch.cat([gp.targets, expected]), numerics)


def _sweep(sobol: SobolEngine, n: int, box: torch.Tensor) -> torch.Tensor:
    points = sobol.draw(n, dtype=torch.float32).to(box.device)
    points[:, STRATEGY_COLUMN] = (points[:, STRATEGY_COLUMN] >= 0.5).to(points.dtype)
    return torch.minimum(torch.maximum(box[0] + points * (box[1] - box[0]), box[0]), box[1])


def _best_of_sweep(gp: EfficiencyGP, candidates: torch.Tensor, size: int, level: float, weight: float) -> torch.Tensor:
    """The `size` candidates that a greedy ascent of the joint straddle takes: a pivoted Cholesky factorisation."""
    with torch.no_grad():
        distribution = gp.posterior(candidates).distribution
        covariance = distribution.covariance_matrix
        distance = (distribution.mean - level).abs()
        variance = covariance.diagonal().clone()
        factor = torch.zeros(size, len(candidates), dtype=covariance.dtype, device=covariance.device)
        chosen: list[int] = []
        for i in range(size):
            value = weight * variance.clamp_min(0).sqrt() - distance
            value[chosen] = -torch.inf
            pivot = int(value.argmax())
            chosen.append(pivot)
            column = covariance[pivot] - factor[:i, pivot] @ factor[:i]
            factor[i] = column / (variance[pivot].clamp_min(0) + gp.noise).sqrt()
            variance = variance - factor[i].square()
    return candidates[chosen]


def _exchange_strategies(acquisition: AcquisitionFunction, batch: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    everyone = torch.arange(len(batch), device=batch.device)
    for _ in range(len(batch)):
        flipped = batch.repeat(len(batch), 1, 1)
        flipped[everyone, everyone, STRATEGY_COLUMN] = Strategy.BLIND - batch[:, STRATEGY_COLUMN]
        values = acquisition(flipped)
        if not bool(values.max() > value):
            break
        batch, value = flipped[values.argmax()], values.max()
    return batch
