"""A run of Erven et al., Nat. Commun. 5:3418 (2014), through the harness, beside what the paper prints of its own.

Partition `bob`, claim `erven2014`, and his parametric source as `physics.device.pairs`; N counts the rounds that Alice
takes as valid. Rounds with several pairs are charged as he does. docs/physics.md has the numbers side by side.
"""

from __future__ import annotations

import dataclasses
from math import log2

import numpy as np
import pytest
from caligo_simulator.epr.source import Link
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.protocol.parties import Agreement, Parties
from caligo_simulator.simulation import Simulator

from benchmarks.erven_run import CountingBob
from caligo.closed_form import expect_sample
from caligo.phases import Phase
from caligo.physics.claims import Counts, claim
from caligo.physics.efficiency import PAYLOADS, baseline_efficiency
from caligo.physics.entropy import binary_entropy
from caligo.physics.finite_key import (
    design_qber,
    detection_tolerance,
    erven2014_key_length,
    immediate_measurement_entropy,
)
from caligo.physics.pdc import heralded_source
from caligo.physics.prediction import sifted_length
from caligo.physics.security import rate_after_storage
from caligo.results import ProtocolOutcome, ProtocolResult
from caligo.space import ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec, validate

# Tables I and II.
MU, ETA, E_DET, P_DARK, N = 3.145e-5, 0.0150, 0.0093, 1.5e-8, 80_000_000
R, NU, EPS, F_PRINTED, PRINTED = 0.75, 0.002, 2.5e-7, 1.491, 1366
STORED = NU * N
"""Qubits: nu is counted per emitted pair in the paper, per detected round here."""
SOURCE = heralded_source(MU, ETA, E_DET, P_DARK)
P_CLICK, QBER = 1.0 - SOURCE.no_click, SOURCE.error
DETECTED = N * P_CLICK
RUNS = 20


def paper_run(pairs: int) -> ExplorationSample:
    return ExplorationSample(0, R, STORED / (pairs * P_CLICK), 1e9, 1.0, ETA, E_DET, P_DARK, pairs, Strategy.BASELINE)


SLOTS, FRAMES = 0.05, 9
"""Share of the calibration slots, and the frames of 65,536 bits that are filled then."""
SETUP = Setup(
    "erven",
    1,
    Phase.LHS,
    validate(
        PhysicsSpec,
        {
            "claim": "erven2014",
            "memory_model": "fixed",
            "epsilon": EPS,
            "device": {"pairs": {"mean_pairs": MU, "modes": 1, "alice_efficiency": ETA, "alice_dark": P_DARK}},
        },
    ),
    ProtocolSpec(partition="bob", test_fraction=SLOTS, time_limit_seconds=3600),
)


def single_rounds(detected: float) -> float:
    """m_1 of so many detections."""
    several = 1.0 - SOURCE.vacuum - SOURCE.single
    return detected - (several + 3.0 * detection_tolerance(N, EPS)) * N


def published_length(detected: float, error_rate: float) -> float:
    """Eq. 8 with the paper's f, from the detections of a run: m_1 is what several pairs and 3 zeta leave of them."""
    before = 0.5 * immediate_measurement_entropy(single_rounds(detected), EPS) - 1.0 - log2(0.5 / EPS)
    after = N * rate_after_storage(R, NU, before / N)
    return 0.5 * after - 0.5 * detected * F_PRINTED * binary_entropy(error_rate) - log2(0.5 / EPS)


def our_length(result: ProtocolResult) -> float:
    """Key bits of the claim from the counts of a row, by hand."""
    key_rounds = result.detected - result.test_bits
    stored = STORED / DETECTED * result.detected  # nu is a share of the detections that there were
    known = result.detected - single_rounds(DETECTED)
    before = 0.5 * immediate_measurement_entropy(key_rounds - known, EPS) - 1.0 - log2(0.5 / EPS)
    after = stored * rate_after_storage(R, 1.0, before / stored)
    return 0.5 * after - 0.5 * result.removed - result.leaked - log2(0.5 / EPS)


def test_rounds_are_those_of_the_paper() -> None:
    """The device against the sums of Wehner10 Appendix C.2, which flip an outcome once a click, not once a photon."""
    law = Link.of(paper_run(N), SETUP.physics).law()
    assert float(law.click) == pytest.approx(P_CLICK, rel=1e-6)
    assert float(law.qber) == pytest.approx(QBER, rel=1e-6)
    assert float(law.several) == pytest.approx(1.0 - SOURCE.vacuum - SOURCE.single, rel=1e-6)
    table = {"mu": MU, "eta": ETA, "e_det": E_DET, "p_dark": P_DARK, "n": N, "r": R, "nu": NU, "eps": EPS}
    assert published_length(DETECTED, QBER) == pytest.approx(erven2014_key_length(**table, f=F_PRINTED), abs=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_counts_and_key_length_beside_the_print(simulator: Simulator) -> None:
    """Detections and errors within four standard deviations, and what each book-keeping makes of them."""
    counts = []
    for index in range(RUNS):
        bobs: list[CountingBob] = []

        def bob(agreement: Agreement, choice: int, bobs: list[CountingBob] = bobs) -> CountingBob:
            bobs.append(CountingBob(agreement, choice))
            return bobs[0]

        harness = ProtocolHarness(simulator.orchestrator, Parties(bob=bob))
        result = harness.run(dataclasses.replace(paper_run(N), index=index), SETUP)
        detected, matched, errors = counts_of_run = bobs[0].counts.tolist()
        counts.append(counts_of_run)
        assert detected == result.detected
        assert detected == pytest.approx(1_128_308, abs=4 * 1_055)
        assert matched == pytest.approx(0.5 * detected, abs=2 * detected**0.5)
        assert errors == pytest.approx(5_256, abs=4 * 72)
        # The paper's book-keeping: 71 is what the detections alone move the key by, at an error rate known beforehand.
        assert published_length(detected, QBER) == pytest.approx(1_392, abs=4 * 71)
        # Ours, with slots, whole frames and the codes that ship.
        assert result.test_bits == pytest.approx(SLOTS * detected, abs=4 * (SLOTS * detected) ** 0.5)
        assert result.reconciled == FRAMES * PAYLOADS[1]
        assert result.removed == detected - result.test_bits - 2 * result.reconciled
        secret = result.margin * result.reconciled
        assert secret == pytest.approx(our_length(result), abs=1.0)
        assert result.key_length == (int(secret) if result.outcome is ProtocolOutcome.SUCCESS else 0)
        # The error rate that the slots show has a standard deviation of 5.7e-4, 3,100 bits of syndrome.
        assert secret == pytest.approx(-5_627, abs=4 * 3_100)
    mean = np.mean(counts, axis=0)
    assert mean[0] == pytest.approx(1_128_308, abs=4 * 1_055 / RUNS**0.5)
    assert mean[2] == pytest.approx(5_256, abs=4 * 72 / RUNS**0.5)


def test_what_separates_ours_from_the_print() -> None:
    """Bits of one string, step by step, as docs/physics.md has them; the last is the closed form of the run."""
    h, under = binary_entropy(QBER), claim("erven2014")
    slots = SLOTS * DETECTED
    key_rounds, cut = DETECTED - slots, float(FRAMES * PAYLOADS[1])
    known = DETECTED - single_rounds(DETECTED)

    def bits(key_rounds: float, kept: float, leak: float) -> float:
        counts = Counts(DETECTED, key_rounds, kept, key_rounds - 2.0 * kept, leak, known)
        return under.key_bits(counts, R, STORED / DETECTED, EPS, "bob").secret

    shorter = sifted_length(key_rounds)
    rate = design_qber(QBER, shorter, 0.5 * slots, 1.5e-3)
    at_true_rate, at_design_rate = (
        baseline_efficiency(q, FRAMES, 1.5e-3, 65536) * binary_entropy(q) for q in (QBER, rate)
    )
    steps = [
        published_length(DETECTED, QBER),
        bits(DETECTED, 0.5 * DETECTED, 0.5 * DETECTED * F_PRINTED * h),
        bits(key_rounds, 0.5 * key_rounds, 0.5 * key_rounds * F_PRINTED * h),
        bits(key_rounds, shorter, shorter * F_PRINTED * h),
        bits(key_rounds, cut, cut * F_PRINTED * h),
        bits(key_rounds, cut, cut * at_true_rate),
        bits(key_rounds, cut, cut * at_design_rate),
        bits(key_rounds, cut, cut * at_design_rate + 50),
    ]
    assert steps == pytest.approx([1_392, 1_392, -2_427, -2_793, -6_954, 1_425, -5_576, -5_626], abs=2)
    # On average over part-frames Bob leaves out more than here, where nine long frames take nearly all.
    expected = expect_sample(paper_run(N), SETUP.physics, SETUP.protocol)
    assert expected.margin == pytest.approx(steps[-1] / cut, abs=1.5 * expected.sd)
