"""The regressor: an exact Gaussian process with a Matern-5/2 ARD kernel, trained by Adam in float32."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import gpytorch
import torch
from botorch.models.gpytorch import GPyTorchModel
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior

from caligo.space import DIMENSIONS
from caligo_surrogate.solvers import Ladder, Numerics, UnsoundError

PATIENCE: Final = 15
"""Training stops after this many steps that did not lower the loss by `LEAST_GAIN`."""
LEAST_GAIN: Final = 1e-3
"""Nats a row."""


class EfficiencyGP(gpytorch.models.ExactGP, GPyTorchModel):
    """y = c + f(x) + noise with f ~ GP(0, s^2 k), k Matern-5/2 with one length scale a dimension.

    Inputs are unit coordinates, targets standardised, both float32. The length scales have the log-normal prior of
    Hvarfner, Hellsten and Nardi ("Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024), which
    lets dimensions that do not matter fade; the noise has the log-normal prior of the same paper.
    """

    _num_outputs = 1

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, numerics: Numerics) -> None:
        """A process with prior hyper-parameters on float32 inputs [n, 9] and targets [n]."""
        likelihood = gpytorch.likelihoods.GaussianLikelihood(
            noise_prior=LogNormalPrior(-4.0, 1.0),
            noise_constraint=GreaterThan(numerics.noise_floor, initial_value=1e-2),
        )
        super().__init__(inputs, targets, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = ScaleKernel(
            MaternKernel(
                nu=2.5,
                ard_num_dims=DIMENSIONS,
                lengthscale_prior=LogNormalPrior(math.sqrt(2) + math.log(DIMENSIONS) / 2, math.sqrt(3)),
                lengthscale_constraint=Interval(*numerics.length_scales, initial_value=1.0),
            ),
            outputscale_constraint=Interval(*numerics.output_scale, initial_value=1.0),
        )
        self.to(device=inputs.device, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def posterior(self, X: torch.Tensor, *args: Any, **kwargs: Any) -> GPyTorchPosterior:
        """Joint posterior of f at X [..., q, 9], without noise, under the settings of the `Ladder` around it.

        BoTorch's own `posterior` would turn on Lanczos variances, which conjugate gradients make wrong.
        """
        self.eval()
        return GPyTorchPosterior(self(X))

    @property
    def inputs(self) -> torch.Tensor:
        """Rows that the process is conditioned on, float32 [n, 9]."""
        return cast("tuple[torch.Tensor]", self.train_inputs)[0]

    @property
    def targets(self) -> torch.Tensor:
        """Their standardised targets, float32 [n]."""
        return cast(torch.Tensor, self.train_targets)

    @property
    def noise(self) -> torch.Tensor:
        """Noise variance, a scalar."""
        return self.likelihood.noise.squeeze()

    @property
    def prior_variance(self) -> torch.Tensor:
        """Variance of f before any row, a scalar."""
        return self.covar_module.outputscale

    @property
    def length_scales(self) -> torch.Tensor:
        """Length scales as fractions of each parameter's range, [9]."""
        return self.covar_module.base_kernel.lengthscale.detach().squeeze(0)

    def hyper_parameters(self) -> dict[str, torch.Tensor]:
        """A copy of the unconstrained parameters by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def set_hyper_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take over what `hyper_parameters` gave."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(values[name])

    def conditioned(self, inputs: torch.Tensor, targets: torch.Tensor, numerics: Numerics) -> EfficiencyGP:
        """A process with the same hyper-parameters on other rows, ready to predict."""
        gp = EfficiencyGP(inputs, targets, numerics)
        gp.set_hyper_parameters(self.hyper_parameters())
        return gp.frozen()

    def frozen(self) -> EfficiencyGP:
        """Itself, ready to predict: gradients flow to inputs and no longer to hyper-parameters."""
        self.requires_grad_(False)
        self.eval()
        return self

    def moments(self, x: torch.Tensor, numerics: Numerics) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and variance of f at each row of x, float32 [n] each.

        Raises:
            UnsoundError: a NaN, or a variance that is negative beyond rounding.
        """
        with torch.no_grad():
            posterior = self(x)
            mean, variance = posterior.mean, posterior.lazy_covariance_matrix.diagonal(dim1=-1, dim2=-2)
        lowest = float(variance.min())
        prior = float(self.prior_variance)
        if not bool(mean.isfinite().all()) or not lowest >= -numerics.variance_slack * prior:
            spread = f"mean in [{mean.min():g}, {mean.max():g}]"
            raise UnsoundError(f"{spread}, least variance {lowest:g}, prior variance {prior:g}")
        return mean, variance.clamp_min(0)


@dataclass(frozen=True)
class Progress:
    """One step of training; the loss is the negative log marginal likelihood (with the priors) a row, in nats."""

    step: int
    steps: int
    loss: float


def train(gp: EfficiencyGP, steps: int, learning_rate: float, ladder: Ladder) -> Generator[Progress, None, Progress]:
    """Lower the loss by Adam from the present hyper-parameters; yields each step, returns the best one.

    Ends early once the loss stops falling. The process is left with the best hyper-parameters met, in evaluation
    mode.
    """
    gp.requires_grad_(True)
    gp.train()
    likelihood_of = gpytorch.mlls.ExactMarginalLogLikelihood(gp.likelihood, gp)
    optimizer = torch.optim.Adam(gp.parameters(), lr=learning_rate)

    def descend() -> float:
        optimizer.zero_grad()
        loss = -likelihood_of(gp(gp.inputs), gp.targets)
        loss.backward()
        sound = all(bool(p.grad.isfinite().all()) for p in gp.parameters() if p.grad is not None)
        if not sound or not bool(loss.isfinite()):
            raise UnsoundError(f"loss {loss.item():g}, gradients finite: {sound}")
        return loss.item()

    best = Progress(0, steps, math.inf)
    best_values = gp.hyper_parameters()
    reference, reference_step = math.inf, 0
    for step in range(1, steps + 1):
        values = gp.hyper_parameters()
        progress = Progress(step, steps, ladder.run(descend))
        if progress.loss < best.loss:
            best, best_values = progress, values
        yield progress
        if progress.loss < reference - LEAST_GAIN:
            reference, reference_step = progress.loss, step
        elif step - reference_step >= PATIENCE:
            break
        optimizer.step()
    gp.set_hyper_parameters(best_values)
    gp.frozen()
    return Progress(step, steps, best.loss)
