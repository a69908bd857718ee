"""Measures the pool's frame error rates: `python -m tools.codes.measure`.

For each code and some numbers of punctured bits, frames are decoded at error rates around those where one in a
hundred fails, and FER(Q) = Phi((Q - centre) / width) is fitted by maximum likelihood. The
result, `data/error_rates.json`, is what `plans` chooses by.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
from caligo_simulator.protocol.reconciliation import codes
from caligo_simulator.protocol.reconciliation.codes import Code
from caligo_simulator.protocol.reconciliation.decoder import KNOWN, decode
from numpy.typing import NDArray
from scipy import optimize, stats

from caligo.physics.entropy import inverse_binary_entropy
from tools.codes.build import SHORT

SEED = 4096
_POINTS = 5
"""Numbers of punctured bits, from none to all."""
_USUAL_WIDTH = np.log(1.15)
"""Of the pool's waterfalls, against the channel's."""


def failures(code: Code, punctured: int, qber: float, frames: int, rng: np.random.Generator) -> int:
    """How many of `frames` random frames, `punctured` of whose positions are unknown, are not recovered.

    The code is linear and the decoder symmetric, so the all-zero word stands for all: Bob's word is the error.
    """
    received = (rng.random((frames, code.n), dtype=np.float32) < qber).astype(np.uint8)
    reliability = np.full(code.n, np.log((1.0 - qber) / qber), np.float32)
    received[:, code.modulated] = 0
    reliability[code.modulated] = KNOWN
    reliability[code.modulated[:punctured]] = 0.0
    syndromes = np.zeros((frames, code.m), np.uint8)
    decoding = decode(code, received, syndromes, reliability)
    return int(frames - np.count_nonzero(~decoding.bits[:, code.payload].any(axis=1) & decoding.converged))


def waterfall(code: Code, punctured: int, frames: int, rng: np.random.Generator) -> tuple[float, float]:
    """Centre and width of the frame error rate over the QBER."""
    payload = code.n - code.modulated.size
    shannon = inverse_binary_entropy(min(1.0, (code.m - punctured) / payload))
    rough = _fit(*_ascent(code, punctured, shannon * np.linspace(0.45, 0.95, 11), max(16, frames // 50), rng), payload)
    # The plans need the rate at 1e-2, some 2.4 widths below the centre. Long frames are fewer: they are decoded where
    # more of them fail.
    steps = np.array([-3.0, -2.7, -2.4, -2.0, -1.5]) if code.n <= SHORT else np.array([-2.6, -2.2, -1.8, -1.4, -1.0])
    around = np.maximum(rough[0] + rough[1] * steps, 0.1 * rough[0])
    return _fit(around, np.array([failures(code, punctured, q, frames, rng) for q in around]), frames, payload)


def _ascent(
    code: Code, punctured: int, qbers: NDArray[np.float64], frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Error rates up to the first at which all fail, failed frames at each, frames at each."""
    failed: list[int] = []
    while len(failed) < len(qbers) and (not failed or failed[-1] < frames):
        failed.append(failures(code, punctured, qbers[len(failed)], frames, rng))
    return qbers[: len(failed)], np.array(failed), frames


def _fit(tried: NDArray[np.float64], failed: NDArray[np.int64], frames: int, payload: int) -> tuple[float, float]:
    """Centre and width of the likeliest Phi((Q - centre) / width).

    The width is expected near that of the channel itself, sqrt(Q (1 - Q) / payload) (Martinez-Mateo et al. 2012,
    Appendix A): without this, a frame or two that fail far below the waterfall would widen it beyond reason.
    """

    def loss(parameters: NDArray[np.float64]) -> float:
        centre, log_width = parameters
        p = np.clip(stats.norm.cdf((tried - centre) / np.exp(log_width)), 1e-12, 1.0 - 1e-12)
        channel = 0.5 * np.log(max(centre * (1.0 - centre), 1e-6) / payload)
        unlikely = 0.5 * ((log_width - channel - _USUAL_WIDTH) / 0.2) ** 2
        return unlikely - float(np.sum(failed * np.log(p) + (frames - failed) * np.log1p(-p)))

    middle = float(np.interp(0.5 * frames, np.maximum.accumulate(failed), tried))
    centre, log_width = optimize.minimize(loss, np.array([middle, np.log(0.1 * middle)]), method="Nelder-Mead").x
    return float(centre), float(np.exp(log_width))


def measured(n: int, rate: float, frames: int) -> dict[str, Sequence[float]]:
    """The entry of one code in the table."""
    code = codes.load(n, rate)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, n, round(100 * rate)])))
    # The waterfall of a longer code is steeper, so fewer frames place it as well.
    if n > SHORT:
        frames //= 16
    counts = [round(code.punctured * i / (_POINTS - 1)) for i in range(_POINTS)]
    fits = [waterfall(code, punctured, frames, rng) for punctured in counts]
    return {
        "punctured": counts,
        "centre": [float(f"{centre:.6g}") for centre, _ in fits],
        "width": [float(f"{width:.4g}") for _, width in fits],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1500, help="of 4,096 bits, at each of 5 error rates")
    parser.add_argument("--frame-size", type=int, choices=codes.FRAME_SIZES, nargs="*", default=codes.FRAME_SIZES)
    parser.add_argument("--rate", type=float, choices=codes.RATES, nargs="*", default=codes.RATES)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    path = codes.DATA / "error_rates.json"
    table = json.loads(path.read_bytes()) if path.exists() else {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        pending = {
            pool.submit(measured, n, rate, arguments.frames): codes.name(n, rate)
            for n in arguments.frame_size
            for rate in arguments.rate
        }
        for done in as_completed(pending):
            name = pending[done]
            table[name] = done.result()
            print(name, table[name], flush=True)
            path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
