"""The attack that made the key lengths of release 0.1 void (docs/physics.md), under its rules and under today's.

Bob has no memory. He puts half of the rounds that he knows first into each set, and calls the frames behind failed.
"""

from __future__ import annotations

import math

import pytest

from caligo.physics.claims import CLAIMS, LEGACY, Counts, Partition, claim
from caligo.physics.prediction import removed_rounds
from caligo.results import ProtocolOutcome
from caligo.space import Strategy

from .bobs import DropsHalfOfTheFrames
from .conftest import CASES, EPS, Case, Play

DETECTED, FRAMES, FAILED, PAYLOAD = 60_000, 8, 4, 3686
LEAK = 791
"""Bits said of a frame: the syndrome of the code for 2 % of errors, and a tag."""
CUT, KEPT = FRAMES * PAYLOAD, (FRAMES - FAILED) * PAYLOAD
R, NU = 0.75, 1e-4
"""Next to no memory."""


@pytest.mark.parametrize(("bound", "key_length"), [("lupo2023", 3555), ("kww2012", 3708), ("erven2014", 231)])
def test_release_0_1_computed_a_key_that_bob_held(play: Play, bound: str, key_length: int) -> None:
    """Of both strings he knows every bit that is kept, and the old rules give so many bits of key."""
    run = play(Case("individual", "bob", Strategy.BLIND), bob=DropsHalfOfTheFrames, N=DETECTED)
    assert (run.result.frames_total, run.result.frames_failed) == (FRAMES, FAILED)
    assert run.hidden() == [0.0, 0.0]
    old = claim(f"release-0.1/{bound}")
    counts = Counts(DETECTED, DETECTED, CUT, 2 * (CUT - KEPT), (FRAMES - FAILED) * LEAK)
    assert math.floor(old.key_bits(counts, R, NU, EPS, "bob").secret) == key_length
    assert "None" in old.adversary and old.refusal("bob")


@pytest.mark.parametrize("case", [case for case in CASES if case.partition == "bob"], ids=str)
def test_half_of_what_he_knows_first_and_half_of_the_frames_called_failed(play: Play, case: Case) -> None:
    """Today he gets no key that he holds: in blind no key at all, and in the baseline nobody drops a frame."""
    run = play(case, bob=DropsHalfOfTheFrames, N=DETECTED)
    if case.strategy is Strategy.BLIND:
        assert run.hidden() == [0.0, 0.0]
        assert run.result.outcome is ProtocolOutcome.FAILURE_SECURITY
        assert run.keys is None and run.result.key_length == 0
    else:
        assert run.result.reconciled == run.result.frames_total * PAYLOAD
        assert run.key_length > 0 and run.room() >= 0


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("partition", ["alice", "bob"])
def test_no_claim_of_today_gives_a_key_for_these_counts(name: str, partition: Partition) -> None:
    counts = Counts(DETECTED, DETECTED, CUT, removed_rounds(partition, DETECTED, CUT, KEPT), (FRAMES - FAILED) * LEAK)
    assert CLAIMS[name].key_bits(counts, R, NU, EPS, partition).secret < 0


def test_old_claims_cannot_be_made_again() -> None:
    assert all(old.refusal(partition) for old in LEGACY.values() for partition in ("alice", "bob"))
