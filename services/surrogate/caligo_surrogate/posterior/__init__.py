"""What the process expects at new points, given the rows seen: by a Cholesky factor, or by conjugate gradients."""

from __future__ import annotations

import dataclasses

import torch

from caligo_surrogate.escalation import Plan, Solver
from caligo_surrogate.posterior.base import Moments, Posterior, Process, solved_weights
from caligo_surrogate.posterior.cg import Nystrom
from caligo_surrogate.posterior.factor import Factor, FactorPosterior
from caligo_surrogate.posterior.iterative import IterativePosterior
from caligo_surrogate.posterior.kernel import KernelMatrix, Matern

__all__ = ["FactorPosterior", "IterativePosterior", "Matern", "Moments", "Posterior", "Process", "condition"]


def condition(
    process: Process, inputs: torch.Tensor, targets: torch.Tensor, solver: Solver, plan: Plan, seed: int
) -> Posterior:
    """The process, given rows.

    Args:
        process: its least noise is raised to what float32 needs for as many rows.
        inputs: float32 [n, 9], unit coordinates.
        targets: float32 [n], in the target's unit.
        plan: one of `solver.posterior(n)`.
        seed: draws the rows of the preconditioner.

    Raises:
        UnsoundError: the plan does not do for these rows.
    """
    numerics = solver.numerics
    least = max(process.least_noise, numerics.least_noise(len(inputs)))
    process = dataclasses.replace(process, least_noise=least)
    with torch.no_grad():
        known = process(inputs.double())
    residuals = (targets - known.mean).unsqueeze(-1)
    matrix = KernelMatrix.of(process.matern, known.noise, inputs, solver.kernel(len(inputs), matrices=1))
    if plan.method == "cholesky":
        factor = Factor.of(matrix, plan)
        weights = solved_weights(matrix, residuals, plan, numerics, factor)
        return FactorPosterior(process, matrix, residuals, weights, plan, numerics, factor)
    rank = numerics.nystrom_rank * plan.stronger
    preconditioner = Nystrom.of(process.matern, known.noise, inputs, rank, seed)
    weights = solved_weights(matrix, residuals, plan, numerics, preconditioner)
    return IterativePosterior(process, matrix, residuals, weights, plan, numerics, preconditioner)
