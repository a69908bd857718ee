"""The entropies of the claims over arrays, for NumPy and PyTorch: what `claims` and `finite_key` have for one run.

Where an entropy is a maximum over s, that s is found without gradients: by the envelope theorem the maximum's own
gradient is that at a fixed s.
"""

from collections.abc import Callable, Mapping
from math import log, log2, pi
from typing import Any

from .arrays import held
from .claims import LEGACY, RELEASE_0_1, Claim, Partition

_LN2 = log(2.0)
_TINY = 1e-300
_NEWTON_STEPS = 3
_DEPOLARISING_STEPS = 8
_INVERSE_STEPS = 7

Kappa = Callable[[Any], tuple[Any, Any, Any]]
"""s -> (kappa_s of a round, its first derivative, its second)."""


def binary_entropy(p: Any, xp: Any) -> Any:
    """entropy.binary_entropy, for p in [0, 1]."""
    p, complement = xp.clip(p, _TINY, None), xp.clip(1.0 - p, _TINY, None)
    return -(p * xp.log(p) + complement * xp.log(complement)) / _LN2


def inverse_binary_entropy(h: Any, xp: Any) -> Any:
    """entropy.inverse_binary_entropy. Newton's method from below, where the concave h cannot overshoot.

    h(p) is at most (4 p (1-p))^(1/ln 4): Topsoe, J. Inequal. Pure Appl. Math. 2, 25 (2001).
    """
    inside = xp.clip(h, 1e-15, 1.0 - 1e-15)
    value = held(inside)
    p = 0.5 * (1.0 - xp.sqrt(1.0 - xp.exp(2.0 * _LN2 * xp.log(value))))
    p = xp.clip(p, 1e-20, 0.5 - 1e-9)
    for _ in range(_INVERSE_STEPS):
        p = xp.clip(p + (value - binary_entropy(p, xp)) * _LN2 / xp.log((1.0 - p) / p), 1e-20, 0.5 - 1e-9)
    # One step more carries the gradient.
    p = p + (inside - binary_entropy(p, xp)) * _LN2 / xp.log((1.0 - p) / p)
    return xp.where(h <= 0.0, 0.0 * p, xp.where(h >= 1.0, 0.0 * p + 0.5, p))


def balancing_cost(m: Any, xp: Any) -> Any:
    """finite_key.balancing_cost by its series, for m of at least 32."""
    inverse = 1.0 / m
    square = inverse * inverse
    series = inverse * (0.125 - square * (1.0 / 192.0 - square / 640.0))
    return (0.5 * xp.log(pi * m) + series) / _LN2


def _optimum(cost: Any, kappa: Kappa, xp: Any, steps: int = _NEWTON_STEPS) -> Any:
    """The s in (0, 1] of the largest (-log2 kappa_s - cost)/s, cost in bits a round.

    There T(s) = g - s g' is the cost, g = -log2 kappa_s: T grows, like s^2 where s is small, so Newton's method runs on
    its square root.
    """
    s = xp.clip(xp.sqrt(8.0 / _LN2 * cost), 1e-8, 1.0)
    for _ in range(steps):
        value, first, second = kappa(s)
        slope = first / value
        tangent = xp.clip(s * slope - xp.log(value), _TINY, None)
        curvature = xp.clip(s * (second / value - slope * slope), _TINY, None)
        s = xp.clip(s - 2.0 * (tangent - xp.sqrt(tangent * (_LN2 * cost))) / curvature, 0.3 * s, None)
        s = xp.clip(s, 1e-8, 1.0)
    return s


def _linear(rate: Any, xp: Any) -> Kappa:
    """kappa_s = 1 - rate (1 - 2^-s): of a memory that shows what it lost, and of no memory at rate 1/2."""

    def kappa(s: Any) -> tuple[Any, Any, Any]:
        known = rate * xp.exp(-_LN2 * s)
        return 1.0 - rate + known, -_LN2 * known, _LN2**2 * known

    return kappa


def _bound(rounds: Any, cost: Any, lost: Any, s: Any, xp: Any) -> Any:
    """{-rounds log2(1 - lost) - cost}/s."""
    return (-rounds * xp.log1p(-lost) / _LN2 - cost) / s


def unknown_bits_erasing(rounds: Any, cost: Any, r: Any, nu: Any, xp: Any) -> Any:
    """finite_key.unknown_bits of an ERASING memory."""
    rate = 0.5 * (1.0 - nu) + nu * xp.clip(1.0 - r, None, 0.5)
    s = _optimum(held(cost / rounds), _linear(held(xp.clip(rate, 1e-12, None)), xp), xp)
    return xp.clip(_bound(rounds, cost, -rate * xp.expm1(-_LN2 * s), s, xp), 0.0, None)


def unknown_bits_depolarising(rounds: Any, cost: Any, r: Any, nu: Any, xp: Any) -> Any:
    """finite_key.unknown_bits of a DEPOLARISING memory.

    Bob stores or measures whichever leaves him more, so the bound is the lower of two, each with one maximum: it is
    largest at the maximum of either or where the two meet.
    """
    flip = xp.clip(0.5 * (1.0 - r), 1e-12, 0.5)
    low, high = xp.log(flip), xp.log1p(-flip)

    def stored(s: Any, low: Any, high: Any) -> Any:
        """What a stored round's kappa_s lacks to 1, which keeps its precision where s is small."""
        return -xp.exp(high) * xp.expm1(s * high) - xp.exp(low) * xp.expm1(s * low)

    def bound(s: Any) -> Any:
        measured = -0.5 * xp.expm1(-_LN2 * s)
        kept = stored(s, low, high)
        lost = (1.0 - nu) * measured + nu * xp.where(kept < measured, kept, measured)
        return _bound(rounds, cost, lost, s, xp)

    share, q_low, q_high = held(nu), held(low), held(high)
    a_round = held(cost / rounds)

    def kappa(s: Any) -> tuple[Any, Any, Any]:
        known = (1.0 - share) * 0.5 * xp.exp(-_LN2 * s)
        right, wrong = share * xp.exp((1.0 + s) * q_high), share * xp.exp((1.0 + s) * q_low)
        value = 0.5 * (1.0 - share) + known + right + wrong
        first = -_LN2 * known + q_high * right + q_low * wrong
        return value, first, _LN2**2 * known + q_high**2 * right + q_low**2 * wrong

    # Where the two meet, stored less measured falls through 0; beyond (0, 1] either end is as good a place.
    meeting = 0.5 + 0.0 * q_low
    for _ in range(_INVERSE_STEPS):
        gap = stored(meeting, q_low, q_high) + 0.5 * xp.expm1(-_LN2 * meeting)
        meeting = xp.clip(meeting - gap / _gap_slope(meeting, q_low, q_high, xp), 1e-3, 1.0)
    slope = _gap_slope(meeting, q_low, q_high, xp)
    inside = (meeting > 1e-3) & (meeting < 1.0)
    moved = meeting - (stored(meeting, low, high) + 0.5 * xp.expm1(-_LN2 * meeting)) / slope
    meeting = xp.where(inside, moved, meeting)

    best = bound(_optimum(a_round, _linear(0.5 + 0.0 * share, xp), xp))
    for s in (_optimum(a_round, kappa, xp, _DEPOLARISING_STEPS), meeting):
        other = bound(s)
        best = xp.where(other > best, other, best)
    return xp.clip(best, 0.0, None)


def _gap_slope(s: Any, low: Any, high: Any, xp: Any) -> Any:
    """d/ds of stored less measured, kept away from 0."""
    slope = -high * xp.exp((1.0 + s) * high) - low * xp.exp((1.0 + s) * low) - 0.5 * _LN2 * xp.exp(-_LN2 * s)
    return xp.where(xp.abs(slope) > 1e-6, slope, 0.0 * slope - 1e-6)


def immediate_measurement_entropy(n: Any, eps: float, xp: Any) -> Any:
    """finite_key.immediate_measurement_entropy."""
    rounds = xp.clip(n, 1e-3, None)
    smoothing = 1.0 - 2.0 * log2(eps)
    s = _optimum(held(smoothing / rounds), _linear(0.5 + 0.0 * held(rounds), xp), xp)
    return xp.clip(_bound(rounds, smoothing, -0.5 * xp.expm1(-_LN2 * s), s, xp), 0.0, None)


def strong_converse_exponent(r: Any, rate: Any, xp: Any) -> Any:
    """security.strong_converse_exponent."""
    flip = xp.clip(0.5 * (1.0 - r), _TINY, None)
    excess = rate - 1.0
    y = xp.clip(inverse_binary_entropy(xp.clip(-excess, 0.0, 1.0), xp), 1e-20, None)
    divergence = (1.0 - y) * (xp.log1p(-y) - xp.log1p(-flip)) + y * xp.log(y / flip)
    below = xp.where(y >= flip, 0.0 * divergence, xp.clip(divergence / _LN2, 0.0, None))
    return xp.where(excess >= 0.0, excess - xp.log1p(-flip) / _LN2, below)


def rate_after_storage(r: Any, nu: Any, rate: Any, xp: Any) -> Any:
    """security.rate_after_storage."""
    share = xp.clip(nu, _TINY, None)
    converse = nu * strong_converse_exponent(r, xp.clip(rate / share, 0.0, 1.0), xp)
    found = xp.where(nu <= rate, rate - nu * xp.log1p(r) / _LN2, converse)
    return xp.where(rate > 0.0, found, 0.0 * found)


def entropy_rate(claim: str, r: Any, nu: Any, xp: Any) -> Any:
    """security.min_entropy_rate."""
    bound = claim.removeprefix(RELEASE_0_1)
    if bound == "kww2012":
        return rate_after_storage(r, nu, 0.5 + 0.0 * r, xp)
    if bound == "erven2014":
        return rate_after_storage(r, nu, 0.25 + 0.0 * r, xp)
    stored = binary_entropy(0.5 * (1.0 + r), xp) if bound == "stw09" else 1.0 - r
    return 0.5 * (1.0 - nu) + nu * xp.clip(stored, None, 0.5)


# --- finite forms: (length, known, r, nu, eps) -> bits --------------------------------------------------------------


def _lupo2023(m: Any, known: Any, r: Any, nu: Any, eps: float, xp: Any) -> Any:
    stored = nu * m
    erased = stored * (1.0 - r) - xp.sqrt(0.5 * log(1.0 / eps) * stored)
    measured = immediate_measurement_entropy(m - stored, eps, xp) + xp.clip(erased, 0.0, None)
    at_once = immediate_measurement_entropy(m, eps, xp)
    return xp.where(measured < at_once, measured, at_once)


def _kww2012(m: Any, known: Any, r: Any, nu: Any, eps: float, xp: Any) -> Any:
    rounds = 2.0 * m
    before = immediate_measurement_entropy(rounds, eps, xp) - log2(1.0 / eps) - 1.0
    return xp.clip(0.5 * rounds * rate_after_storage(r, nu, before / rounds, xp) - 1.0, 0.0, None)


def _erven2014(m: Any, known: Any, r: Any, nu: Any, eps: float, xp: Any) -> Any:
    rounds = 2.0 * m
    before = 0.5 * immediate_measurement_entropy(rounds - known, eps, xp) - 1.0 - log2(0.5 / eps)
    return 0.5 * rounds * rate_after_storage(r, nu, before / rounds, xp)


_OF_ONE_STRING: Mapping[str, Callable[[Any, Any, Any, Any, float, Any], Any]] = {
    "lupo2023": _lupo2023,
    "kww2012": _kww2012,
    "erven2014": _erven2014,
}
_OF_BOTH_STRINGS: Mapping[str, Callable[[Any, Any, Any, Any, Any], Any]] = {
    "individual": unknown_bits_erasing,
    "stw09": unknown_bits_depolarising,
}


def entropy(
    claim: Claim,
    detected: Any,
    key_rounds: Any,
    cut: Any,
    removed: Any,
    known: Any,
    r: Any,
    nu: Any,
    eps: float,
    partition: Partition,
    xp: Any,
) -> Any:
    """KeyBits.entropy of a claim, of arrays that broadcast: `cut`, `key_rounds` at least 32, the rest as in Counts."""
    if claim.name in LEGACY:
        form = _OF_ONE_STRING[claim.name.removeprefix(RELEASE_0_1)]
        return xp.clip(form(cut - 0.5 * removed, known, r, nu, eps, xp), 0.0, None)
    both = claim.name in _OF_BOTH_STRINGS
    share = xp.clip(nu * detected / xp.clip(key_rounds - (known if both else 0.0), _TINY, None), None, 1.0)
    length = cut if partition == "alice" else 0.5 * key_rounds
    if both:
        cost = log2(1.0 / eps) + (balancing_cost(length, xp) if partition == "alice" else 0.0)
        unknown = 0.5 * _OF_BOTH_STRINGS[claim.name](xp.clip(2.0 * length - known, 1e-3, None), cost, r, share, xp)
    else:
        unknown = _OF_ONE_STRING[claim.name](length, known, r, share, eps, xp)
    return xp.clip(unknown - 0.5 * removed, 0.0, None)
