"""Sifting against a plain NumPy account of the same rounds, and the division into two strings."""

from __future__ import annotations

import numpy as np
import pytest
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Link, Segment, segment_bytes
from caligo_simulator.protocol.estimation import estimate
from caligo_simulator.protocol.messages import IndexSets, Permutation
from caligo_simulator.protocol.partition import (
    RefusedSetsError,
    by_alices_bases,
    by_bobs_choice,
    frames_of,
    verify,
)
from caligo_simulator.protocol.sifting import Holding, Sifted, Sifter
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caligo.physics.finite_key import design_qber
from caligo.space import Strategy

LINKS = {
    "dense": Link(0.95, 0.7, 0.02, 1e-5, "fidelity"),
    "sparse": Link(0.95, 0.03, 0.02, 1e-5, "fidelity"),
}
ALL = Holding(None, 10**6)
RULES = {"alice's partition": BobBases(1, 6554), "bob's partition": BobBases(None, 6554), "no slots": BobBases(0, 0)}


def rounds(link: Link, pairs: int, bob: BobBases = RULES["alice's partition"]) -> Segment:
    segment = Segment.over(np.zeros(segment_bytes(pairs), np.uint8), pairs)
    make_source("statistical").fill(segment, link, bob, 11, 0)
    return segment


def sift(segment: Segment, slots: int, holding: Holding = ALL, cuts: tuple[int, ...] = (), key: int = 3) -> Sifted:
    sifter = Sifter(slots, holding, key)
    for start, end in zip([0, *cuts], [*cuts, segment.alice_bit.size], strict=True):
        sifter.add(Segment(*(array[start:end] for array in segment)))
    return sifter.finish()


@given(
    pairs=st.integers(0, 2500),
    click=st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.9, 1.0]),
    slots=st.sampled_from([0, 1, 6554, 60_000, TILE]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_equals_numpy_on_any_rounds(pairs: int, click: float, slots: int, seed: int) -> None:
    """Whatever stands in the bits and bases of rounds without a click."""
    rng = np.random.default_rng(seed)
    clicked = rng.random(pairs) < click
    bit, alice, bob = (np.where(clicked, rng.integers(0, 2, pairs), rng.integers(-128, 128, pairs)) for _ in range(3))
    seen = np.where(clicked, rng.integers(0, 2, pairs), NO_CLICK)
    sifted = sift(Segment(*(array.astype(np.int8) for array in (bit, alice, bob, seen))), slots)
    slot = clicked & BobBases(None, slots).is_slot(0, pairs)
    key = clicked & ~slot
    wrong = bit != seen
    assert sifted.detected == clicked.sum()
    assert sifted.slots == slot.sum()
    assert sifted.slots_matched == (slot & (alice == bob)).sum()
    assert sifted.slot_errors == (slot & (alice == bob) & wrong).sum()
    assert (sifted.matched, sifted.unmatched) == ((key & (alice == bob)).sum(), (key & (alice != bob)).sum())
    assert sifted.errors == (key & (alice == bob) & wrong).sum()
    assert sifted.key_rounds == key.sum()
    for ours, theirs in zip(sifted.held, (bit, alice, bob, seen), strict=True):
        np.testing.assert_array_equal(ours, theirs[key])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("holding", [ALL, Holding(2**62, 10**5), Holding(2**58, 10**5)], ids=["all", "a part", "few"])
def test_the_cut_into_segments_does_not_matter(link: Link, rule: BobBases, holding: Holding) -> None:
    segment = rounds(link, 3 * TILE + 100, rule)
    whole = sift(segment, rule.slots, holding)
    parts = sift(segment, rule.slots, holding, (TILE, 3 * TILE))
    for name in Sifted.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_only_the_last_segment_may_end_anywhere() -> None:
    with pytest.raises(ValueError, match="multiple of 65536"):
        sift(rounds(LINKS["sparse"], 3 * TILE), 0, cuts=(TILE + 64,))


@pytest.mark.parametrize("share", [0.3, 0.02])
def test_a_part_is_held_at_random_from_the_whole_run(share: float) -> None:
    """Each round with the same probability, wherever it lies and whatever it is, and by the key."""
    segment = rounds(LINKS["dense"], 16 * TILE)
    everything = sift(segment, 6554)
    part = sift(segment, 6554, Holding(round(share * 2**64), 10**6))
    assert part.key_rounds == everything.key_rounds
    assert abs(part.held.alice_bit.size - share * everything.key_rounds) < 4 * np.sqrt(share * everything.key_rounds)
    for ours, theirs in zip(part.held, everything.held, strict=True):
        spread = np.sqrt(max(theirs.mean() * (1 - theirs.mean()), 1e-9) / ours.size)
        assert abs(ours.mean() - theirs.mean()) <= 4 * spread
    # A round is marked by its number: let only those of each sixteenth of the run click.
    held = []
    for tile in range(16):
        alone = segment._replace(bob_click=np.full_like(segment.bob_click, NO_CLICK))
        here = slice(tile * TILE, (tile + 1) * TILE)
        alone.bob_click[here] = 0
        held.append(sift(alone, 0, Holding(round(share * 2**64), 10**6)).held.alice_bit.size)
    assert stats.chisquare(held).pvalue > 1e-4
    assert sift(segment, 6554, Holding(round(share * 2**64), 10**6), key=4).held.alice_bit.size != part.held[0].size


def test_a_little_larger_share_holds_that_many_more() -> None:
    """Less than 16 bits resolve: every round that differs was decided by the bits after these."""
    pairs, little = 2**24, 2.0**-18
    segment = Segment(*np.zeros((4, pairs), np.int8))
    less, more = (
        sift(segment, 0, Holding(round(share * 2**64), pairs)).held.alice_bit.size for share in (0.25, 0.25 + little)
    )
    assert abs(more - less - pairs * little) < 4 * np.sqrt(pairs * little)


@given(wanted=st.integers(7372, 4 * 10**6), expected=st.floats(0.0, 1e9))
def test_a_holding_has_room_for_what_comes(wanted: int, expected: float) -> None:
    most = round(expected) + 10**4
    holding = Holding.of(wanted, expected, most)
    come = expected + 6 * np.sqrt(expected)
    if holding.share is None:
        assert holding.capacity >= min(come, most)
    else:
        held = expected * holding.share / 2**64
        assert held - 6 * np.sqrt(held) >= wanted
        assert held + 6 * np.sqrt(held) <= holding.capacity <= 4 * wanted + 300


# --- the two strings ------------------------------------------------------------------------------------------------


def test_alices_sets_are_her_bases_in_random_order() -> None:
    bases = np.random.default_rng(1).integers(0, 2, 1000, dtype=np.uint8)
    sets = by_alices_bases(bases, Permutation(7))
    for basis in (0, 1):
        np.testing.assert_array_equal(np.sort(sets[basis]), np.flatnonzero(bases == basis))
    again, other = by_alices_bases(bases, Permutation(7)), by_alices_bases(bases, Permutation(8))
    np.testing.assert_array_equal(sets.zero, again.zero)
    assert not np.array_equal(sets.zero, other.zero)


def test_what_the_cut_keeps_is_a_uniform_subset() -> None:
    """Every pair of six rounds equally often, in either order."""
    bases = np.array([0, 1] * 6, np.uint8)
    pairs = [tuple(by_alices_bases(bases, Permutation(seed)).zero[:2]) for seed in range(6000)]
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert counts.size == 30
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("choice", [0, 1])
def test_bobs_sets(choice: int) -> None:
    rng = np.random.default_rng(2)
    alices, bobs = rng.integers(0, 2, (2, 2000), dtype=np.uint8)
    sets = by_bobs_choice(alices, bobs, choice)
    verify(sets, 2000)
    assert (alices[sets[choice]] == bobs[sets[choice]]).all()
    assert (alices[sets[1 - choice]] != bobs[sets[1 - choice]]).all()
    assert sets.zero.size == min((alices == bobs).sum(), (alices != bobs).sum())


@pytest.mark.parametrize(
    ("zero", "one", "why"),
    [
        ([0, 1, 2], [3, 4], "different lengths"),
        ([0, 1], [1, 2], "named twice"),
        ([0, 0], [1, 2], "named twice"),
        ([0, 1], [2, 5], "not detected"),
        ([-1, 0], [1, 2], "not detected"),
    ],
)
def test_refused_sets(zero: list[int], one: list[int], why: str) -> None:
    with pytest.raises(RefusedSetsError, match=why):
        verify(IndexSets(np.array(zero), np.array(one)), 5)


def test_frames_are_the_leading_rounds_of_a_set() -> None:
    bits = np.arange(10, dtype=np.uint8) % 2
    np.testing.assert_array_equal(frames_of(bits, np.array([9, 0, 3, 2, 5]), 2, 2), [[1, 0], [1, 0]])


def test_estimates() -> None:
    sifted = sift(rounds(LINKS["dense"], 4 * TILE), 6554)
    found = estimate(sifted, Strategy.BASELINE, 0.03, 1.5e-3, "binomial")
    assert found is not None
    assert found.qber == sifted.slot_errors / sifted.slots_matched
    assert found.design_qber == design_qber(found.qber, sifted.length, sifted.slots_matched, 1.5e-3)
    blind = estimate(sifted, Strategy.BLIND, 0.03, 1.5e-3, "binomial")
    assert blind == (sifted.errors / sifted.matched, 0.03)
    nothing = sift(rounds(LINKS["sparse"], 10), 6554)
    assert estimate(nothing, Strategy.BASELINE, 0.03, 1.5e-3, "binomial") is None
