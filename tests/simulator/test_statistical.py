"""The statistical source where sixteen bits do not decide a round, and at the ends of segments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import NO_CLICK, BobBases, Link, Segment, segment_bytes
from caligo_simulator.philox import fill_blocks, philox, word_at

CLEAN = Link(1.0, 1.0, 0.0, 0.0, "fidelity")
"""Every round clicks and none is wrong."""
LITTLE = 2.0**-16
"""An eighth of what the first bits of a uniform number resolve."""
PAIRS = 2**23


def generate(link: Link, pairs: int, key: int = 5, start: int = 0) -> Segment:
    segment = Segment.over(np.full(segment_bytes(pairs), 99, np.uint8), pairs)
    make_source("statistical").fill(segment, link, BobBases(None, 0), key, start)
    return segment


def assert_share(count: int, trials: int, probability: float) -> None:
    spread = np.sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) < 4 * spread


def test_many_blocks_and_one_word_are_those_of_philox() -> None:
    first, c2, c3, key = (np.uint64(x) for x in (7 << 32 | 11, 3, 5, 2**64 - 1))
    words = np.empty(2 * 9, np.uint64)
    fill_blocks(words, first, c2, c3, key)
    for b in range(9):
        w0, w1, w2, w3 = map(int, philox(np.uint64(11 + b), np.uint64(7), c2, c3, key))
        assert (int(words[b]), int(words[9 + b])) == (w0 << 32 | w1, w2 << 32 | w3)
        assert word_at(first + np.uint64(b), c2, c3, key) == words[b]


@pytest.mark.parametrize("efficiency", [0.5, 0.5 - LITTLE, 0.5 + 3 * LITTLE, 1.0 - LITTLE])
def test_a_little_more_efficiency_adds_that_share_of_clicks(efficiency: float) -> None:
    """Sixteen bits resolve eight times as much, so what differs was decided by the others."""
    less, more = (generate(dataclasses.replace(CLEAN, efficiency=e), PAIRS) for e in (efficiency, efficiency + LITTLE))
    before, after = less.bob_click != NO_CLICK, more.bob_click != NO_CLICK
    assert not (before & ~after).any()
    assert_share(int((after & ~before).sum()), PAIRS, LITTLE)
    np.testing.assert_array_equal(less.alice_bit, more.alice_bit)
    # A later click of unequal bases may read differently, since its coin is fair over all of them.
    equal = before & (less.alice_basis == less.bob_basis)
    np.testing.assert_array_equal(less.bob_click[equal], more.bob_click[equal])


@pytest.mark.parametrize("error", [0.0, 0.125, 0.125 + 2 * LITTLE])
def test_a_little_more_error_adds_that_share_of_errors(error: float) -> None:
    less, more = (generate(dataclasses.replace(CLEAN, detector_error=e), PAIRS) for e in (error, error + LITTLE))
    wrong = [s.alice_bit != s.bob_click for s in (less, more)]
    equal = less.alice_basis == less.bob_basis
    np.testing.assert_array_equal(less.bob_click[~equal], more.bob_click[~equal])
    assert not (wrong[0] & ~wrong[1]).any()
    assert_share(int((wrong[1] & ~wrong[0]).sum()), int(equal.sum()), LITTLE)


@pytest.mark.parametrize(
    "link", [dataclasses.replace(CLEAN, efficiency=e) for e in (0.6, 0.01)], ids=["dense", "sparse"]
)
def test_a_segment_of_any_length_is_the_beginning_of_a_longer_one(link: Link) -> None:
    whole = generate(link, 9000)
    for pairs in [*range(1, 70), 4095, 4096, 4097, 8191, 8999]:
        for ours, theirs in zip(generate(link, pairs), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[:pairs])
