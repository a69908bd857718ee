"""The polynomial hash against arbitrary-precision arithmetic, and its collision bound."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_simulator.protocol.verification import (
    PRIME,
    TAG_BITS,
    WORD_BITS,
    collision_bound,
    draw_point,
    tags,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def direct(bits: np.ndarray, point: int) -> int:
    words = [int("".join(map(str, bits[i : i + WORD_BITS])), 2) for i in range(0, bits.size, WORD_BITS)]
    return sum(w * pow(point, len(words) - i, PRIME) for i, w in enumerate(words)) % PRIME


@given(bits=st.integers(1, 400), point=st.integers(0, PRIME - 1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_equals_big_integers(bits: int, point: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 2, (3, bits), dtype=np.uint8)
    assert tags(frames, point).tolist() == [direct(frame, point) for frame in frames]


@pytest.mark.parametrize("point", [0, 1, PRIME - 1, PRIME // 2])
def test_extreme_words(point: int) -> None:
    frames = np.ones((1, 3686), np.uint8)
    assert tags(frames, point).tolist() == [direct(frames[0], point)]


def test_prime() -> None:
    """Miller-Rabin with the bases that decide every number below 3.3e24."""
    d, r = PRIME - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41):
        x = pow(base, d, PRIME)
        assert x in (1, PRIME - 1) or any(pow(x, 2**i, PRIME) == PRIME - 1 for i in range(1, r))
    assert PRIME < 2**TAG_BITS


def test_every_single_and_double_error_is_seen() -> None:
    rng = np.random.default_rng(3)
    frame = rng.integers(0, 2, 3686, dtype=np.uint8)
    point = draw_point(rng)
    wrong = np.tile(frame, (3686, 1))
    wrong[np.arange(3686), np.arange(3686)] ^= 1
    wrong[np.arange(3686), rng.permutation(3686)] ^= 1
    same = (wrong == frame).all(axis=1)
    assert np.array_equal(tags(wrong, point) == tags(frame[None], point)[0], same)


def test_collision_bound() -> None:
    assert collision_bound(1, 49) == 1 / PRIME
    assert collision_bound(256, 4096) == pytest.approx(256 * 84 / 2**50)
    assert collision_bound(256, 4096) < 2e-11


def test_points_are_uniform() -> None:
    rng = np.random.default_rng(9)
    points = np.array([draw_point(rng) for _ in range(4000)]) / PRIME
    assert points.min() >= 0 and points.max() < 1
    assert abs(points.mean() - 0.5) < 5 / np.sqrt(12 * 4000)
