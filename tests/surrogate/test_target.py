"""The scale on which the target is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
from caligo_surrogate.target import MARGIN_BEND, TargetScale
from scipy.stats import norm

TARGET = np.random.default_rng(3).normal(-0.1, 0.3, 500).astype(np.float32)


@pytest.mark.parametrize("bend", [MARGIN_BEND, math.inf])
def test_standardised_targets_have_mean_0_and_sd_1(bend):
    standardised = TargetScale.of(TARGET, bend).apply(TARGET)
    assert standardised.dtype == np.float32
    assert standardised.mean() == pytest.approx(0, abs=1e-5)
    assert standardised.std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("bend", [MARGIN_BEND, math.inf])
def test_zero_is_the_level_and_the_order_stays(bend):
    standard = TargetScale.of(TARGET, bend)
    assert standard.apply(np.zeros(1, dtype=np.float32))[0] == pytest.approx(standard.level, abs=1e-6)
    assert (np.diff(standard.apply(np.sort(TARGET))) >= 0).all()


def test_medians_and_intervals_go_over_into_the_target():
    """Against the quantiles of a million draws on the standardised scale, bent back one by one."""
    standard = TargetScale.of(TARGET, MARGIN_BEND)
    mean, sd = np.array([-1.5, 0.0, 1.2], dtype=np.float32), np.array([0.3, 0.1, 0.5], dtype=np.float32)
    median, half = standard.invert(mean, sd)
    draws = mean + sd * np.random.default_rng(0).standard_normal((10**6, 3))
    targets = MARGIN_BEND * np.sinh((standard.shift + standard.scale * draws) / MARGIN_BEND)
    low, middle, high = np.quantile(targets, [norm.cdf(-1), 0.5, norm.cdf(1)], axis=0)
    np.testing.assert_allclose(median, middle, atol=2e-3)
    np.testing.assert_allclose(half, (high - low) / 2, rtol=1e-2)
    np.testing.assert_allclose(standard.apply(median), mean, atol=1e-5)


def test_without_a_bend_it_is_affine():
    median, half = TargetScale.of(TARGET).invert(np.array([2.0], dtype=np.float32), np.array([0.5], dtype=np.float32))
    assert median[0] == pytest.approx(TARGET.mean(dtype=np.float64) + 2 * TARGET.std(dtype=np.float64), rel=1e-5)
    assert half[0] == pytest.approx(0.5 * TARGET.std(dtype=np.float64), rel=1e-5)


def test_one_value_everywhere_keeps_its_scale():
    constant = np.full(5, 0.1, dtype=np.float32)
    assert TargetScale.of(constant, MARGIN_BEND).apply(constant) == pytest.approx(0, abs=1e-6)
