"""Where along one parameter a key becomes likely: the question of a link that is given but for one value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.space import PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy

STEPS: Final = 1001
"""Points along the parameter, between which probabilities are interpolated."""
_TWO_SIDED_95: Final = 1.959964
_SMALLEST_SD: Final = 1e-9


@dataclasses.dataclass(frozen=True)
class Crossing:
    """A value of the parameter at which P(key) passes the level.

    Attributes:
        value: physical units.
        low, high: 95 % band of the value by the surrogate's own uncertainty, physical units; NaN where the band leaves
            the campaign's space.
        rises: whether a key is likelier above the value.
    """

    value: float
    low: float
    high: float
    rises: bool


@dataclasses.dataclass(frozen=True)
class Threshold:
    """All crossings of one level, for one strategy.

    Attributes:
        parameter: its symbol.
        level: of the probability that one run gives a key.
        crossings: in the order of the parameter; none where the level is not crossed.
        is_above: where there is no crossing, whether the probability is above the level over the whole range.
        closed_form: the values at which the closed form alone crosses the level.
    """

    parameter: str
    strategy: Strategy
    level: float
    crossings: tuple[Crossing, ...]
    is_above: bool
    closed_form: tuple[float, ...]


def steps(
    space: Space, column: int, at: NDArray[np.floating], levels: Sequence[float]
) -> Generator[NDArray[np.float32], NDArray[np.float32], tuple[Threshold, ...]]:
    """Thresholds along a column over its range in `space`: yields rows, and is sent what is predicted there.

    Args:
        column: of a continuous parameter.
        at: [9], model coordinates; what the others are held at. Every strategy of the space is asked.
        levels: probabilities of a key, 0 to 1.

    Yields:
        float32 [n, 9]; takes float32 [n, 6] as `CampaignClient.predict` gives it.
    """
    low, high = space.model_bounds()[:, column]
    along = np.linspace(low, high, STEPS)
    found: list[Threshold] = []
    for strategy in space.strategies:
        rows = np.tile(np.asarray(at, dtype=np.float32), (STEPS, 1))
        rows[:, column] = along
        rows[:, STRATEGY_COLUMN] = strategy
        predicted = (yield rows).astype(np.float64)
        found += [_threshold(column, strategy, level, along, predicted) for level in levels]
    return tuple(found)


def _threshold(
    column: int, strategy: Strategy, level: float, along: NDArray[np.float64], predicted: NDArray[np.float64]
) -> Threshold:
    parameter = PARAMETERS[column]

    def physical(value: float) -> float:
        return 10.0**value if parameter.is_log else value

    key, closed_form = predicted[:, 2], predicted[:, 5]
    surer, less_sure = edges(predicted)
    sides = (_crossings(along, surer, level), _crossings(along, less_sure, level))
    crossings = []
    for value, rises in _crossings(along, key, level):
        ends = sorted(_nearest(edge, value, rises) for edge in sides)
        crossings.append(Crossing(physical(value), physical(ends[0]), physical(ends[1]), rises))
    return Threshold(
        SYMBOLS[column],
        strategy,
        level,
        tuple(crossings),
        bool(key[0] >= level),
        tuple(physical(value) for value, _ in _crossings(along, closed_form, level)),
    )


def edges(predicted: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P(key) were the mean margin at either end of its 95 % interval, [n] each.

    What of the standard deviation of one run exceeds the closed form's is the surrogate's uncertainty of the mean.
    Where runs scatter more than the closed form says, this calls some of that scatter uncertainty: a band too wide.
    """
    mean, sd, key, _, run_sd, _ = predicted.T
    run = np.where(np.isfinite(run_sd), np.minimum(sd, run_sd), 0.0)
    unsure = np.sqrt(np.maximum(sd**2 - run**2, 0.0))
    positive = _normal_cdf(mean / np.maximum(sd, _SMALLEST_SD))
    gate = np.where(positive > 1e-6, np.minimum(key / np.maximum(positive, 1e-6), 1.0), 1.0)
    upper, lower = (
        gate * _normal_cdf((mean + side * _TWO_SIDED_95 * unsure) / np.maximum(run, _SMALLEST_SD)) for side in (1, -1)
    )
    return upper, lower


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in x])


def _crossings(along: NDArray[np.float64], key: NDArray[np.float64], level: float) -> list[tuple[float, bool]]:
    """Where a curve passes a level, straight between its points, and whether it rises there; none of a curve of NaN."""
    above = key >= level
    found = []
    for i in np.flatnonzero(above[1:] != above[:-1]):
        share = (level - key[i]) / (key[i + 1] - key[i])
        if math.isfinite(share):
            found.append((float(along[i] + share * (along[i + 1] - along[i])), bool(above[i + 1])))
    return found


def _nearest(edge: list[tuple[float, bool]], value: float, rises: bool) -> float:
    """The crossing of an edge that belongs to one of the mean's, NaN where there is none."""
    same = [other for other, direction in edge if direction == rises]
    return min(same, key=lambda other: abs(other - value), default=math.nan)
