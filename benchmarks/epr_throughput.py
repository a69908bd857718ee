"""Pairs a second that the statistical source makes on one core, against `stim` and against NumPy.

All three make one segment, 2^20 pairs with two bits and noise of the same strength, and take turns. Neither peer does
all of the work:

* `stim` samples noisy Bell pairs (depolarised to the fidelity, a readout flip for the detector error, a heralded
  erasure for the loss) as one byte a bit, in its quickest form: 64 pairs a circuit, many shots. A circuit of stim has
  no bases drawn shot by shot, so all pairs are measured in Z, and it has no dark counts. It gives three bytes a pair.
* NumPy draws the same joint distribution in the same four int8 arrays, from SFC64, its quickest generator, with
  uniforms of 24 bits where the source has 61, in pieces that stay in the cache. It is not counter-based, so no part
  of it can be made again alone.

Bob's bases are coins where he makes the partition, and one basis but for the calibration slots where Alice's bases are
it. Both rules are timed, and the slower is the one that is compared. `--earlier FILE` compares with the source of an
earlier commit as well, which knew no rule: `git show 3d1d178:services/simulator/caligo_simulator/epr/statistical.py`.

What bounds the source is printed with it: the time that its random numbers alone take where every round is drawn, as
many Philox blocks as it uses, and the time to fill as many bytes with a constant.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stim
from caligo_simulator.epr.source import NO_CLICK, BobBases, Link, Segment, segment_bytes
from caligo_simulator.epr.statistical import StatisticalSource
from caligo_simulator.philox import fill_blocks

PAIRS = 2**20
PAIRS_PER_CIRCUIT = 64
NUMPY_PIECE = 2**15
ROUNDS = 15
AIM_PAIRS_PER_SECOND = 1e8
AIM_RATIO = 5
LINKS = {eta: Link(0.97, eta, 0.01, 1e-6, "fidelity") for eta in (1.0, 0.5, 0.1, 0.01)}
"""By efficiency. Where few rounds click, the last of these, the source jumps from click to click."""
SLOTS = BobBases.slots_of(0.1)
RULES = {"alice": BobBases(0, SLOTS), "bob": BobBases(None, SLOTS)}
"""By who makes the partition."""


def seconds(call: Callable[[], object]) -> float:
    """CPU time of this thread, which other load stretches less; all of these run in one thread."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def bell_pairs(link: Link) -> stim.CompiledMeasurementSampler:
    alice, bob = (" ".join(map(str, range(first, 2 * PAIRS_PER_CIRCUIT, 2))) for first in (0, 1))
    both = " ".join(map(str, range(2 * PAIRS_PER_CIRCUIT)))
    circuit = f"""
        H {alice}
        CX {both}
        DEPOLARIZE1({1 - link.fidelity}) {bob}
        HERALDED_ERASE({1 - link.efficiency}) {bob}
        X_ERROR({link.detector_error}) {bob}
        M {both}
    """
    return stim.Circuit(circuit).compile_sampler(seed=1)


def numpy_fill(segment: Segment, link: Link, rng: np.random.Generator) -> None:
    click, qber = np.float32(link.click_probability()), np.float32(link.qber())
    for first in range(0, PAIRS, NUMPY_PIECE):
        bit, alice, bob, result = (array[first : first + NUMPY_PIECE] for array in segment)
        random = np.frombuffer(rng.bytes(NUMPY_PIECE), np.int8)
        np.bitwise_and(random, 1, out=bit)
        np.bitwise_and(random >> 1, 1, out=alice)
        np.bitwise_and(random >> 2, 1, out=bob)
        unit = rng.random(NUMPY_PIECE, np.float32)
        wrong = unit < np.where(alice == bob, click * qber, click * np.float32(0.5))
        result[:] = np.where(unit < click, bit ^ wrong, NO_CLICK)


def rates(segment: Segment) -> tuple[float, float]:
    """Share of rounds with a click; error rate of those with equal bases."""
    clicked = segment.bob_click != NO_CLICK
    matched = clicked & (segment.alice_basis == segment.bob_basis)
    return float(clicked.mean()), float((segment.alice_bit != segment.bob_click)[matched].mean())


def check(link: Link, ours: Segment, numpys: Segment, stims: np.ndarray) -> None:
    """All three sampled the same noise, within five standard deviations."""
    erased, bits = stims[:, :PAIRS_PER_CIRCUIT], stims[:, PAIRS_PER_CIRCUIT:]
    kept = ~erased
    stim_rates = float(kept.mean()), float((bits[:, ::2] != bits[:, 1::2])[kept].mean())
    click, qber = link.click_probability(), link.qber()
    # Half of the clicked rounds of the other two have equal bases.
    error = np.sqrt(qber * (1 - qber) / (PAIRS * click / 2))
    for found in (rates(ours), rates(numpys), stim_rates):
        assert abs(found[0] - click) <= 5 * np.sqrt(click * (1 - click) / PAIRS) + link.dark_count_prob * 2
        assert abs(found[1] - qber) <= 5 * error + 1e-3 * qber


def bounds() -> tuple[float, float]:
    """Seconds to make the Philox blocks of a segment, and to write its bytes; medians."""
    zero, words = np.uint64(0), np.empty(1024, np.uint64)
    segment = np.empty(segment_bytes(PAIRS), np.uint8)

    def random() -> None:
        for first in range(0, PAIRS, 4 * words.size):
            fill_blocks(words, np.uint64(first // 8), zero, zero, zero)

    random()
    times = [(seconds(random), seconds(lambda: segment.fill(2))) for _ in range(ROUNDS)]
    philox, write = (statistics.median(values) for values in zip(*times, strict=True))
    return philox, write


def earlier_module(path: Path) -> Any:
    """A module of an earlier commit that fits what it imports from today's."""
    spec = importlib.util.spec_from_file_location(f"earlier_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def measure(link: Link, earlier: Any) -> dict[str, Any]:
    """Pairs a second under either rule, and how many times those of each peer that is, medians of paired ratios."""
    source = StatisticalSource()
    ours, other = (Segment.over(np.empty(segment_bytes(PAIRS), np.uint8), PAIRS) for _ in range(2))
    rng = np.random.Generator(np.random.SFC64(1))
    sampler = bell_pairs(link)
    shots = PAIRS // PAIRS_PER_CIRCUIT
    numpy_fill(other, link, rng)
    source.fill(ours, link, RULES["bob"], 1, 0)
    check(link, ours, other, sampler.sample(shots))
    source.fill(ours, link, RULES["alice"], 1, 0)
    check(link, ours, other, sampler.sample(shots))
    calls: dict[str, Callable[[int], object]] = {
        "alice": lambda key: source.fill(ours, link, RULES["alice"], key, 0),
        "bob": lambda key: source.fill(ours, link, RULES["bob"], key, 0),
        "stim": lambda _: sampler.sample(shots),
        "numpy": lambda _: numpy_fill(other, link, rng),
    }
    if earlier is not None:
        calls["earlier"] = lambda key: earlier.fill(other, link, key, 0)
        calls["earlier"](0)
    times = [{name: seconds(lambda: call(key)) for name, call in calls.items()} for key in range(ROUNDS)]  # noqa: B023
    rates = {name: PAIRS / statistics.median(t[name] for t in times) for name in calls}
    slower = min(RULES, key=lambda rule: rates[rule])
    peers = [name for name in calls if name not in RULES]
    return {
        "efficiency": link.efficiency,
        "click_probability": link.click_probability(),
        "slower": slower,
        "pairs_per_second": rates,
        "ratio": {peer: statistics.median(t[peer] / t[slower] for t in times) for peer in peers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--earlier", type=Path, help="statistical.py of an earlier commit")
    arguments = parser.parse_args()
    earlier = earlier_module(arguments.earlier).StatisticalSource() if arguments.earlier else None
    points = [measure(link, earlier) for link in LINKS.values()]
    print("Mpairs/s, and times each peer under the slower rule\n  eta  P_click     alice       bob | "
          + " | ".join(f"{peer:>8s}  times" for peer in points[0]["ratio"]))  # fmt: skip
    for p in points:
        mine = " ".join(f"{1e-6 * p['pairs_per_second'][rule]:9.1f}" for rule in RULES)
        peers = " | ".join(f"{1e-6 * p['pairs_per_second'][peer]:8.1f} {p['ratio'][peer]:6.2f}" for peer in p["ratio"])
        print(f"{p['efficiency']:5.2f} {p['click_probability']:8.4f} {mine} | {peers}")
    philox, write = bounds()
    slowest = min(points, key=lambda p: p["pairs_per_second"][p["slower"]])
    value = slowest["pairs_per_second"][slowest["slower"]]
    print(f"ns a pair: {1e9 / value:.2f}, of which random numbers {1e9 * philox / PAIRS:.2f}; "
          f"writing as many bytes takes {1e9 * write / PAIRS:.2f}")  # fmt: skip
    print(f"one core; aim: {1e-6 * AIM_PAIRS_PER_SECOND:.0f} Mpairs/s, {AIM_RATIO} times stim")
    if arguments.json:
        print(json.dumps({
            "name": "epr_throughput", "value": value, "unit": "pairs/s per core, the slower rule of Bob's bases",
            "peer": f"stim {stim.__version__}", "peer_value": slowest["pairs_per_second"]["stim"],
            "ratio": slowest["ratio"]["stim"], "aim": AIM_PAIRS_PER_SECOND, "aim_ratio": AIM_RATIO,
            "philox_seconds_per_pair": philox / PAIRS, "write_seconds_per_pair": write / PAIRS, "points": points,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
