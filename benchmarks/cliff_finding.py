"""How few simulations find the cliff: quality of "there is a key" against simulations spent, on the real simulator.

In two worlds (`benchmarks.cliff_rows`): the device that everybody is told, and one that nobody knows: a parametric
source, dead time and afterpulses, and analysers that drift. Everybody starts from the same Latin hypercube of 16
simulations and then asks for batches of 8; the Latin hypercube itself is a fresh design for each number of simulations,
which is the best that it can be. Rows that the closed form rules out cost no simulation and are given to everybody with
the closed form's margin, as in a campaign; the guardrail is off, so that simulations alone count. All are judged by the
Brier score on 1,500 held-out rows of the whole space, on real outcomes.

Each method foretells with a model of its own, but those that have none and so are given ours; what a method knows of
the physics stands in the table:

- `caligo`: the surrogate as the orchestrator drives it, one batch under way while the next is proposed. `caligo,
  constant`: the same with `prior: constant`, which knows nothing of the closed form.
- `closed form`: no simulation at all.
- `Latin hypercube`: rows of nobody's choice, judged by our default model.
- `straddle`: the greedy straddle on scikit-learn's Gaussian process over 2,048 Sobol points, which foretells the sign
  of the margin. `straddle, closed form`: the same process on what differs from the closed form's margin, and told how
  likely a frame fills.
- `Optuna`: its TPE sampler told to minimise |margin|, judged by our default model. `AEPsych`: its level-set acquisition
  EAVC (Letham et al., "Look-ahead acquisition functions for Bernoulli level set estimation", AISTATS 2022), judged by
  our default model; it needs an environment of its own:

    python3.11 -m venv build/aepsych
    build/aepsych/bin/pip install --requirement benchmarks/peers/requirements-aepsych.txt

The floor is what somebody would score who knew each row's probability of a key: p (1 - p) averaged over the rows, from
20 simulations of each row near the cliff by its unbiased estimate. Outcomes are few, so methods are compared with the
floor on the very outcomes that they are judged on, which is given as well.

A method whose packages are missing is left out, and said to be. Proposals and scores are kept under
build/cliff-finding/ and simulations under build/cliff-rows/, so that a stopped run goes on and finished ones are only
tabulated; from nothing it takes hours. After a change of a method remove its files.
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
from typing import Any, Final, NamedTuple, Protocol

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
from benchmarks.cliff_rows import SPACE, SPEC, WORLDS, World
from caligo import logs, seeds
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows, empty_rows, measured, metric, succeeded
from caligo.seeds import Purpose
from caligo.space import DIMENSIONS, STRATEGY_COLUMN
from caligo.spec import GuardrailSpec, SurrogateSpec

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "cliff-finding"
FIGURE: Final = ROOT / "docs" / "images" / "cliff-finding.png"
AEPSYCH: Final = ROOT / "build" / "aepsych" / "bin" / "python"

CHECKPOINTS: Final = (16, 25, 50, 100, 300)
WARM_UP: Final = 16
BATCH: Final = 8
MOST_ROWS: Final = 4
"""Rows a simulation; a method that goes on asking for rows without hope is stopped there."""
INTERVALS: Final = (0.50, 0.90, 0.95)
FLOOR_RUNS: Final = 20
DECIDED: Final = 0.005
"""A row whose key, or none, the closed form of the real device is so sure of is not simulated for the floor."""

Inputs = NDArray[np.float32]
"""[n, 9]: model coordinates."""
Probabilities = NDArray[np.floating]
"""[n]: of a key."""


class Method(Protocol):
    """Collects rows and foretells keys. It is made from a seed and the rows of the warm-up."""

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

    def __init__(self, seed: int, warm_up: ResultRows, *, knows_closed_form: bool = False) -> None:
        self.knows_closed_form = knows_closed_form
        super().__init__(seed, warm_up)
        self.milestone = len(warm_up)
        self.kernel = self.learn_kernel()

    def offset(self, inputs: Inputs) -> NDArray[np.float64]:
        """The closed form's margin, where it is known, from which the process learns to differ."""
        if not self.knows_closed_form:
            return np.zeros(len(inputs))
        return np.asarray(expect(inputs, SPEC.physics, SPEC.protocol).margin)

    def fitted(self) -> GaussianProcessRegressor:
        difference = self.margin - self.offset(SPACE.from_unit(self.unit))
        return GaussianProcessRegressor(self.kernel, optimizer=None, normalize_y=True).fit(self.unit, difference)

    def key(self, inputs: Inputs) -> Probabilities:
        """Probability of a key at rows: of a positive margin, and that a frame fills where that is known."""
        mean, sd = self.fitted().predict(SPACE.to_unit(inputs), return_std=True)  # the white noise is in it
        key = norm.cdf((mean + self.offset(inputs)) / sd)
        return key * expect(inputs, SPEC.physics, SPEC.protocol).filled if self.knows_closed_form else key

    def observe(self, rows: ResultRows) -> None:
        # A run that filled no frame says nothing of the margin; whoever knows of the gate need not learn from it.
        super().observe(rows[measured(rows) | ~is_simulated(rows)] if self.knows_closed_form else rows)
        if hasattr(self, "milestone") and len(self.margin) >= self.GROWTH * self.milestone:
            self.milestone = len(self.margin)
            self.kernel = self.learn_kernel()

    def learn_kernel(self) -> Any:
        matern = Matern(np.ones(DIMENSIONS), (0.02, 50.0), nu=2.5)
        kernel = ConstantKernel(1.0, (0.05, 100.0)) * matern + WhiteKernel(1e-2, (1e-6, 1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound
            difference = self.margin - self.offset(SPACE.from_unit(self.unit))
            return GaussianProcessRegressor(kernel, normalize_y=True).fit(self.unit, difference).kernel_

    def propose(self, batch: int) -> Inputs:
        gp = self.fitted()
        pool = qmc.Sobol(DIMENSIONS, rng=self.seed_of(batch)).random(self.POOL)
        pool[:, STRATEGY_COLUMN] = pool[:, STRATEGY_COLUMN] >= 0.5
        mean, covariance = gp.predict(pool, return_cov=True)  # the white noise is on the diagonal
        mean = mean + self.offset(SPACE.from_unit(pool))
        noise = float(self.kernel.k2.noise_level) * float(gp._y_train_std) ** 2
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

    def __init__(self, path: Path, seed: int, world: World = cliff_rows.KNOWN) -> None:
        self.path = path
        self.seed = seed
        self.world = world
        self.warm_up = cliff_rows.latin_hypercube(seed, WARM_UP, world=world)
        self.inputs = np.load(path) if path.exists() else np.empty((0, DIMENSIONS), dtype=np.float32)
        self.rows = self.simulate(0)

    def simulate(self, first: int) -> ResultRows:
        index = np.arange(first, len(self.inputs))
        return cliff_rows.simulate(self.inputs[first:], index, self.seed, Phase.ACTIVE, world=self.world)

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


def judge(
    warm_up: ResultRows, active: ResultRows, held_out: ResultRows, surrogate: SurrogateSpec | None = None
) -> dict[str, Any]:
    """Quality on the held-out rows of this system's model, the default one, fitted to what was collected."""
    landscape = new_landscape(0, surrogate)
    landscape.observe(Phase.LHS, warm_up)
    landscape.observe(Phase.ACTIVE, active)
    fit(landscape)
    prediction = landscape.predict(held_out["inputs"])
    known = measured(held_out)
    error = np.abs(metric(held_out, "margin") - prediction.mean)[known]
    coverage = [float(np.mean(error <= norm.ppf(0.5 + share / 2) * prediction.sd[known])) for share in INTERVALS]
    return {**scores_of(prediction.key, held_out), "coverage": coverage, "rows": len(warm_up) + len(active)}


def judge_straddle(
    seed: int, warm_up: ResultRows, active: ResultRows, held_out: ResultRows, *, knows_closed_form: bool
) -> dict[str, Any]:
    """The same of scikit-learn's process."""
    peer = SklearnStraddle(seed, np.concatenate([warm_up, active]), knows_closed_form=knows_closed_form)
    return {**scores_of(peer.key(held_out["inputs"]), held_out), "rows": len(warm_up) + len(active)}


def scores_of(key: Probabilities, held_out: ResultRows) -> dict[str, Any]:
    truth = succeeded(held_out)
    return {"brier": float(brier_score_loss(truth, key)), "f1": float(f1_score(truth, key > 0.5))}


class Floor(NamedTuple):
    """Brier score of whoever knows every row's probability of a key."""

    expected: float
    """p (1 - p), averaged over the rows."""
    error: float
    """Its standard error, from the rows that there are."""
    on_outcomes: float
    """On the outcomes that the rows have: what the methods, judged on the same ones, can reach at best."""


def floor(world: World, held_out: ResultRows) -> Floor:
    """By repeated simulations of the rows near the cliff; of the others the closed form of the real device is sure."""
    inputs, outcome = held_out["inputs"], succeeded(held_out)
    p = np.array(expect(inputs, world.physics, SPEC.protocol).key)
    near = np.flatnonzero((p > DECIDED) & (p < 1 - DECIDED) & is_simulated(held_out))
    keys = np.zeros(len(near))
    for run in range(FLOOR_RUNS):
        rows = cliff_rows.simulate(inputs[near], near, cliff_rows.HELD_OUT_SEED + 1 + run, Phase.LHS, world=world)
        keys += succeeded(rows)
    terms, losses = p * (1 - p), (outcome - p) ** 2
    terms[near] = keys * (FLOOR_RUNS - keys) / (FLOOR_RUNS * (FLOOR_RUNS - 1))  # unbiased
    losses[near] = (outcome[near] - keys / FLOOR_RUNS) ** 2 - terms[near] / FLOOR_RUNS  # less what the estimate adds
    return Floor(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms))), float(losses.mean()))


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

KNOWS: Final = {
    "caligo": "closed form as prior",
    "caligo, constant": "nothing",
    "closed form": "closed form",
    "Latin hypercube": "our model",
    "straddle": "nothing",
    "straddle, closed form": "closed form as offset and gate",
    "Optuna": "our model",
    "AEPsych": "our model",
}
SHOWN: Final = {
    "caligo": "this system",
    "caligo, constant": "this system, knowing nothing",
    "straddle": "straddle, scikit-learn",
    "straddle, closed form": "the same, told the closed form",
    "Optuna": "Optuna (TPE), our model",
    "AEPsych": "AEPsych (EAVC), our model",
    "Latin hypercube": "Latin hypercube, our model",
}
MOST: Final = {"known": {50: 1.2, 300: 1.15}}
"""Aims: times the floor on the same outcomes."""
AIMS: Final = {"unknown": {50: 0.026, 300: 0.020}}
"""Aims: Brier scores."""


def mean_of(runs: list[Scores], n: int, name: str = "brier") -> tuple[float, float, int]:
    """Mean and standard error over the seeds that have a score at n simulations, and their number."""
    values = [run.values[n][name] for run in runs if n in run.values]
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return (float(np.mean(values)) if values else np.nan), float(error), len(values)


def paired(one: list[Scores], other: list[Scores], n: int) -> tuple[float, float] | None:
    """Mean difference of the Brier scores over the seeds that both have, and its standard error."""
    both = [
        a.values[n]["brier"] - b.values[n]["brier"]
        for a, b in zip(one, other, strict=True)
        if n in a.values and n in b.values
    ]
    return (float(np.mean(both)), float(np.std(both, ddof=1) / np.sqrt(len(both)))) if len(both) > 1 else None


def table(world: str, runs: dict[str, list[Scores]], lowest: Floor) -> None:
    print(
        f"\nworld {world!r}: Brier score, standard error, (seeds); "
        f"floor {lowest.expected:.4f} +- {lowest.error:.4f}, on these outcomes {lowest.on_outcomes:.4f}"
    )
    print(f"{'method':22s} {'knows':32s}" + "".join(f"{n:>19d}" for n in (0, *CHECKPOINTS)))
    for method, scores in runs.items():
        cells = []
        for n in (0, *CHECKPOINTS):
            mean, error, count = mean_of(scores, n)
            cells.append(f"{mean:.4f} {error:.4f} ({count})" if count else "-")
        print(f"{method:22s} {KNOWS[method]:32s}" + "".join(f"{cell:>19s}" for cell in cells))
    own = runs.get("caligo", [])
    for n in CHECKPOINTS[1:]:
        mean, _, count = mean_of(own, n)
        if not count:
            continue
        ratio = mean / lowest.on_outcomes
        words = [f"{ratio:.2f} times the floor"]
        if n in MOST.get(world, {}):
            words.append(f"aim {MOST[world][n]:g}: {'met' if ratio <= MOST[world][n] else 'missed'}")
        if n in AIMS.get(world, {}):
            words.append(f"aim {AIMS[world][n]:g}: {'met' if mean <= AIMS[world][n] else 'missed'}")
        for peer in ("closed form", "caligo, constant", "straddle, closed form"):
            found = paired(own, runs.get(peer, [Scores(Path("-"))] * len(own)), n)
            if peer == "closed form" and peer in runs and count > 1:
                values = [run.values[n]["brier"] - runs[peer][0].values[0]["brier"] for run in own if n in run.values]
                found = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
            if found is not None:
                words.append(f"less {peer} {found[0]:+.4f} +- {found[1]:.4f}")
        print(f"caligo at {n}: " + "; ".join(words))


def figure(found: dict[str, tuple[dict[str, list[Scores]], Floor]], path: Path) -> None:
    """Brier score over simulations in every world, with the standard error over seeds."""
    canvas, axes = plt.subplots(1, len(found), figsize=(10, 4.9), sharey=True, layout="constrained", squeeze=False)
    titles = {"known": "the device that everybody is told", "unknown": "a device that nobody knows"}
    for axis, (world, (runs, lowest)) in zip(axes[0], found.items(), strict=True):
        for method, scores in runs.items():
            points = [(n, *mean_of(scores, n)) for n in CHECKPOINTS]
            n, mean, error, _ = np.array([point for point in points if point[3]] or np.empty((0, 4))).T
            if method == "closed form":
                axis.axhline(scores[0].values[0]["brier"], color="0.3", lw=1.2, ls=":", label="closed form alone")
                continue
            own: dict[str, Any] = {"lw": 2.5, "zorder": 3} if method == "caligo" else {}
            axis.errorbar(n, mean, error, marker="o", ms=3.5, capsize=2.5, label=SHOWN[method], **own)
        axis.axhline(lowest.on_outcomes, color="0.6", lw=1, ls="--", label="floor, on these outcomes")
        axis.set(xscale="log", yscale="log", xlabel="simulations", title=titles[world])
        axis.set_xticks(CHECKPOINTS, [str(n) for n in CHECKPOINTS])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:.3f}")
        axis.set_yticks([0.01, 0.02, 0.04, 0.08, 0.16])
    axes[0][0].set_ylabel("Brier score of “key” on 1,500 held-out rows")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    canvas.savefig(path, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=KNOWS, default=list(KNOWS))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--up-to", type=int, default=CHECKPOINTS[-1], help="simulations")
    parser.add_argument("--aepsych", type=Path, default=AEPSYCH, help="python of its environment")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where proposals and scores are kept")
    parser.add_argument("--figure", type=Path, help=f"draw it there; the documentation's is {FIGURE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logs.configure("warning")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    constant = SurrogateSpec(prior="constant")
    makers: dict[str, Callable[[int, ResultRows], Method]] = {
        "caligo": Caligo,
        "caligo, constant": lambda seed, warm_up: Caligo(seed, warm_up, constant),
        "straddle": SklearnStraddle,
        "straddle, closed form": lambda seed, warm_up: SklearnStraddle(seed, warm_up, knows_closed_form=True),
        "Optuna": lambda seed, warm_up: Optuna("TPESampler", seed, warm_up),
        "AEPsych": lambda seed, warm_up: AEPsych(arguments.aepsych, seed, warm_up),
    }

    def score(method: str, collection: Collection, n: int, held_out: ResultRows) -> dict[str, Any]:
        warm_up, active = collection.warm_up, collection.up_to(n)
        if method.startswith("straddle"):
            knows = method == "straddle, closed form"
            return judge_straddle(collection.seed, warm_up, active, held_out, knows_closed_form=knows)
        return judge(warm_up, active, held_out, constant if method == "caligo, constant" else None)

    def path_of(world: World, method: str, seed: int) -> Path:
        return arguments.folder / f"{world.name}-{method.replace(', ', '-').replace(' ', '-')}-{seed}.json"

    worlds = [WORLDS[name] for name in arguments.worlds]
    held = {world.name: cliff_rows.few_held_out(world) for world in worlds}
    for seed in arguments.seeds:
        for world in worlds:
            held_out = held[world.name]
            for method in arguments.methods:
                scores = Scores(path_of(world, method, seed))
                if method == "closed form":
                    key = expect(held_out["inputs"], SPEC.physics, SPEC.protocol).key
                    scores.add(0, scores_of(key, held_out))
                    continue
                wanted = [n for n in CHECKPOINTS if n <= arguments.up_to and n not in scores.values]
                if not wanted:
                    continue
                title = f"{world.name}, {method}, seed {seed}"
                if method == "Latin hypercube":
                    for n in wanted:
                        rows = cliff_rows.latin_hypercube(seed, n, world=world)
                        scores.add(n, judge(rows, empty_rows(), held_out))
                    print(f"{title}: Brier {[round(s['brier'], 4) for s in scores.values.values()]}", flush=True)
                    continue
                collection = Collection(scores.path.with_suffix(".npy"), seed, world)
                try:
                    collection.extend(makers[method], wanted[-1], title)
                except MissingError as missing:
                    print(f"{method} is left out: {missing}")
                    continue
                for n in wanted:
                    if n <= collection.simulations:
                        scores.add(n, score(method, collection, n, held_out))
                        print(f"{title}, {n} simulations: Brier {scores.values[n]['brier']:.4f}", flush=True)

    found: dict[str, tuple[dict[str, list[Scores]], Floor]] = {}
    for world in worlds:
        runs = {
            method: [Scores(path_of(world, method, seed)) for seed in arguments.seeds]
            for method in KNOWS
            if any(path_of(world, method, seed).exists() for seed in arguments.seeds)
        }
        found[world.name] = runs, floor(world, held[world.name])
        table(world.name, *found[world.name])
    if arguments.figure is not None:
        figure(found, arguments.figure)
    if arguments.json:
        runs, lowest = found[arguments.worlds[0]]
        own = mean_of(runs.get("caligo", []), 50)[0]
        print(json.dumps({
            "name": "cliff_finding", "value": own, "unit": "Brier score after 50 simulations", "peer": "floor",
            "peer_value": lowest.on_outcomes, "ratio": own / lowest.on_outcomes, "worlds": {
                world: {
                    "floor": lowest._asdict(),
                    "methods": {
                        method: {str(n): mean_of(scores, n) for n in (0, *CHECKPOINTS) if mean_of(scores, n)[2]}
                        for method, scores in runs.items()
                    },
                }
                for world, (runs, lowest) in found.items()
            },
        }))  # fmt: skip


if __name__ == "__main__":
    main()
