"""Finite-size statistics, key length, and the statistics of the down-conversion source."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from caligo.physics.finite_key import (
    detection_interval,
    detection_tolerance,
    immediate_measurement_entropy,
    key_length,
    min_entropy,
    qber_margin,
    serfling_margin,
)
from caligo.physics.pdc import heralded_source
from caligo.physics.security import min_entropy_rate

BOUNDS = ("lupo2023", "kww2012", "erven2014")
unit = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "rate"),
    [(1e3, 0.348317), (3686, 0.420539), (1e4, 0.451690), (1e5, 0.484713), (1e6, 0.495165), (1e7, 0.498471)],
)
def test_immediate_measurement_rates(n: float, rate: float) -> None:
    # The reference list was taken on a grid of s, so it lies below the maximum, by up to 6e-6.
    assert rate - 1e-6 <= immediate_measurement_entropy(n, 1e-10) / n <= rate + 1e-5


@pytest.mark.parametrize("eps", [1e-15, 1e-10, 1e-6, 0.1])
@pytest.mark.parametrize("n", [100.0, 500.0, 800.0, 822.0, 5e3, 1e6, 1e9, 1e13])
def test_immediate_measurement_entropy_is_the_maximum(n: float, eps: float) -> None:
    s = np.concatenate([np.linspace(1e-3, 1.0, 200_001), np.geomspace(1e-7, 1e-3, 20_001)])
    over_s = (n * (1 + s - np.log2(1 + 2**s)) - math.log2(2 / eps**2)) / s
    assert immediate_measurement_entropy(n, eps) == pytest.approx(max(0.0, over_s.max()), rel=1e-6, abs=1e-9)


def test_no_rounds_no_entropy() -> None:
    assert immediate_measurement_entropy(0.0, 1e-10) == 0.0
    for bound in BOUNDS:
        assert min_entropy(0.0, 0.5, 0.5, 1e-10, bound) == 0.0


@given(unit, unit, st.sampled_from(BOUNDS))
def test_finite_entropy_tends_to_the_rate(r: float, nu: float, bound) -> None:
    m = 1e13
    rate = min_entropy_rate(r, nu, bound)
    finite = min_entropy(m, r, nu, 1e-10, bound) / m
    assert finite <= rate + 1e-9
    assert finite == pytest.approx(rate, abs=1e-5)


@given(unit, unit, unit, unit, st.floats(10.0, 1e8), st.sampled_from(BOUNDS))
def test_finite_entropy_falls_with_the_memory(r1, r2, nu1, nu2, m, bound) -> None:
    (r_low, r_high), (nu_low, nu_high) = sorted((r1, r2)), sorted((nu1, nu2))
    slack = 1e-9 * m
    assert min_entropy(m, r_high, nu_low, 1e-10, bound) <= min_entropy(m, r_low, nu_low, 1e-10, bound) + slack
    # Under lupo2023 the deviation sqrt(nu m) makes a small memory cost more than it holds: only the limit
    # is monotone in nu.
    if bound != "lupo2023":
        assert min_entropy(m, r_low, nu_high, 1e-10, bound) <= min_entropy(m, r_low, nu_low, 1e-10, bound) + slack


def test_key_length_constant() -> None:
    """2 log2(1/eps) - 1 = 65.44 bits at eps = 1e-10."""
    entropy = min_entropy(1e6, 0.5, 0.0, 1e-10)
    assert key_length(1e6, 1000.0, 0.5, 0.0, 1e-10) == math.floor(entropy - 1000.0 - 65.4386)
    assert key_length(1000.0, 2000.0, 0.5, 0.5, 1e-10) < 0


def test_detection_tolerance() -> None:
    assert detection_tolerance(1e4, 1e-10) == pytest.approx(3.444e-2, abs=5e-6)
    assert detection_tolerance(1e6, 1e-10) == pytest.approx(3.444e-3, abs=5e-7)


@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 0.97, 1.0])
def test_detection_interval_holds(p: float) -> None:
    n, eps = 10_000, 1e-2
    low, high = detection_interval(n, p, eps)
    assert 0 <= low <= n * p <= high <= n
    outside = binom.cdf(low - 1, n, p) + binom.sf(high, n, p)
    assert outside <= eps


@pytest.mark.parametrize(("total", "percent"), [(5e4, 7.37), (5e5, 2.33), (5e6, 0.74)])
def test_serfling_margin(total: float, percent: float) -> None:
    k = 0.1 * total
    assert 100 * serfling_margin(total - k, k, 1e-10) == pytest.approx(percent, abs=0.005)


def test_qber_margin() -> None:
    assert qber_margin(0.02, 9e3, 1e3, 1e-10) == pytest.approx(3 * math.sqrt(0.02 * 0.98 / 1e3))
    assert qber_margin(0.0, 9e3, 1e3, 1e-10) == pytest.approx(3e-3)  # no error seen is not no error
    assert qber_margin(0.02, 45e3, 5e3, 1e-10, "serfling") == serfling_margin(45e3, 5e3, 1e-10)
    with pytest.raises(ValueError, match="penalty"):
        qber_margin(0.02, 9e3, 1e3, 1e-10, "hoeffding")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bound"):
        min_entropy(1e4, 0.5, 0.5, 1e-10, "max")  # type: ignore[arg-type]


def _source_sums(mu: float, eta: float, e_det: float, p_dark: float, terms: int = 40):
    """The four probabilities by summing over photon numbers of the two modes, dark counts and coins."""
    x = 0.5 * mu
    mode = [x**k / (1 + x) ** (k + 1) for k in range(terms)]
    alice = vacuum = single = silent = error = clicked = 0.0
    for i in range(terms):
        for j in range(terms):
            weight = mode[i] * mode[j]
            quiet_1, quiet_2 = (1 - p_dark) * (1 - eta) ** i, (1 - p_dark) * (1 - eta) ** j
            # Alice's detector 1 alone; the other outcome is its mirror image.
            herald = weight * (1 - quiet_1) * quiet_2
            alice += herald
            vacuum += herald if i + j == 0 else 0.0
            single += herald if i + j == 1 else 0.0
            right, wrong = 1 - (1 - eta) ** i, 1 - (1 - eta) ** j
            only_right, only_wrong, both = right * (1 - wrong), wrong * (1 - right), right * wrong
            only_right, only_wrong = (
                (1 - e_det) * only_right + e_det * only_wrong,
                (1 - e_det) * only_wrong + e_det * only_right,
            )
            none = (1 - right) * (1 - wrong)
            d = p_dark
            p_wrong = only_wrong * ((1 - d) + d / 2) + only_right * d / 2 + both / 2 + none * (d * (1 - d) + d * d / 2)
            p_silent = none * (1 - d) ** 2
            silent += herald * p_silent
            error += herald * p_wrong
            clicked += herald * (1 - p_silent)
    return vacuum / alice, single / alice, silent / alice, error / clicked


@pytest.mark.parametrize("args", [(3.145e-5, 0.015, 0.0093, 1.5e-8), (0.3, 0.4, 0.02, 1e-3), (0.8, 0.9, 0.0, 0.05)])
def test_heralded_source_is_the_sum_over_photon_numbers(args) -> None:
    assert tuple(heralded_source(*args)) == pytest.approx(_source_sums(*args), rel=1e-8)
