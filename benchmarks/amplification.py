"""Seconds to hash a string to half its length with a Toeplitz matrix, against `cryptomite`.

Same strings, same seeds, one core, same output, compared bit for bit. Each side gets its arguments in the form it
wants, made beforehand: we NumPy arrays, cryptomite lists. It convolves by a number-theoretic transform, exact without
a bound on rounding, of a power of two of points; padding its lists and turning them into C++ vectors is inside its
call and so inside its time. A run hashes three strings, Alice's two under seeds of their own and Bob's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from importlib.metadata import version
from typing import Any

import cryptomite
import numpy as np
from caligo_simulator.protocol.amplification import amplify, draw_seed

from benchmarks.feasibility import seconds

PAIRS = {10_000: 31, 100_000: 11, 1_000_000: 5}
"""Bits of the string: pairs of measurements."""


def measure(bits: int, pairs: int) -> dict[str, Any]:
    rng = np.random.default_rng(bits)
    length = bits // 2
    string = rng.integers(0, 2, bits, dtype=np.uint8)
    seed = draw_seed(bits, length, rng)
    extractor = cryptomite.Toeplitz(bits, length)
    # cryptomite takes the seed as first column, then first row backwards.
    their_string, their_seed = string.tolist(), np.concatenate([seed[bits - 1 :], seed[: bits - 1]]).tolist()
    assert amplify(string, length, seed).tolist() == list(extractor.extract(their_string, their_seed))
    ours, peer = zip(
        *(
            (
                seconds(lambda: amplify(string, length, seed)),
                seconds(lambda: extractor.extract(their_string, their_seed)),
            )
            for _ in range(pairs)
        ),
        strict=True,
    )
    return {
        "bits": bits,
        "length": length,
        "seconds": statistics.median(ours),
        "peer_seconds": statistics.median(peer),
        "mbit_s": 1e-6 * bits / statistics.median(ours),
        "peer_mbit_s": 1e-6 * bits / statistics.median(peer),
        "ratio": statistics.median(p / o for o, p in zip(ours, peer, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    points = [measure(bits, pairs) for bits, pairs in PAIRS.items()]
    print("   bits   length        ms   cryptomite ms   Mbit/s   cryptomite   ratio")
    for p in points:
        print(
            f"{p['bits']:7d} {p['length']:8d} {1e3 * p['seconds']:9.2f} "
            f"{1e3 * p['peer_seconds']:15.2f} {p['mbit_s']:8.2f} {p['peer_mbit_s']:12.3f} {p['ratio']:7.1f}"
        )
    if arguments.json:
        worst = min(points, key=lambda p: p["ratio"])
        print(
            json.dumps(
                {
                    "name": "amplification",
                    "value": worst["mbit_s"],
                    "unit": "Mbit/s per core",
                    "peer": f"cryptomite {version('cryptomite')} Toeplitz",
                    "peer_value": worst["peer_mbit_s"],
                    "ratio": worst["ratio"],
                    "points": points,
                }
            )
        )


if __name__ == "__main__":
    main()
