"""Rounds drawn from the exact joint distribution of bits, bases and clicks.

Model: Werner pairs, loss, misalignment and dark counts on Bob's side, double clicks read as a fair coin
(`caligo.physics.detection`). A round clicks with probability P; a clicked round with equal bases is wrong with
probability Q, one with unequal bases is independent of Alice's bit.

Every random number is a function of the sample's key and the round's number, so results do not depend on how a sample
is cut into segments. Where clicks are rare the kernel jumps from click to click.

Otherwise a round has 16 random bits: its bit, its bases, and the first 13 bits of a uniform number u of 61. Clicks and
errors are comparisons of u with thresholds, and 13 bits decide them unless they are the first 13 of a threshold too:
then, once in some thousands of rounds, the other 48 bits are drawn. So the law is that of 61 bits, at a quarter of
the random numbers, in 16-bit lanes.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo.physics.device import TILE, Device, Law
from caligo_simulator.epr.effects import Rule, flip_in_x, remember, sin_squared
from caligo_simulator.epr.source import NO_CLICK, SLOT_STEP, BobBases, Int8Array, Link, Segment
from caligo_simulator.philox import failures_before_success, fill_blocks, word_at

_SPARSE_BELOW: Final = 0.07
"""Click probability under which jumping costs less than looking at every round."""
_UNIT_BITS: Final = 61
_REST_BITS: Final = np.uint64(48)
_CHUNK: Final = 4096
"""Rounds made at once, from an eighth as many Philox blocks."""
_UNDECIDED: Final = 4
"""Stands in `bob_click` until the rest of the round's uniform number is drawn."""
_ANY_UNDECIDED: Final = np.uint64(0x0101010101010101 * _UNDECIDED)
_DRAWS: Final = 32
"""Clicks drawn at once."""

_ZERO: Final = np.uint64(0)
# Third counter word: the ways of drawing never share a block.
_DENSE: Final = np.uint64(0)
_SPARSE: Final = np.uint64(1)
_REST: Final = np.uint64(2)


class StatisticalSource:
    """The default source, O(pairs) with a small constant, O(clicks) where few pairs click."""

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        if start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        law, device, rule = link.law(), link.device, _rule(bob)
        _draw(segment, law, device, rule, key, start)
        if device is not None and device.has_memory:
            before = None
            if start:
                past = Segment(*(np.empty(TILE, np.int8) for _ in segment))
                _draw(past, law, device, rule, key, start - TILE)
                before = past.bob_click
            tiles = [
                (a[i : i + TILE], x[i : i + TILE], y[i : i + TILE], b[i : i + TILE])
                for a, x, y, b in [segment]
                for i in range(0, b.size, TILE)
            ]
            remember(tiles, before, device, rule, key, start)


def _draw(segment: Segment, law: Law, device: Device | None, rule: Rule, key: int, start: int) -> None:
    """Rounds as they are while the detectors are alive and leave no afterpulses."""
    click, (qber, in_x) = float(law.live_click), (float(rate) for rate in law.live_qber)
    if device is None or device.drift == "none":
        _draw_alike(segment, click, qber, rule, key, start)
    else:
        pairs = segment.bob_click.size
        turned = sin_squared(device, key, start // TILE, -(-pairs // TILE))
        for j, share in enumerate(turned.tolist()):
            tile = Segment(*(array[j * TILE : (j + 1) * TILE] for array in segment))
            _draw_alike(tile, click, qber + (1.0 - 2.0 * qber) * share, rule, key, start + j * TILE)
    if in_x > qber:
        flip = (in_x - qber) / (1.0 - 2.0 * qber)
        threshold = np.uint64(min(2**64 - 1, round(flip * 2**64)))
        flip_in_x(segment.bob_basis, segment.bob_click, np.uint64(key), start, threshold)


def _draw_alike(segment: Segment, click: float, qber: float, rule: Rule, key: int, start: int) -> None:
    """Independent rounds of one distribution."""
    if click < _SPARSE_BELOW:
        _fill_sparse(*segment, *rule, np.uint64(key), start, math.log1p(-click), _threshold(qber))
    else:
        _fill_dense(*segment, *rule, np.uint64(key), start, _threshold(click), _threshold(click * qber))


def _rule(bob: BobBases) -> Rule:
    """(basis, step, limit): in round i Bob tosses a coin if i step mod `TILE` < limit, and has the basis if not."""
    if bob.basis is None or bob.slots == TILE:
        return np.uint16(0), np.uint16(0), np.uint16(1)
    return np.uint16(bob.basis), np.uint16(SLOT_STEP), np.uint16(bob.slots)


def _threshold(probability: float) -> np.uint64:
    """t such that a uniform integer of `_UNIT_BITS` bits is below t with this probability, to 2^-53 relative."""
    return np.uint64(round(probability * 2**_UNIT_BITS))


@njit(nogil=True, cache=True)
def _fill_dense(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    basis: np.uint16,
    step: np.uint16,
    limit: np.uint16,
    key: np.uint64,
    start: int,
    click: np.uint64,
    wrong: np.uint64,
) -> None:
    half = click >> np.uint64(1)
    words = np.empty(_CHUNK // 4, np.uint64)
    lanes = words.view(np.uint16)
    pairs = alice_bit.size
    eights = bob_click[: pairs // 8 * 8].view(np.uint64)
    for chunk in range(0, pairs, _CHUNK):
        end = min(chunk + _CHUNK, pairs)
        fill_blocks(words, np.uint64((start + chunk) // 8), _DENSE, _ZERO, key)
        here = slice(chunk, end)
        arrays = alice_bit[here], alice_basis[here], bob_basis[here], bob_click[here]
        phase = np.uint16(np.uint16(start + chunk) * step)
        _decide(lanes, *arrays, phase, basis, step, limit, click, half, wrong)
        for first in range(chunk, end, 8):
            if first + 8 > pairs or eights[first // 8] & _ANY_UNDECIDED:
                for i in range(first, min(first + 8, pairs)):
                    if bob_click[i] == _UNDECIDED:
                        error = wrong if alice_basis[i] == bob_basis[i] else half
                        bob_click[i] = _settle(lanes[i - chunk], np.uint64(start + i), key, click, error)


@njit(nogil=True, cache=True)
def _decide(
    lanes: NDArray[np.uint16],
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    phase: np.uint16,
    basis: np.uint16,
    step: np.uint16,
    limit: np.uint16,
    click: np.uint64,
    half: np.uint64,
    wrong: np.uint64,
) -> None:
    """Rounds from their 16 bits, `_UNDECIDED` where these do not decide. All in uint16, or LLVM takes wider lanes."""
    one, two, three = np.uint16(1), np.uint16(2), np.uint16(3)
    click_start = np.uint16(click >> _REST_BITS)
    half_start = np.uint16(half >> _REST_BITS)
    wrong_start = np.uint16(wrong >> _REST_BITS)
    for i in range(alice_bit.size):
        lane = lanes[i]
        bit = np.uint16(lane & one)
        a = np.uint16(np.uint16(lane >> one) & one)
        b = np.uint16(np.uint16(lane >> two) & one)
        b = b if phase < limit else basis
        phase = np.uint16(phase + step)
        unit = np.uint16(lane >> three)
        error_start = wrong_start if a == b else half_start
        seen = np.uint16(bit ^ np.uint16(unit < error_start)) if unit < click_start else np.uint16(NO_CLICK)
        tie = (unit == error_start) | (unit == click_start)
        alice_bit[i] = bit
        alice_basis[i] = a
        bob_basis[i] = b
        bob_click[i] = np.uint16(_UNDECIDED) if tie else seen


@njit(nogil=True, inline="always")
def _settle(lane: np.uint16, number: np.uint64, key: np.uint64, click: np.uint64, error: np.uint64) -> np.int64:
    """What Bob sees in a round, from all bits of its uniform number; he is wrong where it is below `error`."""
    rest = word_at(number, _REST, _ZERO, key) >> (np.uint64(64) - _REST_BITS)
    unit = (np.uint64(lane >> 3) << _REST_BITS) | rest
    return (np.int64(lane & 1) ^ np.int64(unit < error)) if unit < click else np.int64(NO_CLICK)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_sparse(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    basis: np.uint16,
    step: np.uint16,
    limit: np.uint16,
    key: np.uint64,
    start: int,
    log_no_click: float,
    wrong: np.uint64,
) -> None:
    one = np.uint64(1)
    half = one << np.uint64(_UNIT_BITS - 1)
    bob_click[:] = NO_CLICK
    words = np.empty(2 * _DRAWS, np.uint64)
    pairs = alice_bit.size
    for origin in range(0, pairs, TILE):
        tile = np.uint64((start + origin) // TILE)
        end = min(origin + TILE, pairs)
        i = np.int64(origin - 1)
        draw = 0
        while True:
            if draw % _DRAWS == 0:
                fill_blocks(words, np.uint64(draw), _SPARSE, tile, key)
            i += 1 + failures_before_success(words[draw % _DRAWS], log_no_click)
            if i >= end:
                break
            word = words[_DRAWS + draw % _DRAWS]
            bit = word & one
            a = (word >> one) & one
            b = (word >> np.uint64(2)) & one
            b = b if np.uint16(np.uint16(i) * step) < limit else np.uint64(basis)  # a segment begins with a tile
            error = np.uint64((word >> np.uint64(3)) < (wrong if a == b else half))
            alice_bit[i] = bit
            alice_basis[i] = a
            bob_basis[i] = b
            bob_click[i] = bit ^ error
            draw += 1
