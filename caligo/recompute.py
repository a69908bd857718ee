"""Key lengths of a campaign's rows under any claim, from what the rows counted.

A row keeps how many rounds were detected, opened, cut and removed, and how many bits were said in public. A claim's
finite form asks for nothing else, so the same runs can be read under another claim without simulating anything.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from caligo.closed_form import surplus
from caligo.physics.claims import CLAIMS, LEGACY, Claim, Counts
from caligo.physics.device import known_rounds, law
from caligo.physics.efficiency import PAYLOADS
from caligo.physics.prediction import MARGIN_FLOOR, removed_rounds
from caligo.physics.security import effective_retention
from caligo.results import COUNT, ProtocolOutcome, Reason, ResultRows
from caligo.space import ExplorationSample
from caligo.spec import CampaignSpec


class KeyStatus(enum.IntEnum):
    """What a row says about a key under a claim."""

    NO_KEY = 0
    """There is none."""
    KEY = 1
    """There is one, as far as the row's own run is certain: frames that were not decoded count as in the row."""
    UNDECODED = 2
    """There is one unless a frame fails: the run ended before it decoded, since its own claim left nothing."""
    FRAME_LOST = 3
    """Alice has two keys and Bob none: a frame was lost. That is so under every claim that leaves key."""
    UNKNOWN = 4
    """The run was not made, or ended before the public bits were counted and may have had a key."""


_NEVER: Final = (
    Reason.DETECTION_INTERVAL,
    Reason.INSUFFICIENT_RAW,
    Reason.QBER_LIMIT,
    Reason.NO_CODE,
    Reason.NO_FRAME_VERIFIED,
    Reason.REFUSED_SETS,
)
"""What ends a run without a key whatever is claimed."""
_COUNTED: Final = (
    ProtocolOutcome.SUCCESS,
    ProtocolOutcome.FAILURE_RECONCILIATION,
    ProtocolOutcome.FAILURE_SECURITY,
)
"""Outcomes of runs that may have come as far as counting what is public."""


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """Rows under a claim.

    Attributes:
        claim: the claim.
        margin: the claim's key bits, unrounded, per bit of one string, floored at -1: float64 [n]; NaN where unknown.
        key_length: bits of each string, int64 [n]; 0 unless KEY or UNDECODED.
        status: `KeyStatus`, uint8 [n].
    """

    claim: Claim
    margin: NDArray[np.float64]
    key_length: NDArray[np.int64]
    status: NDArray[np.uint8]


def refusal(spec: CampaignSpec, claim: Claim) -> str | None:
    """Why the rows of a campaign say nothing under a claim, as one clause; None where they do.

    A claim that is no claim on oblivious transfer is not refused here: it can be printed for comparison.
    """
    if spec.rules is not None:
        both_old = spec.physics.claim in LEGACY and claim.name in LEGACY
        return None if both_old else "the rows are of another protocol"
    if claim.name in LEGACY:
        return f"{claim.name} is a rule of release 0.1, whose rows are of another protocol"
    partition = spec.protocol.partition
    if spec.physics.device.pairs.mean_pairs and not claim.covers_several:
        return f"{claim.name} has no form for rounds with several pairs"
    return claim.refusal(partition) if partition not in claim.partitions else None


def recompute(rows: ResultRows, spec: CampaignSpec, claim: Claim) -> Recomputed:
    """The rows [n] of a campaign under a claim; of the campaign's own it gives the rows' own key lengths.

    The choice of the code is the run's, made for its own claim: another claim may have chosen frames of another size.

    Raises:
        ValueError: `refusal` says why.
    """
    if (why := refusal(spec, claim)) is not None:
        raise ValueError(f"{claim.name}: {why}")
    found = Recomputed(
        claim,
        np.full(len(rows), np.nan),
        np.zeros(len(rows), np.int64),
        np.empty(len(rows), np.uint8),
    )
    for i, row in enumerate(rows):
        status = _without_counts(row, spec, claim)
        if status is None:
            secret = _secret(row, spec, claim)
            found.margin[i] = max(MARGIN_FLOOR, secret / row["counts"][COUNT["reconciled"]])
            status = _with_counts(row, secret)
            if status in (KeyStatus.KEY, KeyStatus.UNDECODED):
                found.key_length[i] = int(secret)
        found.status[i] = status
    return found


def _without_counts(row: np.void, spec: CampaignSpec, claim: Claim) -> KeyStatus | None:
    """What is known of a row without the claim's finite form; None where that decides."""
    outcome, reason = row["outcome"], row["reason"]
    is_own = claim.name == spec.physics.claim
    if outcome == ProtocolOutcome.SKIPPED_INFEASIBLE:
        return KeyStatus.NO_KEY if is_own or not _is_feasible(row, spec, claim) else KeyStatus.UNKNOWN
    if reason in _NEVER or (is_own and reason == Reason.PREDICTED_NEGATIVE_KEY):
        return KeyStatus.NO_KEY
    if outcome not in _COUNTED:
        return KeyStatus.UNKNOWN
    if row["counts"][COUNT["reconciled"]]:
        return None
    if reason == Reason.PREDICTED_NEGATIVE_KEY and spec.rules is None and _leaves_no_more(row, spec, claim):
        return KeyStatus.NO_KEY
    return KeyStatus.UNKNOWN


def _with_counts(row: np.void, secret: float) -> KeyStatus:
    if secret < 1.0:
        return KeyStatus.NO_KEY
    return {
        Reason.FRAME_LOST: KeyStatus.FRAME_LOST,
        Reason.PREDICTED_NEGATIVE_KEY: KeyStatus.UNDECODED,
    }.get(row["reason"], KeyStatus.KEY)


def _is_feasible(row: np.void, spec: CampaignSpec, claim: Claim) -> bool:
    """Whether a run of any length could give key at the row's place under the claim."""
    physics = spec.physics.model_copy(update={"claim": claim.name})
    return bool(surplus(row["inputs"][np.newaxis], physics)[0] > 0.0)


def _secret(row: np.void, spec: CampaignSpec, claim: Claim) -> float:
    """Key bits of the row, unrounded, by the claim's finite form."""
    values = {name: int(row["counts"][j]) for name, j in COUNT.items()}
    cut = values["reconciled"] + values["removed"] / 2  # of Alice's partition; in Bob's no form asks for it
    return _key_bits(row, spec, claim, cut, values["removed"], values["leaked"])


def _leaves_no_more(row: np.void, spec: CampaignSpec, claim: Claim) -> bool:
    """Whether a claim leaves no more than the campaign's own does of a blind run that ended before it said anything.

    The own claim left no key however little would be said; so does then every claim that leaves no more before it.
    """
    counts = row["counts"]
    frames, rounds = int(counts[COUNT["frames_total"]]), int(counts[COUNT["detected"]] - counts[COUNT["test_bits"]])
    payload = next((p for p in PAYLOADS if counts[COUNT["sifted"]] // p == frames), 0)
    cut = frames * payload
    removed = removed_rounds(spec.protocol.partition, rounds, cut, cut)
    own, other = (_key_bits(row, spec, one, cut, removed, 0.0) for one in (CLAIMS[spec.physics.claim], claim))
    return payload > 0 and other <= own


def _key_bits(row: np.void, spec: CampaignSpec, claim: Claim, cut: float, removed: float, leak: float) -> float:
    detected, slots = (int(row["counts"][COUNT[name]]) for name in ("detected", "test_bits"))
    s, physics = ExplorationSample.inflate(0, row["inputs"]), spec.physics
    r = effective_retention(s.r, s.dt_ns, physics.memory_model)
    known, device = 0.0, physics.device.in_rounds()
    if device is not None:
        rounds = law(device, s.F, s.eta, s.e_det, s.P_dark, float(s.N), physics.fidelity_convention)
        known = float(known_rounds(device, rounds, detected, s.N, physics.epsilon))
    counts = Counts(detected, detected - slots, cut, removed, leak, known)
    return claim.key_bits(counts, r, s.nu, physics.epsilon, spec.protocol.partition).secret
