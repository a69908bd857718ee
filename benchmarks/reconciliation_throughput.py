"""Decoded Mbit/s of one core (CPU time, single-threaded) against the product-sum decoder of PyPI `ldpc`.

Same code, same noise, same stopping rule (syndrome met, or 60 iterations) at Q = 2, 4, 6, 8 %. At each Q the
highest-rate code of the pool is taken that, unpunctured, still has frame error rates of at most 1e-2. The last column
is the decoder as the protocol uses it: fewer iterations, then a race over each frame that did not converge.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import ldpc
import numpy as np
import scipy.sparse as sp
from caligo_simulator.protocol.reconciliation import codes
from caligo_simulator.protocol.reconciliation.decoder import KNOWN, decode
from caligo_simulator.protocol.reconciliation.plans import error_rates

MAX_ITERATIONS = 60
HIGHEST_FRAME_ERROR_RATE = 1e-2


def measure(qber: float, frames: int, peer_frames: int) -> dict[str, Any]:
    """Throughput and frame error rate of both decoders at one error rate, modulated positions known."""
    rate = max(
        r for r, measured in error_rates(4096).items() if measured.at(np.array(0), qber) <= HIGHEST_FRAME_ERROR_RATE
    )
    code = codes.load(4096, rate)
    rng = np.random.default_rng(round(1e4 * qber))
    errors = (rng.random((frames, code.n)) < qber).astype(np.uint8)
    errors[:, code.modulated] = 0
    syndromes = code.syndromes(errors)
    reliability = np.full(code.n, np.log((1 - qber) / qber), np.float32)
    reliability[code.modulated] = KNOWN
    received = np.zeros_like(errors)
    decode(code, received[:16], syndromes[:16], reliability)
    start = time.process_time()
    found = decode(code, received, syndromes, reliability, max_iterations=MAX_ITERATIONS, retries=0)
    seconds = time.process_time() - start
    start = time.process_time()
    raced = decode(code, received, syndromes, reliability)
    raced_seconds = time.process_time() - start

    ones = np.ones(code.check_variables.size, np.uint8)
    matrix = sp.csr_matrix((ones, code.check_variables, code.check_start), shape=(code.m, code.n))
    channel = np.full(code.n, qber)
    channel[code.modulated] = 1 / (1 + np.exp(float(KNOWN)))
    peer = ldpc.BpDecoder(
        matrix,
        error_channel=channel.tolist(),
        max_iter=MAX_ITERATIONS,
        bp_method="product_sum",
        schedule="parallel",
    )
    start = time.process_time()
    peer_bits = np.array([peer.decode(syndrome).copy() for syndrome in syndromes[:peer_frames]])
    peer_seconds = time.process_time() - start
    ours = payload_rate(code, frames, seconds)
    theirs = payload_rate(code, peer_frames, peer_seconds)
    return {
        "qber": qber,
        "rate": rate,
        "mbit_s": ours,
        "peer_mbit_s": theirs,
        "ratio": ours / theirs,
        "failed_same_frames": int((found.bits[:peer_frames] != errors[:peer_frames]).any(axis=1).sum()),
        "peer_failed": int((peer_bits != errors[:peer_frames]).any(axis=1).sum()),
        "frame_error_rate": float((found.bits != errors).any(axis=1).mean()),
        "iterations": float(found.iterations.mean()),
        "mbit_s_with_race": payload_rate(code, frames, raced_seconds),
        "frame_error_rate_with_race": float((raced.bits != errors).any(axis=1).mean()),
    }


def payload_rate(code: codes.Code, frames: int, seconds: float) -> float:
    """Mbit of payload a second."""
    return frames * (code.n - code.modulated.size) / seconds / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--peer-frames", type=int, default=200)
    arguments = parser.parse_args()
    points = [measure(q, arguments.frames, arguments.peer_frames) for q in (0.02, 0.04, 0.06, 0.08)]
    print("    Q  rate   Mbit/s     ldpc   ratio   failed / ldpc, same frames   iterations   Mbit/s, failed with race")
    for p in points:
        print(
            f"{p['qber']:5.2f}  {p['rate']:.2f} {p['mbit_s']:8.2f} {p['peer_mbit_s']:8.3f} {p['ratio']:7.1f}"
            f"   {p['failed_same_frames']:4d} / {p['peer_failed']:<4d} of {arguments.peer_frames:<10d}"
            f" {p['iterations']:10.1f} {p['mbit_s_with_race']:10.2f} {p['frame_error_rate_with_race']:10.4f}"
        )
    if arguments.json:
        worst = min(points, key=lambda p: p["ratio"])
        print(
            json.dumps(
                {
                    "name": "reconciliation_throughput",
                    "value": worst["mbit_s"],
                    "unit": "Mbit/s per core",
                    "peer": f"ldpc {ldpc.__version__} BpDecoder product_sum",
                    "peer_value": worst["peer_mbit_s"],
                    "ratio": worst["ratio"],
                    "points": points,
                }
            )
        )


if __name__ == "__main__":
    main()
