"""Finite-size statistics and key length."""

from math import ceil, floor, log, log2, sqrt
from typing import Literal

from .entropy import binary_entropy
from .pdc import heralded_source
from .security import Bound, rate_after_storage

Penalty = Literal["binomial", "serfling"]

_LN2 = log(2.0)
_NEWTON_STEPS = 8


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


def min_entropy_lupo2023(m: float, r: float, nu: float, eps: float) -> float:
    """Finite form of security.min_entropy_rate_lupo2023, with its assumptions, bits.

    min{ I(m), I((1-nu) m) + max(0, nu m (1-r) - sqrt(nu m ln(1/eps)/2)) } with I the
    immediate-measurement entropy: Bob either measures all m positions at once, or stores nu m of them,
    of which the memory erases at least the second term but with probability eps (Hoeffding on the
    virtual erasures of Lupo Eqs. 30-35). An erased bit is uniform to Bob and needs no smoothing.
    """
    stored = nu * m
    erased = stored * (1.0 - r) - sqrt(0.5 * stored * log(1.0 / eps))
    measured = immediate_measurement_entropy(m - stored, eps)
    return min(immediate_measurement_entropy(m, eps), measured + max(0.0, erased))


def min_entropy_kww2012(m: float, r: float, nu: float, eps: float) -> float:
    """Finite form of security.min_entropy_rate_kww2012, with its assumptions, bits.

    Of the 2m rounds of both strings, I(2m) bits are unknown before the memory is read; log2(1/eps) + 1
    are lost in passing to the memory's success probability (KWW 2012 Lemma 2.2; Lupo Eq. 12) and the
    rest goes through the strong converse. The unknown string holds half (min-entropy splitting), less
    one bit for its name.
    """
    rounds = 2.0 * m
    if rounds <= 0.0:
        return 0.0
    before = immediate_measurement_entropy(rounds, eps) - log2(1.0 / eps) - 1.0
    return max(0.0, 0.5 * rounds * rate_after_storage(r, nu, before / rounds) - 1.0)


def min_entropy_erven2014(m: float, r: float, nu: float, eps: float) -> float:
    """Finite form of security.min_entropy_rate_erven2014, with its assumptions, bits.

    (1/2) nu n gamma_r(X/(nu n)) over the n = 2m rounds of both strings, X = I(n)/2 - 1 - log2(1/(2 eps)):
    the first term of Erven Eq. 8 with every detected round a single photon.
    """
    rounds = 2.0 * m
    if rounds <= 0.0:
        return 0.0
    before = 0.5 * immediate_measurement_entropy(rounds, eps) - 1.0 - log2(0.5 / eps)
    return 0.5 * rounds * rate_after_storage(r, nu, before / rounds)


def min_entropy(m: float, r: float, nu: float, eps: float, bound: Bound = "lupo2023") -> float:
    """Smooth min-entropy of the m reconciled bits that Bob should not know, bits.

    m: length of one string; r: retention after the wait; nu: stored qubits per detected round; eps:
    smoothing, (0, 1). Divided by m it tends to security.min_entropy_rate. Raises ValueError for another
    bound.
    """
    if bound == "lupo2023":
        return min_entropy_lupo2023(m, r, nu, eps)
    if bound == "kww2012":
        return min_entropy_kww2012(m, r, nu, eps)
    if bound == "erven2014":
        return min_entropy_erven2014(m, r, nu, eps)
    raise ValueError(f"bound must be 'lupo2023', 'kww2012' or 'erven2014', not {bound!r}")


def secret_bits(entropy: float, leak: float, eps: float) -> float:
    """H - leak - 2 log2(1/eps) + 1: extractable bits by the leftover hash lemma (Lupo Eq. 3), unrounded."""
    return entropy - leak - 2.0 * log2(1.0 / eps) + 1.0


def key_length(m: float, leak: float, r: float, nu: float, eps: float, bound: Bound = "lupo2023") -> int:
    """Length of each oblivious-transfer string, bits; zero or negative where there is no key.

    leak: public bits about one string (syndrome, disclosed bits, tags). eps is both the smoothing and
    the hashing parameter, (0, 1). Raises ValueError for another bound.
    """
    return floor(secret_bits(min_entropy(m, r, nu, eps, bound), leak, eps))


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


def binomial_margin(qber: float, k: float, z: float = 3.0) -> float:
    """z sqrt(max(Q, 1/k) (1-Q) / k): z standard deviations of a rate seen on k test bits."""
    return z * sqrt(max(qber, 1.0 / k) * (1.0 - qber) / k)


def serfling_margin(n: float, k: float, eps: float) -> float:
    """sqrt((n+k)/(nk) (k+1)/k ln(4/eps)) for k test bits of n+k: Tomamichel et al., Nat. Commun. 3:634."""
    return sqrt((n + k) / (n * k) * (k + 1.0) / k * log(4.0 / eps))


def qber_margin(qber: float, n: float, k: float, eps: float, penalty: Penalty = "binomial") -> float:
    """What to add to an error rate seen on k test bits before choosing the code for the other n.

    The security does not rest on it: the leak is counted bit by bit. "binomial": three standard
    deviations; "serfling": holds but with probability eps. Raises ValueError for another name.
    """
    if penalty == "binomial":
        return binomial_margin(qber, k)
    if penalty == "serfling":
        return serfling_margin(n, k, eps)
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
