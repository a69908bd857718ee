"""The feasibility kernels against the float64 closed form of caligo.physics."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import MARGIN_TOLERANCE, check_feasibility

from caligo import physics
from caligo.space import PARAMETERS, PRESETS, SYMBOLS, Space
from caligo.spec import PhysicsSpec

MODELS = list(itertools.product(("markov", "fixed"), ("fidelity", "weight")))
CLAIMS = ("individual", "lupo2023", "stw09", "erven2014")
FIDELITY = SYMBOLS.index("F")
PHYSICAL = Space({p.symbol: (p.lowest, p.highest) for p in PARAMETERS})
"""The whole parameter space."""


def closed_form(inputs: np.ndarray, spec: PhysicsSpec) -> np.ndarray:
    """caligo.physics.feasibility_margin of each row, float64 [n]."""
    x = inputs.astype(np.float64)
    x[:, [1, 2, 4, 6]] = 10.0 ** x[:, [1, 2, 4, 6]]
    return np.array([
        physics.feasibility_margin(
            *row, claim=spec.claim, memory_model=spec.memory_model, convention=spec.fidelity_convention
        )
        for row in x[:, :7].tolist()
    ])  # fmt: skip


def agree(inputs: np.ndarray, spec: PhysicsSpec) -> None:
    expected = closed_form(inputs, spec)
    actual = check_feasibility(inputs, spec)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= MARGIN_TOLERANCE
    clear = np.abs(expected) > MARGIN_TOLERANCE
    assert np.array_equal(actual[clear] > 0, expected[clear] > 0)


def design(space: Space, rows: int, seed: int = 1) -> np.ndarray:
    return LHSSampler(space, seed, rows).rows(0, rows)[1]


@pytest.mark.parametrize("rows", [200_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("preset", PRESETS)
def test_many_rows_of_each_preset(preset: str, rows: int) -> None:
    agree(design(Space(PRESETS[preset]), rows), PhysicsSpec())


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize(("memory_model", "fidelity_convention"), MODELS)
def test_every_option_over_the_whole_parameter_space(claim: str, memory_model: str, fidelity_convention: str) -> None:
    spec = PhysicsSpec(claim=claim, memory_model=memory_model, fidelity_convention=fidelity_convention)
    agree(design(PHYSICAL, 3000), spec)
    agree(design(Space(PRESETS["cliff"]), 3000, seed=2), spec)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize(("memory_model", "fidelity_convention"), MODELS)
def test_rows_at_the_boundary(claim: str, memory_model: str, fidelity_convention: str) -> None:
    """Rows moved onto the zero of the margin by bisection over F, and their float32 neighbours on both sides."""
    spec = PhysicsSpec(claim=claim, memory_model=memory_model, fidelity_convention=fidelity_convention)
    inputs = design(Space(PRESETS["cliff"]), 2000, seed=3)
    low, high = inputs.copy(), inputs.copy()
    low[:, FIDELITY], high[:, FIDELITY] = 0.5, 1.0
    crossing = (closed_form(low, spec) < 0) & (closed_form(high, spec) > 0)
    low, high = low[crossing], high[crossing]
    assert len(low) > 20
    for _ in range(26):
        middle = low.copy()
        middle[:, FIDELITY] = 0.5 * (low[:, FIDELITY] + high[:, FIDELITY])
        positive = closed_form(middle, spec) > 0
        high[positive], low[~positive] = middle[positive], middle[~positive]
    for steps in range(1, 9):
        for side in (low, high):
            near = side.copy()
            near[:, FIDELITY] = np.clip(near[:, FIDELITY] + (steps - 4) * np.float32(2**-24), 0.5, 1.0)
            assert np.abs(closed_form(near, spec)).max() < 1e-4
            agree(near, spec)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize(("memory_model", "fidelity_convention"), MODELS)
def test_corners_of_the_parameter_space(claim: str, memory_model: str, fidelity_convention: str) -> None:
    """Every corner, with r = 0, r = 1 and F = 1 met exactly; among them the poles of the logarithms."""
    low, high = PHYSICAL.model_bounds().astype(np.float32)
    corners = np.array(list(itertools.product(*zip(low[:7], high[:7], strict=True))), dtype=np.float32)
    inputs = np.ascontiguousarray(np.column_stack([corners, np.full((len(corners), 2), 6, np.float32)]))
    agree(inputs, PhysicsSpec(claim=claim, memory_model=memory_model, fidelity_convention=fidelity_convention))


@pytest.mark.parametrize("r", [0.0, 2.0**-126, 1e-30, 1e-10, 0.5, 1.0 - 2.0**-24, 1.0])
def test_retention_from_nothing_to_everything(r: float) -> None:
    space = Space({**PHYSICAL.bounds, "dt_ns": (1e5, 1e11)})
    inputs = design(space, 2000)
    inputs[:, 0] = r
    agree(inputs, PhysicsSpec())


def test_points_of_the_reference_table() -> None:
    """physics.md section 7, worked points with dt = 1 s: h_min - h(Q) from the printed h_min and Q."""
    points = [  # r, nu, F, eta, e_det, P_dark, then h_min and Q as printed
        ((0.75, 0.002, 0.99, 0.9, 0.01, 1e-6), 0.4995, 0.01653),
        ((0.75, 1.0, 0.99, 0.9, 0.005, 1e-6), 0.25, 0.01160),
        ((0.75, 1.0, 0.975, 0.9, 0.01, 1e-6), 0.25, 0.02633),
        ((0.9, 0.5, 0.99, 0.5, 0.005, 1e-6), 0.30, 0.01160),
        ((0.6, 1.0, 0.97, 0.3, 0.01, 1e-5), 0.40, 0.02963),
    ]
    for (r, nu, fidelity, eta, e_det, dark), h_min, q in points:
        row = np.array([[r, np.log10(nu), 9, fidelity, np.log10(eta), e_det, np.log10(dark), 6, 0]], dtype=np.float32)
        expected = h_min + q * np.log2(q) + (1 - q) * np.log2(1 - q)
        assert check_feasibility(row, PhysicsSpec())[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 255, 256, 257, 4095, 4096, 4097, 8193])
def test_any_number_of_rows(rows: int) -> None:
    """Around the borders of vectors, tiles and blocks; a read-only array, as it comes off the wire."""
    inputs = design(Space(PRESETS["cliff"]), 10_000)[:rows]
    inputs.flags.writeable = False
    margins = check_feasibility(inputs, PhysicsSpec())
    assert margins.shape == (rows,)
    if rows:
        assert np.abs(margins - closed_form(inputs, PhysicsSpec())).max() <= MARGIN_TOLERANCE


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((4, 9), dtype=np.float64),
        np.zeros((4, 8), dtype=np.float32),
        np.zeros(9, dtype=np.float32),
        np.zeros((9, 4), dtype=np.float32).T,
    ],
    ids=["float64", "eight columns", "one axis", "not contiguous"],
)
def test_other_arrays_are_refused(inputs: np.ndarray) -> None:
    with pytest.raises(TypeError, match="float32"):
        check_feasibility(inputs, PhysicsSpec())


def test_check_feasibility_kernel_100k_rows() -> None:
    """Section 7.1 of the design document: fails where the kernel no longer compiles to SIMD code."""
    inputs = design(Space(PRESETS["cliff"]), 100_000)
    spec = PhysicsSpec()
    check_feasibility(inputs, spec)
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        check_feasibility(inputs, spec)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 5e-3


@pytest.mark.parametrize("claim", ["individual", "stw09"])
def test_a_margin_depends_on_its_row_alone(claim) -> None:
    """Not on where the row stands, nor on how many there are: a row is judged the same in whatever block it comes."""
    spec = PhysicsSpec(claim=claim)
    _, inputs = LHSSampler(PHYSICAL, 5, 6000).rows(0, 6000)
    whole = check_feasibility(inputs, spec)
    for start, stop in ((0, 1), (1, 2), (3, 20), (255, 257), (7, 1007), (4095, 4100), (5999, 6000), (1, 6000)):
        assert check_feasibility(inputs[start:stop].copy(), spec).tobytes() == whole[start:stop].tobytes(), (
            start,
            stop,
        )
