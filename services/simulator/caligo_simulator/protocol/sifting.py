"""From rounds to what both parties hold: calibration slots, counts, and the rounds of the strings.

What is public decides: a round counts where Bob reports a click, and it is a calibration slot or not by a rule that was
agreed on before the first pair (`epr.source.BobBases`). A sample passes in segments. Rounds of the strings are held on
to, as many as can be decoded, and all are counted.

Alice's permutation, or Bob's order, would put any round in any place of its string. So of a long run it is enough to
hold a part of the rounds, each with the same probability and independently of the others: in random order they are
distributed as the leading rounds of the permuted strings are.

Eight rounds are looked at together, as the bytes of a 64-bit word. What is true of a round is a byte of 0 or 1, and
adding words counts in all eight bytes, so a round that is only counted costs a fraction of an instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Int8Array, Segment
from caligo_simulator.philox import failures_before_success, fill_blocks, word_at

_DETECTED, _SLOTS, _SLOTS_MATCHED, _SLOT_ERRORS, _MATCHED, _ERRORS, _UNMATCHED = range(7)

_CHUNK: Final = 1024
"""Rounds counted before the bytes of a sum could overflow, which takes 8 * 256."""
_WORDS: Final = _CHUNK // 8
_ONES: Final = np.uint64(0x0101010101010101)
_CLICK_BIT: Final = np.uint64(NO_CLICK.bit_length() - 1)
"""The bit of a byte by which `NO_CLICK` differs from 0 and 1."""
_REST_BITS: Final = np.uint64(48)
_SURPLUS: Final = 8.0
"""Standard deviations by which the rounds that are held may exceed those wanted."""

_FEW: Final = np.uint64(2**59)
"""Share of 2^64 below which jumping from one round that is held to the next costs less than looking at every one."""
_DRAWS: Final = 32
"""Jumps drawn at once."""

_EVEN_BYTES: Final = np.uint64(0x00FF00FF00FF00FF)

_ZERO: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
# Third counter word.
_HELD: Final = np.uint64(0)
_REST: Final = np.uint64(1)
_JUMPS: Final = np.uint64(2)

Words = NDArray[np.uint64]
Bits = NDArray[np.uint8]


class Rounds(NamedTuple):
    """Rounds of the strings, in order of time, uint8 0/1 [n] each: what Alice has, and what Bob has."""

    alice_bit: Bits
    alice_basis: Bits
    bob_basis: Bits
    bob_bit: Bits


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """A sample after sifting.

    detected: rounds with a click; slots: of these, calibration slots, slots_matched: those of them with equal bases,
    slot_errors: errors among these; matched, unmatched: rounds outside the slots by bases, and errors among the
    matched. held: rounds outside the slots, all of them or a part taken at random.
    """

    detected: int
    slots: int
    slots_matched: int
    slot_errors: int
    matched: int
    errors: int
    unmatched: int
    held: Rounds

    @property
    def key_rounds(self) -> int:
        """Detected rounds outside the slots."""
        return self.matched + self.unmatched

    @property
    def length(self) -> int:
        """Rounds of each string, the longer one cut to the shorter."""
        return min(self.matched, self.unmatched)


@dataclass(frozen=True, slots=True)
class Holding:
    """Which rounds are held on to: each with `share` / 2^64, or all where `share` is None, at most `capacity`."""

    share: int | None
    capacity: int

    @classmethod
    def of(cls, wanted: int, expected: float, most: int) -> Self:
        """Enough to have `wanted` rounds where `expected` are to come, of `most` at the most; all if they are few."""
        enough = wanted + _SURPLUS * math.sqrt(wanted)
        if expected + _SURPLUS * math.sqrt(expected) <= 2.0 * enough:
            return cls(None, min(most, math.ceil(2.0 * enough)))
        return cls(min(2**64 - 1, round(enough / expected * 2**64)), math.ceil(enough + _SURPLUS * math.sqrt(enough)))


class Sifter:
    """Sifts one sample, whose segments are given to `add` in order."""

    def __init__(self, slots: int, holding: Holding, key: int) -> None:
        """slots: calibration slots in a tile; key: 64 random bits that choose the rounds held."""
        self._key = np.uint64(key)
        self._slots = _slots_of_tile(slots)
        self._share = np.uint64(holding.share or 0)
        self._rounds = 0
        self._counts = np.zeros(7, np.int64)
        self._held = np.empty(holding.capacity + _CHUNK, np.uint8)
        self._count = 0

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
        detected, slots, slots_matched, slot_errors, matched, errors, unmatched = self._counts.tolist()
        held = self._held[: self._count]
        alice_bit, alice_basis, bob_basis, bob_bit = (held >> np.uint8(bit) & np.uint8(1) for bit in range(4))
        rounds = Rounds(alice_bit, alice_basis, bob_basis, bob_bit)
        return Sifted(detected, slots, slots_matched, slot_errors, matched, errors, unmatched, rounds)

    def _sift(self, arrays: Iterable[Int8Array], start: int) -> None:
        alice_bit, alice_basis, bob_basis, bob_click = (array.view(np.uint64) for array in arrays)
        state = np.uint64(start), self._key, self._slots, self._share, self._counts, self._held, self._count
        self._count = _sift(alice_bit, alice_basis, bob_basis, bob_click, *state)


@cache
def _slots_of_tile(slots: int) -> Words:
    """Which rounds of a tile are calibration slots, a byte each."""
    return BobBases(None, slots).is_slot(0, TILE).view(np.uint64)


@njit(nogil=True, cache=True)
def _sift(
    alice_bit: Words,
    alice_basis: Words,
    bob_basis: Words,
    bob_click: Words,
    start: np.uint64,
    key: np.uint64,
    slots: Words,
    share: np.uint64,
    counts: NDArray[np.int64],
    held: Bits,
    count: int,
) -> int:
    """Sift the chunks that begin at round `start`; returns how many rounds are held after them, `count` before.

    slots: `_slots_of_tile`.
    """
    usable = np.empty(_WORDS, np.uint64)
    marks = np.empty(_WORDS, np.uint64)
    for first in range(0, bob_click.size, _WORDS):
        here = slice(first, first + _WORDS)
        a, x, y, b = alice_bit[here], alice_basis[here], bob_basis[here], bob_click[here]
        detected = _ZERO
        for j in range(_WORDS):
            detected += ~(b[j] >> _CLICK_BIT) & _ONES
        if detected == _ZERO:
            continue
        place = (np.int64(start) // 8 + first) % slots.size
        opened = slots[place : place + _WORDS]
        equal = wrong = slot = slot_equal = slot_wrong = _ZERO
        for j in range(_WORDS):
            click = ~(b[j] >> _CLICK_BIT) & _ONES
            same = click & ~(x[j] ^ y[j])
            differ = same & (a[j] ^ b[j])
            equal += same
            wrong += differ
            slot += click & opened[j]
            slot_equal += same & opened[j]
            slot_wrong += differ & opened[j]
            usable[j] = click & ~opened[j]
        counts[_DETECTED] += _total(detected)
        counts[_SLOTS] += _total(slot)
        counts[_SLOTS_MATCHED] += _total(slot_equal)
        counts[_SLOT_ERRORS] += _total(slot_wrong)
        counts[_MATCHED] += _total(equal) - _total(slot_equal)
        counts[_ERRORS] += _total(wrong) - _total(slot_wrong)
        counts[_UNMATCHED] += _total(detected - equal) - _total(slot - slot_equal)
        if count + _CHUNK <= held.size:
            if share > _ZERO:
                if share < _FEW:
                    _mark_few(marks, start + np.uint64(8 * first), share, key)
                else:
                    _mark_held(marks, start + np.uint64(8 * first), share, key)
                for j in range(_WORDS):
                    usable[j] &= marks[j]
            count = _hold(a, x, y, b, usable, held, count)
    return count


@njit(nogil=True, cache=True)
def _mark_held(marks: Words, start: np.uint64, share: np.uint64, key: np.uint64) -> None:
    """Mark the rounds that are held, of the chunk that begins at round `start`.

    A round has 16 bits of its own, which are compared with the first 16 of 64 of the probability; where they are
    equal, 48 more bits decide.
    """
    blocks = np.empty(_CHUNK // 4, np.uint64)
    fill_blocks(blocks, start // np.uint64(8), _HELD, _ZERO, key)
    lanes, flags = blocks.view(np.uint16), marks.view(np.uint8)
    share_start = np.uint16(share >> _REST_BITS)
    ties = np.uint8(0)
    for i in range(_CHUNK):
        tie = np.uint8(lanes[i] == share_start)
        flags[i] = np.uint8(lanes[i] < share_start)
        ties = np.uint8(ties | tie)
    if ties:
        for i in range(_CHUNK):
            if lanes[i] == share_start:
                rest = word_at(start + np.uint64(i), _REST, _ZERO, key) >> (np.uint64(64) - _REST_BITS)
                flags[i] = (share_start << _REST_BITS | rest) < share


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_few(marks: Words, start: np.uint64, share: np.uint64, key: np.uint64) -> None:
    """`_mark_held` where few are."""
    marks[:] = _ZERO
    flags = marks.view(np.uint8)
    log_not_held = math.log1p(-np.float64(share) * 2.0**-64)
    words = np.empty(_DRAWS, np.uint64)
    i = np.int64(-1)
    draw = 0
    while True:
        if draw % _DRAWS == 0:
            fill_blocks(words, np.uint64(draw), _JUMPS, start // np.uint64(_CHUNK), key)
        i += 1 + failures_before_success(words[draw % _DRAWS], log_not_held)
        if i >= _CHUNK:
            break
        flags[i] = 1
        draw += 1


@njit(nogil=True, cache=True)
def _hold(
    alice_bit: Words, alice_basis: Words, bob_basis: Words, bob_click: Words, usable: Words, held: Bits, count: int
) -> int:
    """Append the usable rounds of a chunk, a byte each, after `count` of them."""
    for j in range(_WORDS):
        left = usable[j]
        if left != _ZERO:
            rounds = (
                alice_bit[j] & _ONES
                | (alice_basis[j] & _ONES) << np.uint64(1)
                | (bob_basis[j] & _ONES) << np.uint64(2)
                | (bob_click[j] & _ONES) << np.uint64(3)
            )
            for _ in range(8):
                # What is not usable is overwritten by the next round that is: no branch is needed.
                held[count] = np.uint8(rounds)
                count += 1 if left & _ONE else 0
                rounds >>= np.uint64(8)
                left >>= np.uint64(8)
    return count


@njit(nogil=True, inline="always")
def _total(sums: np.uint64) -> np.int64:
    """Sum of the bytes."""
    pairs = (sums & _EVEN_BYTES) + ((sums >> np.uint64(8)) & _EVEN_BYTES)
    return np.int64((pairs * np.uint64(0x0001000100010001)) >> np.uint64(48))
