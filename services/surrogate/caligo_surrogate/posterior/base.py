"""The posterior: what the process expects of runs at new points, given the rows seen."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator

from caligo import logs
from caligo_surrogate.escalation import Numerics, Plan, UnsoundError
from caligo_surrogate.posterior import cg
from caligo_surrogate.posterior.cg import Preconditioner
from caligo_surrogate.posterior.kernel import KernelMatrix, Matern
from caligo_surrogate.prior import Known, Prior

log = logs.get("surrogate.posterior")

Inverse = TypeVar("Inverse", bound=Preconditioner)


@dataclass(frozen=True)
class Process:
    """The process before any row.

    Attributes:
        constant: added to the mean of the prior.
        noise: variance of the noise between runs, added to what the prior knows of it.
        least_noise: what float32 needs.
    """

    matern: Matern
    prior: Prior
    constant: float
    noise: float
    least_noise: float

    def __call__(self, x: torch.Tensor) -> Known:
        """Mean, noise and gate at x [..., 9]."""
        known = self.prior(x)
        return Known(known.mean + self.constant, (known.noise + self.noise).clamp_min(self.least_noise), known.gate)


class Moments(NamedTuple):
    """What is expected of a run at some points, one tensor of their shape each.

    Attributes:
        mean, variance: posterior of the target's mean over runs there.
        noise: variance of the target of one run around that.
        gate: probability that a run has a margin at all, and loses no frame.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    noise: torch.Tensor
    gate: torch.Tensor

    @property
    def spread(self) -> torch.Tensor:
        """Standard deviation of the target of one run, as far as anybody knows."""
        return (self.variance + self.noise).sqrt()

    def key(self, level: float) -> torch.Tensor:
        """Probability of a key: that a run gets through the gate and its target exceeds `level`."""
        return self.gate * torch.special.ndtr((self.mean - level) / self.spread)


class Posterior(Model, Generic[Inverse]):
    """Posterior over unit coordinates, float32, in units of the target.

    Two kinds: exact by a Cholesky factor, or by conjugate gradients. Both are kept between calls and extended by new
    rows. Both know pending rows as rows at their own posterior mean, which leaves the mean as it is: their weights are
    0, and only variances change.

    Attributes:
        process: what is known before any row.
        matrix: K + diag(noise) of every row it is conditioned on, pending ones included.
        residuals: float64 [n, 1], targets less the process's mean; what they are for pending rows makes no difference.
        weights: float64 [n, 1], K^-1 residuals, 0 for pending rows.
        inverse: what systems of the matrix are solved with.
    """

    def __init__(
        self,
        process: Process,
        matrix: KernelMatrix,
        residuals: torch.Tensor,
        weights: torch.Tensor,
        plan: Plan,
        numerics: Numerics,
        inverse: Inverse,
    ) -> None:
        super().__init__()
        self.process = process
        self.matrix = matrix
        self.residuals = residuals
        self.weights = weights
        self.plan = plan
        self.numerics = numerics
        self.inverse = inverse

    # --- what acquisition functions see ---------------------------------------------------------------------------

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    @property
    def prior_variance(self) -> float:
        return self.matrix.matern.variance

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Posterior mean [..., n] at x [..., n, 9], differentiable, in the plan's precision: for choosing, not for
        reporting."""
        return self.process(x).mean + self._learned(x)

    def _learned(self, x: torch.Tensor) -> torch.Tensor:
        """What the rows add to the mean, [..., n] at x [..., n, 9]."""
        precise = self._precise(x)
        k = self.matrix.matern(precise, self.matrix.inputs.to(precise.dtype))
        return (k @ self.weights.to(precise.dtype)).squeeze(-1).to(x.dtype)

    def _precise(self, x: torch.Tensor) -> torch.Tensor:
        """Rows in the precision that the plan needs: float64 where they lie too close for float32."""
        return x.to(torch.promote_types(x.dtype, self.plan.precision))

    def marginal(self, x: torch.Tensor) -> Moments:
        """Each row of x [..., n, 9] by itself, [..., n], differentiable."""
        known = self.process(x)
        return Moments(known.mean + self._learned(x), self._quick_variance(x), known.noise, known.gate)

    def central(self, x: torch.Tensor) -> Moments:
        """`marginal` with the variance left at 0: that is what costs."""
        known = self.process(x)
        mean = known.mean + self._learned(x)
        return Moments(mean, torch.zeros_like(mean), known.noise, known.gate)

    @abstractmethod
    def _quick_variance(self, x: torch.Tensor) -> torch.Tensor:
        """Variance of each row of x [..., n, 9], differentiable: for choosing."""

    @abstractmethod
    def between(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Posterior covariance [..., p, q] of a [..., p, 9] with b [..., q, 9], in the plan's precision: for
        choosing."""

    @abstractmethod
    def joint(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean [..., q] and covariance [..., q, q] at x [..., q, 9], differentiable."""

    def posterior(self, X: torch.Tensor, *args: Any, **kwargs: Any) -> GPyTorchPosterior:
        """Joint posterior at X [..., q, 9], as BoTorch's acquisition functions ask for it."""
        mean, covariance = self.joint(X)
        # As an operator: a plain tensor has to be positive definite at once, an operator gets the jitter that it needs.
        return GPyTorchPosterior(MultivariateNormal(mean, to_linear_operator(covariance)))

    # --- what people see ------------------------------------------------------------------------------------------

    def moments(self, x: torch.Tensor) -> Moments:
        """Each row of x [n, 9] by itself, float32 [n] each: as exact as float32 input allows.

        Raises:
            UnsoundError: a NaN, a variance that is negative beyond rounding, or a tolerance that was not reached.
        """
        with torch.no_grad():
            known = self.process(x)
            mean = known.mean + self.matrix.cross(x, self.weights).squeeze(-1)
            variance = self._variance(x)
        lowest = float(variance.min()) if len(variance) else 0.0
        if not bool(mean.isfinite().all()) or not lowest >= -self.numerics.variance_slack * self.prior_variance:
            spread = f"mean in [{mean.min():g}, {mean.max():g}]"
            raise UnsoundError(f"{spread}, least variance {lowest:g}, prior variance {self.prior_variance:g}")
        return Moments(mean.float(), variance.clamp_min(0).float(), known.noise.float(), known.gate.float())

    @abstractmethod
    def _variance(self, x: torch.Tensor) -> torch.Tensor:
        """Variance of each row of x [n, 9], [n]."""

    @abstractmethod
    def covariance(self, x: torch.Tensor) -> torch.Tensor:
        """Posterior covariance of rows x [n, 9], float32 [n, n], as exact as `moments`."""

    def deviations(self, covariance: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
        """Joint samples of the posterior less its mean, [n, s].

        Args:
            covariance: of the n points, [n, n], as `covariance` gives it.
            normal: standard normal numbers, [n, s].

        Raises:
            UnsoundError: they are not finite.
        """
        # By eigenvectors: rounding leaves the covariance of a thousand points slightly indefinite, and the jitter
        # that a Cholesky factor needs would be uncertainty of our own making.
        values, vectors = torch.linalg.eigh(covariance)
        found = vectors @ (values.clamp_min(0).sqrt()[:, None] * normal)
        if not bool(found.isfinite().all()):
            raise UnsoundError("posterior samples are not finite")
        return found

    @abstractmethod
    def bytes_held(self) -> int:
        """Memory of what is kept."""

    def bytes_per_row(self) -> int:
        """Memory that a row takes at the peak of `mean` or `moments`: its covariances, with temporaries."""
        return 8 * 6 * (1 + len(self.matrix))

    # --- rows -----------------------------------------------------------------------------------------------------

    def extended(self, inputs: torch.Tensor, targets: torch.Tensor) -> Self:
        """Conditioned on more rows, float32 [m, 9] and [m]; the work done for the present ones is used again."""
        known, matrix, inverse = self._with(inputs)
        residuals = torch.cat([self.residuals, (targets - known.mean).unsqueeze(-1)])
        start = padded(self.weights, len(matrix))
        weights = solved_weights(matrix, residuals, self.plan, self.numerics, inverse, start)
        return type(self)(self.process, matrix, residuals, weights, self.plan, self.numerics, inverse)

    def believe(self, pending: torch.Tensor) -> Self:
        """Conditioned on rows [m, 9] that are under way, at their posterior means."""
        _, matrix, inverse = self._with(pending)
        residuals, weights = padded(self.residuals, len(matrix)), padded(self.weights, len(matrix))
        return type(self)(self.process, matrix, residuals, weights, self.plan, self.numerics, inverse)

    def _with(self, inputs: torch.Tensor) -> tuple[Known, KernelMatrix, Inverse]:
        """What is known of more rows [m, 9], float64, and matrix and inverse with them."""
        with torch.no_grad():
            known = self.process(inputs.double())
        return known, self.matrix.extended(inputs, known.noise), self._inverse_with(inputs, known.noise)

    @abstractmethod
    def _inverse_with(self, inputs: torch.Tensor, noise: torch.Tensor) -> Inverse:
        """The inverse with more rows, float32 [m, 9], with noise, float64 [m]."""


def solved_weights(
    matrix: KernelMatrix,
    residuals: torch.Tensor,
    plan: Plan,
    numerics: Numerics,
    preconditioner: Preconditioner,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """K^-1 residuals, float64 [n, 1].

    Raises:
        UnsoundError: the tolerance was not reached.
    """
    allowed = numerics.mean_tolerance**2 / matrix.matern.variance
    iterations = numerics.refinements if plan.method == "cholesky" else numerics.cg_iterations * plan.stronger
    solution = cg.solve(matrix, residuals, preconditioner, allowed, iterations, start, plan.precision)
    log.debug("weights found", rows=len(matrix), products=solution.products, error=float(solution.error))
    return solution.x


def padded(vector: torch.Tensor, rows: int) -> torch.Tensor:
    """A vector [n, 1] with zeros for the rows that came later, [rows, 1]."""
    return torch.cat([vector, vector.new_zeros(rows - len(vector), 1)])
