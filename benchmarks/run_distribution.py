"""What the closed form says of one run as a distribution, against runs of the real simulator repeated at one point.

60 points of the space `cliff` under the settings of examples/cliff.yaml, each within three foretold standard deviations
of the cliff, half of them of either strategy; at 12 of them the first frame fills now and then only. 50 runs each by
default. Where frames fill, the margins' mean and standard deviation stand beside the foretold ones; the shares of runs
that fill a frame and that give a key are held against P_frame and P(key) by their binomial probabilities.

Takes about ten minutes on two cores. `--save` keeps the rows in a file and `--rows` judges such a file again.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

import numpy as np
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import Simulator
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom, chi2

from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.physics.prediction import Prediction
from caligo.results import METRIC, ProtocolOutcome, Reason, ResultRows
from caligo.space import PRESETS, STRATEGY_COLUMN, Space, Strategy
from caligo.spec import PhysicsSpec, ProtocolSpec

SPACE: Final = Space(PRESETS["cliff"])
PHYSICS: Final = PhysicsSpec()
PROTOCOL: Final = ProtocolSpec()
CANDIDATES: Final = 300_000
NEAR: Final = 3.0
"""Foretold standard deviations between a point and the cliff, at most, by the probability of a key."""
BAND: Final = (0.7, 1.4)
FEWEST: Final = 20
"""Runs with a frame that a standard deviation is taken of, which it then is to a sixth."""
DETERMINED: Final = 1e-4
"""Standard deviation below which nothing is random: blind runs that end before a frame is corrected."""
LEVEL: Final = 0.01
"""Two-sided level of the binomial tests."""
_MARGIN: Final = METRIC["margin"]


def points(count: int, seed: int) -> NDArray[np.float32]:
    """Rows [count, 9] close to the cliff, in turn of each strategy; at every fifth the first frame may not fill."""
    rng = np.random.default_rng(seed)
    unit = rng.random((CANDIDATES, STRATEGY_COLUMN + 1))
    unit[:, STRATEGY_COLUMN] = unit[:, STRATEGY_COLUMN] < 0.5
    rows = SPACE.from_unit(unit)
    found = expect(rows, PHYSICS, PROTOCOL)
    share = found.key / np.maximum(found.filled * found.decoded, 1e-9)
    near = (share > ndtr(-NEAR)) & (share < ndtr(NEAR))
    sometimes = (found.filled > 0.05) & (found.filled < 0.95)
    chosen: list[int] = []
    for j in range(count):
        where = near & (rows[:, STRATEGY_COLUMN] == j % 2)
        where &= sometimes if j % 5 == 4 else found.filled > 0.95
        chosen.append(int(np.setdiff1d(np.flatnonzero(where), chosen)[0]))
    return rows[chosen]


def simulate(inputs: NDArray[np.float32], runs: int, seed: int) -> ResultRows:
    """Result rows [points, runs]."""
    simulator = Simulator(len(os.sched_getaffinity(0)), 2**20, f"spread-{secrets.token_hex(4)}")
    try:
        setup = Setup("run-distribution", seed, Phase.LHS, PHYSICS, PROTOCOL)
        design = [(i * runs + j, row) for i, row in enumerate(inputs) for j in range(runs)]
        rows = np.concatenate(list(simulator.simulate(setup, design)))
    finally:
        simulator.close()
    return rows[np.argsort(rows["index"])].reshape(len(inputs), runs)


def compare(rows: ResultRows) -> list[dict[str, Any]]:
    """One entry a point: what was measured, what was foretold."""
    table = []
    for runs in rows:
        foretold = Prediction(*(float(value) for value in expect(runs["inputs"][0], PHYSICS, PROTOCOL)))
        is_filled = runs["reason"] != Reason.INSUFFICIENT_RAW
        has_key = runs["outcome"] == ProtocolOutcome.SUCCESS
        margins = runs["metrics"][is_filled, _MARGIN].astype(np.float64)
        enough = len(margins) >= FEWEST
        table.append(
            {
                "strategy": Strategy(round(float(runs["inputs"][0, STRATEGY_COLUMN]))).name.lower(),
                "reconciled": foretold.reconciled,
                "margin": foretold.margin,
                "measured_margin": float(margins.mean()) if enough else None,
                "sd": foretold.sd,
                "measured_sd": float(margins.std(ddof=1)) if enough else None,
                "filled": foretold.filled,
                "measured_filled": float(is_filled.mean()),
                "filled_p": probability(int(is_filled.sum()), len(runs), foretold.filled),
                "key": foretold.key,
                "measured_key": float(has_key.mean()),
                "key_p": probability(int(has_key.sum()), len(runs), foretold.key),
            }
        )
    return table


def probability(successes: int, runs: int, share: float) -> float:
    """Two-sided probability of a count at least as far off where `share` is right."""
    return float(min(1.0, 2.0 * min(binom.cdf(successes, runs, share), binom.sf(successes - 1, runs, share))))


def summary(table: list[dict[str, Any]], runs: int) -> dict[str, float]:
    """What holds of all points together."""
    random = [p for p in table if p["measured_sd"] is not None and p["measured_sd"] > DETERMINED]
    ratio = np.array([p["measured_sd"] / p["sd"] for p in random])
    pull = np.array([(p["measured_margin"] - p["margin"]) / p["sd"] for p in random])
    found: dict[str, float] = {
        "points": len(table),
        "runs": runs,
        "random": len(random),
        "sd_in_band": float(np.mean((ratio >= BAND[0]) & (ratio <= BAND[1]))),
        "sd_ratio_median": float(np.median(ratio)),
        "mean_off_rms": float(np.sqrt(np.mean(pull**2))),
    }
    for name in ("filled", "key"):
        share = np.array([p[name] for p in table])
        measured = np.array([p[f"measured_{name}"] for p in table])
        variance = np.clip(share * (1.0 - share), 1e-4, None) / runs
        # Pearson's statistic where the normal approximation means something.
        open_ = (share > 0.05) & (share < 0.95)
        statistic = float(((measured - share) ** 2 / variance)[open_].sum())
        found[f"{name}_chi2"] = statistic
        found[f"{name}_degrees"] = int(open_.sum())
        found[f"{name}_chi2_p"] = float(chi2.sf(statistic, max(1, int(open_.sum()))))
        found[f"{name}_rejected"] = int(sum(p[f"{name}_p"] < LEVEL for p in table))
        found[f"{name}_mean"], found[f"{name}_measured_mean"] = float(share.mean()), float(measured.mean())
        brier = measured * (1.0 - share) ** 2 + (1.0 - measured) * share**2
        floor = measured * (1.0 - measured) * runs / (runs - 1)
        found[f"{name}_brier"], found[f"{name}_brier_floor"] = float(brier.mean()), float(floor.mean())
    return found


def show(table: list[dict[str, Any]]) -> None:
    print(f"{'':9}{'bits':>11} {'margin':>9}{'measured':>9} {'sd':>8}{'measured':>9}{'ratio':>6}", end="")
    print(f" {'P_frame':>8}{'measured':>9} {'P(key)':>7}{'measured':>9}{'p':>7}")
    for p in sorted(table, key=lambda p: (p["strategy"], p["reconciled"])):
        has = p["measured_sd"] is not None
        margin, sd = (f"{p[k]:9.4f}" if has else f"{'':9}" for k in ("measured_margin", "measured_sd"))
        ratio = f"{p['measured_sd'] / p['sd']:6.2f}" if has else f"{'':6}"
        print(f"{p['strategy']:9}{p['reconciled']:11.0f} {p['margin']:9.4f}{margin} {p['sd']:8.4f}{sd}{ratio}", end="")
        print(
            f" {p['filled']:8.3f}{p['measured_filled']:9.2f} {p['key']:7.3f}{p['measured_key']:9.2f}{p['key_p']:7.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=Path, help="keep the rows in this .npy file")
    parser.add_argument("--rows", type=Path, help="judge the rows of such a file instead of simulating")
    arguments = parser.parse_args()
    if arguments.rows is None:
        rows = simulate(points(arguments.points, arguments.seed), arguments.runs, arguments.seed)
    else:
        rows = np.load(arguments.rows)
    if arguments.save is not None:
        np.save(arguments.save, rows)
    table = compare(rows)
    show(table)
    found = summary(table, rows.shape[1])
    print("".join(f"\n{name}: {value:.4g}" for name, value in found.items()))
    if arguments.json:
        print(
            json.dumps(
                {"name": "run_distribution", "value": found["sd_in_band"], "unit": "share", "peer": None, **found}
            )
        )


if __name__ == "__main__":
    main()
