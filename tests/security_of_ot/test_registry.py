"""Every statement that a campaign can make has been attacked."""

from __future__ import annotations

import collections

from caligo.physics.claims import CLAIMS
from caligo.space import Strategy

from . import test_dishonest_bob
from .conftest import MEMORIES

ACCEPTED = [
    (name, partition)
    for name, claim in CLAIMS.items()
    for partition in ("alice", "bob")
    if claim.refusal(partition) is None
]


def test_every_claim_is_attacked_under_each_partition_and_strategy() -> None:
    """By the tests of a dishonest Bob, each of which runs for a list of cases."""
    attacks: dict[tuple[str, str, Strategy], set[str]] = collections.defaultdict(set)
    for name, test in vars(test_dishonest_bob).items():
        for mark in getattr(test, "pytestmark", []):
            if mark.args[0] == "case":
                for case in mark.args[1]:
                    attacks[case.claim, case.partition, case.strategy].add(name)
    assert set(attacks) == {(name, partition, strategy) for name, partition in ACCEPTED for strategy in Strategy}
    assert min(map(len, attacks.values())) >= 6


def test_every_claim_has_a_memory_to_attack_it_with() -> None:
    assert set(MEMORIES) == {name for name, _ in ACCEPTED}
