"""What one run of the protocol is expected to give, in closed form."""

from math import floor, inf, pi, sqrt
from typing import NamedTuple

from .detection import Convention, click_probability, qber
from .efficiency import BASELINE, BLIND, FRAME_SIZES, LEAST_LEAKAGE, PAYLOADS, expected_efficiency
from .entropy import binary_entropy
from .finite_key import Penalty, min_entropy, qber_margin, secret_bits
from .security import Bound, MemoryModel, effective_retention, min_entropy_rate

MARGIN_FLOOR = -1.0
"""Margins are floored here: deeper in the dead zone the number says nothing more about the cliff."""


class Prediction(NamedTuple):
    """Expected values of one run."""

    p_click: float
    """Detection probability per pair."""
    qber: float
    """Equal-basis error rate."""
    r_eff: float
    """Retention of the adversary's memory after the wait."""
    min_entropy_rate: float
    """Asymptotic min-entropy per reconciled bit, bits."""
    detected: float
    """Detected rounds."""
    reconciled: float
    """Bits m of one string that enter the key: whole frames, or what there is of a first frame."""
    leakage_rate: float
    """Public bits per reconciled bit of one string, tags included."""
    margin: float
    """(H(m) - leak - 2 log2(1/eps) + 1)/m, bits per reconciled bit, floored at -1."""
    key_length: int
    """Bits of each string; 0 where the margin is not positive or less than one frame is filled."""


def sifted_length(detected: float) -> float:
    """Expected length of the shorter of the matched and the unmatched string, >= 0.

    For X ~ Bin(n, 1/2): E min(X, n-X) = n/2 - sqrt(n/(2 pi)) for large n.
    """
    return max(0.0, 0.5 * detected - sqrt(detected / (2.0 * pi)))


def expected_leakage_rate(error_rate: float, design_rate: float, strategy: int, frame_size: int = 4096) -> float:
    """Expected public bits per reconciled bit, without tags, in [0, 1].

    The baseline's code is chosen for design_rate, the error rate with its statistical margin; the blind
    protocol discloses only what the true error_rate makes necessary.
    """
    q = min(0.5, design_rate if strategy == BASELINE else error_rate)
    least = LEAST_LEAKAGE[FRAME_SIZES.index(frame_size)]
    return min(1.0, max(least, expected_efficiency(q, strategy, frame_size) * binary_entropy(q)))


def predict(
    r: float,
    nu: float,
    wait_time_ns: float,
    fidelity: float,
    efficiency: float,
    detector_error: float,
    dark_count_prob: float,
    num_pairs: float,
    strategy: int,
    *,
    bound: Bound = "lupo2023",
    memory_model: MemoryModel = "markov",
    convention: Convention = "fidelity",
    eps: float = 1e-10,
    test_fraction: float = 0.1,
    pe_penalty: Penalty = "binomial",
    frame_error_rate: float = 0.01,
    tag_bits: int = 50,
) -> Prediction:
    """Closed-form expectation of one run; defined at every point, feasible or not.

    strategy: efficiency.BASELINE (0) or efficiency.BLIND (1); only the baseline spends test_fraction of
    the detected rounds on an error estimate. Of the frame sizes, the one that leaves the most key is taken;
    each frame also costs tag_bits, and the share frame_error_rate of the frames is dropped. Below one frame
    the margin goes on with m as it is, so it is continuous where the first frame fills and defined down to
    no detection at all. eps: each of the smoothing and hashing parameters. Raises ValueError for an
    unknown strategy or option.
    """
    if strategy not in (BASELINE, BLIND):
        raise ValueError(f"strategy must be {BASELINE} (baseline) or {BLIND} (blind), not {strategy!r}")
    p_click = click_probability(efficiency, dark_count_prob)
    error_rate = qber(fidelity, efficiency, detector_error, dark_count_prob, convention)
    r_eff = effective_retention(r, wait_time_ns, memory_model)
    entropy_rate = min_entropy_rate(r_eff, nu, bound)

    detected = num_pairs * p_click
    tested = test_fraction * detected if strategy == BASELINE else 0.0
    sifted = sifted_length(detected - tested)
    design_rate = error_rate
    if tested > 0.0:
        # Bits of the test set where the bases agree; a rate cannot be seen on less than one of them.
        k = max(1.0, 0.5 * tested)
        design_rate += qber_margin(error_rate, max(1.0, sifted), k, eps, pe_penalty)
    best = (-inf, 0.0, 0.0, False)
    for frame_size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        frames = floor(sifted / payload)
        if frames or frame_size == FRAME_SIZES[0]:
            reconciled = (frames * payload if frames else sifted) * (1.0 - frame_error_rate)
            leakage_rate = expected_leakage_rate(error_rate, design_rate, strategy, frame_size) + tag_bits / payload
            entropy = min_entropy(reconciled, r_eff, nu, eps, bound) if reconciled > 0.0 else 0.0
            secret = secret_bits(entropy, leakage_rate * reconciled, eps)
            best = max(best, (secret, reconciled, leakage_rate, frames > 0))
    secret, reconciled, leakage_rate, filled = best

    margin = max(MARGIN_FLOOR, secret / reconciled) if reconciled > 0.0 else MARGIN_FLOOR
    key_length = max(0, floor(margin * reconciled)) if filled else 0
    return Prediction(p_click, error_rate, r_eff, entropy_rate, detected, reconciled, leakage_rate, margin, key_length)
