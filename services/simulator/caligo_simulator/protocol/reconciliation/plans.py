"""Which code, and how much of it is punctured: what both parties fix before the first message.

The choice rests on the measured frame error rates of the pool (`data/error_rates.json`, written by
`measure`): for each code and number p of punctured bits, the rate is modelled as Phi((Q - centre) / width).
Punctured and shortened bits add up to the same number for every code, so every plan of a frame size carries
the same payload, and the plan that discloses least is the one that leaves the most key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import erf, log, sqrt

import numpy as np
from numpy.typing import NDArray

from . import codes
from .codes import Code

HIGHEST_FRAME_ERROR_RATE = 1e-2
"""Frames that may fail at the QBER for which a plan is made."""
BLIND_ATTEMPTS = 4
_QUANTILE = 2.4323790585844463
"""Phi(-x) = 3/4 of HIGHEST_FRAME_ERROR_RATE: the rest is left for the errors of fit and interpolation."""
_LOWEST_QBER = 1e-4


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

    def at(self, punctured: float, qber: float) -> float:
        """Frame error rate with `punctured` bits at `qber`."""
        centre = float(np.interp(punctured, self.punctured, self.centre))
        width = float(np.interp(punctured, self.punctured, self.width))
        return 0.5 * (1.0 + erf((qber - centre) / width / sqrt(2.0)))

    def most_punctured(self, qber: float) -> int | None:
        """Most punctured bits that keep the frame error rate, None if none do."""
        limit = np.array(self.centre) - _QUANTILE * np.array(self.width)
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


def baseline_plan(design_qber: float, n: int = 4096) -> Plan | None:
    """One message at a fixed rate (Elkouss et al. 2010); None where no code of the pool serves `design_qber`."""
    candidates = []
    for rate, measured in error_rates(n).items():
        punctured = measured.most_punctured(design_qber)
        if punctured is not None:
            candidates.append(Plan(codes.load(n, rate), design_qber, punctured))
    return min(candidates, key=lambda plan: int(plan.syndrome_leak[0]), default=None)


def blind_steps(punctured: int) -> tuple[int, ...]:
    """Bits revealed before each of the attempts: equal steps from none to all."""
    return tuple(round(punctured * i / (BLIND_ATTEMPTS - 1)) for i in range(BLIND_ATTEMPTS))


def expected_leak(plan: Plan, measured: ErrorRates) -> float:
    """Mean disclosed bits of a frame that succeeds (Martinez-Mateo et al. 2012, Eq. 8-12), tag not counted."""
    failed = np.array([1.0] + [measured.at(plan.punctured - r, plan.qber) for r in plan.revealed])
    succeeds = np.maximum(failed[:-1] - np.minimum.accumulate(failed)[1:], 0.0)
    return float(succeeds @ plan.syndrome_leak / max(succeeds.sum(), 1e-12))


def blind_plan(prior_qber: float, n: int = 4096) -> Plan | None:
    """All punctured at first, disclosed step by step (Martinez-Mateo et al. 2012, section 4.1).

    None where no code of the pool serves `prior_qber`, the error rate that the devices are known for.
    """
    candidates = []
    for rate, measured in error_rates(n).items():
        if measured.most_punctured(prior_qber) is not None:
            code = codes.load(n, rate)
            plan = Plan(code, prior_qber, code.punctured, blind_steps(code.punctured))
            candidates.append((expected_leak(plan, measured), plan))
    return min(candidates, key=lambda candidate: candidate[0])[1] if candidates else None
