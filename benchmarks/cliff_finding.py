"""How many simulations find the cliff: quality of "there is a key" against simulations spent, on the real simulator.

Everybody starts from the same Latin hypercube of 100 simulations and then asks for batches of 8; the Latin hypercube
itself is a fresh design for each number of simulations, which is the best that it can be. What a method does with the
results is its own affair, but the rows that it has collected are judged by one and the same final model, an
`EfficiencyLandscape` with the default spec fitted to them, on 4,000 held-out rows of the whole space
(`benchmarks.cliff_rows`). Rows that the closed form rules out cost no simulation and are given to everybody with the
closed form's margin, as in a campaign; the guardrail is off, so that simulations alone count.

Methods: `caligo`, the surrogate driven as the orchestrator does it, one batch under way while the next is proposed;
`lhs`; `straddle`, the greedy straddle on scikit-learn's Gaussian process over 2,048 Sobol points; `optuna-gp` and
`optuna-tpe`, Optuna's samplers told to minimise |margin|; `aepsych`, AEPsych's level-set acquisition EAVC (Letham et
al., "Look-ahead acquisition functions for Bernoulli level set estimation", AISTATS 2022). The peers wait for each
batch before they propose the next, which favours them.

Optuna comes with requirements-bench.txt. AEPsych pins versions of BoTorch and NumPy of its own and so has an
environment of its own:

    python3.11 -m venv build/aepsych
    build/aepsych/bin/pip install --requirement benchmarks/peers/requirements-aepsych.txt

A method whose packages are missing is left out, and said to be. Proposals and scores are kept under
build/cliff-finding/ and simulations under build/cliff-rows/, so that a stopped run goes on and finished ones are only
tabulated; from nothing it takes hours. After a change of a method remove its files, after one of the judge give
`--judge-again`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import matplotlib
import numpy as np
import torch
from caligo_surrogate.device import Device
from caligo_surrogate.landscape import EfficiencyLandscape
from numpy.typing import NDArray
from scipy.stats import norm, qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.metrics import brier_score_loss, f1_score

from benchmarks import cliff_rows
from benchmarks.cliff_rows import SPACE
from caligo import logs, seeds
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows, empty_rows, metric
from caligo.seeds import Purpose
from caligo.space import DIMENSIONS, STRATEGY_COLUMN
from caligo.spec import GuardrailSpec, SurrogateSpec

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "cliff-finding"
FIGURE: Final = ROOT / "docs" / "images" / "cliff-finding.png"
AEPSYCH: Final = ROOT / "build" / "aepsych" / "bin" / "python"

CHECKPOINTS: Final = (100, 150, 200, 300, 400, 600, 800, 1000)
LHS_CHECKPOINTS: Final = (100, 200, 400, 600, 800, 1000)
"""Each of them takes a hypercube of its own."""
WARM_UP: Final = 100
BATCH: Final = 8
REFERENCE: Final = 600
"""Simulations of the Latin hypercube whose Brier score the others have to reach."""
MOST_ROWS: Final = 4
"""Rows a simulation; a method that goes on asking for rows without hope is stopped there."""
INTERVALS: Final = (0.50, 0.90, 0.95)

Inputs = NDArray[np.float32]
"""[n, 9]: model coordinates."""


class Method(Protocol):
    """Collects rows. It is made from a seed and the rows of the warm-up."""

    def propose(self, batch: int) -> Inputs:
        """The batch of this number, model coordinates [8, 9]."""

    def observe(self, rows: ResultRows) -> None:
        """The results of the oldest batch without results."""


class MissingError(Exception):
    """The packages of a method are not installed."""


# --- this system ----------------------------------------------------------------------------------------------------


def new_landscape(seed: int, surrogate: SurrogateSpec | None = None) -> EfficiencyLandscape:
    told = cliff_rows.SPEC
    spec = surrogate or SurrogateSpec()
    guardrail = GuardrailSpec(enabled=False)
    return EfficiencyLandscape(SPACE, spec, guardrail, told.physics, told.protocol, seed, Device("cpu"))


def fit(landscape: EfficiencyLandscape) -> None:
    for _ in landscape.fit():
        pass


class Caligo:
    """The surrogate, by default with its default spec, as the orchestrator's active phase drives it.

    One batch is under way while the next is proposed, and hyper-parameters come into force one batch after the rows
    that they were fitted to.
    """

    def __init__(self, seed: int, warm_up: ResultRows, surrogate: SurrogateSpec | None = None) -> None:
        self.landscape = new_landscape(seed, surrogate)
        self.landscape.observe(Phase.LHS, warm_up)
        fit(self.landscape)
        self.background = self.landscape
        self.under_way = empty_rows()

    def propose(self, batch: int) -> Inputs:
        return self.landscape.propose(batch, BATCH, self.under_way["inputs"])

    def observe(self, rows: ResultRows) -> None:
        if len(self.under_way):
            self.landscape.observe(Phase.ACTIVE, self.under_way)
            if self.background is not self.landscape:
                self.landscape.load(*self.background.export())
            self.background = self.landscape.snapshot()
            fit(self.background)
        self.under_way = rows


# --- peers ----------------------------------------------------------------------------------------------------------


class Peer:
    """What a peer knows: unit coordinates float32 [n, 9] and margins float32 [n] of all rows."""

    def __init__(self, seed: int, warm_up: ResultRows) -> None:
        self.seed = seed
        self.unit = np.empty((0, DIMENSIONS), dtype=np.float32)
        self.margin = np.empty(0, dtype=np.float32)
        self.observe(warm_up)

    def observe(self, rows: ResultRows) -> None:
        self.unit = np.concatenate([self.unit, SPACE.to_unit(rows["inputs"])])
        self.margin = np.concatenate([self.margin, metric(rows, "margin")])

    def seed_of(self, batch: int) -> int:
        """32 bits."""
        return seeds.key(self.seed, Phase.ACTIVE, batch, Purpose.ACQUISITION) >> 32


class SklearnStraddle(Peer):
    """The greedy straddle: point after point of a Sobol pool, each believed to give the posterior mean.

    Hyper-parameters are fitted anew whenever the rows have grown by a fifth.
    """

    POOL = 2048
    GROWTH = 1.2

    def __init__(self, seed: int, warm_up: ResultRows) -> None:
        super().__init__(seed, warm_up)
        self.milestone = len(warm_up)
        self.kernel = self.learn_kernel()

    def observe(self, rows: ResultRows) -> None:
        super().observe(rows)
        if hasattr(self, "milestone") and len(self.margin) >= self.GROWTH * self.milestone:
            self.milestone = len(self.margin)
            self.kernel = self.learn_kernel()

    def learn_kernel(self) -> Any:
        matern = Matern(np.ones(DIMENSIONS), (0.02, 50.0), nu=2.5)
        kernel = ConstantKernel(1.0, (0.05, 100.0)) * matern + WhiteKernel(1e-2, (1e-6, 1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound
            return GaussianProcessRegressor(kernel, normalize_y=True).fit(self.unit, self.margin).kernel_

    def propose(self, batch: int) -> Inputs:
        gp = GaussianProcessRegressor(self.kernel, optimizer=None, normalize_y=True).fit(self.unit, self.margin)
        pool = qmc.Sobol(DIMENSIONS, rng=self.seed_of(batch)).random(self.POOL)
        pool[:, STRATEGY_COLUMN] = pool[:, STRATEGY_COLUMN] >= 0.5
        mean, covariance = gp.predict(pool, return_cov=True)  # the white noise is on the diagonal
        noise = float(self.kernel.k2.noise_level) * float(self.margin.std()) ** 2
        covariance[np.diag_indices(self.POOL)] -= noise
        chosen: list[int] = []
        for _ in range(BATCH):
            straddle = 1.96 * np.sqrt(np.maximum(covariance.diagonal(), 0)) - np.abs(mean)
            straddle[chosen] = -np.inf
            best = int(straddle.argmax())
            chosen.append(best)
            column = covariance[best]
            covariance = covariance - np.outer(column, column) / (column[best] + noise)
        return SPACE.from_unit(pool[chosen])


class Optuna(Peer):
    """A sampler of Optuna minimising |margin|; the eight trials of a batch are under way together."""

    def __init__(self, sampler: str, seed: int, warm_up: ResultRows) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingError("optuna is not installed; requirements-bench.txt has it") from None
        super().__init__(seed, warm_up)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna = optuna
        self.sampler = getattr(optuna.samplers, sampler)
        self.space: dict[str, Any] = {
            f"x{j}": optuna.distributions.FloatDistribution(0, 1) for j in range(STRATEGY_COLUMN)
        }
        self.space["strategy"] = optuna.distributions.CategoricalDistribution((0.0, 1.0))

    def propose(self, batch: int) -> Inputs:
        study = self.optuna.create_study(sampler=self.sampler(seed=self.seed_of(batch)))
        study.add_trials(
            [
                self.optuna.trial.create_trial(
                    params=dict(zip(self.space, row, strict=True)), distributions=self.space, value=value
                )
                for row, value in zip(self.unit.clip(0, 1).tolist(), np.abs(self.margin).tolist(), strict=True)
            ]
        )
        trials = [study.ask(self.space).params for _ in range(BATCH)]
        return SPACE.from_unit(np.array([[trial[name] for name in self.space] for trial in trials]))


class AEPsych(Peer):
    """`benchmarks/peers/aepsych_level_set.py` in its own environment, one JSON line in and one out a batch."""

    SCRIPT = ROOT / "benchmarks" / "peers" / "aepsych_level_set.py"

    def __init__(self, python: Path, seed: int, warm_up: ResultRows) -> None:
        if not python.exists():
            raise MissingError(f"there is no {python}; the module's text says how to make it")
        super().__init__(seed, warm_up)
        self.folder = tempfile.TemporaryDirectory()  # its package writes a log where it is started
        self.process = subprocess.Popen(
            [python.absolute(), self.SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder.name,
            text=True,
        )

    def propose(self, batch: int) -> Inputs:
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {
            "inputs": self.unit.tolist(),
            "values": self.margin.tolist(),
            "size": BATCH,
            "strategy_column": STRATEGY_COLUMN,
            "seed": self.seed_of(batch),
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return SPACE.from_unit(np.array(json.loads(self.process.stdout.readline())))

    def __del__(self) -> None:
        if hasattr(self, "process") and self.process.stdin is not None:
            self.process.stdin.close()  # ends it
            self.process.wait()


# --- collecting -----------------------------------------------------------------------------------------------------


def is_simulated(rows: ResultRows) -> NDArray[np.bool_]:
    return rows["outcome"] != ProtocolOutcome.SKIPPED_INFEASIBLE


class Collection:
    """The rows of one method and seed; its proposals are kept in a file."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.seed = seed
        self.warm_up = cliff_rows.latin_hypercube(seed, WARM_UP)
        self.inputs = np.load(path) if path.exists() else np.empty((0, DIMENSIONS), dtype=np.float32)
        self.rows = self.simulate(0)

    def simulate(self, first: int) -> ResultRows:
        index = np.arange(first, len(self.inputs))
        return cliff_rows.simulate(self.inputs[first:], index, self.seed, Phase.ACTIVE)

    @property
    def simulations(self) -> int:
        return WARM_UP + int(is_simulated(self.rows).sum())

    def extend(self, make: Callable[[int, ResultRows], Method], up_to: int, title: str) -> None:
        """Go on to `up_to` simulations."""
        if self.simulations >= up_to:
            return
        method = make(self.seed, self.warm_up)
        for first in range(0, len(self.rows), BATCH):
            method.observe(self.rows[first : first + BATCH])
        while self.simulations < up_to and len(self.rows) < MOST_ROWS * up_to:
            begin = time.perf_counter()
            proposed = method.propose(len(self.rows) // BATCH)
            thought = time.perf_counter() - begin
            self.inputs = np.concatenate([self.inputs, proposed])
            rows = self.simulate(len(self.rows))
            np.save(self.path, self.inputs)
            method.observe(rows)
            self.rows = np.concatenate([self.rows, rows])
            print(
                f"{title}: {self.simulations} simulations, {WARM_UP + len(self.rows)} rows, proposal {thought:.2f} s, "
                f"all {time.perf_counter() - begin:.2f} s",
                flush=True,
            )

    def up_to(self, simulations: int) -> ResultRows:
        """Active rows until so many simulations, the warm-up's included."""
        simulated = is_simulated(self.rows)
        before: NDArray[np.int64] = np.cumsum(simulated) - simulated
        return self.rows[before < simulations - WARM_UP]


# --- judging --------------------------------------------------------------------------------------------------------


def judge(warm_up: ResultRows, active: ResultRows, held_out: ResultRows) -> dict[str, Any]:
    """Quality on the held-out rows of the default model fitted to what was collected."""
    landscape = new_landscape(0)
    landscape.observe(Phase.LHS, warm_up)
    landscape.observe(Phase.ACTIVE, active)
    fit(landscape)
    prediction = landscape.predict(held_out["inputs"])
    key = held_out["outcome"] == ProtocolOutcome.SUCCESS
    simulated = is_simulated(held_out)
    error = np.abs(metric(held_out, "margin") - prediction.mean)[simulated]
    return {
        "brier": float(brier_score_loss(key, prediction.key)),
        "f1": float(f1_score(key, prediction.key > 0.5)),
        "calibration_error": calibration_error(prediction.key, key),
        "coverage": [
            float(np.mean(error <= norm.ppf(0.5 + share / 2) * prediction.sd[simulated])) for share in INTERVALS
        ],
        "rows": len(warm_up) + len(active),
    }


def calibration_error(probability: NDArray[np.float32], truth: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: mean |share of successes - mean probability| over equal bins, weighted by rows
    (Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015)."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=truth - probability, minlength=bins)
    return float(np.abs(gaps).sum() / len(truth))


class Scores:
    """Scores of one method and seed by simulations, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[int, dict[str, Any]] = {}
        if path.exists():
            self.values = {int(n): score for n, score in json.loads(path.read_text()).items()}

    def add(self, simulations: int, score: dict[str, Any]) -> None:
        self.values[simulations] = score
        self.path.write_text(json.dumps(self.values, indent=1))


# --- reporting ------------------------------------------------------------------------------------------------------


def curve(runs: list[Scores], name: str, at_least: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Simulations, mean and standard error over seeds, where at least so many seeds have a score."""
    checkpoints = [n for n in CHECKPOINTS if sum(n in run.values for run in runs) >= at_least]
    values = [[run.values[n][name] for run in runs if n in run.values] for n in checkpoints]
    mean = np.array([np.mean(v) for v in values])
    error = np.array([np.std(v, ddof=1) / np.sqrt(len(v)) if len(v) > 1 else np.nan for v in values])
    return np.array(checkpoints), mean, error


def simulations_for(threshold: float, simulations: NDArray[Any], mean: NDArray[Any]) -> float | None:
    """Where a mean curve, straight between checkpoints, first falls to a threshold; None where it does not."""
    below = np.flatnonzero(mean <= threshold)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(simulations[0])
    share = (mean[i - 1] - threshold) / (mean[i - 1] - mean[i])
    return float(simulations[i - 1] + share * (simulations[i] - simulations[i - 1]))


def figure(runs: dict[str, list[Scores]], threshold: float | None, path: Path) -> None:
    """Brier score over simulations, with the standard error over seeds."""
    canvas, axis = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for method, scores in runs.items():
        simulations, mean, error = curve(scores, "brier", len(scores))
        own: dict[str, Any] = {"lw": 2.5, "zorder": 3} if method == "caligo" else {}
        axis.errorbar(simulations, mean, error, marker="o", ms=3.5, capsize=2.5, label=method, **own)
    if threshold is not None:
        axis.axhline(threshold, color="0.6", lw=0.8, ls="--", zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="simulations", ylabel="Brier score of “key”, 4,000 held-out rows")
    axis.set_xticks(CHECKPOINTS, [str(n) for n in CHECKPOINTS])
    axis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:.3f}")
    axis.set_yticks([0.03, 0.04, 0.05, 0.06])
    axis.legend(frameon=False)
    canvas.savefig(path, dpi=140)


def table(runs: dict[str, list[Scores]]) -> None:
    print("\nmethod       seeds simulations   rows    Brier   +-      F1      +-      calib.  coverage 50/90/95 %")
    for method, scores in runs.items():
        simulations, brier, brier_error = curve(scores, "brier", 1)
        _, f1, f1_error = curve(scores, "f1", 1)
        _, calibration, _ = curve(scores, "calibration_error", 1)
        _, rows, _ = curve(scores, "rows", 1)
        for i, n in enumerate(simulations.tolist()):
            coverage = np.mean([run.values[n]["coverage"] for run in scores if n in run.values], axis=0)
            count = sum(n in run.values for run in scores)
            print(
                f"{method:12s} {count:5d} {n:11d} {rows[i]:6.0f}   {brier[i]:.4f}  {brier_error[i]:.4f}  {f1[i]:.4f}  "
                f"{f1_error[i]:.4f}  {calibration[i]:.4f}  " + " ".join(f"{share:.3f}" for share in coverage)
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = ("lhs", "straddle", "optuna-tpe", "optuna-gp", "aepsych", "caligo")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--up-to", type=int, default=CHECKPOINTS[-1], help="simulations")
    parser.add_argument("--aepsych-up-to", type=int, default=400, help="simulations; it takes minutes a batch")
    parser.add_argument("--aepsych", type=Path, default=AEPSYCH, help="python of its environment")
    parser.add_argument("--judge-again", action="store_true", help="forget the scores that were kept")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where proposals and scores are kept")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("warning")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[int, ResultRows], Method]] = {
        "straddle": SklearnStraddle,
        "optuna-tpe": lambda seed, warm_up: Optuna("TPESampler", seed, warm_up),
        "optuna-gp": lambda seed, warm_up: Optuna("GPSampler", seed, warm_up),
        "aepsych": lambda seed, warm_up: AEPsych(arguments.aepsych, seed, warm_up),
        "caligo": Caligo,
    }
    held_out = cliff_rows.held_out()
    for seed in arguments.seeds:
        for method in arguments.methods:
            path = arguments.folder / f"{method}-{seed}"
            scores = Scores(path.with_suffix(".json"))
            if arguments.judge_again:
                scores.values.clear()
            up_to = min(arguments.up_to, arguments.aepsych_up_to) if method == "aepsych" else arguments.up_to
            collection = Collection(path.with_suffix(".npy"), seed)
            try:
                if method != "lhs":
                    collection.extend(makers[method], up_to, path.name)
            except MissingError as missing:
                print(f"{method} is left out: {missing}")
                continue
            for n in LHS_CHECKPOINTS if method == "lhs" else CHECKPOINTS:
                if n > up_to or n in scores.values:
                    continue
                if method == "lhs":
                    scores.add(n, judge(cliff_rows.latin_hypercube(seed, n), empty_rows(), held_out))
                elif n <= collection.simulations:
                    scores.add(n, judge(collection.warm_up, collection.up_to(n), held_out))
                else:
                    continue
                print(f"{path.name} {n}: Brier {scores.values[n]['brier']:.4f}", flush=True)

    runs: dict[str, list[Scores]] = {}
    for method in methods:
        files = [arguments.folder / f"{method}-{seed}.json" for seed in arguments.seeds]
        if any(file.exists() for file in files):
            runs[method] = [Scores(file) for file in files if file.exists()]
    table(runs)
    needed: dict[str, float | None] = {}
    threshold = None
    if "lhs" in runs and REFERENCE in curve(runs["lhs"], "brier", 1)[0]:
        simulations, mean, _ = curve(runs["lhs"], "brier", 1)
        threshold = float(mean[simulations.tolist().index(REFERENCE)])
        for method, found in runs.items():
            needed[method] = simulations_for(threshold, *curve(found, "brier", len(found))[:2])
        needed["lhs"] = float(REFERENCE)
        print(f"\nsimulations for the Brier score {threshold:.4f} that the Latin hypercube has with {REFERENCE}:")
        for method, count in needed.items():
            last = int(curve(runs[method], "brier", len(runs[method]))[0].max(initial=0))
            print(f"{method:12s} " + (f"{count:.0f}" if count is not None else f"not within {last}"))
    figure(runs, threshold, arguments.figure)
    if arguments.json:
        own = needed.get("caligo")
        print(json.dumps({
            "name": "cliff_finding", "value": own, "unit": "simulations", "peer": "Latin hypercube",
            "peer_value": REFERENCE, "ratio": own / REFERENCE if own else None, "brier": threshold,
            "simulations_needed": needed,
            "curves": {
                method: {
                    name: {"simulations": n.tolist(), "mean": mean.tolist(), "standard_error": error.tolist()}
                    for name in ("brier", "f1", "calibration_error")
                    for n, mean, error in [curve(found, name, 2)]
                }
                for method, found in runs.items()
            },
        }))  # fmt: skip


if __name__ == "__main__":
    main()
