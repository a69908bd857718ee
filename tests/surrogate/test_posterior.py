"""Posteriors against scikit-learn and float64, what extends them, and what bounds their errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from caligo_surrogate.escalation import Numerics, Solver, UnsoundError
from caligo_surrogate.posterior import IterativePosterior, Process, cg, condition
from caligo_surrogate.posterior.cg import Nystrom
from caligo_surrogate.posterior.kernel import KernelMatrix, Matern
from caligo_surrogate.prior import Constant, Known
from gpytorch.kernels import MaternKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel
from sklearn.gaussian_process.kernels import Matern as PeerMatern

MATERN = Matern(torch.linspace(0.8, 4.0, 9), 1.7)
NOISE = 1e-2
CONSTANT = 0.3
NOTHING_KNOWN = Process(MATERN, Constant(), CONSTANT, NOISE, 0.0)
BACKENDS = ["dense", "blocks", pytest.param("keops", marks=pytest.mark.keops)]


class Tilted:
    """A prior that knows a plane, a noise that differs from row to row, and a gate."""

    name = "tilted"

    def __call__(self, x):
        return Known(2 * x[..., 0] - x[..., 7], 0.05 * x[..., 1] ** 2, 1 - 0.5 * x[..., 2])


def everywhere(noise, rows):
    return torch.full((rows,), noise, dtype=torch.float64)


@pytest.fixture
def device(MockGPUBackend):
    return MockGPUBackend()


@pytest.fixture(scope="module")
def data(cliff):
    """Unit coordinates and standardised targets of 450 rows, and 80 test points, float32."""
    inputs = cliff.space.to_unit(cliff.design(450, seed=3))
    target = cliff.margin(inputs) + 0.02 * np.random.default_rng(0).standard_normal(450)
    targets = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32)
    return torch.tensor(inputs), targets, torch.tensor(cliff.space.to_unit(cliff.design(80, seed=4)))


def posterior(data, device, choice="cholesky", backend="dense", n=450, noise=NOISE, numerics=None, prior=None):
    inputs, targets, _ = data
    device.kernel = backend
    solver = Solver(choice, device, numerics or Numerics(nystrom_rank=100))
    return solver.posterior(n).run(
        lambda plan: condition(
            Process(MATERN, prior or Constant(), CONSTANT, noise, 0.0), inputs[:n], targets[:n], solver, plan, seed=7
        )
    )


def exact(data, n=450, prior=None):
    """Mean and variance by scikit-learn in float64."""
    inputs, targets, test = (t.double() for t in data)
    prior = prior or Constant()
    kernel = ConstantKernel(1.7, "fixed") * PeerMatern(np.linspace(0.8, 4.0, 9), "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=(NOISE + prior(inputs[:n]).noise).numpy(), optimizer=None)
    peer.fit(inputs[:n].numpy(), (targets[:n] - CONSTANT - prior(inputs[:n]).mean).numpy())
    mean, covariance = peer.predict(test.numpy(), return_cov=True)
    return mean + CONSTANT + prior(test).mean.numpy(), covariance


# --- kernel ---------------------------------------------------------------------------------------------------------


def test_kernel_is_that_of_gpytorch(data):
    inputs, _, test = data
    peer = MaternKernel(nu=2.5, ard_num_dims=9)
    peer.lengthscale = MATERN.length_scales
    expected = 1.7 * peer(test, inputs).to_dense().detach()
    torch.testing.assert_close(MATERN(test, inputs), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("backend", "columns"),
    [
        *((backend, columns) for backend in ("dense", "blocks") for columns in (1, 3, 70)),
        pytest.param("keops", 3, marks=pytest.mark.keops),
        pytest.param("keops", 70, marks=[pytest.mark.keops, pytest.mark.slow]),  # half a minute of compiling
    ],
)
def test_products_of_all_kinds_agree(data, backend, columns):
    """Also after rows were added, and for numbers of vectors that KeOps pads or splits."""
    inputs, _, _ = data
    v = torch.randn(450, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    k = MATERN(inputs.double(), inputs.double())
    expected = k @ v + NOISE * v
    noise = everywhere(NOISE, 450)
    matrix = KernelMatrix.of(MATERN, noise[:300], inputs[:300], backend)
    matrix = matrix.extended(inputs[300:310], noise[300:310]).extended(inputs[310:], noise[310:])
    torch.testing.assert_close(matrix.product(v), expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(matrix.residual(expected, v), torch.zeros_like(v), atol=1e-5, rtol=0)


def test_cross_product_is_float64(data):
    inputs, _, test = data
    v = torch.ones(450, 1, dtype=torch.float64)
    expected = MATERN(test.double(), inputs.double()) @ v
    found = KernelMatrix.of(MATERN, everywhere(NOISE, 450), inputs, "blocks").cross(test, v)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


# --- posteriors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_moments_are_those_of_scikit_learn(data, device, choice, backend):
    mean, variance, noise, gate = posterior(data, device, choice, backend).moments(data[2])
    expected, covariance = exact(data)
    assert mean.dtype == variance.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(variance.sqrt().numpy(), np.sqrt(covariance.diagonal()), rtol=1e-2)
    np.testing.assert_allclose(noise, NOISE)
    np.testing.assert_array_equal(gate, 1)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_a_prior_brings_mean_noise_and_gate_of_each_row(data, device, choice):
    """Conditioned at once and in two pieces; a run more counts by the noise of its own place."""
    inputs, targets, test = data
    prior = Tilted()
    grown = posterior(data, device, choice, n=400, prior=prior).extended(inputs[400:], targets[400:])
    expected, covariance = exact(data, prior=prior)
    for found in (posterior(data, device, choice, prior=prior), grown):
        moments = found.moments(test)
        np.testing.assert_allclose(moments.mean.numpy(), expected, atol=1e-3)
        np.testing.assert_allclose(moments.variance.sqrt().numpy(), np.sqrt(covariance.diagonal()), rtol=1e-2)
        torch.testing.assert_close(moments.noise, prior(test).noise + NOISE)
        torch.testing.assert_close(moments.gate, prior(test).gate)
        level = 0.4
        z = (expected - level) / np.sqrt(covariance.diagonal() + moments.noise.numpy())
        np.testing.assert_allclose(moments.key(level), prior(test).gate.numpy() * norm.cdf(z), atol=2e-3)
    believed = grown.believe(test[:1]).moments(test[:1])
    before = grown.moments(test[:1])
    torch.testing.assert_close(1 / believed.variance, 1 / before.variance + 1 / before.noise, rtol=2e-2, atol=0)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_covariances_between_points(data, device, choice):
    """What a batch is chosen by; without a factor given the rows near the second alone, and never too small."""
    found, test = posterior(data, device, choice), data[2]
    between = found.between(test, test[:3]).numpy()
    expected = exact(data)[1][:, :3]
    np.testing.assert_allclose(between, expected, atol=3e-4 if choice == "cholesky" else 2e-2)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_covariance_is_that_of_scikit_learn(data, device, choice):
    found = posterior(data, device, choice).covariance(data[2])
    np.testing.assert_allclose(found.numpy(), exact(data)[1], atol=3e-4)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_accuracy_at_4000_rows(cliff, device, choice):
    """Mean within 1e-3 of the target's standard deviation, standard deviation within 5 %, of float64 Cholesky."""
    inputs = torch.tensor(cliff.space.to_unit(cliff.design(4000, seed=3)))
    target = cliff.margin(inputs.numpy()) + 0.02 * np.random.default_rng(0).standard_normal(4000)
    targets = torch.tensor((target - target.mean()) / target.std(), dtype=torch.float32)
    test = torch.tensor(cliff.space.to_unit(cliff.design(40, seed=4)))
    solver = Solver(choice, device, Numerics())
    found = solver.posterior(4000).run(
        lambda plan: condition(Process(MATERN, Constant(), CONSTANT, 1e-3, 0.0), inputs, targets, solver, plan, seed=7)
    )
    mean, variance, *_ = found.moments(test)
    k = MATERN(inputs.double(), inputs.double())
    k.diagonal().add_(1e-3)
    cross = MATERN(inputs.double(), test.double())
    factor = torch.linalg.cholesky(k)
    weights = torch.cholesky_solve((targets.double() - CONSTANT).unsqueeze(-1), factor)
    expected = CONSTANT + (cross.mT @ weights).squeeze(-1)
    spread = MATERN.variance - torch.linalg.solve_triangular(factor, cross, upper=False).square().sum(0)
    torch.testing.assert_close(mean.double(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(variance.double().sqrt(), spread.sqrt(), atol=0, rtol=0.05)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_extending_is_conditioning_anew(data, device, choice):
    inputs, targets, test = data
    grown = posterior(data, device, choice, n=400)
    grown = grown.extended(inputs[400:403], targets[400:403]).extended(inputs[403:], targets[403:])
    expected, covariance = exact(data)
    mean, variance, *_ = grown.moments(test)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(variance.sqrt().numpy(), np.sqrt(covariance.diagonal()), rtol=1e-2)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_pending_rows_leave_the_mean_and_lower_the_variance(data, device, choice):
    before = posterior(data, device, choice)
    after = before.believe(data[2][:5])
    (mean, variance, *_), (same, lower, *_) = before.moments(data[2]), after.moments(data[2])
    torch.testing.assert_close(same, mean, atol=1e-6, rtol=0)
    assert bool((lower <= variance + 1e-5).all())
    # One run more at a point: 1 / v' = 1 / v + 1 / noise, others of the five only add to it.
    assert bool((lower[:5] <= 1 / (1 / variance[:5] + 1 / NOISE) + 1e-5).all())


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_what_acquisition_sees_is_consistent(data, device, choice):
    """Marginal, joint and BoTorch's posterior of the same points; iterative variances are never too small."""
    found, test = posterior(data, device, choice), data[2]
    mean, variance, *_ = found.marginal(test)
    expected = found.moments(test).variance
    batch = test[:6].reshape(2, 3, 9)
    joint_mean, covariance = found.joint(batch)
    torch.testing.assert_close(joint_mean, mean[:6].reshape(2, 3), atol=1e-4, rtol=0)
    botorch = found.posterior(batch)
    torch.testing.assert_close(botorch.mean.squeeze(-1), joint_mean)
    if choice == "cholesky":
        torch.testing.assert_close(variance, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1), variance[:6].reshape(2, 3))
    else:
        assert bool((variance >= expected - 1e-4).all())
        assert bool((variance.sqrt() <= 1.3 * expected.sqrt()).all())


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_gradients_are_those_of_finite_differences(data, device, choice):
    found, x = posterior(data, device, choice, n=60), data[2][:2].double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: found.marginal(x)[:2], x, eps=1e-5, atol=1e-4)
    assert torch.autograd.gradcheck(lambda x: found.joint(x), x, eps=1e-5, atol=1e-4)


def test_noise_is_raised_to_what_float32_needs(data, device):
    found = posterior(data, device, noise=1e-7)
    assert set(found.matrix.noise.tolist()) == {Numerics().noise_floor}
    np.testing.assert_allclose(found.moments(data[2]).noise, Numerics().noise_floor)
    assert Numerics().least_noise(100_000) == pytest.approx(3e-3)


# --- conjugate gradients --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 60), rank=st.integers(1, 60), iterations=st.integers(0, 12), seed=st.integers(0, 10**6))
def test_the_error_is_never_above_its_bound(n, rank, iterations, seed):
    """e' (K + noise I) e <= r' P^-1 r, wherever conjugate gradients stop."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(n, 9, generator=generator)
    b = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    matrix = KernelMatrix.of(MATERN, everywhere(NOISE, n), inputs, "dense")
    preconditioner = Nystrom.of(MATERN, everywhere(NOISE, n), inputs, rank, seed)
    x, _ = cg._descend(matrix.product, b, preconditioner, torch.tensor(0.0), iterations)
    residual = matrix.residual(b, x)
    bound = (residual * preconditioner.solve(residual)).sum(0)
    k = MATERN(inputs.double(), inputs.double()) + NOISE * torch.eye(n, dtype=torch.float64)
    error = x - torch.linalg.solve(k, b)
    squared = (error * (k @ error)).sum(0)
    assert bool((squared <= bound * (1 + 1e-4) + 1e-9).all())


def test_a_full_preconditioner_leaves_nothing_to_do(data):
    inputs, targets, _ = data
    matrix = KernelMatrix.of(MATERN, everywhere(NOISE, 450), inputs, "dense")
    preconditioner = Nystrom.of(MATERN, everywhere(NOISE, 450), inputs, 10**6, seed=1)
    b = targets.double().unsqueeze(-1)
    solution = cg.solve(matrix, b, preconditioner, 1e-6, 10)
    assert solution.products <= 6
    torch.testing.assert_close(matrix.product(solution.x), b, atol=1e-3, rtol=0)


def test_a_warm_start_costs_less(data, device):
    inputs, targets, _ = data
    known = posterior(data, device, "cg", n=440)
    noise = everywhere(NOISE, 10)
    matrix = known.matrix.extended(inputs[440:], noise)
    preconditioner = known.preconditioner.extended(inputs[440:], noise)
    b = (targets.double() - CONSTANT).unsqueeze(-1)
    start = torch.cat([known.weights, torch.zeros(10, 1, dtype=torch.float64)])
    cold = cg.solve(matrix, b, preconditioner, 1e-3, 1000)
    warm = cg.solve(matrix, b, preconditioner, 1e-3, 1000, start)
    assert warm.products < cold.products


def test_an_unreached_tolerance_is_answered_by_stronger_settings(data, device):
    """2 iterations do not do, nor 8; the factor does. Each is counted."""
    inputs, targets, test = data
    solver = Solver("cg", device, Numerics(nystrom_rank=5, cg_iterations=2))
    found = solver.posterior(450).run(lambda plan: condition(NOTHING_KNOWN, inputs, targets, solver, plan, seed=7))
    assert found.plan.method == "cholesky"
    assert (solver.health.detections, solver.health.escalations, solver.health.failures) == (2, 2, 0)
    np.testing.assert_allclose(found.moments(test)[0].numpy(), exact(data)[0], atol=1e-3)


def test_more_rank_and_iterations_before_a_factor(data, device):
    found = posterior(data, device, "cg", numerics=Numerics(nystrom_rank=100, cg_iterations=4))
    assert found.plan == Solver("cg", device, Numerics()).posterior(450)._plans[1]
    assert isinstance(found, IterativePosterior)
    assert len(found.preconditioner.landmarks) == 400


def test_nan_is_never_a_posterior(data, device):
    inputs, targets, _ = data
    spoilt = targets.clone()
    spoilt[3] = torch.nan
    solver = Solver("auto", device, Numerics())
    with pytest.raises(UnsoundError):
        condition(NOTHING_KNOWN, inputs, spoilt, solver, solver.posterior(450).plan, seed=7)


def test_duplicate_rows_stay_sound(data, device):
    inputs, targets, _ = data
    many = (inputs[:40].repeat(6, 1), targets[:40].repeat(6), inputs[:40])
    for choice in ("cholesky", "cg"):
        mean, variance, *_ = posterior(many, device, choice, n=240, noise=1e-4).moments(inputs[:40])
        assert bool((variance >= 0).all())
        torch.testing.assert_close(mean, targets[:40], atol=0.05, rtol=0)


def test_rows_that_lie_close_are_conditioned_on_in_float64(device):
    """Crowded round a point under little noise: float32 loses the distances, and a factor alone mends nothing."""
    matern = Matern(torch.tensor([0.11, 0.02, 0.03, 0.03, 0.003, 0.05, 0.27, 0.02, 0.07]), 1.6)
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(60, 9, generator=generator)
    crowd = 0.9 + 1e-4 * torch.rand(240, 9, generator=generator)
    inputs = torch.cat([spread, crowd])
    targets = torch.cat([torch.randn(60, generator=generator), 0.5 + 0.01 * torch.randn(240, generator=generator)])
    solver = Solver("cholesky", device, Numerics())
    found = solver.posterior(300).run(
        lambda plan: condition(
            Process(matern, Constant(), CONSTANT, 1.3e-4, 0.0), inputs, targets, solver, plan, seed=7
        )
    )
    factor = matern(inputs.double(), inputs.double())
    factor.diagonal().add_(found.matrix.noise)
    factor = torch.linalg.cholesky(factor)
    x = torch.cat([torch.rand(50, 9, generator=generator), crowd[:50] + 1e-4])
    k = matern(inputs.double(), x.double())
    mean = CONSTANT + k.mT @ torch.cholesky_solve((targets.double() - CONSTANT).unsqueeze(-1), factor)
    variance = 1.6 - torch.linalg.solve_triangular(factor, k, upper=False).square().sum(0)
    for moments in (found.moments(x), found.marginal(x)):
        torch.testing.assert_close(moments[0].double(), mean.squeeze(-1), atol=1e-4, rtol=0)
        torch.testing.assert_close(moments[1].double(), variance, atol=1e-5, rtol=0)


@pytest.mark.parametrize("choice", ["cholesky", "cg"])
def test_a_gpu_agrees_with_the_cpu(data, device, gpu, choice):
    there = tuple(t.to(gpu.torch_device) for t in data)
    solver = Solver(choice, gpu, Numerics(nystrom_rank=100))
    matern = Matern(MATERN.length_scales.to(gpu.torch_device), MATERN.variance)
    process = Process(matern, Tilted(), CONSTANT, NOISE, 0.0)
    found = solver.posterior(450).run(lambda plan: condition(process, there[0], there[1], solver, plan, seed=7))
    mean, variance, *_ = found.moments(there[2])
    expected, spread, *_ = posterior(data, device, choice, prior=Tilted()).moments(data[2])
    torch.testing.assert_close(mean.cpu(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(variance.sqrt().cpu(), spread.sqrt(), atol=0, rtol=0.02)
