"""A run in closed form under today's rules, and with each of them taken back to what release 0.1 did.

With all of `Rules` as they are it is `caligo.physics.predict`, which `check` holds it against.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from caligo_sampler.design import LHSSampler

from caligo.physics import claims, is_feasible, predict
from caligo.physics.claims import Counts, Partition
from caligo.physics.detection import click_probability, qber
from caligo.physics.efficiency import FRAME_SIZES, PAYLOADS
from caligo.physics.finite_key import wilson_upper
from caligo.physics.prediction import expected_leakage_rate, removed_rounds, sifted_length
from caligo.physics.security import effective_retention
from caligo.physics.tags import TAG_BITS
from caligo.space import PRESETS, ExplorationSample, Space, Strategy

EPS = 1e-10
TEST_FRACTION = 0.1
SIGMAS = 3.0
FAILURE = 3e-3
"""Of a run of the baseline, `protocol.reconciliation_failure`."""
DROPPED = 0.01
"""Of the frames, where they are dropped."""


class Rules(NamedTuple):
    """What a run of the baseline is charged; the blind strategy knows `rescaled` only.

    rescaled: nu counts stored qubits per round of the key, or per detected round. wilson: the code is chosen for
    Wilson's limit, or for three standard deviations at the rate that was seen. tag_a_string: one tag a string, or one a
    frame. outer: an outer code restores what a few frames lack, or every frame has a code of its own that hardly ever
    fails. failure: of the run, in which nothing is dropped; where it is None a frame in a hundred fails and is dropped.
    charged: dropped rounds cost what their removal may tell.
    """

    rescaled: bool = True
    wilson: bool = True
    tag_a_string: bool = True
    outer: bool = True
    failure: float | None = FAILURE
    charged: bool = False


TODAY = Rules()
DROPPING = Rules(tag_a_string=False, failure=None)
"""Today's, without the cost of one message that may not fail."""
RELEASE_0_1 = Rules(rescaled=False, wilson=False, tag_a_string=False, failure=None)


def design(points: int, seed: int) -> list[ExplorationSample]:
    """A Latin hypercube over the preset `cliff`."""
    _, rows = LHSSampler(Space(PRESETS["cliff"]), seed, points).rows(0, points)
    return [ExplorationSample.inflate(i, row) for i, row in enumerate(rows)]


def design_rate(error_rate: float, k: float, rules: Rules) -> float:
    """The error rate that a code is chosen for, where `error_rate` was seen on k bits."""
    if not rules.wilson:
        return error_rate + SIGMAS * math.sqrt(max(error_rate, 1.0 / k) * (1.0 - error_rate) / k)
    failure = FAILURE if rules.failure is None else rules.failure
    return wilson_upper(error_rate, k, -NormalDist().inv_cdf(0.5 * failure))


def leakage(error_rate: float, rate: float, strategy: Strategy, frames: int, size: int, rules: Rules) -> float:
    """Expected public bits per bit of one string, without tags, where codes are chosen for the error rate `rate`."""
    if rules.failure is None:
        together, failure = 1, DROPPED
    elif rules.outer:
        together, failure = frames, 0.5 * rules.failure
    else:
        together, failure = 1, 0.5 * rules.failure / frames
    return expected_leakage_rate(error_rate, rate, strategy, together, failure, size)


def secret_bits(
    s: ExplorationSample, strategy: Strategy, claim: str, partition: Partition = "alice", rules: Rules = TODAY
) -> float:
    """Key bits of each string, unrounded, where at least one frame is filled; -inf where none is, or none possible."""
    if not is_feasible(s.r, s.nu, s.dt_ns, s.F, s.eta, s.e_det, s.P_dark, claim=claim):
        return -math.inf
    under = claims.claim(claim)
    error_rate = qber(s.F, s.eta, s.e_det, s.P_dark)
    r_eff = effective_retention(s.r, s.dt_ns)
    detected = s.N * click_probability(s.eta, s.P_dark)
    is_baseline = strategy is Strategy.BASELINE
    slots = TEST_FRACTION * detected if is_baseline else 0.0
    key_rounds = detected - slots
    sifted = sifted_length(key_rounds)
    rate = design_rate(error_rate, max(1.0, 0.5 * slots), rules) if is_baseline else error_rate
    dropping = is_baseline and rules.failure is None
    best = -math.inf
    for size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        frames = math.floor(sifted / payload)
        if frames == 0:
            continue
        cut = float(frames * payload)
        kept = cut * (1.0 - DROPPED) if dropping else cut
        tags = TAG_BITS * (1 if is_baseline and rules.tag_a_string else frames)
        leak = leakage(error_rate, rate, strategy, frames, size, rules) * kept + tags
        # Uncharged, frames that are dropped count as if they had never been there.
        removed = removed_rounds(partition, key_rounds, cut, kept if rules.charged else cut)
        counts = Counts(
            detected if rules.rescaled else key_rounds, key_rounds, cut if rules.charged else kept, removed, leak
        )
        best = max(best, under.key_bits(counts, r_eff, s.nu, EPS, partition).secret)
    return best


def check(s: ExplorationSample, strategy: Strategy, claim: str, partition: Partition) -> bool:
    """Whether `secret_bits` finds a key where `predict` does; either may be true close to the cliff."""
    expected = predict(
        s.r, s.nu, s.dt_ns, s.F, s.eta, s.e_det, s.P_dark, s.N, strategy, claim=claim, partition=partition
    )
    likely = secret_bits(s, strategy, claim, partition) >= 1.0
    return bool(0.02 < expected.key < 0.98 or likely == (expected.key > 0.5))
