"""The closed-form expectation of a run, and the array versions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from caligo.physics import feasibility_margin, is_feasible, predict, vectorized
from caligo.physics.blind import disclosed
from caligo.physics.claims import CLAIMS, LEGACY, Counts, Partition, claim
from caligo.physics.detection import click_probability, qber
from caligo.physics.efficiency import (
    BASELINE,
    BASELINE_EFFICIENCY,
    BLIND,
    BLIND_EFFICIENCY,
    FAILURES,
    FRAME_SIZES,
    FRAMES,
    PAYLOADS,
    QBER,
    baseline_efficiency,
    blind_efficiency,
)
from caligo.physics.entropy import binary_entropy
from caligo.physics.finite_key import design_qber
from caligo.physics.prediction import expected_leakage_rate, removed_rounds, sifted_length
from caligo.physics.security import effective_retention

# (r, nu, dt, F, eta, e, d, N) and (P_click, Q, rate), of physics.md section 7.
WORKED_POINTS = [
    ((0.75, 0.002, 1e9, 0.99, 0.9, 0.01, 1e-6, 1e6), (0.9, 0.01653, 0.4995)),
    ((0.75, 1.0, 1e9, 0.99, 0.9, 0.005, 1e-6, 1e6), (0.9, 0.01160, 0.25)),
    ((0.75, 1.0, 1e9, 0.975, 0.9, 0.01, 1e-6, 1e6), (0.9, 0.02633, 0.25)),
    ((0.90, 0.5, 1e9, 0.99, 0.5, 0.005, 1e-6, 1e5), (0.5, 0.01160, 0.30)),
    ((0.60, 1.0, 1e9, 0.97, 0.3, 0.01, 1e-5, 1e5), (0.3, 0.02963, 0.40)),
    ((0.90, 1.0, 1e9, 0.99, 0.9, 0.002, 1e-8, 1e7), (0.9, 0.00864, 0.10)),
    ((0.90, 1.0, 3e9, 0.99, 0.9, 0.002, 1e-8, 1e7), (0.9, 0.00864, 0.271)),
]


def by_hand(point: tuple[float, ...], strategy: int, partition: str) -> float:
    """Key bits, unrounded, under the claim `individual` (physics.md 8.4), anew from NumPy and SciPy."""
    r, nu, dt, F, eta, e, d, N = point
    r = r ** (dt / 1e9)
    source = 2 / 3 * (1 - F)
    port = source * (1 - e) + e * (1 - source)
    dark = (1 - eta) * (1 - (1 - d) ** 2)
    click = eta + dark
    q = (eta * (port * (1 - d) + d / 2) + dark / 2) / click
    n_key = N * click * (0.9 if strategy == BASELINE else 1.0)
    nu_key = min(1.0, nu * N * click / n_key)
    length = n_key / 2 - np.sqrt(n_key / (2 * np.pi))
    s = np.linspace(1e-4, 1, 20_000)
    c = (1 + 2**-s) / 2
    kappa = np.maximum(c, (1 - nu_key) * c + nu_key * (r + (1 - r) * 2**-s))
    best = -np.inf
    for size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        frames = length // payload
        if frames == 0:
            continue
        m = frames * payload
        if strategy == BASELINE:
            k, z = 0.05 * N * click, stats.norm.isf(1.5e-3)
            rate = (q + z**2 / (2 * k) + z * np.sqrt(q * (1 - q) / k + z**2 / (4 * k**2))) / (1 + z**2 / k)
            f, tags = baseline_efficiency(rate, frames, 1.5e-3, size), 50
        else:
            rate, f, tags = q, blind_efficiency(q, size), 50 * frames
        leak = m * f * (-rate * np.log2(rate) - (1 - rate) * np.log2(1 - rate)) + tags
        if partition == "alice":
            log_binomial = (special.gammaln(2 * m + 1) - 2 * special.gammaln(m + 1)) / np.log(2)
            a = np.max((-2 * m * np.log2(kappa) - 10 * np.log2(10) - (2 * m - log_binomial)) / s)
        else:
            a = np.max((-n_key * np.log2(kappa) - 10 * np.log2(10)) / s) - (n_key - 2 * m)
        best = max(best, a / 2 - leak - 20 * np.log2(10))
    return best


def whole_frames(
    point: tuple[float, ...], strategy: int, partition: Partition, failure: float = 3e-3
) -> tuple[float, float]:
    """Key bits, unrounded, and bits of one string where a run detects, sifts and sees what is expected; by scalars."""
    r, nu, dt, F, eta, e, d, N = point
    error_rate = qber(F, eta, e, d)
    detected = N * click_probability(eta, d)
    key_rounds = detected * (0.9 if strategy == BASELINE else 1.0)
    sifted = sifted_length(key_rounds)
    design = design_qber(error_rate, sifted, 0.05 * detected, 0.5 * failure)
    best = -math.inf, 0.0
    for size, payload in zip(FRAME_SIZES, PAYLOADS, strict=True):
        if frames := math.floor(sifted / payload):
            m = float(frames * payload)
            rate = expected_leakage_rate(error_rate, design, strategy, frames, 0.5 * failure, size)
            leak = rate * m + 50 * (1 if strategy == BASELINE else frames)
            counts = Counts(detected, key_rounds, m, removed_rounds(partition, key_rounds, m, m), leak)
            bits = claim("individual").key_bits(counts, effective_retention(r, dt), nu, 1e-10, partition)
            best = max(best, (bits.secret, m))
    return best


@pytest.mark.parametrize("partition", ["alice", "bob"])
@pytest.mark.parametrize("strategy", [BASELINE, BLIND])
@pytest.mark.parametrize(("point", "rates"), WORKED_POINTS)
def test_worked_points(point, rates, strategy, partition) -> None:
    bits, m = whole_frames(point, strategy, partition)
    assert by_hand(point, strategy, partition) == pytest.approx(bits, abs=2 + 1e-6 * point[7])
    expected = predict(*point, strategy, partition=partition)
    assert (expected.p_click, expected.qber, expected.min_entropy_rate) == pytest.approx(rates, abs=2e-5)
    # On average over part-frames and what the slots show, and between the points of the table of f.
    assert expected.filled > 0.999
    assert expected.margin == pytest.approx(bits / m, abs=3 * expected.sd + 0.006)
    if abs(bits / m) > 4 * expected.sd + 0.006:
        assert (expected.key > 0.9) == (bits > 0)


def test_one_message_costs_this_much_at_the_worked_points() -> None:
    """Key of the baseline with the shipped codes: a run is lost with 3e-3, against one with 0.1 and one with 1e-6."""
    keys = {
        failure: [max(0.0, whole_frames(point, BASELINE, "alice", failure)[0]) for point, _ in WORKED_POINTS]
        for failure in (0.1, 3e-3, 1e-6)
    }
    for often, usual, rarely in zip(*keys.values(), strict=True):
        assert often >= usual >= rarely
    assert keys[0.1][0] > 1.02 * keys[3e-3][0] > 1.05 * keys[1e-6][0]
    # All seven have a key where a run in ten may be lost, six at 3e-3, four at 1e-6.
    assert [sum(key > 0 for key in row) for row in keys.values()] == [7, 6, 4]


POINT = (
    st.floats(0.0, 1.0), st.floats(0.001, 1.0), st.floats(1e5, 1e10), st.floats(0.5, 1.0),
    st.floats(1e-3, 1.0), st.floats(0.0, 0.1), st.floats(1e-8, 1e-3), st.floats(1e3, 1e9),
    st.sampled_from((BASELINE, BLIND)),
)  # fmt: skip


@given(st.tuples(*POINT), st.sampled_from((*CLAIMS, *LEGACY)), st.sampled_from(("alice", "bob")))
def test_prediction_is_consistent(point, name, partition) -> None:
    expected = predict(*point, claim=name, partition=partition)
    assert -1.0 <= expected.margin <= 0.5
    assert all(math.isfinite(value) for value in expected)
    assert expected.sd > 0.0
    assert 0.0 <= expected.key <= expected.filled * expected.decoded <= 1.0
    assert PAYLOADS[0] <= expected.reconciled <= max(0.5 * expected.detected, PAYLOADS[0])
    if not is_feasible(*point[:7], claim=name) and partition == "alice" and name in CLAIMS:
        assert expected.margin < 0.0
        assert expected.key < 0.5


def test_margin_reaches_the_asymptotic_rate() -> None:
    """At N = 10^14 only f and the tag separate the margin from the feasibility margin."""
    point = (0.75, 0.5, 1e9, 0.99, 0.9, 0.01, 1e-6)
    expected = predict(*point, 1e14, BLIND, tag_bits=0)
    surplus = feasibility_margin(*point)
    shannon = expected.min_entropy_rate - surplus
    leak = disclosed(expected.qber, np)[1].mean
    assert leak == pytest.approx(blind_efficiency(expected.qber, 65536) * shannon, abs=0.003)
    assert expected.margin == pytest.approx(expected.min_entropy_rate - leak, abs=1e-5)
    assert expected.key == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("strategy", [BASELINE, BLIND])
def test_no_steps(strategy) -> None:
    """The margin grows with the number of pairs as smoothly as where frames are many, and goes on below the first."""
    sizes = np.geomspace(200, 1e6, 200_001)
    expected = predict(0.75, 0.1, 1e9, 0.995, 1.0, 0.001, 0.0, sizes, strategy)
    few = sizes < 1e5  # from there on frames of 65,536 bits serve, if they fill
    assert np.abs(np.diff(expected.margin[few])).max() < 1e-4
    assert np.all(np.diff(expected.margin[few]) >= -1e-12)
    assert np.abs(np.diff(expected.margin)).max() < 1e-3
    assert np.all(np.diff(expected.filled) >= -1e-13)
    assert expected.filled[0] == pytest.approx(0.0, abs=1e-12)
    assert expected.filled[-1] == 1.0
    assert predict(0.75, 0.1, 1e9, 0.995, 1.0, 0.001, 0.0, 0.0, strategy).key == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("p_key", "pairs"), [(0.9, 8300), (1.0, 7500), (0.1, 74_500), (0.002, 3_720_000)])
@pytest.mark.parametrize("off", [-0.02, -0.005, 0.0, 0.005, 0.03])
def test_the_first_frame_fills_this_often(p_key, pairs, off) -> None:
    """Against the sum over the number of rounds, and over how many of them are in one string."""
    pairs = round(pairs * (1.0 + off))
    rounds = np.arange(2 * PAYLOADS[0], stats.binom.isf(1e-12, pairs, p_key) + 1)
    shares = stats.binom.pmf(rounds, pairs, p_key)
    enough = stats.binom.sf(PAYLOADS[0] - 1, rounds, 0.5) - stats.binom.sf(rounds - PAYLOADS[0], rounds, 0.5)
    expected = predict(0.5, 0.1, 1e9, 1.0, p_key, 0.0, 0.0, float(pairs), BLIND)
    assert expected.filled == pytest.approx((shares * enough).sum(), abs=2e-3)


def test_serfling_moves_the_baseline_cliff() -> None:
    """A margin that holds for any errors, and not only for independent ones, takes far more pairs."""
    point = (0.75, 1.0, 1e9, 0.98, 1.0, 0.0, 0.0)
    assert predict(*point, 1e5, BASELINE).key > 0.5
    assert predict(*point, 3e5, BASELINE, pe_penalty="serfling").key < 0.5
    assert predict(*point, 1e6, BASELINE, pe_penalty="serfling").key > 0.5


def test_shapes() -> None:
    """Arguments broadcast, and blocks are joined as if there were none."""
    pairs = np.geomspace(1e4, 1e7, 20_001)
    together = predict(0.75, 0.5, 1e9, 0.99, 0.9, 0.01, 1e-6, pairs[:, None], np.array([BASELINE, BLIND]))
    assert all(values.shape == (20_001, 2) and values.dtype == np.float64 for values in together)
    for i in (0, 8_191, 8_192, 20_000):
        alone = predict(0.75, 0.5, 1e9, 0.99, 0.9, 0.01, 1e-6, pairs[i], BLIND)
        np.testing.assert_allclose([values[i, 1] for values in together], list(alone), rtol=1e-13)
    assert predict(0.75, 0.5, 1e9, 0.99, 0.9, 0.01, 1e-6, pairs[:0], BLIND).key.shape == (0,)


@pytest.mark.parametrize("name", CLAIMS)
def test_the_asymptotic_rate_has_the_same_parts(name) -> None:
    """What is feasible at all and what a run gives rest on one entropy rate and one error rate."""
    columns = _columns(200, np.float64)
    expected = predict(*columns, 1e6, BLIND, claim=name)
    surplus = [feasibility_margin(*row, claim=name) for row in zip(*columns, strict=True)]
    shannon = [binary_entropy(min(q, 0.5)) for q in expected.qber]
    np.testing.assert_allclose(expected.min_entropy_rate - shannon, surplus, atol=1e-9)


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="strategy"):
        predict(0.75, 1.0, 1e9, 0.99, 0.9, 0.01, 1e-6, 1e6, 2)


@pytest.mark.parametrize("frame_size", FRAME_SIZES)
def test_efficiency_tables(frame_size) -> None:
    size = FRAME_SIZES.index(frame_size)
    assert [blind_efficiency(q, frame_size) for q in QBER] == pytest.approx(BLIND_EFFICIENCY[size])
    for failure, rows in zip(FAILURES, BASELINE_EFFICIENCY[size], strict=True):
        for frames, row in zip(FRAMES, rows, strict=True):
            assert [baseline_efficiency(q, frames, failure, frame_size) for q in QBER] == pytest.approx(row)
    grid = np.geomspace(1e-4, 0.5, 400)
    for failure, frames in ((0.1, 1), (3e-3, 30), (3e-3, 5000), (1e-7, 1)):
        values = [baseline_efficiency(q, frames, failure, frame_size) for q in grid]
        assert min(values) >= 1.0
        leakage = [value * binary_entropy(q) for value, q in zip(values, grid, strict=True)]
        # Between two points that cost the same, a straight line in (log Q, log f) sags a little.
        assert all(a <= b + 3e-5 for a, b in pairwise(leakage))
    for q in (0.003, 0.02, 0.07):
        for frames in (1, 30, 10_000):
            values = [baseline_efficiency(q, frames, failure, frame_size) for failure in np.geomspace(1e-8, 1, 60)]
            assert values == sorted(values, reverse=True)
    assert baseline_efficiency(0.0, 1, 0.01) == baseline_efficiency(1e-4, 1, 0.01)
    assert min(blind_efficiency(q, frame_size) for q in grid) >= 1.0


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
    erven = vectorized.feasibility_margin(*columns, claim="erven2014", memory_model="fixed", convention="weight")
    assert erven.dtype == np.float64
    for value, row in zip(erven, rows, strict=True):
        assert value == feasibility_margin(*row, claim="erven2014", memory_model="fixed", convention="weight")
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
