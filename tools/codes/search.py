"""Searches degree distributions for short codes: `python -m tools.codes.search RATE QBER`.

Thresholds rank ensembles of infinite length; at 4,096 bits the order is another one, so this search measures. Each
candidate is a random change of one of the best so far; its graph is grown, and frames are decoded at one error rate,
which is best chosen where a few in a hundred fail. Candidates that are clearly worse after an eighth of the frames
are given up. What it finds depends on the seed and on how long it may look.
"""

from __future__ import annotations

import argparse

import numpy as np
from caligo_simulator.protocol.reconciliation import codes
from numpy.typing import NDArray

from tools.codes import measure
from tools.codes.build import mother_code
from tools.codes.distributions import SHORT_VARIABLE

LENGTH = 4096
DEGREES = np.array([2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28, 40])
_KEPT = 12

Weights = NDArray[np.float64]


def as_distribution(weights: Weights) -> dict[int, float]:
    """{degree: fraction of edges}, without the degrees that make up less than half a percent."""
    kept = np.where(weights / weights.sum() < 0.005, 0.0, weights)
    return {int(d): round(float(w), 3) for d, w in zip(DEGREES, kept / kept.sum(), strict=True) if w > 0.0}


def changed(best: list[Weights], rng: np.random.Generator) -> Weights:
    """One of the best, the better the likelier, with every weight changed and some mass moved to one degree."""
    weights = best[min(int(rng.exponential(1.5)), len(best) - 1)].copy()
    if rng.random() < 0.3:
        share = rng.random()
        weights = share * weights + (1.0 - share) * best[rng.integers(len(best))]
    weights *= np.exp(rng.choice([0.1, 0.25, 0.6]) * rng.standard_normal(weights.size))
    if rng.random() < 0.4:
        weights[rng.integers(weights.size)] += 0.1 * rng.random()
    return weights / weights.sum()


def frame_error_rate(
    distribution: dict[int, float], rate: float, qber: float, frames: int, give_up: float, seed: int
) -> float:
    """Of a graph grown from `seed`, at this error rate; estimated on an eighth of the frames where above `give_up`."""
    code = mother_code(LENGTH, rate, distribution, seed)
    rng = np.random.Generator(np.random.Philox(0))  # the same noise for every candidate
    first = frames // 8
    failed = measure.failures(code, 0, qber, first, rng)
    if failed > give_up * first:
        return failed / first
    return (failed + measure.failures(code, 0, qber, frames - first, rng)) / frames


def search(rate: float, qber: float, candidates: int, frames: int, seed: int) -> None:
    """Print every distribution that beats those before it."""
    rng = np.random.Generator(np.random.Philox(seed))
    start = np.zeros(DEGREES.size)
    for degree, fraction in SHORT_VARIABLE[rate].items():
        start[np.argmin(np.abs(DEGREES - degree))] += fraction
    ranking: list[tuple[float, Weights]] = []
    for i in range(candidates):
        weights = changed([w for _, w in ranking], rng) if ranking else start
        give_up = 3.0 * ranking[0][0] if ranking else 1.0
        found = frame_error_rate(as_distribution(weights), rate, qber, frames, give_up, int(rng.integers(2**32)))
        if not ranking or found < ranking[0][0]:
            print(f"{i:5d}  frame error rate {found:.5f}  {as_distribution(weights)}", flush=True)
        ranking = sorted([*ranking, (found, weights)], key=lambda entry: entry[0])[:_KEPT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rate", type=float, choices=codes.RATES)
    parser.add_argument("qber", type=float)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--frames", type=int, default=6000, help="decoded for each candidate that is not given up")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    search(arguments.rate, arguments.qber, arguments.candidates, arguments.frames, arguments.seed)


if __name__ == "__main__":
    main()
