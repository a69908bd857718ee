"""What it costs that reconciliation is one message and drops nothing, with the codes that ship.

The peer drops a frame in a hundred and is charged neither for that nor for what it tells, as release 0.1 did. Three
views, all of the baseline:

* the share of space D (the preset `cliff`) that has a key in closed form under `individual`;
* bits of margin by the length of a run, at the error rates where cliffs are: public bits per bit of one string, tags
  included, of one message less those of the peer, if every frame had to be corrected by itself and with the outer code;
* runs through the harness, with its own estimate of the error rate: how many lose a frame, with the exact (Clopper and
  Pearson) interval, against the probability that was asked for and the one that is expected. Half of what is asked for
  is left to the estimate of the error rate, and of the other half a plan uses three quarters by its table. What is
  expected is less: the mean, over what the slots may show, of the table's rate at the true error rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import secrets
import statistics
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from caligo_simulator import harness
from caligo_simulator.harness import ProtocolHarness, Setup
from caligo_simulator.protocol.messages import Hashes
from caligo_simulator.protocol.parties import Alice, Bob, Parties
from caligo_simulator.protocol.reconciliation import baseline_plan
from caligo_simulator.protocol.reconciliation.plans import loss_probability
from caligo_simulator.simulation import Simulator
from scipy import stats

from benchmarks._closed_form import DROPPING, FAILURE, TODAY, Rules, design, design_rate, leakage, secret_bits
from caligo.phases import Phase
from caligo.physics.detection import qber
from caligo.physics.efficiency import FRAME_SIZES, PAYLOADS
from caligo.physics.finite_key import wilson_upper
from caligo.physics.tags import TAG_BITS
from caligo.results import ProtocolOutcome, Reason
from caligo.space import ExplorationSample, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec

SEED: Final = 12
FRAMES: Final = (1, 10, 100, 1000, 10_000)
MEASURED: Final = (1, 10, 100, 1000)
"""Lengths of a run, in frames of 4,096 bits; where they are filled, frames of 65,536 serve."""
LONG: Final = PAYLOADS[1] // PAYLOADS[0] + 1
"""From so many short frames on long ones are taken."""
QBER: Final = (0.01, 0.02, 0.04)
RULES: Final = {
    "one frame in a hundred dropped": DROPPING,
    "the same, charged": DROPPING._replace(charged=True),
    "every frame by itself": TODAY._replace(outer=False),
    "with the outer code": TODAY,
    "a run in ten lost": TODAY._replace(failure=0.1),
    "three in a hundred": TODAY._replace(failure=0.03),
    "one in a million": TODAY._replace(failure=1e-6),
}
RUNS: Final = {FAILURE: (2000, 500, 60, 10), 0.1: (600, 300, 60, 10)}
"""By the failure that is asked for and the length."""
SAFE: Final = ExplorationSample(0, 0.1, 0.1, 1e9, 0.9925, 1.0, 0.005, 1e-8, 1, Strategy.BASELINE)
ERROR_RATE: Final = qber(SAFE.F, SAFE.eta, SAFE.e_det, SAFE.P_dark)
EPSILON: Final = 1e-3
"""With errors so large nearly every run has a key, whatever error rate it happens to see."""


def leak(error_rate: float, frames: int, rules: Rules) -> float:
    """Public bits per bit of a string of so many short frames, or as many whole long ones, whichever is less."""
    length = frames * PAYLOADS[0]
    # A tenth of the detections are slots, the rest two strings; in half of the slots the bases agree.
    rate = design_rate(error_rate, length / 9.0, rules)
    rates = []
    for size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        whole = length // payload
        if whole:
            tags = TAG_BITS / payload / (whole if rules.tag_a_string else 1)
            rates.append(leakage(error_rate, rate, Strategy.BASELINE, whole, size, rules) + tags)
    return min(rates)


def margins() -> list[dict[str, Any]]:
    """Bits of margin that one message costs, every frame by itself and with the outer code."""
    return [
        {"frames": frames, "qber": q}
        | {
            name: leak(q, frames, RULES[name]) - leak(q, frames, DROPPING)
            for name in ("every frame by itself", "with the outer code")
        }
        for frames in FRAMES
        for q in QBER
    ]


def shares(points: int) -> dict[str, float]:
    """Of space D, by rules."""
    samples = design(points, SEED)
    return {
        name: sum(secret_bits(s, Strategy.BASELINE, "individual", rules=rules) >= 1.0 for s in samples) / points
        for name, rules in RULES.items()
    }


def expected_loss(error_rate: float, frames: int, size: int, failure: float) -> float:
    """Probability that a run of so many frames of a size loses one, by the table of measured frame error rates."""
    k = frames * PAYLOADS[FRAME_SIZES.index(size)] // 9
    seen = stats.binom(k, error_rate)
    edges = np.unique(np.linspace(seen.ppf(1e-9), seen.ppf(1.0 - 1e-9), 200).round())
    loss = 0.0
    for errors, weight in zip(edges, np.diff(seen.cdf(edges), prepend=0.0), strict=True):
        rate = wilson_upper(errors / k, k, -NormalDist().inv_cdf(0.5 * failure))
        plan = baseline_plan(rate, size, frames, 0.5 * failure)
        if plan is not None:  # without a code the run ends, and loses no frame
            loss += weight * loss_probability(plan, frames, error_rate)
    return loss


class UnhashedAlice(Alice):
    """Stops before the hashing, which takes longer than all else: what is counted here is known by then."""

    def hash(self, length: int, rng: np.random.Generator) -> Hashes:
        self.keys = ()
        nothing = np.zeros(0, np.uint8)
        return Hashes(length, (nothing, nothing))


class UnhashedBob(Bob):
    """The same."""

    def hash(self, hashes: Hashes, rng: np.random.Generator) -> None:
        self.key = hashes.seeds[0]


def runs(simulator: Simulator, frames: int, number: int, failure: float) -> dict[str, Any]:
    """How many of the runs lose a frame. All of their frames are decoded."""
    rounds = 2.0 * frames * PAYLOADS[0] / 0.9
    sample = dataclasses.replace(SAFE, N=math.ceil(rounds + 5.0 * math.sqrt(rounds)))
    protocol = ProtocolSpec(max_decoded_frames=2 * max(MEASURED), reconciliation_failure=failure)
    setup = Setup("one-way-cost", SEED, Phase.LHS, PhysicsSpec(epsilon=EPSILON), protocol)
    players = ProtocolHarness(simulator.orchestrator, Parties(UnhashedAlice, UnhashedBob))
    with ThreadPoolExecutor(simulator.workers) as pool:
        results = list(pool.map(lambda i: players.run(dataclasses.replace(sample, index=i), setup), range(number)))
    lost = sum(result.reason is Reason.FRAME_LOST for result in results)
    decoded = statistics.mode(result.frames_decoded for result in results)
    interval = stats.binomtest(lost, number).proportion_ci(0.95, "exact")
    return {
        "frames": frames,
        "decoded": decoded,
        "failure": failure,
        "runs": number,
        "lost": lost,
        "without_key": number - lost - sum(result.outcome is ProtocolOutcome.SUCCESS for result in results),
        "expected": expected_loss(ERROR_RATE, decoded, FRAME_SIZES[frames >= LONG], failure),
        "interval": [float(interval.low), float(interval.high)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=4000)
    parser.add_argument("--runs", type=float, default=1.0, help="times as many runs")
    arguments = parser.parse_args()
    found = shares(arguments.points)
    print(f"share of space D, baseline, individual, {arguments.points} points")
    for name, share in found.items():
        print(f"{name:32s}{100 * share:6.1f} %")
    print("\nbits of margin that one message costs: every frame by itself, with the outer code\nframes "
          + "".join(f"{f'Q = {q:.2f}':>19s}" for q in QBER))  # fmt: skip
    costs = margins()
    for frames in FRAMES:
        cells = (f"{p['every frame by itself']:11.4f} {p['with the outer code']:7.4f}"
                 for p in costs if p["frames"] == frames)  # fmt: skip
        print(f"{frames:6d} " + "".join(cells))
    print(f"\nruns through the harness, Q = {ERROR_RATE:.4f}")
    print("asked for  frames  decoded   runs  without key  expected  lost  share of runs")
    harness._LOSS_ERROR = -1.0  # every frame is decoded, and none drawn by the table that is put to the test
    with Simulator(len(os.sched_getaffinity(0)), 2**20, f"one-way-{secrets.token_hex(4)}") as simulator:
        simulator.warm_up()
        measured = []
        for failure, numbers in RUNS.items():
            for frames, number in zip(MEASURED, numbers, strict=True):
                m = runs(simulator, frames, math.ceil(arguments.runs * number), failure)
                measured.append(m)
                low, high = m["interval"]
                print(f"{failure:9.0e} {frames:7d} {m['decoded']:8d} {m['runs']:6d} {m['without_key']:12d} "
                      f"{m['expected']:9.1e} {m['lost']:5d}  {m['lost'] / m['runs']:.4f} "
                      f"({low:.4f} to {high:.4f})", flush=True)  # fmt: skip
    kept = all(m["interval"][0] <= m["failure"] for m in measured)
    if arguments.json:
        mine, peer = found["with the outer code"], found["one frame in a hundred dropped"]
        print(json.dumps({
            "name": "one_way_cost", "value": mine, "unit": "share of space D, baseline, individual",
            "peer": "one frame in a hundred dropped for nothing", "peer_value": peer, "ratio": mine / peer,
            "shares": found, "margins": costs, "runs": measured,
        }))  # fmt: skip
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
