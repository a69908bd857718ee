"""Sifting against a plain NumPy account of the same rounds."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from caligo_simulator.epr.source import NO_CLICK, TILE, Link, Segment, make_source, segment_bytes
from caligo_simulator.protocol.estimation import estimate
from caligo_simulator.protocol.sifting import Sifted, Sifter
from hypothesis import given, settings
from hypothesis import strategies as st

from caligo.physics.finite_key import qber_margin
from caligo.space import Strategy

LINKS = {
    "dense": Link(0.95, 0.7, 0.02, 1e-5, "fidelity"),
    "sparse": Link(0.95, 0.03, 0.02, 1e-5, "fidelity"),
}


def rounds(link: Link, pairs: int) -> Segment:
    segment = Segment.over(np.zeros(segment_bytes(pairs), np.uint8), pairs)
    make_source("statistical").fill(segment, link, 11, 0)
    return segment


def sift(segment: Segment, cuts: list[int], keep: int, test_fraction: float, key: int = 3) -> Sifted:
    sifter = Sifter(keep, test_fraction, key)
    for start, end in zip([0, *cuts], [*cuts, segment.alice_bit.size], strict=True):
        sifter.add(Segment(*(array[start:end] for array in segment)))
    return sifter.finish()


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_strings_and_counts_without_a_test_set(link: Link) -> None:
    segment = rounds(link, 3 * TILE + 5)
    clicked = segment.bob_click != NO_CLICK
    equal = clicked & (segment.alice_basis == segment.bob_basis)
    unequal = clicked & ~equal
    length = int(min(equal.sum(), unequal.sum()))
    sifted = sift(segment, [], keep=10**6, test_fraction=0.0)
    assert (sifted.detected, sifted.matched, sifted.unmatched) == (clicked.sum(), equal.sum(), unequal.sum())
    assert sifted.length == length
    assert sifted.errors == (segment.alice_bit != segment.bob_click)[equal].sum()
    assert (sifted.test_bits, sifted.test_matched, sifted.test_errors) == (0, 0, 0)
    np.testing.assert_array_equal(sifted.chosen_alice, segment.alice_bit[equal][:length])
    np.testing.assert_array_equal(sifted.chosen_bob, segment.bob_click[equal][:length])
    np.testing.assert_array_equal(sifted.other_alice, segment.alice_bit[unequal][:length])
    np.testing.assert_array_equal(sifted.other_bob, segment.bob_click[unequal][:length])
    # Unequal bases tell Bob nothing: half of his bits are wrong.
    wrong = (sifted.other_alice != sifted.other_bob).mean()
    assert abs(wrong - 0.5) < 4 * 0.5 / np.sqrt(length)
    few = sift(segment, [], keep=100, test_fraction=0.0)
    np.testing.assert_array_equal(few.chosen_bob, sifted.chosen_bob[:100])
    assert few.length == length


@functools.cache
def opened_rounds(pairs: int, test_fraction: float, key: int) -> np.ndarray:
    """Which rounds belong to the test set if they click, found by letting each of them click alone."""
    opened = np.zeros(pairs, bool)
    segment = Segment(*np.zeros((3, pairs), np.int8), np.full(pairs, NO_CLICK, np.int8))
    for i in range(pairs):
        segment.bob_click[i] = 0
        opened[i] = sift(segment, [], 1, test_fraction, key).test_bits == 1
        segment.bob_click[i] = NO_CLICK
    return opened


@given(
    pairs=st.integers(0, 2500),
    click=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.9, 1.0]),
    test_fraction=st.sampled_from([0.0, 0.1, 0.8]),
    keep=st.integers(0, 1500),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_equals_numpy_on_any_rounds(pairs: int, click: float, test_fraction: float, keep: int, seed: int) -> None:
    """Whatever stands in the bits and bases of rounds without a click."""
    rng = np.random.default_rng(seed)
    clicked = rng.random(pairs) < click
    bit, alice, bob = (np.where(clicked, rng.integers(0, 2, pairs), rng.integers(-128, 128, pairs)) for _ in range(3))
    seen = np.where(clicked, rng.integers(0, 2, pairs), NO_CLICK)
    segment = Segment(*(array.astype(np.int8) for array in (bit, alice, bob, seen)))
    sifted = sift(segment, [], keep, test_fraction)
    tested = clicked & opened_rounds(2500, test_fraction, key=3)[:pairs]
    equal, unequal = (clicked & ~tested & (same == (alice == bob)) for same in (True, False))
    wrong = bit != seen
    assert sifted.detected == clicked.sum()
    assert sifted.test_bits == tested.sum()
    assert sifted.test_matched == (tested & (alice == bob)).sum()
    assert sifted.test_errors == (tested & (alice == bob) & wrong).sum()
    assert (sifted.matched, sifted.unmatched) == (equal.sum(), unequal.sum())
    assert sifted.errors == (equal & wrong).sum()
    kept = min(sifted.length, keep)
    np.testing.assert_array_equal(sifted.chosen_alice, bit[equal][:kept])
    np.testing.assert_array_equal(sifted.chosen_bob, seen[equal][:kept])
    np.testing.assert_array_equal(sifted.other_alice, bit[unequal][:kept])
    np.testing.assert_array_equal(sifted.other_bob, seen[unequal][:kept])


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_the_cut_into_segments_does_not_matter(link: Link) -> None:
    segment = rounds(link, 3 * TILE + 100)
    whole = sift(segment, [], keep=5000, test_fraction=0.2)
    parts = sift(segment, [TILE, 3 * TILE], keep=5000, test_fraction=0.2)
    for name in Sifted.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_only_the_last_segment_may_end_anywhere() -> None:
    with pytest.raises(ValueError, match="multiple of 65536"):
        sift(rounds(LINKS["sparse"], 3 * TILE), [TILE + 64], keep=1, test_fraction=0.0)


def test_a_little_larger_test_fraction_opens_that_share_more() -> None:
    """Less than 16 bits resolve: every round that differs was decided by the bits after these."""
    pairs, little = 2**24, 2.0**-18
    segment = Segment(*np.zeros((4, pairs), np.int8))
    less, more = (sift(segment, [], 1, fraction).test_bits for fraction in (0.25, 0.25 + little))
    assert abs(more - less - pairs * little) < 4 * np.sqrt(pairs * little)


def test_the_test_set_is_a_random_share_taken_out_of_the_strings() -> None:
    segment = rounds(LINKS["dense"], 8 * TILE)
    everything = sift(segment, [], keep=10**6, test_fraction=0.0)
    sifted = sift(segment, [], keep=10**6, test_fraction=0.1)
    assert sifted.detected == everything.detected
    assert sifted.detected == sifted.test_bits + sifted.matched + sifted.unmatched
    assert sifted.matched == everything.matched - sifted.test_matched
    assert sifted.errors == everything.errors - sifted.test_errors
    spread = np.sqrt(0.1 * 0.9 * sifted.detected)
    assert abs(sifted.test_bits - 0.1 * sifted.detected) < 4 * spread
    assert abs(sifted.test_matched - 0.1 * everything.matched) < 4 * spread
    # Another key opens other rounds.
    assert sift(segment, [], 10, 0.1, key=4).test_bits != sifted.test_bits


def test_estimates() -> None:
    segment = rounds(LINKS["dense"], 4 * TILE)
    sifted = sift(segment, [], keep=10, test_fraction=0.1)
    found = estimate(sifted, Strategy.BASELINE, 0.03, 1e-10, "binomial")
    assert found is not None
    assert found.qber == sifted.test_errors / sifted.test_matched
    assert found.design_qber == found.qber + qber_margin(found.qber, sifted.length, sifted.test_matched, 1e-10)
    blind = estimate(sifted, Strategy.BLIND, 0.03, 1e-10, "binomial")
    assert blind == (sifted.errors / sifted.matched, 0.03)
    nothing = sift(rounds(LINKS["sparse"], 10), [], keep=10, test_fraction=0.1)
    assert estimate(nothing, Strategy.BASELINE, 0.03, 1e-10, "binomial") is None
