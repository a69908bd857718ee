"""Which library computes: NumPy, or PyTorch with gradients. Formulas over arrays are written once for both."""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Arrays(NamedTuple):
    """A library of arrays: `Arrays(torch, torch.special)`, or NUMPY."""

    xp: Any
    """numpy or torch, as far as they agree: where, clip, exp, log, log1p, expm1, sqrt, asarray, concatenate, ..."""
    special: Any
    """Holds `ndtr`, the normal distribution function."""


def _ndtr(x: Any) -> NDArray[np.float64]:
    """As scipy.special.ndtr, which is not worth a dependency."""
    x = np.asarray(x, dtype=np.float64)
    values = np.fromiter(map(math.erfc, (x.ravel() * -math.sqrt(0.5)).tolist()), np.float64, x.size)
    return 0.5 * values.reshape(x.shape)


NUMPY = Arrays(np, SimpleNamespace(ndtr=_ndtr))


def double(values: Any, xp: Any) -> Any:
    """float64, keeping gradients; numbers become arrays of no dimension."""
    return values.double() if hasattr(values, "double") else xp.asarray(values, dtype=xp.float64)


def held(values: Any) -> Any:
    """The same values, through which no gradient passes."""
    return values.detach() if hasattr(values, "detach") else values
