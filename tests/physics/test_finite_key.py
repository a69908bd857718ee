"""Finite-size statistics, key length, and the statistics of the down-conversion source."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from caligo.physics.finite_key import (
    DEPOLARISING,
    ERASING,
    balancing_cost,
    design_qber,
    detection_interval,
    detection_tolerance,
    immediate_measurement_entropy,
    round_entropy,
    serfling_margin,
    unknown_bits,
    wilson_upper,
)
from caligo.physics.pdc import heralded_source
from caligo.physics.security import min_entropy_rate

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
    assert unknown_bits(0.0, 40.0, 0.5, 0.5, ERASING) == 0.0


@pytest.mark.parametrize("m", [1, 2, 10, 31, 32, 33, 500, 100_000])
def test_balancing_cost(m: int) -> None:
    """4^m / C(2m, m) in whole numbers."""
    exact = 2 * m - math.log2(math.comb(2 * m, m)) if m < 500 else float(_log2_ratio(m))
    assert balancing_cost(float(m)) == pytest.approx(exact, abs=1e-10)


def _log2_ratio(m: int) -> float:
    """2m - log2 C(2m, m) of a large m: the ratio of neighbours is (2m)/(2m-1)."""
    return math.fsum(math.log2(2 * k / (2 * k - 1)) for k in range(1, m + 1))


def test_balancing_cost_at_the_sizes_of_runs() -> None:
    """7 to 11 bits over the sizes that are simulated, half of log2(pi m) for any."""
    assert balancing_cost(0.0) == 0.0
    assert balancing_cost(3686.0) == pytest.approx(6.75, abs=0.005)
    assert balancing_cost(1e9) == pytest.approx(0.5 * math.log2(math.pi * 1e9), abs=1e-9)


@pytest.mark.parametrize("memory", [ERASING, DEPOLARISING])
@pytest.mark.parametrize("s", [1e-6, 1e-3, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 0.72, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("nu", [0.0, 0.3, 1.0])
def test_round_entropy_is_the_written_form(s: float, r: float, nu: float, memory: int) -> None:
    """kappa_s = max{c_s, (1-nu) c_s + nu k_s} as docs/physics.md writes it."""
    measured = (1 + 2**-s) / 2
    q = (1 - r) / 2
    stored = r + (1 - r) * 2**-s if memory == ERASING else (1 - q) ** (1 + s) + q ** (1 + s)
    kappa = max(measured, (1 - nu) * measured + nu * stored)
    assert round_entropy(s, r, nu, memory) == pytest.approx(-math.log2(kappa), rel=1e-9, abs=1e-15)


@given(unit, unit, st.sampled_from([(ERASING, "individual"), (DEPOLARISING, "stw09")]))
def test_round_entropy_tends_to_the_rate(r: float, nu: float, case) -> None:
    memory, claim = case
    assert round_entropy(1e-9, r, nu, memory) / 1e-9 == pytest.approx(min_entropy_rate(r, nu, claim), abs=1e-6)


@pytest.mark.parametrize("memory", [ERASING, DEPOLARISING])
@pytest.mark.parametrize("rounds", [1.0, 50.0, 7372.0, 1e6, 1e10])
@pytest.mark.parametrize(("r", "nu"), [(0.0, 1.0), (0.5, 0.5), (0.73, 1.0), (0.75, 0.3), (0.99, 0.9), (1.0, 1.0)])
def test_unknown_bits_are_the_maximum(rounds: float, r: float, nu: float, memory: int) -> None:
    cost = 40.0
    s = np.geomspace(1e-6, 1.0, 40_001)
    lost = -np.expm1(-s * np.log(2))
    q = (1 - r) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        other = -np.where(q > 0, q * np.expm1(s * np.log(q)), 0.0)
    stored = (1 - r) * lost if memory == ERASING else -(1 - q) * np.expm1(s * np.log1p(-q)) + other
    kappa_lost = (1 - nu) * lost / 2 + nu * np.minimum(lost / 2, stored)
    over_s = (-rounds * np.log1p(-kappa_lost) / np.log(2) - cost) / s
    assert unknown_bits(rounds, cost, r, nu, memory) == pytest.approx(max(0.0, over_s.max()), rel=1e-6, abs=1e-9)


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


def test_wilson_upper_is_where_the_deviation_reaches_back() -> None:
    for seen, k, z in ((0.0, 200.0, 3.0), (0.02, 1e3, 2.97), (0.1, 1e5, 1.0), (1.0, 10.0, 2.0)):
        limit = wilson_upper(seen, k, z)
        assert limit - z * math.sqrt(limit * (1 - limit) / k) == pytest.approx(seen, abs=1e-12)
        assert seen <= limit <= 1.0


def test_wilson_upper_holds() -> None:
    """By exact binomial sums: the true rate is above the limit with at most the stated probability."""
    failure = 1.5e-3
    z = norm.isf(failure)
    for k in np.unique(np.geomspace(200, 1e6, 40).astype(int)):
        errors = np.arange(int(0.1 * k + 20 * math.sqrt(0.1 * k)) + 50)
        limits = [wilson_upper(min(1.0, x / k), float(k), z) for x in errors]
        for rate in np.geomspace(0.002, 0.1, 30):
            too_low = np.searchsorted(limits, rate)
            assert binom.cdf(too_low - 1, k, rate) <= failure


def test_design_qber() -> None:
    failure = 1.5e-3
    assert design_qber(0.02, 9e3, 1e3, failure) == wilson_upper(0.02, 1e3, NormalDist().inv_cdf(1 - failure))
    assert design_qber(0.0, 9e3, 1e3, failure) == pytest.approx(8.7e-3, abs=1e-4)  # no error seen is not no error
    assert design_qber(0.02, 45e3, 5e3, 1e-10, "serfling") == pytest.approx(0.02 + serfling_margin(45e3, 5e3, 1e-10))
    assert design_qber(0.4, 100.0, 10.0, failure) == 0.5
    with pytest.raises(ValueError, match="penalty"):
        design_qber(0.02, 9e3, 1e3, failure, "hoeffding")  # type: ignore[arg-type]


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
