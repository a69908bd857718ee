"""One sample through the protocol, stage by stage.

The harness carries messages between Alice and Bob (`protocol.parties`) in the order of docs/physics.md, and keeps the
book: each stage either goes on or ends the sample with a typed outcome. Only what is public may end it. What a row says
about a sample depends on the campaign's setup and the sample's index alone.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from structlog.contextvars import bound_contextvars

from caligo import logs, seeds, tracing
from caligo.closed_form import expect_sample
from caligo.phases import Phase
from caligo.physics import claims
from caligo.physics.claims import Counts
from caligo.physics.device import blind_design, known_rounds
from caligo.physics.entropy import binary_entropy
from caligo.physics.finite_key import detection_interval
from caligo.physics.prediction import (
    FEWEST_DECODED,
    MARGIN_FLOOR,
    decoded_frames,
    expected_leakage_rate,
    most_decoded,
    removed_rounds,
)
from caligo.physics.security import effective_retention
from caligo.results import ProtocolOutcome, ProtocolResult, Reason
from caligo.seeds import Purpose
from caligo.space import ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo_simulator import metrics
from caligo_simulator.arena import SlotReference
from caligo_simulator.epr.source import BobBases, Link, Segment
from caligo_simulator.protocol.estimation import Estimate, estimate
from caligo_simulator.protocol.messages import Message, Requests
from caligo_simulator.protocol.parties import Agreement, Keys, Parties
from caligo_simulator.protocol.partition import RefusedSetsError
from caligo_simulator.protocol.reconciliation.codes import FRAME_SIZES, payload_bits
from caligo_simulator.protocol.reconciliation.plans import (
    Plan,
    baseline_plan,
    blind_plan,
    draw_failing,
    expected_leak,
    failing_frames,
    leak_deviation,
    loss_probability,
)
from caligo_simulator.protocol.sifting import Holding, Sifted, Sifter
from caligo_simulator.protocol.verification import TAG_BITS
from caligo_simulator.workers import BatchedEPROrchestrator, SegmentRequest, SegmentTask, SourceError, WorkerLostError

log = logs.get("harness")

QBER_LIMIT: Final = 0.11
"""h(Q) = 1/2: no claim leaves more (physics.md 2.3)."""
_SHORTEST_PAYLOAD: Final = payload_bits(FRAME_SIZES[0])
_LOSS_ERROR: Final = 0.01
"""Error of the probability that a run of the baseline is lost, up to which its other frames are drawn."""
_TABLE_FRAMES: Final = 100
"""Decoded frames of the run that the table of frame error rates counts as, where the rest of a blind run is drawn."""


class SampleCancelledError(Exception):
    """Nobody waits for the sample any more."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all samples of one stream have in common."""

    campaign: str
    seed: int
    phase: Phase
    physics: PhysicsSpec
    protocol: ProtocolSpec


class _Ended(Exception):
    """A stage ends the sample."""

    def __init__(self, outcome: ProtocolOutcome, reason: Reason) -> None:
        self.outcome = outcome
        self.reason = reason


class ProtocolHarness:
    """Runs samples; one harness serves any number of threads. `parties` may put somebody else in the honest place."""

    def __init__(self, orchestrator: BatchedEPROrchestrator, parties: Parties | None = None) -> None:
        self._orchestrator = orchestrator
        self._parties = parties or Parties()

    def run(
        self,
        sample: ExplorationSample,
        setup: Setup,
        *,
        cancelled: threading.Event | None = None,
        on_keys: Callable[[Keys], None] | None = None,
        on_message: Callable[[str, Message], None] | None = None,
    ) -> ProtocolResult:
        """Carry out the protocol on a sample. Whatever goes wrong inside it becomes its outcome.

        cancelled: looked at between segments and stages; on_keys: is shown the keys, where every frame was decoded;
        on_message: is shown each message as the other reads it, after the name of who says it ("alice", "bob").

        Raises:
            SampleCancelledError: `cancelled` was set.
        """
        started = time.monotonic()
        cancelled = cancelled or threading.Event()
        listeners = on_keys or (lambda keys: None), on_message
        run = _Run(self._orchestrator, self._parties, sample, setup, started, cancelled, *listeners)
        with bound_contextvars(campaign=setup.campaign, phase=setup.phase.name.lower(), row=sample.index):
            self._carry_out(run)
        run.result.wall_seconds = time.monotonic() - started
        return run.result

    def _carry_out(self, run: _Run) -> None:
        try:
            with tracing.row_span("simulate", run.sample.index):
                run.carry_out()
        except _Ended as end:
            run.end(end.outcome, end.reason)
        except RefusedSetsError as error:
            log.warning("Alice refuses Bob's sets", reason=str(error))
            run.end(ProtocolOutcome.FAILURE_SECURITY, Reason.REFUSED_SETS)
        except TimeoutError:
            run.end(ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT)
        except SampleCancelledError:
            raise
        except SourceError as error:
            log.error("EPR source fault", source=run.setup.protocol.epr_source, error=str(error))
            run.end(ProtocolOutcome.FAILURE_ERROR, Reason.SOURCE_FAULT)
        except WorkerLostError as error:
            log.error("sample failed", error=str(error))
            run.end(ProtocolOutcome.FAILURE_ERROR, Reason.WORKER_LOST)
        except Exception:
            if run.cancelled.is_set():  # what it met is the end of what it ran on
                raise SampleCancelledError from None
            log.exception("sample failed")
            run.end(ProtocolOutcome.FAILURE_ERROR, Reason.EXCEPTION)


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    with metrics.STAGE.labels(name).time(), tracing.span(name):
        yield


class _Run:
    """The state of one sample on its way through the stages."""

    def __init__(
        self,
        orchestrator: BatchedEPROrchestrator,
        parties: Parties,
        sample: ExplorationSample,
        setup: Setup,
        started: float,
        cancelled: threading.Event,
        on_keys: Callable[[Keys], None],
        on_message: Callable[[str, Message], None] | None,
    ) -> None:
        self.orchestrator = orchestrator
        self.sample = sample
        self.setup = setup
        self.deadline = started + setup.protocol.time_limit_seconds
        self.cancelled = cancelled
        self.on_keys = on_keys
        self.on_message = on_message
        self.result = ProtocolResult(ProtocolOutcome.SUCCESS, pairs=sample.N)
        self.link = Link.of(sample, setup.physics)
        self.device, self.law = self.link.device, self.link.law()
        self.known = 0.0
        """Rounds that may hold several pairs."""
        self.r_eff = effective_retention(sample.r, sample.dt_ns, setup.physics.memory_model)
        self.claim = claims.claim(setup.physics.claim)
        self.estimate: Estimate | None = None
        self.secret = 0.0
        """Key bits, unrounded, once the leak is known."""
        self.is_baseline = sample.strategy is Strategy.BASELINE
        self.by_alice = setup.protocol.partition == "alice"
        self.rng = self.generator(Purpose.PROTOCOL)
        self.slots = BobBases.slots_of(setup.protocol.test_fraction) if self.is_baseline else 0
        agreement = Agreement(setup.protocol.partition, self.slots)
        self.alice = parties.alice(agreement)
        self.bob = parties.bob(agreement, int(self.rng.integers(2)))

    # --- stages -----------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        with _stage("quantum"):
            sifted = self.sifted = self.quantum_phase()
        with _stage("choice of code"):
            self.detection_test(sifted)
            epsilon = self.setup.physics.epsilon
            self.known = float(known_rounds(self.device, self.law, sifted.detected, self.sample.N, epsilon))
            length = self.divide(sifted)
            plan = self.choose_code(sifted, length)
        with _stage("reconciliation"):
            self.reconcile(plan, sifted)
        with _stage("amplification"):
            self.amplify()

    def quantum_phase(self) -> Sifted:
        """Generate, report and sift all pairs; the next segment is made while this one is sifted."""
        sifter = Sifter(self.slots, self.holding(), int(self.rng.integers(2**64, dtype=np.uint64)))
        self.time_left()  # it may have waited for its turn longer than anybody waits for it
        tasks = self.tasks(self.bob.measure())
        first = next(tasks)
        request = self.orchestrator.generate(first)
        task: SegmentTask | None = first
        try:
            while task is not None:
                reference = self.collect(request)
                following = next(tasks, None)
                if following is not None:
                    request = self.orchestrator.generate(following)
                self.report(sifter, reference, task)
                task = following
            self.time_left()
        finally:
            request.discard()
        sifted = sifter.finish()
        self.result.detected = sifted.detected
        self.result.detection_rate = sifted.detected / self.sample.N
        self.result.sifted = sifted.length
        self.result.test_bits = sifted.slots
        return sifted

    def detection_test(self, sifted: Sifted) -> None:
        """Alice goes on only with as many detections as the devices explain (physics.md 3)."""
        low, high = detection_interval(self.sample.N, float(self.law.click), self.setup.physics.epsilon)
        if not low <= sifted.detected <= high:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.DETECTION_INTERVAL)

    def divide(self, sifted: Sifted) -> int:
        """Alice announces her bases, and Bob names the sets if the partition is his; the length of each string."""
        held = sifted.held
        self.bob.hold(held.bob_bit, held.bob_basis)
        bases = self.alice.hold(held.alice_bit, held.alice_basis)
        self.say("alice", bases)
        if self.by_alice:
            ones = int(np.count_nonzero(bases.bases))
            length = min(ones, bases.bases.size - ones)
        else:
            sets = self.bob.name_sets(bases)
            self.say("bob", sets)
            self.alice.accept(sets)
            length = sets.zero.size
        return length if bases.bases.size == sifted.key_rounds else sifted.length  # of a long run a part is held

    def choose_code(self, sifted: Sifted, length: int) -> Plan:
        """Estimate the error rate, choose the code for it, and stop where that cannot lead to a key.

        All of this is Alice's and public: the opened slots, and what the code will disclose.
        """
        protocol = self.setup.protocol
        known_rate = float(blind_design(self.law))
        self.estimate = estimate(
            sifted, self.sample.strategy, known_rate, protocol.reconciliation_failure / 2, protocol.pe_penalty
        )
        if self.estimate is not None:
            self.result.qber = self.estimate.qber
        if self.estimate is None or length < _SHORTEST_PAYLOAD:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW)
        if self.is_baseline and self.estimate.qber > QBER_LIMIT:
            raise _Ended(ProtocolOutcome.FAILURE_QBER, Reason.QBER_LIMIT)
        plans = [self.plan(n, length // payload_bits(n)) for n in FRAME_SIZES if payload_bits(n) <= length]
        serving = [plan for plan in plans if plan is not None]
        if not serving:
            raise _Ended(ProtocolOutcome.FAILURE_QBER, Reason.NO_CODE)
        plan = max(serving, key=lambda plan: self.expected(plan, sifted, length // plan.payload).secret)
        frames = self.result.frames_total = length // plan.payload
        if self.is_baseline:  # the leak is known before anything is said
            most = self.secret = self.settle(plan, sifted, frames, plan.leak(frames) + TAG_BITS)
        else:
            cut, least = frames * plan.payload, frames * (int(plan.syndrome_leak[0]) + TAG_BITS)
            self.record_margin(self.expected(plan, sifted, frames), cut)
            most = self.key_bits(sifted, cut, cut, least).secret
        if most < 1.0:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY)
        return plan

    def reconcile(self, plan: Plan, sifted: Sifted) -> None:
        """Decode frames, as many as the spec asks for; the rest fail as measured rates say."""
        result = self.result
        if self.by_alice:
            permutation = self.alice.permute(self.generator(Purpose.PERMUTATION))
            self.say("alice", permutation)
            self.bob.follow(self.alice.bases, permutation)
        held = min(index.size for index in self.alice.sets)
        decoded = result.frames_decoded = min(self.frames_to_decode(plan), held // plan.payload)
        correction = self.alice.describe(plan, decoded, self.generator(Purpose.RECONCILIATION))
        self.say("alice", correction)
        answer = self.bob.correct(correction, self.time_left)
        requests = answer if plan.is_blind else None  # in the baseline nobody listens to him
        failed = decoded - int(np.count_nonzero(self.bob.met if requests is None else requests.kept))
        result.frame_error_rate = failed / decoded
        lost = result.frames_failed = self.lost_frames(plan, failed)
        if requests is not None:
            self.say("bob", requests)
            self.alice.drop(requests)
            self.secret = self.settle_blind(plan, sifted, requests, lost)
        ideal = binary_entropy(sifted.errors / sifted.matched) if sifted.matched else 0.0
        if ideal > 0.0:
            tags = TAG_BITS * (result.frames_total if plan.is_blind else 1)
            result.reconciliation_efficiency = (result.leaked - tags) / (result.reconciled * ideal)
        if self.secret < 1.0:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.DEATH_VALLEY)
        if not plan.is_blind and (lost or not self.bob.knows):
            # Alice has two keys and Bob random bits: she cannot know it, so it is no end of the protocol.
            result.outcome, result.reason = ProtocolOutcome.FAILURE_RECONCILIATION, Reason.FRAME_LOST

    def amplify(self) -> None:
        """Both hash to the key length, which the leak decides."""
        result = self.result
        length = math.floor(self.secret)
        if result.frames_decoded == result.frames_total:
            hashes = self.alice.hash(length, self.generator(Purpose.AMPLIFICATION))
            self.say("alice", hashes)
            self.bob.hash(hashes, self.rng)
            self.on_keys(Keys(self.bob.choice, self.alice.keys, self.bob.key, self.bob.knows))
        if result.outcome is ProtocolOutcome.SUCCESS:
            result.key_length = length
            result.net_efficiency = length / self.sample.N

    # --- parts of the stages ----------------------------------------------------------------------------------------

    def plan(self, n: int, frames: int) -> Plan | None:
        """The code for so many frames of n, None where no code of the pool serves."""
        assert self.estimate is not None
        if not self.is_baseline:
            return blind_plan(self.estimate.design_qber, n)
        return baseline_plan(self.estimate.design_qber, n, frames, self.setup.protocol.reconciliation_failure / 2)

    def key_bits(self, sifted: Sifted, cut: float, kept: float, leak: float) -> claims.KeyBits:
        """Key bits, unrounded, where `kept` of the `cut` bits of each string stay and `leak` of each are public."""
        physics, partition = self.setup.physics, self.setup.protocol.partition
        removed = removed_rounds(partition, sifted.key_rounds, cut, kept)
        counts = Counts(sifted.detected, sifted.key_rounds, cut, removed, leak, self.known)
        return self.claim.key_bits(counts, self.r_eff, self.sample.nu, physics.epsilon, partition)

    def expected(self, plan: Plan, sifted: Sifted, frames: int) -> claims.KeyBits:
        """Key bits to be expected of a plan for so many frames."""
        if plan.is_blind:
            kept = frames * (1.0 - float(failing_frames(plan, plan.qber)[-1]))
            leak = kept * expected_leak(plan) + frames * TAG_BITS
        else:
            kept, leak = float(frames), float(plan.leak(frames) + TAG_BITS)
        return self.key_bits(sifted, frames * plan.payload, kept * plan.payload, leak)

    def settle(self, plan: Plan, sifted: Sifted, frames: int, leaked: int) -> float:
        """Note what stays of both strings and what was said of each; key bits, unrounded, and with them the margin."""
        result = self.result
        cut, kept = result.frames_total * plan.payload, frames * plan.payload
        result.reconciled = kept
        result.removed = round(removed_rounds(self.setup.protocol.partition, sifted.key_rounds, cut, kept))
        result.leaked = leaked
        result.leakage_rate = leaked / kept
        bits = self.key_bits(sifted, cut, kept, leaked)
        self.record_margin(bits, kept)
        return bits.secret

    def record_margin(self, bits: claims.KeyBits, m: float) -> None:
        """Set margin and entropy rate, of m bits of each string."""
        self.result.min_entropy_rate = bits.entropy / m
        self.result.margin = max(MARGIN_FLOOR, bits.secret / m)

    def frames_to_decode(self, plan: Plan) -> int:
        """As many frames as the answer needs: whatever is cheap, and beyond it where too much would be drawn.

        In the baseline all that decoding settles is whether the run is lost, in the blind protocol how much is
        disclosed on average.
        """
        total, size = self.result.frames_total, FRAME_SIZES.index(plan.code.n)
        limit = self.setup.protocol.max_decoded_frames
        if plan.is_blind:
            return math.ceil(decoded_frames(total, leak_deviation(plan) / plan.payload, size, limit, np))
        low, high = (loss_probability(plan, total, self.true_qber(), side) for side in (-2.0, 2.0))
        is_settled = (high - low) / 2.0 <= _LOSS_ERROR
        return min(total, FEWEST_DECODED[size] if is_settled else most_decoded(size, limit))

    def lost_frames(self, plan: Plan, failed: int) -> int:
        """Frames that are not corrected, `failed` of them among those decoded; the others are drawn at the rates of the
        table, as uncertain as that is. In the blind protocol what the decoded frames showed counts as well."""
        decoded, undecoded = self.result.frames_decoded, self.result.frames_total - self.result.frames_decoded
        rng = self.generator(Purpose.EXTRAPOLATION)
        qber, fit_error = self.true_qber(), float(rng.standard_normal())
        if plan.restored is not None:
            left = draw_failing(plan, undecoded, qber, fit_error, rng)
            left += [np.count_nonzero(self.bob.stage > attempt) for attempt in range(left.size)]
            over = left > plan.restored
            return int(left[over.argmax()]) if over.any() else failed
        if not undecoded:
            return failed
        prior = max(float(failing_frames(plan, qber, fit_error)[-1]), 1e-12) * _TABLE_FRAMES
        rate = rng.beta(failed + prior, decoded - failed + _TABLE_FRAMES - prior)
        return failed + int(rng.binomial(undecoded, rate))

    def true_qber(self) -> float:
        """Error rate behind this run's frames. Under drift runs differ, and its own errors are what is known of it."""
        sifted = self.sifted
        if self.device is None or self.device.drift == "none" or not sifted.matched:
            return float(self.law.qber)
        return sifted.errors / sifted.matched

    def settle_blind(self, plan: Plan, sifted: Sifted, requests: Requests, lost: int) -> float:
        """`settle` with what was disclosed of the frames that are kept; those not decoded count as the others do.

        The tags of dropped frames count as well: they are no linear function of the bits that go (docs/physics.md).
        """
        kept = self.result.frames_total - lost
        verified = int(np.count_nonzero(requests.kept))
        if verified == 0 or kept == 0:
            raise _Ended(ProtocolOutcome.FAILURE_RECONCILIATION, Reason.NO_FRAME_VERIFIED)
        disclosed = int(plan.syndrome_leak[requests.stage[requests.kept]].sum())
        leaked = -(-disclosed * kept // verified) + self.result.frames_total * TAG_BITS  # rounded up
        return self.settle(plan, sifted, kept, leaked)

    def holding(self) -> Holding:
        """The rounds of the strings that may be decoded, both strings together."""
        expected = self.sample.N * float(self.law.click) * (1.0 - self.slots / BobBases.slots_of(1.0))
        limit = self.setup.protocol.max_decoded_frames
        wanted = 2 * max(most_decoded(size, limit) * payload_bits(n) for size, n in enumerate(FRAME_SIZES))
        return Holding.of(wanted, expected, self.sample.N)

    def tasks(self, bases: BobBases) -> Iterator[SegmentTask]:
        """The segments of the sample, in order."""
        total, step = self.sample.N, self.orchestrator.segment_pairs
        key = seeds.key(self.setup.seed, self.setup.phase, self.sample.index, Purpose.QUANTUM)
        for start in range(0, total, step):
            pairs = min(step, total - start)
            yield SegmentTask(self.setup.protocol.epr_source, self.link, bases, key, start, pairs)

    def collect(self, request: SegmentRequest) -> SlotReference:
        """Wait for a segment, as long as the sample may take and somebody waits for it."""
        reference = None
        while reference is None:
            self.time_left()
            reference = request.result()
        return reference

    def report(self, sifter: Sifter, reference: SlotReference, task: SegmentTask) -> None:
        """Let Bob report a segment, sift it by that where it lies, and free its slot."""
        arena = self.orchestrator.arena
        try:
            segment = self.alice.send(Segment.over(arena.read(reference), task.pairs), task.start)
            report = self.bob.report(segment, task.start)
            if self.on_message is not None:  # what is read of so many rounds is not made for nobody
                self.say("bob", report.read(BobBases(None, self.slots).is_slot(task.start, task.pairs)))
            sifter.add(segment._replace(bob_basis=report.basis, bob_click=report.click))
        finally:
            arena.free(reference)

    def say(self, sender: str, message: Message) -> None:
        """Show a message to whoever listens."""
        if self.on_message is not None:
            self.on_message(sender, message)

    def generator(self, purpose: Purpose) -> np.random.Generator:
        return seeds.generator(self.setup.seed, self.setup.phase, self.sample.index, purpose)

    def time_left(self) -> float:
        """Seconds to the deadline.

        Raises:
            TimeoutError: none.
            SampleCancelledError: nobody waits any more.
        """
        if self.cancelled.is_set():
            raise SampleCancelledError
        left = self.deadline - time.monotonic()
        if left <= 0.0:
            raise TimeoutError
        return left

    # --- ends -------------------------------------------------------------------------------------------------------

    def end(self, outcome: ProtocolOutcome, reason: Reason) -> None:
        """Note how the sample failed before there was a key: its margin is not positive."""
        result = self.result
        result.outcome, result.reason = outcome, reason
        result.key_length, result.net_efficiency = 0, 0.0
        if not outcome.is_physical:
            result.margin = math.nan
            return
        if math.isnan(result.margin):
            self.expect_margin(self.sifted)
        result.margin = min(0.0, result.margin)

    def expect_margin(self, sifted: Sifted) -> None:
        """The margin where no code was chosen: with the leakage to be expected at the measured error rate, or, where
        that was not measured either, wholly in closed form."""
        if self.estimate is None:
            self.result.margin = float(expect_sample(self.sample, self.setup.physics, self.setup.protocol).margin)
            return
        # Below one frame the margin goes on with the bits that there are.
        frames = sifted.length // _SHORTEST_PAYLOAD
        m = frames * _SHORTEST_PAYLOAD or sifted.length
        rates = self.estimate.qber, self.estimate.design_qber
        failure = self.setup.protocol.reconciliation_failure / 2
        rate = expected_leakage_rate(*rates, self.sample.strategy, max(1, frames), failure)
        tags = TAG_BITS * (1 if self.is_baseline else max(1, frames))
        self.record_margin(self.key_bits(sifted, m, m, rate * m + tags), m)
