"""The scale on which the regressor learns its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MARGIN_BEND: Final = 0.2
"""Margins beyond this are drawn together: what decides a key is near 0, and the steep fall to -1 where pairs are few
would set length scales and noise for everywhere (docs/decisions/0013-margin-on-an-asinh-scale.md)."""


@dataclass(frozen=True)
class TargetScale:
    """The map from the target t to what is learned: (bend asinh(t / bend) - shift) / scale.

    It is increasing, so quantiles go over into quantiles.

    Attributes:
        bend: infinite where nothing is bent.
        threshold: of the target, above which a run counts as one with a key.
    """

    shift: float
    scale: float
    bend: float
    threshold: float = 0.0

    @classmethod
    def of(cls, target: NDArray[np.float32], bend: float = math.inf, threshold: float = 0.0) -> TargetScale:
        """The map to mean 0 and standard deviation 1 of a target, float32 [n]; one value everywhere keeps its scale."""
        bent = _bent(target, bend)
        spread = float(bent.std())
        return cls(float(bent.mean()), spread if spread > 1e-6 else 1.0, bend, threshold)

    @property
    def level(self) -> float:
        """Where the threshold lies on the scale."""
        return float(self.apply(np.array([self.threshold], dtype=np.float32))[0])

    def apply(self, target: NDArray[np.float32]) -> NDArray[np.float32]:
        """Targets on the scale that is learned, float32 [n]."""
        return ((_bent(target, self.bend) - self.shift) / self.scale).astype(np.float32)

    def invert(
        self, mean: NDArray[np.float32], sd: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Median and half of the central 68.3 % interval of the target, float32 [n] each, of normal variables on this
        scale; without a bend these are mean and standard deviation."""
        middle = self.shift + self.scale * mean.astype(np.float64)
        half = self.scale * sd.astype(np.float64)
        if math.isfinite(self.bend):
            middle, half = middle / self.bend, half / self.bend
            middle, half = self.bend * np.sinh(middle), self.bend * np.cosh(middle) * np.sinh(half)
        return middle.astype(np.float32), half.astype(np.float32)


def _bent(target: NDArray[np.float32], bend: float) -> NDArray[np.float64]:
    exact = target.astype(np.float64)
    return bend * np.arcsinh(exact / bend) if math.isfinite(bend) else exact
