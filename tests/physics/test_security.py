"""Entropies and the asymptotic rates against published and independently computed values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

from caligo.physics.entropy import binary_entropy, inverse_binary_entropy
from caligo.physics.feasibility import feasibility_margin, is_feasible
from caligo.physics.security import (
    effective_retention,
    entropy_surplus,
    gamma,
    min_entropy_rate,
    storage_capacity,
    strong_converse_exponent,
)

CLAIMS = ("individual", "lupo2023", "stw09", "kww2012", "erven2014")
unit = st.floats(0.0, 1.0)

# r, h2, Gamma(h2), max of Lupo Eq. 36, the rate at nu = 1, C(r), gamma_r(1/2), Q where h(Q) is the rate.
TABLE = [
    (0.00, 1.000000, 1.000000, 1.000000, 0.50, 0.0, 0.500000, 0.110028),
    (0.10, 0.957356, 0.957356, 0.957356, 0.50, 0.007226, 0.394350, 0.110028),
    (0.20, 0.836501, 0.836501, 0.836501, 0.50, 0.029049, 0.301328, 0.110028),
    (0.25, 0.752072, 0.752072, 0.752072, 0.50, 0.045566, 0.259159, 0.110028),
    (0.30, 0.655172, 0.655172, 0.700000, 0.50, 0.065932, 0.219753, 0.110028),
    (0.40, 0.434403, 0.443601, 0.600000, 0.50, 0.118709, 0.149070, 0.110028),
    (0.50, 0.192645, 0.305150, 0.500000, 0.50, 0.188722, 0.089428, 0.110028),
    (0.60, -0.056584, 0.207241, 0.400000, 0.40, 0.278072, 0.041984, 0.07938),
    (0.70, -0.304511, 0.132159, 0.300000, 0.30, 0.390160, 0.009810, 0.05324),
    (0.75, -0.426265, 0.101139, 0.250000, 0.25, 0.456436, 0.001532, 0.04169),
    (0.80, -0.545968, 0.073861, 0.200000, 0.20, 0.531004, 0.0, 0.03112),
    (0.85, -0.663345, 0.050049, 0.150000, 0.15, 0.615688, 0.0, 0.02154),
    (0.90, -0.778209, 0.029568, 0.100000, 0.10, 0.713603, 0.0, 0.01299),
    (0.95, -0.890447, 0.012515, 0.050000, 0.05, 0.831339, 0.0, 0.00561),
]


@pytest.mark.parametrize(("r", "h2", "gamma_h2", "maximum", "rate", "capacity", "exponent", "q_max"), TABLE)
def test_reference_table(r, h2, gamma_h2, maximum, rate, capacity, exponent, q_max) -> None:
    collision = 1.0 - math.log2(1.0 + 3.0 * r * r)
    assert collision == pytest.approx(h2, abs=1e-6)
    assert gamma(collision) == pytest.approx(gamma_h2, abs=1e-6)
    assert max(gamma(collision), 1.0 - r) == pytest.approx(maximum, abs=1e-6)
    assert min_entropy_rate(r, 1.0) == pytest.approx(rate, abs=1e-12)
    assert min_entropy_rate(r, 1.0) == pytest.approx(min(0.5, max(gamma(collision), 1.0 - r)), abs=1e-12)
    assert storage_capacity(r) == pytest.approx(capacity, abs=1e-6)
    assert strong_converse_exponent(r, 0.5) == pytest.approx(exponent, abs=1e-6)
    assert inverse_binary_entropy(rate) == pytest.approx(q_max, abs=1e-6 if q_max > 0.11 else 1e-5)


@pytest.mark.parametrize(
    ("x", "value"),
    [
        (-1.0, 0.0), (-0.9, 0.011220), (-0.75, 0.034331), (-0.5, 0.083973), (-0.25, 0.147203),
        (0.0, 0.227092), (0.1, 0.265325), (0.2, 0.308530), (0.25, 0.332520), (0.3, 0.358537),
        (0.4, 0.419010), (0.45, 0.455676), (0.49, 0.490273), (0.5, 0.5), (0.7, 0.7), (1.0, 1.0),
    ],
)  # fmt: skip
def test_gamma_list(x: float, value: float) -> None:
    assert gamma(x) == pytest.approx(value, abs=1e-6)


def test_thresholds() -> None:
    """h^-1(1/2), r~ (STW09 Cor. 7, KWW Cor. I.2) and the crossover of Lupo Eq. 36."""
    assert inverse_binary_entropy(0.5) == pytest.approx(0.1100279, abs=1e-7)
    r_tilde = 1.0 - 2.0 * inverse_binary_entropy(0.5)
    assert r_tilde == pytest.approx(0.7799443, abs=1e-6)
    assert brentq(lambda r: storage_capacity(r) - 0.5, 0.1, 0.9, xtol=1e-12) == pytest.approx(r_tilde, abs=1e-9)

    def branches(r: float) -> float:
        return gamma(1.0 - math.log2(1.0 + 3.0 * r * r)) - (1.0 - r)

    crossover = brentq(branches, 0.1, 0.5)
    assert crossover == pytest.approx(0.252501, abs=1e-6)
    assert 1.0 - crossover == pytest.approx(0.747499, abs=1e-6)
    assert all(branches(r) < 0.0 for r in np.linspace(0.26, 0.999, 200))


def test_collision_entropy_roots() -> None:
    """Lupo Eq. 27: h_2 = 1 - log2(1 + 3 r^2) is 1/2 at r = 0.371579 and 0 at 0.577350; the cap hides both."""
    for value, root in ((0.5, 0.371579), (0.0, 0.577350)):
        found = brentq(lambda r, value=value: 1.0 - math.log2(1.0 + 3.0 * r * r) - value, 0.1, 0.9)
        assert found == pytest.approx(root, abs=1e-6)
        assert min_entropy_rate(found, 1.0) == pytest.approx(min(0.5, 1.0 - found), abs=1e-12)


def test_individual_attack_threshold() -> None:
    """STW09 Cor. 7: h(Q) < min(1/2, h((1+r)/2)) is Q < 0.110028 below r~ and Q < (1-r)/2 above."""
    r_tilde = 1.0 - 2.0 * inverse_binary_entropy(0.5)
    for r in np.linspace(0.0, 0.999, 60):
        entropy_rate = min_entropy_rate(r, 1.0, "stw09")
        assert entropy_rate == pytest.approx(min(0.5, 1.0 - storage_capacity(r)), abs=1e-12)
        limit = inverse_binary_entropy(0.5) if r < r_tilde else 0.5 * (1.0 - r)
        assert entropy_surplus(entropy_rate, limit - 1e-9) > 0.0
        assert entropy_surplus(entropy_rate, limit + 1e-9) < 0.0


def test_strong_converse_printed_values() -> None:
    assert strong_converse_exponent(0.75, 2.0) == pytest.approx(1.192645, abs=1e-6)
    assert strong_converse_exponent(0.75, 1.627) == pytest.approx(0.819645, abs=1e-6)


@pytest.mark.parametrize("r", [0.0, 0.05, 0.3, 0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.8, 0.95, 1.0, 1.5, 4.0])
def test_strong_converse_is_the_maximum_over_renyi_order(r: float, rate: float) -> None:
    """Lupo Eq. 16 maximised numerically over t = 1 - 1/a."""

    def negated(t: float) -> float:
        inverse_order = 1.0 - t
        norm = inverse_order * np.logaddexp2(math.log2(1 + r) / inverse_order, math.log2(1 - r) / inverse_order)
        return -(1.0 + t * (rate - 1.0) - norm)

    found = minimize_scalar(negated, bounds=(0.0, 1.0 - 1e-12), method="bounded", options={"xatol": 1e-13})
    expected = max(0.0, -found.fun, -negated(1.0 - 1e-12))
    assert strong_converse_exponent(r, rate) == pytest.approx(expected, abs=1e-9)


def test_strong_converse_limits() -> None:
    assert strong_converse_exponent(1.0, 0.7) == 0.0
    assert strong_converse_exponent(1.0, 1.7) == pytest.approx(0.7)
    assert strong_converse_exponent(0.0, 0.3) == pytest.approx(0.3, abs=1e-12)
    for r in (0.3, 0.75):
        capacity = storage_capacity(r)
        assert strong_converse_exponent(r, capacity * (1 - 1e-9)) == pytest.approx(0.0, abs=1e-15)
        assert strong_converse_exponent(r, capacity * 1.01) > 0.0
        below, above = strong_converse_exponent(r, 1 - 1e-12), strong_converse_exponent(r, 1 + 1e-12)
        assert below == pytest.approx(above, abs=1e-9)


@given(st.just(0.0) | st.floats(1e-200, 1.0))
def test_inverse_binary_entropy(h: float) -> None:
    p = inverse_binary_entropy(h)
    assert 0.0 <= p <= 0.5
    assert binary_entropy(p) == pytest.approx(h, rel=1e-12)


@given(st.floats(1e-250, 0.4))
def test_binary_entropy_round_trip(p: float) -> None:
    assert inverse_binary_entropy(binary_entropy(p)) == pytest.approx(p, rel=1e-13)


def test_rates_at_their_ends() -> None:
    for r in (0.0, 0.5, 1.0):
        for claim in CLAIMS:
            assert min_entropy_rate(r, 0.0, claim) == (0.25 if claim == "erven2014" else 0.5)
        assert min_entropy_rate(r, 1e-12, "kww2012") == pytest.approx(0.5, abs=1e-11)
    for claim in ("individual", "lupo2023", "stw09"):
        assert min_entropy_rate(1.0, 1.0, claim) == 0.0
    assert min_entropy_rate(0.75, 0.002) == pytest.approx(0.4995)
    assert min_entropy_rate(0.9, 0.5) == pytest.approx(0.30)
    assert min_entropy_rate(0.75, 1.0, "stw09") == 0.5  # without flags r = 0.75 is no better than measuring at once
    assert min_entropy_rate(0.6, 1.0, "kww2012") == pytest.approx(strong_converse_exponent(0.6, 0.5), abs=1e-12)
    # C(r) nu >= 1/2: nothing is proven
    assert min_entropy_rate(0.8, 1.0, "kww2012") == 0.0
    assert min_entropy_rate(1.0, 0.5, "kww2012") == pytest.approx(0.0, abs=1e-12)
    assert min_entropy_rate(1.0, 0.2, "kww2012") == pytest.approx(0.5 - 0.2, abs=1e-12)


def test_erven_error_threshold() -> None:
    """f h(Q) < 1/4: Q < 4.17% at f = 1, 2.48% at f = 1.49."""
    quarter = min_entropy_rate(0.75, 0.0, "erven2014")
    assert inverse_binary_entropy(quarter) == pytest.approx(0.0417, abs=5e-5)
    assert inverse_binary_entropy(quarter / 1.49) == pytest.approx(0.0248, abs=5e-5)


@given(unit, unit, unit, st.sampled_from(CLAIMS))
def test_entropy_falls_with_a_better_memory(r1: float, r2: float, nu: float, claim) -> None:
    low, high = sorted((r1, r2))
    assert min_entropy_rate(high, nu, claim) <= min_entropy_rate(low, nu, claim) + 1e-12


@given(unit, unit, unit, st.sampled_from(CLAIMS))
def test_entropy_falls_with_a_larger_memory(r: float, nu1: float, nu2: float, claim) -> None:
    low, high = sorted((nu1, nu2))
    assert min_entropy_rate(r, high, claim) <= min_entropy_rate(r, low, claim) + 1e-12


@given(unit, unit)
def test_what_an_attack_may_do_orders_the_rates(r: float, nu: float) -> None:
    """The limits only: for finite keys no such order holds."""
    individual, lupo, stw, kww, erven = (min_entropy_rate(r, nu, claim) for claim in CLAIMS)
    assert individual == lupo
    assert 0.0 <= erven <= kww + 1e-12
    assert kww <= individual + 1e-12
    assert individual <= stw + 1e-12  # a flag helps Bob
    assert stw <= 0.5


def test_retention() -> None:
    assert effective_retention(0.75, 1e9) == 0.75
    assert effective_retention(0.9, 3e9) == pytest.approx(0.729)
    assert effective_retention(0.0, 1e5) == 0.0
    assert effective_retention(1.0, 1e11) == 1.0
    assert effective_retention(0.75, 5e9, "fixed") == 0.75


def test_feasibility() -> None:
    """0.110028 is the last error rate with key; at eta = 1, d = 0, e_det = 0 it is F = 1 - 3 Q / 2."""
    limit = 1.0 - 1.5 * inverse_binary_entropy(0.5)
    assert is_feasible(0.3, 1.0, 1e9, limit + 1e-6, 1.0, 0.0, 0.0)
    assert not is_feasible(0.3, 1.0, 1e9, limit - 1e-6, 1.0, 0.0, 0.0)
    # Erven's experiment is feasible under every claim.
    for claim in CLAIMS:
        assert is_feasible(0.75, 0.002, 1e9, 0.99996855, 0.015, 0.0093, 1.5e-8, claim=claim)
    assert feasibility_margin(1.0, 1.0, 1e9, 0.25, 0.5, 0.0, 0.0) == pytest.approx(-1.0)
    assert feasibility_margin(0.5, 0.0, 1e9, 0.0, 1.0, 0.0, 0.0) < 0.0  # F below 1/4: counted as pure noise


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: min_entropy_rate(0.5, 0.5, "max"), "claim"),
        (lambda: effective_retention(0.5, 1e9, "gaussian"), "memory_model"),
    ],
)
def test_unknown_options(call, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()
