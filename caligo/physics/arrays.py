"""Which library computes: NumPy, or PyTorch with gradients. Formulas over arrays are written once for both."""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray


class Arrays(NamedTuple):
    """A library of arrays: `Arrays(torch, torch.special)`, or NUMPY."""

    xp: Any
    """numpy or torch, as far as they agree: where, clip, exp, log, log1p, expm1, sqrt, asarray, concatenate, ..."""
    special: Any
    """Holds `ndtr`, the normal distribution function."""


_SHIFT = 3.0
_FARTHEST = 26.0
"""Beyond it erfc is 0 in double precision."""
_LOWEST = _SHIFT / (_SHIFT + _FARTHEST)


def _fit_erfcx() -> list[float]:
    """Coefficients, highest first, of exp(z^2) erfc(z) in t = _SHIFT/(_SHIFT + z), scaled from [_LOWEST, 1] to [-1, 1].

    The error is 1e-13 of it, most of which is that of exp(z^2).
    """

    def erfcx(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([math.erfc(z) * math.exp(z * z) for z in _SHIFT / t - _SHIFT])

    series = Chebyshev.interpolate(erfcx, 18, [_LOWEST, 1.0])
    return series.convert(kind=Polynomial, domain=series.domain, window=[-1, 1]).coef[::-1].tolist()


_ERFCX = _fit_erfcx()


def _ndtr(x: Any) -> NDArray[np.float64]:
    """As scipy.special.ndtr, which is not worth a dependency; within 1e-14."""
    x = np.asarray(x, dtype=np.float64)
    z = np.minimum(np.abs(x) * math.sqrt(0.5), _FARTHEST)
    t = (2.0 * _SHIFT / (1.0 - _LOWEST)) / (_SHIFT + z) - (1.0 + _LOWEST) / (1.0 - _LOWEST)
    tail = np.full_like(t, 0.5 * _ERFCX[0])
    for coefficient in _ERFCX[1:]:
        tail *= t
        tail += 0.5 * coefficient
    tail *= np.exp(-z * z)
    return np.where(x < 0.0, tail, 1.0 - tail)


NUMPY = Arrays(np, SimpleNamespace(ndtr=_ndtr))


def double(values: Any, xp: Any) -> Any:
    """float64, keeping gradients; numbers become arrays of no dimension."""
    return values.double() if hasattr(values, "double") else xp.asarray(values, dtype=xp.float64)


def held(values: Any) -> Any:
    """The same values, through which no gradient passes."""
    return values.detach() if hasattr(values, "detach") else values


def integers(values: Any) -> Any:
    """Indices from numbers of at least 0, cut off."""
    return values.long() if hasattr(values, "long") else values.astype(np.int64)
