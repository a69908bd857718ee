"""Preconditioned conjugate gradients that know how wrong they still are.

With a preconditioner P that is nowhere above the matrix (as a Nystrom approximation plus the same noise is, K - Q being
positive semi-definite), r' P^-1 r is an upper bound of r' K^-1 r = e' K e, the squared error in the matrix's own norm.
It bounds what matters of a posterior, so it is what decides when to stop:

* variance: k' K^-1 k - (2 k'x - x'Kx) = e' K e;
* mean: |k' e| <= sqrt(k' K^-1 k) sqrt(e' K e), and k' K^-1 k is at most the prior variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from caligo_surrogate.escalation import UnsoundError
from caligo_surrogate.posterior.kernel import KernelMatrix, Matern

REFINEMENTS: Final = 4
"""Rounds of conjugate gradients, each on the float64 residual that the last one left."""


class Preconditioner(Protocol):
    """A cheap stand-in for the inverse of K + diag(noise)."""

    def solve(self, v: torch.Tensor) -> torch.Tensor:
        """P^-1 v of vectors [n, k], float64 in and out."""


@dataclass(frozen=True)
class Nystrom:
    """P = A'A + D, A = L^-1 K(Z, X), L L' = K(Z, Z), D the noise: the Nystrom approximation on rows Z of X.

    Solved by Woodbury's identity. In float64: its greatest eigenvalues are 10^7 times the noise, where float32 leaves
    nothing of the difference. Frangella, Tropp and Udell, "Randomized Nystrom preconditioning" (SIAM J. Matrix Anal.
    Appl. 44, 2023) bound the iterations that it leaves.

    Attributes:
        factor: float64 [rank, rank], L.
        noise: float64 [n], the diagonal of D.
        a: float64 [rank, n].
        gram: float64 [rank, rank], I + A D^-1 A'.
        inner: its Cholesky factor.
    """

    matern: Matern
    landmarks: torch.Tensor
    factor: torch.Tensor
    noise: torch.Tensor
    a: torch.Tensor
    gram: torch.Tensor
    inner: torch.Tensor

    @classmethod
    def of(cls, matern: Matern, noise: torch.Tensor, inputs: torch.Tensor, rank: int, seed: int) -> Nystrom:
        """On `rank` rows of `inputs` [n, 9] (all of them, where there are fewer), drawn by `seed`; noise [n]."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(inputs), generator=generator)[:rank]
        landmarks = inputs[chosen.to(inputs.device)].double()
        k = matern(landmarks, landmarks)
        # Duplicate rows would leave nothing to divide by; P stays below K, since K(Z, Z) only grows.
        k.diagonal().add_(1e-7 * matern.variance)
        gram = torch.eye(len(landmarks), dtype=torch.float64, device=inputs.device)
        bare = cls(matern, landmarks, torch.linalg.cholesky(k), gram[0, :0], gram[:, :0], gram, gram)
        return bare.extended(inputs, noise)

    def extended(self, inputs: torch.Tensor, noise: torch.Tensor) -> Nystrom:
        """The same landmarks over more rows, float32 [m, 9], with noise, float64 [m]."""
        new = torch.linalg.solve_triangular(self.factor, self.matern(self.landmarks, inputs.double()), upper=False)
        gram = torch.addmm(self.gram, new / noise, new.mT)
        return Nystrom(
            self.matern,
            self.landmarks,
            self.factor,
            torch.cat([self.noise, noise]),
            torch.cat([self.a, new], dim=1),
            gram,
            torch.linalg.cholesky(gram),
        )

    def solve(self, v: torch.Tensor) -> torch.Tensor:
        scaled = v / self.noise.unsqueeze(-1)
        return scaled - (self.a.mT @ torch.cholesky_solve(self.a @ scaled, self.inner)) / self.noise.unsqueeze(-1)


@dataclass(frozen=True)
class Solution:
    """x with (K + diag(noise)) x = b - r.

    Attributes:
        x, residual: float64 [n, k].
        error: float64 [k], r' P^-1 r, a bound of the squared error in the matrix's norm.
        products: products with the matrix that it took.
    """

    x: torch.Tensor
    residual: torch.Tensor
    error: torch.Tensor
    products: int


def solve(
    matrix: KernelMatrix,
    b: torch.Tensor,
    preconditioner: Preconditioner,
    tolerance: torch.Tensor | float,
    iterations: int,
    start: torch.Tensor | None = None,
    precision: torch.dtype = torch.float32,
) -> Solution:
    """Solve (K + diag(noise)) x = b for vectors b [n, k], all at once.

    Args:
        tolerance: what `error` of each vector has to fall to, a number or [k].
        iterations: products after which a round gives up.
        start: float64 [n, k], where to begin; 0 where it is None.
        precision: of the products on the way; residuals are float64 in any case.

    Raises:
        UnsoundError: the tolerance was not reached.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    products = 0
    residual = b.clone() if start is None else matrix.residual(b, x)
    product = matrix.exact_product if precision is torch.float64 else matrix.product
    for _ in range(REFINEMENTS):
        error = (residual * preconditioner.solve(residual)).sum(0)
        if bool((error <= tolerance).all()):
            return Solution(x, residual, error, products)
        # Half of the tolerance, so that rounding in the recursion seldom costs another round.
        step, used = _descend(product, residual, preconditioner, 0.5 * torch.as_tensor(tolerance), iterations)
        x += step
        products += used + 1
        residual = matrix.residual(b, x)
    error = (residual * preconditioner.solve(residual)).sum(0)
    if bool((error <= tolerance).all()):
        return Solution(x, residual, error, products)
    raise UnsoundError(
        f"conjugate gradients: squared error at most {float(error.max()):g} after {products} products, "
        f"{float(torch.as_tensor(tolerance).min()):g} wanted"
    )


def _descend(
    multiply: Callable[[torch.Tensor], torch.Tensor],
    b: torch.Tensor,
    preconditioner: Preconditioner,
    tolerance: torch.Tensor,
    iterations: int,
) -> tuple[torch.Tensor, int]:
    """Plain preconditioned conjugate gradients from 0; vectors that have converged rest."""
    x = torch.zeros_like(b)
    r = b.clone()
    z = preconditioner.solve(r)
    p = z.clone()
    rz = (r * z).sum(0)
    tolerance = tolerance.to(rz)
    for used in range(iterations):
        moving = (rz > tolerance) & rz.isfinite()
        if not bool(moving.any()):
            return x, used
        product = multiply(p)
        curvature = (p * product).sum(0)
        alpha = torch.where(moving & (curvature > 0), rz / curvature, 0.0)
        x += alpha * p
        r -= alpha * product
        z = preconditioner.solve(r)
        following = (r * z).sum(0)
        beta = torch.where(moving, following / rz, 0.0)
        rz = torch.where(moving, following, rz)
        p = z + beta * p
    return x, iterations
