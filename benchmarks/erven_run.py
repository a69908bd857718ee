"""Erven's experiment as runs of the harness, beside the 1,366 bits that the paper prints (Nat. Commun. 5:3418).

    python -m benchmarks.erven_run [--runs 20] [--json]

His source (`physics.device.pairs`), his 8.00e7 rounds and error parameter, partition `bob`, claim `erven2014`. For each
run: detections, errors in equal bases, his Eq. 8 on these counts with his reconciliation (f = 1.491), with the error
rate known beforehand and with the run's own, and what our protocol leaves, slots, whole frames and the codes that ship
included. docs/physics.md says where every bit of the difference goes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets

import numpy as np
from caligo_simulator.epr.source import NO_CLICK, Link, Segment
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.protocol.messages import Report
from caligo_simulator.protocol.parties import Agreement, Bob, Parties
from caligo_simulator.simulation import Simulator

from caligo.phases import Phase
from caligo.physics.claims import CLAIMS, Counts
from caligo.physics.device import known_rounds
from caligo.physics.entropy import binary_entropy
from caligo.space import ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec, validate

PRINTED, F = 1_366, 1.491
ROUNDS, STORED, EPS, R = 80_000_000, 160_000, 2.5e-7, 0.75
PAIRS = {"mean_pairs": 3.145e-5, "modes": 1, "alice_efficiency": 0.015, "alice_dark": 1.5e-8}
PHYSICS = validate(
    PhysicsSpec,
    {"claim": "erven2014", "memory_model": "fixed", "epsilon": EPS, "device": {"pairs": PAIRS}},
)
SETUP = Setup(
    "erven", 1, Phase.LHS, PHYSICS, ProtocolSpec(partition="bob", test_fraction=0.05, time_limit_seconds=3600)
)
DETECTED, DETECTED_SD, ERRORS, ERRORS_SD = 1_128_308, 1_055, 5_256, 72
"""What the law of the rounds says."""


class CountingBob(Bob):
    """Counts detections, those with equal bases, and errors among these, calibration slots included."""

    def __init__(self, agreement: Agreement, choice: int) -> None:
        super().__init__(agreement, choice)
        self.counts = np.zeros(3, np.int64)

    def report(self, segment: Segment, start: int) -> Report:
        clicked = segment.bob_click != NO_CLICK
        matched = clicked & (segment.alice_basis == segment.bob_basis)
        wrong = matched & (segment.alice_bit != segment.bob_click)
        self.counts += [np.count_nonzero(rounds) for rounds in (clicked, matched, wrong)]
        return super().report(segment, start)


def published_length(link: Link, detected: float, error_rate: float) -> float:
    """Eq. 8 on a run's detections: no slots, nothing left out, f = 1.491."""
    known = float(known_rounds(link.device, link.law(), detected, ROUNDS, EPS))
    counts = Counts(detected, detected, 0.5 * detected, 0.0, 0.5 * detected * F * binary_entropy(error_rate), known)
    return CLAIMS["erven2014"].key_bits(counts, R, STORED / detected, EPS, "bob").secret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    nu = STORED / DETECTED
    sample = ExplorationSample(0, R, nu, 1e9, 1.0, 0.015, 0.0093, 1.5e-8, ROUNDS, Strategy.BASELINE)
    link = Link.of(sample, PHYSICS)
    rows = []
    with Simulator(1, 2**22, f"erven-{secrets.token_hex(4)}") as simulator:
        for index in range(arguments.runs):
            bobs: list[CountingBob] = []

            def bob(agreement: Agreement, choice: int, bobs: list[CountingBob] = bobs) -> CountingBob:
                bobs.append(CountingBob(agreement, choice))
                return bobs[0]

            harness = ProtocolHarness(simulator.orchestrator, Parties(bob=bob))
            result = harness.run(dataclasses.replace(sample, index=index), SETUP)
            detected, matched, errors = bobs[0].counts.tolist()
            before = published_length(link, detected, float(link.qber()))
            own = published_length(link, detected, errors / matched)
            rows.append((detected, errors, before, own, result.margin * result.reconciled))
    values = np.array(rows)
    inside = (np.abs(values[:, 0] - DETECTED) < 4 * DETECTED_SD) & (np.abs(values[:, 1] - ERRORS) < 4 * ERRORS_SD)
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    ratio = float(mean[2] / PRINTED)
    if arguments.json:
        names = ("detected", "errors", "published_known_rate", "published_own_rate", "ours")
        print(
            json.dumps(
                {
                    "benchmark": "erven_run",
                    "runs": len(rows),
                    "inside_4_sd": int(inside.sum()),
                    "ratio": ratio,
                    **{name: [float(mean[j]), float(low[j]), float(high[j])] for j, name in enumerate(names)},
                }
            )
        )
        return
    print(f"{len(rows)} runs, {inside.sum()} with both counts inside four standard deviations")
    for j, what in enumerate(
        ("detections", "errors, equal bases", "Eq. 8, rate known", "Eq. 8, the run's rate", "ours")
    ):
        print(f"{what:24s} mean {mean[j]:12,.0f}   {low[j]:12,.0f} to {high[j]:12,.0f}")
    print(f"Eq. 8 on the runs' counts over the printed {PRINTED:,} bits: {ratio:.3f}")


if __name__ == "__main__":
    main()
