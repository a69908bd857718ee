"""From rounds to strings: test set, equal and unequal bases, index sets.

Bob's index set I_C holds the rounds with equal bases, I_{1-C} those with unequal ones, both cut to the length of the
shorter (physics: rounds of one string are worth as much as those of the other, or Alice could tell C from the
lengths). A sample passes in segments; of each string only the leading bits are kept, as many as can be decoded, and
the rest is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo_simulator.epr.source import NO_CLICK, Int8Array, Segment
from caligo_simulator.philox import failures_before_success, philox

_DETECTED, _TEST, _TEST_MATCHED, _TEST_ERRORS, _MATCHED, _ERRORS, _UNMATCHED, _NEXT_TEST, _DRAWS = range(9)
_EIGHT_WITHOUT_CLICK: Final = np.uint64(0x0101010101010101 * NO_CLICK)


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """A sample after sifting.

    detected: rounds with a click; test_bits: of these, opened as test set; test_matched: of these, with equal bases,
    and test_errors among them; matched, unmatched: rounds outside the test set, and errors among the matched.
    chosen_alice, chosen_bob: uint8 0/1, the leading bits of Alice's and Bob's string over I_C; other_alice,
    other_bob: over I_{1-C}.
    """

    detected: int
    test_bits: int
    test_matched: int
    test_errors: int
    matched: int
    errors: int
    unmatched: int
    chosen_alice: NDArray[np.uint8]
    chosen_bob: NDArray[np.uint8]
    other_alice: NDArray[np.uint8]
    other_bob: NDArray[np.uint8]

    @property
    def length(self) -> int:
        """Rounds of each string."""
        return min(self.matched, self.unmatched)


class Sifter:
    """Sifts one sample, whose segments are given to `add` in order."""

    def __init__(self, keep: int, test_fraction: float, key: int) -> None:
        """keep: leading bits of a string to hold on to; test_fraction: share of the detected rounds opened as test
        set, 0 for none, each round independently of the others; key: 64 random bits that choose it."""
        self._key = np.uint64(key)
        self._log_untested = math.log1p(-test_fraction)
        self._counts = np.zeros(9, np.int64)
        self._counts[_NEXT_TEST] = -1
        # alice and bob over I_C, alice and bob over I_{1-C}
        self._strings = np.empty((4, keep + 1), np.uint8)

    def add(self, segment: Segment) -> None:
        """Sift the next segment."""
        _sift(*segment, self._key, self._log_untested, self._counts, self._strings)

    def finish(self) -> Sifted:
        """The whole sample, sifted."""
        detected, test_bits, test_matched, test_errors, matched, errors, unmatched, *_ = self._counts.tolist()
        length = min(matched, unmatched, self._strings.shape[1] - 1)
        strings = self._strings[:, :length]
        return Sifted(detected, test_bits, test_matched, test_errors, matched, errors, unmatched, *strings)


@njit(nogil=True, cache=True, error_model="numpy")
def _sift(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    key: np.uint64,
    log_untested: float,
    counts: NDArray[np.int64],
    strings: NDArray[np.uint8],
) -> None:
    pairs = bob_click.size
    keep = strings.shape[1] - 1
    detected, errors = counts[_DETECTED], counts[_ERRORS]
    test, test_matched, test_errors = counts[_TEST], counts[_TEST_MATCHED], counts[_TEST_ERRORS]
    equal, unequal = counts[_MATCHED], counts[_UNMATCHED]
    next_test, draws = counts[_NEXT_TEST], counts[_DRAWS]
    if next_test < 0:
        next_test, draws = _draw_test(np.int64(-1), draws, log_untested, key)
    eights = bob_click[: pairs // 8 * 8].view(np.uint64)
    i = 0
    while i < pairs:
        if i % 8 == 0 and i + 8 <= pairs and eights[i // 8] == _EIGHT_WITHOUT_CLICK:
            i += 8
            continue
        bit, click = alice_bit[i], bob_click[i]
        matched = alice_basis[i] == bob_basis[i]
        i += 1
        if click == NO_CLICK:
            continue
        wrong = np.int64(matched & (bit != click))
        if detected == next_test:
            test += 1
            test_matched += np.int64(matched)
            test_errors += wrong
            next_test, draws = _draw_test(detected, draws, log_untested, key)
        else:
            errors += wrong
            # What is not kept goes to the last place of a row, which is never read: no branch is needed.
            if matched:
                at = min(equal, keep)
                strings[0, at] = bit
                strings[1, at] = click
                equal += 1
            else:
                at = min(unequal, keep)
                strings[2, at] = bit
                strings[3, at] = click
                unequal += 1
        detected += 1
    counts[_DETECTED], counts[_ERRORS] = detected, errors
    counts[_TEST], counts[_TEST_MATCHED], counts[_TEST_ERRORS] = test, test_matched, test_errors
    counts[_MATCHED], counts[_UNMATCHED] = equal, unequal
    counts[_NEXT_TEST], counts[_DRAWS] = next_test, draws


@njit(nogil=True, inline="always", error_model="numpy")
def _draw_test(last: np.int64, draws: np.int64, log_untested: float, key: np.uint64) -> tuple[np.int64, np.int64]:
    """Number of the next detected round in the test set, and draws made."""
    draw = np.uint64(draws)
    w0, w1, _, _ = philox(draw & np.uint64(0xFFFFFFFF), draw >> np.uint64(32), np.uint64(0), np.uint64(0), key)
    return last + 1 + failures_before_success(w0, w1, log_untested), draws + 1
