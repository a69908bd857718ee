"""Privacy amplification with a uniformly random Toeplitz matrix.

y = T x over GF(2), T_ij = s_{i - j + n - 1}, with n + ell - 1 uniform seed bits: a 2-universal family
(Pr[T x = T x'] = 2^-ell for x != x'; Krawczyk, CRYPTO 1994). y_i is coefficient n - 1 + i of the linear
convolution of s and x, computed with floating-point FFTs and rounded.

The rounding is exact. A convolution of length N by float64 FFTs is off by at most
|s| |x| ((1 + u)^{3k} (1 + u sqrt 5)^{3k + 1} (1 + b)^{3k} - 1), k = log2 N, with u = 2^-53 and twiddle factors
accurate to b (Percival, Math. Comp. 72 (2003), Theorem 5.1). In a transform of at most 2^22 points
|s| |x| <= 2^22, and with b = u the bound is 1.5e-7, while 1/2 would be needed for a wrong bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

LONGEST_TRANSFORM = 1 << 22
"""Longer products are cut into blocks, which bounds the memory to some 150 MiB beside the arguments."""


def seed_length(bits: int, length: int) -> int:
    """Seed bits that hashing `bits` bits to `length` takes."""
    return bits + length - 1


def draw_seed(bits: int, length: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A fresh uniform seed, uint8 0/1 (bits + length - 1,). Every string takes one of its own."""
    count = seed_length(bits, length)
    return np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), np.uint8), count=count)


def amplify(bits: NDArray[np.uint8], length: int, seed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hash `bits`, uint8 0/1 (n,), to `length` bits, uint8 0/1, with 1 <= length <= n.

    seed: uint8 0/1 (n + length - 1,). Raises ValueError where the sizes do not fit.
    """
    n = bits.size
    if not 1 <= length <= n:
        raise ValueError(f"length: 1 to {n}, not {length}")
    if seed.size != seed_length(n, length):
        raise ValueError(f"seed: {seed_length(n, length)} bits, not {seed.size}")
    if seed.size <= LONGEST_TRANSFORM:
        columns, rows = n, length
    else:
        columns = rows = LONGEST_TRANSFORM // 2
    result = np.zeros(length, np.uint8)
    for column in range(0, n, columns):
        block = bits[column : column + columns]
        size = fft.next_fast_len(min(columns + rows, n + length) - 1, real=True)
        spectrum = fft.rfft(block.astype(np.float64), size)
        for row in range(0, length, rows):
            target = result[row : row + rows]
            start = row - (column + block.size - 1) + n - 1
            diagonals = seed[start : start + block.size + target.size - 1]
            # Only the first block.size - 1 and the last coefficients wrap around in a transform this short.
            product = fft.irfft(fft.rfft(diagonals.astype(np.float64), size) * spectrum, size)
            ones = np.rint(product[block.size - 1 : block.size - 1 + target.size]).astype(np.int64)
            target ^= (ones & 1).astype(np.uint8)
    return result
