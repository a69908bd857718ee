"""Which code, how much of it is punctured, and what the outer code restores: fixed before the first message.

The choice rests on the measured frame error rates of the pool (`data/error_rates.json`, written by
`tools.codes.measure`): for each code and number p of punctured bits, the rate is modelled as Phi((Q - centre) / width).
Punctured and shortened bits add up to the same number for every code, so every plan of a frame size carries
the same payload, and the plan that discloses least is the one that leaves the most key. Which frame size does,
depends on the length of the string as well: the harness decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations, pairwise
from math import exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from ..outer_code import MOST_FRAMES, SYMBOL_BITS, symbols_of
from . import codes
from .codes import Code

BLIND_FRAME_ERROR_RATE = 1e-3
"""Frames that the blind protocol may have to drop at the QBER for which a plan is made."""
BLIND_ATTEMPTS = 4
CHECK_BITS = 16
"""Of each frame's check: of the frames that short codes of high rates fail to decode, up to a twentieth have met their
syndromes all the same."""
MOST_ATTEMPTS = 3
"""Decodings of a frame of the baseline: before, between and after what the outer code restores."""
_MOST_FAILING = 0.1
"""Share of the baseline's frames that an attempt may leave: more would disclose less, and take longer to decode."""
_USED = 0.75
"""Share of the failure probability allowed that a plan uses by the table: the rest is left for the errors of fit and
interpolation."""
FIT_DEVIATION = {4096: 0.05, 65536: 0.12}
"""Standard deviation of ln(width) in the table, by frame size: how well so many measured frames place a waterfall."""
_LOWEST_QBER = 1e-4
_LEAST_ASKED = 1e-12
_STEPS = 24
"""Into which the punctured bits are divided where the attempts of the blind protocol are placed."""
_SCHEDULES = np.array([(*steps, _STEPS) for steps in combinations(range(_STEPS), BLIND_ATTEMPTS - 1)])


@dataclass(frozen=True, eq=False)
class Plan:
    """The public agreement on a sample's frames.

    At the start `punctured` positions of each frame hold Alice's private bits. Attempt i is made once Bob knows the
    first `revealed[i]` of them; revealed[0] = 0. In the blind protocol, where `restored` is None, he is told those of
    each frame that he asks for. In the baseline he finds them by the outer code for up to `restored[i]` frames that
    attempt i has left, and after the last attempt these frames themselves.
    """

    code: Code
    qber: float
    punctured: int
    revealed: tuple[int, ...] = (0,)
    restored: tuple[int, ...] | None = (0,)

    @property
    def is_blind(self) -> bool:
        """Whether more is disclosed where Bob asks for it."""
        return self.restored is None

    @property
    def check_bits(self) -> int:
        """Bits of a tag of each frame, where the outer code must know which frames are right."""
        return CHECK_BITS if self.restored is not None and any(self.restored) else 0

    @property
    def parts(self) -> list[NDArray[np.int64]]:
        """Positions of a frame that the outer code covers: after each attempt but the last what is revealed next, then
        the payload."""
        order = self.reveal_order.astype(np.int64)
        return [order[a:b] for a, b in pairwise(self.revealed)] + [self.code.payload]

    def leak(self, frames: int) -> int:
        """Bits that the one message of the baseline discloses about so many frames of a string, without the tag."""
        assert self.restored is not None
        outer = sum(count * _disclosed(part.size) for count, part in zip(self.restored, self.parts, strict=True))
        return frames * (self.code.m - self.punctured + self.check_bits) + outer

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


def baseline_plan(design_qber: float, n: int, frames: int, failure: float) -> Plan | None:
    """One message about so many frames of n, which loses one of them with probability `failure` at most.

    Of all rates, punctured bits and parts that the outer code restores, those that disclose least at error rate
    `design_qber`. None where no code of the pool serves it, or there are more frames than the outer code can name.
    """
    if frames > MOST_FRAMES:
        return None
    best: Plan | None = None
    least = np.inf
    candidates = []
    for rate, measured in error_rates(n).items():
        most = measured.most_punctured(design_qber, max(_MOST_FAILING, 1.0 / frames) / _USED)
        if most is not None:
            code = codes.load(n, rate)
            candidates.append((frames * (code.m - most), rate, code, measured))
    for at_least, _, code, measured in sorted(candidates, key=lambda candidate: candidate[:2]):
        if at_least >= least:
            break
        for attempts in range(1, MOST_ATTEMPTS + 1):
            leak, punctured, restored = _least_leak(code, measured, design_qber, frames, _USED * failure, attempts)
            if leak < least:
                revealed = tuple(int(punctured[0] - p) for p in punctured)
                least = leak
                best = Plan(code, design_qber, int(punctured[0]), revealed, tuple(map(int, restored)))
    return best


@lru_cache(maxsize=1024)
def least_failure(design_qber: float, n: int, frames: int) -> float | None:
    """Least failure probability that `baseline_plan` can be asked for if its leak shall leave something of the strings.

    None where it leaves nothing even if every second run may be lost. To within 1 %; never below `_LEAST_ASKED`, where
    the table is not to be trusted.
    """

    def serves(failure: float) -> bool:
        plan = baseline_plan(design_qber, n, frames, failure)
        return plan is not None and plan.leak(frames) < frames * plan.payload

    low, high = log(_LEAST_ASKED), log(0.5)
    if not serves(exp(high)):
        return None
    if serves(exp(low)):
        return _LEAST_ASKED
    while high - low > 0.01:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if serves(exp(middle)) else (middle, high)
    return exp(high)


def _least_leak(
    code: Code, measured: ErrorRates, qber: float, frames: int, failure: float, attempts: int
) -> tuple[float, NDArray[np.int64], NDArray[np.int64]]:
    """Least leak (infinite where there is none), punctured bits at each attempt and frames to restore after each, int64
    [attempts] both.

    Any attempt leaves more frames than are restored with probability `failure` at most. By dynamic programming from the
    last attempt back, over the numbers of punctured bits.
    """
    failure /= attempts
    exactly = measured.most_punctured(qber, failure / frames / _USED)  # what needs no outer code
    grid = np.unique(np.r_[np.linspace(0, code.punctured, _STEPS + 1).round().astype(np.int64), exactly or 0])[::-1]
    failing = measured.at(grid, qber)
    usable = failing <= max(_MOST_FAILING, 1.0 / frames)
    grid, failing = grid[usable], failing[usable]
    if grid.size < attempts:
        return np.inf, grid, grid
    restored = binom.isf(failure, frames, failing)
    gaps = grid[:, None] - grid
    step = np.where(gaps > 0, restored[:, None] * _disclosed(gaps), np.inf)
    costs = [restored * _disclosed(code.n - code.modulated.size)]
    nexts: list[NDArray[np.intp]] = []
    for _ in range(attempts - 1):
        ways = step + costs[-1]
        nexts.append(ways.argmin(axis=1))
        costs.append(ways.min(axis=1))
    totals = frames * (code.m - grid + np.where(costs[-1] > 0, CHECK_BITS, 0)) + costs[-1]
    path = [int(totals.argmin())]
    for following in reversed(nexts):
        path.append(int(following[path[-1]]))
    return float(totals[path[0]]), grid[path], restored[path].astype(np.int64)


def _disclosed(bits: int | NDArray[np.int64]) -> Any:
    """Bits of one parity over a part of so many bits."""
    return SYMBOL_BITS * symbols_of(bits)


def expected_leak(plan: Plan) -> float:
    """Mean disclosed bits of a frame that succeeds (Martinez-Mateo et al. 2012, Eq. 8-12), tag not counted."""
    return float(_mean_over_attempts(_failed(plan, plan.qber), plan.syndrome_leak))


def leak_deviation(plan: Plan) -> float:
    """Standard deviation of the disclosed bits of a frame that succeeds."""
    failed = _failed(plan, plan.qber)
    square = float(_mean_over_attempts(failed, plan.syndrome_leak**2))
    return sqrt(max(0.0, square - expected_leak(plan) ** 2))


def failing_frames(plan: Plan, qber: float, fit_error: float = 0.0) -> NDArray[np.float64]:
    """Share of the frames that each attempt leaves, by the measured table, float64 [attempts].

    fit_error: by how many standard deviations of the fit the widths are off.
    """
    deviations = ndtri(_failed(plan, qber))
    return ndtr(deviations * np.exp(-fit_error * FIT_DEVIATION[plan.code.n]))


def loss_probability(plan: Plan, frames: int, qber: float, fit_error: float = 0.0) -> float:
    """Probability that one of so many frames of the baseline is lost: at most the sum over the attempts, at most 1."""
    left = binom.sf(np.array(plan.restored), frames, failing_frames(plan, qber, fit_error))
    return float(min(1.0, left.sum()))


def draw_failing(plan: Plan, frames: int, qber: float, fit_error: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many of so many frames each attempt leaves, int64 [attempts], drawn at the rates of the table."""
    rates = np.minimum.accumulate(failing_frames(plan, qber, fit_error))
    found = []
    for before, rate in pairwise([1.0, *rates]):
        frames = int(rng.binomial(frames, rate / before)) if before > 0.0 else 0
        found.append(frames)
    return np.array(found)


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
            candidates.append(Plan(codes.load(n, rate), prior_qber, int(punctured[0]), revealed, None))
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
