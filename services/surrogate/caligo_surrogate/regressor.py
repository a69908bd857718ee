"""The regressor: an exact Gaussian process with a Matern-5/2 ARD kernel, trained by Adam in float32."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import gpytorch
import torch
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.kernels.keops import MaternKernel as KeOpsMaternKernel
from gpytorch.likelihoods.noise_models import HomoskedasticNoise
from gpytorch.priors import LogNormalPrior
from linear_operator.operators import KernelLinearOperator
from torch.utils.checkpoint import checkpoint

from caligo.space import DIMENSIONS
from caligo_surrogate.device import Backend
from caligo_surrogate.escalation import Numerics, Plan, Solver, UnsoundError
from caligo_surrogate.posterior import Process
from caligo_surrogate.posterior.kernel import KernelMatrix, Matern, blocks, correlation, distances
from caligo_surrogate.prior import ClosedForm, Prior

PATIENCE: Final = 15
"""Training stops after this many steps that did not lower the loss by `LEAST_GAIN`."""
PATIENCE_ON_THE_MOVE: Final = 45
"""As many where the loss rose or fell by as much meanwhile."""
LEAST_GAIN: Final = 1e-3
"""Nats a row."""
DISCREPANCY: Final = (-5.0, 2.5)
"""Log-normal prior of the variance by which a device differs from the closed form, in squared units of the target: the
median is a standard deviation of 0.004 of the margin, and a tenth to ten times that is nothing odd."""
FIRST_DISCREPANCY: Final = 0.05
"""Where its training starts: from above, a device like the closed form is told from another within the usual steps."""


_RESIDUAL_SLACK: Final = 3.0
"""The library's tolerance is of a mean over the vectors that it solves for at once, in float32."""


class CheckpointedKernelLinearOperator(KernelLinearOperator):
    """A kernel matrix whose products are made row block by row block, each block dropped and made again for gradients.

    Trades a second evaluation of the kernel for the memory of all its intermediate results (Chen, Xu, Zhang and
    Guestrin, "Training deep nets with sublinear memory cost", arXiv:1604.06174).
    """

    def _matmul(self, rhs: torch.Tensor) -> torch.Tensor:
        rhs = rhs.contiguous()
        pieces = [
            checkpoint(self._block, self.x1[rows], rhs, use_reentrant=False) for rows in blocks(len(self.x2), self.x1)
        ]
        return torch.cat(pieces)

    def _block(self, x1: torch.Tensor, rhs: torch.Tensor) -> torch.Tensor:
        return self.covar_func(x1, self.x2, **self.tensor_params, **self.nontensor_params) @ rhs


class CheckpointedMaternKernel(MaternKernel):
    """`MaternKernel` with nu = 2.5 whose matrix is a `CheckpointedKernelLinearOperator`."""

    def forward(self, x1: torch.Tensor, x2: torch.Tensor, diag: bool = False, **params: Any) -> Any:
        if diag:
            return super().forward(x1, x2, diag=True, **params)
        centre = x1.detach().mean(dim=-2, keepdim=True)
        scaled = [(x - centre) / self.lengthscale for x in (x1, x2)]
        return CheckpointedKernelLinearOperator(*scaled, covar_func=_matern52)


def _matern52(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return Matern(a.new_full((a.shape[-1],), 1.0), 1.0)(a, b)


_KERNELS: Final[dict[str, type[gpytorch.kernels.Kernel]]] = {
    "dense": MaternKernel,
    "blocks": CheckpointedMaternKernel,
    "keops": KeOpsMaternKernel,
}


class PriorMean(gpytorch.means.Mean):
    """The mean of a prior, and a learned constant where the prior knows nothing.

    Where it knows the physics there is none: a device that differs does so by more than a constant.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        if not isinstance(prior, ClosedForm):
            self.constant = torch.nn.Parameter(torch.zeros(()))
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Training asks for the mean of the same rows again and again.
        if self._last is None or self._last[0] is not x:
            self._last = x, self.prior(x).mean.detach()
        return self._last[1] + (0.0 if isinstance(self.prior, ClosedForm) else self.constant)


class EfficiencyGP(gpytorch.models.ExactGP):
    """y = m(x) + f(x) + noise with f ~ GP(0, s^2 k), k Matern-5/2 with one length scale a dimension, m of the prior.

    Inputs are unit coordinates, targets in their own unit, both float32. The noise of each row is what the prior knows
    of it and a learned variance, the same for all. The length scales have the log-normal prior of Hvarfner, Hellsten
    and Nardi ("Vanilla Bayesian Optimization Performs Great in High Dimensions", ICML 2024), which lets dimensions that
    do not matter fade; the learned noise has the log-normal prior of the same paper.

    It is there to learn hyper-parameters; `posterior` predicts with them.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        prior: Prior,
        numerics: Numerics,
        kernel: Backend = "dense",
    ) -> None:
        """A process with prior hyper-parameters on float32 inputs [n, 9] and targets [n].

        Args:
            kernel: how the kernel matrix is represented in training.
        """
        least = numerics.least_noise(len(inputs))
        known = prior(inputs).noise.detach().clamp_min(least)
        likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(known)
        likelihood.second_noise_covar = HomoskedasticNoise(
            noise_prior=LogNormalPrior(-4.0, 1.0), noise_constraint=GreaterThan(least, initial_value=1e-2)
        )
        super().__init__(inputs, targets, likelihood)
        self.mean_module = PriorMean(prior)
        knows = isinstance(prior, ClosedForm)
        self.covar_module = ScaleKernel(
            _KERNELS[kernel](
                nu=2.5,
                ard_num_dims=DIMENSIONS,
                lengthscale_prior=LogNormalPrior(math.sqrt(2) + math.log(DIMENSIONS) / 2, math.sqrt(3)),
                lengthscale_constraint=Interval(*numerics.length_scales, initial_value=1.0),
            ),
            outputscale_prior=LogNormalPrior(*DISCREPANCY) if knows else None,
            outputscale_constraint=Interval(
                *(numerics.discrepancy if knows else numerics.output_scale),
                initial_value=FIRST_DISCREPANCY if knows else 1.0,
            ),
        )
        self.to(device=inputs.device, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    @property
    def inputs(self) -> torch.Tensor:
        """Rows that the process learns from, float32 [n, 9]."""
        return cast("tuple[torch.Tensor]", self.train_inputs)[0]

    @property
    def targets(self) -> torch.Tensor:
        """Their standardised targets, float32 [n]."""
        return cast(torch.Tensor, self.train_targets)

    @property
    def matern(self) -> Matern:
        """The kernel with the present hyper-parameters."""
        scales = self.covar_module.base_kernel.lengthscale.detach().squeeze(0)
        return Matern(scales, self.covar_module.outputscale.item())

    def process_on(self, device: torch.device) -> Process:
        """The process before any row, with the present hyper-parameters, for a device."""
        mean, matern = self.mean_module, self.matern
        constant = 0.0 if isinstance(mean.prior, ClosedForm) else mean.constant.item()
        matern = dataclasses.replace(matern, length_scales=matern.length_scales.to(device))
        return Process(matern, mean.prior, constant, self.likelihood.second_noise.item(), 0.0)

    def hyper_parameters(self) -> dict[str, torch.Tensor]:
        """A copy of the unconstrained parameters by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def set_hyper_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        """Take over what `hyper_parameters` gave."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(values[name])


@dataclass(frozen=True)
class Progress:
    """One step of training; the loss is the negative log marginal likelihood (with the priors) a row, in nats."""

    step: int
    steps: int
    loss: float


def train(
    gp: EfficiencyGP, steps: int, learning_rate: float, solver: Solver, seed: int
) -> Generator[Progress, None, Progress]:
    """Lower the loss by Adam from the present hyper-parameters; yields each step, returns the best one.

    Ends early once the loss has stopped falling: where it lies still, after `PATIENCE` steps without a gain; where it
    moves, after `PATIENCE_ON_THE_MOVE`, for from a cold start with many rows Adam overshoots, and the loss rises for a
    score of steps before it falls on. The process is left with the best hyper-parameters met.

    Args:
        solver: says how the systems are solved.
        seed: of the random probe vectors that conjugate gradients take.

    Raises:
        InternalError: no setting gave sound numbers.
    """
    gp.train()
    parameters = list(gp.parameters())
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    ladder = solver.training(len(gp.targets))

    def descend(plan: Plan) -> float:
        optimizer.zero_grad()
        loss = _descend_by_factor(gp, plan) if plan.method == "cholesky" else _descend_by_cg(gp, plan, solver, seed)
        sound = bool(torch.stack([p.grad.sum() for p in parameters if p.grad is not None]).isfinite().all())
        if not sound or not math.isfinite(loss):
            raise UnsoundError(f"loss {loss:g}, gradients finite: {sound}")
        return loss

    best = Progress(0, steps, math.inf)
    best_values = gp.hyper_parameters()
    reference, reference_step = math.inf, 0
    recent: deque[float] = deque(maxlen=PATIENCE)
    for step in range(1, steps + 1):
        values = gp.hyper_parameters()
        progress = Progress(step, steps, ladder.run(descend))
        if progress.loss < best.loss:
            best, best_values = progress, values
        yield progress
        recent.append(progress.loss)
        lies_still = max(recent) - min(recent) < LEAST_GAIN
        if progress.loss < reference - LEAST_GAIN:
            reference, reference_step = progress.loss, step
        elif step - reference_step >= (PATIENCE if lies_still else PATIENCE_ON_THE_MOVE):
            break
        optimizer.step()
    gp.set_hyper_parameters(best_values)
    return Progress(step, steps, best.loss)


def _descend_by_factor(gp: EfficiencyGP, plan: Plan) -> float:
    """The loss by a Cholesky factor; its gradient is left with the parameters.

    What `gpytorch.mlls.ExactMarginalLogLikelihood` says, without the hundred calls that it takes: on the few hundred
    rows of most campaigns these took nine tenths of a fit. The gradient by the constrained hyper-parameters is that of
    Rasmussen and Williams, eq. 5.9, with dk/dl_j = s^2 5/3 (1 + d) exp(-d) (a_j - b_j)^2 / l_j^3.

    Raises:
        UnsoundError: there is no factor.
    """
    scale, likelihood = gp.covar_module, gp.likelihood
    lengths, variance = scale.base_kernel.lengthscale, scale.outputscale
    learned = likelihood.second_noise_covar.noise
    mean = gp.mean_module(gp.inputs)
    rows = len(gp.targets)
    with torch.no_grad():
        centred = gp.inputs - 0.5
        scaled = centred * (math.sqrt(5) / lengths)
        d = distances(scaled, scaled)
        k = correlation(d)
        factor = _factor(variance * k, likelihood.noise_covar.noise + learned, plan)
        inverse = torch.cholesky_inverse(factor)
        residual = gp.targets - mean
        weights = inverse @ residual
        slope = 0.5 * (inverse - weights.unsqueeze(-1) * weights)  # of the loss by the covariance
        pull = slope * (variance * 5 / 3) * (1 + d) * torch.exp(-d)
        along = 2 * (pull.sum(0) @ centred.square() - ((pull @ centred) * centred).sum(0)) / lengths.pow(3)
        misfit = 0.5 * (residual @ weights + rows * math.log(2 * math.pi)) + factor.diagonal().log().sum()
        by_variance, by_noise = (slope * k).sum(), slope.trace()
    tangent = (along * lengths).sum() + by_variance * variance + by_noise * learned.sum()
    if mean.requires_grad:
        tangent = tangent - weights @ mean
    densities = [_log_density(prior, value(module)) for _, module, prior, value, _ in gp.named_priors()]
    penalty = -torch.stack(densities).sum()
    ((tangent + penalty) / rows).backward()
    return float(misfit + penalty.detach()) / rows


def _factor(covariance: torch.Tensor, noise: torch.Tensor, plan: Plan) -> torch.Tensor:
    for added in (0.0, plan.jitter):
        factor, lacking = torch.linalg.cholesky_ex(covariance + (noise + added).diag())
        if not int(lacking):
            return factor
    raise UnsoundError("the covariance of the rows has no Cholesky factor")


def _log_density(prior: LogNormalPrior, value: torch.Tensor) -> torch.Tensor:
    logarithm = value.log()
    z = (logarithm - prior.loc) / prior.scale
    return -(0.5 * z.square() + logarithm + prior.scale.log() + 0.5 * math.log(2 * math.pi)).sum()


def _descend_by_cg(gp: EfficiencyGP, plan: Plan, solver: Solver, seed: int) -> float:
    """The loss by conjugate gradients and probe vectors; its gradient is left with the parameters.

    Raises:
        UnsoundError: the systems were not solved as well as they have to be.
    """
    targets = gp.targets.detach().requires_grad_()
    with solver.gpytorch_settings(plan, seed):
        loss = -gpytorch.mlls.ExactMarginalLogLikelihood(gp.likelihood, gp)(gp(gp.inputs), targets)
        loss.backward()
    assert targets.grad is not None
    _check_residual(gp, len(targets) * targets.grad, solver.numerics.training_tolerance / plan.stronger)
    return loss.item()


def _check_residual(gp: EfficiencyGP, solution: torch.Tensor, tolerance: float) -> None:
    """Whether conjugate gradients have solved (K + diag(noise)) x = y - m for `solution` [n], which is what the loss's
    gradient by the targets is. The library only warns where they have not, and warnings belong to the whole process.

    Raises:
        UnsoundError: they have not.
    """
    with torch.no_grad():
        noise = gp.likelihood.noise_covar.noise.double() + gp.likelihood.second_noise.double()
        matrix = KernelMatrix.of(gp.matern, noise, gp.inputs, "blocks")
        b = (gp.targets - gp.mean_module(gp.inputs)).double()
        left = float((matrix.product(solution.double().unsqueeze(-1)).squeeze(-1) - b).norm() / b.norm())
    if not left <= _RESIDUAL_SLACK * tolerance:
        raise UnsoundError(f"conjugate gradients while training: residual {left:g}, {tolerance:g} wanted")
