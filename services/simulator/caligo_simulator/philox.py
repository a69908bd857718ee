"""Philox 4x32-10, the counter-based generator of Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3".

A block of 128 random bits is a pure function of a 64-bit key and a 128-bit counter, so any part of a stream can be
made alone, by any process, in any order. Written in 64-bit lanes that hold 32-bit words, the form in which LLVM turns
the multiplications into vector instructions.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


@njit(nogil=True, inline="always")
def philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, key: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """The block at counter (c0, c1, c2, c3): four words below 2^32, each in a uint64. Counters are below 2^32."""
    k0 = key & _LOW
    k1 = key >> _HALF
    for _ in range(_ROUNDS):
        p0 = _MULTIPLIER_0 * c0
        p1 = _MULTIPLIER_1 * c2
        c0 = (p1 >> _HALF) ^ c1 ^ k0
        c1 = p1 & _LOW
        c2 = (p0 >> _HALF) ^ c3 ^ k1
        c3 = p0 & _LOW
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@njit(nogil=True, cache=True)
def fill_blocks(words: NDArray[np.uint64], first: np.uint64, c2: np.uint64, c3: np.uint64, key: np.uint64) -> None:
    """Fill words, uint64 [2n], with the n blocks at counters (first, ..., first + n - 1; c2, c3), 64-bit numbers of
    two words each. Half a block lies at b, the other at n + b; the low 32 bits of first + n - 1 must not wrap."""
    count = words.size // 2
    low, high = first & _LOW, first >> _HALF
    for b in range(count):
        w0, w1, w2, w3 = philox(low + np.uint64(b), high, c2, c3, key)
        words[b] = (w0 << _HALF) | w1
        words[count + b] = (w2 << _HALF) | w3


@njit(nogil=True, cache=True)
def word_at(number: np.uint64, c2: np.uint64, c3: np.uint64, key: np.uint64) -> np.uint64:
    """64 bits of the block at counter (number, c2, c3)."""
    w0, w1, _, _ = philox(number & _LOW, number >> _HALF, c2, c3, key)
    return (w0 << _HALF) | w1


@njit(nogil=True, inline="always", error_model="numpy")
def failures_before_success(bits: np.uint64, log_failure: float) -> np.int64:
    """A geometric number: failures before the first success, from 64 random bits.

    log_failure: ln(1 - p), in [-inf, -0.0]. Held at 2^62, beyond every run there is.
    """
    uniform = (np.float64(bits >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
    return np.int64(min(math.log(uniform) / log_failure, 2.0**62))
