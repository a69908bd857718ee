"""What reconciliation discloses a bit, over arrays: the tables of `efficiency` for NumPy and PyTorch, and how much one
frame of the blind protocol differs from another."""

from functools import cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .efficiency import BLIND_EFFICIENCY, FRAMES, LEAST_LEAKAGE, QBER, baseline_efficiency
from .entropy_arrays import binary_entropy

# fmt: off
BLIND_DEVIATION = (
    (0.00004, 0.00006, 0.00013, 0.00049, 0.00021, 0.00131, 0.00421, 0.00271, 0.00625,
     0.00571, 0.01598, 0.0168, 0.01746, 0.01725, 0.01819, 0.01904, 0.01777, 0.01839),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.00191, 0.00278, 0.00111, 0.00462,
     0.00474, 0.00373, 0.00352, 0.00547, 0.00439, 0.00625, 0.00578, 0.00633, 0.00428),
)
"""By frame size and point of efficiency.QBER: standard deviation, from frame to frame, of the public bits per bit of a
frame of the blind protocol."""
# fmt: on

_LN10 = log(10.0)
_BLIND_ROW = len(FRAMES)
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
    index = xp.searchsorted(points[1:-1], at.detach() if hasattr(at, "detach") else at, side="right")
    low = xp.take(points, index)
    weight = (at - low) / (xp.take(points, index + 1) - low)
    q = xp.clip(q, None, 0.5)
    return Place(q, binary_entropy(q, xp), index, weight)


def leakage_rate(at: Place, frames: Any, is_blind: Any, size: int, failure: float, xp: Any) -> Any:
    """prediction.expected_leakage_rate of arrays at the error rates that decide it: public bits per reconciled bit.

    frames: of one string, at least 1; is_blind: which are of the blind protocol; size: place in efficiency.FRAME_SIZES.
    """
    table = xp.asarray(_log_efficiency(failure)[size], dtype=xp.float64)
    along = xp.clip(xp.log(frames) / _LN10, 0.0, len(FRAMES) - 1.0)
    row = xp.searchsorted(xp.asarray([1.0, 2.0, 3.0], dtype=xp.float64), along, side="right")
    along = xp.where(is_blind, 0.0 * along, along - row)
    first = xp.where(is_blind, _BLIND_ROW + 0 * row, row) * _POINTS + at.index
    found = 0.0
    for offset, share in ((0, 1.0 - along), (_POINTS, along)):
        below = xp.take(table, first + offset)
        found = found + share * (below + at.weight * (xp.take(table, first + (offset + 1)) - below))
    return xp.clip(xp.exp(found) * at.entropy, LEAST_LEAKAGE[size], 1.0)


def blind_deviation(at: Place, size: int, xp: Any) -> Any:
    """BLIND_DEVIATION between its points, linear in the logarithm of the error rate."""
    table = xp.asarray(BLIND_DEVIATION[size], dtype=xp.float64)
    low = xp.take(table, at.index)
    return low + at.weight * (xp.take(table, at.index + 1) - low)


@cache
def _log_points() -> NDArray[np.float64]:
    return np.log(np.array(QBER))


@cache
def _log_efficiency(failure: float) -> NDArray[np.float64]:
    """ln f [size, rows * points] at one failure probability: the baseline's by frames, then twice that of the blind."""
    sizes = ((4096, BLIND_EFFICIENCY[0]), (65536, BLIND_EFFICIENCY[1]))
    return np.array(
        [
            np.log([*([baseline_efficiency(q, n, failure, size) for q in QBER] for n in FRAMES), blind, blind]).ravel()
            for size, blind in sizes
        ]
    )
