"""How good the predictions are: rows that the process has not seen against what it says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, f1_score

from caligo import seeds
from caligo.phases import Phase
from caligo.results import ResultRows, simulated, succeeded
from caligo.seeds import Purpose
from caligo.space import Space
from caligo_surrogate.conditioning import CLOSED_FORM_SCALE, Fitted
from caligo_surrogate.posterior import Moments
from caligo_surrogate.prior import ClosedForm, Prior
from caligo_surrogate.rows import Reading
from caligo_surrogate.target import TargetScale

_INTERVALS: Final = (0.50, 0.90, 0.95)
_FORECAST: Final = np.dtype([("error", "f4"), ("z", "f4"), ("key", "f4"), ("success", "?"), ("known", "?")])
"""A row against what was said of it: error in units of the target and in standard deviations, where its target is
known; probability of a key, and whether there was one."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """Quality on simulated rows that the fit did not see.

    Attributes:
        rows: how many.
        rmse: of the target, over the rows that have one.
        f1, brier: of "there is a key", over all.
        coverage: shares of the rows with a target inside the central 50, 90 and 95 % intervals.
        closed_form: (rmse, brier) of the closed form alone on the same rows; None where it is not the prior.
    """

    rows: int
    rmse: float
    f1: float
    brier: float
    coverage: tuple[float, ...]
    closed_form: tuple[float, float] | None = None


def held_out(rows: ResultRows, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which rows of phase 1 to hold out, bool [n]: the same ones at every fit, so that errors can be compared.

    Rows of the active phase would be a sample of the cliff's neighbourhood, harder from batch to batch.
    """
    rng = seeds.generator(seed, Phase.SURROGATE, 0, Purpose.HOLD_OUT)
    candidates = np.flatnonzero(simulated(rows))
    mask = np.zeros(len(rows), dtype=np.bool_)
    mask[rng.permutation(candidates)[: round(fraction * len(candidates))]] = True
    return mask


def folds(tested: NDArray[np.intp], count: int, seed: int) -> list[NDArray[np.intp]]:
    """Indices of rows in so many parts, drawn by the seed tree."""
    rng = seeds.generator(seed, Phase.SURROGATE, 0, Purpose.FOLDS)
    return np.array_split(rng.permutation(tested), count)


def forecast(fitted: Fitted, rows: ResultRows, space: Space, reading: Reading) -> NDArray[np.void]:
    """What the process says of simulated rows that it has not seen: an array [n] of `_FORECAST`."""
    return _forecast(fitted.moments(space.to_unit(rows["inputs"])), fitted.scale, rows, reading)


def forecast_by(prior: Prior, rows: ResultRows, space: Space, reading: Reading) -> NDArray[np.void] | None:
    """What the closed form alone says of simulated rows; None where it is not the prior."""
    if not isinstance(prior, ClosedForm):
        return None
    known = prior(torch.from_numpy(space.to_unit(rows["inputs"])))
    moments = Moments(known.mean, torch.zeros_like(known.mean), known.noise, known.gate)
    return _forecast(moments, CLOSED_FORM_SCALE, rows, reading)


def _forecast(moments: Moments, scale: TargetScale, rows: ResultRows, reading: Reading) -> NDArray[np.void]:
    mean, spread = moments.mean.numpy(), moments.spread.numpy()
    median, _ = scale.invert(mean, spread)
    target = reading.target(rows)
    found = np.empty(len(rows), dtype=_FORECAST)
    found["error"] = target - median
    found["z"] = (scale.apply(target) - mean) / spread
    found["key"] = moments.key(scale.level)
    found["success"] = succeeded(rows)
    found["known"] = reading.has_target(rows)
    return found


def score(forecasts: NDArray[np.void], by_closed_form: NDArray[np.void] | None) -> Validation:
    """The quality of forecasts, beside that of the closed form's own of the same rows."""
    known = forecasts[forecasts["known"]]
    inside = np.abs(known["z"])[:, None] <= norm.ppf(0.5 + np.array(_INTERVALS) / 2)
    closed_form = None if by_closed_form is None else (_rmse(by_closed_form), _brier(by_closed_form))
    return Validation(
        rows=len(forecasts),
        rmse=_rmse(forecasts),
        f1=float(f1_score(forecasts["success"], forecasts["key"] > 0.5, zero_division=0.0)),
        brier=_brier(forecasts),
        coverage=tuple(inside.mean(axis=0).tolist()) if len(known) else (float("nan"),) * len(_INTERVALS),
        closed_form=closed_form,
    )


def in_parts(
    rows: ResultRows, parts: list[NDArray[np.intp]], without: Callable[[ResultRows, ResultRows], NDArray[np.void]]
) -> NDArray[np.void]:
    """Forecasts of every part of rows from all rows but it; `without(rest, part)` makes them."""
    return np.concatenate([without(np.delete(rows, part), rows[part]) for part in parts])


def _rmse(forecasts: NDArray[np.void]) -> float:
    error = forecasts["error"][forecasts["known"]]
    return float(np.sqrt(np.mean(np.square(error)))) if len(error) else float("nan")


def _brier(forecasts: NDArray[np.void]) -> float:
    return float(brier_score_loss(forecasts["success"], forecasts["key"], labels=[False, True]))
