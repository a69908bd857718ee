"""Points spread by the measure of a campaign's design."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import qmc

from caligo.space import DIMENSIONS, PARAMETERS, STRATEGY_COLUMN, Scale, Space


def design_points(space: Space, n: int, seed: int) -> NDArray[np.float32]:
    """A scrambled Sobol set by the design's own measure, unit coordinates float32 [n, 9]."""
    return by_measure(space, qmc.Sobol(DIMENSIONS, scramble=True, rng=seed).random(n))


def by_measure(space: Space, uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points spread evenly over the unit cube, float64 [n, 9], to points spread by the design's own measure, unit
    coordinates float32 [n, 9]."""
    points = uniform.copy()
    for j, parameter in enumerate(PARAMETERS):
        if parameter.scale is Scale.BETA21:
            points[:, j] = np.sqrt(points[:, j])  # inverse of the distribution function x^2
    points[:, STRATEGY_COLUMN] = points[:, STRATEGY_COLUMN] >= 1 - space.blind_fraction
    low, high = space.model_bounds()
    points[:, (low == high) & (np.arange(DIMENSIONS) != STRATEGY_COLUMN)] = 0  # what the space fixes has no width
    return points.astype(np.float32)


def search_box(space: Space, like: torch.Tensor) -> torch.Tensor:
    """Bounds [2, 9] of the search in unit coordinates; parameters that the space fixes have no width."""
    low, high = space.model_bounds()
    box = torch.zeros(2, len(low), dtype=like.dtype, device=like.device)
    box[1] = torch.as_tensor(high > low)
    box[0, STRATEGY_COLUMN] = float(space.blind_fraction == 1)
    box[1, STRATEGY_COLUMN] = float(space.blind_fraction > 0)
    return box
