"""Privacy amplification: y = T x, exactly, and 2-universal."""

from __future__ import annotations

import itertools

import cryptomite
import numpy as np
import pytest
from caligo_simulator.protocol import amplification
from caligo_simulator.protocol.amplification import amplify, draw_seed, seed_length
from hypothesis import given, settings
from hypothesis import strategies as st


def direct(bits: np.ndarray, length: int, seed: np.ndarray) -> np.ndarray:
    """y_i = sum_j s_{i - j + n - 1} x_j mod 2, by the definition."""
    n = bits.size
    indices = np.arange(length)[:, None] - np.arange(n)[None, :] + n - 1
    return (seed[indices].astype(np.int64) @ bits % 2).astype(np.uint8)


@given(n=st.integers(1, 3000), fraction=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_equals_the_direct_product(n: int, fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    length = max(1, round(fraction * n))
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    toeplitz_seed = draw_seed(n, length, rng)
    assert np.array_equal(amplify(bits, length, toeplitz_seed), direct(bits, length, toeplitz_seed))
    both = np.stack([bits, rng.integers(0, 2, n, dtype=np.uint8)])
    expected = [direct(string, length, toeplitz_seed) for string in both]
    assert np.array_equal(amplify(both, length, toeplitz_seed), expected)


@given(n=st.integers(2, 1000), fraction=st.floats(0, 1), longest=st.sampled_from([16, 64, 250]))
@settings(max_examples=60, deadline=None)
def test_blocks_change_nothing(n: int, fraction: float, longest: int) -> None:
    rng = np.random.default_rng(n)
    length = max(1, round(fraction * n))
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    seed = draw_seed(n, length, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amplification, "LONGEST_TRANSFORM", longest)
        assert np.array_equal(amplify(bits, length, seed), direct(bits, length, seed))
        both = np.stack([1 - bits, bits])
        assert np.array_equal(amplify(both, length, seed), [direct(string, length, seed) for string in both])


@pytest.mark.parametrize(("n", "length"), [(1_300_000, 790_000), (5_000_000, 700_000)], ids=["one", "blocks"])
def test_rows_of_long_products(n: int, length: int) -> None:
    """All-ones input is the worst case for rounding: every coefficient is as large as it can be."""
    rng = np.random.default_rng(5)
    bits = np.ones((2, n), np.uint8)
    seed = np.ones(seed_length(n, length), np.uint8)
    seed[rng.integers(0, seed.size, 1000)] = 0
    rows = rng.integers(0, length, 200)
    expected = np.array([np.count_nonzero(seed[i : i + n]) & 1 for i in rows])
    assert np.array_equal(amplify(bits, length, seed)[:, rows], [expected, expected])


def test_two_universal() -> None:
    """n = 12, ell = 4, all 2^15 seeds: each difference x != 0 is hashed to 0 by exactly 2^-4 of them."""
    n, length = 12, 4
    seeds = ((np.arange(1 << seed_length(n, length))[:, None] >> np.arange(seed_length(n, length))) & 1).astype(
        np.uint8
    )
    windows = np.stack([seeds[:, i : i + n][:, ::-1] for i in range(length)], axis=1)
    differences = ((np.arange(1, 1 << n)[:, None] >> np.arange(n)) & 1).astype(np.uint8)
    for seed, window in zip(seeds[::4001], windows[::4001], strict=True):
        assert np.array_equal(amplify(differences[777], length, seed), window @ differences[777] % 2)
    packed = np.packbits(windows.reshape(-1, n), axis=1).astype(np.uint16)
    masks = packed[:, 0] << 8 | packed[:, 1]
    for x in np.packbits(differences, axis=1).astype(np.uint16):
        parities = np.bitwise_count(masks & (x[0] << 8 | x[1])) & 1
        collisions = np.count_nonzero(~parities.reshape(-1, length).any(axis=1))
        assert collisions == 1 << (seed_length(n, length) - length)


@pytest.mark.parametrize(("n", "length"), [(1, 1), (100, 100), (1000, 1), (4096, 1000)])
def test_equals_cryptomite(n: int, length: int) -> None:
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    seed = draw_seed(n, length, rng)
    # cryptomite takes the seed as first column, then first row backwards.
    theirs = np.concatenate([seed[n - 1 :], seed[: n - 1]])
    expected = cryptomite.Toeplitz(n, length).extract(bits.tolist(), theirs.tolist())
    assert amplify(bits, length, seed).tolist() == list(expected)


def test_seed_has_full_entropy_and_the_right_length() -> None:
    rng = np.random.default_rng(1)
    seed = draw_seed(100_003, 5_000, rng)
    assert seed.size == seed_length(100_003, 5_000) == 105_002
    assert abs(seed.mean() - 0.5) < 5 * 0.5 / np.sqrt(seed.size)
    assert not np.array_equal(seed, draw_seed(100_003, 5_000, rng))


@pytest.mark.parametrize(("n", "length", "seed_bits"), [(10, 0, 9), (10, 11, 20), (10, 4, 12), (10, 4, 14)])
def test_sizes_that_do_not_fit(n: int, length: int, seed_bits: int) -> None:
    with pytest.raises(ValueError, match=r"length|seed"):
        amplify(np.zeros(n, np.uint8), length, np.zeros(seed_bits, np.uint8))


def test_three_strings_are_too_many() -> None:
    with pytest.raises(ValueError, match="strings, not 3"):
        amplify(np.zeros((3, 10), np.uint8), 4, np.zeros(13, np.uint8))


def test_linear() -> None:
    rng = np.random.default_rng(2)
    seed = draw_seed(500, 200, rng)
    strings = rng.integers(0, 2, (4, 500), dtype=np.uint8)
    for a, b in itertools.combinations(strings, 2):
        assert np.array_equal(amplify(a ^ b, 200, seed), amplify(a, 200, seed) ^ amplify(b, 200, seed))
