"""The guardrail's classifier on rows of the real simulator, without the closed form: what it saves, how often it is
wrong, how long it takes.

Rows are those of `benchmarks.cliff_rows` (made on the first run, which takes a quarter of an hour). Each classifier
learns from 300, 1,000 or 2,000 simulated rows of one Latin hypercube and the infeasible ones among them: six, two and
one disjoint sets. All are asked about the feasible rows of another, which the simulator has decided. Peers are
scikit-learn's random forest with its votes taken for probabilities, and its histogram gradient boosting with sigmoid
calibration by cross-fitting.

* skipped: failures with a probability above 0.99, of all failures; saved: rows above 0.99, of all: simulations that
  need not be made.
* false: of the rows above 0.99, those that gave a key, with the one-sided 95 % bound of Clopper and Pearson.
* own bound: that which the guardrail knows of, from rows that it learnt from (mean over the sets).
* in use: failures skipped where that bound has to be at most 1 %, so the threshold is raised or nothing is skipped.
* time: processor seconds of one thread: training, a row in a batch of 10,000, a row alone (medians).

A second table compares what may become of a skipped row in the regressor: see `imputation`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import numpy as np
import torch
from caligo_surrogate.device import Device
from caligo_surrogate.guardrail import Candidates, Guardrail
from caligo_surrogate.landscape import EfficiencyLandscape
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import brier_score_loss, f1_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.cliff_rows import SPACE, SPEC, held_out, training
from caligo import logs, screening
from caligo.phases import Phase
from caligo.results import METRIC, ProtocolOutcome, ResultRows
from caligo.spec import GuardrailSpec, SurrogateSpec

THRESHOLD: Final = 0.99
SETS: Final = {300: 6, 1000: 2, 2000: 1}
"""Training rows: number of disjoint sets."""
BATCH: Final = 10_000
SEED: Final = 7
WARM_UP: Final = 300
"""Simulated rows of the comparison of imputations before anything is skipped."""
IMPUTATIONS: Final = 3
"""Times that it is made."""

Result = TypeVar("Result")
Probability = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Rows in unit coordinates, and which of them were simulated and failed."""

    unit: NDArray[np.float32]
    simulated: NDArray[np.bool_]
    failed: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: ResultRows) -> Labelled:
        simulated = rows["outcome"] != ProtocolOutcome.SKIPPED_INFEASIBLE
        return cls(SPACE.to_unit(rows["inputs"]), simulated, rows["outcome"] != ProtocolOutcome.SUCCESS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    logs.configure(level="error")
    learned, judged = training(), held_out()
    table = [row for size in SETS for row in classifiers(size, learned, Labelled.of(judged))]
    imputed = imputation(learned, judged)
    if not arguments.json:
        show(table)
        show(imputed)
    ours, plain = (
        next(row for row in table if row["rows"] == 2000 and row["classifier"] == name)
        for name in ("kernel_logistic", "plain forest")
    )
    result = {
        "name": "guardrail",
        "value": ours["skipped"],
        "unit": "failures skipped at 0.99 / failures, 2,000 rows learnt from",
        "peer": "scikit-learn random forest",
        "peer_value": plain["skipped"],
        "ratio": ours["skipped"] / plain["skipped"] if plain["skipped"] else None,
        "classifiers": table,
        "imputation": imputed,
    }
    print(json.dumps(result))


# --- classifiers ------------------------------------------------------------------------------------------------------


def classifiers(size: int, learned: ResultRows, judged: Labelled) -> list[dict[str, Any]]:
    """One row of the table for each classifier, taught with `size` simulated rows."""
    sets = list(disjoint_sets(size, Labelled.of(learned)))
    return [
        summary(name, size, [(*timed(lambda rows=rows, make=make: make(rows)), rows) for rows in sets], judged)  # type: ignore[misc]
        for name, make in {
            "kernel_logistic": lambda rows: guardrail(rows, "kernel_logistic"),
            "random_forest": lambda rows: guardrail(rows, "random_forest"),
            "gradient boosting": gradient_boosting,
            "plain forest": plain_forest,
        }.items()
    ]


def disjoint_sets(size: int, rows: Labelled) -> Iterator[Labelled]:
    """Sets with this many simulated rows, and the infeasible ones between them."""
    ends = np.flatnonzero(rows.simulated)[size - 1 :: size] + 1
    for start, end in zip([0, *ends], ends[: SETS[size]], strict=False):
        yield Labelled(rows.unit[start:end], rows.simulated[start:end], rows.failed[start:end])


def guardrail(rows: Labelled, classifier: str) -> Guardrail:
    return Guardrail(
        GuardrailSpec.model_validate({"classifier": classifier, "threshold": THRESHOLD}),
        SEED,
        screening.refused("the classifier alone is compared here"),
        candidates(rows.unit[rows.simulated]),
        rows.failed[rows.simulated],
        np.zeros(np.count_nonzero(rows.simulated), dtype=bool),
        candidates(rows.unit[~rows.simulated]),
    )


def candidates(unit: NDArray[np.float32]) -> Candidates:
    """Rows of which the classifier is shown what its peers are: the coordinates."""
    return Candidates(unit, np.zeros(len(unit)))


def by_coordinates(model: Guardrail) -> Probability:
    return lambda unit: model.failure_probability(candidates(unit))


def gradient_boosting(rows: Labelled) -> Probability:
    model = CalibratedClassifierCV(HistGradientBoostingClassifier(random_state=SEED), method="sigmoid", ensemble=False)
    model.fit(rows.unit[rows.simulated], rows.failed[rows.simulated])
    return lambda unit: model.predict_proba(unit)[:, 1]


def plain_forest(rows: Labelled) -> Probability:
    model = RandomForestClassifier(200, random_state=SEED)
    model.fit(rows.unit[rows.simulated], rows.failed[rows.simulated])
    return lambda unit: model.predict_proba(unit)[:, 1]


def summary(
    name: str, size: int, made: list[tuple[float, Guardrail | Probability, Labelled]], judged: Labelled
) -> dict[str, Any]:
    unit, failed = judged.unit[judged.simulated], judged.failed[judged.simulated]
    batch = np.resize(unit, (BATCH, unit.shape[1]))
    skipped, saved, in_use, brier, own_bounds, alone, together = [], [], [], [], [], [], []
    above = keys = 0
    for _, model, _ in made:
        predict = by_coordinates(model) if isinstance(model, Guardrail) else model
        probability = predict(unit)
        doomed = probability > THRESHOLD
        above += int(np.count_nonzero(doomed))
        keys += int(np.count_nonzero(doomed & ~failed))
        skipped.append(doomed[failed].mean())
        saved.append(doomed.mean())
        brier.append(brier_score_loss(failed, probability))
        if isinstance(model, Guardrail):
            own_bounds.append(model.state.false_skip_bound)
            in_use.append(model.is_active * (probability[failed] > model.state.threshold).mean())
        together += [timed(lambda predict=predict: predict(batch))[0] / BATCH for _ in range(5)]  # type: ignore[misc]
        alone += [timed(lambda predict=predict, i=i: predict(unit[i : i + 1]))[0] for i in range(50)]  # type: ignore[misc]
    return {
        "rows": size,
        "classifier": name,
        "brier": float(np.mean(brier)),
        "skipped": float(np.mean(skipped)),
        "saved": float(np.mean(saved)),
        "above": above,
        "false": keys,
        "false_bound": binomtest(keys, above, alternative="less").proportion_ci(0.95).high if above else None,
        "own_bound": float(np.mean(own_bounds)) if own_bounds else None,
        "in_use": float(np.mean(in_use)) if in_use else None,
        "train_s": statistics.median(seconds for seconds, *_ in made),
        "row_us": 1e6 * statistics.median(together),
        "alone_us": 1e6 * statistics.median(alone),
    }


# --- imputation -------------------------------------------------------------------------------------------------------


def imputation(learned: ResultRows, judged: ResultRows) -> list[dict[str, Any]]:
    """Brier score and F1 of "key > 0" on the held-out rows, by what becomes of skipped rows in the regressor.

    It is fitted to 300 simulated rows, and so is the classifier. Of the other 1,700, those whose probability of failure
    exceeds the threshold are skipped; the rest is shown to the regressor as measured. Hyper-parameters and classifier
    are the same throughout, only this is not:

    * simulated: nothing is skipped;
    * capped: the posterior mean, capped below 0, as `EfficiencyLandscape` does;
    * zero: a margin of 0, which says "on the cliff";
    * left out: the regressor does not hear of them;
    * left to the classifier: nor here, and a row that the classifier would skip counts as a failure.

    Means over three disjoint sets of 300 rows and standard errors of the difference to "simulated".
    """
    ends = np.flatnonzero(Labelled.of(learned).simulated)[WARM_UP - 1 :: WARM_UP] + 1
    runs = [
        imputed(learned[start:end], np.delete(learned, np.s_[start:end]), judged)
        for start, end in zip([0, *ends], ends[:IMPUTATIONS], strict=False)
    ]
    scores = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    table = []
    for name, (brier, f1, share) in ((name, score.T) for name, score in scores.items()):
        differences = [values - scores["simulated"].T[j] for j, values in enumerate((brier, f1))]
        errors = [float(difference.std(ddof=1) / np.sqrt(len(runs))) for difference in differences]
        table.append(
            {
                "skipped rows": name,
                "brier": float(brier.mean()),
                "brier_error": errors[0],
                "f1": float(f1.mean()),
                "f1_error": errors[1],
                "failures skipped": float(share.mean()),
            }
        )
    return table


def imputed(first: ResultRows, later: ResultRows, judged: ResultRows) -> dict[str, tuple[float, float, float]]:
    """Brier score, F1 and the share of the later failures that was skipped, by treatment."""
    base = landscape()
    base.observe(Phase.LHS, first)
    for _ in base.fit():
        pass
    guard = guardrail(Labelled.of(first), "kernel_logistic")
    probability = by_coordinates(guard)
    later_rows = Labelled.of(later)
    doomed = later_rows.simulated & (probability(later_rows.unit) > THRESHOLD)
    share = np.count_nonzero(doomed) / np.count_nonzero(later_rows.failed & later_rows.simulated)

    capped, zero = later.copy(), later.copy()
    capped["outcome"][doomed] = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    capped["metrics"][doomed] = np.nan
    zero["metrics"][doomed, METRIC["margin"]] = 0
    predicted = {}
    for name, rows in {"simulated": later, "capped": capped, "zero": zero, "left out": later[~doomed]}.items():
        asked = landscape()
        asked.observe(Phase.LHS, np.concatenate([first, rows]))
        asked.load(*base.export())
        predicted[name] = asked.predict(judged["inputs"]).key
    sure = probability(Labelled.of(judged).unit) > THRESHOLD
    predicted["left to the classifier"] = np.where(sure, np.float32(0), predicted["left out"])

    feasible = Labelled.of(judged).simulated
    success = (judged["outcome"] == ProtocolOutcome.SUCCESS)[feasible]
    return {
        name: (float(brier_score_loss(success, key[feasible])), float(f1_score(success, key[feasible] > 0.5)), share)
        for name, key in predicted.items()
    }


def landscape() -> EfficiencyLandscape:
    return EfficiencyLandscape(
        SPACE, SurrogateSpec(), GuardrailSpec(), SPEC.physics, SPEC.protocol, SEED, Device("cpu")
    )


# --- output -----------------------------------------------------------------------------------------------------------


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that the processor spent, one thread, and what came of it."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def show(table: list[dict[str, Any]]) -> None:
    for i, row in enumerate(table):
        if i == 0:
            print("| " + " | ".join(row) + " |\n|" + "--|" * len(row))
        cells = ("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main()
