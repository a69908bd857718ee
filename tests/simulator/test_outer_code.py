"""The outer code: frames that are missing follow from the others, and its parities disclose no more than they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from caligo_simulator.protocol.outer_code import MOST_FRAMES, parities, restore, symbols_of
from hypothesis import given, settings
from hypothesis import strategies as st


def multiply(a: int, b: int) -> int:
    """In GF(2^16), bit by bit."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x1100B if a & 0x8000 else 0)
        b >>= 1
    return product


@given(
    frames=st.integers(1, 40),
    bits=st.integers(1, 70),
    count=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_what_is_missing_is_restored(frames: int, bits: int, count: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (frames, bits), dtype=np.uint8)
    said = parities(values, count)
    assert said.shape == (count, symbols_of(bits)) and said.dtype == np.uint16
    missing = np.zeros(frames, bool)
    lost = data.draw(st.integers(0, min(frames, count)))
    missing[rng.choice(frames, lost, replace=False)] = True
    seen = np.where(missing[:, None], rng.integers(0, 2, values.shape, dtype=np.uint8), values)
    np.testing.assert_array_equal(restore(seen, missing, said), values[missing])


def test_every_choice_of_missing_frames() -> None:
    values = np.random.default_rng(1).integers(0, 2, (7, 33), dtype=np.uint8)
    said = parities(values, 3)
    for size in range(4):
        for lost in itertools.combinations(range(7), size):
            missing = np.isin(np.arange(7), lost)
            np.testing.assert_array_equal(restore(values ^ missing[:, None], missing, said), values[missing])


def test_parities_by_the_definition() -> None:
    values = np.random.default_rng(2).integers(0, 2, (5, 16), dtype=np.uint8)
    words = [int("".join(map(str, row)), 2) for row in values]
    said = parities(values, 4)
    for j in range(4):
        total = 0
        for i, word in enumerate(words):
            inverse = next(x for x in range(1, 2**16) if multiply(x, i ^ (MOST_FRAMES + j)) == 1)
            total ^= multiply(word, inverse)
        assert said[j, 0] == total


def test_parities_are_linear_over_the_bits() -> None:
    """So that each discloses at most as many bits as it has."""
    one, other = np.random.default_rng(3).integers(0, 2, (2, 9, 40), dtype=np.uint8)
    np.testing.assert_array_equal(parities(one, 4) ^ parities(other, 4), parities(one ^ other, 4))


def test_more_than_the_parities_can_tell() -> None:
    values = np.zeros((4, 8), np.uint8)
    with pytest.raises(ValueError, match="2 parities cannot restore 3 frames"):
        restore(values, np.array([True, True, True, False]), parities(values, 2))
    with pytest.raises(ValueError, match="at most"):
        parities(np.zeros((MOST_FRAMES + 1, 1), np.uint8), 1)


def test_many_frames() -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 2, (600, 3686), dtype=np.uint8)
    missing = np.zeros(600, bool)
    missing[rng.choice(600, 12, replace=False)] = True
    np.testing.assert_array_equal(restore(values ^ missing[:, None], missing, parities(values, 12)), values[missing])
