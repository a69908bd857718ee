"""From rounds to strings: test set, equal and unequal bases, index sets.

Bob's index set I_C holds the rounds with equal bases, I_{1-C} those with unequal ones, both cut to the length of the
shorter (physics: rounds of one string are worth as much as those of the other, or Alice could tell C from the
lengths). A sample passes in segments; of each string only the leading bits are kept, as many as can be decoded, and
the rest is counted.

Eight rounds are looked at together, as the bytes of a 64-bit word. What is true of a round is a byte of 0 or 1, and
adding words counts in all eight bytes, so a round that is only counted costs a fraction of an instruction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo_simulator.epr.source import NO_CLICK, TILE, Int8Array, Segment
from caligo_simulator.philox import fill_blocks, word_at

_DETECTED, _TEST, _TEST_MATCHED, _TEST_ERRORS, _MATCHED, _ERRORS, _UNMATCHED = range(7)

_CHUNK: Final = 1024
"""Rounds counted before the bytes of a sum could overflow, which takes 8 * 256."""
_WORDS: Final = _CHUNK // 8
_ONES: Final = np.uint64(0x0101010101010101)
_CLICK_BIT: Final = np.uint64(NO_CLICK.bit_length() - 1)
"""The bit of a byte by which `NO_CLICK` differs from 0 and 1."""
_REST_BITS: Final = np.uint64(48)

_EVEN_BYTES: Final = np.uint64(0x00FF00FF00FF00FF)

_ZERO: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
# Third counter word.
_TEST_SET: Final = np.uint64(0)
_REST: Final = np.uint64(1)

Words = NDArray[np.uint64]


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
        self._test = np.uint64(round(test_fraction * 2**64))
        self._rounds = 0
        self._counts = np.zeros(7, np.int64)
        self._keep = keep
        # alice and bob over I_C, alice and bob over I_{1-C}, and room for a chunk
        self._strings = np.empty((4, keep + _CHUNK), np.uint8)

    def add(self, segment: Segment) -> None:
        """Sift the next segment. All but the last have a multiple of `TILE` rounds, or ValueError is raised."""
        if self._rounds % TILE:
            raise ValueError(f"{self._rounds} rounds, no multiple of {TILE}, were to be all")
        pairs = segment.bob_click.size
        whole = pairs // _CHUNK * _CHUNK
        self._sift([array[:whole] for array in segment], self._rounds)
        if pairs > whole:
            rest = np.full((4, _CHUNK), NO_CLICK, np.int8)
            rest[:, : pairs - whole] = [array[whole:] for array in segment]
            self._sift(rest, self._rounds + whole)
        self._rounds += pairs

    def finish(self) -> Sifted:
        """The whole sample, sifted."""
        detected, test_bits, test_matched, test_errors, matched, errors, unmatched = self._counts.tolist()
        length = min(matched, unmatched, self._keep)
        strings = self._strings[:, :length]
        return Sifted(detected, test_bits, test_matched, test_errors, matched, errors, unmatched, *strings)

    def _sift(self, arrays: Iterable[Int8Array], start: int) -> None:
        alice_bit, alice_basis, bob_basis, bob_click = (array.view(np.uint64) for array in arrays)
        state = np.uint64(start), self._key, self._test, self._counts, self._strings
        _sift(alice_bit, alice_basis, bob_basis, bob_click, *state)


@njit(nogil=True, cache=True)
def _sift(
    alice_bit: Words,
    alice_basis: Words,
    bob_basis: Words,
    bob_click: Words,
    start: np.uint64,
    key: np.uint64,
    test: np.uint64,
    counts: NDArray[np.int64],
    strings: NDArray[np.uint8],
) -> None:
    """Sift the chunks that begin at round `start`."""
    opened = np.zeros(_WORDS, np.uint64)
    usable = np.empty(_WORDS, np.uint64)
    for first in range(0, bob_click.size, _WORDS):
        here = slice(first, first + _WORDS)
        a, x, y, b = alice_bit[here], alice_basis[here], bob_basis[here], bob_click[here]
        detected = _ZERO
        for j in range(_WORDS):
            detected += ~(b[j] >> _CLICK_BIT) & _ONES
        if detected == _ZERO:
            continue
        if test > _ZERO:
            _open(opened, start + np.uint64(8 * first), test, key)
        equal = wrong = tested = tested_equal = tested_wrong = _ZERO
        for j in range(_WORDS):
            click = ~(b[j] >> _CLICK_BIT) & _ONES
            same = click & ~(x[j] ^ y[j])
            differ = same & (a[j] ^ b[j])
            equal += same
            wrong += differ
            tested += click & opened[j]
            tested_equal += same & opened[j]
            tested_wrong += differ & opened[j]
            usable[j] = click & ~opened[j]
        matched, unmatched = counts[_MATCHED], counts[_UNMATCHED]
        counts[_DETECTED] += _total(detected)
        counts[_TEST] += _total(tested)
        counts[_TEST_MATCHED] += _total(tested_equal)
        counts[_TEST_ERRORS] += _total(tested_wrong)
        counts[_MATCHED] += _total(equal) - _total(tested_equal)
        counts[_ERRORS] += _total(wrong) - _total(tested_wrong)
        counts[_UNMATCHED] += _total(detected - equal) - _total(tested - tested_equal)
        if min(matched, unmatched) < strings.shape[1] - _CHUNK:
            _keep(a, x, y, b, usable, matched, unmatched, strings)


@njit(nogil=True, cache=True)
def _open(opened: Words, start: np.uint64, test: np.uint64, key: np.uint64) -> None:
    """Mark the rounds of the test set, of the chunk that begins at round `start`.

    A round has 16 bits of its own, which are compared with the first 16 of 64 of the probability; where they are
    equal, 48 more bits decide.
    """
    blocks = np.empty(_CHUNK // 4, np.uint64)
    fill_blocks(blocks, start // np.uint64(8), _TEST_SET, _ZERO, key)
    lanes, marks = blocks.view(np.uint16), opened.view(np.uint8)
    test_start = np.uint16(test >> _REST_BITS)
    ties = np.uint8(0)
    for i in range(_CHUNK):
        tie = np.uint8(lanes[i] == test_start)
        marks[i] = np.uint8(lanes[i] < test_start)
        ties = np.uint8(ties | tie)
    if ties:
        for i in range(_CHUNK):
            if lanes[i] == test_start:
                rest = word_at(start + np.uint64(i), _REST, _ZERO, key) >> (np.uint64(64) - _REST_BITS)
                marks[i] = (test_start << _REST_BITS | rest) < test


@njit(nogil=True, cache=True)
def _keep(
    alice_bit: Words,
    alice_basis: Words,
    bob_basis: Words,
    bob_click: Words,
    usable: Words,
    matched: int,
    unmatched: int,
    strings: NDArray[np.uint8],
) -> None:
    """Append the usable rounds of a chunk to the strings, after `matched` and `unmatched` rounds."""
    flags = usable.view(np.uint8)
    rounds = np.empty(_CHUNK + 1, np.uint16)
    count = 0
    for j in range(_WORDS):
        if usable[j] != _ZERO:
            for i in range(8 * j, 8 * j + 8):
                rounds[count] = i
                count += flags[i]
    bit, click = alice_bit.view(np.uint8), bob_click.view(np.uint8)
    a, b = alice_basis.view(np.uint8), bob_basis.view(np.uint8)
    # A full string takes no more than the room behind it, and what does not belong to one is overwritten by the next
    # that does: no branch is needed.
    keep = strings.shape[1] - _CHUNK
    equal, unequal = min(matched, keep), min(unmatched, keep)
    for n in range(count):
        i = rounds[n]
        other = int(a[i] ^ b[i])
        strings[0, equal], strings[1, equal] = bit[i], click[i]
        strings[2, unequal], strings[3, unequal] = bit[i], click[i]
        equal += 1 - other
        unequal += other


@njit(nogil=True, inline="always")
def _total(sums: np.uint64) -> np.int64:
    """Sum of the bytes."""
    pairs = (sums & _EVEN_BYTES) + ((sums >> np.uint64(8)) & _EVEN_BYTES)
    return np.int64((pairs * np.uint64(0x0001000100010001)) >> np.uint64(48))
