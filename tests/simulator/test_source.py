"""The statistical source against the closed forms it stands for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from caligo_simulator.epr.source import NO_CLICK, TILE, Link, Segment, make_source, segment_bytes
from caligo_simulator.philox import philox
from scipy import stats

from caligo import seeds
from caligo.errors import InvalidArgument
from caligo.seeds import Phase, Purpose

# Ten points spread over the space, on both sides of the two ways in which the source draws.
POINTS = [
    Link(1.0, 1.0, 0.0, 1e-9, "fidelity"),
    Link(0.99, 0.9, 0.01, 1e-6, "fidelity"),
    Link(0.95, 0.3, 0.02, 1e-5, "fidelity"),
    Link(0.9, 0.5, 0.05, 1e-4, "weight"),
    Link(0.501, 1.0, 0.1, 1e-3, "fidelity"),
    Link(0.8, 0.26, 0.5, 1e-2, "fidelity"),
    Link(0.97, 0.24, 0.01, 1e-3, "weight"),
    Link(0.99, 0.05, 0.002, 1e-2, "fidelity"),
    Link(0.99, 0.01, 0.0, 1e-3, "fidelity"),
    Link(0.85, 0.02, 0.05, 1e-8, "fidelity"),
]


def generate(link: Link, key: int, pairs: int, start: int = 0) -> Segment:
    segment = Segment.over(np.full(segment_bytes(pairs), 99, np.uint8), pairs)
    make_source("statistical").fill(segment, link, key, start)
    return segment


def key_of(index: int) -> int:
    return seeds.key(5, Phase.LHS, index, Purpose.QUANTUM)


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: int, block: tuple[int, ...]) -> None:
    """The known-answer vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds."""
    assert tuple(map(int, philox(*map(np.uint64, counter), np.uint64(key)))) == block


@pytest.mark.parametrize("number", range(len(POINTS)))
def test_joint_distribution(number: int) -> None:
    """Chi-square over Alice's bit, both bases and Bob's click, 16 cells and the rounds without a click."""
    link, pairs = POINTS[number], 2**20
    segment = generate(link, key_of(number), pairs)
    assert all(array.dtype == np.int8 and array.shape == (pairs,) for array in segment)
    assert set(np.unique(segment.bob_click)) <= {0, 1, NO_CLICK}
    clicked = segment.bob_click != NO_CLICK
    bit, a, b, click = (array[clicked].astype(int) for array in segment)
    assert all(set(np.unique(x)) <= {0, 1} for x in (bit, a, b))
    observed = np.bincount(8 * bit + 4 * a + 2 * b + click, minlength=16)

    cell_bit, cell_a, cell_b, cell_click = ((np.arange(16) >> shift) & 1 for shift in (3, 2, 1, 0))
    wrong = cell_bit != cell_click
    error = np.where(cell_a == cell_b, link.qber(), 0.5)
    expected = pairs * link.click_probability() / 8 * np.where(wrong, error, 1 - error)
    observed = np.append(observed, pairs - clicked.sum())
    expected = np.append(expected, pairs - expected.sum())
    possible = expected > 1
    assert observed[~possible].sum() <= 5
    _, p = stats.chisquare(observed[possible], expected[possible] * observed[possible].sum() / expected[possible].sum())
    assert p > 1e-3


@pytest.mark.parametrize("link", [POINTS[1], POINTS[3], POINTS[7], POINTS[9]], ids=["dense", "dark", "sparse", "rare"])
def test_z_scores_of_clicks_and_errors(link: Link) -> None:
    """200 runs: both have mean 0 and standard deviation 1 (physics.md T13)."""
    pairs, clicks_z, errors_z = 40_000, [], []
    for run in range(200):
        segment = generate(link, key_of(1000 + run), pairs)
        clicked = segment.bob_click != NO_CLICK
        matched = clicked & (segment.alice_basis == segment.bob_basis)
        m, errors = matched.sum(), (segment.alice_bit != segment.bob_click)[matched].sum()
        p, q = link.click_probability(), link.qber()
        clicks_z.append((clicked.sum() - pairs * p) / np.sqrt(pairs * p * (1 - p)))
        errors_z.append((errors - m * q) / np.sqrt(m * q * (1 - q)))
    for z in (clicks_z, errors_z):
        assert abs(np.mean(z)) < 0.15 * np.sqrt(2)
        assert abs(np.std(z) - 1) < 0.15


@pytest.mark.parametrize("link", [POINTS[2], POINTS[8]], ids=["dense", "sparse"])
def test_any_segment_can_be_made_again_alone(link: Link) -> None:
    pairs = 5 * TILE + 1234
    whole = generate(link, key_of(1), pairs)
    for start, length in [(3 * TILE, 2 * TILE + 1234), (0, TILE), (TILE, 777), (5 * TILE, 1234), (TILE, 4 * TILE)]:
        part = generate(link, key_of(1), length, start)
        for ours, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[start : start + length])


@pytest.mark.parametrize("link", [POINTS[2], POINTS[8]], ids=["dense", "sparse"])
def test_rounds_samples_and_bits_are_independent(link: Link) -> None:
    """Neighbouring rounds, tiles and samples show no correlation."""
    pairs = 4 * TILE
    first, second = (generate(link, key_of(j), pairs) for j in (1, 2))

    def z(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.corrcoef(x, y)[0, 1] * np.sqrt(x.size))

    click = [s.bob_click != NO_CLICK for s in (first, second)]
    assert abs(z(click[0][:-1], click[0][1:])) < 4
    assert abs(z(click[0][:TILE], click[0][TILE : 2 * TILE])) < 4
    assert abs(z(click[0], click[1])) < 4
    bits = [array[click[0]] for array in first]
    for i in range(3):
        assert abs(z(bits[i][:-1], bits[i][1:])) < 4
        for j in range(i):
            assert abs(z(bits[i], bits[j])) < 4


def test_no_click_at_all() -> None:
    segment = generate(dataclasses.replace(POINTS[1], efficiency=0.0, dark_count_prob=0.0), 3, 10_000)
    assert (segment.bob_click == NO_CLICK).all()


def test_a_source_that_is_not_installed_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"^protocol\.epr_source: netsquid .* installed: statistical$"):
        make_source("netsquid")
