"""Privacy amplification with a uniformly random Toeplitz matrix.

y = T x over GF(2), T_ij = s_{i - j + n - 1}, with n + ell - 1 uniform seed bits: a 2-universal family
(Pr[T x = T x'] = 2^-ell for x != x'; Krawczyk, CRYPTO 1994). y_i is coefficient n - 1 + i of the linear
convolution of s and x, computed with floating-point FFTs and rounded.

Two strings x, x' under one seed, Alice's and Bob's, go through the transforms together, as x + 2^b x' with 2^b > n:
the bits of their products do not overlap.

The rounding is exact. A convolution of length N by float64 FFTs is off by at most
|s| |x| ((1 + u)^{3k} (1 + u sqrt 5)^{3k + 1} (1 + b)^{3k} - 1), k = log2 N, with u = 2^-53 and twiddle factors
accurate to b (Percival, Math. Comp. 72 (2003), Theorem 5.1). In a transform of at most 2^21 points n < 2^21, so
|s| |x + 2^b x'| < 2^21 (1 + 2^21), and with b = u the bound is 0.14, while 1/2 would be needed for a wrong bit; for
one string it is 7e-8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

LONGEST_TRANSFORM = 1 << 21
"""Longer products are cut into blocks, which bounds the memory to some 80 MiB beside the arguments."""


def seed_length(bits: int, length: int) -> int:
    """Seed bits that hashing `bits` bits to `length` takes."""
    return bits + length - 1


def draw_seed(bits: int, length: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A fresh uniform seed, uint8 0/1 (bits + length - 1,). Every string takes one of its own."""
    count = seed_length(bits, length)
    return np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), np.uint8), count=count)


def amplify(bits: NDArray[np.uint8], length: int, seed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hash `bits`, uint8 0/1 (n,), or two such strings (2, n), to `length` bits each, with 1 <= length <= n.

    seed: uint8 0/1 (n + length - 1,). Returns uint8 0/1 (length,) or (2, length). Raises ValueError where the sizes do
    not fit.
    """
    strings = np.atleast_2d(bits)
    count, n = strings.shape
    if count > 2:
        raise ValueError(f"bits: one or two strings, not {count}")
    if not 1 <= length <= n:
        raise ValueError(f"length: 1 to {n}, not {length}")
    if seed.size != seed_length(n, length):
        raise ValueError(f"seed: {seed_length(n, length)} bits, not {seed.size}")
    if seed.size < LONGEST_TRANSFORM:
        columns, rows = n, length
    else:
        columns = rows = LONGEST_TRANSFORM // 2
    result = np.zeros((count, length), np.uint8)
    for column in range(0, n, columns):
        block = strings[:, column : column + columns]
        width = block.shape[1]
        shifts = np.arange(count)[:, None] * width.bit_length()
        size = fft.next_fast_len(min(columns + rows, n + length) - 1, real=True)
        spectrum = fft.rfft((block * 2.0**shifts).sum(axis=0), size)
        for row in range(0, length, rows):
            target = result[:, row : row + rows]
            height = target.shape[1]
            start = row - (column + width - 1) + n - 1
            diagonals = seed[start : start + width + height - 1]
            # Only the first width - 1 and the last coefficients wrap around in a transform this short.
            product = fft.irfft(fft.rfft(diagonals.astype(np.float64), size) * spectrum, size)
            ones = np.rint(product[width - 1 : width - 1 + height]).astype(np.int64)
            target ^= (ones >> shifts & 1).astype(np.uint8)
    return result.reshape(*bits.shape[:-1], length)
