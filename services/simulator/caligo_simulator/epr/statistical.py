"""Rounds drawn from the exact joint distribution of bits, bases and clicks.

Model: Werner pairs, loss, misalignment and dark counts on Bob's side, double clicks read as a fair coin
(`caligo.physics.detection`). A round clicks with probability P; a clicked round with equal bases is wrong with
probability Q, one with unequal bases is independent of Alice's bit.

Every random number is a function of the sample's key and the round's tile, so results do not depend on how a sample
is cut into segments. Where clicks are rare the kernel jumps from click to click.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit

from caligo_simulator.epr.source import NO_CLICK, TILE, Int8Array, Link, Segment
from caligo_simulator.philox import failures_before_success, philox

_SPARSE_BELOW: Final = 0.25
"""Click probability under which jumping costs less than looking at every round."""
_UNIT_BITS: Final = 61
_CHUNK: Final = 256
"""Philox blocks made at once; each gives two rounds 64 bits."""
_NO_CLICK: Final = np.int8(NO_CLICK)

# Third counter word: the two ways of drawing never share a block.
_DENSE: Final = np.uint64(0)
_SPARSE: Final = np.uint64(1)


class StatisticalSource:
    """The default source, O(pairs) with a small constant, O(clicks) where few pairs click."""

    def fill(self, segment: Segment, link: Link, key: int, start: int) -> None:
        if start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        click, qber = link.click_probability(), link.qber()
        if click < _SPARSE_BELOW:
            _fill_sparse(*segment, np.uint64(key), start, math.log1p(-click), _threshold(qber))
        else:
            _fill_dense(*segment, np.uint64(key), start, _threshold(click), _threshold(click * qber))


def _threshold(probability: float) -> np.uint64:
    """t such that a uniform integer of `_UNIT_BITS` bits is below t with this probability, to 2^-53 relative."""
    return np.uint64(round(probability * 2**_UNIT_BITS))


@njit(nogil=True, cache=True)
def _fill_dense(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    key: np.uint64,
    start: int,
    click: np.uint64,
    wrong: np.uint64,
) -> None:
    one = np.uint64(1)
    half = click >> one
    words = np.empty(2 * _CHUNK, np.uint64)
    pairs = alice_bit.size
    for chunk in range(0, pairs, 2 * _CHUNK):
        first = np.uint64((start + chunk) // 2)
        high = first >> np.uint64(32)
        low = first & np.uint64(0xFFFFFFFF)
        # A chunk is aligned, so the low word of the counter does not wrap inside it.
        for block in range(_CHUNK):
            w0, w1, w2, w3 = philox(low + np.uint64(block), high, _DENSE, np.uint64(0), key)
            words[block] = (w0 << np.uint64(32)) | w1
            words[_CHUNK + block] = (w2 << np.uint64(32)) | w3
        for j in range(min(2 * _CHUNK, pairs - chunk)):
            word = words[j]
            bit = word & one
            a = (word >> one) & one
            b = (word >> np.uint64(2)) & one
            unit = word >> np.uint64(3)
            error = np.uint64(unit < (wrong if a == b else half))
            i = chunk + j
            alice_bit[i] = bit
            alice_basis[i] = a
            bob_basis[i] = b
            bob_click[i] = (bit ^ error) if unit < click else np.uint64(NO_CLICK)


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_sparse(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    bob_click: Int8Array,
    key: np.uint64,
    start: int,
    log_no_click: float,
    wrong: np.uint64,
) -> None:
    one = np.uint64(1)
    half = one << np.uint64(_UNIT_BITS - 1)
    bob_click[:] = _NO_CLICK
    alice_bit[:] = 0
    alice_basis[:] = 0
    bob_basis[:] = 0
    pairs = alice_bit.size
    for origin in range(0, pairs, TILE):
        tile = np.uint64((start + origin) // TILE)
        end = min(origin + TILE, pairs)
        draw = np.uint64(0)
        i = np.int64(origin - 1)
        while True:
            w0, w1, w2, w3 = philox(draw, tile, _SPARSE, np.uint64(0), key)
            draw += one
            i += 1 + failures_before_success(w0, w1, log_no_click)
            if i >= end:
                break
            word = (w2 << np.uint64(32)) | w3
            bit = word & one
            a = (word >> one) & one
            b = (word >> np.uint64(2)) & one
            error = np.uint64((word >> np.uint64(3)) < (wrong if a == b else half))
            alice_bit[i] = bit
            alice_basis[i] = a
            bob_basis[i] = b
            bob_click[i] = bit ^ error
