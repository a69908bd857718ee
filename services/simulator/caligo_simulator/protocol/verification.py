"""Verification of decoded strings by the polynomial hash of `caligo.physics.tags`.

The words w_1 .. w_L of a string have the tag w_1 a + w_2 a^2 + ... + w_L a^L mod PRIME for one uniform point a in
[0, PRIME) a sample.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo.physics.tags import PRIME, TAG_BITS, WORD_BITS, collision_bound

__all__ = ["PRIME", "TAG_BITS", "WORD_BITS", "collision_bound", "draw_point", "tags"]


def draw_point(rng: np.random.Generator) -> int:
    """The point at which the sample's frames are hashed, uniform in [0, PRIME)."""
    return int(rng.integers(0, PRIME))


@njit(nogil=True, cache=True)
def _tags(frames: NDArray[np.uint8], point: int) -> NDArray[np.int64]:
    count, bits = frames.shape
    result = np.zeros(count, np.int64)
    words = -(-bits // WORD_BITS)
    for i in range(count):
        tag = np.int64(0)
        for j in range(words):
            word = np.int64(0)
            for b in range(j * WORD_BITS, min(bits, (j + 1) * WORD_BITS)):
                word = (word << 1) | np.int64(frames[i, b])
            total = tag + word
            if total >= PRIME:
                total -= PRIME
            # The quotient in float64 is off by one at most, so the wrapped difference is the remainder +- P.
            quotient = np.int64(np.float64(total) * np.float64(point) / np.float64(PRIME))
            tag = total * point - quotient * PRIME
            if tag < 0:
                tag += PRIME
            elif tag >= PRIME:
                tag -= PRIME
        result[i] = tag
    return result


def tags(frames: NDArray[np.uint8], point: int) -> NDArray[np.int64]:
    """Tags in [0, PRIME), int64 (frames,), of uint8 0/1 rows (frames, bits), at `point` in [0, PRIME)."""
    return _tags(np.ascontiguousarray(frames, np.uint8), point)
