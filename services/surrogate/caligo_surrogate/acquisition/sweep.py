"""The points that a batch is chosen from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import torch

from caligo import logs
from caligo_surrogate.escalation import UnsoundError
from caligo_surrogate.posterior import Moments, Posterior

log = logs.get("surrogate.acquisition")

FIRST: Final = 2048
"""Points of a sweep that do where a fair part of the space is undecided."""
MOST: Final = 2**14
"""Points after which a sweep ends, however few are undecided."""
WANTED: Final = 256
"""Undecided points that are enough to choose from and to integrate over."""
DECIDED: Final = 0.05
"""Probability of a key, or of none, below which there is nothing to find out at a point. The posterior's own doubt is
in it, so where the closed form is right that is 0.01 of the closed form's."""
_PIECE: Final = 2048
"""Points valued at once."""


@dataclass(frozen=True)
class Sweep:
    """Points where a run could go either way, the likeliest to surprise first.

    Attributes:
        points: float32 [m, 9], unit coordinates.
        moments: of the posterior there, [m] each.
        doubt: p (1 - p) of the probability of a key, [m], falling.
    """

    points: torch.Tensor
    moments: Moments
    doubt: torch.Tensor

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, posterior: Posterior, points: Callable[[int], torch.Tensor], size: int, level: float) -> Self:
        """At least `size` points out of the sequence `points`: all that are undecided, up to `WANTED` of them.

        Where fewer are undecided than are wanted for a batch, the least decided ones fill up.

        Raises:
            UnsoundError: the posterior's numbers cannot be right.
        """
        n = FIRST
        while True:
            swept = points(n)
            moments = _moments(posterior, swept)
            key = moments.key(level)
            doubt = key * (1 - key)
            if not bool(doubt.isfinite().all()):
                raise UnsoundError("the probabilities of a key over the sweep are not finite")
            undecided = int((doubt > DECIDED * (1 - DECIDED)).sum())
            if undecided >= WANTED or n >= MOST:
                break
            n *= 2
        if undecided < size:
            log.info("nearly everything is decided", undecided=undecided, of=len(swept), wanted=size)
        # A stable sort: equal values are the rule where all is decided, and the batch must not depend on the device.
        chosen = doubt.sort(descending=True, stable=True).indices[: max(size, min(undecided, WANTED))]
        return cls(swept[chosen], Moments(*(values[chosen] for values in moments)), doubt[chosen])


def _moments(posterior: Posterior, points: torch.Tensor) -> Moments:
    with torch.no_grad():
        pieces = [posterior.marginal(piece) for piece in points.split(_PIECE)]
    return Moments(*(torch.cat(values) for values in zip(*pieces, strict=True)))
