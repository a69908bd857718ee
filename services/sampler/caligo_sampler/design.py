"""Latin hypercube designs whose rows are pure functions of (seed, size, index).

In each dimension a keyed permutation of the n strata says which one row i falls into, so no row needs any other: a
design of 10^12 rows costs the memory of the slice that is asked for, and every slice can be made again.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from caligo import seeds
from caligo.errors import InvalidArgument
from caligo.phases import Phase
from caligo.space import DIMENSIONS, PARAMETERS, STRATEGY_COLUMN, Scale, Space
from caligo_sampler.parallel import THREAD_POOL

MAX_SIZE: Final = 2**40
"""Rows in the largest design."""


class LHSSampler:
    """A Latin hypercube of `size` rows over a space.

    Each of the eight continuous dimensions has exactly one row in each of `size` strata of equal probability: uniform
    in the model coordinate where the scale is linear or logarithmic, Beta(2, 1) over the bounds for F. The share of
    blind rows is exact: round(blind_fraction * size) of them.

    The nearest float32 of a coordinate may lie in the neighbouring stratum. The position within a stratum therefore
    keeps that rounding's distance from both borders, which makes stratification exact in float32 up to the sizes of
    `exact_sizes`. Beyond, strata are about as narrow as float32 is fine, and a row may fall into the next one.
    """

    def __init__(self, space: Space, seed: int, size: int) -> None:
        """Describe a design; nothing is computed.

        Args:
            space: the box.
            seed: root of the seed tree, 0 to 2^64 - 1.
            size: rows in the whole design, 1 to 2^40.

        Raises:
            InvalidArgument: `seed` or `size` is not allowed.
        """
        if not 0 <= seed < 2**64:
            raise InvalidArgument("seed", "must be 0 to 2^64 - 1")
        if not 1 <= size <= MAX_SIZE:
            raise InvalidArgument("size", f"must be 1 to 2^40 = {MAX_SIZE}")
        self.space = space
        self.seed = seed
        self.size = size
        low, high = space.model_bounds()
        self._low = low
        self._width = high - low
        self._rounding = _rounding(low, high)
        self._blind_rows = round(space.blind_fraction * size)
        leaf = seeds.sequence(seed, Phase.LHS, 0, seeds.Purpose.DESIGN)
        self._keys = leaf.generate_state(DIMENSIONS * (_ROUNDS + 1), np.uint64).reshape(DIMENSIONS, _ROUNDS + 1)

    def exact_sizes(self) -> dict[str, int]:
        """Largest size with exact stratification in float32, by symbol. A dimension of zero width has none."""
        return {
            p.symbol: int(0.5 / rounding)
            for p, rounding in zip(PARAMETERS, self._rounding, strict=False)
            if rounding > 0.0
        }

    def check_slice(self, start: int, count: int) -> None:
        """Refuse rows that the design does not have.

        Raises:
            InvalidArgument: `start` or `count` leads outside the design.
        """
        if not 0 <= start <= self.size:
            raise InvalidArgument("start", f"must be 0 to size = {self.size}")
        if not 0 <= count <= self.size - start:
            raise InvalidArgument("count", f"must be 0 to size - start = {self.size - start}")

    def rows(self, start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows start to start + count - 1: their indices, int64 [count], and model coordinates, float32 [count, 9].

        Raises:
            InvalidArgument: as `check_slice`.
        """
        self.check_slice(start, count)
        inputs = np.empty((count, DIMENSIONS), dtype=np.float32)
        with THREAD_POOL:
            _fill_rows(start, self.size, self._keys, self._low, self._width, self._rounding, self._blind_rows, inputs)
        return np.arange(start, start + count, dtype=np.int64), inputs


def _rounding(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far rounding to float32 can move a coordinate, as a share of its distribution: float64 [9]."""
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
    # Half the spacing of the numbers below the largest one; a little more for the float64 arithmetic around it.
    half_spacing = 0.5 * np.spacing(np.nextafter(largest, np.float32(0.0))).astype(np.float64) * (1.0 + 1e-6)
    width = high - low
    share = np.divide(half_spacing, width, out=np.zeros(DIMENSIONS), where=width > 0.0)
    # The Beta(2, 1) distribution function is the square of the position, steepest at the upper bound.
    return np.where(_IS_BETA, share * (2.0 + share), share)


# --- kernels; integers and IEEE arithmetic only, so that rows are the same on every machine -------------------------

_ROUNDS = 24
"""Enough that every permutation of a handful of strata is equally likely; large designs would do with far fewer."""
_BLOCK = 512  # rows a thread takes at a time; the working arrays stay in the first-level cache
_IS_BETA = np.array([*(p.scale is Scale.BETA21 for p in PARAMETERS), False])
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S11, _S27, _S30, _S31, _S32 = (np.uint64(s) for s in (11, 27, 30, 31, 32))


@njit
def _random_bits(key, counter):  # type: ignore[no-untyped-def]
    """64 random bits: number `counter` of the SplitMix64 stream seeded `key` (Steele, Lea, Flood, OOPSLA 2014)."""
    z = key + (counter + np.uint64(1)) * _GOLDEN_GAMMA
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit
def _shifted(x, modulus, key, other):  # type: ignore[no-untyped-def]
    """x plus a random function of `other`, modulo `modulus`, which is below 2^32."""
    y = x + (((_random_bits(key, other) >> _S32) * modulus) >> _S32)
    return y - modulus if y >= modulus else y


@njit
def _encrypt(left, right, left_size, right_size, keys):  # type: ignore[no-untyped-def]
    """Apply a keyed permutation of the pairs (left, right) in place, uint64 [m] each.

    A generalised Feistel network (Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """
    for k in range(0, _ROUNDS, 2):
        left_key, right_key = keys[k], keys[k + 1]
        for i in range(left.size):
            left[i] = _shifted(left[i], left_size, left_key, right[i])
            right[i] = _shifted(right[i], right_size, right_key, left[i])


@njit
def _permute(first, size, left_size, right_size, keys, left, right, images):  # type: ignore[no-untyped-def]
    """Write the images of first, first + 1, ... under a keyed permutation of 0 ... size-1 into `images`, uint64 [m].

    The network permutes left_size * right_size >= size numbers; an image outside is encrypted again until it is
    inside (cycle walking). `left` and `right` are working space.
    """
    for i in range(images.size):
        index = first + np.uint64(i)
        left[i] = index // right_size
        right[i] = index % right_size
    _encrypt(left, right, left_size, right_size, keys)
    for i in range(images.size):
        images[i] = left[i] * right_size + right[i]
        while images[i] >= size:
            left[i] = images[i] // right_size
            right[i] = images[i] % right_size
            _encrypt(left[i : i + 1], right[i : i + 1], left_size, right_size, keys)
            images[i] = left[i] * right_size + right[i]


@njit
def _fill_block(first, size, keys, low, width, rounding, blind_rows, inputs):  # type: ignore[no-untyped-def]
    """Write rows first, first + 1, ... into `inputs`, float32 [m, 9]."""
    # Halves near the root of `size` keep walks rare; an even one lets odd permutations occur.
    left_size = np.uint64(math.ceil(math.sqrt(size)))
    right_size = (size + left_size - np.uint64(1)) // left_size
    right_size += right_size % np.uint64(2)
    rows = inputs.shape[0]
    left = np.empty(rows, np.uint64)
    right = np.empty(rows, np.uint64)
    strata = np.empty(rows, np.uint64)
    for j in range(STRATEGY_COLUMN):
        _permute(first, size, left_size, right_size, keys[j], left, right, strata)
        border = min(0.5, size * rounding[j])
        for i in range(rows):
            jitter = np.float64(_random_bits(keys[j, _ROUNDS], first + np.uint64(i)) >> _S11) * 2.0**-53
            probability = (strata[i] + border + (1.0 - 2.0 * border) * jitter) / size
            position = math.sqrt(probability) if _IS_BETA[j] else probability
            inputs[i, j] = low[j] + width[j] * position
    _permute(first, size, left_size, right_size, keys[STRATEGY_COLUMN], left, right, strata)
    for i in range(rows):
        inputs[i, STRATEGY_COLUMN] = 1.0 if strata[i] < blind_rows else 0.0


@njit(parallel=True, nogil=True, cache=True)
def _fill_rows(start, size, keys, low, width, rounding, blind_rows, inputs):  # type: ignore[no-untyped-def]
    """Write rows start, start + 1, ... into `inputs`, float32 [n, 9]."""
    for block in prange((inputs.shape[0] + _BLOCK - 1) // _BLOCK):
        done = block * _BLOCK
        _fill_block(
            np.uint64(start + done), np.uint64(size), keys, low, width, rounding, np.uint64(blind_rows),
            inputs[done : done + _BLOCK],
        )  # fmt: skip
