"""Where to look next: rules that choose a batch of runs to find where the target crosses a level.

All work on a `Posterior` and on unit coordinates, and all know rows under way as rows of the posterior (`believe`): a
Gaussian process's variances do not depend on outcomes, so what a batch will tell is known before it is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.optim import optimize_acqf
from botorch.utils.sampling import draw_sobol_normal_samples
from botorch.utils.transforms import concatenate_pending_points, t_batch_mode_transform

from caligo import logs
from caligo.space import STRATEGY_COLUMN, Space, Strategy
from caligo.spec import BatchRule
from caligo_surrogate.cg import UnsoundError
from caligo_surrogate.posterior import FactorPosterior, Posterior

log = logs.get("surrogate.acquisition")

RULE_WITHOUT_FACTOR: Final[BatchRule] = "randomized_straddle"
"""Taken instead of a rule that integrates, where a posterior has no factor: its covariances are not good enough."""
SWEEP: Final = 2048
"""Points of a sweep that do for nine dimensions."""
STARTS: Final = 2
"""Ascents for each point, or each batch, from the best of the sweep."""
ITERATIONS: Final = 2
"""L-BFGS-B iterations of an ascent."""
LINE_SEARCH: Final = 4
"""Values that an iteration may take; at its kink the straddle would have twenty."""
REFRESHED: Final = 64
"""Points of the sweep valued again at once."""
INTEGRATION_POINTS: Final = 256
"""Points of the sweep, those of the greatest weight, that integrals go over."""
SAMPLES: Final = 128
"""Posterior samples of `qStraddle`."""
_PIECE: Final = 256
"""Points of a sweep valued at once."""
_GAUSS_LEGENDRE: Final = ((0.5 - math.sqrt(0.15), 5 / 18), (0.5, 8 / 18), (0.5 + math.sqrt(0.15), 5 / 18))
"""Nodes and weights on [0, 1]; exact enough for 2 T to 4e-5 on [0, 1] and far better on what a run takes off."""
_TINY: Final = 1e-12
"""Keeps the gradient of a square root finite at zero."""

Seen = TypeVar("Seen", bound=Posterior)


class Straddle(AcquisitionFunction):
    """`weight sd(x) - |mean(x) - level|`, large where the level set may pass and little is known.

    Bryan, Nichol, Genovese, Schneider, Miller and Wasserman, "Active learning for identifying function level
    boundaries" (NIPS 2005); they take the weight 1.96.
    """

    def __init__(self, posterior: Posterior, level: float, weight: float) -> None:
        """Args:
        level: the level set's value in the posterior's units.
        weight: of the standard deviation.
        """
        super().__init__(posterior)
        self.seen = posterior
        self.level = level
        self.weight = weight

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]  # its hint wants the base class itself
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, 1, 9]."""
        mean, variance = self.seen.marginal(X.squeeze(-2))
        return self.weight * variance.clamp_min(_TINY).sqrt() - (mean - self.level).abs()


class JointStraddle(Straddle):
    """The straddle of a batch: sum over i of `weight sd_i - |mean_i - level|`.

    sd_i is the posterior standard deviation of point i after the noisy runs of the points before it, that is
    sqrt(L_ii^2 - noise) with L the Cholesky factor of the batch's posterior covariance plus noise: what one gets by
    choosing point after point, optimised over all points at once. With q = 1 it is `Straddle`.
    """

    @t_batch_mode_transform()  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, q, 9]."""
        mean, covariance = self.seen.joint(X)
        noisy = covariance + self.seen.noise * torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)
        pivots = torch.linalg.cholesky(noisy).diagonal(dim1=-2, dim2=-1).square()
        deviation = (pivots - self.seen.noise).clamp_min(_TINY).sqrt()
        return (self.weight * deviation - (mean - self.level).abs()).sum(-1)


class qStraddle(AcquisitionFunction):  # noqa: N801  # BoTorch names its Monte-Carlo functions so
    """The expectation of the batch's greatest straddle, E max_i (weight sqrt(pi/2) |f_i - mean_i| - |mean_i - level|).

    The form that Wilson, Hutter and Deisenroth give an upper confidence bound ("Maximizing acquisition functions for
    Bayesian optimization", NeurIPS 2018): E |f_i - mean_i| = sqrt(2/pi) sd_i, so that with q = 1 it is `Straddle`.
    Points under way can also be made part of every batch (`set_X_pending`).
    """

    def __init__(self, posterior: Posterior, level: float, weight: float, seed: int, samples: int = SAMPLES) -> None:
        """Arguments as for `Straddle`, and the seed of the Sobol sequence behind the samples."""
        super().__init__(posterior)
        self.seen = posterior
        self.level = level
        self.weight = weight
        self.seed = seed
        self.samples = samples
        self.set_X_pending(None)

    @concatenate_pending_points
    @t_batch_mode_transform()  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, q, 9]."""
        mean, covariance = self.seen.joint(X)
        q = X.shape[-2]
        # GPyTorch's own sampling reads settings of the whole process, which a fit beside it changes.
        jitter = 1e-6 * self.seen.prior_variance * torch.eye(q, dtype=X.dtype, device=X.device)
        root = torch.linalg.cholesky(covariance + jitter)
        normal = draw_sobol_normal_samples(q, self.samples, device=X.device, dtype=X.dtype, seed=self.seed)
        spread = self.weight * math.sqrt(math.pi / 2) * (normal @ root.mT).abs()
        return (spread - (mean - self.level).abs().unsqueeze(-2)).amax(-1).mean(-1)


class Integral(AcquisitionFunction):
    """What a run at x takes off an integral over the space, where integrals are means over points u."""

    def __init__(
        self, posterior: FactorPosterior, level: float, points: torch.Tensor, before: Integral | None = None
    ) -> None:
        """Args:
        level: as for `Straddle`.
        points: u, [m, 9].
        before: the same integral before the posterior's last rows were believed; saves work.
        """
        super().__init__(posterior)
        self.seen = posterior
        self.level = level
        self.points = points
        if before is None:
            self.whitened, self.mean = posterior.whitened(points), posterior.mean(points)
        else:  # rows that are believed leave the mean as it is
            self.whitened, self.mean = posterior.whitened_again(points, before.whitened), before.mean
        self.variance = (posterior.prior_variance - self.whitened.square().sum(0)).clamp_min(_TINY).to(points.dtype)

    def off_variance(self, x: torch.Tensor) -> torch.Tensor:
        """What runs at x [b, 9], each by itself, take off the variance at every u: c(u, x)^2 / (v(x) + n), [b, m].

        c and v are posterior covariance and variance, n is the noise.
        """
        whitened = self.seen.whitened(x)
        covariance = self.seen.matrix.matern(x, self.points) - whitened.mT @ self.whitened
        variance = (self.seen.prior_variance - whitened.square().sum(0)).clamp_min(0) + self.seen.noise
        return (covariance.square() / variance.unsqueeze(-1)).to(x.dtype)


class TargetedError(Integral):
    """What a run takes off the targeted integrated mean-square error, the mean over u of W(u) v(u).

    W(u) is the posterior density of f(u) at the level: Picheny, Ginsbourger, Roustant, Haftka and Kim, "Adaptive
    designs of experiments for accurate approximation of a target region" (J. Mech. Des. 132, 2010), with the width of
    their target window let go to 0; Bect, Ginsbourger, Li, Picheny and Vazquez, "Sequential design of computer
    experiments for the estimation of a probability of failure" (Stat. Comput. 22, 2012).
    """

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, 1, 9]."""
        weights = level_density(self.mean, self.variance, self.level)
        return (weights * self.off_variance(X.squeeze(-2))).mean(-1)


class ExpectedBrier(Integral):
    """What a run is expected to take off the mean over u of p(u) (1 - p(u)), p the probability of a key.

    That mean is the Brier score that the posterior expects of itself. Its expectation after the run is
    P(y > level, y' <= level) for two runs y, y' at u that share what the run at x tells: normal, with correlation
    r = c(u, x)^2 / ((v(x) + n) (v(u) + n)). This is 2 T(z, a) with Owen's T, z = (mean(u) - level) / sqrt(v(u) + n),
    a = sqrt((1 - r) / (1 + r)), and what is taken off is 2 T(z, 1) - 2 T(z, a). Stepwise uncertainty reduction with
    the loss p (1 - p): Bect et al. (as for `TargetedError`), in closed form by Chevalier, Bect, Ginsbourger, Vazquez,
    Picheny and Richet, "Fast parallel kriging-based stepwise uncertainty reduction" (Technometrics 56, 2014).
    """

    @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Values [b] at X [b, 1, 9]."""
        variance = self.variance + self.seen.noise
        exponent = -0.5 * (self.mean - self.level).square() / variance
        r = self.off_variance(X.squeeze(-2)) / variance
        a = ((1 - r).clamp_min(_TINY) / (1 + r)).sqrt()
        # T(z, 1) - T(z, a), an integral over [a, 1], by Gauss-Legendre: a difference of two would be rounding.
        width = 2 * r / ((1 + r) * (1 + a))
        total = torch.zeros_like(a)
        for node, share in _GAUSS_LEGENDRE:
            t = 1 + (a + node * width).square()
            total = total + share * torch.exp(exponent * t) / t
        return (width * total).mean(-1) / math.pi


def level_density(mean: torch.Tensor, variance: torch.Tensor, level: float) -> torch.Tensor:
    """Density at `level` of normal variables."""
    sd = variance.clamp_min(_TINY).sqrt()
    return torch.exp(-0.5 * ((mean - level) / sd).square()) / (math.sqrt(2 * math.pi) * sd)


def search_box(space: Space, like: torch.Tensor) -> torch.Tensor:
    """Bounds [2, 9] of the search in unit coordinates; parameters that the space fixes have no width."""
    low, high = space.model_bounds()
    box = torch.zeros(2, len(low), dtype=like.dtype, device=like.device)
    box[1] = torch.as_tensor(high > low)
    box[0, STRATEGY_COLUMN] = float(space.blind_fraction == 1)
    box[1, STRATEGY_COLUMN] = float(space.blind_fraction > 0)
    return box


def propose(
    posterior: Posterior,
    box: torch.Tensor,
    sweep: torch.Tensor,
    size: int,
    rule: BatchRule,
    level: float,
    weight: float,
    seed: int,
) -> torch.Tensor:
    """A batch of points to run, unit coordinates float32 [size, 9], on the posterior's device.

    Args:
        posterior: given the rows and what is under way.
        box: bounds from `search_box`.
        sweep: float32 [m, 9], at least 256 points spread by the design's measure, strategies 0 or 1: ascents start
            from the best of them, and integrals go over them.
        rule: how a batch is valued; where the posterior cannot do it, `RULE_WITHOUT_FACTOR`.
        level, weight: as for `Straddle`, in the posterior's units.
        seed: of what a rule draws.

    Raises:
        UnsoundError: the posterior's numbers cannot be right.
    """
    sweep = sweep.clamp(box[0], box[1])
    if rule in ("timse", "sur"):
        if isinstance(posterior, FactorPosterior):
            kind = TargetedError if rule == "timse" else ExpectedBrier
            points = _decisive(posterior, sweep, level)
            last: Integral | None = None  # alone: each holds a posterior of its own

            def integral(now: FactorPosterior, _: int) -> Integral:
                nonlocal last
                last = kind(now, level, points, last)
                return last

            return _one_by_one(posterior, box, sweep, size, integral, ITERATIONS)
        log.info("no covariances without a factor", asked=rule, rule=RULE_WITHOUT_FACTOR, rows=len(posterior.matrix))
        rule = RULE_WITHOUT_FACTOR
    if rule == "straddle":
        return _one_by_one(posterior, box, sweep, size, lambda now, _: Straddle(now, level, weight), ITERATIONS)
    if rule == "randomized_straddle":
        weights = randomized_weights(size, seed)
        return _one_by_one(posterior, box, sweep, size, lambda now, i: Straddle(now, level, weights[i]), ITERATIONS)
    # Starts one point after another without an ascent, each from a part of the sweep.
    starts = [
        _one_by_one(posterior, box, sweep[part::STARTS], size, lambda now, _: Straddle(now, level, weight), 0)
        for part in range(STARTS)
    ]
    if rule == "joint_straddle":
        joint: AcquisitionFunction = JointStraddle(posterior, level, weight)
    else:
        joint = qStraddle(posterior, level, weight, seed)
    return _ascended(joint, box, torch.stack(starts), ITERATIONS)


def randomized_weights(n: int, seed: int) -> list[float]:
    """Weights of n straddles, roots of draws from the chi-squared distribution with two degrees of freedom, falling.

    Inatsu, Takeno, Kutsukake and Takeuchi, "Active learning for level set estimation using randomized straddle
    algorithms" (arXiv:2408.03144). That distribution is exponential with mean 2.
    """
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (-2 * torch.log1p(-uniform)).sqrt().sort(descending=True).values.tolist()


def _decisive(posterior: Posterior, sweep: torch.Tensor, level: float) -> torch.Tensor:
    """The points of the sweep, [INTEGRATION_POINTS, 9], with the greatest shares of the targeted error."""
    with torch.no_grad():
        mean, variance = (torch.cat(parts) for parts in zip(*map(posterior.marginal, sweep.split(_PIECE)), strict=True))
        share = variance * level_density(mean, variance, level)
        return sweep[share.topk(INTEGRATION_POINTS).indices]


def _one_by_one(
    posterior: Seen,
    box: torch.Tensor,
    sweep: torch.Tensor,
    size: int,
    acquire: Callable[[Seen, int], AcquisitionFunction],
    iterations: int,
) -> torch.Tensor:
    """Point after point [size, 9], each with the greatest value given those before it.

    Args:
        acquire: the value of the i-th point, given the posterior that believes those before it; not greater than that
            of the point before it.
    """
    values = sweep.new_empty(len(sweep))
    best = leading = torch.arange(len(sweep), device=sweep.device)
    batch: list[torch.Tensor] = []
    for i in range(size):
        acquisition = acquire(posterior, i)
        outdated = torch.ones_like(values, dtype=torch.bool)
        # Values fall as more is believed: a point whose old value is less than the best new ones is none of the best.
        while bool(outdated[best].any()):
            with torch.no_grad():
                for piece in leading.split(_PIECE):
                    values[piece] = acquisition(sweep[piece].unsqueeze(-2))
            outdated[leading] = False
            best, leading = values.topk(STARTS).indices, values.topk(REFRESHED).indices
        point = _ascended(acquisition, box, sweep[best].unsqueeze(-2), iterations)
        batch.append(point)
        posterior = posterior.believe(point)
        # Never first again: two equal points of a batch have no gradient apart.
        values[best[0]] = -torch.inf
        leading = values.topk(REFRESHED).indices
    return torch.cat(batch)


def _ascended(
    acquisition: AcquisitionFunction, box: torch.Tensor, starts: torch.Tensor, iterations: int
) -> torch.Tensor:
    """The best batch [q, 9] that ascents from `starts`, [b, q, 9], meet.

    An ascent goes over all continuous coordinates at once; strategies are those of the start, and in the end they are
    exchanged one by one while that helps.
    """
    batches = starts
    if iterations:
        ascended, _ = optimize_acqf(
            acquisition,
            box,
            starts.shape[-2],
            num_restarts=len(starts),
            batch_initial_conditions=starts,
            fixed_features={STRATEGY_COLUMN: starts[..., STRATEGY_COLUMN]},
            options={"maxiter": iterations, "maxls": LINE_SEARCH},
            return_best_only=False,
            retry_on_optimization_warning=False,
        )
        batches = torch.cat([starts, ascended])
    with torch.no_grad():
        values = acquisition(batches)
        if not bool(values.isfinite().all()):
            raise UnsoundError(f"acquisition values {values.tolist()}")
        best, value = batches[values.argmax()], values.max()
        if bool(box[0, STRATEGY_COLUMN] == box[1, STRATEGY_COLUMN]):
            return best
        everyone = torch.arange(len(best), device=best.device)
        for _ in range(len(best)):
            exchanged = best.repeat(len(best), 1, 1)
            exchanged[everyone, everyone, STRATEGY_COLUMN] = Strategy.BLIND - best[:, STRATEGY_COLUMN]
            values = acquisition(exchanged)
            if not bool(values.max() > value):
                break
            best, value = exchanged[values.argmax()], values.max()
        return best
