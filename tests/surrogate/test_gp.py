"""The regressor against scikit-learn, its training, its precision, and the two ways of solving its systems."""

from __future__ import annotations

import warnings

import gpytorch
import linear_operator
import numpy as np
import pytest
import torch
from caligo_surrogate.gp import EfficiencyGP, train
from caligo_surrogate.solvers import Ladder, Numerics, Plan, Solver, UnsoundError
from linear_operator.utils.errors import NotPSDError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from caligo.errors import InternalError

NUMERICS = Numerics()


def process(cliff, n, device, seed=3):
    inputs = cliff.space.to_unit(cliff.design(n, seed))
    target = cliff.margin(inputs)
    standardised = (target - target.mean()) / target.std()
    return EfficiencyGP(device.to_device(inputs), device.to_device(standardised), NUMERICS)


def shaped(gp, noise=1e-2):
    """With hyper-parameters as a fit leaves them."""
    gp.covar_module.base_kernel.lengthscale = torch.linspace(0.8, 4.0, 9)
    gp.covar_module.outputscale = 1.7
    gp.mean_module.constant = 0.3
    gp.likelihood.noise = noise
    return gp.frozen()


@pytest.fixture
def device(MockGPUBackend):
    return MockGPUBackend()


def test_posterior_is_that_of_scikit_learn(cliff, device):
    gp = shaped(process(cliff, 150, device))
    test = cliff.space.to_unit(cliff.design(300, seed=4))
    mean, variance = (
        Solver("cholesky", device, NUMERICS)
        .ladder(150, "test")
        .run(lambda: gp.moments(device.to_device(test), NUMERICS))
    )
    kernel = ConstantKernel(1.7, "fixed") * Matern(np.linspace(0.8, 4.0, 9), "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=1e-2, optimizer=None)
    peer.fit(gp.inputs.double().numpy(), gp.targets.double().numpy() - 0.3)
    expected, sd = peer.predict(test.astype(np.float64), return_std=True)
    np.testing.assert_allclose(mean.numpy(), expected + 0.3, atol=1e-3)
    np.testing.assert_allclose(variance.sqrt().numpy(), sd, rtol=1e-2)


def test_loss_is_that_of_scikit_learn(cliff, device):
    gp = shaped(process(cliff, 120, device))
    gp.train()
    likelihood_of = gpytorch.mlls.ExactMarginalLogLikelihood(gp.likelihood, gp)
    ladder = Solver("cholesky", device, NUMERICS).ladder(120, "test")
    value = ladder.run(lambda: likelihood_of(gp(gp.inputs), gp.targets).item())
    priors = sum(float(prior.log_prob(closure(module)).sum()) for _, module, prior, closure, _ in gp.named_priors())
    kernel = ConstantKernel(1.7, "fixed") * Matern(np.linspace(0.8, 4.0, 9), "fixed", nu=2.5)
    peer = GaussianProcessRegressor(kernel, alpha=1e-2, optimizer=None)
    peer.fit(gp.inputs.double().numpy(), gp.targets.double().numpy() - 0.3)
    assert value == pytest.approx((peer.log_marginal_likelihood() + priors) / 120, abs=1e-3)


def test_training_lowers_the_loss_and_finds_what_matters(cliff, device, drain):
    gp = process(cliff, 200, device)
    steps, best = drain(train(gp, 150, 0.05, Solver("auto", device, NUMERICS).ladder(200, "test")))
    losses = [progress.loss for progress in steps]
    assert [progress.step for progress in steps] == list(range(1, len(steps) + 1))
    assert best.loss == min(losses) < losses[0] - 0.3
    scales = gp.length_scales.numpy()
    relevant, irrelevant = scales[[0, 1, 2, 3, 4, 7]], scales[[5, 6]]
    assert relevant.max() < irrelevant.min()


def test_training_stops_early_from_where_it_ended(cliff, device, drain):
    gp = process(cliff, 100, device)
    gp.targets.add_(0.3 * torch.randn(100, generator=torch.Generator().manual_seed(0)))
    ladder = Solver("auto", device, NUMERICS).ladder(100, "test")
    _, first = drain(train(gp, 300, 0.05, ladder))
    _, again = drain(train(gp, 300, 0.05, ladder))
    assert again.step < first.step < 300
    assert again.loss <= first.loss + 1e-4


def test_no_float64_in_a_model(cliff, device, drain):
    gp = process(cliff, 60, device)
    drain(train(gp, 5, 0.05, Solver("auto", device, NUMERICS).ladder(60, "test")))
    tensors = {**dict(gp.named_parameters()), "inputs": gp.inputs, "targets": gp.targets}
    tensors |= dict(gp.named_buffers())
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float32}
    assert all(dtype == torch.float32 for _, dtype in device.uploads)
    mean, variance = gp.moments(gp.inputs[:7], NUMERICS)
    assert mean.dtype == variance.dtype == torch.float32


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

    test = device.to_device(cliff.space.to_unit(cliff.design(50, seed=4)))
    by_method = {}
    for choice in ("cholesky", "cg"):
        gp = shaped(process(cliff, 300, device))
        ladder = Solver(choice, device, NUMERICS).ladder(300, "test")
        cg_calls.clear()
        by_method[choice] = ladder.run(lambda gp=gp: gp.moments(test, NUMERICS))
        assert ladder.method == choice
        assert bool(cg_calls) == (choice == "cg")
    (mean, variance), (cg_mean, cg_variance) = by_method["cholesky"], by_method["cg"]
    torch.testing.assert_close(cg_mean, mean, atol=5e-3, rtol=0)
    torch.testing.assert_close(cg_variance.sqrt(), variance.sqrt(), atol=0, rtol=0.05)


def test_training_by_conjugate_gradients_is_repeatable(cliff, device, drain, cg_calls):
    losses = []
    for _ in range(2):
        torch.rand(3)  # whatever happened to the global generator before
        before = torch.get_rng_state()
        steps, _ = drain(
            train(process(cliff, 80, device), 4, 0.05, Solver("cg", device, NUMERICS).ladder(80, "test", seed=5))
        )
        losses.append([progress.loss for progress in steps])
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[1]
    assert cg_calls


@pytest.mark.parametrize(
    ("choice", "gpu", "rows", "repeated", "method"),
    [
        ("auto", False, 300, False, "cholesky"),
        ("auto", False, 4001, False, "cg"),
        ("auto", True, 300, False, "cg"),
        ("auto", True, 300, True, "cholesky"),
        ("auto", True, 20_001, True, "cg"),
        ("cg", False, 10, True, "cg"),
        ("cholesky", True, 10**6, False, "cholesky"),
    ],
)
def test_choice_of_solver(MockGPUBackend, monkeypatch, choice, gpu, rows, repeated, method):
    monkeypatch.setattr(MockGPUBackend, "is_gpu", gpu)
    assert Solver(choice, MockGPUBackend(), NUMERICS).method(rows, repeated=repeated) == method


def test_unsound_numbers_are_solved_again_with_a_stronger_setting(device):
    plans = Solver("cg", device, NUMERICS).ladder(100, "test")._plans
    seen = []

    def compute():
        seen.append((gpytorch.settings.fast_computations.log_prob.on(), gpytorch.settings.max_cg_iterations.value()))
        if len(seen) == 1:
            raise UnsoundError("variance -0.5")
        if len(seen) == 2:
            warnings.warn("residual not reached", linear_operator.utils.warnings.NumericalWarning, stacklevel=1)
        if len(seen) == 3:
            raise NotPSDError("not positive definite")
        return "sound"

    assert Ladder(plans, 0, device).run(compute) == "sound"
    assert seen[0] == (True, NUMERICS.cg_iterations)
    assert seen[1] == (True, 4 * NUMERICS.cg_iterations)
    assert [cg for cg, _ in seen[2:]] == [False, False]


def test_unsound_numbers_are_never_returned(device):
    def compute():
        raise UnsoundError("always")

    with pytest.raises(InternalError):
        Ladder((Plan("cholesky", 1e-5), Plan("cholesky", 1e-3)), 0, device).run(compute)


def test_nan_in_the_data_is_not_a_prediction(cliff, device):
    gp = shaped(process(cliff, 40, device))
    gp.targets[3] = torch.nan
    with pytest.raises(InternalError):
        Solver("auto", device, NUMERICS).ladder(40, "test").run(lambda: gp.moments(gp.inputs, NUMERICS))


def test_duplicate_rows_stay_sound(cliff, device, drain):
    gp = process(cliff, 40, device)
    inputs, targets = gp.inputs.repeat(6, 1), gp.targets.repeat(6)
    gp = EfficiencyGP(inputs, targets, NUMERICS)
    ladder = Solver("cholesky", device, NUMERICS).ladder(240, "test")
    drain(train(gp, 60, 0.05, ladder))
    mean, variance = ladder.run(lambda: gp.moments(inputs[:40], NUMERICS))
    assert bool((variance >= 0).all())
    assert float((mean - targets[:40]).abs().max()) < 0.2
