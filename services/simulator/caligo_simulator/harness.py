"""One sample through the protocol, stage by stage.

Each stage either goes on or ends the sample with a typed outcome; the order is that of the protocol: detections, test
set and error rate, choice of the code, reconciliation, amplification. What a row says about a sample depends on the
campaign's setup and the sample's index alone.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from structlog.contextvars import bound_contextvars

from caligo import logs, seeds, tracing
from caligo.closed_form import expect
from caligo.physics.entropy import binary_entropy
from caligo.physics.finite_key import detection_interval, min_entropy, secret_bits
from caligo.physics.prediction import MARGIN_FLOOR, expected_leakage_rate
from caligo.physics.security import effective_retention
from caligo.results import ProtocolOutcome, ProtocolResult, Reason
from caligo.seeds import Phase, Purpose
from caligo.space import ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo_simulator import metrics
from caligo_simulator.arena import SlotReference
from caligo_simulator.epr.source import Link, Segment
from caligo_simulator.protocol.amplification import amplify, draw_seed
from caligo_simulator.protocol.estimation import Estimate, estimate
from caligo_simulator.protocol.reconciliation.codes import FRAME_SIZES, payload_bits
from caligo_simulator.protocol.reconciliation.plans import (
    Plan,
    baseline_plan,
    blind_plan,
    expected_leak,
)
from caligo_simulator.protocol.reconciliation.protocol import Reconciliation, reconcile
from caligo_simulator.protocol.sifting import Sifted, Sifter
from caligo_simulator.protocol.verification import TAG_BITS
from caligo_simulator.workers import BatchedEPROrchestrator, SegmentRequest, SegmentTask, WorkerLostError

log = logs.get("harness")

QBER_LIMIT: Final = 0.11
"""h(Q) = 1/2: no bound on the adversary leaves more (physics.md 2.3)."""
_SHORTEST_PAYLOAD: Final = payload_bits(FRAME_SIZES[0])
_FEWEST_LONG: Final = 4
"""Long frames that are decoded however few the spec asks for: the loss of a single one must not be that of all."""
_FRAMES_AT_ONCE: Final = 64
"""Decoded between two looks at the clock."""


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


class KeyPair(NamedTuple):
    """The strings of a run in which every frame was decoded, uint8 0/1 [ell] each."""

    choice: int
    alice: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    """S_0 and S_1."""
    bob: NDArray[np.uint8]
    """S_C."""
    bob_other: NDArray[np.uint8]
    """What Bob saw over I_{1-C}, in the frames that are kept, uint8 0/1 [reconciled]."""
    other_seed: NDArray[np.uint8]
    """The public seed with which S_{1-C} is hashed."""


class _Ended(Exception):
    """A stage ends the sample."""

    def __init__(self, outcome: ProtocolOutcome, reason: Reason) -> None:
        self.outcome = outcome
        self.reason = reason


class ProtocolHarness:
    """Runs samples; one harness serves any number of threads."""

    def __init__(self, orchestrator: BatchedEPROrchestrator) -> None:
        self._orchestrator = orchestrator

    def run(
        self,
        sample: ExplorationSample,
        setup: Setup,
        *,
        cancelled: threading.Event | None = None,
        on_keys: Callable[[KeyPair], None] | None = None,
    ) -> ProtocolResult:
        """Carry out the protocol on a sample. Whatever goes wrong inside it becomes its outcome.

        cancelled: looked at between segments and stages; on_keys: is shown the strings, where they exist.

        Raises:
            SampleCancelledError: `cancelled` was set.
        """
        started = time.monotonic()
        cancelled = cancelled or threading.Event()
        run = _Run(self._orchestrator, sample, setup, started, cancelled, on_keys)
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
        except TimeoutError:
            run.end(ProtocolOutcome.FAILURE_TIMEOUT, Reason.TIME_LIMIT)
        except SampleCancelledError:
            raise
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
        sample: ExplorationSample,
        setup: Setup,
        started: float,
        cancelled: threading.Event,
        on_keys: Callable[[KeyPair], None] | None,
    ) -> None:
        self.orchestrator = orchestrator
        self.sample = sample
        self.setup = setup
        self.deadline = started + setup.protocol.time_limit_seconds
        self.cancelled = cancelled
        self.on_keys = on_keys
        self.result = ProtocolResult(ProtocolOutcome.SUCCESS, pairs=sample.N)
        self.link = Link.of(sample, setup.physics.fidelity_convention)
        self.r_eff = effective_retention(sample.r, sample.dt_ns, setup.physics.memory_model)
        self.estimate: Estimate | None = None
        rng = self.generator(Purpose.PROTOCOL)
        self.test_set_key = int(rng.integers(2**64, dtype=np.uint64))
        self.choice = int(rng.integers(2))

    # --- stages -----------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        with _stage("quantum"):
            sifted = self.quantum_phase()
        with _stage("choice of code"):
            self.detection_test(sifted)
            plan = self.choose_code(sifted)
        with _stage("reconciliation"):
            frames = self.reconcile(plan, sifted)
        with _stage("amplification"):
            self.amplify(plan, sifted, frames)

    def quantum_phase(self) -> Sifted:
        """Generate and sift all pairs; the next segment is made while this one is sifted."""
        baseline = self.sample.strategy is Strategy.BASELINE
        sifter = Sifter(
            keep=min(max(self.most_decoded(n) * payload_bits(n) for n in FRAME_SIZES), self.sample.N),
            test_fraction=self.setup.protocol.test_fraction if baseline else 0.0,
            key=self.test_set_key,
        )
        self.time_left()  # it may have waited for its turn longer than anybody waits for it
        tasks = self.tasks()
        first = next(tasks)
        request = self.orchestrator.generate(first)
        task: SegmentTask | None = first
        try:
            while task is not None:
                reference = self.collect(request)
                following = next(tasks, None)
                if following is not None:
                    request = self.orchestrator.generate(following)
                self.sift(sifter, reference, task.pairs)
                task = following
            self.time_left()
        finally:
            request.discard()
        sifted = sifter.finish()
        self.result.detected = sifted.detected
        self.result.detection_rate = sifted.detected / self.sample.N
        self.result.sifted = sifted.length
        self.result.test_bits = sifted.test_bits
        return sifted

    def detection_test(self, sifted: Sifted) -> None:
        """Alice goes on only with as many detections as the devices explain (physics.md 3)."""
        low, high = detection_interval(self.sample.N, self.link.click_probability(), self.setup.physics.epsilon)
        if not low <= sifted.detected <= high:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.DETECTION_INTERVAL)

    def choose_code(self, sifted: Sifted) -> Plan:
        """Estimate the error rate, choose the code for it, and stop where that cannot lead to a key."""
        self.estimate = estimate(
            sifted,
            self.sample.strategy,
            self.link.qber(),
            self.setup.physics.epsilon,
            self.setup.protocol.pe_penalty,
        )
        if self.estimate is not None:
            self.result.qber = self.estimate.qber
        if self.estimate is None or sifted.length < _SHORTEST_PAYLOAD:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.INSUFFICIENT_RAW)
        baseline = self.sample.strategy is Strategy.BASELINE
        if baseline and self.estimate.qber > QBER_LIMIT:
            raise _Ended(ProtocolOutcome.FAILURE_QBER, Reason.QBER_LIMIT)
        make_plan = baseline_plan if baseline else blind_plan
        design_qber = self.estimate.design_qber
        plans = [make_plan(design_qber, n) for n in FRAME_SIZES if payload_bits(n) <= sifted.length]
        serving = [plan for plan in plans if plan is not None]
        if not serving:
            raise _Ended(ProtocolOutcome.FAILURE_QBER, Reason.NO_CODE)

        def expected_bits(plan: Plan) -> float:
            frames = sifted.length // plan.payload
            return self.secret_bits(frames * plan.payload, frames * (expected_leak(plan) + TAG_BITS))

        plan = max(serving, key=expected_bits)
        frames = self.result.frames_total = sifted.length // plan.payload
        # What remains after the least that can be disclosed, with every frame kept, is the most that can remain.
        most = self.secret_bits(frames * plan.payload, frames * (int(plan.syndrome_leak[0]) + TAG_BITS))
        expected_bits(plan)  # leaves the expected margin, for samples that end before their leak is known
        if most < 1.0:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.PREDICTED_NEGATIVE_KEY)
        return plan

    def reconcile(self, plan: Plan, sifted: Sifted) -> list[Reconciliation]:
        """Decode and verify frames, as many as the spec asks for; the rest fail at the rate of these."""
        result = self.result
        decoded = min(result.frames_total, self.most_decoded(plan.code.n))
        rng = self.generator(Purpose.RECONCILIATION)
        alice = sifted.chosen_alice[: decoded * plan.payload].reshape(decoded, plan.payload)
        bob = sifted.chosen_bob[: decoded * plan.payload].reshape(decoded, plan.payload)
        parts = []
        for first in range(0, decoded, _FRAMES_AT_ONCE):
            batch = slice(first, first + _FRAMES_AT_ONCE)
            parts.append(reconcile(plan, alice[batch], bob[batch], rng))
            self.time_left()
        failed = sum(part.frames_failed for part in parts)
        verified = decoded - failed
        result.frame_error_rate = failed / decoded
        undecoded = result.frames_total - decoded
        result.frames_failed = failed
        if undecoded:
            extrapolation = self.generator(Purpose.EXTRAPOLATION)
            result.frames_failed += int(extrapolation.binomial(undecoded, failed / decoded))
        if verified == 0:
            raise _Ended(ProtocolOutcome.FAILURE_RECONCILIATION, Reason.NO_FRAME_VERIFIED)
        kept = result.frames_total - result.frames_failed
        leaked = sum(part.leaked_total for part in parts)
        result.reconciled = kept * plan.payload
        result.leaked = -(-leaked * kept // verified)  # rounded up
        result.leakage_rate = result.leaked / result.reconciled
        ideal = binary_entropy(sifted.errors / sifted.matched)
        if ideal > 0.0:
            result.reconciliation_efficiency = (result.leaked - kept * TAG_BITS) / (result.reconciled * ideal)
        return parts

    def amplify(self, plan: Plan, sifted: Sifted, parts: list[Reconciliation]) -> None:
        """Hash both strings to the key length, which the leak decides."""
        result = self.result
        secret = self.secret_bits(result.reconciled, result.leaked)
        if secret < 1.0:
            raise _Ended(ProtocolOutcome.FAILURE_SECURITY, Reason.DEATH_VALLEY)
        result.key_length = math.floor(secret)
        result.net_efficiency = result.key_length / self.sample.N
        if sum(part.frames_total for part in parts) == result.frames_total:
            keys = self.strings(plan, sifted, parts)
            if self.on_keys is not None:
                self.on_keys(keys)

    def strings(self, plan: Plan, sifted: Sifted, parts: list[Reconciliation]) -> KeyPair:
        """S_0, S_1 and Bob's S_C, from the frames that both strings keep."""
        verified = np.concatenate([part.verified for part in parts])
        corrected = np.concatenate([part.bits for part in parts])[verified].ravel()

        def kept(string: NDArray[np.uint8]) -> NDArray[np.uint8]:
            frames = string[: verified.size * plan.payload].reshape(verified.size, plan.payload)
            return frames[verified].ravel()

        rng = self.generator(Purpose.AMPLIFICATION)
        length = self.result.key_length
        chosen_seed, other_seed = (draw_seed(corrected.size, length, rng) for _ in range(2))
        chosen, bob = amplify(np.stack([kept(sifted.chosen_alice), corrected]), length, chosen_seed)
        other = amplify(kept(sifted.other_alice), length, other_seed)
        return KeyPair(
            choice=self.choice,
            alice=(other, chosen) if self.choice else (chosen, other),
            bob=bob,
            bob_other=kept(sifted.other_bob),
            other_seed=other_seed,
        )

    # --- parts of the stages ----------------------------------------------------------------------------------------

    def tasks(self) -> Iterator[SegmentTask]:
        """The segments of the sample, in order."""
        total, step = self.sample.N, self.orchestrator.segment_pairs
        key = seeds.key(self.setup.seed, self.setup.phase, self.sample.index, Purpose.QUANTUM)
        for start in range(0, total, step):
            pairs = min(step, total - start)
            yield SegmentTask(self.setup.protocol.epr_source, self.link, key, start, pairs)

    def collect(self, request: SegmentRequest) -> SlotReference:
        """Wait for a segment, as long as the sample may take and somebody waits for it."""
        reference = None
        while reference is None:
            self.time_left()
            reference = request.result()
        return reference

    def sift(self, sifter: Sifter, reference: SlotReference, pairs: int) -> None:
        """Sift views of a slot, and free it."""
        arena = self.orchestrator.arena
        try:
            sifter.add(Segment.over(arena.read(reference), pairs))
        finally:
            arena.free(reference)

    def most_decoded(self, n: int) -> int:
        """Frames of n that are really decoded: `max_decoded_frames` of the shortest, or as many bits in longer ones."""
        most = self.setup.protocol.max_decoded_frames
        return most if n == FRAME_SIZES[0] else max(_FEWEST_LONG, most * FRAME_SIZES[0] // n)

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

    def secret_bits(self, m: int, leak: float) -> float:
        """Key bits, unrounded, from m reconciled bits after `leak` public ones; sets margin and entropy rate."""
        physics = self.setup.physics
        entropy = min_entropy(m, self.r_eff, self.sample.nu, physics.epsilon, physics.bound)
        secret = secret_bits(entropy, leak, physics.epsilon)
        self.result.min_entropy_rate = entropy / m
        self.result.margin = max(MARGIN_FLOOR, secret / m)
        return secret

    # --- ends -------------------------------------------------------------------------------------------------------

    def end(self, outcome: ProtocolOutcome, reason: Reason) -> None:
        """Note how the sample failed. Where there is no key the margin is not positive."""
        result = self.result
        result.outcome, result.reason = outcome, reason
        result.key_length, result.net_efficiency = 0, 0.0
        if not outcome.is_physical:
            result.margin = math.nan
            return
        if math.isnan(result.margin):
            self.expect_margin()
        result.margin = min(0.0, result.margin)

    def expect_margin(self) -> None:
        """The margin where no code was chosen: with the leakage to be expected at the measured error rate, or, where
        that was not measured either, wholly in closed form."""
        sample, physics, protocol = self.sample, self.setup.physics, self.setup.protocol
        if self.estimate is not None:
            # Below one frame the margin goes on with the bits that there are.
            m = self.result.sifted // _SHORTEST_PAYLOAD * _SHORTEST_PAYLOAD or self.result.sifted
            rate = expected_leakage_rate(self.estimate.qber, self.estimate.design_qber, sample.strategy)
            self.secret_bits(m, (rate + TAG_BITS / _SHORTEST_PAYLOAD) * m)
            return
        self.result.margin = expect(sample, physics, protocol).margin
