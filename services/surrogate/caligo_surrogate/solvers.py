"""How linear systems are solved: the one place that decides between Cholesky and conjugate gradients.

GPyTorch reads its settings from process-wide state, so one computation at a time holds them (`Ladder.run`). A result
that is not sound is computed again with a stronger setting, and never returned.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import gpytorch
import torch
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning

from caligo import logs
from caligo.errors import InternalError
from caligo_surrogate.device import Device

log = logs.get("surrogate.solvers")

Choice = Literal["auto", "cholesky", "cg"]
Method = Literal["cholesky", "cg"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Numerics:
    """What keeps float32 sound. Variances are in units of the standardised target's variance."""

    noise_floor: float = 1e-4
    """Least noise variance. Eigenvalues of the kernel matrix below float32's 6e-8 times the largest one (up to about
    N/4) are rounding errors; the noise has to stand above them."""
    jitter: float = 1e-5
    """First diagonal addition where a Cholesky factorisation fails; the library's 1e-6 is lost in float32."""
    length_scales: tuple[float, float] = (0.02, 50.0)
    """Bounds of the length scales as fractions of a parameter's range; outside, a kernel matrix is numerically the
    identity or of rank one in that dimension."""
    output_scale: tuple[float, float] = (0.05, 5.0)
    """Bounds of the prior variance. Its ratio to the noise is the condition number: on a smooth cliff the likelihood
    drives it to 20 and more, where float32 posterior means are off by a hundredth of the target's standard deviation
    at 1,000 rows; at 5 it is a thousandth, and the predictions are as good."""
    variance_slack: float = 1e-3
    """A posterior variance below minus this times the prior variance is unsound; between that and zero it is
    rounding and becomes zero."""
    cg_rows: int = 4000
    """`auto` without a GPU takes conjugate gradients for more rows than this: measured on 2 cores, a float32
    Cholesky factorisation is about ten times faster up to there."""
    factor_rows: int = 20_000
    """`auto` factorises for repeated solves up to this many rows: 1.6 GB in float32."""
    cg_training_tolerance: float = 1e-2
    """Relative residual while training; at the library's 1 the noise estimate shrinks severalfold."""
    cg_tolerance: float = 1e-3
    """Relative residual of a prediction; means would do with 1e-2, variances do not."""
    cg_iterations: int = 1000
    """Products after which a system that has not converged counts as failed."""
    preconditioner_rank: int = 100
    """Rank of the pivoted Cholesky preconditioner (Gardner et al., NeurIPS 2018, section 4.1)."""


@dataclass(frozen=True)
class Plan:
    """One way to solve the systems of one computation."""

    method: Method
    jitter: float
    tolerance: float = 0.0
    training_tolerance: float = 0.0
    iterations: int = 0
    rank: int = 0


class UnsoundError(Exception):
    """A computation ended with numbers that cannot be right; the text holds them."""


_EXCLUSIVE: Final = threading.RLock()


class Ladder:
    """The plans for one task, weakest first. What failed once is not tried again within the task."""

    def __init__(self, plans: tuple[Plan, ...], seed: int, device: Device) -> None:
        self._plans = plans
        self._seed = seed
        self._device = device
        self._rung = 0

    @property
    def method(self) -> Method:
        """The method in use."""
        return self._plans[self._rung].method

    def run(self, compute: Callable[[], Result]) -> Result:
        """The result of `compute` under the weakest plan that gives a sound one.

        Args:
            compute: raises `UnsoundError` where its numbers cannot be right; called again from the start after that.

        Raises:
            InternalError: no plan gave a sound result.
        """
        while True:
            plan = self._plans[self._rung]
            try:
                with _applied(plan, self._seed, self._device):
                    return compute()
            except (UnsoundError, NotPSDError, NanError, NumericalWarning, torch.linalg.LinAlgError) as error:
                problem = f"{type(error).__name__}: {error}"
            if self._rung + 1 == len(self._plans):
                log.error("no sound result", problem=problem, plan=plan)
                raise InternalError("the surrogate found no numerically sound result; its log says why")
            self._rung += 1
            log.warning("not sound; solving again", problem=problem, plan=plan, stronger=self._plans[self._rung])


class Solver:
    """Chooses how the systems of N rows are solved on a device."""

    def __init__(self, choice: Choice, device: Device, numerics: Numerics) -> None:
        self._choice = choice
        self._device = device
        self._numerics = numerics

    def method(self, rows: int, *, repeated: bool = False) -> Method:
        """What systems of N rows are solved with.

        `auto` means conjugate gradients on a GPU and for many rows anywhere. Only where one matrix is solved with
        hundreds of times, as in the ascent of a proposal, a factor that fits is made once and used again.
        """
        if self._choice != "auto":
            return self._choice
        if repeated:
            return "cholesky" if rows <= self._numerics.factor_rows else "cg"
        return "cg" if self._device.is_gpu or rows > self._numerics.cg_rows else "cholesky"

    def ladder(self, rows: int, task: str, *, seed: int = 0, repeated: bool = False) -> Ladder:
        """The plans for one task over N rows.

        Args:
            task: its name, for the log.
            seed: of the random probe vectors that conjugate gradients take for a log determinant.
            repeated: one matrix is solved with many times.
        """
        n = self._numerics
        method = self.method(rows, repeated=repeated)
        log.debug("solver chosen", task=task, rows=rows, solver=method, asked=self._choice, device=self._device.name)
        plans = [Plan("cholesky", n.jitter), Plan("cholesky", 100 * n.jitter)]
        if method == "cg":
            plans[:0] = [
                Plan(
                    "cg",
                    n.jitter,
                    tolerance=n.cg_tolerance / stronger,
                    training_tolerance=n.cg_training_tolerance / stronger,
                    iterations=n.cg_iterations * stronger,
                    rank=n.preconditioner_rank * stronger,
                )
                for stronger in (1, 4)
            ]
        return Ladder(tuple(plans), seed, self._device)


@contextlib.contextmanager
def _applied(plan: Plan, seed: int, device: Device) -> Iterator[None]:
    settings = gpytorch.settings
    with _EXCLUSIVE, contextlib.ExitStack() as stack:
        stack.enter_context(settings.cholesky_jitter(float_value=plan.jitter))
        if plan.method == "cholesky":
            stack.enter_context(settings.fast_computations(False, False, False))
            # With a Cholesky factor the cached root is exact, so "fast" predictive variances are too.
            stack.enter_context(settings.fast_pred_var(True))
        else:
            # Importing BoTorch turns fast computations off; without turning them on again no system ever reaches
            # conjugate gradients, whatever max_cholesky_size says.
            stack.enter_context(settings.fast_computations(True, True, True))
            stack.enter_context(settings.max_cholesky_size(0))
            # The fast predictive variances would be a Lanczos root of rank 100, several times too large.
            stack.enter_context(settings.fast_pred_var(False))
            stack.enter_context(settings.cg_tolerance(plan.training_tolerance))
            stack.enter_context(settings.eval_cg_tolerance(plan.tolerance))
            stack.enter_context(settings.max_cg_iterations(plan.iterations))
            stack.enter_context(settings.max_preconditioner_size(plan.rank))
            stack.enter_context(settings.min_preconditioning_size(2 * plan.rank))
            # A residual that was not reached is only a warning to the library.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("error", NumericalWarning)
            # The probe vectors of the log determinant come from torch's global generator.
            devices = [device.torch_device] if device.is_gpu else []
            stack.enter_context(torch.random.fork_rng(devices))
            torch.manual_seed(seed)
        yield
