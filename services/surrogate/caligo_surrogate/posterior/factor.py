"""The posterior by a Cholesky factor, for as many rows as can be factorised."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from caligo_surrogate.escalation import Plan, UnsoundError
from caligo_surrogate.posterior.base import Posterior
from caligo_surrogate.posterior.kernel import KernelMatrix


@dataclass(frozen=True)
class Factor:
    """Cholesky factor [[L, 0], [W', T]] of K + diag(noise); the rows of the last two came later."""

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
        k.diagonal().add_(matrix.noise.to(k.dtype))
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


class FactorPosterior(Posterior[Factor]):
    """By a Cholesky factor, the weights refined with float64 residuals."""

    @property
    def factor(self) -> Factor:
        return self.inverse

    def whitened(self, x: torch.Tensor) -> torch.Tensor:
        """L^-1 k(X, x), [..., n, q] at x [..., q, 9]."""
        flat = self._precise(x).reshape(-1, x.shape[-1])
        v = self.factor.forward(self.matrix.matern(self.matrix.inputs.to(flat.dtype), flat))
        return v.reshape(len(v), *x.shape[:-1]).movedim(0, -2)

    def joint(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean(x), self.between(x, x).to(x.dtype)

    def between(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        whitened_a = self.whitened(a)
        whitened_b = whitened_a if a is b else self.whitened(b)
        return self.matrix.matern(self._precise(a), self._precise(b)) - whitened_a.mT @ whitened_b

    def _quick_variance(self, x: torch.Tensor) -> torch.Tensor:
        return self._variance(x).to(x.dtype)

    def _variance(self, x: torch.Tensor) -> torch.Tensor:
        return self.prior_variance - self.whitened(x).square().sum(-2)

    def covariance(self, x: torch.Tensor) -> torch.Tensor:
        return self.between(x, x).to(x.dtype)

    def bytes_held(self) -> int:
        return self.factor.base.nbytes + self.factor.coupling.nbytes + self.matrix.bytes_held()

    def _inverse_with(self, inputs: torch.Tensor, noise: torch.Tensor) -> Factor:
        matern, precise = self.matrix.matern, self._precise(inputs)
        corner = matern(precise, precise)
        corner.diagonal().add_(noise.to(corner.dtype))
        return self.factor.extended(matern(self.matrix.inputs.to(precise.dtype), precise), corner)
