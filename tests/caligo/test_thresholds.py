"""Thresholds of curves whose crossings are known, and of the closed form, whose crossings a root finder finds."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.optimize import brentq

from caligo import thresholds
from caligo.closed_form import expect, expected
from caligo.errors import InvalidArgument
from caligo.points import parameter_column, point
from caligo.space import PARAMETERS, SYMBOLS, Space, Strategy
from caligo.spec import CampaignSpec, SpaceSpec

SPACE = SpaceSpec().resolve()
R, N = SYMBOLS.index("r"), SYMBOLS.index("N")


def ask(column: int, predict, levels=(0.5, 0.95), space: Space = SPACE, **at) -> list[thresholds.Threshold]:
    asking = thresholds.steps(space, column, point(at, space), levels)
    rows = next(asking)
    while True:
        try:
            rows = asking.send(predict(rows).astype(np.float32))
        except StopIteration as end:
            return list(end.value)


def gaussian(mean: np.ndarray, sd: float, run_sd: float, gate: float = 1.0) -> np.ndarray:
    """Predictions of a surrogate with this mean and spread of a run, where the closed form says another spread."""
    key = gate * np.array([NormalDist().cdf(m / sd) for m in mean])
    theory = np.array([NormalDist().cdf(m / run_sd) for m in mean])
    return np.stack([mean, np.full_like(mean, sd), key, mean, np.full_like(mean, run_sd), theory], axis=1)


def test_a_straight_margin_is_crossed_where_it_must_be() -> None:
    """Margin 2 (0.7 - r) with a spread of 0.05 a run, of which the surrogate is unsure by 0.03."""
    sd, run_sd = math.hypot(0.05, 0.03), 0.05
    half, surely, *_ = ask(R, lambda rows: gaussian(2 * (0.7 - rows[:, R].astype(float)), sd, run_sd))
    (crossing,) = half.crossings
    assert (half.parameter, half.strategy, half.level, crossing.rises) == ("r", Strategy.BASELINE, 0.5, False)
    assert crossing.value == pytest.approx(0.7, abs=1e-4)
    assert (crossing.low, crossing.high) == pytest.approx((0.7 - 1.96 * 0.03 / 2, 0.7 + 1.96 * 0.03 / 2), abs=3e-4)
    assert half.closed_form == pytest.approx([0.7], abs=1e-4)
    (crossing,) = surely.crossings
    assert crossing.value == pytest.approx(0.7 - 1.6449 * sd / 2, abs=3e-4)
    assert surely.closed_form == pytest.approx([0.7 - 1.6449 * run_sd / 2], abs=3e-4)
    assert crossing.low < crossing.value < crossing.high


def test_units_are_physical_where_a_parameter_is_logarithmic() -> None:
    half, _ = ask(N, lambda rows: gaussian(rows[:, N].astype(float) - 6.0, 0.2, 0.2), space=blind())
    (crossing,) = half.crossings
    assert crossing.value == pytest.approx(1e6, rel=1e-3)
    assert crossing.rises and half.strategy is Strategy.BLIND
    assert crossing.low == pytest.approx(crossing.high, rel=1e-3)  # nothing that the surrogate is unsure of


def blind() -> Space:
    return SpaceSpec(blind_fraction=1.0).resolve()


def test_every_crossing_is_listed_and_none_is_said_to_be_none() -> None:
    def wave(rows: np.ndarray) -> np.ndarray:
        return gaussian(np.cos(np.pi * (rows[:, R].astype(float) - 0.5) / 0.1), 0.1, 0.1)

    half, *_ = ask(R, wave, levels=(0.5,))
    assert [c.value for c in half.crossings] == pytest.approx([0.55, 0.65, 0.75, 0.85, 0.95], abs=1e-3)
    assert [c.rises for c in half.crossings] == [False, True, False, True, False]
    for margin, is_above in ((1.0, True), (-1.0, False)):
        found, *_ = ask(R, lambda rows, m=margin: gaussian(np.full(len(rows), m), 0.1, 0.1), levels=(0.5,))
        assert (found.crossings, found.is_above, found.closed_form) == ((), is_above, ())


def test_a_band_that_leaves_the_space_says_so() -> None:
    half, *_ = ask(R, lambda rows: gaussian(0.98 - rows[:, R].astype(float), 0.1, 0.05), levels=(0.5,))
    (crossing,) = half.crossings
    assert crossing.value == pytest.approx(0.98, abs=1e-3)
    assert math.isnan(crossing.low) or math.isnan(crossing.high)


def test_a_gate_lowers_the_probability_and_moves_the_threshold() -> None:
    half, _, *_ = ask(R, lambda rows: gaussian(0.7 - rows[:, R].astype(float), 0.05, 0.05, gate=0.6))
    (crossing,) = half.crossings
    assert crossing.value == pytest.approx(0.7 - 0.05 * NormalDist().inv_cdf(0.5 / 0.6), abs=1e-3)


def test_without_a_closed_form_the_band_is_where_the_interval_meets_the_cliff() -> None:
    def predict(rows: np.ndarray) -> np.ndarray:
        answer = gaussian(0.7 - rows[:, R].astype(float), 0.05, 0.05)
        answer[:, 3:] = np.nan
        return answer

    half, *_ = ask(R, predict, levels=(0.5,))
    (crossing,) = half.crossings
    assert (crossing.low, crossing.high) == pytest.approx((0.7 - 1.96 * 0.05, 0.7 + 1.96 * 0.05), abs=2e-3)
    assert half.closed_form == ()


@pytest.mark.parametrize(
    ("symbol", "at"),
    [("r", {"F": 0.99, "eta": 0.5, "N": 1e8, "nu": 1, "dt_ns": 1e10}), ("F", {"r": 0.7, "N": 3e6})],
)
def test_the_closed_form_s_own_thresholds_are_its_roots(symbol: str, at: dict[str, float]) -> None:
    spec = CampaignSpec()
    column = parameter_column(symbol, "parameter")

    def predict(rows: np.ndarray) -> np.ndarray:
        theory = expected(rows, spec)
        return np.concatenate([theory, theory], axis=1)

    for found in ask(column, predict, levels=(0.5,), **at):
        row = point({**at, "strategy": found.strategy.name.lower()}, SPACE)

        def over(value: float, row: np.ndarray = row) -> float:
            moved = row.astype(np.float64)
            moved[column] = value
            return float(expect(moved, spec.physics, spec.protocol).key) - 0.5

        low, high = SPACE.model_bounds()[:, column]
        assert over(low) * over(high) < 0
        root = brentq(over, low, high)
        (crossing,) = found.crossings
        assert crossing.value == pytest.approx(10**root if PARAMETERS[column].is_log else root, rel=1e-3)
        assert found.closed_form == pytest.approx([crossing.value])
        assert (crossing.low, crossing.high) == pytest.approx((crossing.value, crossing.value), rel=1e-3)


def test_a_wrong_name_is_refused_with_the_nearest_right_one() -> None:
    for symbol, meant in (("Eta", "eta"), ("f", "F"), ("pdark", "P_dark"), ("dt", "dt_ns")):
        with pytest.raises(InvalidArgument, match=rf"did you mean {meant}\?"):
            point({symbol: 0.5}, SPACE)
        with pytest.raises(InvalidArgument, match=rf"parameter: .*did you mean {meant}\?"):
            parameter_column(symbol, "parameter")
    with pytest.raises(InvalidArgument, match="must be baseline or blind"):
        point({"strategy": "both"}, SPACE)
    for value in ("x", float("nan"), 2):
        with pytest.raises(InvalidArgument, match="F: must"):
            point({"F": value}, SPACE)
