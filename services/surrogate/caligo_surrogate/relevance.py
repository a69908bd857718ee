"""Which parameters decide the target: Sobol indices of the whole prediction, closed form included."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import sobol_indices, uniform

from caligo import seeds
from caligo.discrepancy import RELEVANCE_COLUMNS
from caligo.phases import Phase
from caligo.seeds import Purpose
from caligo.space import DIMENSIONS, Space
from caligo_surrogate.conditioning import Fitted
from caligo_surrogate.design import by_measure, search_box
from caligo_surrogate.prior import DEEP

SETS: Final = 8
"""Sets of points, each scrambled by itself: their scatter is the error of the mean."""
POINTS: Final = 512
"""Points of the two matrices of each set."""


def sobol(
    function: Callable[[NDArray[np.float64]], NDArray[np.floating]], dimensions: int, seeds: Iterable[int]
) -> NDArray[np.float64]:
    """First-order and total Sobol indices of a function over the unit cube, each with its standard error, [d, 4].

    By the estimators of Saltelli et al. ("Variance based sensitivity analysis of model output", Comput. Phys. Commun.
    181, 2010), in the mean over randomly scrambled sets. A bootstrap of the points would not know how evenly they are
    spread, and call errors too large.

    Args:
        function: of points [n, d], to [n]; 0 are the indices of one that is constant.
        seeds: of the sets, two or more.
    """
    found = []
    for seed in seeds:
        indices = sobol_indices(
            func=lambda x: function(x.T)[None].astype(np.float64), n=POINTS, dists=[uniform()] * dimensions, rng=seed
        )
        found.append(np.stack([indices.first_order, indices.total_order], axis=-1).reshape(dimensions, 2))
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    return np.stack([np.mean(found, axis=0), error], axis=-1).reshape(dimensions, 4)


def relevance(fitted: Fitted, space: Space, seed: int, *, by_margin: bool) -> NDArray[np.float32]:
    """Sobol indices of the posterior mean under the measure of the design, float32 [9, 4]: `RELEVANCE_COLUMNS`.

    The errors are those of the integral; of the mean's own uncertainty they know nothing. Margins count as 2 `DEEP` at
    least: how far below the cliff a run lies is no question, and the surrogate does not learn it. Parameters that the
    space fixes have indices of 0.

    Args:
        by_margin: the target is the margin.
    """
    box = search_box(space, torch.zeros(0)).numpy()
    free = np.flatnonzero(box[1] > box[0])

    def mean(points: NDArray[np.float64]) -> NDArray[np.float32]:
        every = np.zeros((len(points), DIMENSIONS))
        every[:, free] = points
        learned = fitted.means(by_measure(space, every)).mean.numpy()
        target, _ = fitted.scale.invert(learned, np.zeros_like(learned))
        return np.maximum(target, np.float32(2 * DEEP)) if by_margin else target

    found = np.zeros((DIMENSIONS, len(RELEVANCE_COLUMNS)), dtype=np.float32)
    if len(free):
        leaves = [seeds.key(seed, Phase.SURROGATE, number, Purpose.RELEVANCE) >> 1 for number in range(SETS)]
        found[free] = sobol(mean, len(free), leaves)
    return found
