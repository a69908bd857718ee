"""f(Q) = leak / (payload h(Q)) of both strategies on the real codes, against the table of the design.

The design's table is the Gaussian (observed-channel) approximation for 4,096 bits (Martinez-Mateo et al.
2012, Appendix A), which knows neither graphs nor decoders. The tag is not counted. Every plan is made for the
true Q; frames that fail are dropped, as in the protocol.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from caligo_simulator.protocol.reconciliation import Plan, baseline_plan, blind_plan, reconcile

DESIGN = {
    0.005: (1.66, 1.53),
    0.010: (1.46, 1.38),
    0.015: (1.33, 1.26),
    0.020: (1.26, 1.20),
    0.025: (1.22, 1.15),
    0.030: (1.215, 1.13),
    0.040: (1.19, 1.12),
    0.050: (1.16, 1.10),
    0.060: (1.14, 1.09),
    0.080: (1.12, 1.07),
    0.100: (1.10, 1.06),
}
"""Q: (baseline, blind)."""


def measure(plan: Plan | None, qber: float, frames: int) -> dict[str, Any] | None:
    """Efficiency and frame error rate at one error rate, None where no code serves it."""
    if plan is None:
        return None
    rng = np.random.default_rng(round(1e5 * qber))
    alice = rng.integers(0, 2, (frames, plan.payload), dtype=np.uint8)
    bob = alice ^ (rng.random(alice.shape, dtype=np.float32) < qber).astype(np.uint8)
    result = reconcile(plan, alice, bob, rng)
    return {
        "rate": plan.code.rate,
        "punctured": plan.punctured,
        "f": result.efficiency(qber, with_tag=False),
        "f_with_tag": result.efficiency(qber),
        "frame_error_rate": result.frames_failed / frames,
        "attempts": float(result.attempts.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--frames", type=int, default=2000)
    arguments = parser.parse_args()
    points = [
        {
            "qber": q,
            "baseline": measure(baseline_plan(q), q, arguments.frames),
            "blind": measure(blind_plan(q), q, arguments.frames),
            "design": design,
        }
        for q, design in DESIGN.items()
    ]
    print("     Q |  baseline: rate    p       f  design     FER |     blind: rate       f  design     FER  attempts")
    for point in points:
        cells = []
        for strategy, design in zip(("baseline", "blind"), point["design"], strict=True):
            m = point[strategy]
            if m is None:
                cells.append("no code of the pool serves this error rate")
            elif strategy == "baseline":
                cells.append(
                    f"{m['rate']:15.2f} {m['punctured']:4d} {m['f']:7.3f} {design:7.3f} {m['frame_error_rate']:7.4f}"
                )
            else:
                cells.append(
                    f"{m['rate']:15.2f} {m['f']:7.3f} {design:7.3f} {m['frame_error_rate']:7.4f} {m['attempts']:9.2f}"
                )
        print(f"{point['qber']:6.3f} | " + " | ".join(cells))
    if arguments.json:
        excess = [
            (point[strategy]["f"] - design, strategy, point["qber"], point[strategy]["f"], design)
            for point in points
            for strategy, design in zip(("baseline", "blind"), point["design"], strict=True)
            if point[strategy] is not None
        ]
        _, strategy, qber, value, design = max(excess)
        print(
            json.dumps(
                {
                    "name": "reconciliation_efficiency",
                    "value": value,
                    "unit": f"f, {strategy} at Q = {qber}",
                    "peer": "Gaussian approximation of the design",
                    "peer_value": design,
                    "ratio": value / design,
                    "points": points,
                }
            )
        )


if __name__ == "__main__":
    main()
