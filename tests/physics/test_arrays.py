"""The closed forms over arrays: against the scalar functions, and NumPy against PyTorch with its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from caligo.closed_form import expect, expect_sample
from caligo.physics import claims, detection, efficiency, entropy, entropy_arrays, finite_key, leakage, security
from caligo.physics.arrays import NUMPY, Arrays
from caligo.physics.claims import CLAIMS, LEGACY, Counts
from caligo.physics.prediction import Prediction, decoded_frames, expected_leakage_rate, predict
from caligo.space import PRESETS, ExplorationSample, Space
from caligo.spec import PhysicsSpec, ProtocolSpec

TORCH = Arrays(torch, torch.special)
SPACE = Space(PRESETS["cliff"])
POINTS = 2000


def rows(count: int, seed: int, preset: str = "cliff") -> np.ndarray:
    unit = np.random.default_rng(seed).random((count, 9))
    unit[:, 8] = unit[:, 8] < 0.5
    return Space(PRESETS[preset]).from_unit(unit)


def test_ndtr() -> None:
    x = np.linspace(-40.0, 40.0, 100_001)
    np.testing.assert_allclose(NUMPY.special.ndtr(x), special.ndtr(x), rtol=1e-12, atol=1e-290)
    assert NUMPY.special.ndtr(np.array(0.0)) == pytest.approx(0.5, abs=1e-14)


# --- against the scalar functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", ["alice", "bob"])
@pytest.mark.parametrize("name", [*CLAIMS, *LEGACY])
def test_entropies(name, partition) -> None:
    rng = np.random.default_rng(5)
    cut = 10.0 ** rng.uniform(3.57, 8.7, POINTS)
    key_rounds = 2.0 * cut * (1.0 + rng.random(POINTS) ** 4)
    detected = key_rounds * rng.uniform(1.0, 1.2, POINTS)
    removed = np.where(rng.random(POINTS) < 0.5, 0.0, 0.2 * rng.random(POINTS) * cut)
    r, nu = rng.random(POINTS), 10.0 ** rng.uniform(-3.0, 0.0, POINTS)
    r[:100] = 1.0 - 10.0 ** rng.uniform(-8.0, -1.0, 100)
    nu[50:150], r[150], r[151] = 1.0, 0.0, 1.0
    under, columns = claims.claim(name), (detected, key_rounds, cut, removed)
    found = entropy_arrays.entropy(under, *columns, 0.0, r, nu, 1e-10, partition, np)
    expected = [
        under.key_bits(Counts(*counts, 0.0), a, b, 1e-10, partition).entropy
        for *counts, a, b in zip(*columns, r, nu, strict=True)
    ]
    # A maximum over s that is missed by little is lower by less; where it is a corner the sections miss by more.
    np.testing.assert_allclose(found, expected, rtol=5e-9, atol=1e-5)


@pytest.mark.parametrize("name", [*CLAIMS, *LEGACY])
def test_rates(name) -> None:
    rng = np.random.default_rng(6)
    r, nu = rng.random(POINTS), 10.0 ** rng.uniform(-3.0, 0.0, POINTS)
    found = entropy_arrays.entropy_rate(name, r, nu, np)
    expected = [security.min_entropy_rate(a, b, name) for a, b in zip(r, nu, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_inverse_entropy() -> None:
    h = np.concatenate([np.linspace(0.0, 1.0, 1001), 10.0 ** np.linspace(-14.0, -1.0, 200)])
    found = entropy_arrays.inverse_binary_entropy(h, np)
    np.testing.assert_allclose(found, [entropy.inverse_binary_entropy(x) for x in h], rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(entropy_arrays.binary_entropy(found, np), h, atol=1e-13)


@pytest.mark.parametrize("failure", [1.5e-3, 0.05, 3e-8])
@pytest.mark.parametrize("size", [0, 1])
def test_leakage(size, failure) -> None:
    rng = np.random.default_rng(7)
    q, frames = 10.0 ** rng.uniform(-5.0, -0.2, POINTS), 10.0 ** rng.uniform(0.0, 5.0, POINTS)
    q[:4], frames[:5] = (0.0, 1e-4, 0.1, 0.5), (1.0, 10.0, 100.0, 1000.0, 10_000.0)
    found = leakage.leakage_rate(leakage.place(q, np), leakage.rows(frames, np), size, failure, np)
    expected = [
        expected_leakage_rate(0.0, min(a, 0.5), efficiency.BASELINE, n, failure, efficiency.FRAME_SIZES[size])
        for a, n in zip(q, frames, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("convention", ["fidelity", "weight"])
@pytest.mark.parametrize("memory_model", ["markov", "fixed"])
def test_one_pair(memory_model, convention) -> None:
    for row in rows(200, 8, "table1"):
        s = ExplorationSample.inflate(0, row)
        physics = PhysicsSpec(memory_model=memory_model, fidelity_convention=convention)
        found = expect_sample(s, physics, ProtocolSpec())
        assert found.p_click == pytest.approx(detection.click_probability(s.eta, s.P_dark), rel=1e-12)
        assert found.qber == pytest.approx(detection.qber(s.F, s.eta, s.e_det, s.P_dark, convention), rel=1e-12)
        assert found.r_eff == pytest.approx(security.effective_retention(s.r, s.dt_ns, memory_model), rel=1e-12)
    nothing = predict(0.0, 1.0, 1e9, 1.0, 0.0, 0.0, 0.0, 1e6, 0, convention=convention, memory_model=memory_model)
    assert (nothing.p_click, nothing.qber, nothing.r_eff, nothing.detected) == (0.0, 0.5, 0.0, 0.0)


@pytest.mark.parametrize("option", ["claim", "memory_model", "convention", "pe_penalty"])
def test_unknown_options(option) -> None:
    with pytest.raises(ValueError, match="no such"):
        predict(0.75, 1.0, 1e9, 0.99, 0.9, 0.01, 1e-6, 1e6, 0, **{option: "no such"})


def test_rows_and_samples() -> None:
    """A row, and the sample that is made of it but for the whole number of pairs."""
    inputs = rows(50, 9)
    together = expect(inputs, PhysicsSpec(), ProtocolSpec())
    for i, row in enumerate(inputs):
        alone = expect_sample(ExplorationSample.inflate(i, row), PhysicsSpec(), ProtocolSpec())
        assert together.margin[i] == pytest.approx(alone.margin, abs=1e-5)
        assert together.key[i] == pytest.approx(alone.key, abs=1e-3)


def test_what_is_decoded_of_a_blind_run() -> None:
    total = np.array([1.0, 40.0, 64.0, 300.0, 1e4])
    assert decoded_frames(total, 0.02, 0, 256, np).tolist() == pytest.approx([1, 40, 64, 1 / (1 / 400 + 1 / 300), 256])
    assert decoded_frames(total, 0.02, 0, 1, np).tolist() == pytest.approx([1, 40, 64, 64, 64])
    assert decoded_frames(total, 1e-4, 1, 256, np).tolist() == pytest.approx([1, 4, 4, 4, 4])


# --- NumPy and PyTorch ----------------------------------------------------------------------------------------------

CASES = [
    ("individual", "alice"),
    ("individual", "bob"),
    ("stw09", "alice"),
    ("lupo2023", "alice"),
    ("erven2014", "bob"),
]


@pytest.mark.parametrize(("name", "partition"), CASES)
def test_torch_computes_the_same(name, partition) -> None:
    inputs = np.concatenate([rows(20_000, 10), rows(2000, 11, "table1")])
    settings = PhysicsSpec(claim=name), ProtocolSpec(partition=partition)
    ours, theirs = expect(inputs, *settings), expect(torch.tensor(inputs), *settings, TORCH)
    for field, a, b in zip(Prediction._fields, ours, theirs, strict=True):
        assert b.dtype == torch.float64
        np.testing.assert_allclose(b.numpy(), a, rtol=1e-12, atol=1e-12, err_msg=field)


@pytest.mark.parametrize(("name", "partition"), CASES)
def test_gradients(name, partition) -> None:
    """Against differences, but for the few points where one lies across a corner of the formula."""
    settings = PhysicsSpec(claim=name), ProtocolSpec(partition=partition)
    inputs = torch.tensor(rows(400, 12)).double().requires_grad_(True)
    found = expect(inputs, *settings, TORCH)
    step = 1e-6
    for field in ("margin", "sd", "filled", "key"):
        (gradient,) = torch.autograd.grad(getattr(found, field).sum(), inputs, retain_graph=True)
        assert torch.isfinite(gradient).all()
        differences = np.empty((len(inputs), 8))
        for j in range(8):
            up, down = (inputs.detach().numpy().copy() for _ in range(2))
            up[:, j] += step
            down[:, j] -= step
            high, low = (getattr(expect(side, *settings), field) for side in (up, down))
            differences[:, j] = (high - low) / (2.0 * step)
        close = np.isclose(gradient.numpy()[:, :8], differences, rtol=1e-4, atol=1e-6)
        assert close.all(axis=1).mean() > 0.97, field


def test_gradients_at_the_edges() -> None:
    """Finite at every corner of the widest space and where nothing is detected."""
    corners = np.array(np.meshgrid(*SPACE.model_bounds().T[:8], [0, 1], indexing="ij")).reshape(9, -1).T
    wide = np.array(np.meshgrid(*Space(PRESETS["table1"]).model_bounds().T[:8], [0, 1], indexing="ij")).reshape(9, -1).T
    for name, partition in CASES:
        inputs = torch.tensor(np.concatenate([corners, wide])).requires_grad_(True)
        found = expect(inputs, PhysicsSpec(claim=name), ProtocolSpec(partition=partition), TORCH)
        for field in ("margin", "sd", "filled", "key"):
            (gradient,) = torch.autograd.grad(getattr(found, field).sum(), inputs, retain_graph=True)
            assert torch.isfinite(gradient).all(), (name, field)


def test_the_tolerance_of_sections() -> None:
    """The scalar maximum, by golden sections, is nowhere above that of the arrays by more than rounding."""
    rng = np.random.default_rng(13)
    m, r, nu = 10.0 ** rng.uniform(3.57, 8.0, POINTS), rng.random(POINTS), 10.0 ** rng.uniform(-3.0, 0.0, POINTS)
    cost = 33.0 + entropy_arrays.balancing_cost(m, np)
    for memory, form in (
        (finite_key.ERASING, entropy_arrays.unknown_bits_erasing),
        (finite_key.DEPOLARISING, entropy_arrays.unknown_bits_depolarising),
    ):
        expected = [
            finite_key.unknown_bits(2.0 * n, c, a, b, memory) for n, c, a, b in zip(m, cost, r, nu, strict=True)
        ]
        assert np.all(form(2.0 * m, cost, r, nu, np) >= np.array(expected) * (1.0 - 1e-9) - 1e-6)
