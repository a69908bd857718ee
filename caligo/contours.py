"""The cliff as lines: where two parameters make a key as likely as asked for, for other plotters."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from caligo.space import PARAMETERS, STRATEGY_COLUMN, SYMBOLS, Space, Strategy
from caligo.thresholds import edges

Kind = Literal["surrogate", "surer", "less sure", "closed form"]
"""Whose line: the surrogate's, where it would be were the mean margin at either end of its 95 % interval, and that of
the closed form."""
KINDS: Final[tuple[Kind, ...]] = ("surrogate", "surer", "less sure", "closed form")


@dataclasses.dataclass(frozen=True)
class Line:
    """One connected piece of a contour.

    Attributes:
        x, y: float64 [n] each, physical units; a closed piece ends where it begins.
    """

    strategy: Strategy
    kind: Kind
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Contours:
    """All lines of one level of the probability of a key over two parameters.

    Attributes:
        x, y: symbols of the parameters.
        at: what the others are held at, physical units by symbol.
        lines: none where the level is not crossed.
    """

    x: str
    y: str
    at: dict[str, float]
    level: float
    lines: tuple[Line, ...]

    def to_geojson(self, **properties: Any) -> dict[str, Any]:
        """A FeatureCollection of LineStrings in physical units, as RFC 7946 has them but for what the axes are.

        properties: said of every line, beside its strategy, kind and level.
        """
        features = [
            {
                "type": "Feature",
                "properties": {**properties, "strategy": name, "kind": line.kind, "level": self.level},
                "geometry": {"type": "LineString", "coordinates": np.stack([line.x, line.y], axis=1).tolist()},
            }
            for name, line in ((line.strategy.name.lower(), line) for line in self.lines)
        ]
        parameters = [PARAMETERS[SYMBOLS.index(symbol)] for symbol in (self.x, self.y)]
        axes = [{"symbol": p.symbol, "title": p.title, "unit": p.unit} for p in parameters]
        return {"type": "FeatureCollection", "axes": axes, "at": self.at, "features": features}


def steps(
    space: Space, axes: tuple[int, int], at: NDArray[np.floating], points: int, level: float
) -> Generator[NDArray[np.float32], NDArray[np.float32], Contours]:
    """Contours over two continuous columns, all of their range in `space`, on a grid of `points` each: yields rows, and
    is sent what is predicted there. Lines are straight between points of the grid, in model coordinates.

    Args:
        at: [9], model coordinates; what the others are held at. Every strategy of the space is asked.
        level: probability of a key, 0 to 1.

    Yields:
        float32 [n, 9]; takes float32 [n, 6] as `CampaignClient.predict` gives it.
    """
    low, high = space.model_bounds()
    x, y = (np.linspace(low[axis], high[axis], points) for axis in axes)
    lines: list[Line] = []
    for strategy in space.strategies:
        grid = np.tile(np.asarray(at, dtype=np.float32), (points, points, 1))
        grid[:, :, axes[0]], grid[:, :, axes[1]] = x[None, :], y[:, None]
        grid[:, :, STRATEGY_COLUMN] = strategy
        predicted = (yield grid.reshape(-1, grid.shape[-1])).astype(np.float64)
        surer, less_sure = edges(predicted)
        for kind, key in zip(KINDS, (predicted[:, 2], surer, less_sure, predicted[:, 5]), strict=True):
            lines += _lines(strategy, kind, axes, x, y, key.reshape(points, points), level)
    held = {p.symbol: float(10.0 ** at[j] if p.is_log else at[j]) for j, p in enumerate(PARAMETERS) if j not in axes}
    return Contours(SYMBOLS[axes[0]], SYMBOLS[axes[1]], held, level, tuple(lines))


def _lines(
    strategy: Strategy,
    kind: Kind,
    axes: tuple[int, int],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    key: NDArray[np.float64],
    level: float,
) -> list[Line]:
    from contourpy import LineType, contour_generator  # comes with matplotlib, which not every client has

    z = np.ma.masked_invalid(key)
    found: Any = contour_generator(x, y, z, line_type=LineType.Separate).lines(level)
    return [Line(strategy, kind, *(_physical(axis, line[:, k]) for k, axis in enumerate(axes))) for line in found]


def _physical(axis: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.power(10.0, values) if PARAMETERS[axis].is_log else values
