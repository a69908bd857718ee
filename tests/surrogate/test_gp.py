"""Learning hyper-parameters: the loss against scikit-learn, training, precision, and the two ways of solving."""

from __future__ import annotations

import gpytorch
import linear_operator
import numpy as np
import pytest
import torch
from caligo_surrogate import keops
from caligo_surrogate.escalation import Health, Ladder, Numerics, Plan, Solver, UnsoundError
from caligo_surrogate.prior import Constant
from caligo_surrogate.regressor import EfficiencyGP, train
from linear_operator.utils.errors import NotPSDError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from benchmarks.gp_memory import gradient, peak_of_step
from caligo.errors import InternalError
from caligo.phases import Phase
from caligo.results import METRIC

NUMERICS = Numerics()
SEED = 5


def process(cliff, n, device, seed=3, kernel="dense"):
    inputs = cliff.space.to_unit(cliff.design(n, seed))
    target = cliff.margin(inputs)
    standardised = (target - target.mean()) / target.std()
    return EfficiencyGP(device.to_device(inputs), device.to_device(standardised), Constant(), NUMERICS, kernel)


def shaped(gp, noise=1e-2):
    """With hyper-parameters as a fit leaves them."""
    gp.covar_module.base_kernel.lengthscale = torch.linspace(0.8, 4.0, 9)
    gp.covar_module.outputscale = 1.7
    gp.mean_module.initialize(constant=0.3)
    gp.likelihood.second_noise = noise - NUMERICS.noise_floor
    return gp


@pytest.fixture
def device(MockGPUBackend):
    return MockGPUBackend()


@pytest.fixture
def on_cpu(MockGPUBackend, monkeypatch):
    monkeypatch.setattr(MockGPUBackend, "is_gpu", False)
    return MockGPUBackend()


def test_loss_is_that_of_scikit_learn(cliff, device):
    gp = shaped(process(cliff, 120, device))
    gp.train()
    likelihood_of = gpytorch.mlls.ExactMarginalLogLikelihood(gp.likelihood, gp)
    solver = Solver("cholesky", device, NUMERICS)
    with solver.gpytorch_settings(solver.training(120).plan, SEED):
        value = likelihood_of(gp(gp.inputs), gp.targets).item()
    priors = sum(float(prior.log_prob(closure(module)).sum()) for _, module, prior, closure, _ in gp.named_priors())
    kernel = ConstantKernel(1.7, "fixed") * Matern(np.linspace(0.8, 4.0, 9), "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=1e-2, optimizer=None)
    peer.fit(gp.inputs.double().numpy(), gp.targets.double().numpy() - 0.3)
    assert value == pytest.approx((peer.log_marginal_likelihood() + priors) / 120, abs=1e-3)


def test_a_step_of_training_is_down_the_slope_of_gpytorch(cliff, device):
    """By a factor of our own, the loss and its gradient by every hyper-parameter are the library's."""
    gp = shaped(process(cliff, 120, device))
    first = next(train(gp, 5, 0.05, Solver("cholesky", device, NUMERICS), SEED))
    ours = {name: value.grad.clone() for name, value in gp.named_parameters()}
    gp.zero_grad()
    solver = Solver("cholesky", device, NUMERICS)
    with solver.gpytorch_settings(solver.training(120).plan, SEED):
        loss = -gpytorch.mlls.ExactMarginalLogLikelihood(gp.likelihood, gp)(gp(gp.inputs), gp.targets)
        loss.backward()
    assert first.loss == pytest.approx(loss.item(), abs=1e-4)
    assert len(ours) == 4
    for name, value in gp.named_parameters():
        torch.testing.assert_close(ours[name], value.grad, rtol=2e-3, atol=2e-4)


def test_training_lowers_the_loss_and_finds_what_matters(cliff, device, drain):
    gp = process(cliff, 200, device)
    steps, best = drain(train(gp, 150, 0.05, Solver("cholesky", device, NUMERICS), SEED))
    losses = [progress.loss for progress in steps]
    assert [progress.step for progress in steps] == list(range(1, len(steps) + 1))
    assert best.loss == min(losses) < losses[0] - 0.3
    scales = gp.matern.length_scales.numpy()
    relevant, irrelevant = scales[[0, 1, 2, 3, 4, 7]], scales[[5, 6]]
    assert relevant.max() < irrelevant.min()


def test_training_stops_early_from_where_it_ended(cliff, device, drain):
    gp = process(cliff, 100, device)
    gp.targets.add_(0.3 * torch.randn(100, generator=torch.Generator().manual_seed(0)))
    solver = Solver("cholesky", device, NUMERICS)
    _, first = drain(train(gp, 300, 0.05, solver, SEED))
    _, again = drain(train(gp, 300, 0.05, solver, SEED))
    assert again.step < first.step < 300
    assert again.loss <= first.loss + 1e-4


def test_no_float64_in_a_model(cliff, device, drain):
    gp = process(cliff, 60, device)
    drain(train(gp, 5, 0.05, Solver("cg", device, NUMERICS), SEED))
    tensors = {**dict(gp.named_parameters()), "inputs": gp.inputs, "targets": gp.targets}
    tensors |= dict(gp.named_buffers())
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float32}
    assert all(dtype == torch.float32 for _, dtype in device.uploads)


# --- solvers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cg_calls(monkeypatch):
    """Counts systems that conjugate gradients solve."""
    calls = []
    original = linear_operator.utils.linear_cg

    def counting(*args, **kwargs):
        calls.append(args[1].shape)
        return original(*args, **kwargs)

    monkeypatch.setattr(linear_operator.utils, "linear_cg", counting)
    monkeypatch.setattr(linear_operator.operators._linear_operator.utils, "linear_cg", counting)
    return calls


def test_conjugate_gradients_really_run_and_agree_with_cholesky(cliff, device, cg_calls):
    import botorch  # noqa: F401  # the import turns conjugate gradients off for the whole process

    losses = {}
    for choice in ("cholesky", "cg"):
        gp = shaped(process(cliff, 300, device))
        cg_calls.clear()
        losses[choice] = next(train(gp, 1, 0.05, Solver(choice, device, NUMERICS), SEED)).loss
        assert bool(cg_calls) == (choice == "cg")
    assert losses["cg"] == pytest.approx(losses["cholesky"], abs=0.05)


def test_training_by_conjugate_gradients_is_repeatable(cliff, device, drain, cg_calls):
    losses = []
    for _ in range(2):
        torch.rand(3)  # whatever happened to the global generator before
        before = torch.get_rng_state()
        steps, _ = drain(train(process(cliff, 80, device), 4, 0.05, Solver("cg", device, NUMERICS), SEED))
        losses.append([progress.loss for progress in steps])
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[1]
    assert cg_calls


@pytest.mark.parametrize(
    ("choice", "gpu", "rows", "training", "posterior"),
    [
        ("auto", False, 300, "cholesky", "cholesky"),
        ("auto", False, 4001, "cg", "cholesky"),
        ("auto", False, 8001, "cg", "cg"),
        ("auto", True, 300, "cg", "cholesky"),
        ("auto", True, 20_001, "cg", "cg"),
        ("cg", False, 10, "cg", "cg"),
        ("cholesky", True, 10**6, "cholesky", "cholesky"),
    ],
)
def test_choice_of_solver(MockGPUBackend, monkeypatch, choice, gpu, rows, training, posterior):
    monkeypatch.setattr(MockGPUBackend, "is_gpu", gpu)
    solver = Solver(choice, MockGPUBackend(), NUMERICS)
    assert (solver.training(rows).plan.method, solver.posterior(rows).plan.method) == (training, posterior)


def test_choice_of_kernel(on_cpu, monkeypatch):
    """The matrix itself where it fits into half of the memory, KeOps beyond where it can be used."""
    monkeypatch.setattr(on_cpu, "total_bytes", lambda: 8 * 1000**2)
    solver = Solver("auto", on_cpu, NUMERICS)
    assert solver.kernel(1000, matrices=1) == "dense"
    assert solver.kernel(1000, matrices=2) == solver.kernel(1001, matrices=1) != "dense"
    for lack, beyond in ((None, "keops"), ("a compiler", "blocks")):
        monkeypatch.setattr(keops, "missing", lambda lack=lack: lack)
        assert solver.kernel(1001, matrices=1) == beyond
    on_cpu.kernel = "blocks"
    assert solver.kernel(10, matrices=1) == "blocks"


def test_unsound_numbers_are_solved_again_with_a_stronger_setting(device):
    solver = Solver("cg", device, NUMERICS)
    seen = []

    def compute(plan):
        with solver.gpytorch_settings(plan, SEED):
            seen.append(
                (gpytorch.settings.fast_computations.log_prob.on(), gpytorch.settings.max_cg_iterations.value())
            )
            if len(seen) == 1:
                raise UnsoundError("variance -0.5")
            if len(seen) < 4:
                raise NotPSDError("not positive definite")
        return "sound"

    assert solver.training(100).run(compute) == "sound"
    assert seen[0] == (True, NUMERICS.cg_iterations)
    assert seen[1] == (True, 4 * NUMERICS.cg_iterations)
    assert [cg for cg, _ in seen[2:]] == [False, False]
    assert solver.health == Health(detections=3, escalations=3)


def test_unsound_numbers_are_never_returned():
    def compute(plan):
        raise UnsoundError("always")

    health = Health()
    with pytest.raises(InternalError):
        Ladder("test", (Plan("cholesky", 1e-5), Plan("cholesky", 1e-3)), health).run(compute)
    assert health == Health(detections=2, escalations=1, failures=1)


def test_nan_in_the_data_is_not_a_fit(cliff, device):
    gp = process(cliff, 40, device)
    gp.targets[3] = torch.nan
    with pytest.raises(InternalError):
        next(train(gp, 5, 0.05, Solver("cholesky", device, NUMERICS), SEED))


# --- memory ---------------------------------------------------------------------------------------------------------

BACKENDS = ["blocks", pytest.param("keops", marks=pytest.mark.keops)]


@pytest.mark.parametrize("kernel", BACKENDS)
def test_gradients_do_not_depend_on_how_the_matrix_is_represented(cliff, device, kernel):
    solver = Solver("cg", device, NUMERICS)
    with solver.gpytorch_settings(solver.training(700).plan, SEED):
        expected, found = (gradient(shaped(process(cliff, 700, device, kernel=k))) for k in ("dense", kernel))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_checkpointing_takes_less_than_half_of_the_memory(cliff, device):
    """The ratio falls with the number of rows: 0.34 at 2,000 (`benchmarks.gp_memory` for 8,000)."""
    peaks = {}
    for kernel in ("dense", "blocks"):
        gp = shaped(process(cliff, 2000, device, kernel=kernel))
        peaks[kernel] = peak_of_step(gp, Solver("cg", device, Numerics(training_tolerance=0.5)))
    assert peaks["blocks"] < 0.5 * peaks["dense"]


@pytest.mark.parametrize("kernel", BACKENDS)
def test_training_finds_the_same_with_every_representation(cliff, device, drain, kernel):
    found = {}
    for k in ("dense", kernel):
        gp = shaped(process(cliff, 150, device, kernel=k))
        _, best = drain(train(gp, 12, 0.05, Solver("cg", device, NUMERICS), SEED))
        found[k] = best.loss
    assert found[kernel] == pytest.approx(found["dense"], abs=0.05)


def test_a_loss_that_rises_for_a_while_does_not_end_training(make, cliff, drain):
    """From a cold start with many noisy rows Adam overshoots: the loss rises from step 16 on and falls on later."""
    rows = cliff.rows(cliff.design(1000, seed=1))
    margin = rows["metrics"][:, METRIC["margin"]]
    margin += np.random.default_rng(1).normal(0, 0.6 * margin.std(), len(rows)).astype(np.float32)
    landscape = make(training_steps=50)
    landscape.observe(Phase.LHS, rows)
    steps, summary = drain(landscape.fit())
    losses = [step.loss for step in steps]
    assert max(losses[20:40]) > losses[16] + 0.01, "the hump is there"
    assert summary.loss < losses[16] - 0.01
    assert np.ptp(landscape.length_scales()) > 0.2, "relevant parameters are told from others"
