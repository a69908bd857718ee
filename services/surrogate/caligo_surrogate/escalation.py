"""How linear systems are solved: the one place that decides, and what is done where numbers are not sound.

Training goes through GPyTorch, which reads its settings from process-wide state, so one computation at a time holds
them (`Ladder.run`). Posteriors are our own (`posterior`). A result that is not sound is computed again with a
stronger setting, counted in `Health`, and never returned.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import gpytorch
import torch
from linear_operator.utils.errors import NanError, NotPSDError

from caligo import logs
from caligo.errors import InternalError
from caligo_surrogate import keops, metrics
from caligo_surrogate.device import Backend, Device

log = logs.get("surrogate.escalation")

Choice = Literal["auto", "cholesky", "cg"]
Method = Literal["cholesky", "cg"]
Result = TypeVar("Result")


class UnsoundError(Exception):
    """A computation ended with numbers that cannot be right; the text holds them."""


@dataclass(frozen=True)
class Numerics:
    """What keeps float32 sound. Variances are in units of the standardised target's variance."""

    noise_floor: float = 1e-4
    """Least noise variance. Eigenvalues of the kernel matrix below float32's 6e-8 times the largest one (up to about
    N/4) are rounding errors; the noise has to stand above them."""
    noise_floor_per_row: float = 3e-8
    """The same, a row: from 3,300 rows on it is the greater one."""
    jitter: float = 1e-5
    """First diagonal addition where a Cholesky factorisation fails; the library's 1e-6 is lost in float32."""
    length_scales: tuple[float, float] = (0.02, 50.0)
    """Bounds of the length scales as fractions of a parameter's range; outside, a kernel matrix is numerically the
    identity or of rank one in that dimension."""
    output_scale: tuple[float, float] = (0.05, 5.0)
    """Bounds of the prior variance. Its ratio to the noise is the condition number: on a smooth cliff the likelihood
    drives it to 20 and more, and the predictions are as good with 5."""
    discrepancy: tuple[float, float] = (1e-4, 100.0)
    """The same of what a device differs by from the closed form, whose noise is known."""
    variance_slack: float = 1e-3
    """A posterior variance below minus this times the prior variance is unsound; between that and zero it is
    rounding and becomes zero."""

    cg_rows: int = 4000
    """`auto` without a GPU trains by conjugate gradients on more rows than this: measured on 2 cores, a float32
    Cholesky factorisation is about ten times faster up to there."""
    training_tolerance: float = 1e-2
    """Relative residual while training; at the library's 1 the noise estimate shrinks severalfold."""
    training_rank: int = 100
    """Rank of the pivoted Cholesky preconditioner (Gardner et al., NeurIPS 2018, section 4.1) while training."""

    factor_rows: tuple[int, int] = (8_000, 20_000)
    """`auto` factorises for a posterior up to this many rows, without and with a GPU: 0.26 and 1.6 GB."""
    mean_tolerance: float = 3e-2
    """Bound of the error that the solution of a system may leave in a posterior mean; the error itself was 1e-5 to
    1e-4 of it at 4,000 rows."""
    variance_tolerance: float = 1e-2
    """Error of a posterior variance that is allowed to the solution of the system behind it, in units of the noise."""
    refinements: int = 8
    """Products that may refine the weights that a float32 factor gives."""
    nystrom_rank: int = 1500
    """Rows of the Nystrom preconditioner."""
    cg_iterations: int = 1000
    """Products after which a system that has not converged counts as failed."""

    def least_noise(self, rows: int) -> float:
        """The noise variance that float32 needs to condition on N rows."""
        return max(self.noise_floor, self.noise_floor_per_row * rows)


@dataclass
class Health:
    """What went wrong and was mended; counts since the start.

    Attributes:
        detections: results that could not be right: a residual not reached, a negative variance, a NaN.
        escalations: of these, computed again with a stronger setting.
        failures: of these, given up, no setting being stronger.
        halvings: pieces of a prediction halved, since they did not fit into the device's memory.
    """

    detections: int = 0
    escalations: int = 0
    failures: int = 0
    halvings: int = 0


@dataclass(frozen=True)
class Plan:
    """One way to solve the systems of one computation.

    Attributes:
        jitter: relative addition to a diagonal that does not factorise.
        precision: of a factor.
        stronger: factor on the rank of preconditioners and the number of iterations, divisor of tolerances.
    """

    method: Method
    jitter: float
    precision: torch.dtype = torch.float32
    stronger: int = 1


_EXCLUSIVE: Final = threading.RLock()


class Ladder:
    """The plans for one task, weakest first. What failed once is not tried again."""

    def __init__(self, task: str, plans: tuple[Plan, ...], health: Health) -> None:
        self._task = task
        self._plans = plans
        self._health = health
        self._rung = 0

    @property
    def plan(self) -> Plan:
        """The plan in use."""
        return self._plans[self._rung]

    def run(self, compute: Callable[[Plan], Result]) -> Result:
        """The result of `compute` under the weakest plan that gives a sound one.

        Args:
            compute: raises `UnsoundError` where its numbers cannot be right; called again from the start after that.

        Raises:
            InternalError: no plan gave a sound result.
        """
        while True:
            try:
                result = compute(self.plan)
                metrics.SOLVED.labels(self._task, self._rung).inc()
                return result
            except (UnsoundError, NotPSDError, NanError, torch.linalg.LinAlgError) as error:
                metrics.UNSOUND.labels(self._task, type(error).__name__).inc()
                self._climb(f"{type(error).__name__}: {error}")

    def _climb(self, problem: str) -> None:
        self._health.detections += 1
        failed = self.plan
        if self._rung + 1 == len(self._plans):
            self._health.failures += 1
            metrics.FAILURES.labels(self._task).inc()
            log.error("no sound result", task=self._task, problem=problem, plan=failed)
            raise InternalError("the surrogate found no numerically sound result; its log says why")
        self._rung += 1
        self._health.escalations += 1
        log.warning("not sound; solving again", task=self._task, problem=problem, plan=failed, stronger=self.plan)


class Solver:
    """Chooses how the systems of N rows are solved on a device."""

    def __init__(self, choice: Choice, device: Device, numerics: Numerics) -> None:
        self._choice = choice
        self._device = device
        self.numerics = numerics
        self.health = Health()

    def training(self, rows: int) -> Ladder:
        """The plans for learning hyper-parameters from N rows.

        `auto` means conjugate gradients on a GPU and for many rows anywhere.
        """
        small = not self._device.is_gpu and rows <= self.numerics.cg_rows
        method = self._chosen("training", rows, "cholesky" if small else "cg")
        return Ladder("training", self._plans(method, torch.float32), self.health)

    def posterior(self, rows: int) -> Ladder:
        """The plans for a posterior given N rows.

        `auto` factorises where a factor fits: one matrix is solved with hundreds of times as a batch is chosen.
        """
        fits = rows <= self.numerics.factor_rows[self._device.is_gpu]
        method = self._chosen("posterior", rows, "cholesky" if fits else "cg")
        return Ladder("posterior", self._plans(method, torch.float64), self.health)

    def _chosen(self, task: str, rows: int, automatic: Method) -> Method:
        method = automatic if self._choice == "auto" else self._choice
        log.debug("solver chosen", task=task, rows=rows, solver=method, asked=self._choice, device=self._device.name)
        return method

    def _plans(self, method: Method, last: torch.dtype) -> tuple[Plan, ...]:
        jitter = self.numerics.jitter
        factors = (Plan("cholesky", jitter), Plan("cholesky", 100 * jitter, last))
        if method == "cholesky":
            return factors
        return (Plan("cg", jitter), Plan("cg", jitter, stronger=4), *factors)

    def kernel(self, rows: int, matrices: float) -> Backend:
        """How a kernel matrix of N rows is represented.

        `auto`: dense where that takes at most half of the device's memory, else KeOps where it can be used, else
        block by block. Decided by the memory that there is and not by what is free, since the choice rounds sums.

        Args:
            matrices: N x N float32 tensors alive at the peak.
        """
        if self._device.kernel != "auto":
            return self._device.kernel
        if 4 * matrices * rows**2 <= 0.5 * self._device.total_bytes():
            return "dense"
        return "blocks" if keops.missing() else "keops"

    @contextlib.contextmanager
    def gpytorch_settings(self, plan: Plan, seed: int) -> Iterator[None]:
        """GPyTorch set up to follow a plan, for this thread's computation alone.

        Args:
            seed: of the random probe vectors that conjugate gradients take for a log determinant.
        """
        settings, numerics = gpytorch.settings, self.numerics
        with _EXCLUSIVE, contextlib.ExitStack() as stack:
            stack.enter_context(settings.cholesky_jitter(float_value=plan.jitter))
            if plan.method == "cholesky":
                stack.enter_context(settings.fast_computations(False, False, False))
            else:
                # Importing BoTorch turns fast computations off; without turning them on again no system ever reaches
                # conjugate gradients, whatever max_cholesky_size says.
                stack.enter_context(settings.fast_computations(True, True, True))
                # 2 rather than 0, with which KeOps kernels crash; it makes no difference to anything larger.
                stack.enter_context(settings.max_cholesky_size(2))
                stack.enter_context(settings.cg_tolerance(numerics.training_tolerance / plan.stronger))
                stack.enter_context(settings.max_cg_iterations(numerics.cg_iterations * plan.stronger))
                stack.enter_context(settings.max_preconditioner_size(numerics.training_rank * plan.stronger))
                stack.enter_context(settings.min_preconditioning_size(2 * numerics.training_rank * plan.stronger))
                # The probe vectors of the log determinant come from torch's global generator.
                device = self._device.torch_device
                devices = [device] if device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(seed)
            yield
