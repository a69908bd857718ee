"""The protocol on real quantum data: keys, outcomes, determinism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from caligo_simulator import harness as harness_module
from caligo_simulator.epr.source import TILE
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.protocol import parties as parties_module
from caligo_simulator.protocol.amplification import amplify
from caligo_simulator.protocol.messages import Hashes, Message
from caligo_simulator.protocol.parties import Bob, Keys, Parties
from caligo_simulator.protocol.partition import frames_of
from caligo_simulator.protocol.reconciliation.plans import baseline_plan
from caligo_simulator.simulation import DesignRow, Simulator
from scipy import stats

from caligo.physics import predict, prediction
from caligo.physics.claims import Counts, Partition, claim
from caligo.physics.prediction import MARGIN_FLOOR
from caligo.results import COUNT_NAMES, METRIC_NAMES, ROW_DTYPE, ProtocolOutcome, ProtocolResult, Reason
from caligo.space import ExplorationSample, Strategy

MakeSample = Callable[..., ExplorationSample]
MakeSetup = Callable[..., Setup]
PARTITIONS = pytest.mark.parametrize("partition", ["alice", "bob"])
BOTH = pytest.mark.parametrize("strategy", list(Strategy), ids=lambda s: s.name.lower())


def same_row(one: ProtocolResult, other: ProtocolResult) -> bool:
    return all(
        getattr(one, name) == getattr(other, name)
        or (math.isnan(getattr(one, name)) and math.isnan(getattr(other, name)))
        for name in (*METRIC_NAMES, *COUNT_NAMES, "outcome", "reason")
        if name != "wall_seconds"
    )


class CuriousBob(Bob):
    """Bob who also hashes what he has of the other string."""

    guess: np.ndarray

    def hash(self, hashes: Hashes, rng: np.random.Generator) -> None:
        super().hash(hashes, rng)
        other, payload = 1 - self.choice, self.string.shape[1]
        frames = frames_of(self.bits, self.sets[other], self.met.size, payload)[self.met]
        self.guess = amplify(frames.ravel(), hashes.length, hashes.seeds[other])


@PARTITIONS
@BOTH
def test_oblivious_transfer(
    simulator: Simulator, make_setup: MakeSetup, secure: MakeSample, strategy: Strategy, partition: Partition
) -> None:
    """Bob's string is the chosen one of Alice's two, and of the other one he knows nothing."""
    bobs: list[CuriousBob] = []

    def curious(*arguments: object) -> Bob:
        bobs.append(CuriousBob(*arguments))  # type: ignore[arg-type]
        return bobs[-1]

    harness = ProtocolHarness(simulator.orchestrator, Parties(bob=curious))
    choices = set()
    agreement = []
    for index in range(6):
        keys: list[Keys] = []
        setup = make_setup(protocol={"partition": partition})
        result = harness.run(secure(index=index, strategy=strategy), setup, on_keys=keys.append)
        assert result.outcome is ProtocolOutcome.SUCCESS
        (found,) = keys
        assert result.key_length > 100 and found.knows
        assert [len(s) for s in (*found.alice, found.bob)] == [result.key_length] * 3
        np.testing.assert_array_equal(found.bob, found.alice[found.choice])
        choices.add(found.choice)
        agreement.append(np.mean(bobs[-1].guess == found.alice[1 - found.choice]))
        assert abs(np.mean(found.alice[0] == found.alice[1]) - 0.5) < 4 * 0.5 / math.sqrt(result.key_length)
        for string in found.alice:
            assert abs(string.mean() - 0.5) < 4 * 0.5 / math.sqrt(result.key_length)
    assert choices == {0, 1}
    assert abs(np.mean(agreement) - 0.5) < 4 * 0.5 / math.sqrt(6 * result.key_length)


@PARTITIONS
@BOTH
def test_the_order_of_the_messages(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, strategy: Strategy, partition: Partition
) -> None:
    """As docs/physics.md has it: with Alice's partition and the baseline Bob says nothing after his reports."""
    said: list[tuple[str, str]] = []

    def listen(sender: str, message: Message) -> None:
        said.append((sender, type(message).__name__))

    setup = make_setup(protocol={"partition": partition})
    assert harness.run(secure(N=5 * TILE, strategy=strategy), setup, on_message=listen).key_length > 0
    reports = [("bob", "Report")] * 2  # one a segment
    division = ("alice", "Permutation") if partition == "alice" else ("bob", "IndexSets")
    requests = [("bob", "Requests")] if strategy is Strategy.BLIND else []
    rest = [("alice", "Bases"), division, ("alice", "Correction"), *requests, ("alice", "Hashes")]
    assert said == [*reports, *rest]


@PARTITIONS
@BOTH
def test_a_success_and_its_row(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, strategy: Strategy, partition: Partition
) -> None:
    sample, setup = secure(strategy=strategy), make_setup(protocol={"partition": partition})
    result = harness.run(sample, setup)
    assert (result.outcome, result.reason) == (ProtocolOutcome.SUCCESS, Reason.NONE)
    assert result.pairs == sample.N
    assert result.detection_rate == result.detected / sample.N
    assert (result.test_bits > 0) == (strategy is Strategy.BASELINE)
    assert result.frames_total == result.frames_decoded == result.sifted // 3686
    assert result.reconciled == (result.frames_total - result.frames_failed) * 3686
    assert result.leakage_rate == result.leaked / result.reconciled
    key_rounds = result.detected - result.test_bits
    if partition == "alice":
        assert result.removed == 2 * 3686 * result.frames_failed
    else:
        assert result.removed == key_rounds - 2 * result.reconciled
    # The key is the claim's finite form at what was really disclosed and removed.
    cut = 3686 * result.frames_total
    counts = Counts(result.detected, key_rounds, cut, result.removed, result.leaked)
    bits = claim("individual").key_bits(counts, sample.r, sample.nu, 1e-10, partition)
    assert result.key_length == math.floor(bits.secret)
    assert result.net_efficiency == result.key_length / sample.N
    assert result.margin == pytest.approx(bits.secret / result.reconciled)
    assert 1 < result.reconciliation_efficiency < 3  # the margin for the few errors seen in the slots
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
    assert result.key_length == pytest.approx(expected.margin * expected.reconciled, rel=0.2)
    assert expected.key > 0.99


@pytest.mark.parametrize("name", ["individual", "lupo2023", "stw09", "erven2014"])
def test_every_claim_has_its_own_key(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, name: str
) -> None:
    partition: Partition = "bob" if name == "erven2014" else "alice"
    setup = make_setup(physics={"claim": name}, protocol={"partition": partition})
    sample = secure(N=400_000)
    result = harness.run(sample, setup)
    assert result.outcome is ProtocolOutcome.SUCCESS
    expected = predict(
        sample.r, sample.nu, sample.dt_ns, sample.F, sample.eta, sample.e_det, sample.P_dark, sample.N,
        int(sample.strategy), memory_model="fixed", claim=name, partition=partition,
    )  # fmt: skip
    assert result.margin == pytest.approx(expected.margin, abs=0.03)


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
    assert result.frames_total > 0 and result.frames_decoded == 0
    # With one message the leak is known before anything is decoded.
    assert (result.leaked > 0) == (result.reconciled > 0) == (strategy is Strategy.BASELINE)
    assert result.margin < -0.1


def test_failure_security_death_valley(harness: ProtocolHarness, setup: Setup, secure: MakeSample) -> None:
    """Blind, with an entropy between the least that may be disclosed and what the noise makes necessary."""
    found = []
    for r in np.linspace(0.68, 0.78, 51):
        result = harness.run(secure(r=float(r), nu=1.0, F=0.95, strategy=Strategy.BLIND), setup)
        found.append(result.reason)
        if result.reason is Reason.DEATH_VALLEY:
            ended(result, ProtocolOutcome.FAILURE_SECURITY, Reason.DEATH_VALLEY)
            assert result.reconciled > 0 and result.leaked > 0 and result.frames_decoded > 0
    # The way out of the secure region: key, then none after reconciliation, then none to be expected.
    order = [Reason.NONE, Reason.DEATH_VALLEY, Reason.PREDICTED_NEGATIVE_KEY]
    assert [reason for j, reason in enumerate(found) if j == 0 or reason is not found[j - 1]] == order


def test_failure_qber_limit(harness: ProtocolHarness, setup: Setup, secure: MakeSample) -> None:
    result = harness.run(secure(F=0.8), setup)
    ended(result, ProtocolOutcome.FAILURE_QBER, Reason.QBER_LIMIT)
    assert result.qber > 0.11


@BOTH
def test_failure_qber_no_code(harness: ProtocolHarness, setup: Setup, secure: MakeSample, strategy: Strategy) -> None:
    # The baseline needs a code for more than it measured.
    F, N = (0.85, 60_000) if strategy is Strategy.BASELINE else (0.832, 200_000)
    result = harness.run(secure(F=F, N=N, strategy=strategy), setup)
    ended(result, ProtocolOutcome.FAILURE_QBER, Reason.NO_CODE)
    assert 0.09 < result.qber < 0.115


def test_failure_reconciliation_of_the_blind_protocol(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code chosen for a third of the noise decodes nothing."""
    blind_plan = harness_module.blind_plan
    monkeypatch.setattr(harness_module, "blind_plan", lambda qber, n: blind_plan(qber / 3, n))
    result = harness.run(secure(F=0.95, strategy=Strategy.BLIND), setup)
    ended(result, ProtocolOutcome.FAILURE_RECONCILIATION, Reason.NO_FRAME_VERIFIED)
    assert result.frames_failed == result.frames_total > 0
    assert result.frame_error_rate == 1.0


def weaker(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Codes chosen for that much of the noise."""
    monkeypatch.setattr(harness_module, "baseline_plan", lambda q, *rest: baseline_plan(factor * q, *rest))


def decode(monkeypatch: pytest.MonkeyPatch, *, fewest: int, error: float) -> None:
    """Decode at least that many frames, and as many more as that error in what is drawn of the rest demands."""
    for module in (harness_module, prediction):
        monkeypatch.setattr(module, "FEWEST_DECODED", (fewest, fewest))
    monkeypatch.setattr(harness_module, "_LOSS_ERROR", error)
    monkeypatch.setattr(prediction, "LEAK_ERROR", error)


@PARTITIONS
def test_a_lost_frame_is_lost_to_bob_alone(
    harness: ProtocolHarness,
    make_setup: MakeSetup,
    secure: MakeSample,
    monkeypatch: pytest.MonkeyPatch,
    partition: Partition,
) -> None:
    """Alice has two keys, Bob random bits of the same length; the row has a positive margin and no key."""
    weaker(monkeypatch, 0.3)
    keys: list[Keys] = []
    setup = make_setup(protocol={"partition": partition})
    result = harness.run(secure(F=0.95), setup, on_keys=keys.append)
    assert (result.outcome, result.reason) == (ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST)
    assert result.frames_failed == result.frames_total > 0 and result.frame_error_rate == 1.0
    assert result.margin > 0.0 and result.key_length == 0 and result.net_efficiency == 0.0
    (found,) = keys
    assert not found.knows
    length = math.floor(result.margin * result.reconciled + 1e-6)
    assert [len(s) for s in (*found.alice, found.bob)] == [length] * 3
    for string in found.alice:
        assert abs(np.mean(found.bob == string) - 0.5) < 4 * 0.5 / math.sqrt(length)


def test_a_wrong_word_of_the_code_is_caught_by_the_tag(
    harness: ProtocolHarness, setup: Setup, secure: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames meet their syndromes, one bit is wrong all the same."""
    real = parties_module.correct

    def wrong(*arguments: object) -> object:
        found = real(*arguments)  # type: ignore[arg-type]
        found.bits[0, 0] ^= 1
        return found

    monkeypatch.setattr(parties_module, "correct", wrong)
    result = harness.run(secure(), setup)
    assert (result.outcome, result.reason) == (ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST)
    assert result.frames_failed == 0


def test_runs_are_lost_as_rarely_as_was_asked_for(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample
) -> None:
    setup = make_setup(protocol={"reconciliation_failure": 0.2})
    runs = [harness.run(secure(index=j, N=20_000), setup) for j in range(150)]
    lost = sum(run.reason is Reason.FRAME_LOST for run in runs)
    assert {run.reason for run in runs} <= {Reason.NONE, Reason.FRAME_LOST}
    assert stats.binom.sf(lost - 1, 150, 0.2) > 1e-3
    dear = harness.run(secure(index=0), make_setup(protocol={"reconciliation_failure": 1e-6}))
    assert dear.leakage_rate > harness.run(secure(index=0), make_setup()).leakage_rate


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
    real = parties_module.describe

    def faulty(plan: object, frames: np.ndarray, point: object, rng: object) -> object:
        if len(frames) == 1:
            raise RuntimeError("a fault inside one sample")
        return real(plan, frames, point, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(parties_module, "describe", faulty)
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
    ended(result, ProtocolOutcome.FAILURE_ERROR, Reason.SOURCE_FAULT)
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


@PARTITIONS
@BOTH
def test_frames_that_are_not_decoded_fail_as_the_table_says(
    harness: ProtocolHarness,
    make_setup: MakeSetup,
    secure: MakeSample,
    monkeypatch: pytest.MonkeyPatch,
    strategy: Strategy,
    partition: Partition,
) -> None:
    sample, setup = secure(N=1_000_000, strategy=strategy), make_setup(protocol={"partition": partition})
    keys: list[Keys] = []
    decode(monkeypatch, fewest=4, error=1e-9)
    everything = harness.run(sample, setup, on_keys=keys.append)
    assert len(keys) == 1 and everything.frames_decoded == everything.frames_total
    decode(monkeypatch, fewest=4, error=1e-3)
    part = harness.run(sample, setup, on_keys=keys.append)
    assert len(keys) == 1  # not all frames exist: no strings
    assert 4 <= part.frames_decoded < part.frames_total == everything.frames_total
    assert part.reconciled in [(part.frames_total - part.frames_failed) * payload for payload in (3686, 58982)]
    if strategy is Strategy.BASELINE:  # what is said does not depend on what is decoded
        assert (part.leaked, part.margin, part.key_length) == (
            everything.leaked,
            everything.margin,
            everything.key_length,
        )
    else:
        assert part.margin == pytest.approx(everything.margin, abs=4e-3)
    assert (part.qber, part.detected, part.sifted) == (everything.qber, everything.detected, everything.sifted)


def test_undecoded_frames_are_drawn_and_not_taken_for_good(
    harness: ProtocolHarness, make_setup: MakeSetup, secure: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that fail now and then: runs of which few are decoded are lost as often as those of which all are."""
    weaker(monkeypatch, 0.75)
    setup = make_setup(protocol={"test_fraction": 0.5})
    lost = []
    for error in (-1.0, 1.0):  # nothing may be drawn, anything may
        decode(monkeypatch, fewest=1, error=error)
        runs = [harness.run(secure(index=j, N=100_000, F=0.97), setup) for j in range(40)]
        assert all(run.frames_decoded == (run.frames_total if error < 0 else 1) for run in runs)
        lost.append(sum(run.reason is Reason.FRAME_LOST for run in runs))
    assert 4 <= lost[0] <= 36, lost
    assert stats.fisher_exact([[n, 40 - n] for n in lost]).pvalue > 1e-3
