"""What share of a space gives a key, in closed form: under any claim, by the design's distribution or by another.

The share is a number about a distribution over the space. A campaign's design has F ~ Beta(2, 1), dense near perfect
pairs, and every other parameter uniform in the model coordinate; with F uniform a space is less secure.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.closed_form import expect
from caligo.physics.claims import Claim, Partition
from caligo.space import PARAMETERS, STRATEGY_COLUMN, Scale, Strategy
from caligo.spec import CampaignSpec

_POINTS: Final = 4096
_SHIFTS: Final = 8
"""Copies of the set, each shifted at random: their scatter is the error of the mean."""
_SEED: Final = 1
"""The set is the same for every campaign and claim, so shares differ by what is claimed and not by the draw."""


@dataclasses.dataclass(frozen=True)
class SecureShare:
    """Shares of a space, each as (share, standard error of the quadrature).

    Attributes:
        partition: the partition that it is for.
        designed: by the distribution of the design.
        uniform: with F uniform between its bounds.
    """

    partition: Partition
    designed: tuple[float, float]
    uniform: tuple[float, float]


def secure_share(spec: CampaignSpec, claim: Claim) -> SecureShare:
    """The share of a campaign's runs that the closed form expects to give a key under a claim.

    The partition is the campaign's, or where the claim does not cover that one the partition that it needs.

    Raises:
        InvalidArgument: the space is one of another release.
    """
    partition = spec.protocol.partition
    if partition not in claim.partitions:
        partition = claim.partitions[0]
    physics = spec.physics.model_copy(update={"claim": claim.name})
    protocol = spec.protocol.model_copy(update={"partition": partition})
    space = spec.space.resolve()
    blind = space.blind_fraction
    designed, uniform = [], []
    for shift in np.random.default_rng(_SEED).random((_SHIFTS, len(PARAMETERS))):
        unit = (_lattice() + shift) % 1.0
        share = np.zeros(_POINTS)
        for strategy, weight in ((Strategy.BASELINE, 1.0 - blind), (Strategy.BLIND, blind)):
            if weight > 0.0:
                rows = space.from_unit(np.insert(unit, STRATEGY_COLUMN, strategy, axis=1))
                share += weight * expect(rows, physics, protocol).key
        density = _density(unit)
        designed.append(float((density * share).sum() / density.sum()))
        uniform.append(float(share.mean()))
    return SecureShare(partition, _mean(designed), _mean(uniform))


def _lattice() -> NDArray[np.float64]:
    """Points spread evenly over the unit cube, [n, 8]: multiples of the powers of the generalised golden ratio.

    Its x^(d+1) = x + 1 makes the fractional parts badly approximable together (Roberts, 2018).
    """
    dimensions = len(PARAMETERS)
    golden = 1.0
    for _ in range(64):
        golden = (1.0 + golden) ** (1.0 / (dimensions + 1))
    return np.arange(_POINTS)[:, None] * golden ** -np.arange(1.0, dimensions + 1.0)


def _density(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The design's density over that of uniform coordinates, [n]."""
    beta = [j for j, p in enumerate(PARAMETERS) if p.scale is Scale.BETA21]
    return np.prod(2.0 * unit[:, beta], axis=1)


def _mean(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
