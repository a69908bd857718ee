"""What a simulated device differs by from the closed form: what was found, and how it is said."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from caligo.space import COLUMN_SYMBOLS, PARAMETERS, STRATEGY_COLUMN, Strategy
from caligo.v1 import surrogate_pb2

SIGNIFICANCE: Final = 0.01
"""A deviation is claimed below this p value: in one of a hundred campaigns whose device is that of the closed form."""
FEWEST_ROWS: Final = 9
"""Rows below which nothing is tested: with fewer, no pattern of signs is rare enough for a p value of two tests below
`SIGNIFICANCE`."""
PROFILE_STEPS: Final = 17
"""Values of a parameter at which a profile along it is known."""
PROFILE_COLUMNS: Final = ("coordinate", "difference", "half_width")
RELEVANCE_COLUMNS: Final = ("first_order", "first_order_error", "total", "total_error")


class Verdict(enum.StrEnum):
    """Whether a device differs from the closed form."""

    NOT_TESTED = "not_tested"
    """There were too few rows."""
    AGREES = "agrees"
    """No deviation was found; how large one may be all the same, the bound says."""
    DIFFERS = "differs"


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """Margin of the device less that of the closed form, by a surrogate that started from the closed form.

    Attributes:
        rows: that were tested, those with a margin where the closed form does not lie far below the cliff.
        p_value: of the hypothesis that the mean of every row's margin is the closed form's; NaN where there are fewer
            rows than `FEWEST_ROWS`.
        bound: |difference| is below this everywhere at 95 %, margin; NaN where no place matters.
        point: where the difference stands out most, model coordinates [9]; NaN where no place matters.
        difference, deviation: mean and standard deviation of the difference there.
        parameter: symbol of the parameter along which the difference changes most; empty where there is none.
    """

    rows: int
    p_value: float
    bound: float
    point: Sequence[float]
    difference: float
    deviation: float
    parameter: str

    @classmethod
    def from_message(cls, message: surrogate_pb2.Discrepancy) -> Self:
        """From the contract's message, NaN for what is absent there."""

        def number(name: str) -> float:
            return getattr(message, name) if message.HasField(name) else math.nan

        return cls(
            rows=message.rows,
            p_value=number("p_value"),
            bound=number("bound"),
            point=list(message.point),
            difference=number("difference"),
            deviation=number("deviation"),
            parameter=message.parameter,
        )

    def to_message(self) -> surrogate_pb2.Discrepancy:
        """As the contract has it: what is NaN is absent."""
        numbers = {name: getattr(self, name) for name in ("p_value", "bound", "difference", "deviation")}
        return surrogate_pb2.Discrepancy(
            verdict=self.verdict.value,
            rows=self.rows,
            point=self.point if self._is_known else (),
            parameter=self.parameter or None,
            **{name: value for name, value in numbers.items() if not math.isnan(value)},
        )

    @property
    def verdict(self) -> Verdict:
        if not self.p_value >= 0:  # NaN
            return Verdict.NOT_TESTED
        return Verdict.DIFFERS if self.p_value < SIGNIFICANCE else Verdict.AGREES

    @property
    def sentence(self) -> str:
        """The verdict with its test and the size of the difference, one line."""
        match self.verdict:
            case Verdict.NOT_TESTED:
                return f"not tested: {self.rows:,} rows have a margin that counts, {FEWEST_ROWS} are needed{self._most}"
            case Verdict.AGREES:
                return f"no deviation found ({self._test}){self._most}"
        if not self._is_known:
            return f"deviates ({self._test})"
        along = f", most of all along {self.parameter}" if self.parameter else ""
        return f"deviates ({self._test}), clearest by {self.size} at {self.place}{along}{self._most}"

    @property
    def size(self) -> str:
        """The difference where it stands out most, with its 95 % band."""
        return f"{self.difference:+.2g} ± {1.96 * self.deviation:.1g}"

    @property
    def place(self) -> str:
        """Where it stands out most, in physical units: `r=0.8 nu=0.25 ... blind`."""
        values = [f"{p.symbol}={10.0**x if p.is_log else x:.3g}" for p, x in zip(PARAMETERS, self.point, strict=False)]
        return " ".join([*values, Strategy(round(self.point[STRATEGY_COLUMN])).name.lower()])

    @property
    def _is_known(self) -> bool:
        return self.bound >= 0  # not NaN

    @property
    def _test(self) -> str:
        return f"p = {self.p_value:.2g}, {self.rows:,} rows"

    @property
    def _most(self) -> str:
        return f"; |difference| below {self.bound:.2g} everywhere at 95 %" if self._is_known else ""


def steepest(profiles: NDArray[np.float32]) -> str:
    """Symbol of the parameter whose profile, of float32 [9, 17, 3], spans most; empty where there is none."""
    there = np.isfinite(profiles[:, :, 1])
    highest = np.where(there, profiles[:, :, 1], -np.inf).max(axis=1)
    span = np.where(there.sum(axis=1) > 1, highest - np.where(there, profiles[:, :, 1], np.inf).min(axis=1), 0.0)
    return COLUMN_SYMBOLS[int(np.argmax(span))] if span.any() else ""
