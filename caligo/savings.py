"""Seconds of simulation that the guardrail saved."""

from __future__ import annotations

import dataclasses
import math
from typing import Self

import numpy as np

from caligo import screening
from caligo.results import ProtocolOutcome, ResultRows, count, metric, simulated
from caligo.spec import PhysicsSpec, ProtocolSpec


@dataclasses.dataclass(frozen=True)
class Savings:
    """What rows cost, and what skipped ones would have; those of parts of the rows add up.

    A skipped row counts as its pairs times the seconds a pair of the rows most like it: simulated ones that closed form
    holds for likelier lost than not.

    Attributes:
        spent: seconds of the simulated rows, summed over workers.
        skipped_pairs: pairs of the rows that the guardrail skipped.
        like: of the rows like them, number, and sums of s, n, s^2, s n and n^2 of their seconds s and pairs n.
    """

    spent: float = 0.0
    skipped_pairs: float = 0.0
    like: tuple[float, ...] = (0.0,) * 6

    @classmethod
    def of(cls, rows: ResultRows, physics: PhysicsSpec, protocol: ProtocolSpec) -> Self:
        """Of result rows [n]."""
        foretold = rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
        ended = rows[simulated(rows)]
        like = ended[screening.failure_log_odds(ended["inputs"], physics, protocol) > 0]
        s, n = metric(like, "wall_seconds").astype(np.float64), count(like, "pairs").astype(np.float64)
        sums = (len(like), s.sum(), n.sum(), (s * s).sum(), (s * n).sum(), (n * n).sum())
        spent = float(metric(ended, "wall_seconds").sum(dtype=np.float64))
        return cls(spent, float(count(rows[foretold], "pairs").sum()), tuple(map(float, sums)))

    def __add__(self, other: Self) -> Self:
        like = tuple(a + b for a, b in zip(self.like, other.like, strict=True))
        return type(self)(self.spent + other.spent, self.skipped_pairs + other.skipped_pairs, like)

    def saved(self) -> tuple[float, float]:
        """Seconds saved and the standard error of the ratio estimate that they are; NaN where no row is like them."""
        if not self.skipped_pairs:
            return 0.0, 0.0
        rows, s, n, ss, sn, nn = self.like
        if rows < 2 or not n:
            return math.nan, math.nan
        rate = s / n
        scatter = max(0.0, ss - 2 * rate * sn + rate * rate * nn) * rows / (rows - 1)
        return self.skipped_pairs * rate, self.skipped_pairs * math.sqrt(scatter) / n
