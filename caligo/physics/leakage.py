"""What the baseline discloses a bit, over arrays: the tables of `efficiency` for NumPy and PyTorch."""

from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .efficiency import FRAME_SIZES, FRAMES, LEAST_LEAKAGE, QBER, baseline_efficiency
from .entropy_arrays import binary_entropy

_LN10 = log(10.0)
_POINTS = len(QBER)


class Place(NamedTuple):
    """Where error rates lie in the tables."""

    q: Any
    """The error rate, at most 1/2."""
    entropy: Any
    """Its binary entropy."""
    index: Any
    """Of the point of the table below."""
    weight: Any
    """Of the point above."""


def place(q: Any, xp: Any) -> Place:
    """Where an array of error rates lies in the tables, which are constant outside their points."""
    points = xp.asarray(_log_points(), dtype=xp.float64)
    at = xp.log(xp.clip(q, QBER[0], QBER[-1]))
    index = sum((q >= point for point in QBER[2:-1]), 0 + (q >= QBER[1]))  # quicker than a search
    low = xp.take(points, index)
    weight = (at - low) / (xp.take(points, index + 1) - low)
    q = xp.clip(q, None, 0.5)
    return Place(q, binary_entropy(q, xp), index, weight)


class Rows(NamedTuple):
    """Where numbers of frames lie in the tables."""

    start: Any
    """Of the row below, in the flattened table."""
    along: Any
    """Weight of the row above."""


def rows(frames: Any, xp: Any) -> Rows:
    """Where an array of numbers of frames of one string, at least 1, lies in the tables."""
    along = xp.clip(xp.log(frames) / _LN10, 0.0, len(FRAMES) - 1.0)
    row = sum((frames >= number for number in FRAMES[2:-1]), 0 + (frames >= FRAMES[1]))
    return Rows(row * _POINTS, along - row)


def leakage_rate(at: Place, of: Rows, size: int, failure: float, xp: Any) -> Any:
    """prediction.expected_leakage_rate of the baseline at the error rates that its codes are chosen for, over arrays.

    size: place in efficiency.FRAME_SIZES.
    """
    table = xp.asarray(_log_efficiency(failure)[size], dtype=xp.float64)
    first = of.start + at.index
    low, high = (
        (below := xp.take(table, first + offset)) + at.weight * (xp.take(table, first + (offset + 1)) - below)
        for offset in (0, _POINTS)
    )
    return xp.clip(xp.exp(low + of.along * (high - low)) * at.entropy, LEAST_LEAKAGE[size], 1.0)


@cache
def _log_points() -> NDArray[np.float64]:
    return np.log(np.array(QBER))


@cache
def _log_efficiency(failure: float) -> NDArray[np.float64]:
    """ln f at one failure probability, by size, frames and error rate: [2, 90]."""
    found = [[[baseline_efficiency(q, n, failure, size) for q in QBER] for n in FRAMES] for size in FRAME_SIZES]
    return np.log(found).reshape(len(FRAME_SIZES), -1)
