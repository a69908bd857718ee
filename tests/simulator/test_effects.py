"""What a device does to rounds: beside the closed form, a slow model of it, and the rounds without the effect."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from caligo_simulator.epr.effects import sin_squared
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Link, Segment, segment_bytes
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import Simulator
from scipy import stats

from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.physics.device import Device
from caligo.results import METRIC, ProtocolOutcome, Reason
from caligo.spec import PhysicsSpec, ProtocolSpec, validate

ROUNDS = 2**21
BOTH = BobBases(None, 0)


def link(device: Device | None, efficiency: float = 0.1, dark: float = 1e-4, rounds: int = ROUNDS) -> Link:
    return Link(0.98, efficiency, 0.01, dark, "fidelity", device, rounds)


def draw(of: Link, rounds: int = ROUNDS, key: int = 7, start: int = 0, bob: BobBases = BOTH) -> Segment:
    segment = Segment.over(np.empty(segment_bytes(rounds), np.uint8), rounds)
    make_source("statistical").fill(segment, of, bob, key, start)
    return segment


def clicked(segment: Segment) -> np.ndarray:
    return segment.bob_click != NO_CLICK


def error_rate(segment: Segment, basis: int | None = None) -> tuple[float, float]:
    """Of clicks with equal bases, and its standard error."""
    equal = clicked(segment) & (segment.alice_basis == segment.bob_basis)
    if basis is not None:
        equal &= segment.alice_basis == basis
    rate = float((segment.alice_bit != segment.bob_click)[equal].mean())
    return rate, math.sqrt(max(rate, 1e-6) * (1.0 - rate) / np.count_nonzero(equal))


MEMORY = [
    (0.01, Device(dead_rounds=100)),
    (0.1, Device(dead_rounds=5)),
    (0.5, Device(dead_rounds=4)),
    (0.9, Device(dead_rounds=1)),
    (0.02, Device(afterpulse=0.06)),
    (0.4, Device(afterpulse=0.1, afterpulse_decay=4.0)),
    (0.03, Device(dead_rounds=20, afterpulse=0.1, afterpulse_decay=30.0)),
    (0.2, Device(dead_rounds=7, afterpulse=0.2, afterpulse_decay=2.0)),
]
OTHERS = [
    (0.02, Device(x_error=0.03)),
    (0.6, Device(x_error=0.5)),
    (0.3, Device(mean_pairs=0.05, leaking_pairs=0.05, modes=1.0, alice_efficiency=0.3, alice_dark=1e-4)),
    (0.3, Device(drift="sine", drift_amplitude=0.2, drift_period=ROUNDS / 2)),
    (0.04, Device(drift="sine", drift_amplitude=0.2, drift_period=ROUNDS / 2, x_error=0.02)),
]


@pytest.mark.parametrize(("efficiency", "device"), MEMORY + OTHERS)
def test_clicks_and_errors_are_those_of_the_closed_form(efficiency, device) -> None:
    of = link(device, efficiency)
    clicks, wrong, equal, unequal = 0, 0, 0, [0, 0]
    for key in range(4):
        segment = draw(of, key=key)
        click, same = clicked(segment), segment.alice_basis == segment.bob_basis
        differ = segment.alice_bit != segment.bob_click
        clicks += np.count_nonzero(click)
        wrong, equal = wrong + np.count_nonzero(differ & click & same), equal + np.count_nonzero(click & same)
        unequal[0] += np.count_nonzero(differ & click & ~same)
        unequal[1] += np.count_nonzero(click & ~same)
    law = of.law()
    # Dead time makes counts narrower than binomial, afterpulses wider, (1 + p_a)/(1 - p_a) of the variance.
    wider = math.sqrt((1.0 + device.afterpulse) / (1.0 - device.afterpulse))
    assert clicks == pytest.approx(4 * ROUNDS * float(law.click), abs=4 * wider * math.sqrt(clicks))
    assert wrong / equal == pytest.approx(float(law.qber), abs=4 * math.sqrt(float(law.qber) / equal))
    assert unequal[0] / unequal[1] == pytest.approx(0.5, abs=2.0 / math.sqrt(unequal[1]))


@pytest.mark.parametrize(("efficiency", "device"), MEMORY + OTHERS)
def test_any_segment_can_be_made_again_alone(efficiency, device) -> None:
    """Whatever segments a run is cut into, a round is a function of the device, the key and its number."""
    of, rounds = link(device, efficiency), 5 * TILE + 12_345
    whole = draw(of, rounds)
    click = clicked(whole)
    for start, length in [(0, TILE), (TILE, 2 * TILE), (3 * TILE, 2 * TILE + 12_345), (5 * TILE, 999), (2 * TILE, 1)]:
        part = draw(of, length, start=start)
        here = slice(start, start + length)
        np.testing.assert_array_equal(part.bob_click, whole.bob_click[here])
        for ours, theirs in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours[click[here]], theirs[here][click[here]])


@pytest.mark.parametrize(("efficiency", "device"), MEMORY)
def test_bits_and_bases_stay_fair(efficiency, device) -> None:
    """The 16 cells of a clicked round: bases and bits are coins, and only whether bases agree matters to errors."""
    segment = draw(link(device, efficiency))
    click = clicked(segment)
    cells = 8 * segment.alice_bit + 4 * segment.alice_basis + 2 * segment.bob_basis + segment.bob_click
    found = np.bincount(cells[click], minlength=16)
    q = float(link(device, efficiency).law().qber)
    expected = []
    for a, x, y, b in itertools.product(range(2), repeat=4):
        expected.append(0.125 * (0.5 if x != y else q if a != b else 1.0 - q))
    # Neighbours repeat bits, so a carrier's cell counts double: the statistic is divided by what that widens.
    wider = (1.0 + device.afterpulse) / (1.0 - device.afterpulse)
    statistic = ((found - click.sum() * np.array(expected)) ** 2 / (click.sum() * np.array(expected))).sum() / wider
    assert stats.chi2.sf(statistic, 15) > 1e-4


@pytest.mark.parametrize(("efficiency", "device"), MEMORY)
def test_bobs_basis_is_kept_to(efficiency, device) -> None:
    """Of afterpulses too: outside the slots they are read in the basis that he measures in."""
    rule = BobBases(1, BobBases.slots_of(0.2))
    segment = draw(link(device, efficiency), bob=rule)
    slot = rule.is_slot(0, ROUNDS)
    assert (segment.bob_basis[clicked(segment) & ~slot] == 1).all()
    in_slots = segment.bob_basis[clicked(segment) & slot]
    assert in_slots.mean() == pytest.approx(0.5, abs=2.0 / math.sqrt(in_slots.size))


@pytest.mark.parametrize(("efficiency", "device"), [case for case in MEMORY if case[1].dead_rounds])
def test_nothing_clicks_in_the_dead_time(efficiency, device) -> None:
    gaps = np.diff(np.flatnonzero(clicked(draw(link(device, efficiency)))))
    assert gaps.min() == device.dead_rounds + 1


def test_dead_time_makes_counts_regular() -> None:
    """Variance over mean (1-p)/(1+pD)^2 in blocks of a run: .2475 for p = .01, D = 100."""
    of = link(Device(dead_rounds=100), 0.01, 0.0)
    counts = np.concatenate([clicked(draw(of, key=key)).reshape(-1, 8192).sum(axis=1) for key in range(8)])
    ratio, blocks = counts.var() / counts.mean(), counts.size
    assert ratio == pytest.approx(0.2475, rel=4 * math.sqrt(2.0 / blocks) + 0.01)


@pytest.mark.parametrize(("efficiency", "device"), MEMORY)
def test_tiles_join_without_a_seam(efficiency, device) -> None:
    """Click rates in the first and last rounds of tiles are those of the middle, and so are gaps across the border."""
    window, keys = 256, range(40)
    sums = np.zeros(3)
    trials = 0
    across = inside = 0
    for key in keys:
        click = clicked(draw(link(device, efficiency), 8 * TILE, key=key)).reshape(8, TILE)[1:]
        middle = TILE // 2
        sums += [click[:, :window].sum(), click[:, middle : middle + window].sum(), click[:, -window:].sum()]
        trials += click[:, :window].size
        ends = click[:-1, -device.dead_rounds - 3 :], click[1:, : device.dead_rounds + 3]
        across += np.count_nonzero(ends[0].any(axis=1) & ends[1].any(axis=1))
        there = (
            click[:-1, middle - device.dead_rounds - 3 : middle],
            click[:-1, middle : middle + device.dead_rounds + 3],
        )
        inside += np.count_nonzero(there[0].any(axis=1) & there[1].any(axis=1))
    sd = 1.5 * math.sqrt(2.0 * sums[1])
    assert sums[0] == pytest.approx(sums[1], abs=4 * sd)
    assert sums[2] == pytest.approx(sums[1], abs=4 * sd)
    assert across == pytest.approx(inside, abs=4 * math.sqrt(across + inside + 1))


def slow_model(click: float, device: Device, rounds: int, rng: np.random.Generator) -> tuple[float, float]:
    """The same detectors, round by round and by other means: clicks a round, and how often a bit repeats the last."""
    candidates, bits = rng.random(rounds) < click, rng.integers(2, size=rounds)
    carriers: dict[int, set[int]] = {}
    asleep, seen = 0, []
    for i in range(rounds):
        released = carriers.pop(i, set())
        if i < asleep:
            continue
        fired = released | ({int(bits[i])} if candidates[i] else set())
        if not fired:
            continue
        bit = int(rng.integers(2)) if len(fired) == 2 else fired.pop()
        seen.append(bit)
        asleep = i + 1 + device.dead_rounds
        if rng.random() < device.afterpulse:
            stays = math.floor(rng.exponential(device.afterpulse_decay)) if device.afterpulse_decay else 0
            carriers.setdefault(asleep + stays, set()).add(bit)
    bits_seen = np.array(seen)
    return len(seen) / rounds, float((bits_seen[1:] == bits_seen[:-1]).mean())


@pytest.mark.parametrize(("efficiency", "device"), [(0.05, MEMORY[4][1]), (0.4, MEMORY[5][1]), (0.2, MEMORY[7][1])])
def test_detectors_are_those_of_a_slow_model(efficiency, device) -> None:
    rounds = 300_000
    rate, repeats = slow_model(efficiency, device, rounds, np.random.default_rng(11))
    segment = draw(link(device, efficiency, dark=0.0), rounds)
    bits = segment.bob_click[clicked(segment)]
    few = math.sqrt(1.0 / (rounds * rate))
    assert bits.size / rounds == pytest.approx(rate, rel=8 * few)
    assert (bits[1:] == bits[:-1]).mean() == pytest.approx(repeats, abs=4 * math.sqrt(0.5) * few)
    assert repeats > 0.5 + 2 * few


@pytest.mark.parametrize("efficiency", [0.02, 0.5])
def test_an_effect_that_fades_leaves_the_rounds_as_they_were(efficiency) -> None:
    plain = draw(link(None, efficiency))
    for device in (
        Device(afterpulse=1e-15),
        Device(x_error=1e-15),
        Device(drift="sine", drift_amplitude=1e-9, drift_period=1e9),
        Device(drift="walk", drift_amplitude=1e-9, drift_period=1e9),
    ):
        faded = draw(link(device, efficiency))
        for ours, theirs in zip(faded, plain, strict=True):
            np.testing.assert_array_equal(ours[clicked(plain)], theirs[clicked(plain)])
        np.testing.assert_array_equal(faded.bob_click, plain.bob_click)


def test_bases_err_as_they_are_told() -> None:
    of = link(Device(x_error=0.04), 0.3)
    segment = draw(of)
    for basis, expected in zip((0, 1), of.law().live_qber, strict=True):
        rate, error = error_rate(segment, basis)
        assert rate == pytest.approx(float(expected), abs=4 * error)


@pytest.mark.parametrize("drift", ["sine", "walk"])
def test_tiles_drift_as_the_key_says(drift) -> None:
    """Errors by tile are binomial at the tile's rate, which is far from one rate for all."""
    tiles = 64
    device = Device(drift=drift, drift_amplitude=0.3, drift_period=40.0 * TILE)
    of = link(device, 0.5, rounds=tiles * TILE)
    segment = draw(of, tiles * TILE, key=3)
    equal = (clicked(segment) & (segment.alice_basis == segment.bob_basis)).reshape(tiles, TILE)
    wrong = ((segment.alice_bit != segment.bob_click).reshape(tiles, TILE) & equal).sum(axis=1)
    trials = equal.sum(axis=1)
    still = float(of.law().live_qber[0])
    expected = still + (1.0 - 2.0 * still) * sin_squared(device, 3, 0, tiles)
    assert (expected >= still).all() and expected.std() > 0.01
    chi = ((wrong - trials * expected) ** 2 / (trials * expected * (1.0 - expected))).sum()
    assert stats.chi2.sf(chi, tiles) > 1e-4
    np.testing.assert_array_equal(sin_squared(device, 3, 20, 5), sin_squared(device, 3, 0, tiles)[20:25])
    assert not np.allclose(sin_squared(device, 4, 0, tiles), sin_squared(device, 3, 0, tiles))


def test_a_walk_grows_as_it_is_told() -> None:
    device = Device(drift="walk", drift_amplitude=0.05, drift_period=100.0 * TILE)
    ends = np.array([sin_squared(device, key, 0, 101)[[0, 24, 99]] for key in range(4000)])
    # The middles of tiles 0, 24 and 99; theta^2 is V times a square of a normal number.
    expected = 0.05**2 * np.array([0.5, 24.5, 99.5]) / 100.0
    np.testing.assert_allclose(ends.mean(axis=0), expected, rtol=4 * math.sqrt(2.0 / 4000) + 0.003)


# --- whole runs -----------------------------------------------------------------------------------------------------

DEVICES = {
    "several": {"pairs": {"mean_pairs": 5e-3, "leaking_pairs": 1e-4, "alice_efficiency": 0.3}},
    "detectors": {
        "round_period_ns": 1000,
        "detectors": {"dead_time_ns": 10_000, "afterpulse": 0.02, "afterpulse_decay_ns": 2000},
    },
    "drift": {
        "round_period_ns": 1000,
        "alignment": {"drift": "sine", "drift_amplitude": 0.1, "drift_period_s": 600},
    },
    "fibre": {"fibre": {"length_km": 5}, "detectors": {"dark_hz": 1e4, "gate_ns": 1}},
}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("several", 0), ("detectors", 0), ("drift", 0), ("fibre", 0), ("detectors", 1), ("drift", 1)],
)
def test_honest_runs_pass_and_have_the_margin_of_the_closed_form(
    simulator: Simulator, name: str, strategy: int
) -> None:
    physics = validate(PhysicsSpec, {"device": DEVICES[name], "memory_model": "fixed"})
    protocol = ProtocolSpec()
    inputs = np.array([0.05, -1.5, 9.0, 0.93, math.log10(0.3), 0.01, -6.0, 6.3, strategy], np.float32)
    rows = [(index, inputs) for index in range(12)]
    results = np.concatenate(list(simulator.simulate(Setup("device", 5, Phase.LHS, physics, protocol), rows)))
    assert not np.isin(results["reason"], [Reason.DETECTION_INTERVAL, Reason.EXCEPTION]).any()
    expected = expect(inputs[np.newaxis], physics, protocol)
    margins = results["metrics"][:, METRIC["margin"]].astype(float)
    spread = float(expected.sd[0])
    assert margins.mean() == pytest.approx(float(expected.margin[0]), abs=4 * spread / math.sqrt(len(rows)) + 4e-3)
    assert margins.std() < 2.0 * spread + 1e-3
    if name == "drift" and strategy == 0:
        assert margins.std() > 0.4 * spread
    keys = np.count_nonzero(results["outcome"] == ProtocolOutcome.SUCCESS)
    assert keys == pytest.approx(len(rows) * float(expected.key[0]), abs=3)
