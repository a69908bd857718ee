"""Where to look next: rules that choose a batch of runs to find where the target crosses a level.

A batch is chosen from a sweep of the space, point after point, and only where it is not known already whether a run
gives a key. A Gaussian process's variances do not depend on outcomes, so what the points before will tell is known
before they are run (`believing`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from caligo import logs
from caligo.spec import BatchRule
from caligo_surrogate.acquisition import expected_brier, straddle
from caligo_surrogate.acquisition.believing import one_by_one
from caligo_surrogate.acquisition.sweep import Sweep
from caligo_surrogate.posterior import FactorPosterior, Posterior

__all__ = ["RULE_WITHOUT_FACTOR", "Sweep", "propose"]

log = logs.get("surrogate.acquisition")

RULE_WITHOUT_FACTOR: Final[BatchRule] = "randomized_straddle"
"""Taken instead of the rule that integrates, where a posterior has no factor: its covariances are not good enough."""


def propose(
    posterior: Posterior,
    points: Callable[[int], torch.Tensor],
    box: torch.Tensor,
    size: int,
    rule: BatchRule,
    level: float,
    weight: float,
    seed: int,
) -> torch.Tensor:
    """A batch of points to run, unit coordinates float32 [size, 9], on the posterior's device.

    Args:
        posterior: given the rows and what is under way.
        points: the first n points, float32 [n, 9], of a sequence spread by the design's measure, strategies 0 or 1.
        box: bounds [2, 9] of the search.
        rule: how a batch is valued; where the posterior cannot do it, `RULE_WITHOUT_FACTOR`.
        level: that a run with a key exceeds, in the posterior's unit.
        weight: of the straddle's standard deviation.
        seed: of what a rule draws.

    Raises:
        UnsoundError: the posterior's numbers cannot be right.
    """
    sweep = Sweep.of(posterior, points, size, level)
    if rule == "sur":
        if isinstance(posterior, FactorPosterior):
            return expected_brier.propose(posterior, sweep, size, level)
        log.info("no covariances without a factor", asked=rule, rule=RULE_WITHOUT_FACTOR, rows=len(posterior.matrix))
        rule = RULE_WITHOUT_FACTOR
    weights = straddle.randomized_weights(size, seed) if rule == "randomized_straddle" else np.full(size, weight)
    batch = one_by_one(sweep, size, straddle.Greedy(posterior, sweep, level, weights))
    return straddle.ascended(posterior, batch, box, level, weight) if rule == "joint_straddle" else batch
