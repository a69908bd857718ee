"""The protocol on real quantum data: keys, outcomes, determinism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from caligo_simulator import harness as harness_module
from caligo_simulator.epr.source import TILE
from caligo_simulator.harness import KeyPair, ProtocolHarness, Setup
from caligo_simulator.protocol.amplification import amplify
from caligo_simulator.protocol.reconciliation.plans import baseline_plan
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.physics import predict
from caligo.physics.finite_key import key_length
from caligo.physics.prediction import MARGIN_FLOOR
from caligo.results import COUNT_NAMES, METRIC_NAMES, ROW_DTYPE, ProtocolOutcome, ProtocolResult, Reason
from caligo.space import ExplorationSample, Strategy

MakeSample = Callable[..., ExplorationSample]
MakeSetup = Callable[..., Setup]
BOTH = pytest.mark.parametrize("strategy", list(Strategy), ids=lambda s: s.name.lower())


def same_row(one: ProtocolResult, other: ProtocolResult) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        or (math.isnan(getattr(one, name)) and math.isnan(getattr(other, name)))
        for name in (*METRIC_NAMES, *COUNT_NAMES, "outcome", "reason")
        if name != "wall_seconds"
    )


@BOTH
def test_oblivious_transfer(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, strategy: Strategy
) -> None:
    """Bob's string is the chosen one of Alice's two, and of the other one he knows nothing."""
    choices = set()
    agreement = []
    for index in range(6):
        keys: list[KeyPair] = []
        result = harness.run(secure(index=index, strategy=strategy), make_setup(), on_keys=keys.append)
        assert result.outcome is ProtocolOutcome.SUCCESS
        (pair,) = keys
        assert result.key_length > 100
        assert [len(s) for s in (*pair.alice, pair.bob)] == [result.key_length] * 3
        np.testing.assert_array_equal(pair.bob, pair.alice[pair.choice])
        choices.add(pair.choice)
        guess = amplify(pair.bob_other, result.key_length, pair.other_seed)
        agreement.append(np.mean(guess == pair.alice[1 - pair.choice]))
        assert abs(np.mean(pair.alice[0] == pair.alice[1]) - 0.5) < 4 * 0.5 / math.sqrt(result.key_length)
        for string in pair.alice:
            assert abs(string.mean() - 0.5) < 4 * 0.5 / math.sqrt(result.key_length)
    assert choices == {0, 1}
    assert abs(np.mean(agreement) - 0.5) < 4 * 0.5 / math.sqrt(6 * result.key_length)


@BOTH
def test_a_success_and_its_row(harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy) -> None:
    sample = secure(strategy=strategy)
    result = harness.run(sample, setup)
    assert (result.outcome, result.reason) == (ProtocolOutcome.SUCCESS, Reason.NONE)
    assert result.pairs == sample.N
    assert result.detection_rate == result.detected / sample.N
    assert (result.test_bits > 0) == (strategy is Strategy.BASELINE)
    assert result.frames_total == result.sifted // 3686
    assert result.reconciled == (result.frames_total - result.frames_failed) * 3686
    assert result.leakage_rate == result.leaked / result.reconciled
    # The key is the finite-size formula at what was really disclosed.
    assert result.key_length == key_length(result.reconciled, result.leaked, sample.r, sample.nu, 1e-10)
    assert result.net_efficiency == result.key_length / sample.N
    assert math.floor(result.margin * result.reconciled + 1e-6) == result.key_length
    assert 1 < result.reconciliation_efficiency < 3  # the margin for the few errors seen in the test set
    assert result.wall_seconds > 0
    row = result.to_row(7, np.zeros(9, np.float32))
    assert row.dtype == ROW_DTYPE
    assert row["metrics"].dtype == np.float32 and row["counts"].dtype == np.int64


@BOTH
def test_the_prediction_agrees(harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy) -> None:
    sample = secure(N=500_000, strategy=strategy)
    result = harness.run(sample, setup)
    expected = predict(
        sample.r, sample.nu, sample.dt_ns, sample.F, sample.eta, sample.e_det, sample.P_dark, sample.N,
        int(strategy), memory_model="fixed",
    )  # fmt: skip
    assert result.qber == pytest.approx(
        expected.qber, abs=5 * math.sqrt(expected.qber / max(result.test_bits / 2, 1e4))
    )
    assert result.detected == pytest.approx(expected.detected, rel=0.01)
    assert result.margin == pytest.approx(expected.margin, abs=0.06)
    assert result.key_length == pytest.approx(expected.key_length, rel=0.2)


# --- each outcome where it should happen ----------------------------------------------------------------------------


def ended(result: ProtocolResult, outcome: ProtocolOutcome, reason: Reason) -> None:
    assert (result.outcome, result.reason) == (outcome, reason)
    assert result.key_length == 0 and result.net_efficiency == 0.0
    if outcome.is_physical:
        assert MARGIN_FLOOR <= result.margin <= 0.0
    else:
        assert math.isnan(result.margin)


def test_failure_security_detection_interval(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample
) -> None:
    """At a large error parameter the interval is so narrow that honest parties miss it now and then."""
    setup = make_setup(physics={"epsilon": 0.099})
    outcomes = [harness.run(secure(index=j, eta=0.5, N=1000), setup) for j in range(400)]
    missed = [result for result in outcomes if result.reason is Reason.DETECTION_INTERVAL]
    # P(|x - 500| > 38.8) for a binomial of standard deviation 15.8.
    assert 1 <= len(missed) <= 16
    for result in missed:
        ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.DETECTION_INTERVAL)
        assert abs(result.detected - 500) > 38
    assert all(abs(result.detected - 500) < 39 for result in outcomes if result not in missed)


@BOTH
def test_failure_security_insufficient_raw(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy
) -> None:
    result = harness.run(secure(N=7000, strategy=strategy), setup)
    ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW)
    assert 0 < result.sifted < 3686


def test_nothing_measured_takes_the_closed_form(harness: ProtocolHarness, setup: Setup, secure: MakeSample) -> None:
    sample = secure(N=1000, eta=1e-4, P_dark=1e-9)
    result = harness.run(sample, setup)
    ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW)
    assert math.isnan(result.qber)


@BOTH
def test_failure_security_predicted_negative_key(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy
) -> None:
    result = harness.run(secure(r=0.95, nu=1.0, F=0.95, strategy=strategy), setup)
    ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY)
    assert result.frames_total > 0 and result.reconciled == 0
    assert result.margin < -0.1


def test_failure_security_death_valley(harness: ProtocolHarness, setup: Setup, secure: MakeSample) -> None:
    """Blind, with an entropy between the least that may be disclosed and what the noise makes necessary."""
    found = []
    for r in np.linspace(0.68, 0.78, 51):
        result = harness.run(secure(r=float(r), nu=1.0, F=0.95, strategy=Strategy.BLIND), setup)
        found.append(result.reason)
        if result.reason is Reason.DEATH_VALLEY:
            ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.DEATH_VALLEY)
            assert result.reconciled > 0 and result.leaked > 0
            assert key_length(result.reconciled, result.leaked, float(r), 1.0, 1e-10) < 1
    # The way out of the secure region: key, then none after reconciliation, then none to be expected.
    order = [Reason.NONE, Reason.DEATH_VALLEY, Reason.PREDICTED_NEGATIVE_KEY]
    assert [reason for j, reason in enumerate(found) if j == 0 or reason is not found[j - 1]] == order


def test_failure_qber_limit(harness: ProtocolHarness, setup: Setup, secure: MakeSample) -> None:
    result = harness.run(secure(F=0.8), setup)
    ended(result, ProtocolOutcome.FAILURE_QBER, Reason.QBER_LIMIT)
    assert result.qber > 0.11


@BOTH
def test_failure_qber_no_code(harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy) -> None:
    F = 0.85 if strategy is Strategy.BASELINE else 0.832  # the baseline needs a code for more than it measured
    result = harness.run(secure(F=F, N=200_000, strategy=strategy), setup)
    ended(result, ProtocolOutcome.FAILURE_QBER, Reason.NO_CODE)
    assert 0.09 < result.qber < 0.115


def test_failure_reconciliation(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code chosen for a third of the noise decodes nothing."""
    monkeypatch.setattr(harness_module, "baseline_plan", lambda qber, n: baseline_plan(qber / 3, n))
    result = harness.run(secure(F=0.95), setup)
    ended(result, ProtocolOutcome.FAILURE_RECONCILIATION, Reason.NO_FRAME_VERIFIED)
    assert result.frames_failed == result.frames_total > 0
    assert result.frame_error_rate == 1.0


def test_failure_timeout(harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample) -> None:
    result = harness.run(secure(N=10**9), make_setup(protocol={"time_limit_seconds": 0.2}))
    ended(result, ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT)
    assert result.wall_seconds < 5  # 10^9 pairs take many times as long


def test_failure_error_harms_no_other_sample(
    simulator: Simulator,
    setup: Setup,
    secure: MakeSample,
    as_row: Callable[[ExplorationSample], DesignRow],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = harness_module.reconcile

    def faulty(plan: object, alice: np.ndarray, bob: np.ndarray, rng: object) -> object:
        if len(alice) == 1:
            raise RuntimeError("a fault inside one sample")
        return real(plan, alice, bob, rng)

    monkeypatch.setattr(harness_module, "reconcile", faulty)
    samples = [secure(index=j, N=10_000 if j == 2 else 60_000) for j in range(5)]
    rows = {int(row["index"][0]): row for row in simulator.simulate(setup, map(as_row, samples))}
    outcomes = {index: ProtocolOutcome(row["outcome"][0]) for index, row in rows.items()}
    assert outcomes.pop(2) is ProtocolOutcome.FAILURE_ERROR
    assert Reason(rows[2]["reason"][0]) is Reason.EXCEPTION
    assert set(outcomes.values()) == {ProtocolOutcome.SUCCESS}
    logged = capsys.readouterr()
    text = logged.out + logged.err
    assert "campaigns/test" in text and "a fault inside one sample" in text
    assert simulator.arena.free_slots() == simulator.arena.slots


def test_what_a_source_raises_is_a_failure_of_the_sample(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = make_setup()
    nowhere = setup.protocol.model_copy(update={"epr_source": "nowhere"})
    result = harness.run(secure(), dataclasses.replace(setup, protocol=nowhere))
    ended(result, ProtocolOutcome.FAILURE_ERROR, Reason.EXCEPTION)
    logged = capsys.readouterr()
    assert "nowhere is not installed" in logged.out + logged.err
    assert harness.run(secure(), setup).outcome is ProtocolOutcome.SUCCESS


# --- the same row, however it is computed ---------------------------------------------------------------------------


def test_a_row_does_not_depend_on_workers_or_segments(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, namespace: str
) -> None:
    samples = [
        secure(index=j, N=N, eta=eta, strategy=strategy)
        for j, (N, eta, strategy) in enumerate(
            [(700_000, 0.9, Strategy.BASELINE), (700_000, 0.05, Strategy.BLIND), (90_001, 0.3, Strategy.BLIND)]
        )
    ]
    expected = [harness.run(sample, setup) for sample in samples]
    for segment_pairs in (TILE, 16 * TILE):
        with Simulator(1, segment_pairs, namespace) as other:
            again = [ProtocolHarness(other.orchestrator).run(sample, setup) for sample in reversed(samples)]
        assert all(map(same_row, expected, reversed(again)))


def test_seed_phase_and_index_each_change_the_row(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample
) -> None:
    counts = {
        harness.run(secure(), make_setup(seed=1)).detected,
        harness.run(secure(), make_setup(seed=2)).detected,
        harness.run(secure(index=1), make_setup(seed=1)).detected,
        harness.run(secure(index=2), make_setup(seed=1)).detected,
    }
    assert len(counts) == 4


@BOTH
def test_frames_that_are_not_decoded_fail_at_the_measured_rate(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, strategy: Strategy
) -> None:
    sample = secure(N=1_000_000, strategy=strategy)
    keys: list[KeyPair] = []
    everything = harness.run(sample, make_setup(), on_keys=keys.append)
    assert len(keys) == 1
    part = harness.run(sample, make_setup(protocol={"max_decoded_frames": 40}), on_keys=keys.append)
    assert len(keys) == 1  # not all frames exist: no strings
    assert part.frames_total == everything.frames_total > 5
    assert part.reconciled in [(part.frames_total - part.frames_failed) * payload for payload in (3686, 58982)]
    assert part.leakage_rate == pytest.approx(everything.leakage_rate, rel=0.03)
    assert part.key_length == pytest.approx(everything.key_length, rel=0.1)
    assert (part.qber, part.detected, part.sifted) == (everything.qber, everything.detected, everything.sifted)
