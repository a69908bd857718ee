"""What one run of the protocol is expected to give, in closed form."""

from math import floor, inf, pi, sqrt
from typing import NamedTuple

from . import claims
from .claims import Counts, Partition
from .detection import Convention, click_probability, qber
from .efficiency import (
    BASELINE,
    BLIND,
    FRAME_SIZES,
    LEAST_LEAKAGE,
    PAYLOADS,
    baseline_efficiency,
    blind_efficiency,
)
from .entropy import binary_entropy
from .finite_key import Penalty, design_qber
from .security import MemoryModel, effective_retention
from .tags import TAG_BITS

MARGIN_FLOOR = -1.0
"""Margins are floored here: deeper in the dead zone the number says nothing more about the cliff."""


class Prediction(NamedTuple):
    """Expected values of one run in which no frame is lost."""

    p_click: float
    """Detection probability per pair."""
    qber: float
    """Equal-basis error rate."""
    r_eff: float
    """Retention of the adversary's memory after the wait."""
    min_entropy_rate: float
    """Asymptotic min-entropy per bit of one string, bits."""
    detected: float
    """Detected rounds."""
    reconciled: float
    """Bits m of one string that enter the key: whole frames, or what there is of a first frame."""
    leakage_rate: float
    """Public bits per reconciled bit of one string, tags included."""
    margin: float
    """The claim's key bits, unrounded, per reconciled bit; floored at -1."""
    key_length: int
    """Bits of each string; 0 where the margin is not positive or less than one frame is filled."""


def sifted_length(rounds: float) -> float:
    """Expected length of the shorter of two strings to which each of so many rounds belongs by a coin, >= 0.

    For X ~ Bin(n, 1/2): E min(X, n-X) = n/2 - sqrt(n/(2 pi)) for large n.
    """
    return max(0.0, 0.5 * rounds - sqrt(rounds / (2.0 * pi)))


def expected_leakage_rate(
    error_rate: float, design_rate: float, strategy: int, frames: float, failure: float, frame_size: int = 4096
) -> float:
    """Expected public bits per reconciled bit, without tags, in [0, 1].

    The baseline's codes are chosen for design_rate, the error rate with its statistical margin, and lose one of the
    frames with probability `failure`, (0, 1); the blind protocol discloses only what the true error_rate makes
    necessary.
    """
    least = LEAST_LEAKAGE[FRAME_SIZES.index(frame_size)]
    if strategy == BASELINE:
        q = min(0.5, design_rate)
        f = baseline_efficiency(q, frames, failure, frame_size)
    else:
        q = min(0.5, error_rate)
        f = blind_efficiency(q, frame_size)
    return min(1.0, max(least, f * binary_entropy(q)))


def removed_rounds(partition: Partition, key_rounds: float, cut: float, kept: float) -> float:
    """Rounds of both strings together whose removal Bob can influence once the bases are known.

    Of key_rounds outside the slots each string has `cut` bits in whole frames, of which `kept` stay. Alice's own cut is
    random, so with her partition only frames that are dropped count; where Bob names the sets all that is left out.
    """
    return 2.0 * (cut - kept) if partition == "alice" else key_rounds - 2.0 * kept


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
    claim: str = claims.DEFAULT,
    partition: Partition = "alice",
    memory_model: MemoryModel = "markov",
    convention: Convention = "fidelity",
    eps: float = 1e-10,
    test_fraction: float = 0.1,
    pe_penalty: Penalty = "binomial",
    reconciliation_failure: float = 3e-3,
    tag_bits: int = TAG_BITS,
) -> Prediction:
    """Closed-form expectation of one run; defined at every point, feasible or not.

    strategy: efficiency.BASELINE (0) or efficiency.BLIND (1); only the baseline spends test_fraction of the rounds on
    calibration slots. Of the frame sizes, the one that leaves the most key is taken. The baseline has one tag a string
    and a code that loses the run with probability reconciliation_failure, half of it left to the estimate; the blind
    protocol has a tag a frame, and the few frames in a thousand that it drops are neglected. Below one frame the margin
    goes on with m as it is, so it is continuous where the first frame fills and defined down to no detection at all.
    eps: each error term of the claim. Raises ValueError for an unknown strategy or option.
    """
    if strategy not in (BASELINE, BLIND):
        raise ValueError(f"strategy must be {BASELINE} (baseline) or {BLIND} (blind), not {strategy!r}")
    under = claims.claim(claim)
    p_click = click_probability(efficiency, dark_count_prob)
    error_rate = qber(fidelity, efficiency, detector_error, dark_count_prob, convention)
    r_eff = effective_retention(r, wait_time_ns, memory_model)

    detected = num_pairs * p_click
    slots = test_fraction * detected if strategy == BASELINE else 0.0
    key_rounds = detected - slots
    sifted = sifted_length(key_rounds)
    design_rate = error_rate
    if slots > 0.0:
        # Slots where the bases agree; a rate cannot be seen on less than one of them.
        k = max(1.0, 0.5 * slots)
        design_rate = design_qber(error_rate, max(1.0, sifted), k, 0.5 * reconciliation_failure, pe_penalty)
    best = (-inf, 0.0, 0.0, False)
    for frame_size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        frames = floor(sifted / payload)
        if frames or frame_size == FRAME_SIZES[0]:
            m = float(frames * payload) if frames else sifted
            failure = 0.5 * reconciliation_failure
            rate = expected_leakage_rate(error_rate, design_rate, strategy, max(1, frames), failure, frame_size)
            tags = tag_bits * (1.0 if strategy == BASELINE else max(1.0, m / payload))
            counts = Counts(detected, key_rounds, m, removed_rounds(partition, key_rounds, m, m), rate * m + tags)
            secret = under.key_bits(counts, r_eff, nu, eps, partition).secret
            best = max(best, (secret, m, counts.leak, frames > 0))
    secret, reconciled, leak, filled = best

    margin = max(MARGIN_FLOOR, secret / reconciled) if reconciled > 0.0 else MARGIN_FLOOR
    key_length = max(0, floor(margin * reconciled)) if filled else 0
    entropy_rate = under.entropy_rate(r_eff, nu)
    leakage_rate = leak / reconciled if reconciled > 0.0 else 0.0
    return Prediction(p_click, error_rate, r_eff, entropy_rate, detected, reconciled, leakage_rate, margin, key_length)
