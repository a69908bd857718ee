"""A campaign's surrogate: its rows, the regressor and the guardrail learnt from them, and what they say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import norm, qmc
from sklearn.metrics import brier_score_loss, f1_score

from caligo import logs, seeds
from caligo.errors import FailedPrecondition, InvalidArgument
from caligo.results import ProtocolOutcome, ResultRows, empty_rows, metric
from caligo.seeds import Phase, Purpose
from caligo.space import COLUMNS, DIMENSIONS, PARAMETERS, STRATEGY_COLUMN, Scale, Space
from caligo.spec import GuardrailSpec, SurrogateSpec
from caligo_surrogate import acquisition
from caligo_surrogate.device import Device
from caligo_surrogate.gp import EfficiencyGP, Progress, train
from caligo_surrogate.guardrail import Guardrail
from caligo_surrogate.solvers import Numerics, Solver, UnsoundError

log = logs.get("surrogate.landscape")

FORMAT: Final = "caligo.surrogate/1"
MIN_ROWS: Final = 8
"""Rows below which there is nothing to fit."""
VOLUME_POINTS: Final = 2**14
"""Sobol points of the secure share of the space: they find it within half a per cent."""
JOINT_POINTS: Final = 1024
"""Of these, points of the joint posterior samples."""
VOLUME_SAMPLES: Final = 256
"""Posterior samples for its uncertainty."""
_INTERVALS: Final = (0.50, 0.90, 0.95)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run at n points would give: float32 [n] each.

    Attributes:
        mean, sd: of the target of one run, the noise between runs included; units of the target.
        key: probability that the target is positive, that is that there is a key.
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    key: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Validation:
    """Quality on simulated rows that the fit did not see; `coverage` of the central 50, 90 and 95 % intervals."""

    rows: int
    rmse: float
    f1: float
    brier: float
    coverage: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a fit ended. The loss is the negative log marginal likelihood a row."""

    rows: int
    loss: float
    steps: int
    solver: str
    validation: Validation | None


@dataclasses.dataclass(frozen=True)
class _Standard:
    """The affine map from the target to mean 0 and standard deviation 1; the level 0 goes to `level`."""

    shift: float
    scale: float

    @classmethod
    def of(cls, target: NDArray[np.float32]) -> _Standard:
        spread = float(target.std(dtype=np.float64))
        return cls(float(target.mean(dtype=np.float64)), spread if spread > 1e-6 else 1.0)

    @property
    def level(self) -> float:
        return -self.shift / self.scale

    def apply(self, target: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((target - self.shift) / self.scale).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """The regressor conditioned on every row held."""

    gp: EfficiencyGP
    standard: _Standard


class EfficiencyLandscape:
    """The surrogate of one campaign.

    Its state is the rows held and the hyper-parameters; all else is a function of these two and the campaign's seed,
    whatever the order in which rows came. Between fits, new rows count at once under the last hyper-parameters.

    How rows are used:

    * simulated rows: the target as measured; the guardrail learns success or failure from them;
    * `skipped_infeasible`: the closed form's margin (or efficiency 0) is data like any other; failures for the
      guardrail's forest, but not for its calibration;
    * `skipped_predicted_failure`: never shown to the guardrail. Target `efficiency`: 0, as data. Target `margin`: 0
      would say "on the cliff", so the regressor is conditioned on its own mean there, capped one standard deviation of
      the noise below 0; hyper-parameters are trained without them;
    * time-outs and faults say nothing about the physics and are left out.
    """

    def __init__(
        self,
        space: Space,
        surrogate: SurrogateSpec,
        guardrail: GuardrailSpec,
        seed: int,
        device: Device,
        numerics: Numerics | None = None,
    ) -> None:
        self.space = space
        self.spec = surrogate
        self.guardrail_spec = guardrail
        self.seed = seed
        self.device = device
        self.numerics = numerics or Numerics()
        self.solver = Solver(surrogate.solver, device, self.numerics)
        self._rows: dict[Phase, ResultRows] = {phase: empty_rows() for phase in Phase}
        self._hyper: dict[str, torch.Tensor] | None = None
        self._derived: dict[str, Any] = {}

    # --- rows ---------------------------------------------------------------------------------------------------

    @property
    def rows_held(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def rows(self) -> ResultRows:
        """Every row held, sorted by (phase, index)."""
        return np.concatenate([self._rows[phase] for phase in Phase])

    def observe(self, phase: Phase, rows: ResultRows) -> None:
        """Add rows; one whose (phase, index) is held already changes nothing."""
        merged = np.concatenate([self._rows[phase], rows])
        _, first = np.unique(merged["index"], return_index=True)
        if len(first) > len(self._rows[phase]):
            self._rows[phase] = merged[first]
            self._derived.clear()

    # --- learning -----------------------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        return self._hyper is not None

    def fit(self, holdout_fraction: float = 0.0) -> Generator[Progress, None, Summary]:
        """Train the regressor and the guardrail on every row held; yields each step, returns how it ended.

        Starts from the last hyper-parameters where there are any. With a hold-out, a first fit without the held-out
        warm-up rows (drawn by the seed tree) is validated on them, and the final one starts from it. Nothing
        changes before the end.

        Raises:
            FailedPrecondition: fewer than `MIN_ROWS` rows can be learnt from.
        """
        learned = self._learnable(self.rows())
        if len(learned) < MIN_ROWS:
            raise FailedPrecondition(f"{len(learned)} rows to learn from; at least {MIN_ROWS} are needed")
        hyper, validation, before = self._hyper, None, 0
        held_out = self._holdout(learned, holdout_fraction)
        if held_out.any() and np.count_nonzero(~held_out) >= MIN_ROWS:
            gp, standard = self._new_gp(learned[~held_out], hyper)
            first = yield from self._train(gp, offset=0)
            hyper, before = gp.hyper_parameters(), first.step
            validation = self._validate(_Fitted(gp, standard), learned[held_out])
        gp, _ = self._new_gp(learned, hyper)
        last = yield from self._train(gp, offset=before)
        self._hyper = {name: value.cpu() for name, value in gp.hyper_parameters().items()}
        self._derived.clear()
        summary = Summary(len(learned), last.loss, before + last.step, self.solver.method(len(learned)), validation)
        log.info("fitted", **dataclasses.asdict(summary), length_scales=self.length_scales().tolist())
        return summary

    def _train(self, gp: EfficiencyGP, offset: int) -> Generator[Progress, None, Progress]:
        seed = seeds.key(self.seed, Phase.SURROGATE, 0, Purpose.TRAINING)
        ladder = self.solver.ladder(len(gp.targets), "training", seed=seed >> 1)
        training = train(gp, self.spec.training_steps, self.spec.learning_rate, ladder)
        while True:
            try:
                progress = next(training)
            except StopIteration as end:
                return end.value
            yield dataclasses.replace(progress, step=offset + progress.step, steps=offset + progress.steps)

    def _usable(self, rows: ResultRows) -> ResultRows:
        """Rows that say something about the target."""
        physical = np.isin(rows["outcome"], [outcome for outcome in ProtocolOutcome if outcome.is_physical])
        return rows[physical & (np.isfinite(self._target(rows)) | _imputed(rows))]

    def _learnable(self, rows: ResultRows) -> ResultRows:
        """Usable rows whose target is known, not imputed from the regressor itself."""
        usable = self._usable(rows)
        return usable[~_imputed(usable)] if self.spec.target == "margin" else usable

    def _target(self, rows: ResultRows) -> NDArray[np.float32]:
        if self.spec.target == "margin":
            return metric(rows, "margin")
        return np.where(_imputed(rows), np.float32(0), metric(rows, "net_efficiency"))

    def _holdout(self, rows: ResultRows, fraction: float) -> NDArray[np.bool_]:
        """Which rows to hold out: warm-up rows, the same ones at every fit, so that errors can be compared.

        Rows of the active phase would be a sample of the cliff's neighbourhood, harder from batch to batch.
        """
        warm_up = len(self._learnable(self._rows[Phase.LHS]))  # rows are sorted by phase: these come first
        candidates = np.flatnonzero(_simulated(rows[:warm_up]))
        rng = seeds.generator(self.seed, Phase.SURROGATE, 0, Purpose.TRAINING)
        held_out = np.zeros(len(rows), dtype=bool)
        held_out[rng.permutation(candidates)[: round(fraction * len(candidates))]] = True
        return held_out

    def _new_gp(self, rows: ResultRows, hyper: dict[str, torch.Tensor] | None) -> tuple[EfficiencyGP, _Standard]:
        target = self._target(rows)
        standard = _Standard.of(target)
        inputs = self.device.to_device(self.space.to_unit(rows["inputs"]))
        gp = EfficiencyGP(inputs, self.device.to_device(standard.apply(target)), self.numerics)
        if hyper is not None:
            gp.set_hyper_parameters(hyper)
        return gp, standard

    def _validate(self, fitted: _Fitted, rows: ResultRows) -> Validation:
        prediction = self._predict(fitted, self.space.to_unit(rows["inputs"]))
        error = self._target(rows) - prediction.mean
        success = _succeeded(rows)
        return Validation(
            rows=len(rows),
            rmse=float(np.sqrt(np.mean(np.square(error)))),
            f1=float(f1_score(success, prediction.key > 0.5, zero_division=0.0)),
            brier=float(brier_score_loss(success, prediction.key, labels=[False, True])),
            coverage=tuple(
                float(np.mean(np.abs(error) <= norm.ppf(0.5 + share / 2) * prediction.sd)) for share in _INTERVALS
            ),
        )

    # --- what follows from rows and hyper-parameters --------------------------------------------------------------

    def _fitted(self) -> _Fitted:
        if self._hyper is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        if "fitted" not in self._derived:
            self._derived["fitted"] = self._condition(self._hyper)
        return self._derived["fitted"]

    def _condition(self, hyper: dict[str, torch.Tensor]) -> _Fitted:
        rows = self._usable(self.rows())
        imputed = _imputed(rows) if self.spec.target == "margin" else np.zeros(len(rows), dtype=bool)
        if np.count_nonzero(~imputed) < MIN_ROWS:
            raise FailedPrecondition(f"{np.count_nonzero(~imputed)} rows to learn from; at least {MIN_ROWS} are needed")
        gp, standard = self._new_gp(rows[~imputed], hyper)
        gp.frozen()
        if imputed.any():
            skipped = self.space.to_unit(rows["inputs"][imputed])
            mean = self.device.to_device(self._moments(gp, skipped)[0])
            values = mean.clamp_max(standard.level - float(gp.noise.sqrt()))
            gp = gp.conditioned(
                torch.cat([gp.inputs, self.device.to_device(skipped)]),
                torch.cat([gp.targets, values]),
                self.numerics,
            )
        return _Fitted(gp, standard)

    def guardrail(self) -> Guardrail:
        """The classifier that the rows held make."""
        if "guardrail" not in self._derived:
            rows = self.rows()
            simulated = rows[_simulated(rows)]
            infeasible = rows[rows["outcome"] == ProtocolOutcome.SKIPPED_INFEASIBLE]
            self._derived["guardrail"] = Guardrail(
                self.guardrail_spec,
                self.seed,
                self.space.to_unit(simulated["inputs"]),
                ~_succeeded(simulated),
                self.space.to_unit(infeasible["inputs"]),
            )
        return self._derived["guardrail"]

    def screen(
        self, inputs: NDArray[np.float32], index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability of failure, float32 [n], and which rows to skip, bool [n].

        Args:
            inputs: float32 [n, 9], model coordinates.
            index: int64 [n], indices in the active phase.
        """
        guardrail = self.guardrail()
        probability = guardrail.failure_probability(self.space.to_unit(inputs))
        return probability, guardrail.skips(probability, index)

    def predict(self, inputs: NDArray[np.float32]) -> Prediction:
        """What runs at rows [n, 9] in model coordinates would give.

        Raises:
            FailedPrecondition: not fitted.
        """
        return self._predict(self._fitted(), self.space.to_unit(inputs))

    def _predict(self, fitted: _Fitted, unit: NDArray[np.float32]) -> Prediction:
        mean, variance = self._moments(fitted.gp, unit)
        sd = np.sqrt(variance + float(fitted.gp.noise))
        return Prediction(
            mean=(fitted.standard.shift + fitted.standard.scale * mean).astype(np.float32),
            sd=(fitted.standard.scale * sd).astype(np.float32),
            key=ndtr((mean - fitted.standard.level) / sd).astype(np.float32),
        )

    def _moments(self, gp: EfficiencyGP, unit: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Posterior mean and variance of the standardised target without noise, float32 [n] each."""
        if not len(unit):
            return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
        n = len(gp.targets)
        ladder = self.solver.ladder(n, "prediction")

        def chunk(x: torch.Tensor) -> torch.Tensor:
            return ladder.run(lambda: torch.stack(gp.moments(x, self.numerics), dim=-1))

        # Test-by-train and test-by-test covariances, each with a few temporaries.
        moments = self.device.in_chunks(chunk, unit, bytes_per_row=4 * 6 * (n + 1024))
        return moments[:, 0], moments[:, 1]

    def propose(self, batch: int, size: int, pending: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next joint batch, float32 [size, 9] in model coordinates.

        Args:
            batch: its number, a branch of the seed tree.
            size: candidates wanted.
            pending: float32 [m, 9], rows under way.

        Raises:
            FailedPrecondition: not fitted.
        """
        fitted = self._fitted()
        # The scrambling of a Sobol sequence takes a signed 64-bit seed.
        seed = seeds.key(self.seed, Phase.ACTIVE, batch, Purpose.ACQUISITION) >> 1
        waiting = self.device.to_device(self.space.to_unit(pending))

        def choose() -> torch.Tensor:
            gp = fitted.gp
            if len(waiting):
                gp = acquisition.believe(gp, waiting, self.numerics)
            box = acquisition.search_box(self.space, waiting)
            return acquisition.propose(gp, box, size, fitted.standard.level, self.spec.straddle_weight, seed)

        unit = self.solver.ladder(len(fitted.gp.targets) + len(pending), "proposal", repeated=True).run(choose)
        return self.space.from_unit(self.device.to_host(unit))

    # --- what the user learns -------------------------------------------------------------------------------------

    def length_scales(self) -> NDArray[np.float32]:
        """ARD length scales as fractions of each parameter's range in model coordinates, float32 [9].

        A parameter that the space fixes has the greatest length scale allowed: it cannot matter.

        Raises:
            FailedPrecondition: not fitted.
        """
        if self._hyper is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        placeholder = torch.zeros(1, DIMENSIONS)
        gp = EfficiencyGP(placeholder, placeholder[:, 0], self.numerics)
        gp.set_hyper_parameters(self._hyper)
        scales = gp.length_scales.numpy().copy()
        box = acquisition.search_box(self.space, placeholder).numpy()
        scales[box[0] == box[1]] = self.numerics.length_scales[1]
        return scales

    def noise(self) -> float:
        """Standard deviation of the noise between runs in units of the target."""
        fitted = self._fitted()
        return fitted.standard.scale * float(fitted.gp.noise.sqrt())

    def secure_fraction(self) -> tuple[float, float]:
        """Share of the space where the posterior mean puts a key, and the half width of its 95 % interval.

        Shares are by the measure of the campaign's design: uniform in model coordinates, F by Beta(2, 1), strategies
        at `blind_fraction`. The half width is 1.96 times the root mean square distance between that share and the
        share in joint posterior samples of the whole surface, with the error of the points added.
        """
        if "secure" not in self._derived:
            self._derived["secure"] = self._secure_fraction(self._fitted())
        return self._derived["secure"]

    def _secure_fraction(self, fitted: _Fitted) -> tuple[float, float]:
        seed = seeds.key(self.seed, Phase.SURROGATE, 3, Purpose.TRAINING) >> 1
        points = _design_points(self.space, VOLUME_POINTS, seed)
        share = float(np.mean(self._moments(fitted.gp, points)[0] > fitted.standard.level))
        uncertainty = self.solver.ladder(self.rows_held, "secure fraction").run(
            lambda: self._share_uncertainty(fitted, points[:JOINT_POINTS])
        )
        integration = np.sqrt(share * (1 - share) / VOLUME_POINTS)
        return share, 1.96 * float(np.hypot(uncertainty, integration))

    def _share_uncertainty(self, fitted: _Fitted, unit: NDArray[np.float32]) -> float:
        """Root mean square distance of the share in joint posterior samples from that of the mean, on given points."""
        rng = seeds.generator(self.seed, Phase.SURROGATE, 2, Purpose.TRAINING)
        normal = self.device.to_device(rng.standard_normal((len(unit), VOLUME_SAMPLES), dtype=np.float32))
        with torch.no_grad():
            distribution = fitted.gp.posterior(self.device.to_device(unit)).distribution
            mean = distribution.mean
            # By eigenvectors: rounding leaves the covariance of a thousand points slightly indefinite, and the jitter
            # that a Cholesky factor needs would be uncertainty of our own making.
            values, vectors = torch.linalg.eigh(distribution.covariance_matrix)
            samples = mean[:, None] + vectors @ (values.clamp_min(0).sqrt()[:, None] * normal)
            if not bool(samples.isfinite().all()):
                raise UnsoundError("posterior samples are not finite")
            share = (mean > fitted.standard.level).double().mean()
            sampled = (samples > fitted.standard.level).double().mean(0)
        return float((sampled - share).square().mean().sqrt())

    # --- export ---------------------------------------------------------------------------------------------------

    def export(self) -> tuple[bytes, str]:
        """Hyper-parameters in safetensors format and the rest as a JSON object; rows are not part of it.

        Raises:
            FailedPrecondition: not fitted.
        """
        if self._hyper is None:
            raise FailedPrecondition("the model is not fitted; there is nothing to export")
        return safetensors.torch.save(self._hyper), json.dumps(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "target": self.spec.target,
            "columns": list(COLUMNS),
            "kernel": "matern52-ard",
        }

    def load(self, tensors: bytes, metadata: str) -> None:
        """Take over hyper-parameters that `export` gave.

        Raises:
            InvalidArgument: they are not such, or of a model with another target.
        """
        expected = self._metadata()
        try:
            found = json.loads(metadata)
        except ValueError:
            raise InvalidArgument("metadata", "must be the JSON object of an export") from None
        if found != expected:
            raise InvalidArgument("metadata", f"must be {json.dumps(expected)}")
        try:
            hyper = safetensors.torch.load(tensors)
        except safetensors.SafetensorError:
            raise InvalidArgument("tensors", "must be in safetensors format") from None
        placeholder = torch.zeros(1, DIMENSIONS)
        shapes = {
            name: value.shape
            for name, value in EfficiencyGP(placeholder, placeholder[:, 0], self.numerics).named_parameters()
        }
        if {name: value.shape for name, value in hyper.items()} != shapes:
            raise InvalidArgument("tensors", f"must hold {', '.join(shapes)} in an export's shapes")
        if any(value.dtype != torch.float32 or not bool(value.isfinite().all()) for value in hyper.values()):
            raise InvalidArgument("tensors", "must be finite float32")
        self._hyper = hyper
        self._derived.clear()


def _simulated(rows: ResultRows) -> NDArray[np.bool_]:
    kinds = [outcome for outcome in ProtocolOutcome if outcome.is_physical and not outcome.is_skipped]
    return np.isin(rows["outcome"], kinds)


def _imputed(rows: ResultRows) -> NDArray[np.bool_]:
    return rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE


def _succeeded(rows: ResultRows) -> NDArray[np.bool_]:
    return rows["outcome"] == ProtocolOutcome.SUCCESS


def _design_points(space: Space, n: int, seed: int) -> NDArray[np.float32]:
    """A scrambled Sobol set by the design's own measure, unit coordinates float32 [n, 9]."""
    points = qmc.Sobol(DIMENSIONS, scramble=True, rng=seed).random(n)
    for j, parameter in enumerate(PARAMETERS):
        if parameter.scale is Scale.BETA21:
            points[:, j] = np.sqrt(points[:, j])  # inverse of the distribution function x^2
    points[:, STRATEGY_COLUMN] = points[:, STRATEGY_COLUMN] >= 1 - space.blind_fraction
    return points.astype(np.float32)
