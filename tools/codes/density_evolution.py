"""Density evolution of the sum-product decoder on the binary symmetric channel: the threshold of an ensemble.

Discretised as in Chung, Forney, Richardson, Urbanke (IEEE Communications Letters 5 (2001) 58): messages are
log-likelihood ratios rounded to a grid. Variables add, which is a convolution (FFT); checks combine by
2 atanh(tanh(a/2) tanh(b/2)) rounded to the grid, in powers of two. Given the all-zero word.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft

HALF = 300
"""Grid points on each side of 0."""
STEP = 0.1
"""Log-likelihood ratio between two grid points; the grid ends at +-30."""


@njit(cache=True)
def _check_table(half: int, step: float) -> NDArray[np.int32]:
    table = np.zeros((half + 1, half + 1), np.int32)
    for i in range(1, half + 1):
        for j in range(1, half + 1):
            a = i * step
            b = j * step
            value = min(a, b) + np.log1p(np.exp(-(a + b))) - np.log1p(np.exp(-abs(a - b)))
            table[i, j] = int(value / step + 0.5)
    return table


@njit(cache=True)
def _combine(a: NDArray[np.float64], b: NDArray[np.float64], table: NDArray[np.int32]) -> NDArray[np.float64]:
    """Density of the check combination of two independent messages with densities a and b."""
    half = (a.size - 1) // 2
    result = np.zeros(a.size)
    result[half] = a[half] + b[half] - a[half] * b[half]
    for i in range(1, half + 1):
        up, down = a[half + i], a[half - i]
        if up + down < 1e-18:
            continue
        for j in range(1, half + 1):
            k = table[i, j]
            result[half + k] += up * b[half + j] + down * b[half - j]
            result[half - k] += up * b[half - j] + down * b[half + j]
    return result


def _check_side(
    density: NDArray[np.float64], checks: dict[int, float], table: NDArray[np.int32]
) -> NDArray[np.float64]:
    squares = [density]
    result = np.zeros_like(density)
    for degree, fraction in checks.items():
        exponent = degree - 1
        while len(squares) < exponent.bit_length():
            squares.append(_combine(squares[-1], squares[-1], table))
        factors = [squares[bit] for bit in range(exponent.bit_length()) if exponent >> bit & 1]
        result += fraction * reduce(lambda a, b: _combine(a, b, table), factors)
    return result


def _variable_side(
    channel: NDArray[np.float64], density: NDArray[np.float64], variables: dict[int, float]
) -> NDArray[np.float64]:
    """Convolutions; what falls beyond the grid's ends is put on them."""
    half = (density.size - 1) // 2
    spread = density
    size = fft.next_fast_len(4 * half + 2, real=True)

    def convolve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.maximum(fft.irfft(fft.rfft(a, size) * fft.rfft(b, size), size)[: 4 * half + 1], 0.0)
        inside = full[half : 3 * half + 1].copy()
        inside[0] += full[:half].sum()
        inside[-1] += full[3 * half + 1 :].sum()
        return inside / inside.sum()

    result = np.zeros_like(density)
    total = channel
    for degree in range(2, max(variables) + 1):
        total = convolve(total, spread)
        if degree in variables:
            result += variables[degree] * total
    return result / result.sum()


def converges(
    variables: dict[int, float],
    checks: dict[int, float],
    qber: float,
    iterations: int = 2000,
    *,
    punctured: float = 0.0,
    shortened: float = 0.0,
) -> bool:
    """Whether the error probability of the ensemble falls below 1e-7 at this error rate.

    variables, checks: edge-perspective degree distributions {degree: fraction of edges}. punctured, shortened: the
    fractions of the positions, at random, that are unknown or known for certain (Elkouss et al. 2010, Eq. 9).
    """
    table = _check_table(HALF, STEP)
    place = np.log((1.0 - qber) / qber) / STEP
    below = int(np.floor(place))
    channel = np.zeros(2 * HALF + 1)
    for sign, weight in ((1, 1.0 - qber), (-1, qber)):
        channel[HALF + sign * below] += weight * (1.0 - (place - below))
        channel[HALF + sign * (below + 1)] += weight * (place - below)
    channel *= 1.0 - punctured - shortened
    channel[HALF] += punctured
    channel[-1] += shortened
    density = channel
    error = 1.0
    for i in range(iterations):
        density = _variable_side(channel, _check_side(density, checks, table), variables)
        last, error = error, float(density[:HALF].sum() + 0.5 * density[HALF])
        if error < 1e-7:
            return True
        if i > 20 and last - error < 1e-9:
            return False
    return False


def threshold(variables: dict[int, float], checks: dict[int, float], accuracy: float = 2e-4) -> float:
    """The highest error rate at which the ensemble converges, by bisection."""
    low, high = 1e-4, 0.5
    while high - low > accuracy:
        middle = 0.5 * (low + high) if low > 1e-4 else 0.5 * min(high, 0.25)
        if converges(variables, checks, middle):
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
