"""Slices through the space, for pictures of the cliff."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

from caligo.space import STRATEGY_COLUMN, Space, Strategy


@dataclasses.dataclass(frozen=True)
class CliffSlice:
    """The surrogate's posterior on a grid through the space.

    Attributes:
        axes: the two columns of the inputs that vary, x then y.
        x, y: float32 [k] each, model coordinates.
        at: float32 [9], model coordinates of the point that the slice goes through.
        mean, deviation: float32 [2, k, k] each, units of the target: by strategy, y, x; NaN for a strategy that the
            space leaves out.
    """

    axes: tuple[int, int]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    at: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @property
    def rows(self) -> NDArray[np.float32]:
        """Its points, float32 [2, k, k, 9], model coordinates: by strategy, y, x."""
        points = np.tile(self.at, (len(Strategy), len(self.y), len(self.x), 1))
        points[..., self.axes[0]] = self.x
        points[..., self.axes[1]] = self.y[:, None]
        points[..., STRATEGY_COLUMN] = np.arange(len(Strategy))[:, None, None]
        return points

    @property
    def has_area(self) -> bool:
        """Whether both columns vary; a space may hold them fixed."""
        return bool(self.x[0] < self.x[-1] and self.y[0] < self.y[-1])


def cut(
    space: Space,
    axes: tuple[int, int],
    at: NDArray[np.floating],
    points: int,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> CliffSlice:
    """The posterior over two continuous columns, all of their range in `space`, `points` each.

    Args:
        at: [9], model coordinates; what the slice holds fixed.
        predict: float32 [n, 9] in model coordinates to float32 [n, 2 or more]: mean, standard deviation.
    """
    cutting = steps(space, axes, at, points)
    rows = next(cutting)
    while True:
        try:
            rows = cutting.send(predict(rows))
        except StopIteration as end:
            return end.value


def steps(
    space: Space, axes: tuple[int, int], at: NDArray[np.floating], points: int
) -> Generator[NDArray[np.float32], NDArray[np.float32], CliffSlice]:
    """`cut` for callers who predict in their own way: yields rows and is sent their predictions."""
    low, high = space.model_bounds()
    x, y = (np.linspace(low[axis], high[axis], points).astype(np.float32) for axis in axes)
    moments = np.full((len(Strategy), points, points, 2), np.nan, dtype=np.float32)
    for strategy in space.strategies:
        grid = np.tile(np.asarray(at, dtype=np.float32), (points, points, 1))
        grid[:, :, axes[0]] = x[None, :]
        grid[:, :, axes[1]] = y[:, None]
        grid[:, :, STRATEGY_COLUMN] = strategy
        predicted = yield grid.reshape(-1, grid.shape[-1])
        moments[strategy] = predicted[:, :2].reshape(points, points, 2)
    return CliffSlice(axes, x, y, np.asarray(at, dtype=np.float32), moments[..., 0], moments[..., 1])
