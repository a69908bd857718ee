"""The closed-form expectation of a run, and the array versions."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caligo.physics import efficiency, feasibility_margin, is_feasible, predict, prediction, vectorized
from caligo.physics.efficiency import (
    BASELINE,
    BLIND,
    EFFICIENCY,
    FRAME_SIZES,
    QBER,
    expected_efficiency,
)
from caligo.physics.entropy import binary_entropy


@pytest.fixture
def ideal_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The efficiencies that the reference values below assume: the observed-channel approximation for 4096 bits."""
    baseline = (1.66, 1.46, 1.33, 1.26, 1.22, 1.215, 1.19, 1.16, 1.14, 1.12, 1.10)
    blind = (1.53, 1.38, 1.26, 1.20, 1.15, 1.13, 1.12, 1.10, 1.09, 1.07, 1.06)
    error_rates = (0.005, 0.010, 0.015, 0.020, 0.025, 0.030, 0.040, 0.050, 0.060, 0.080, 0.100)
    monkeypatch.setattr(efficiency, "QBER", error_rates)
    monkeypatch.setattr(efficiency, "EFFICIENCY", ((baseline, blind),))
    monkeypatch.setattr(prediction, "FRAME_SIZES", (4096,))
    monkeypatch.setattr(prediction, "PAYLOADS", (3686,))


# (r, nu, dt, F, eta, e, d, N), (P_click, Q, h_min), key of the baseline, key of the blind protocol, None
# where there is none. The reference values assume 64-bit tags.
WORKED_POINTS = [
    ((0.75, 0.002, 1e9, 0.99, 0.9, 0.01, 1e-6, 1e6), (0.9, 0.01653, 0.4995), 122373, 145619),
    ((0.75, 1.0, 1e9, 0.99, 0.9, 0.005, 1e-6, 1e6), (0.9, 0.01160, 0.25), 35494, 47201),
    ((0.75, 1.0, 1e9, 0.975, 0.9, 0.01, 1e-6, 1e6), (0.9, 0.02633, 0.25), None, 11856),
    ((0.90, 0.5, 1e9, 0.99, 0.5, 0.005, 1e-6, 1e5), (0.5, 0.01160, 0.30), 1610, 2612),
    ((0.60, 1.0, 1e9, 0.97, 0.3, 0.01, 1e-5, 1e5), (0.3, 0.02963, 0.40), 487, 1953),
    ((0.90, 1.0, 1e9, 0.99, 0.9, 0.002, 1e-8, 1e7), (0.9, 0.00864, 0.10), None, None),
    ((0.90, 1.0, 3e9, 0.99, 0.9, 0.002, 1e-8, 1e7), (0.9, 0.00864, 0.271), 568284, 675327),
]


@pytest.mark.usefixtures("ideal_codes")
@pytest.mark.parametrize(("point", "rates", "baseline", "blind"), WORKED_POINTS)
def test_worked_points(point, rates, baseline, blind) -> None:
    for strategy, key in ((BASELINE, baseline), (BLIND, blind)):
        expected = predict(*point, strategy, tag_bits=64)
        assert (expected.p_click, expected.qber, expected.min_entropy_rate) == pytest.approx(rates, abs=2e-5)
        if key is None:
            assert expected.margin < 0.0
            assert expected.key_length == 0
        else:
            assert expected.margin > 0.0
            assert expected.key_length == pytest.approx(key, rel=0.10)


# Q, (r_eff, nu), least number of pairs with key at eta = 1, d = 0: baseline, blind.
MINIMUM_PAIRS = [
    (0.005, (0.75, 1.0), 8.2e3, 7.4e3),
    (0.010, (0.75, 1.0), 1.6e4, 7.4e3),
    (0.020, (0.75, 1.0), 9.0e4, 1.5e4),
    (0.020, (0.90, 0.5), 4.1e4, 1.5e4),
    (0.030, (0.75, 1.0), math.inf, 1.6e5),
    (0.030, (0.60, 1.0), 1.6e4, 7.4e3),
    (0.030, (0.90, 0.5), 2.1e5, 2.2e4),
    (0.040, (0.60, 1.0), 3.4e4, 7.4e3),
    (0.040, (0.75, 0.002), 1.3e4, 7.4e3),
    (0.040, (0.75, 1.0), math.inf, math.inf),
    (0.060, (0.75, 0.002), 3.7e4, 7.4e3),
]


@pytest.mark.usefixtures("ideal_codes")
@pytest.mark.parametrize(("error_rate", "memory", "baseline", "blind"), MINIMUM_PAIRS)
def test_minimum_number_of_pairs(error_rate, memory, baseline, blind) -> None:
    def key(num_pairs: float, strategy: int) -> int:
        fidelity = 1.0 - 1.5 * error_rate
        return predict(*memory, 1e9, fidelity, 1.0, 0.0, 0.0, num_pairs, strategy, tag_bits=64).key_length

    for strategy, least in ((BASELINE, baseline), (BLIND, blind)):
        if math.isinf(least):
            assert all(key(n, strategy) == 0 for n in np.geomspace(1e4, 1e10, 25))
        else:
            assert key(0.95 * least, strategy) == 0
            assert key(1.10 * least, strategy) > 0


POINT = (
    st.floats(0.0, 1.0), st.floats(0.001, 1.0), st.floats(1e5, 1e10), st.floats(0.5, 1.0),
    st.floats(1e-3, 1.0), st.floats(0.0, 0.1), st.floats(1e-8, 1e-3), st.floats(1e3, 1e9),
    st.sampled_from((BASELINE, BLIND)),
)  # fmt: skip


@given(st.tuples(*POINT), st.sampled_from(("lupo2023", "kww2012", "erven2014")))
def test_prediction_is_consistent(point, bound) -> None:
    expected = predict(*point, bound=bound)
    assert -1.0 <= expected.margin <= 0.5
    assert all(math.isfinite(value) for value in expected)
    assert 0 <= expected.key_length <= 0.25 * point[7]
    assert expected.reconciled <= 0.5 * expected.detected
    if not is_feasible(*point[:7], bound=bound):
        assert expected.margin < 0.0
        assert expected.key_length == 0


def test_margin_reaches_the_asymptotic_rate() -> None:
    """At N = 10^14 only f and the tag separate the margin from the feasibility margin."""
    point = (0.75, 0.5, 1e9, 0.99, 0.9, 0.01, 1e-6)
    expected = predict(*point, 1e14, BLIND, tag_bits=0)
    surplus = feasibility_margin(*point)
    shannon = expected.min_entropy_rate - surplus
    assert expected.margin == pytest.approx(
        surplus - (expected_efficiency(expected.qber, BLIND, 65536) - 1) * shannon, abs=1e-5
    )


def test_margin_below_one_frame() -> None:
    """Continuous where the first frame fills, floored at -1, no key before it."""

    def at(num_pairs: float):
        return predict(0.75, 0.1, 1e9, 0.995, 1.0, 0.001, 0.0, num_pairs, BLIND)

    sizes = np.linspace(7000, 8000, 2001)
    frames = [at(n).key_length > 0 for n in sizes]
    first = frames.index(True)
    assert at(sizes[first]).margin == pytest.approx(at(sizes[first - 1]).margin, abs=1e-3)
    assert at(7000).key_length == 0
    assert at(10).margin == -1.0
    assert at(0.0).margin == -1.0
    margins = [at(n).margin for n in np.geomspace(200, 7500, 50)]
    assert margins == sorted(margins)


@pytest.mark.usefixtures("ideal_codes")
def test_reference_penalty_moves_the_baseline_cliff() -> None:
    """With the Serfling margin the baseline needs far more pairs: 6.7e6 instead of 9e4 at Q = 2%."""
    point = (0.75, 1.0, 1e9, 0.97, 1.0, 0.0, 0.0)
    assert predict(*point, 1e6, BASELINE, tag_bits=64).key_length > 0
    assert predict(*point, 1e6, BASELINE, tag_bits=64, pe_penalty="serfling").key_length == 0
    assert predict(*point, 1e7, BASELINE, tag_bits=64, pe_penalty="serfling").key_length > 0


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="strategy"):
        predict(0.75, 1.0, 1e9, 0.99, 0.9, 0.01, 1e-6, 1e6, 2)


def test_efficiency_table() -> None:
    for frame_size, strategies in zip(FRAME_SIZES, EFFICIENCY, strict=True):
        for strategy, table in enumerate(strategies):
            assert [expected_efficiency(q, strategy, frame_size) for q in QBER] == pytest.approx(table)
    grid = np.geomspace(1e-4, 0.5, 400)
    for strategy, frame_size in product((BASELINE, BLIND), FRAME_SIZES):
        values = [expected_efficiency(q, strategy, frame_size) for q in grid]
        assert min(values) >= 1.0
        leakage = [value * binary_entropy(q) for value, q in zip(values, grid, strict=True)]
        # Between two points that cost the same, a straight line in (log Q, log f) sags a little.
        assert all(a <= b + 2e-5 for a, b in pairwise(leakage))
    assert expected_efficiency(0.0, BASELINE) == expected_efficiency(1e-4, BASELINE)


def _columns(n: int, dtype) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [
        column.astype(dtype)
        for column in (
            rng.uniform(0, 1, n), 10 ** rng.uniform(-3, 0, n), 10 ** rng.uniform(5, 10, n),
            rng.uniform(0.501, 1, n), 10 ** rng.uniform(-3, 0, n), rng.uniform(0, 0.1, n),
            10 ** rng.uniform(-8, -3, n),
        )
    ]  # fmt: skip


def test_vectorized_equals_scalar() -> None:
    columns = _columns(20, np.float64)
    rows = list(zip(*columns, strict=True))
    np.testing.assert_array_equal(vectorized.feasibility_margin(*columns), [feasibility_margin(*row) for row in rows])
    erven = vectorized.feasibility_margin(*columns, bound="erven2014", memory_model="fixed", convention="weight")
    assert erven.dtype == np.float64
    for value, row in zip(erven, rows, strict=True):
        assert value == feasibility_margin(*row, bound="erven2014", memory_model="fixed", convention="weight")
    grid = vectorized.min_entropy_rate(np.linspace(0, 1, 5)[:, None], np.linspace(0, 1, 3)[None, :])
    assert grid.shape == (5, 3)


def test_float32_margin() -> None:
    columns = _columns(5000, np.float32)
    margin = vectorized.feasibility_margin_float32(*columns)
    assert margin.dtype == np.float32
    exact = vectorized.feasibility_margin(*(c.astype(np.float64) for c in columns))
    np.testing.assert_allclose(margin, exact, rtol=0, atol=2e-6)


def test_float32_margin_without_errors() -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    margin = vectorized.feasibility_margin_float32(zero, one, 1e9 * one, one, one, zero, zero)
    assert margin.dtype == np.float32
    assert margin[0] == np.float32(0.5)
