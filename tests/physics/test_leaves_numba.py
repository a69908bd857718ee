"""Every leaf of caligo.physics compiles through numba's register_jitable and agrees with Python."""

import math

import numpy as np
import pytest
from numba import njit
from numba.extending import register_jitable

from caligo.physics import LEAVES, detection, efficiency, entropy, security

for _leaf in LEAVES:
    register_jitable(_leaf)

R = [0.0, 0.1, 0.5, 0.75, 0.99, 1.0]
NU = [0.0, 0.002, 0.3, 0.7, 1.0]
P = [0.0, 1e-300, 1e-9, 0.01, 0.11, 0.4999, 0.5]
RATES = [0.0, 0.05, 0.3, 0.5, 0.999, 1.0, 1.627, 2.0]
LENGTHS = [10.0, 3686.0, 1e5, 1e9]

POINTS: dict[str, list[tuple]] = {
    "binary_entropy": [(p,) for p in [*P, 0.9, 1.0]],
    "solve_entropy": [(t, s) for t in RATES for s in (0.0, 1.0)],
    "inverse_binary_entropy": [(t,) for t in RATES],
    "click_probability": [(a, b) for a in R for b in P],
    "source_error_fidelity": [(a,) for a in (0.25, 0.9, 1.0)],
    "source_error_weight": [(a,) for a in R],
    "conditional_qber": [(s, a, e, d) for s in P for a in R for e in (0.0, 0.05) for d in (0.0, 1e-8, 0.5)],
    "markov_retention": [(a, t) for a in R for t in (1e5, 1e9, 1e10)],
    "storage_capacity": [(a,) for a in R],
    "gamma": [(x,) for x in (-1.0, -0.5, 0.0, 0.49, 0.5, 1.0)],
    "strong_converse_exponent": [(a, b) for a in R for b in RATES],
    "rate_after_storage": [(a, b, c) for a in R for b in NU for c in (-0.1, 0.0, 0.25, 0.5)],
    "min_entropy_rate_individual": [(a, b) for a in R for b in NU],
    "min_entropy_rate_lupo2023": [(a, b) for a in R for b in NU],
    "min_entropy_rate_stw09": [(a, b) for a in R for b in NU],
    "min_entropy_rate_kww2012": [(a, b) for a in R for b in NU],
    "min_entropy_rate_erven2014": [(a, b) for a in R for b in NU],
    "entropy_surplus": [(a, b) for a in NU for b in P],
    "immediate_measurement_entropy": [(n, 1e-10) for n in [0.0, *LENGTHS]],
    "balancing_cost": [(n,) for n in (0.0, 1.0, 31.5, *LENGTHS)],
    "round_entropy": [(s, a, b, memory) for s in (1e-6, 0.1, 1.0) for a in R for b in NU for memory in (0, 1)],
    "unknown_bits": [(n, 40.0, a, b, memory) for n in LENGTHS for a in R for b in NU for memory in (0, 1)],
    "min_entropy_individual": [(n, a, b, 1e-10, c) for n in LENGTHS for a in R for b in NU for c in (0.0, 1.0)],
    "min_entropy_stw09": [(n, a, b, 1e-10, c) for n in LENGTHS for a in R for b in NU for c in (0.0, 1.0)],
    "min_entropy_lupo2023": [(n, a, b, 1e-10, 1e-9) for n in LENGTHS for a in R for b in NU],
    "min_entropy_kww2012": [(n, a, b, 1e-10, 1e-9) for n in LENGTHS for a in R for b in NU],
    "min_entropy_erven2014": [(n, a, b, 1e-10, 1e-9) for n in LENGTHS for a in R for b in NU],
    "detection_tolerance": [(n, 1e-10) for n in LENGTHS],
    "wilson_upper": [(p, n, 3.0) for p in P for n in LENGTHS],
    "serfling_margin": [(n, 100.0, 1e-10) for n in LENGTHS],
    "_log_interpolated": [(efficiency.BLIND_EFFICIENCY[0], p) for p in [*P, 0.0123, 0.02, 0.1]],
    "baseline_efficiency": [
        (p, frames, failure, n)
        for p in [*P, 0.0123, 0.02, 0.1]
        for frames in (1.0, 30.0, 1e4)
        for failure in (1e-9, 1e-3, 2e-2, 0.5)
        for n in efficiency.FRAME_SIZES
    ],
    "blind_efficiency": [(p, n) for p in [*P, 0.0123, 0.02, 0.1] for n in efficiency.FRAME_SIZES],
}


def test_every_leaf_has_points() -> None:
    assert set(POINTS) == {leaf.__name__ for leaf in LEAVES}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_compiled_leaf_agrees(leaf) -> None:
    compiled = njit(leaf)
    for arguments in POINTS[leaf.__name__]:
        expected = leaf(*arguments)
        actual = compiled(*arguments)
        assert isinstance(actual, float)
        assert math.isclose(actual, expected, rel_tol=1e-12, abs_tol=1e-12), arguments


def test_kernel_composed_of_leaves() -> None:
    """The way a feasibility kernel uses them: called from compiled code, over columns."""

    @njit
    def kernel(r, nu, wait, fidelity, eta, e, d, out):
        for i in range(out.size):
            r_eff = security.markov_retention(r[i], wait[i])
            q = detection.conditional_qber(detection.source_error_fidelity(fidelity[i]), eta[i], e[i], d[i])
            rate = security.min_entropy_rate_individual(r_eff, nu[i])
            out[i] = security.entropy_surplus(rate, q)

    from caligo.physics.vectorized import feasibility_margin

    rng = np.random.default_rng(1)
    columns = (
        rng.uniform(0, 1, 50), rng.uniform(0, 1, 50), 10 ** rng.uniform(5, 10, 50), rng.uniform(0.5, 1, 50),
        10 ** rng.uniform(-3, 0, 50), rng.uniform(0, 0.1, 50), 10 ** rng.uniform(-8, -3, 50),
    )  # fmt: skip
    out = np.empty(50)
    kernel(*columns, out)
    np.testing.assert_allclose(out, feasibility_margin(*columns), rtol=0, atol=1e-12)
    assert entropy.binary_entropy(0.5) == 1.0
