"""The outer code over the frames of a string: what a few of many frames lack, without anybody asking for it.

A part of every frame, the private bits that would help its decoding most or the frame itself, is read as symbols of
16 bits. `parities` of these over all frames are a systematic maximum-distance-separable code: where at most as many
frames lack the part as there are parities, it follows from those that have it. The parity check is a Cauchy matrix,
every square part of which is invertible (Roth and Lempel, IEEE Trans. Inf. Theory 35, 1314 (1989)).

Parities are linear over the bits, so each discloses at most as many bits as it has.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
Symbols = NDArray[np.uint16]

SYMBOL_BITS: Final = 16
_ORDER: Final = 2**SYMBOL_BITS - 1
_PRIMITIVE: Final = 0x1100B
"""x^16 + x^12 + x^3 + x + 1, a primitive polynomial over GF(2)."""
MOST_FRAMES: Final = 2**15
"""Frames and parities that there may be: each names an element of the field."""


def symbols_of(bits: Any) -> Any:
    """Symbols that hold so many bits, an integer or an array of them."""
    return -(-bits // SYMBOL_BITS)


def parities(values: Bits, count: int) -> Symbols:
    """`count` parities, uint16 [count, symbols], of a part of every frame, uint8 0/1 [frames, bits].

    Raises ValueError for more than `MOST_FRAMES` of either.
    """
    if max(len(values), count) > MOST_FRAMES:
        raise ValueError(f"at most {MOST_FRAMES} frames and parities")
    result = np.zeros((count, symbols_of(values.shape[1])), np.uint16)
    _add_parities(_pack(values), np.arange(len(values)), result, *_tables())
    return result


def restore(values: Bits, missing: NDArray[np.bool_], said: Symbols) -> Bits:
    """The part of the frames that lack it, uint8 0/1 [missing, bits], in order.

    values: uint8 0/1 [frames, bits], without meaning where `missing`, bool [frames]. said: uint16 [count, symbols].
    Raises ValueError where more are missing than there are parities.
    """
    lost = np.flatnonzero(missing)
    if lost.size > len(said):
        raise ValueError(f"{len(said)} parities cannot restore {lost.size} frames")
    rest = said[: lost.size].copy()
    _add_parities(_pack(values[~missing]), np.flatnonzero(~missing), rest, *_tables())
    _solve(lost, rest, *_tables())
    return np.unpackbits(rest.astype(">u2").view(np.uint8), axis=1, count=values.shape[1])


def _pack(values: Bits) -> Symbols:
    padded = np.zeros((len(values), symbols_of(values.shape[1]) * SYMBOL_BITS), np.uint8)
    padded[:, : values.shape[1]] = values
    return np.packbits(padded, axis=1).view(">u2").astype(np.uint16)


@cache
def _tables() -> tuple[NDArray[np.int32], Symbols]:
    """Logarithms, int32 [2^16], and powers, uint16 [2 (2^16 - 1)], of the field's generator x."""
    powers = np.zeros(2 * _ORDER, np.uint16)
    logarithms = np.zeros(_ORDER + 1, np.int32)
    element = 1
    for exponent in range(_ORDER):
        powers[exponent] = powers[exponent + _ORDER] = element
        logarithms[element] = exponent
        element <<= 1
        if element > _ORDER:
            element ^= _PRIMITIVE
    return logarithms, powers


@njit(nogil=True, cache=True)
def _add_parities(
    words: Symbols, names: NDArray[np.int64], result: Symbols, logarithms: NDArray[np.int32], powers: Symbols
) -> None:
    """Add to parity j the words of the frames, each times 1 / (name + j'), where j' = 2^15 + j."""
    for j in range(result.shape[0]):
        for i in range(names.size):
            inverse = _ORDER - logarithms[names[i] ^ (MOST_FRAMES + j)]
            for k in range(words.shape[1]):
                if words[i, k]:
                    result[j, k] ^= powers[logarithms[words[i, k]] + inverse]


@njit(nogil=True, cache=True)
def _solve(lost: NDArray[np.int64], rest: Symbols, logarithms: NDArray[np.int32], powers: Symbols) -> None:
    """Replace the parities of the lost frames alone by the words of these: Gaussian elimination, in place.

    No pivoting is needed, since every leading square of a Cauchy matrix is invertible.
    """
    n = lost.size
    matrix = np.empty((n, n), np.uint16)
    for j in range(n):
        for i in range(n):
            matrix[j, i] = powers[_ORDER - logarithms[lost[i] ^ (MOST_FRAMES + j)]]
    for pivot in range(n):
        inverse = _ORDER - logarithms[matrix[pivot, pivot]]
        for i in range(pivot, n):
            if matrix[pivot, i]:
                matrix[pivot, i] = powers[logarithms[matrix[pivot, i]] + inverse]
        for k in range(rest.shape[1]):
            if rest[pivot, k]:
                rest[pivot, k] = powers[logarithms[rest[pivot, k]] + inverse]
        for j in range(n):
            if j != pivot and matrix[j, pivot]:
                factor = logarithms[matrix[j, pivot]]
                for i in range(pivot, n):
                    if matrix[pivot, i]:
                        matrix[j, i] ^= powers[logarithms[matrix[pivot, i]] + factor]
                for k in range(rest.shape[1]):
                    if rest[pivot, k]:
                        rest[j, k] ^= powers[logarithms[rest[pivot, k]] + factor]
