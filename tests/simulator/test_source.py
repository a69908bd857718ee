"""Every source that is installed against quantum mechanics, and the statistical one in its own details.

What is asked of a source here says nothing of how it makes its rounds: NetSquid's runs through the same tests wherever
the package `netsquid` is installed.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from caligo_simulator.epr.registry import installed_sources, make_source
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Link, Segment, segment_bytes
from caligo_simulator.philox import philox
from numpy.typing import NDArray
from scipy import stats

from caligo import seeds
from caligo.phases import Phase
from caligo.seeds import Purpose

# Ten points spread over the space, on both sides of the two ways in which the statistical source draws, and two beyond
# it where dark counts and double clicks are so frequent that few rounds show them.
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
    Link(0.9, 0.3, 0.05, 0.3, "fidelity"),
    Link(0.75, 0.05, 0.1, 0.15, "weight"),
]
COINS = BobBases(None, 0)
"""Bob's bases where he has none of his own."""
ROUNDS = {"statistical": 2**20, "netsquid": 20_000, "sequence": 12_000}
"""Rounds a point: as many as a source makes in seconds."""


@pytest.fixture(params=installed_sources())
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def generate(source: str, link: Link, key: int, pairs: int, start: int = 0, bob: BobBases = COINS) -> Segment:
    segment = Segment.over(np.full(segment_bytes(pairs), 99, np.uint8), pairs)
    make_source(source).fill(segment, link, bob, key, start)
    return segment


def key_of(index: int) -> int:
    return seeds.key(5, Phase.LHS, index, Purpose.QUANTUM)


def exact(link: Link) -> NDArray[np.float64]:
    """Probabilities of a round, float64 [17]: 8 bit + 4 Alice's basis + 2 Bob's basis + click, and no click.

    From the Werner state, and the POVM of two threshold detectors behind a lossy channel, on the qubit that was sent.
    """
    phi = np.array([1.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
    projector, noise = np.outer(phi, phi), np.eye(4)
    if link.convention == "fidelity":
        state = link.fidelity * projector + (1.0 - link.fidelity) / 3.0 * (noise - projector)
    else:
        state = link.fidelity * projector + (1.0 - link.fidelity) / 4.0 * noise
    bases = [np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)]
    eta, e, d = link.efficiency, link.detector_error, link.dark_count_prob

    def shows(value: int, basis: int) -> NDArray[np.float64]:
        return np.outer(bases[basis][:, value], bases[basis][:, value])

    cells = []
    for bit, a, b, click in itertools.product(range(2), repeat=4):
        port = (1.0 - e) * shows(click, b) + e * shows(1 - click, b)
        photon = (1.0 - d) * port + 0.5 * d * np.eye(2)  # the other detector dark as well: a coin
        vacuum = d * (1.0 - d) + 0.5 * d * d
        cells.append(np.trace(state @ np.kron(shows(bit, a), eta * photon + (1.0 - eta) * vacuum * np.eye(2))) / 4.0)
    return np.array([*cells, 1.0 - sum(cells)])


def counts(segment: Segment) -> NDArray[np.int64]:
    """Rounds in each of the cells of `exact`, int64 [17]."""
    clicked = segment.bob_click != NO_CLICK
    bit, a, b, click = (array[clicked].astype(np.int64) for array in segment)
    return np.append(np.bincount(8 * bit + 4 * a + 2 * b + click, minlength=16), (~clicked).sum())


def z_of(successes: int, trials: int, p: float) -> float:
    return float((successes - trials * p) / np.sqrt(trials * p * (1.0 - p)))


def errors(segment: Segment, alice_basis: int, bob_basis: int) -> tuple[int, int]:
    """Errors among the clicked rounds in these bases, and the number of these."""
    chosen = segment.bob_click != NO_CLICK
    chosen &= (segment.alice_basis == alice_basis) & (segment.bob_basis == bob_basis)
    return int((segment.alice_bit != segment.bob_click)[chosen].sum()), int(chosen.sum())


# --- every source ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(POINTS)))
def test_joint_distribution(source: str, number: int) -> None:
    """Chi-square over Alice's bit, both bases and Bob's click against the exact density matrix (physics.md T1)."""
    pairs = ROUNDS[source]
    segment = generate(source, POINTS[number], key_of(number), pairs)
    assert all(array.dtype == np.int8 and array.shape == (pairs,) for array in segment)
    assert set(np.unique(segment.bob_click)) <= {0, 1, NO_CLICK}
    clicked = segment.bob_click != NO_CLICK
    assert all(set(np.unique(array[clicked])) <= {0, 1} for array in segment)

    observed, expected = counts(segment), pairs * exact(POINTS[number])
    assert observed.sum() == pairs
    rare = expected < 5
    assert stats.poisson.sf(observed[rare].sum() - 1, max(expected[rare].sum(), 1e-9)) > 1e-4
    scale = observed[~rare].sum() / expected[~rare].sum()
    assert stats.chisquare(observed[~rare], scale * expected[~rare]).pvalue > 1e-4


@pytest.mark.parametrize("number", range(len(POINTS)))
def test_click_rate_and_error_rates(source: str, number: int) -> None:
    """Against the closed forms of `caligo.physics.detection`, in Z, in X and in unequal bases."""
    link, pairs = POINTS[number], ROUNDS[source]
    segment = generate(source, link, key_of(100 + number), pairs)
    click = link.click_probability()
    if click < 1.0:
        assert abs(z_of(int((segment.bob_click != NO_CLICK).sum()), pairs, click)) < 4
    for a, b in itertools.product(range(2), repeat=2):
        wrong, trials = errors(segment, a, b)
        assert trials > 20
        q = link.qber() if a == b else 0.5
        if q * trials < 10:
            assert stats.poisson.sf(wrong - 1, q * trials) > 1e-4
        else:
            assert abs(z_of(wrong, trials, q)) < 4


def test_slots_lie_evenly_and_alike_in_every_tile() -> None:
    for fraction in (1 / TILE, 0.01, 0.1, 0.37, 0.89, 1.0):
        rule = BobBases(0, BobBases.slots_of(fraction))
        slots = rule.is_slot(0, 3 * TILE)
        assert slots.sum() == 3 * round(fraction * TILE)
        np.testing.assert_array_equal(slots[:TILE], slots[2 * TILE :])
        np.testing.assert_array_equal(rule.is_slot(TILE + 100, 500), slots[100:600])
        gaps = np.diff(np.flatnonzero(slots))
        assert len(np.unique(gaps)) <= 3  # as a rotation by one step leaves them: Steinhaus' three-gap theorem
        assert gaps.max() <= 3 * np.ceil(1 / fraction)


@pytest.mark.parametrize("basis", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 7, 8])
def test_bobs_basis_rule(source: str, number: int, basis: int) -> None:
    """His own basis outside the slots, a coin in them; the law of the rest is that of the bases that come of it."""
    link, pairs, rule = POINTS[number], ROUNDS[source], BobBases(basis, BobBases.slots_of(0.3))
    segment = generate(source, link, key_of(300 + number), pairs, bob=rule)
    clicked, slot = segment.bob_click != NO_CLICK, rule.is_slot(0, pairs)
    assert (segment.bob_basis[clicked & ~slot] == basis).all()
    assert abs(z_of(int(segment.bob_basis[clicked & slot].sum()), int((clicked & slot).sum()), 0.5)) < 4
    cells = pairs * exact(link)
    for inside in (True, False):
        part = Segment(*(array[slot == inside] for array in segment))
        expected = cells * (slot == inside).mean()
        if not inside:  # all of Bob's rounds are in his basis
            of_bob = np.arange(16) // 2 % 2
            expected[:16] = np.where(of_bob == basis, 2.0 * expected[:16], 0.0)
        observed = counts(part)
        rare = expected < 5
        assert observed[expected == 0.0].sum() == 0
        assert stats.poisson.sf(observed[rare].sum() - 1, max(expected[rare].sum(), 1e-9)) > 1e-4
        if np.count_nonzero(~rare) > 1:  # of few rounds that click little one cell is all there is, and tells nothing
            scale = observed[~rare].sum() / expected[~rare].sum()
            assert stats.chisquare(observed[~rare], scale * expected[~rare]).pvalue > 1e-4


@pytest.mark.parametrize("number", [1, 3, 5, 7, 10])
def test_agrees_with_the_statistical_source(source: str, number: int) -> None:
    """Two samples, of this source and of the statistical one under another key: one distribution."""
    pairs = ROUNDS[source]
    first = counts(generate(source, POINTS[number], key_of(number), pairs))
    second = counts(generate("statistical", POINTS[number], key_of(200 + number), 2**20))
    seen = (first + second) * pairs / (pairs + 2**20) > 5
    assert seen.sum() > 8
    assert stats.chi2_contingency([first[seen], second[seen]]).pvalue > 1e-4


@pytest.mark.parametrize("link", [POINTS[2], POINTS[8]], ids=["dense", "sparse"])
def test_any_segment_can_be_made_again_alone(source: str, link: Link) -> None:
    tiles = 5 if source == "statistical" else 1
    pairs = tiles * TILE + 1234
    rule = BobBases(1, 9999)
    whole = generate(source, link, key_of(1), pairs, bob=rule)
    cuts = [(0, 300), (tiles * TILE, 1234)]
    if source == "statistical":
        cuts += [(3 * TILE, 2 * TILE + 1234), (TILE, 777), (TILE, 4 * TILE)]
    for start, length in cuts:
        part = generate(source, link, key_of(1), length, start, rule)
        clicked = part.bob_click != NO_CLICK
        for ours, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours[clicked], theirs[start : start + length][clicked])
        np.testing.assert_array_equal(part.bob_click, whole.bob_click[start : start + length])


def test_rounds_follow_from_link_key_and_number(source: str) -> None:
    """The same again whatever was made in between; another key, tile or link gives other rounds."""
    link, pairs = POINTS[3], 2000
    first = generate(source, link, key_of(1), pairs)
    others = [
        generate(source, link, key_of(2), pairs),
        generate(source, link, key_of(1), pairs, TILE),
        generate(source, dataclasses.replace(link, efficiency=0.45), key_of(1), pairs),
    ]
    again = generate(source, link, key_of(1), pairs)
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for other in others:
        assert not np.array_equal(first.bob_click, other.bob_click)
    with pytest.raises(ValueError, match="multiple"):
        generate(source, link, key_of(1), pairs, 100)


def test_no_click_at_all(source: str) -> None:
    link = dataclasses.replace(POINTS[1], efficiency=0.0, dark_count_prob=0.0)
    assert (generate(source, link, 3, 2000).bob_click == NO_CLICK).all()


@pytest.mark.parametrize("link", [POINTS[2], POINTS[8]], ids=["dense", "sparse"])
def test_rounds_samples_and_bits_are_independent(source: str, link: Link) -> None:
    """Neighbouring rounds, tiles and samples show no correlation."""
    length = TILE if source == "statistical" else ROUNDS[source]
    same, next_tile, other = (
        generate(source, link, key, length, start) for key, start in [(key_of(1), 0), (key_of(1), TILE), (key_of(2), 0)]
    )

    def z(x: NDArray[np.generic], y: NDArray[np.generic]) -> float:
        return float(np.corrcoef(x, y)[0, 1] * np.sqrt(x.size))

    click = same.bob_click != NO_CLICK
    assert abs(z(click[:-1], click[1:])) < 4
    assert abs(z(click, next_tile.bob_click != NO_CLICK)) < 4
    assert abs(z(click, other.bob_click != NO_CLICK)) < 4
    bits = [array[click] for array in same[:3]]
    for i in range(3):
        assert abs(z(bits[i][:-1], bits[i][1:])) < 4
        for j in range(i):
            assert abs(z(bits[i], bits[j])) < 4


# --- the statistical source -----------------------------------------------------------------------------------------


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


def test_z_scores_of_clicks_and_errors() -> None:
    """200 runs at each of four points: mean 0 and standard deviation 1 to 0.15 (physics.md T13), and so at each."""
    pairs = 40_000
    links = {"dense": POINTS[1], "dark": POINTS[3], "sparse": POINTS[7], "rare": POINTS[9]}
    scores: dict[str, list[NDArray[np.float64]]] = {"click": [], "Z": [], "X": [], "equal": []}
    for number, link in enumerate(links.values()):
        ours: dict[str, list[float]] = {what: [] for what in scores}
        for run in range(200):
            segment = generate("statistical", link, key_of(1000 * (number + 1) + run), pairs)
            clicks = int((segment.bob_click != NO_CLICK).sum())
            (wrong_z, in_z), (wrong_x, in_x) = errors(segment, 0, 0), errors(segment, 1, 1)
            ours["click"].append(z_of(clicks, pairs, link.click_probability()))
            ours["Z"].append(z_of(wrong_z, in_z, link.qber()))
            ours["X"].append(z_of(wrong_x, in_x, link.qber()))
            ours["equal"].append(z_of(wrong_z + wrong_x, in_z + in_x, link.qber()))
        for what, values in ours.items():
            assert abs(np.mean(values)) < 4 / np.sqrt(200), what
            assert abs(np.std(values) - 1) < 4 / np.sqrt(400), what
            scores[what].append(np.array(values))
    for what, parts in scores.items():
        assert abs(np.mean(np.concatenate(parts))) < 0.15, what
        assert abs(np.std(np.concatenate(parts)) - 1) < 0.15, what
