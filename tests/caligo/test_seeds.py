"""The seed tree. Its leaves are pinned: with other numbers every campaign ever run would change silently."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from caligo import seeds
from caligo.phases import Phase
from caligo.seeds import Purpose

GOLDEN = [
    ((0, Phase.LHS, 0, Purpose.DESIGN), 0xDD53CEF672854883, 4085049464806428776),
    ((1, Phase.LHS, 5, Purpose.QUANTUM), 0x2C62822A42913CF0, 6593144177381559340),
    ((2**64 - 1, Phase.ACTIVE, 10**6, Purpose.EXTRAPOLATION), 0x28DFA7CB8B99D9FD, 1236567987147031244),
    ((1, Phase.SURROGATE, 0, Purpose.TRAINING), 0x442E20FF603D35F2, 4205615788539380859),
]


@pytest.mark.parametrize(("leaf", "key", "first"), GOLDEN)
def test_leaves_never_change(leaf: tuple, key: int, first: int) -> None:
    assert seeds.key(*leaf) == key
    assert seeds.generator(*leaf).integers(2**63) == first


def test_purposes_are_never_renumbered() -> None:
    assert {p.name: int(p) for p in Purpose} == {
        "DESIGN": 1, "QUANTUM": 2, "PROTOCOL": 3, "RECONCILIATION": 4, "AMPLIFICATION": 5,
        "TRAINING": 6, "ACQUISITION": 7, "AUDIT": 8, "EXTRAPOLATION": 9, "PERMUTATION": 10,
        "HOLD_OUT": 11, "PROBES": 12, "TRAINING_ROWS": 13, "LANDMARKS": 14, "FOLDS": 15, "BOUNDARY": 16, "VOLUME": 17,
        "SURFACES": 18, "DISCREPANCY": 19, "RELEVANCE": 20,
    }  # fmt: skip


def test_all_leaves_differ() -> None:
    leaves = itertools.product((0, 1, 2**32), Phase, (0, 1, 2**32), Purpose)
    keys = [seeds.key(*leaf) for leaf in leaves]
    assert len(set(keys)) == len(keys)


def test_a_generator_is_its_own_stream() -> None:
    leaf = (3, Phase.LHS, 7, Purpose.PROTOCOL)
    np.testing.assert_array_equal(seeds.generator(*leaf).random(8), seeds.generator(*leaf).random(8))
    assert isinstance(seeds.generator(*leaf).bit_generator, np.random.Philox)
