"""Whether a key is as likely as not where `caligo threshold` says so: brute simulation at ten devices.

The surrogate has learned 50 simulations of a Latin hypercube (`benchmarks.cliff_rows`, the device that it is told).
Devices are drawn from the whole `cliff` space, and the fidelity is asked for at which a key has a probability of 50 %;
one with exactly one such value is simulated there, each run with a seed of its own. The peer is the closed form alone,
whose own answer stands beside; the aim is a share of keys between 0.45 and 0.55 at every device, up to sampling error.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from benchmarks import cliff_finding, cliff_rows
from benchmarks.cliff_rows import SPACE, SPEC
from caligo import logs, thresholds
from caligo.closed_form import expected
from caligo.phases import Phase
from caligo.results import succeeded
from caligo.space import STRATEGY_COLUMN, SYMBOLS
from caligo.thresholds import Threshold

FIDELITY = SYMBOLS.index("F")
FIRST_SEED = 777


def threshold(landscape: cliff_finding.EfficiencyLandscape, device: NDArray[np.float32]) -> Threshold:
    """Where along the fidelity a key is as likely as not, for the device's strategy."""
    asking = thresholds.steps(SPACE, FIDELITY, device, (0.5,))
    rows = next(asking)
    while True:
        found = landscape.predict(rows)
        own = np.stack([found.mean, found.sd, found.key], axis=1).astype(np.float32)
        try:
            rows = asking.send(np.concatenate([own, expected(rows, SPEC)], axis=1))
        except StopIteration as end:
            return next(one for one in end.value if one.strategy == round(device[STRATEGY_COLUMN]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--runs", type=int, default=100, help="at each")
    arguments = parser.parse_args()
    logs.configure("warning")
    landscape = cliff_finding.new_landscape(0)
    landscape.observe(Phase.LHS, cliff_rows.latin_hypercube(1, 50))
    cliff_finding.fit(landscape)
    draw = np.random.default_rng(5)
    error = 0.5 / np.sqrt(arguments.runs)
    shares: list[float] = []
    while len(shares) < arguments.devices:
        device = SPACE.from_unit(draw.random((1, len(SYMBOLS) + 1)))[0]
        device[STRATEGY_COLUMN] = draw.integers(2)
        found = threshold(landscape, device)
        if len(found.crossings) != 1:
            continue
        (crossing,) = found.crossings
        device[FIDELITY] = crossing.value
        index, seed = np.arange(arguments.runs), FIRST_SEED + len(shares)
        rows = cliff_rows.simulate(np.tile(device, (arguments.runs, 1)), index, seed, Phase.LHS)
        shares.append(float(np.mean(succeeded(rows))))
        theory = ", ".join(f"{value:.4f}" for value in found.closed_form)
        print(
            f"{found.strategy.name.lower():8s} F = {crossing.value:.4f} ({crossing.low:.4f} to {crossing.high:.4f}), "
            f"closed form {theory}: a key in {shares[-1]:.2f} +- {error:.2f} of the runs",
            flush=True,
        )
    off = np.abs(np.array(shares) - 0.5)
    inside = int(np.sum(off <= 0.05 + 2 * error))
    print(f"mean {np.mean(shares):.3f}; within 0.45 to 0.55 up to two standard errors at {inside} of {len(shares)}")
    if arguments.json:
        print(json.dumps({
            "name": "thresholds", "value": float(np.mean(off)), "unit": "mean distance from a key as likely as not",
            "peer": "sampling error alone", "peer_value": float(error * np.sqrt(2 / np.pi)),
            "ratio": float(np.mean(off) / (error * np.sqrt(2 / np.pi))), "shares": shares, "inside": inside,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
