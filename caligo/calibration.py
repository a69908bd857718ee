"""Predictions made before the outcome was known, against the outcome."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from caligo.results import ResultRows, measured, metric, simulated

Target = Literal["margin", "efficiency"]
"""What is foretold."""
INTERVALS: Final = (0.50, 0.90, 0.95)
"""Central intervals whose coverage is reported."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How predictions of normal distributions fared.

    Attributes:
        rows: predictions whose outcome is known.
        coverage: share of the outcomes inside each of `INTERVALS`.
        mean_z: mean of (outcome - mean) / standard deviation; 0 where nothing is over- or underrated.
    """

    rows: int
    coverage: tuple[float, float, float]
    mean_z: float


def calibrate(rows: ResultRows, forecast: NDArray[np.float32], target: Target) -> Calibration | None:
    """How the forecasts of rows fared (prequential: each was made before its row was known).

    Only simulated rows count, for the margin those that have counted one; where there are none, there is no answer.

    Args:
        rows: [n].
        forecast: float32 [n, 2], mean and standard deviation of each row's target; NaN where there is none.
    """
    by_margin = target == "margin"
    outcome = metric(rows, "margin" if by_margin else "net_efficiency")
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (outcome - forecast[:, 0]) / forecast[:, 1]
    z = z[measured(rows) if by_margin else simulated(rows)].astype(np.float64)
    z = z[np.isfinite(z)]
    if not len(z):
        return None
    half_widths = [NormalDist().inv_cdf(0.5 + share / 2) for share in INTERVALS]
    inside50, inside90, inside95 = (float(np.mean(np.abs(z) <= width)) for width in half_widths)
    return Calibration(len(z), (inside50, inside90, inside95), float(z.mean()))
