"""Predictions against what came, on distributions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from caligo.calibration import INTERVALS, calibrate
from caligo.results import METRIC, ROW_DTYPE, ProtocolOutcome, ResultRows


def rows_of(margin: np.ndarray) -> ResultRows:
    rows = np.zeros(len(margin), dtype=ROW_DTYPE)
    rows["metrics"] = np.nan
    rows["metrics"][:, METRIC["margin"]] = margin
    rows["metrics"][:, METRIC["net_efficiency"]] = np.clip(margin, 0, None)
    rows["outcome"] = np.where(margin > 0, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
    return rows


@pytest.fixture
def forecast() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([rng.normal(0, 0.3, 20_000), rng.uniform(0.01, 0.1, 20_000)], axis=1).astype(np.float32)


def test_an_honest_forecast_covers_what_it_says(forecast: np.ndarray) -> None:
    margin = forecast[:, 0] + forecast[:, 1] * np.random.default_rng(2).standard_normal(len(forecast))
    found = calibrate(rows_of(margin), forecast, "margin")
    assert found is not None
    assert found.rows == 20_000
    assert found.coverage == pytest.approx(INTERVALS, abs=0.015)
    assert found.mean_z == pytest.approx(0, abs=0.03)


def test_an_overconfident_and_biased_forecast_does_not(forecast: np.ndarray) -> None:
    """Outcomes N(1, 2^2) in units of the forecast: P(|z| < c) = Phi((c - 1) / 2) - Phi((-c - 1) / 2)."""
    z = 1 + 2 * np.random.default_rng(2).standard_normal(len(forecast))
    found = calibrate(rows_of(forecast[:, 0] + forecast[:, 1] * z), forecast, "margin")
    assert found is not None
    assert found.coverage == pytest.approx((0.2343, 0.5335, 0.6149), abs=0.015)
    assert found.mean_z == pytest.approx(1, abs=0.05)


def test_only_simulated_rows_with_a_forecast_count(forecast: np.ndarray) -> None:
    forecast = forecast[:6].copy()
    rows = rows_of(forecast[:, 0].copy())
    rows["outcome"][:4] = [
        ProtocolOutcome.SKIPPED_PREDICTED_FAILURE,
        ProtocolOutcome.SKIPPED_INFEASIBLE,
        ProtocolOutcome.FAILURE_ERROR,
        ProtocolOutcome.FAILURE_TIMEOUT,
    ]
    forecast[4] = np.nan
    found = calibrate(rows, forecast, "margin")
    assert found is not None and found.rows == 1
    assert calibrate(rows[:5], forecast[:5], "margin") is None
    assert calibrate(rows[:0], forecast[:0], "margin") is None


def test_the_target_is_the_one_that_was_foretold(forecast: np.ndarray) -> None:
    rows = rows_of(np.full(10, -0.5, dtype=np.float32))
    of_zero = np.tile(np.array([0.0, 0.1], dtype=np.float32), (10, 1))
    efficiency, margin = calibrate(rows, of_zero, "efficiency"), calibrate(rows, of_zero, "margin")
    assert efficiency is not None and margin is not None
    assert (efficiency.mean_z, margin.mean_z) == (0, pytest.approx(-5))
