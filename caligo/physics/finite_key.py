"""Finite-size statistics and key length."""

from math import ceil, exp, expm1, floor, lgamma, log, log1p, log2, pi, sqrt
from statistics import NormalDist
from typing import Literal

from .entropy import binary_entropy
from .pdc import heralded_source
from .security import rate_after_storage

Penalty = Literal["binomial", "serfling"]

ERASING = 0
"""A memory that keeps a qubit with probability r and says which ones it lost."""
DEPOLARISING = 1
"""A memory that replaces a qubit by noise with probability 1-r and does not say where."""

_LN2 = log(2.0)
_NEWTON_STEPS = 8
_GOLDEN = 0.5 * (sqrt(5.0) - 1.0)
_SECTIONS = 32


def immediate_measurement_entropy(n: float, eps: float) -> float:
    """Smooth min-entropy of n BB84 rounds against a Bob who measured at once, bits.

    max over 0 < s <= 1 of { n [1 + s - log2(1 + 2^s)] - log2(2/eps^2) } / s: Ng, Berta, Wehner, Phys.
    Rev. A 86, 042308 (2012); Ng et al., Nat. Commun. 3:1326, Eq. S40. With phi(s) the bracket, the
    maximum lies at s = 1 or where phi - s phi' = log2(2/eps^2)/n, and there it equals n/(1 + 2^s).
    0 where that is negative (n below a few hundred), since a min-entropy never is.
    """
    smoothing = 1.0 - 2.0 * log2(eps)
    phi_one = 2.0 - log2(3.0)
    if smoothing >= n * (phi_one - 1.0 / 3.0):
        return max(0.0, n * phi_one - smoothing)
    per_round = smoothing / n
    s = min(1.0, sqrt(8.0 * per_round / _LN2))
    for _ in range(_NEWTON_STEPS):
        power = 2.0**s
        tangent = 1.0 + s - log2(1.0 + power) - s / (1.0 + power)
        curvature = s * _LN2 * power / (1.0 + power) ** 2
        s = min(1.0, s + (per_round - tangent) / curvature)
    return n / (1.0 + 2.0**s)


def balancing_cost(m: float) -> float:
    """log2(4^m / C(2m, m)), bits: what it costs that m of 2m bases are known to be Z instead of each being a coin.

    ~ log2(pi m)/2, 7 bits at m = 3,686. Where m is large the logarithms of the factorials cancel, and the series of
    their difference is exact to 1e-13.
    """
    if m < 32.0:
        return 2.0 * m - (lgamma(2.0 * m + 1.0) - 2.0 * lgamma(m + 1.0)) / _LN2
    inverse = 1.0 / m
    series = inverse * (0.125 - inverse**2 * (1.0 / 192.0 - inverse**2 / 640.0))
    return (0.5 * log(pi * m) + series) / _LN2


def round_entropy(s: float, r: float, nu: float, memory: int) -> float:
    """-log2 kappa_s of one round, bits, for 0 < s <= 1; kappa_s bounds the mean over the bases of sum_x p(x)^(1+s).

    kappa_s = (1-nu) c_s + nu max(c_s, k_s): c_s = (1 + 2^-s)/2 for a round measured before its basis is known (Ng,
    Berta, Wehner, Phys. Rev. A 86, 042308), k_s for a stored one, which is r + (1-r) 2^-s where memory is ERASING
    and q^(1+s) + (1-q)^(1+s), q = (1-r)/2, where it is DEPOLARISING. Divided by s it tends to the claims' rate for
    s -> 0, so 1 - kappa_s is what is computed.
    """
    lost = -expm1(-s * _LN2)
    measured = 0.5 * lost
    if memory == ERASING:
        stored = (1.0 - r) * lost
    else:
        flip = 0.5 * (1.0 - r)
        stored = -(1.0 - flip) * expm1(s * log1p(-flip))
        if flip > 0.0:
            stored -= flip * expm1(s * log(flip))
    return -log1p(-((1.0 - nu) * measured + nu * min(measured, stored))) / _LN2


def unknown_bits(rounds: float, cost: float, r: float, nu: float, memory: int) -> float:
    """max over 0 < s <= 1 of {rounds round_entropy(s) - cost}/s, bits, at least 0; cost > 0 in bits.

    Every s gives a valid bound, so a maximum that is missed costs key and nothing else. round_entropy is concave in
    s (kappa_s is a maximum of sums of exponentials), hence the bound has one maximum. It lies above sqrt(cost/rounds):
    the curvature of a round's entropy is the variance of its surprisal, at most 0.92 bits^2, times ln 2.
    """
    if rounds <= 0.0:
        return 0.0
    low = 0.5 * log(min(1.0, cost / rounds))
    width = -low
    best = rounds * round_entropy(1.0, r, nu, memory) - cost
    left = low + (1.0 - _GOLDEN) * width
    right = low + _GOLDEN * width
    s = exp(left)
    at_left = (rounds * round_entropy(s, r, nu, memory) - cost) / s
    s = exp(right)
    at_right = (rounds * round_entropy(s, r, nu, memory) - cost) / s
    for _ in range(_SECTIONS):
        best = max(best, at_left, at_right)
        width *= _GOLDEN
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * width
            s = exp(right)
            at_right = (rounds * round_entropy(s, r, nu, memory) - cost) / s
        else:
            right, at_right = left, at_left
            left = low + (1.0 - _GOLDEN) * width
            s = exp(left)
            at_left = (rounds * round_entropy(s, r, nu, memory) - cost) / s
    return max(0.0, best)


def min_entropy_individual(
    rounds: float, r: float, nu: float, eps_s: float, balanced: float, known: float = 0.0
) -> float:
    """Bits of both strings together that Bob does not know but with probability eps_s, before any leak.

    rounds: length of both strings; r: retention after the wait; nu: share of the rounds that he stores; balanced:
    1.0 where rounds/2 of each basis were kept by a cut, 0.0 where every round is; known: rounds whose bits he knows
    anyway. Divided by `rounds - known` it tends to security.min_entropy_rate_individual. docs/physics.md derives it.
    """
    return unknown_bits(rounds - known, log2(1.0 / eps_s) + balanced * balancing_cost(0.5 * rounds), r, nu, ERASING)


def min_entropy_stw09(rounds: float, r: float, nu: float, eps_s: float, balanced: float, known: float = 0.0) -> float:
    """min_entropy_individual with a memory that depolarises without a flag; security.min_entropy_rate_stw09."""
    cost = log2(1.0 / eps_s) + balanced * balancing_cost(0.5 * rounds)
    return unknown_bits(rounds - known, cost, r, nu, DEPOLARISING)


def min_entropy_lupo2023(m: float, r: float, nu: float, eps_s: float, eps_e: float) -> float:
    """Smooth min-entropy of the m bits of one string, bits; divided by m it tends to min_entropy_rate_lupo2023.

    min{ I(m), I((1-nu) m) + max(0, nu m (1-r) - sqrt(nu m ln(1/eps_e)/2)) } with I the
    immediate-measurement entropy: Bob either measures all m positions at once, or stores nu m of them,
    of which the memory erases at least the second term but with probability eps_e (Hoeffding on the
    virtual erasures of Lupo Eqs. 30-35). An erased bit is uniform to Bob and needs no smoothing.
    """
    stored = nu * m
    erased = stored * (1.0 - r) - sqrt(0.5 * stored * log(1.0 / eps_e))
    measured = immediate_measurement_entropy(m - stored, eps_s)
    return min(immediate_measurement_entropy(m, eps_s), measured + max(0.0, erased))


def min_entropy_kww2012(m: float, r: float, nu: float, eps_s: float, eps_m: float) -> float:
    """Finite form of security.min_entropy_rate_kww2012 for one string of m bits, bits.

    Of the 2m rounds of both strings, I(2m) bits are unknown before the memory is read; log2(1/eps_m) + 1
    are lost in passing to the memory's success probability (KWW 2012 Lemma 2.2; Lupo Eq. 12) and the
    rest goes through the strong converse. The unknown string holds half (min-entropy splitting), less
    one bit for its name.
    """
    rounds = 2.0 * m
    if rounds <= 0.0:
        return 0.0
    before = immediate_measurement_entropy(rounds, eps_s) - log2(1.0 / eps_m) - 1.0
    return max(0.0, 0.5 * rounds * rate_after_storage(r, nu, before / rounds) - 1.0)


def min_entropy_erven2014(m: float, r: float, nu: float, eps_s: float, eps_m: float, known: float = 0.0) -> float:
    """Finite form of security.min_entropy_rate_erven2014 for one string of m bits, bits.

    (1/2) nu n gamma_r(X/(nu n)) over the n = 2m rounds of both strings, X = I(n)/2 - 1 - log2(1/(2 eps_m)):
    the first term of Erven Eq. 8. known: rounds with more than one photon, which leave m_1 = n - known of them in I.
    """
    rounds = 2.0 * m
    if rounds <= known:
        return 0.0
    before = 0.5 * immediate_measurement_entropy(rounds - known, eps_s) - 1.0 - log2(0.5 / eps_m)
    return 0.5 * rounds * rate_after_storage(r, nu, before / rounds)


def detection_tolerance(n: float, eps: float) -> float:
    """zeta = sqrt(ln(2/eps) / (2n)): two-sided Hoeffding deviation of a frequency over n rounds."""
    return sqrt(log(2.0 / eps) / (2.0 * n))


def detection_interval(n: int, p_click: float, eps: float) -> tuple[int, int]:
    """The detection counts (low, high), both included, that Alice accepts out of n rounds.

    n (p_click -+ zeta) cut to [0, n]; honest parties fall outside with probability at most eps
    (Wehner10 Protocol 1; Erven 2014, "Correctness").
    """
    zeta = detection_tolerance(n, eps)
    return max(0, ceil(n * (p_click - zeta))), min(n, floor(n * (p_click + zeta)))


def wilson_upper(qber: float, k: float, z: float) -> float:
    """Upper limit of Wilson's score interval for an error rate seen on k bits, z standard deviations out, [0, 1].

    The largest rate Q whose own deviation z sqrt(Q (1-Q)/k) reaches down to what was seen; Wilson, J. Am. Stat. Assoc.
    22, 209 (1927). Unlike the deviation at the seen rate it holds where few errors or none were seen.
    """
    spread = z * z / k
    return (qber + 0.5 * spread + sqrt(spread * (qber * (1.0 - qber) + 0.25 * spread))) / (1.0 + spread)


def serfling_margin(n: float, k: float, eps: float) -> float:
    """sqrt((n+k)/(nk) (k+1)/k ln(4/eps)) for k test bits of n+k: Tomamichel et al., Nat. Commun. 3:634."""
    return sqrt((n + k) / (n * k) * (k + 1.0) / k * log(4.0 / eps))


def design_qber(qber: float, n: float, k: float, failure: float, penalty: Penalty = "binomial") -> float:
    """The error rate to choose the code for, given the rate seen on k bits, [0, 1/2].

    "binomial": Wilson's limit, which the rate behind the k bits exceeds with at most the probability `failure`, (0, 1)
    (checked by exact sums for 1.5e-3, k from 200 to 1e6 and rates from 0.2 to 10 %); "serfling": serfling_margin,
    which the rate of the other n bits exceeds with at most that, and which is far wider. The security does not rest
    on it: the leak is counted bit by bit. Raises ValueError for another penalty.
    """
    if penalty == "binomial":
        return min(0.5, wilson_upper(qber, k, NormalDist().inv_cdf(1.0 - failure)))
    if penalty == "serfling":
        return min(0.5, qber + serfling_margin(n, k, failure))
    raise ValueError(f"penalty must be 'binomial' or 'serfling', not {penalty!r}")


def erven2014_key_length(
    *, mu: float, eta: float, e_det: float, p_dark: float, n: float, r: float, nu: float, eps: float, f: float
) -> int:
    """Key bits of one string, Erven Eq. 8; zero or negative where there is no key.

    mu: mean pairs per coherence time; eta: transmittance, the same on both sides; e_det: wrong-detector
    probability; p_dark: dark count probability; n: rounds; r, nu: memory retention and stored qubits per
    round; eps: error parameter; f: reconciliation efficiency. Eq. 4 and the deviation zeta are taken with
    log2(2/eps^2) and ln(2/eps), the forms of their sources (docs/physics.md says what the print has).
    """
    source = heralded_source(mu, eta, e_det, p_dark)
    detected = (1.0 - source.no_click) * n
    single = (source.single + source.vacuum - source.no_click - 3.0 * detection_tolerance(n, eps)) * n
    before_storage = 0.5 * immediate_measurement_entropy(single, eps) - 1.0 - log2(0.5 / eps)
    after_storage = n * rate_after_storage(r, nu, before_storage / n)
    syndrome = 0.5 * detected * f * binary_entropy(source.error)
    return floor(0.5 * after_storage - syndrome - log2(0.5 / eps))
