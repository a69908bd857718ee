"""The simulated protocol against the closed forms it should agree with.

1,000 samples of the `cliff` space: the measured QBERs, as z-scores against the closed form, have mean 0 and standard
deviation 1 within sampling error. At 20 of them, spread over predicted margins on both sides of the cliff, the key bits
of the claim, before a frame is lost, lie within the stated uncertainty of `caligo.physics.prediction`:

* leakage: 6 % more or less than the closed form, whose efficiencies are interpolated between points of a table;
* blind: 0 to 2 % of the frames dropped, and charged, where the closed form neglects it;
* three standard deviations of the number of detections and, for the baseline, of the QBER estimate that chooses the
  code.

A run of the baseline that loses a frame has its margin and no key. Such runs are counted, and disagree with nothing;
`benchmarks.one_way_cost` has their share.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

import numpy as np
from caligo_sampler.design import LHSSampler
from caligo_simulator.harness import Setup
from caligo_simulator.protocol.verification import TAG_BITS
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.physics import claims
from caligo.physics.claims import Counts
from caligo.physics.efficiency import FRAME_SIZES, PAYLOADS
from caligo.physics.finite_key import design_qber
from caligo.physics.prediction import Prediction, expected_leakage_rate, removed_rounds
from caligo.results import ROW_DTYPE, ProtocolOutcome, Reason, ResultRows, count, metric
from caligo.space import PRESETS, SYMBOLS, ExplorationSample, Space, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec

SAMPLES = 1000
POINTS = 20
SEED = 2
LEAKAGE_ERROR = 0.06
DROPPED_FRAMES = 0.02
PHYSICS = PhysicsSpec()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition", choices=("alice", "bob"), default="alice")
    arguments = parser.parse_args()
    protocol = ProtocolSpec(partition=arguments.partition)
    _, design = LHSSampler(Space(PRESETS["cliff"]), SEED, SAMPLES).rows(0, SAMPLES)
    with Simulator(arguments.workers, 2**20, "qber-agreement") as simulator:
        # A Bob who can keep every qubit leaves no key, so that nothing is decoded: the QBER is measured before.
        hopeless = design.copy()
        hopeless[:, [SYMBOLS.index("r"), SYMBOLS.index("nu")]] = 1.0, 0.0  # log10 nu
        rows = simulate(simulator, list(enumerate(hopeless)), protocol)
        z = z_scores(rows)
        chosen = spread_over_the_cliff(design)
        points = [
            compare(row, protocol) for row in simulate(simulator, [(int(j), design[j]) for j in chosen], protocol)
        ]

    error_of_mean, error_of_sd = 1 / math.sqrt(len(z)), 1 / math.sqrt(2 * len(z))
    mean, sd = float(z.mean()), float(z.std(ddof=1))
    unbiased = abs(mean) < 3 * error_of_mean and abs(sd - 1) < 3 * error_of_sd
    agreeing = sum(point["agrees"] for point in points)
    print(f"z-scores of {len(z)} measured QBERs: mean {mean:+.3f} +- {error_of_mean:.3f}, "
          f"standard deviation {sd:.3f} +- {error_of_sd:.3f}")  # fmt: skip
    for strategy in Strategy:
        part = z[rows["inputs"][measured(rows)][:, 8] == strategy]
        print(f"  {strategy.name.lower():8s} {len(part):4d}: {part.mean():+.3f}, {part.std(ddof=1):.3f}")
    print("\nindex strategy       N     QBER   margin  predicted      within  |    key bits   predicted"
          "               within  outcome")  # fmt: skip
    for p in points:
        print(f"{p['index']:5d} {p['strategy']:8s} {p['pairs']:7.1e} {p['qber']:8.4f} {p['margin']:8.4f} "
              f"{p['predicted_margin']:8.4f} {p['low']:7.3f} {p['high']:7.3f} | {p['key_length']:11d} "
              f"{p['predicted_key_length']:11d} {p['least_key']:9d} {p['most_key']:9d}  {p['outcome']}"
              f"{'' if p['agrees'] else '  DISAGREES'}")  # fmt: skip
    baseline = sum(p["strategy"] == "baseline" and p["margin"] > 0 for p in points)
    lost = sum(p["lost"] for p in points)
    print(f"{agreeing} of {len(points)} points agree; "
          f"{lost} of {baseline} runs of the baseline with a positive margin lost a frame")  # fmt: skip
    if arguments.json:
        print(json.dumps({
            "name": "qber_agreement", "value": sd, "unit": "standard deviation of z-scores", "peer": "closed form",
            "peer_value": 1.0, "ratio": sd, "mean": mean, "samples": len(z), "points": len(points),
            "points_agreeing": agreeing, "runs_lost": lost, "baseline_runs": baseline,
        }))  # fmt: skip
    return 0 if unbiased and agreeing == len(points) else 1


def simulate(simulator: Simulator, design: list[DesignRow], protocol: ProtocolSpec) -> ResultRows:
    """All rows, by index."""
    setup = Setup("qber-agreement", SEED, Phase.LHS, PHYSICS, protocol)
    rows = np.concatenate(list(simulator.simulate(setup, design)))
    assert rows.dtype == ROW_DTYPE
    return rows[np.argsort(rows["index"])]


def measured(rows: ResultRows) -> np.ndarray:
    """Rows in which the error rate was measured on at least 100 bits."""
    return bits_measured(rows) >= 100


def bits_measured(rows: ResultRows) -> np.ndarray:
    """In half of the calibration slots of the baseline the bases agree; the blind strategy's rate is that of I_C."""
    baseline = rows["inputs"][:, 8] == Strategy.BASELINE
    return np.where(baseline, count(rows, "test_bits") / 2, count(rows, "sifted"))


def z_scores(rows: ResultRows) -> np.ndarray:
    """Measured QBER minus closed form, in standard deviations of the binomial."""
    kept = rows[measured(rows)]
    expected = expect(kept["inputs"], PHYSICS, ProtocolSpec()).qber
    return (metric(kept, "qber") - expected) / np.sqrt(expected * (1 - expected) / bits_measured(kept))


def spread_over_the_cliff(design: np.ndarray) -> np.ndarray:
    """Rows nearest to `POINTS` equally spaced margins, half of each strategy, with some frames each."""
    predicted = expect(design, PHYSICS, ProtocolSpec())
    margins = np.where(predicted.reconciled < 4 * PAYLOADS[0], np.inf, predicted.margin)
    chosen: list[int] = []
    for j, target in enumerate(np.linspace(-0.15, 0.25, POINTS)):
        distance = np.abs(margins - target) + 10.0 * (design[:, 8] != j % 2)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return np.array(chosen)


def compare(row: np.void, protocol: ProtocolSpec) -> dict[str, Any]:
    """One point against its prediction and the prediction's uncertainty."""
    s = ExplorationSample.inflate(int(row["index"]), row["inputs"])
    p = expect(row["inputs"], PHYSICS, protocol)
    low, least = ends(s, p, protocol, -1)
    high, most = ends(s, p, protocol, +1)
    one = np.array([row])
    values = {name: float(metric(one, name)[0]) for name in ("qber", "margin")}
    key = int(count(one, "key_length")[0])
    outcome = ProtocolOutcome(int(row["outcome"]))
    is_lost = Reason(int(row["reason"])) is Reason.FRAME_LOST
    # What the claim leaves: the key, or what would have been one had no frame been lost.
    secret = math.floor(values["margin"] * int(count(one, "reconciled")[0])) if is_lost else key
    return {
        "index": s.index, "strategy": s.strategy.name.lower(), "pairs": s.N, "outcome": outcome.name.lower(),
        **values, "predicted_margin": float(p.margin), "low": low, "high": high,
        "key_length": key, "predicted_key_length": max(0, math.floor(p.margin * p.reconciled)),
        "least_key": least, "most_key": most, "lost": is_lost,
        "agrees": least <= secret <= most and (outcome is ProtocolOutcome.SUCCESS) == (key > 0),
    }  # fmt: skip


def ends(s: ExplorationSample, p: Prediction, protocol: ProtocolSpec, side: int) -> tuple[float, int]:
    """The margin and key bits at the lower (-1) or upper (+1) end of the stated uncertainty.

    More detections can mean less key: what they leave over beyond whole frames is charged where Bob names the sets.
    """
    deviations = range(-3, 4)
    found = [at(s, p, protocol, side, more, shorter) for more in deviations for shorter in range(4)]
    secret, m = min(found) if side < 0 else max(found)
    return (secret / m if m else -1.0), max(0, math.floor(secret))


def at(
    s: ExplorationSample, p: Prediction, protocol: ProtocolSpec, side: int, more: int, shorter: int
) -> tuple[float, float]:
    """Key bits, unrounded, and bits of each string in whole frames, with detections and the shorter of the two strings
    so many standard deviations off; 0 of each where no frame is filled."""
    is_baseline = s.strategy is Strategy.BASELINE
    detected = p.detected + more * math.sqrt(p.detected)
    slots = protocol.test_fraction * detected if is_baseline else 0.0
    key_rounds = detected - slots
    length = 0.5 * key_rounds - shorter * 0.5 * math.sqrt(key_rounds)
    q = rate = p.qber
    failure = 0.5 * protocol.reconciliation_failure
    if is_baseline:
        k = 0.5 * protocol.test_fraction * p.detected
        seen = max(0.0, q - side * 3 * math.sqrt(q * (1 - q) / k))
        rate = design_qber(seen, length, k, failure, protocol.pe_penalty)
    dropped = DROPPED_FRAMES if side < 0 and not is_baseline else 0.0
    found = [(0.0, 0.0)] if length < PAYLOADS[0] else []
    for frame_size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        frames = math.floor(length / payload)
        if frames:
            cut = frames * payload
            kept = cut * (1.0 - dropped)
            expected = expected_leakage_rate(q, rate, s.strategy, frames, failure, frame_size)
            tags = TAG_BITS * (1.0 if is_baseline else frames)
            removed = removed_rounds(protocol.partition, key_rounds, cut, kept)
            leak = expected * (1.0 - side * LEAKAGE_ERROR) * kept + tags
            counts = Counts(detected, key_rounds, cut, removed, leak)
            bits = claims.claim(PHYSICS.claim).key_bits(counts, p.r_eff, s.nu, PHYSICS.epsilon, protocol.partition)
            found.append((bits.secret, kept))
    return max(found)  # the simulator takes the frame size that leaves more


if __name__ == "__main__":
    sys.exit(main())
