"""Pairs a second that one core sifts, against NumPy.

Both get segments of 2^20 pairs and take turns: they count detections, calibration slots and errors, and hold on to
rounds outside the slots, all of them or a share, as of a long run. NumPy does it with masks, and draws the share from
SFC64, where the sifter's is a function of the key and the round's number. CPU time of one thread. `--earlier FILE`
compares with the sifter of an earlier commit, which opened a random test set and held leading rounds only, until it had
enough (`git show 3d1d178:services/simulator/caligo_simulator/protocol/sifting.py`): it stands beside "all" while it
still holds, and beside the shares once it has enough.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from caligo_simulator.epr.source import NO_CLICK, BobBases, Segment, segment_bytes
from caligo_simulator.epr.statistical import StatisticalSource
from caligo_simulator.protocol.sifting import Holding, Sifter

from benchmarks.epr_throughput import LINKS, PAIRS, RULES, SLOTS, earlier_module, seconds

ROUNDS = 21
SHARES = {"all": None, "1/16": 2**60, "1/128": 2**57}
"""Of the rounds that are held, of 2^64."""


def numpy_sift(
    segment: Segment, is_slot: np.ndarray, share: int | None, rng: np.random.Generator
) -> tuple[list[int], np.ndarray]:
    """The counts of `Sifted`, and the rounds held."""
    bit, alice, bob, seen = segment
    clicked = seen != NO_CLICK
    equal = alice == bob
    slot, key = clicked & is_slot, clicked & ~is_slot
    matched = key & equal
    wrong = bit != seen
    counts = [clicked, slot, slot & equal, slot & equal & wrong, matched, matched & wrong, key & ~equal]
    if share is not None:
        key &= rng.random(PAIRS, np.float32) < np.float32(share * 2.0**-64)
    return [int(np.count_nonzero(rounds)) for rounds in counts], np.stack([array[key] for array in segment])


def measure(efficiency: float, rule: str, name: str, earlier: Any) -> dict[str, Any]:
    """One link, rule of Bob's bases and share of the rounds held."""
    share = SHARES[name]
    segment = Segment.over(np.empty(segment_bytes(PAIRS), np.uint8), PAIRS)
    StatisticalSource().fill(segment, LINKS[efficiency], RULES[rule], 1, 0)
    holding, is_slot = Holding(share, PAIRS + 1), BobBases(None, SLOTS).is_slot(0, PAIRS)
    rng = np.random.Generator(np.random.SFC64(1))

    sifter = Sifter(SLOTS, holding, 1)
    sifter.add(segment)
    found = sifter.finish()
    counts, held = numpy_sift(segment, is_slot, share, rng)
    assert counts == [
        found.detected, found.slots, found.slots_matched, found.slot_errors,
        found.matched, found.errors, found.unmatched,
    ]  # fmt: skip
    assert share is not None or np.array_equal(np.stack(found.held), held)
    # What is timed is made anew each time, since a sifter fills up.
    makers: dict[str, Callable[[], Callable[[Segment], object]]] = {
        "ours": lambda: Sifter(SLOTS, holding, 1).add,
        "numpy": lambda: lambda segment: numpy_sift(segment, is_slot, share, rng),
    }
    if earlier is not None:
        full = earlier.Sifter(1, 0.1, 1)
        full.add(segment)
        makers["earlier"] = lambda: earlier.Sifter(PAIRS, 0.1, 1).add if share is None else full.add
    times = []
    for _ in range(ROUNDS):
        calls = {peer: make() for peer, make in makers.items()}
        times.append({peer: seconds(lambda: call(segment)) for peer, call in calls.items()})  # noqa: B023 - called at once
    return {
        "efficiency": efficiency,
        "rule": rule,
        "held": name,
        "pairs_per_second": PAIRS / statistics.median(t["ours"] for t in times),
        "ratio": {peer: statistics.median(t[peer] / t["ours"] for t in times) for peer in makers if peer != "ours"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--earlier", type=Path, help="sifting.py of an earlier commit")
    arguments = parser.parse_args()
    earlier = earlier_module(arguments.earlier) if arguments.earlier else None
    points = [measure(eta, rule, name, earlier) for eta in LINKS for rule in RULES for name in SHARES]
    print("  eta  partition   held  Mpairs/s" + "".join(f"  times {peer}" for peer in points[0]["ratio"]))
    for p in points:
        print(f"{p['efficiency']:5.2f} {p['rule']:>10s} {p['held']:>6s} {1e-6 * p['pairs_per_second']:9.0f}"
              + "".join(f"{ratio:{8 + len(peer)}.2f}" for peer, ratio in p["ratio"].items()))  # fmt: skip
    if arguments.json:
        worst = min(points, key=lambda p: p["ratio"]["numpy"])
        print(json.dumps({
            "name": "sifting", "value": worst["pairs_per_second"], "unit": "pairs/s per core", "peer": "NumPy masks",
            "peer_value": worst["pairs_per_second"] / worst["ratio"]["numpy"], "ratio": worst["ratio"]["numpy"],
            "points": points,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
