"""Asymptotic security in the noisy-storage model: what a dishonest Bob cannot know, per round.

The adversary has a perfect channel and perfect devices; he is limited only by a memory that keeps a
qubit with probability r and holds nu qubits per round. What the memory does to a qubit that it loses,
and which attacks are covered, differs from claim to claim: `caligo.physics.claims` says it for each.
"""

from collections.abc import Callable, Mapping
from math import log, log1p, log2
from typing import Literal

from .entropy import binary_entropy, inverse_binary_entropy, solve_entropy

MemoryModel = Literal["markov", "fixed"]

REFERENCE_WAIT_NS = 1e9


def markov_retention(r: float, wait_time_ns: float) -> float:
    """r^(dt / 1 s): a Markov memory that keeps a qubit one second with probability r, [0, 1].

    Koenig, Wehner, Wullschleger, IEEE Trans. Inf. Theory 58, 1962 (2012): Markovian noise composes,
    F_{t1+t2} = F_{t1} F_{t2}. The anchor at 1 s is the wait of Erven et al. (2014), who take r = 0.75.
    """
    return r ** (wait_time_ns / REFERENCE_WAIT_NS)


def effective_retention(r: float, wait_time_ns: float, memory_model: MemoryModel = "markov") -> float:
    """Retention probability of the adversary's memory after the wait, [0, 1].

    "markov": markov_retention; "fixed": r, whatever the wait. Raises ValueError for another name.
    """
    if memory_model == "markov":
        return markov_retention(r, wait_time_ns)
    if memory_model == "fixed":
        return r
    raise ValueError(f"memory_model must be 'markov' or 'fixed', not {memory_model!r}")


def storage_capacity(r: float) -> float:
    """Classical capacity 1 - h((1+r)/2) of the depolarising qubit channel, bits, r in [0, 1].

    Lupo et al., arXiv:2302.04236, Eq. 14. Written so that small r keeps its precision.
    """
    if r >= 1.0:
        return 1.0
    return ((1.0 + r) * log1p(r) + (1.0 - r) * log1p(-r)) / (2.0 * log(2.0))


def gamma(x: float) -> float:
    """Gamma(x) of Dupuis, Fawzi, Wehner (Lupo Eqs. 24-25), x in [-1, 1].

    x for x >= 1/2, else the y in [0, 1/2] with h(y) + y - 1 = x.
    """
    if x >= 0.5:
        return x
    return solve_entropy(1.0 + x, 1.0)


def strong_converse_exponent(r: float, rate: float) -> float:
    """gamma_r(R): exponent of the success probability at R bits per stored qubit, bits, >= 0.

    Lupo Eq. 16 (KWW 2012), max over a > 1 of 1 + {(a-1)(R-1) - log2[(1+r)^a + (1-r)^a]}/a, solved in
    closed form (docs/physics.md): with q = (1-r)/2 and h(y) = 1-R, y <= 1/2, it is the relative entropy
    D(y || q) where y < q, 0 where y >= q (R at or below the capacity), and R - 1 + D(0 || q) for R >= 1,
    which is the limit a -> infinity.
    """
    flip = 0.5 * (1.0 - r)
    excess = rate - 1.0
    if excess >= 0.0:
        return excess - log2(1.0 - flip)
    y = inverse_binary_entropy(-excess)
    if y >= flip:
        return 0.0
    divergence = (1.0 - y) * (log1p(-y) - log1p(-flip))
    if y > 0.0:
        divergence += y * log(y / flip)
    return max(0.0, divergence / log(2.0))


def rate_after_storage(r: float, nu: float, rate: float) -> float:
    """nu gamma_r(rate / nu): entropy per round left to Bob after his memory, bits per round.

    rate: min-entropy per round before the memory is read, given Bob's classical data. 0 where
    rate <= nu C(r). For nu <= rate it is rate - nu log2(1+r), which holds the limit nu -> 0.
    """
    if rate <= 0.0:
        return 0.0
    if nu <= rate:
        return rate - nu * log2(1.0 + r)
    return nu * strong_converse_exponent(r, rate / nu)


def min_entropy_rate_individual(r: float, nu: float) -> float:
    """(1-nu)/2 + nu min(1/2, 1-r): a share nu is stored as it comes, and the memory loses a qubit visibly.

    A round that Bob measures before the bases are known leaves him 1/2 bit; one that he stores, the 1-r
    that its erasure is worth, and he stores only where that is less.
    """
    return 0.5 * (1.0 - nu) + nu * min(0.5, 1.0 - r)


def min_entropy_rate_lupo2023(r: float, nu: float) -> float:
    """The rate of Lupo Eqs. 50-51 with the rational cap of Eqs. 37-38: that of min_entropy_rate_individual.

    The collision-entropy branch of Eq. 36 never decides: it exceeds 1-r only where both exceed 1/2.
    """
    return min_entropy_rate_individual(r, nu)


def min_entropy_rate_stw09(r: float, nu: float) -> float:
    """(1-nu)/2 + nu min(1/2, h((1+r)/2)): as individual, but Bob does not see which qubits were lost.

    Schaffner, Terhal, Wehner, Quantum Inf. Comput. 9, 963 (2009), Theorem 5: a stored qubit is a binary
    symmetric channel of error (1-r)/2 once its basis is known.
    """
    return 0.5 * (1.0 - nu) + nu * min(0.5, binary_entropy(0.5 * (1.0 + r)))


def min_entropy_rate_kww2012(r: float, nu: float) -> float:
    """nu gamma_r(1/(2 nu)) (KWW 2012; Lupo Eq. 19 at nu = 1): 0 where C(r) nu >= 1/2, 1/2 at nu = 0."""
    return rate_after_storage(r, nu, 0.5)


def min_entropy_rate_erven2014(r: float, nu: float) -> float:
    """nu gamma_r(1/(4 nu)): the limit of Erven et al., Nat. Commun. 5:3418, Eq. 8, per reconciled bit.

    The string that Bob learns and both syndromes are charged: 1/4 at nu = 0, and key only where
    f h(Q) < 1/4. nu counts stored qubits per detected round here, per emitted pair in the paper.
    """
    return rate_after_storage(r, nu, 0.25)


RATES: Mapping[str, Callable[[float, float], float]] = {
    "individual": min_entropy_rate_individual,
    "lupo2023": min_entropy_rate_lupo2023,
    "stw09": min_entropy_rate_stw09,
    "erven2014": min_entropy_rate_erven2014,
    "kww2012": min_entropy_rate_kww2012,
    "release-0.1/lupo2023": min_entropy_rate_lupo2023,
    "release-0.1/erven2014": min_entropy_rate_erven2014,
    "release-0.1/kww2012": min_entropy_rate_kww2012,
}
"""The rate of each claim of `caligo.physics.claims`, a function of (r, nu)."""


def min_entropy_rate(r: float, nu: float, claim: str = "individual") -> float:
    """Min-entropy per reconciled bit of one string, asymptotically, bits in [0, 1/2].

    r: retention after the wait (effective_retention), [0, 1]; nu: stored qubits per round of the key, [0, 1];
    claim: a name of RATES. Raises ValueError for another.
    """
    if claim not in RATES:
        raise ValueError(f"claim must be one of {', '.join(RATES)}, not {claim!r}")
    return RATES[claim](r, nu)


def entropy_surplus(entropy_rate: float, error_rate: float) -> float:
    """h_min - h(Q): what is left at perfect reconciliation, bits per reconciled bit (Lupo Eqs. 43, 52).

    An error rate of 1/2 or more counts as 1/2. No key is possible where this is not positive.
    """
    return entropy_rate - binary_entropy(min(error_rate, 0.5))
