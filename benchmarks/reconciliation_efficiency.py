"""f(Q) = leak / (payload h(Q)) of both strategies and frame sizes on the real codes, against the table of the design.

The design's table is the Gaussian (observed-channel) approximation for 4,096 and 65,536 bits (Martinez-Mateo et al.
2012, Appendix A), which knows neither graphs nor decoders. The tag is not counted. Every plan is made for the true Q;
frames that fail are dropped, as in the protocol.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from caligo_simulator.protocol.reconciliation import Plan, baseline_plan, blind_plan, reconcile

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QBER = (0.005, 0.010, 0.015, 0.020, 0.025, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100)
DESIGN = {
    (4096, "baseline"): (1.66, 1.46, 1.33, 1.26, 1.22, 1.215, 1.19, 1.16, 1.14, 1.12, 1.10),
    (4096, "blind"): (1.53, 1.38, 1.26, 1.20, 1.15, 1.13, 1.12, 1.10, 1.09, 1.07, 1.06),
    (65536, "baseline"): (1.32, 1.26, 1.18, 1.13, None, 1.09, 1.09, 1.08, 1.06, 1.06, 1.05),
    (65536, "blind"): (1.32, 1.26, 1.18, 1.13, None, 1.09, 1.09, 1.08, 1.06, 1.06, 1.05),
}
AIM = 0.08
"""Above the design's values."""
PLANS = {"baseline": baseline_plan, "blind": blind_plan}


def measure(plan: Plan, qber: float, frames: int) -> dict[str, Any]:
    """Efficiency and frame error rate at one error rate."""
    rng = np.random.default_rng(round(1e5 * qber))
    alice = rng.integers(0, 2, (frames, plan.payload), dtype=np.uint8)
    bob = alice ^ (rng.random(alice.shape, dtype=np.float32) < qber).astype(np.uint8)
    result = reconcile(plan, alice, bob, rng)
    return {
        "qber": qber,
        "rate": plan.code.rate,
        "punctured": plan.punctured,
        "f": result.efficiency(qber, with_tag=False),
        "f_with_tag": result.efficiency(qber),
        "frame_error_rate": result.frames_failed / frames,
        "attempts": float(result.attempts.mean()),
    }


def figure(curves: dict[tuple[int, str], list[dict[str, Any]]], path: Path) -> None:
    """f over Q: measured as lines, the design's values as open circles."""
    axes: Any
    canvas, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, n in zip(axes, (4096, 65536), strict=True):
        for strategy, colour in (("baseline", "C0"), ("blind", "C1")):
            points = curves[n, strategy]
            axis.plot([p["qber"] for p in points], [p["f"] for p in points], "o-", color=colour, ms=4, label=strategy)
            if n == 4096 or strategy == "blind":
                line = colour if n == 4096 else "0.4"
                design = [p["design"] or np.nan for p in points]
                axis.plot(QBER, design, "o", mfc="none", color=line, ms=5, label=f"ideal code, {strategy}")
        axis.set(xscale="log", xlabel="QBER", title=f"{n:,} bits")
        axis.set_xticks([0.005, 0.01, 0.02, 0.05, 0.1], ["0.5 %", "1 %", "2 %", "5 %", "10 %"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("f = leak / (payload h(Q))")
    canvas.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--frames", type=int, default=2000, help="of 4,096 bits; a tenth as many of 65,536")
    parser.add_argument("--figure", type=Path, help="file for a picture of f over Q")
    arguments = parser.parse_args()
    curves = {}
    for (n, strategy), design in DESIGN.items():
        print(f"\n{n:,} bits, {strategy}\n     Q   rate      p       f  design  excess     FER  attempts")
        frames = arguments.frames if n == 4096 else arguments.frames // 10
        curves[n, strategy] = []
        for q, ideal in zip(QBER, design, strict=True):
            plan = PLANS[strategy](q, n)
            assert plan is not None, "the pool serves all these error rates"
            m = measure(plan, q, frames)
            curves[n, strategy].append(m | {"design": ideal})
            compared = f"{ideal:7.3f} {m['f'] - ideal:7.3f}" if ideal else " " * 15
            print(
                f"{q:6.3f} {m['rate']:6.2f} {m['punctured']:6d} {m['f']:7.3f} {compared} "
                f"{m['frame_error_rate']:7.4f} {m['attempts']:9.2f}",
                flush=True,
            )
    if arguments.figure:
        figure(curves, arguments.figure)
    if arguments.json:
        worst = max(
            (point | {"case": f"{strategy}, {n} bits"} for (n, strategy), points in curves.items() for point in points),
            key=lambda point: point["f"] - point["design"] if point["design"] else 0.0,
        )
        print(
            json.dumps(
                {
                    "name": "reconciliation_efficiency",
                    "value": worst["f"],
                    "unit": f"f, {worst['case']}, Q = {worst['qber']}: the furthest from the aim",
                    "peer": "Gaussian approximation of the design",
                    "peer_value": worst["design"],
                    "ratio": worst["f"] / worst["design"],
                    "aim_excess": AIM,
                    "curves": {f"{strategy}_{n}": points for (n, strategy), points in curves.items()},
                }
            )
        )


if __name__ == "__main__":
    main()
