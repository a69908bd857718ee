"""What a device costs the statistical source: rounds a second with each effect, beside the ideal link.

    python -m benchmarks.device_throughput [--json]

Claim: with an effect on, the source makes no less than a third of the rounds that it makes without. One process; for
each link the effects and the ideal device take turns, and the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import BobBases, Link, Segment, segment_bytes

from caligo.physics.device import Device

ROUNDS = 2**23
TURNS = 7
EFFICIENCIES = (0.01, 0.1, 0.5, 0.9)
DEVICES = {
    "several pairs": Device(mean_pairs=0.01, leaking_pairs=0.01, alice_efficiency=0.3),
    "drift": Device(drift="sine", drift_amplitude=0.1, drift_period=1e8),
    "x_error": Device(x_error=0.01),
    "dead time": Device(dead_rounds=4),
    "afterpulses": Device(afterpulse=0.02, afterpulse_decay=2.0),
    "dead time, afterpulses": Device(dead_rounds=4, afterpulse=0.02, afterpulse_decay=2.0),
}


def seconds(segment: Segment, link: Link) -> float:
    start = time.perf_counter()
    make_source("statistical").fill(segment, link, BobBases(0, 6554), 1, 0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    arguments = parser.parse_args()
    segment = Segment.over(np.empty(segment_bytes(ROUNDS), np.uint8), ROUNDS)
    results = []
    for efficiency in EFFICIENCIES:
        links = {
            name: Link(0.98, efficiency, 0.01, 1e-6, "fidelity", device, ROUNDS)
            for name, device in {"ideal": None, **DEVICES}.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in links}
        for link in links.values():
            seconds(segment, link)
        for _ in range(TURNS):
            for name, link in links.items():
                taken[name].append(seconds(segment, link))
        for name in links:
            ratios = [ideal / own for ideal, own in zip(taken["ideal"], taken[name], strict=True)]
            rate = ROUNDS / statistics.median(taken[name])
            results.append(
                {"eta": efficiency, "device": name, "rounds_a_second": rate, "ratio": statistics.median(ratios)}
            )
    if arguments.json:
        print(json.dumps({"benchmark": "device_throughput", "rounds": ROUNDS, "results": results}))
        return
    print("rounds a second, and their ratio to the ideal device's")
    for row in results:
        print(f"eta {row['eta']:<5} {row['device']:<24} {row['rounds_a_second']:9.2e}  {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
