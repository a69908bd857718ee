"""The Matern-5/2 kernel and products with its matrix, which is held, made block by block, or never made (KeOps)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from caligo_surrogate import keops
from caligo_surrogate.device import Backend

BLOCK_BYTES: Final = {"cpu": 2**20, "cuda": 2**28}
"""Size of a block of the matrix that is made, used and dropped, by kind of device. On a CPU it stays in the cache,
which makes a product five times as fast as with blocks of 256 MiB."""
WIDTHS: Final = (1, 4, 16, 64)
"""Numbers of vectors that a KeOps product is made for; others are padded, since each number is compiled anew."""


@dataclass(frozen=True)
class Matern:
    """k(a, b) = s^2 (1 + d + d^2 / 3) exp(-d), d = sqrt(5) |(a - b) / l| (Rasmussen and Williams, eq. 4.17).

    Attributes:
        length_scales: float32 [9], as fractions of a parameter's range.
        variance: s^2.
    """

    length_scales: torch.Tensor
    variance: float

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Rows [..., n, 9] centred and in units of the length scales over sqrt(5), in their own dtype."""
        return (x - 0.5) * (math.sqrt(5) / self.length_scales.to(x.dtype))

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Matrix [..., n, m] of rows a [..., n, 9] and b [..., m, 9]; differentiable, in the dtype of a."""
        return self.of_scaled(self.scaled(a), self.scaled(b))

    def of_scaled(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The same of rows that went through `scaled`."""
        return self.variance * correlation(distances(a, b))


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Euclidean distances [..., n, m] of rows a [..., n, 9] from rows b [..., m, 9]; differentiable."""
    squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2)
    # Floored above 0, where the square root has no gradient; k changes by 2e-11 there.
    return (squares - 2 * (a @ b.mT)).clamp_min(1e-10).sqrt()


def correlation(d: torch.Tensor) -> torch.Tensor:
    """(1 + d + d^2 / 3) exp(-d), of distances in length scales over sqrt(5)."""
    return (1 + d + d.square() / 3) * torch.exp(-d)


@dataclass(frozen=True)
class KernelMatrix:
    """K + diag(noise) over n rows, as an operator on float64 vectors.

    `product` works in float32, `exact_product` and `residual` in float64: iterative refinement with residuals in twice
    the working precision (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 12.1). What is
    kept between calls is float32.

    Attributes:
        noise: float64 [n], variance of the noise of each row.
        inputs: float32 [n, 9].
        held: float32 [n0, n0], the matrix of the first n0 rows (`dense`), or None.
        strips: float32 [n - n0, n], the rows of the matrix that came later (`dense`), or None.
    """

    matern: Matern
    noise: torch.Tensor
    inputs: torch.Tensor
    backend: Backend
    held: torch.Tensor | None = field(default=None, repr=False)
    strips: torch.Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, matern: Matern, noise: torch.Tensor, inputs: torch.Tensor, backend: Backend) -> KernelMatrix:
        """The operator over float32 inputs [n, 9] with noise, float64 [n]."""
        held = None
        if backend == "dense":
            n = len(inputs)
            held = torch.empty(n, n, dtype=torch.float32, device=inputs.device)
            scaled = matern.scaled(inputs)
            for rows in blocks(n, held):
                held[rows] = matern.of_scaled(scaled[rows], scaled)
        return cls(matern, noise, inputs, backend, held)

    def __len__(self) -> int:
        return len(self.inputs)

    def bytes_held(self) -> int:
        """Memory of what is kept."""
        return sum(t.nbytes for t in (self.noise, self.inputs, self.held, self.strips) if t is not None)

    def extended(self, inputs: torch.Tensor, noise: torch.Tensor) -> KernelMatrix:
        """The operator over these rows and then those of `inputs`, float32 [m, 9], with noise, float64 [m].

        What is held stays where it is.
        """
        every, noises = torch.cat([self.inputs, inputs]), torch.cat([self.noise, noise])
        if self.held is None:
            return KernelMatrix(self.matern, noises, every, self.backend)
        new = self.matern(inputs, every)
        if self.strips is not None:
            older = torch.cat([self.strips, new[:, len(self.held) : len(self.inputs)].mT], dim=1)
            new = torch.cat([older, new])
        return KernelMatrix(self.matern, noises, every, self.backend, self.held, new)

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """(K + diag(noise)) v of vectors [n, k], float64 in and out, the kernel and its sums in float32."""
        w = v.float()
        if self.held is not None:
            n0 = len(self.held)
            result = self.held @ w[:n0]
            if self.strips is not None:
                result = torch.cat([result + self.strips[:, :n0].mT @ w[n0:], self.strips @ w])
        elif self.backend == "keops":
            result = _keops_product(self.matern, self.inputs, self.inputs, w)
        else:
            scaled = self.matern.scaled(self.inputs)
            result = torch.empty_like(w)
            for rows in blocks(len(self), scaled):
                result[rows] = self.matern.of_scaled(scaled[rows], scaled) @ w
        return result.double() + self.noise.unsqueeze(-1) * v

    def exact_product(self, v: torch.Tensor) -> torch.Tensor:
        """The same, float64 throughout: several times as dear, and for rows that lie too close for float32."""
        return self.noise.unsqueeze(-1) * v + self.cross(self.inputs, v)

    def residual(self, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """b - (K + diag(noise)) x of vectors [n, k], float64 throughout."""
        return b - self.exact_product(x)

    def cross(self, a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """K(a, X) v, float64 throughout, of rows a float32 [m, 9] and vectors v [n, k].

        The kernel's values are float64 as well: a posterior mean is a small difference of large sums, and with float32
        values and sums it is off by a few thousandths of the target's standard deviation at 4,000 rows.
        """
        # On a GPU symbolic sums are the faster ones by far, on a CPU blocks that stay in the cache.
        if self.backend == "keops" or (a.is_cuda and not keops.missing()):
            return _keops_product(self.matern, a.double(), self.inputs.double(), v)
        scaled_a, scaled = self.matern.scaled(a.double()), self.matern.scaled(self.inputs.double())
        result = torch.empty(len(a), v.shape[1], dtype=torch.float64, device=a.device)
        for rows in blocks(len(self), scaled_a):
            result[rows] = self.matern.of_scaled(scaled_a[rows], scaled) @ v
        return result


def blocks(columns: int, like: torch.Tensor) -> Iterator[slice]:
    """Slices of the rows of `like` whose blocks of a matrix with as many columns, of its dtype, are well-sized."""
    size = max(1, BLOCK_BYTES[like.device.type] // (like.element_size() * max(1, columns)))
    for start in range(0, len(like), size):
        yield slice(start, min(start + size, len(like)))


def _keops_product(matern: Matern, a: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    width = next((w for w in WIDTHS if w >= v.shape[1]), None)
    if width is None:
        return torch.cat([_keops_product(matern, a, b, part) for part in v.split(WIDTHS[-1], dim=1)], dim=1)
    padded = torch.nn.functional.pad(v, (0, width - v.shape[1])).contiguous()
    product = _keops_formula(str(a.dtype).removeprefix("torch."), a.shape[1], width)
    out = product(matern.scaled(a).contiguous(), matern.scaled(b).contiguous(), padded)
    return matern.variance * out[:, : v.shape[1]]


@functools.cache
def _keops_formula(dtype: str, dimensions: int, width: int) -> Any:
    """sum_j (1 + d + d^2 / 3) exp(-d) v_j, d the distance of scaled rows; compiled at its first use."""
    import pykeops
    from pykeops.torch import Genred

    pykeops.set_verbose(False)
    d2 = "SqDist(a, b)"
    formula = f"(IntCst(1) + Sqrt({d2}) + {d2} / IntCst(3)) * Exp(-Sqrt({d2})) * v"
    variables = [f"a = Vi({dimensions})", f"b = Vj({dimensions})", f"v = Vj({width})"]
    return Genred(formula, variables, reduction_op="Sum", axis=1, dtype_acc=dtype, sum_scheme="block_sum")
