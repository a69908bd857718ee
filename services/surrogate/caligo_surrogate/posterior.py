"""What the process expects at new rows, given the rows seen: exact by a Cholesky factor, or by conjugate gradients.

Both are kept between calls and extended by new rows. Both know pending rows as rows at their own posterior mean, which
leaves the mean as it is: their weights are 0, and only variances change.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator

from caligo import logs
from caligo_surrogate import cg
from caligo_surrogate.cg import Nystrom, Preconditioner, UnsoundError
from caligo_surrogate.kernel import KernelMatrix, Matern
from caligo_surrogate.solvers import Numerics, Plan, Solver

log = logs.get("surrogate.posterior")

NEIGHBOURS: Final = 256
"""Nearest rows that decide the variance of a candidate where there is no factor."""
RIGHT_HAND_SIDES: Final = 64
"""Variances solved for at once."""


class Posterior(Model):
    """Posterior of f over unit coordinates, float32, in units of the standardised target; noise is not part of it.

    Attributes:
        matrix: K + noise I of every row it is conditioned on, pending ones included.
        constant: the prior mean.
        weights: float64 [n, 1] K^-1 (y - constant), 0 for pending rows.
    """

    def __init__(
        self,
        matrix: KernelMatrix,
        targets: torch.Tensor,
        constant: float,
        weights: torch.Tensor,
        plan: Plan,
        numerics: Numerics,
    ) -> None:
        super().__init__()
        self.matrix = matrix
        self.targets = targets
        self.constant = constant
        self.weights = weights
        self.plan = plan
        self.numerics = numerics

    # --- what acquisition functions see ---------------------------------------------------------------------------

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size()

    @property
    def noise(self) -> float:
        """Variance of the noise of one run."""
        return self.matrix.noise

    @property
    def prior_variance(self) -> float:
        return self.matrix.matern.variance

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Posterior mean [..., n] at x [..., n, 9], differentiable, in the plan's precision: for choosing, not for
        reporting."""
        precise = self._precise(x)
        k = self.matrix.matern(precise, self.matrix.inputs.to(precise.dtype))
        return self.constant + (k @ self.weights.to(precise.dtype)).squeeze(-1).to(x.dtype)

    def _precise(self, x: torch.Tensor) -> torch.Tensor:
        """Rows in the precision that the plan needs: float64 where they lie too close for float32."""
        return x.to(torch.promote_types(x.dtype, self.plan.precision))

    @abstractmethod
    def marginal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and variance [..., n] of each row of x [..., n, 9] by itself, differentiable."""

    @abstractmethod
    def joint(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean [..., q] and covariance [..., q, q] at x [..., q, 9], differentiable."""

    def posterior(self, X: torch.Tensor, *args: Any, **kwargs: Any) -> GPyTorchPosterior:
        """Joint posterior at X [..., q, 9], as BoTorch's acquisition functions ask for it."""
        mean, covariance = self.joint(X)
        # As an operator: a plain tensor has to be positive definite at once, an operator gets the jitter that it needs.
        return GPyTorchPosterior(MultivariateNormal(mean, to_linear_operator(covariance)))

    # --- what people see ------------------------------------------------------------------------------------------

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and variance of each row of x [n, 9], float32 [n] each: as exact as float32 input allows.

        Raises:
            UnsoundError: a NaN, a variance that is negative beyond rounding, or a tolerance that was not reached.
        """
        with torch.no_grad():
            mean = self.constant + self.matrix.cross(x, self.weights).squeeze(-1)
            variance = self._variance(x)
        lowest = float(variance.min()) if len(variance) else 0.0
        if not bool(mean.isfinite().all()) or not lowest >= -self.numerics.variance_slack * self.prior_variance:
            spread = f"mean in [{mean.min():g}, {mean.max():g}]"
            raise UnsoundError(f"{spread}, least variance {lowest:g}, prior variance {self.prior_variance:g}")
        return mean.float(), variance.clamp_min(0).float()

    @abstractmethod
    def _variance(self, x: torch.Tensor) -> torch.Tensor:
        """Variance of each row of x [n, 9], [n]."""

    @abstractmethod
    def covariance(self, x: torch.Tensor) -> torch.Tensor:
        """Posterior covariance of rows x [n, 9], float32 [n, n], as exact as `moments`."""

    @abstractmethod
    def bytes_held(self) -> int:
        """Memory of what is kept."""

    def bytes_per_row(self) -> int:
        """Memory that a row takes at the peak of `mean` or `moments`: its covariances, with temporaries."""
        return 8 * 6 * len(self.matrix)

    # --- rows -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def extended(self, inputs: torch.Tensor, targets: torch.Tensor) -> Self:
        """Conditioned on more rows, float32 [m, 9] and [m]; the work done for the present ones is used again."""

    @abstractmethod
    def believe(self, pending: torch.Tensor) -> Self:
        """Conditioned on rows [m, 9] that are under way, at their posterior means."""


def condition(
    matern: Matern,
    noise: float,
    constant: float,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    solver: Solver,
    plan: Plan,
    seed: int,
) -> Posterior:
    """The process with these hyper-parameters, given rows.

    Args:
        noise: as learned; raised to what float32 needs for as many rows.
        inputs: float32 [n, 9], unit coordinates.
        targets: float32 [n], standardised.
        plan: one of `solver.posterior(n)`.
        seed: draws the rows of the preconditioner.

    Raises:
        UnsoundError: the plan does not do for these rows.
    """
    numerics = solver.numerics
    noise = numerics.noise_for(noise, len(inputs))
    matrix = KernelMatrix.of(matern, noise, inputs, solver.kernel(len(inputs), matrices=1))
    if plan.method == "cholesky":
        factor = Factor.of(matrix, plan)
        weights = _weights(matrix, targets, constant, plan, numerics, factor)
        return FactorPosterior(matrix, targets, constant, weights, plan, numerics, factor)
    preconditioner = Nystrom.of(matern, noise, inputs, numerics.nystrom_rank * plan.stronger, seed)
    weights = _weights(matrix, targets, constant, plan, numerics, preconditioner)
    return IterativePosterior(matrix, targets, constant, weights, plan, numerics, preconditioner)


def _weights(
    matrix: KernelMatrix,
    targets: torch.Tensor,
    constant: float,
    plan: Plan,
    numerics: Numerics,
    preconditioner: Preconditioner,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    b = (targets.double() - constant).unsqueeze(-1)
    allowed = numerics.mean_tolerance**2 / matrix.matern.variance
    iterations = numerics.refinements if plan.method == "cholesky" else numerics.cg_iterations * plan.stronger
    solution = cg.solve(matrix, b, preconditioner, allowed, iterations, start, plan.precision)
    log.debug("weights found", rows=len(matrix), products=solution.products, error=float(solution.error))
    return solution.x


@dataclass(frozen=True)
class Factor:
    """Cholesky factor [[L, 0], [W', T]] of K + noise I; the rows of the last two came later."""

    base: torch.Tensor
    coupling: torch.Tensor
    tail: torch.Tensor

    @classmethod
    def of(cls, matrix: KernelMatrix, plan: Plan) -> Factor:
        """Factorise.

        Raises:
            UnsoundError: not positive definite in the plan's precision, even with the diagonal raised by its jitter.
        """
        inputs = matrix.inputs.to(plan.precision)
        k = matrix.matern(inputs, inputs)
        k.diagonal().add_(matrix.noise)
        for added in (0.0, plan.jitter):
            k.diagonal().add_(added * matrix.matern.variance)
            base, failed = torch.linalg.cholesky_ex(k)
            if not int(failed):
                return cls(base, k.new_zeros(len(k), 0), k.new_zeros(0, 0))
        raise UnsoundError(f"{len(k)} rows: not positive definite in {plan.precision} with jitter {plan.jitter:g}")

    def extended(self, cross: torch.Tensor, corner: torch.Tensor) -> Factor:
        """With m more rows: their covariances with the present ones [n, m] and with each other plus noise [m, m].

        Raises:
            UnsoundError: not positive definite.
        """
        v = self.forward(cross)
        n0 = len(self.base)
        tail, failed = torch.linalg.cholesky_ex(corner - v.mT @ v)
        if int(failed):
            raise UnsoundError(f"{len(corner)} more rows: not positive definite")
        m0, m = len(self.tail), len(tail)
        whole = tail.new_zeros(m0 + m, m0 + m)
        whole[:m0, :m0], whole[m0:, :m0], whole[m0:, m0:] = self.tail, v[n0:].mT, tail
        return Factor(self.base, torch.cat([self.coupling, v[:n0]], dim=1), whole)

    def forward(self, b: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """L^-1 b of columns [n, k], in the higher precision of the two.

        Args:
            known: its first rows, as the factor gave them before it was extended.
        """
        n0 = len(self.base)
        dtype = torch.promote_types(b.dtype, self.base.dtype)
        base, coupling, tail, b = (t.to(dtype) for t in (self.base, self.coupling, self.tail, b))
        first = torch.linalg.solve_triangular(base, b[:n0], upper=False) if known is None else known
        if len(first) == len(b):
            return first
        old = len(first) - n0
        rest = b[n0 + old :] - coupling[:, old:].mT @ first[:n0] - tail[old:, :old] @ first[n0:]
        return torch.cat([first, torch.linalg.solve_triangular(tail[old:, old:], rest, upper=False)])

    def solve(self, v: torch.Tensor) -> torch.Tensor:
        """(L L')^-1 v of float64 vectors [n, k], in the factor's own precision: a preconditioner next to exact."""
        n0 = len(self.base)
        u = self.forward(v.to(self.base.dtype))
        last = torch.linalg.solve_triangular(self.tail.mT, u[n0:], upper=True)
        first = torch.linalg.solve_triangular(self.base.mT, u[:n0] - self.coupling @ last, upper=True)
        return torch.cat([first, last]).double()


class FactorPosterior(Posterior):
    """By a Cholesky factor, the weights refined with float64 residuals."""

    def __init__(
        self,
        matrix: KernelMatrix,
        targets: torch.Tensor,
        constant: float,
        weights: torch.Tensor,
        plan: Plan,
        numerics: Numerics,
        factor: Factor,
    ) -> None:
        super().__init__(matrix, targets, constant, weights, plan, numerics)
        self.factor = factor

    def whitened_again(self, x: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """`whitened` of x [q, 9], where `known` is what it was before more rows were believed."""
        x = self._precise(x)
        return self.factor.forward(self.matrix.matern(self.matrix.inputs.to(x.dtype), x), known)

    def whitened(self, x: torch.Tensor) -> torch.Tensor:
        """L^-1 k(X, x), [..., n, q] at x [..., q, 9]."""
        flat = self._precise(x).reshape(-1, x.shape[-1])
        v = self.factor.forward(self.matrix.matern(self.matrix.inputs.to(flat.dtype), flat))
        return v.reshape(len(v), *x.shape[:-1]).movedim(0, -2)

    def marginal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(x), self._variance(x).to(x.dtype)

    def joint(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v, precise = self.whitened(x), self._precise(x)
        return self.mean(x), (self.matrix.matern(precise, precise) - v.mT @ v).to(x.dtype)

    def _variance(self, x: torch.Tensor) -> torch.Tensor:
        return self.prior_variance - self.whitened(x).square().sum(-2)

    def covariance(self, x: torch.Tensor) -> torch.Tensor:
        return self.joint(x)[1]

    def bytes_held(self) -> int:
        return self.factor.base.nbytes + self.factor.coupling.nbytes + self.matrix.bytes_held()

    def extended(self, inputs: torch.Tensor, targets: torch.Tensor) -> FactorPosterior:
        matrix, factor = self.matrix.extended(inputs), self._extended_factor(inputs)
        every = torch.cat([self.targets, targets])
        start = _padded(self.weights, len(inputs))
        weights = _weights(matrix, every, self.constant, self.plan, self.numerics, factor, start)
        return FactorPosterior(matrix, every, self.constant, weights, self.plan, self.numerics, factor)

    def believe(self, pending: torch.Tensor) -> FactorPosterior:
        matrix, factor = self.matrix.extended(pending), self._extended_factor(pending)
        targets = torch.cat([self.targets, self.mean(pending).detach()])
        weights = _padded(self.weights, len(pending))
        return FactorPosterior(matrix, targets, self.constant, weights, self.plan, self.numerics, factor)

    def _extended_factor(self, inputs: torch.Tensor) -> Factor:
        matern, inputs = self.matrix.matern, self._precise(inputs)
        corner = matern(inputs, inputs)
        corner.diagonal().add_(self.noise)
        return self.factor.extended(matern(self.matrix.inputs.to(inputs.dtype), inputs), corner)


class IterativePosterior(Posterior):
    """By conjugate gradients with a Nystrom preconditioner, for more rows than can be factorised.

    Means are exact to `Numerics.mean_tolerance`. For choosing, variances are conditioned on the nearest rows alone
    (never too small; about 5 to 15 % too large at 4,000 rows); for reporting they are solved for, one system a row.
    """

    def __init__(
        self,
        matrix: KernelMatrix,
        targets: torch.Tensor,
        constant: float,
        weights: torch.Tensor,
        plan: Plan,
        numerics: Numerics,
        preconditioner: Nystrom,
    ) -> None:
        super().__init__(matrix, targets, constant, weights, plan, numerics)
        self.preconditioner = preconditioner

    def marginal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(x), self._local_covariance(x.unsqueeze(-2)).squeeze(-1).squeeze(-1)

    def joint(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(x), self._local_covariance(x)

    def _local_covariance(self, x: torch.Tensor) -> torch.Tensor:
        """Covariance [..., q, q] at x [..., q, 9] given the rows nearest to each of the q."""
        matern, q = self.matrix.matern, x.shape[-2]
        inputs = self.matrix.inputs.to(x.dtype)
        with torch.no_grad():
            apart = torch.cdist(matern.scaled(x).reshape(-1, x.shape[-1]), matern.scaled(inputs))
            each = min(len(inputs), max(16, NEIGHBOURS // q))
            nearest = apart.topk(each, largest=False).indices.reshape(*x.shape[:-2], q * each)
            near = inputs[nearest]
            k_near = matern(near, near)
            # A row that is near two of the q would make the matrix singular but for the noise; it counts as two runs.
            # Its noise is raised by the number of times that it is there, so that together they are the one run.
            times = (nearest.unsqueeze(-1) == nearest.unsqueeze(-2)).sum(-1)
            factor = torch.linalg.cholesky(k_near + torch.diag_embed(self.noise * times.to(x.dtype)))
        k = matern(near, x)
        v = torch.linalg.solve_triangular(factor, k, upper=False)
        return matern(x, x) - v.mT @ v

    def _variance(self, x: torch.Tensor) -> torch.Tensor:
        pieces = []
        for part in x.split(RIGHT_HAND_SIDES):
            k, solution = self._solved(part)
            # 2 k'x - x'Kx, whose error is of second order and never flatters.
            pieces.append(self.prior_variance - (solution.x * (k + solution.residual)).sum(0))
        return torch.cat(pieces)

    def covariance(self, x: torch.Tensor) -> torch.Tensor:
        every = self.matrix.matern(self.matrix.inputs.double(), x.double())
        columns = [every.mT @ self._solved(part)[1].x for part in x.split(RIGHT_HAND_SIDES)]
        explained = torch.cat(columns, dim=1)
        return (self.matrix.matern(x.double(), x.double()) - (explained + explained.mT) / 2).float()

    def _solved(self, x: torch.Tensor) -> tuple[torch.Tensor, cg.Solution]:
        """Covariances with rows x, float64 [n, k], and the solution of the systems that they make."""
        k = self.matrix.matern(self.matrix.inputs.double(), x.double())
        allowed = self.numerics.variance_tolerance * self.noise
        return k, cg.solve(
            self.matrix, k, self.preconditioner, allowed, self.numerics.cg_iterations * self.plan.stronger
        )

    def bytes_held(self) -> int:
        return self.preconditioner.a.nbytes + self.matrix.bytes_held()

    def extended(self, inputs: torch.Tensor, targets: torch.Tensor) -> IterativePosterior:
        matrix, preconditioner = self.matrix.extended(inputs), self.preconditioner.extended(inputs)
        every = torch.cat([self.targets, targets])
        start = _padded(self.weights, len(inputs))
        weights = _weights(matrix, every, self.constant, self.plan, self.numerics, preconditioner, start)
        return IterativePosterior(matrix, every, self.constant, weights, self.plan, self.numerics, preconditioner)

    def believe(self, pending: torch.Tensor) -> IterativePosterior:
        matrix, preconditioner = self.matrix.extended(pending), self.preconditioner.extended(pending)
        targets = torch.cat([self.targets, self.mean(pending).detach()])
        weights = _padded(self.weights, len(pending))
        return IterativePosterior(matrix, targets, self.constant, weights, self.plan, self.numerics, preconditioner)


def _padded(weights: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([weights, weights.new_zeros(rows, 1)])
