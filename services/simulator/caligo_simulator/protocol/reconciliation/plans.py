"""Which code, and how much of it is punctured: what both parties fix before the first message.

The choice rests on the measured frame error rates of the pool (`data/error_rates.json`, written by
`measure`): for each code and number p of punctured bits, the rate is modelled as Phi((Q - centre) / width).
Punctured and shortened bits add up to the same number for every code, so every plan of a frame size carries
the same payload, and the plan that discloses least is the one that leaves the most key. Which frame size does,
depends on the length of the string as well: the harness decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from . import codes
from .codes import Code

BLIND_FRAME_ERROR_RATE = 1e-3
"""Frames that the blind protocol may have to drop at the QBER for which a plan is made."""
BLIND_ATTEMPTS = 4
_USED = 0.75
"""Share of the failure probability allowed that a plan uses by the table: the rest is left for the errors of fit and
interpolation."""
FIT_DEVIATION = {4096: 0.05, 65536: 0.12}
"""Standard deviation of ln(width) in the table, by frame size: how well so many measured frames place a waterfall."""
_LOWEST_QBER = 1e-4
_STEPS = 24
"""Into which the punctured bits are divided where the attempts of the blind protocol are placed."""
_SCHEDULES = np.array([(*steps, _STEPS) for steps in combinations(range(_STEPS), BLIND_ATTEMPTS - 1)])


@dataclass(frozen=True, eq=False)
class Plan:
    """The public agreement on a sample's frames.

    At the start `punctured` positions of each frame hold Alice's private bits. Attempt i is made after the
    first `revealed[i]` of them have been disclosed; revealed[0] = 0.
    """

    code: Code
    qber: float
    punctured: int
    revealed: tuple[int, ...] = (0,)

    @property
    def is_blind(self) -> bool:
        """Whether more is disclosed where Bob asks for it."""
        return len(self.revealed) > 1

    @property
    def payload(self) -> int:
        """Bits of the sifted string in a frame."""
        return self.code.n - self.code.modulated.size

    @property
    def reveal_order(self) -> NDArray[np.int32]:
        """The punctured positions, in the order in which they are disclosed."""
        return self.code.modulated[: self.punctured][::-1]

    @property
    def reliability(self) -> float:
        """ln((1 - Q) / Q): how far Bob trusts a payload bit before decoding."""
        q = min(max(self.qber, _LOWEST_QBER), 0.5)
        return log((1.0 - q) / q)

    @property
    def syndrome_leak(self) -> NDArray[np.int64]:
        """Bits disclosed about the payload after attempt i, int64 (attempts,): (n - k) - p + revealed."""
        return self.code.m - self.punctured + np.asarray(self.revealed, np.int64)


@dataclass(frozen=True)
class ErrorRates:
    """Measured frame error rates of one code: centre and width at increasing numbers of punctured bits."""

    punctured: tuple[int, ...]
    centre: tuple[float, ...]
    width: tuple[float, ...]

    def at(self, punctured: NDArray[np.int64], qber: float) -> NDArray[np.float64]:
        """Frame error rates with these numbers of punctured bits, float64 of their shape, at `qber`."""
        centre = np.interp(punctured, self.punctured, self.centre)
        width = np.interp(punctured, self.punctured, self.width)
        return ndtr((qber - centre) / width)

    def most_punctured(self, qber: float, failure: float) -> int | None:
        """Most punctured bits with which a frame fails with probability `failure` at most, None if there are none."""
        limit = np.array(self.centre) + ndtri(_USED * failure) * np.array(self.width)
        if qber > limit[0]:
            return None
        return int(np.interp(-qber, -limit, self.punctured))


@cache
def error_rates(n: int) -> dict[float, ErrorRates]:
    """By rate, for frames of n."""
    table = json.loads((codes.DATA / "error_rates.json").read_bytes())
    return {
        rate: ErrorRates(**{key: tuple(values) for key, values in table[codes.name(n, rate)].items()})
        for rate in codes.RATES
    }


def baseline_plan(design_qber: float, n: int, frame_failure: float) -> Plan | None:
    """One message at a fixed rate (Elkouss et al. 2010), of which a frame fails with this probability at most.

    None where no code of the pool serves `design_qber`. Failure probabilities far below the measured ones (some 1e-3)
    rest on the fitted waterfall, whose tail was not seen.
    """
    candidates = []
    for rate, measured in error_rates(n).items():
        punctured = measured.most_punctured(design_qber, frame_failure)
        if punctured is not None:
            candidates.append(Plan(codes.load(n, rate), design_qber, punctured))
    return min(candidates, key=lambda plan: int(plan.syndrome_leak[0]), default=None)


def expected_leak(plan: Plan) -> float:
    """Mean disclosed bits of a frame that succeeds (Martinez-Mateo et al. 2012, Eq. 8-12), tag not counted."""
    return float(_mean_over_attempts(_failed(plan, plan.qber), plan.syndrome_leak))


def frame_error_rate(plan: Plan, qber: float, fit_error: float = 0.0) -> float:
    """Probability that a frame is not corrected in the last attempt, by the measured table.

    fit_error: by how many standard deviations of the fit the widths are off.
    """
    deviations = ndtri(_failed(plan, qber)[-1])
    return float(ndtr(deviations * np.exp(-fit_error * FIT_DEVIATION[plan.code.n])))


def _failed(plan: Plan, qber: float) -> NDArray[np.float64]:
    """Frame error rates after each attempt, float64 (attempts,)."""
    measured = error_rates(plan.code.n)[round(plan.code.rate, 2)]
    return measured.at(plan.punctured - np.array(plan.revealed), qber)


def blind_plan(prior_qber: float, n: int) -> Plan | None:
    """As much punctured as pays, then disclosed step by step (Martinez-Mateo et al. 2012, section 4.1).

    The steps are not equal, as there, but those of the least expected leak at `prior_qber`, the error rate that the
    devices are known for. None where no code of the pool serves it.
    """
    candidates = []
    for rate, measured in error_rates(n).items():
        if measured.most_punctured(prior_qber, BLIND_FRAME_ERROR_RATE) is not None:
            punctured = _best_steps(measured, prior_qber)
            revealed = tuple((punctured[0] - punctured).tolist())
            candidates.append(Plan(codes.load(n, rate), prior_qber, int(punctured[0]), revealed))
    return min(candidates, key=expected_leak, default=None)


def _best_steps(measured: ErrorRates, qber: float) -> NDArray[np.int64]:
    """Punctured bits at each attempt, none at the last, int64 (BLIND_ATTEMPTS,)."""
    grid = np.linspace(measured.punctured[-1], 0, _STEPS + 1).round().astype(np.int64)
    failed = measured.at(grid, qber)
    tried = grid[_SCHEDULES]
    return tried[np.argmin(_mean_over_attempts(failed[_SCHEDULES], -tried))]


def _mean_over_attempts(failed: NDArray[np.float64], value: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of `value` (..., attempts) over the frames that succeed, `failed` being the frame error rates."""
    succeeds = -np.diff(np.minimum.accumulate(failed, axis=-1), prepend=1.0, axis=-1)
    return (succeeds * value).sum(axis=-1) / np.maximum(succeeds.sum(axis=-1), 1e-12)
