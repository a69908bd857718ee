"""Where the simulated device differs from the closed form: whether it does, by how much at most, and along what.

d(x) is the posterior mean of the margin less the closed form's, which is what the rows have taught (Kennedy and
O'Hagan, "Bayesian calibration of computer models", J. R. Stat. Soc. B 63, 2001). Whether there is any is asked of the
rows themselves, without the process: `p_value`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from caligo import seeds
from caligo.discrepancy import FEWEST_ROWS, PROFILE_COLUMNS, PROFILE_STEPS, Discrepancy, steepest
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.seeds import Purpose
from caligo.space import DIMENSIONS, STRATEGY_COLUMN, Space
from caligo_surrogate.conditioning import Fitted
from caligo_surrogate.design import design_points, search_box
from caligo_surrogate.posterior import Matern
from caligo_surrogate.prior import DEEP, MARGIN_UNIT, ClosedForm
from caligo_surrogate.rows import Reading

LANDMARKS: Final = 256
"""Sobol points whose kernel functions span what the test looks for."""
LENGTH_SCALE: Final = 1.0
"""Of the kernel that the test looks along: a parameter's whole range, as the regressor's training begins."""
SIGNS: Final = 10_000
"""Random signs of all residuals that stand for the hypothesis."""
CANDIDATES: Final = 2**12
"""Sobol points of which those are taken that matter."""
POINTS: Final = {"cholesky": 256, "cg": 64}
"""As many at most, by solver: without a factor each costs a system."""
SAMPLES: Final = 1000
"""Posterior samples behind the simultaneous bound."""
AVERAGED: Final = 512
"""Points averaged over at each of them."""
CORRELATED: Final = {"cholesky": 128, "cg": 8}
"""Of these, points whose covariances make the band, by solver."""
FEWEST_AVERAGED: Final = 1 / 16
"""Share of them that has to matter for an average to be one."""
CERTAIN: Final = 1.96
TOO_SURE: Final = 2.0
"""By what the standard deviations of the process are raised: how far it was off, in units of them, where devices
differed whose truth is known (docs/decisions/0023-where-the-simulator-differs.md). It has fitted its hyper-parameters
to rows that lie elsewhere than the average over the design does, and counts none of their uncertainty."""

_POINTS, _SIGNS, _LANDMARKS, _SURFACES, _AVERAGED = range(5)
"""Branches of the seed tree."""


def p_value(
    unit: NDArray[np.float32],
    residuals: NDArray[np.float64],
    landmarks: NDArray[np.float32],
    generator: np.random.Generator,
) -> float:
    """Of the hypothesis that residuals are symmetric about 0, against a smooth function of the parameters.

    Two score tests of a variance component (Lin, "Variance component testing in generalised linear models with random
    effects", Biometrika 84, 1997), s'K s for s the signed normal scores of the residuals: K is 1 in one, which sees a
    shift of all, and a centred Matern-5/2 kernel in the other, through its functions at `landmarks`. The smaller of
    their p values counts, by its own distribution (Westfall and Young, "Resampling-based multiple testing", 1993). All
    distributions are those over random signs, which need neither large numbers nor normal residuals nor the right scale
    of any of them; single runs can lie dozens of the closed form's standard deviations off, and ranks keep these from
    deciding. So p is uniform under the hypothesis whatever the landmarks are, as far as `SIGNS` draws and ties allow.

    Args:
        unit: unit coordinates, float32 [n, 9].
        residuals: in standard deviations, float64 [n].
        landmarks: unit coordinates, float32 [m, 9].

    Returns:
        NaN for fewer than `FEWEST_ROWS` rows.
    """
    if len(residuals) < FEWEST_ROWS:
        return math.nan
    kernel = Matern(torch.full((DIMENSIONS,), LENGTH_SCALE), 1.0)
    rows, at = torch.from_numpy(unit).double(), torch.from_numpy(landmarks).double()
    among = kernel(at, at)
    among.diagonal().add_(1e-6)
    functions = torch.linalg.solve_triangular(torch.linalg.cholesky(among), kernel(at, rows), upper=False)
    functions -= functions.mean(dim=1, keepdim=True)
    scores = np.sign(residuals) * norm.ppf(0.5 + 0.5 * rankdata(np.abs(residuals)) / (len(residuals) + 1))
    weighed = np.vstack([np.ones(len(rows)), functions.numpy()]) * scores
    block = 500  # keeps what is held at once small where rows are many
    squares = [np.square(weighed.sum(axis=1, keepdims=True))]
    for _ in range(SIGNS // block):
        signs = 1.0 - 2.0 * generator.integers(0, 2, (len(rows), block), dtype=np.int8)
        squares.append(np.square(weighed @ signs))
    statistics = np.concatenate([np.stack([s[0], s[1:].sum(axis=0)]) for s in squares], axis=1)
    statistics = np.round(statistics / np.abs(statistics).max(axis=1, keepdims=True), 9)  # what is tied stays tied
    smaller = rankdata(-statistics, method="max", axis=1).min(axis=0)
    return float(np.mean(smaller <= smaller[0]))


def discrepancy(
    fitted: Fitted, prior: ClosedForm, rows: ResultRows, reading: Reading, space: Space, seed: int
) -> tuple[Discrepancy, NDArray[np.float32]]:
    """What the device differs by from the closed form, and its profiles along each parameter (`_profiles`).

    Sizes are of places that matter (`_matters`), with the standard deviations of the process `TOO_SURE` times as large.
    Simulated margins below 2 `DEEP` count as that much, as they do in all that is learned.

    Args:
        rows: every row that the process is given.
    """
    tested, p = _test(prior, rows, reading, space, seed)
    profiles = _profiles(fitted, prior, space, seed)
    unit = design_points(space, CANDIDATES, _key(seed, _POINTS))
    unit = unit[_matters(prior, unit)][: POINTS[fitted.posterior.plan.method]]
    if not len(unit):
        nowhere = [math.nan] * DIMENSIONS
        return Discrepancy(tested, p, math.nan, nowhere, math.nan, math.nan, ""), profiles
    mean = _difference(fitted, prior, unit)
    posterior, x = fitted.posterior, fitted.device.to_device(unit)
    normal = _generator(seed, _SURFACES).standard_normal((len(unit), SAMPLES), dtype=np.float32)
    with torch.no_grad():
        covariance = posterior.covariance(x)
        samples = posterior.deviations(covariance, fitted.device.to_device(normal).to(covariance))
        deviation = TOO_SURE * MARGIN_UNIT * covariance.diagonal().clamp_min(0).sqrt().cpu().double().numpy()
    largest = np.abs(mean[:, None] + TOO_SURE * MARGIN_UNIT * samples.cpu().double().numpy()).max(axis=0)
    clearest = int(np.argmax(np.abs(mean) / np.maximum(deviation, np.finfo(np.float32).tiny)))
    found = Discrepancy(
        rows=tested,
        p_value=p,
        bound=float(np.quantile(largest, 0.95)),
        point=space.from_unit(unit[clearest : clearest + 1])[0].tolist(),
        difference=float(mean[clearest]),
        deviation=float(deviation[clearest]),
        parameter=steepest(profiles),
    )
    return found, profiles


def _test(prior: ClosedForm, rows: ResultRows, reading: Reading, space: Space, seed: int) -> tuple[int, float]:
    """How many rows speak, and `p_value` of what they say."""
    known = rows[reading.known(rows)]
    unit = space.to_unit(known["inputs"])
    expected = prior(torch.from_numpy(unit).double())
    mean = MARGIN_UNIT * expected.mean.numpy()
    # By the closed form alone: rows taken by what they say themselves would be a biased choice.
    chosen = mean > DEEP
    residuals = (reading.lesson(known) - mean) / (MARGIN_UNIT * expected.noise.sqrt().numpy())
    landmarks = design_points(space, LANDMARKS, _key(seed, _LANDMARKS))
    return int(chosen.sum()), p_value(unit[chosen], residuals[chosen], landmarks, _generator(seed, _SIGNS))


def _profiles(fitted: Fitted, prior: ClosedForm, space: Space, seed: int) -> NDArray[np.float32]:
    """d along each parameter, on average over the others, float32 [9, `PROFILE_STEPS`, 3]: `PROFILE_COLUMNS`.

    The coordinate is a model coordinate; the average is by the measure of the design, over points that matter; the
    half width is that of the 95 % band of that average. NaN where hardly a point matters, along parameters that the
    space fixes, and for the strategy beyond its two values.
    """
    low, high = space.model_bounds()
    box = search_box(space, torch.zeros(0)).numpy()
    profiles = np.full((DIMENSIONS, PROFILE_STEPS, len(PROFILE_COLUMNS)), np.nan, dtype=np.float32)
    for j in np.flatnonzero(box[1] > box[0]):
        values = np.linspace(0.0, 1.0, 2 if j == STRATEGY_COLUMN else PROFILE_STEPS)
        profiles[j, : len(values), 0] = low[j] + values * (high[j] - low[j])
    places = np.argwhere(np.isfinite(profiles[:, :, 0]))
    others = design_points(space, AVERAGED, _key(seed, _AVERAGED))
    unit = np.tile(others, (len(places), 1, 1))
    for points, (j, i) in zip(unit, places, strict=True):
        points[:, j] = (profiles[j, i, 0] - low[j]) / (high[j] - low[j])
    # All at once: many points cost the closed form no more than a few do.
    matters = _matters(prior, unit.reshape(-1, DIMENSIONS)).reshape(unit.shape[:2])
    difference = _difference(fitted, prior, unit.reshape(-1, DIMENSIONS)).reshape(unit.shape[:2])
    for points, chosen, d, (j, i) in zip(unit, matters, difference, places, strict=True):
        if chosen.mean() < FEWEST_AVERAGED:
            continue
        some = points[chosen][: CORRELATED[fitted.posterior.plan.method]]
        with torch.no_grad():
            variance = float(fitted.posterior.covariance(fitted.device.to_device(some)).double().mean())
        profiles[j, i, 1:] = d[chosen].mean(), CERTAIN * TOO_SURE * MARGIN_UNIT * math.sqrt(max(variance, 0.0))
    return profiles


def _matters(prior: ClosedForm, unit: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where it is a question whether there is a key, bool [n]: by the closed form a run likely has a margin, which does
    not lie far below the cliff."""
    known = prior(torch.from_numpy(unit))
    return ((MARGIN_UNIT * known.mean > DEEP) & (known.gate > 0.5)).numpy()


def _difference(fitted: Fitted, prior: ClosedForm, unit: NDArray[np.float32]) -> NDArray[np.float64]:
    """d at unit coordinates [n, 9], margin, float64 [n]."""
    expected = prior(torch.from_numpy(unit)).mean
    return MARGIN_UNIT * (fitted.means(unit).mean - expected).double().numpy()


def _key(seed: int, branch: int) -> int:
    return seeds.key(seed, Phase.SURROGATE, branch, Purpose.DISCREPANCY) >> 1


def _generator(seed: int, branch: int) -> np.random.Generator:
    return seeds.generator(seed, Phase.SURROGATE, branch, Purpose.DISCREPANCY)
