"""A campaign's surrogate: its rows, the regressor and the guardrail learnt from them, and what they say."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Generator
from typing import Any, Final, TypeGuard, TypeVar

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
from caligo_surrogate.cg import UnsoundError
from caligo_surrogate.device import Device
from caligo_surrogate.gp import EfficiencyGP, Progress, train
from caligo_surrogate.guardrail import Guardrail
from caligo_surrogate.posterior import Posterior, condition
from caligo_surrogate.solvers import Health, Ladder, Method, Numerics, Plan, Solver
from caligo_surrogate.standard import MARGIN_BEND, Standard

Result = TypeVar("Result")

log = logs.get("surrogate.landscape")

FORMAT: Final = "caligo.surrogate/1"
MIN_ROWS: Final = 8
"""Rows below which there is nothing to fit."""
BLOCK_ROWS: Final = 64
"""Rows of the active phase that extend a posterior for good; fewer are added anew each time."""
VOLUME_POINTS: Final = 2**14
"""Sobol points of the secure share of the space: they find it within half a per cent."""
JOINT_POINTS: Final = {"cholesky": 1024, "cg": 256}
"""Of these, points of the joint posterior samples, by solver: without a factor each costs a system."""
VOLUME_SAMPLES: Final = 256
"""Posterior samples for its uncertainty."""
BOUNDARY_POINTS: Final = 2**12
"""Sobol points that tell how much of the boundary still moves."""
_INTERVALS: Final = (0.50, 0.90, 0.95)
_FORECAST: Final = np.dtype([("error", "f4"), ("z", "f4"), ("key", "f4"), ("success", "?")])
"""A row against its prediction: error in units of the target and in standard deviations, probability of a key."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run at n points would give: float32 [n] each.

    Attributes:
        mean, sd: of the target of one run, the noise between runs included; units of the target. The margin is learned
            on a bent scale (`Standard`): there they are the median and half of the central 68.3 % interval, which near
            the cliff is the same.
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
class _Fitted:
    """The process given rows, and the units of its target."""

    posterior: Posterior
    standard: Standard


class EfficiencyLandscape:
    """The surrogate of one campaign.

    Its state is the rows held, the hyper-parameters, and how many rows of each phase were there when they were fitted;
    all else is a function of these and the campaign's seed, whatever the order in which rows came. Between fits, new
    rows count at once under the last hyper-parameters; the guardrail learns only from the rows that the fit saw.

    How rows are used:

    * simulated rows: the target as measured; the guardrail learns success or failure from them;
    * `skipped_infeasible`: the closed form's margin (or efficiency 0) is data like any other; failures for the
      guardrail's classifier, but not for its calibration;
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
        self._audited: dict[Phase, NDArray[np.int64]] = {phase: np.zeros(0, dtype=np.int64) for phase in Phase}
        self._hyper: dict[str, torch.Tensor] | None = None
        self._fitted_below: dict[Phase, int] | None = None
        """Rows with a smaller index, by phase, were there at the fit in force."""
        self._guardrails: dict[tuple[int, ...], Guardrail] = {}
        """The last ones made, by what decides them; twins share them."""
        self._bases: dict[tuple[Any, ...], _Fitted] = {}
        """The process given the rows that a fit saw, for the last fits, by what decides it; twins share them."""
        self._chain: list[_Fitted] = []
        """The process given those rows, then the same after one more block of rows each."""
        self._ladder: Ladder | None = None
        self._derived: dict[str, Any] = {}

    # --- rows ---------------------------------------------------------------------------------------------------

    @property
    def rows_held(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def rows(self) -> ResultRows:
        """Every row held, sorted by (phase, index)."""
        return np.concatenate([self._rows[phase] for phase in Phase])

    def observe(self, phase: Phase, rows: ResultRows, audited: NDArray[np.bool_] | None = None) -> None:
        """Add rows; one whose (phase, index) is held already changes nothing.

        Args:
            audited: bool [n], rows that the guardrail would have skipped.
        """
        if audited is not None:
            self._audited[phase] = np.union1d(self._audited[phase], rows["index"][audited])
        merged = np.concatenate([self._rows[phase], rows])
        _, first = np.unique(merged["index"], return_index=True)
        if len(first) > len(self._rows[phase]):
            self._rows[phase] = merged[first]
            self._derived.clear()
            if self._fitted_below is not None and rows["index"].min() < self._fitted_below[phase]:
                self._chain.clear()  # a row that the fit saw and this landscape had not

    def snapshot(self) -> EfficiencyLandscape:
        """A landscape that holds what this one holds now; what is fitted there changes nothing here."""
        twin = EfficiencyLandscape(self.space, self.spec, self.guardrail_spec, self.seed, self.device, self.numerics)
        twin._rows, twin._audited = dict(self._rows), dict(self._audited)
        twin._hyper, twin._fitted_below = self._hyper, self._fitted_below
        twin._guardrails, twin._bases = self._guardrails, self._bases
        twin.solver.health = self.solver.health
        return twin

    def bytes_held(self) -> int:
        """Estimated memory of the rows and of what was derived from them."""
        rows = sum(rows.nbytes for rows in self._rows.values())
        return rows + sum(fitted.posterior.bytes_held() for fitted in self._bases.values())

    def release(self) -> None:
        """Give up what was derived from the rows; it is made again when it is asked for."""
        self._forget_fit()
        self._bases.clear()
        self._guardrails.clear()

    def method(self) -> Method:
        """How the systems of the posterior are solved."""
        if self.is_fitted:
            return self._soundly(lambda fitted: fitted.posterior.plan.method)
        return self.solver.posterior(self.rows_held).plan.method

    @property
    def health(self) -> Health:
        """What went wrong and was mended."""
        return dataclasses.replace(self.solver.health, halvings=self.device.halvings)

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
            gp, _ = self._new_gp(self._sample(learned[~held_out]), hyper)
            first = yield from self._train(gp, offset=0)
            hyper, before = gp.hyper_parameters(), first.step
            ladder = self.solver.posterior(int(np.count_nonzero(~held_out)))
            validation = ladder.run(
                lambda plan: self._validate(self._base(hyper, learned[~held_out], plan), learned[held_out])
            )
        gp, _ = self._new_gp(self._sample(learned), hyper)
        last = yield from self._train(gp, offset=before)
        self._hyper = {name: value.cpu() for name, value in gp.hyper_parameters().items()}
        self._fitted_below = self._bounds()
        self._forget_fit()
        summary = Summary(len(learned), last.loss, before + last.step, self.method(), validation)
        log.info("fitted", **dataclasses.asdict(summary), length_scales=self.length_scales().tolist())
        return summary

    def _sample(self, rows: ResultRows) -> ResultRows:
        """The rows that hyper-parameters are learned from: all, or `training_rows` of them drawn by the seed tree."""
        if len(rows) <= self.spec.training_rows:
            return rows
        rng = seeds.generator(self.seed, Phase.SURROGATE, 4, Purpose.TRAINING)
        return rows[np.sort(rng.permutation(len(rows))[: self.spec.training_rows])]

    def _train(self, gp: EfficiencyGP, offset: int) -> Generator[Progress, None, Progress]:
        seed = seeds.key(self.seed, Phase.SURROGATE, 0, Purpose.TRAINING) >> 1
        training = train(gp, self.spec.training_steps, self.spec.learning_rate, self.solver, seed)
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

    @property
    def _bend(self) -> float:
        return MARGIN_BEND if self.spec.target == "margin" else math.inf

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

    def _new_gp(self, rows: ResultRows, hyper: dict[str, torch.Tensor] | None) -> tuple[EfficiencyGP, Standard]:
        target = self._target(rows)
        standard = Standard.of(target, self._bend)
        # While training, a dozen intermediate results of the matrix's size are alive.
        kernel = self.solver.kernel(len(rows), matrices=12)
        inputs = self.device.to_device(self.space.to_unit(rows["inputs"]))
        gp = EfficiencyGP(inputs, self.device.to_device(standard.apply(target)), self.numerics, kernel)
        if hyper is not None:
            gp.set_hyper_parameters(hyper)
        return gp, standard

    def cross_validate(self, folds: int) -> Validation | None:
        """Quality on every simulated row of phase 1, each foretold from all rows but those of its fold.

        The hyper-parameters are those in force, which have seen all rows: what is tested is the process, not its
        training. None where there are fewer rows than folds, or fewer than two folds.

        Raises:
            FailedPrecondition: not fitted.
        """
        learned = self._learnable(self.rows())
        tested = np.flatnonzero(_simulated(learned[: len(self._learnable(self._rows[Phase.LHS]))]))
        if folds < 2 or len(tested) < max(folds, MIN_ROWS):
            return None
        if self._hyper is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        hyper = self._hyper
        rng = seeds.generator(self.seed, Phase.SURROGATE, 6, Purpose.TRAINING)
        forecasts = []
        for fold in np.array_split(rng.permutation(tested), folds):
            rest = np.delete(learned, fold)
            ladder = self.solver.posterior(len(rest))
            forecasts.append(ladder.run(lambda plan: self._forecast(self._base(hyper, rest, plan), learned[fold])))  # noqa: B023
        return _score(np.concatenate(forecasts))

    def _validate(self, fitted: _Fitted, rows: ResultRows) -> Validation:
        return _score(self._forecast(fitted, rows))

    def _forecast(self, fitted: _Fitted, rows: ResultRows) -> NDArray[np.void]:
        """Rows that the process has not seen against what it says of them: an array [n] of `_FORECAST`."""
        unit, target = self.space.to_unit(rows["inputs"]), self._target(rows)
        prediction = self._predict(fitted, unit)
        mean, variance = self._moments(fitted.posterior, unit)
        forecast = np.empty(len(rows), dtype=_FORECAST)
        forecast["error"] = target - prediction.mean
        forecast["z"] = (fitted.standard.apply(target) - mean) / np.sqrt(variance + fitted.posterior.noise)
        forecast["key"] = prediction.key
        forecast["success"] = _succeeded(rows)
        return forecast

    # --- what follows from rows and hyper-parameters --------------------------------------------------------------

    def _forget_fit(self) -> None:
        self._chain.clear()
        self._ladder = None
        self._derived.clear()

    def _soundly(self, compute: Callable[[_Fitted], Result]) -> Result:
        """`compute` of the process given every row held; where that is not sound, of one solved more carefully."""
        if self._hyper is None or self._fitted_below is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        if self._ladder is None:
            seen = min(sum(self._fitted_below.values()), self.rows_held)  # the same whenever it is asked for
            self._ladder = self.solver.posterior(seen)
        return self._ladder.run(lambda plan: compute(self._fitted(plan)))

    def _fitted(self, plan: Plan) -> _Fitted:
        """The process given every row held.

        It is the process given the rows that the fit saw, extended by blocks of `BLOCK_ROWS` of the active phase and
        by what is left over: a function of the rows held and of nothing else, rounding included.
        """
        if self._chain and self._chain[0].posterior.plan != plan:
            self._chain.clear()
            self._derived.clear()
        if "fitted" not in self._derived:
            self._derived["fitted"] = self._condition(plan)
        return self._derived["fitted"]

    def _condition(self, plan: Plan) -> _Fitted:
        assert self._hyper is not None
        assert self._fitted_below is not None
        rows, below = self._rows, self._fitted_below
        seen = np.concatenate([rows[phase][rows[phase]["index"] < below[phase]] for phase in Phase])
        later = {phase: rows[phase][rows[phase]["index"] >= below[phase]] for phase in Phase}
        if not self._chain:
            hyper = tuple(self._hyper[name].numpy().tobytes() for name in sorted(self._hyper))
            key = (hyper, plan, *below.values(), len(seen))
            if key not in self._bases:
                for outdated in list(self._bases)[:-1]:
                    self._bases.pop(outdated, None)
                self._bases[key] = self._base(self._hyper, seen, plan)
            self._chain.append(self._bases[key])
        active = later[Phase.ACTIVE]
        while True:
            first = below[Phase.ACTIVE] + BLOCK_ROWS * (len(self._chain) - 1)
            block = active[(active["index"] >= first) & (active["index"] < first + BLOCK_ROWS)]
            if len(block) < BLOCK_ROWS:
                break
            self._chain.append(self._given(self._chain[-1], block))
        rest = [later[phase] for phase in Phase if phase is not Phase.ACTIVE]
        return self._given(self._chain[-1], np.concatenate([*rest, active[active["index"] >= first]]))

    def _base(self, hyper: dict[str, torch.Tensor], rows: ResultRows, plan: Plan) -> _Fitted:
        """The process given rows, under hyper-parameters."""
        known, imputed = self._split(rows)
        if len(known) < MIN_ROWS:
            raise FailedPrecondition(f"{len(known)} rows to learn from; at least {MIN_ROWS} are needed")
        target = self._target(known)
        standard = Standard.of(target, self._bend)
        gp = self._bare_gp(hyper)
        posterior = condition(
            dataclasses.replace(gp.matern, length_scales=gp.matern.length_scales.to(self.device.torch_device)),
            gp.noise,
            gp.constant,
            self.device.to_device(self.space.to_unit(known["inputs"])),
            self.device.to_device(standard.apply(target)),
            self.solver,
            plan,
            seeds.key(self.seed, Phase.SURROGATE, 5, Purpose.TRAINING) >> 1,
        )
        return self._impute(_Fitted(posterior, standard), imputed)

    def _given(self, fitted: _Fitted, rows: ResultRows) -> _Fitted:
        """The process given more rows."""
        known, imputed = self._split(rows)
        if len(known):
            inputs = self.device.to_device(self.space.to_unit(known["inputs"]))
            targets = self.device.to_device(fitted.standard.apply(self._target(known)))
            fitted = dataclasses.replace(fitted, posterior=fitted.posterior.extended(inputs, targets))
        return self._impute(fitted, imputed)

    def _split(self, rows: ResultRows) -> tuple[ResultRows, ResultRows]:
        """Usable rows with a known target, and those whose target the process itself has to say."""
        usable = self._usable(rows)
        imputed = _imputed(usable) if self.spec.target == "margin" else np.zeros(len(usable), dtype=bool)
        return usable[~imputed], usable[imputed]

    def _impute(self, fitted: _Fitted, rows: ResultRows) -> _Fitted:
        """The process given skipped rows, at its own mean, capped one standard deviation of the noise below 0."""
        if not len(rows):
            return fitted
        unit = self.space.to_unit(rows["inputs"])
        posterior = fitted.posterior
        mean = self.device.to_device(self._moments(posterior, unit)[0])
        values = mean.clamp_max(fitted.standard.level - posterior.noise**0.5)
        return dataclasses.replace(fitted, posterior=posterior.extended(self.device.to_device(unit), values))

    def _bare_gp(self, hyper: dict[str, torch.Tensor]) -> EfficiencyGP:
        """Hyper-parameters with names, on the host."""
        placeholder = torch.zeros(1, DIMENSIONS)
        gp = EfficiencyGP(placeholder, placeholder[:, 0], self.numerics)
        gp.set_hyper_parameters(hyper)
        return gp

    def _bounds(self) -> dict[Phase, int]:
        return {phase: int(rows["index"].max(initial=-1)) + 1 for phase, rows in self._rows.items()}

    def guardrail(self) -> Guardrail:
        """The classifier that the rows make which the fit in force saw; before a fit, every row held."""
        bounds = self._fitted_below or self._bounds()
        known = {phase: rows[rows["index"] < bounds[phase]] for phase, rows in self._rows.items()}
        audited = {phase: np.isin(rows["index"], self._audited[phase]) for phase, rows in known.items()}
        # Rows never change once they are there: how many there are below a bound says which.
        key = (*bounds.values(), *map(len, known.values()), *(int(spared.sum()) for spared in audited.values()))
        guardrail = self._guardrails.get(key)
        if guardrail is None:
            guardrail = self._new_guardrail(np.concatenate([*known.values()]), np.concatenate([*audited.values()]))
            for outdated in list(self._guardrails)[:-1]:
                self._guardrails.pop(outdated, None)
            self._guardrails[key] = guardrail
        return guardrail

    def _new_guardrail(self, rows: ResultRows, audited: NDArray[np.bool_]) -> Guardrail:
        chosen = _simulated(rows)
        simulated = rows[chosen]
        infeasible = rows[rows["outcome"] == ProtocolOutcome.SKIPPED_INFEASIBLE]
        return Guardrail(
            self.guardrail_spec,
            self.seed,
            self.space.to_unit(simulated["inputs"]),
            ~_succeeded(simulated),
            audited[chosen],
            self.space.to_unit(infeasible["inputs"]),
        )

    def screen(
        self, inputs: NDArray[np.float32], index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Probability of failure, float32 [n], and the guardrail's verdicts, codes of `guardrail.Verdict`, uint8 [n].

        Args:
            inputs: float32 [n, 9], model coordinates.
            index: int64 [n], indices in the active phase.
        """
        guardrail = self.guardrail()
        probability = guardrail.failure_probability(self.space.to_unit(inputs))
        return probability, guardrail.verdicts(probability, index)

    def predict(self, inputs: NDArray[np.float32]) -> Prediction:
        """What runs at rows [n, 9] in model coordinates would give.

        Raises:
            FailedPrecondition: not fitted.
        """
        unit = self.space.to_unit(inputs)
        return self._soundly(lambda fitted: self._predict(fitted, unit))

    def _predict(self, fitted: _Fitted, unit: NDArray[np.float32]) -> Prediction:
        mean, variance = self._moments(fitted.posterior, unit)
        sd = np.sqrt(variance + np.float32(fitted.posterior.noise))
        return Prediction(
            *fitted.standard.invert(mean, sd), key=ndtr((mean - fitted.standard.level) / sd).astype(np.float32)
        )

    def _moments(
        self, posterior: Posterior, unit: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Posterior mean and variance of the standardised target without noise, float32 [n] each."""
        if not len(unit):
            return np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)

        def chunk(x: torch.Tensor) -> torch.Tensor:
            return torch.stack(posterior.moments(x), dim=-1)

        moments = self.device.in_chunks(chunk, unit, posterior.bytes_per_row())
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
        # The scrambling of a Sobol sequence takes a signed 64-bit seed.
        seed = seeds.key(self.seed, Phase.ACTIVE, batch, Purpose.ACQUISITION) >> 1
        waiting = self.device.to_device(self.space.to_unit(pending))
        box = acquisition.search_box(self.space, waiting)

        sweep = self.device.to_device(_design_points(self.space, acquisition.SWEEP, seed))
        rule, weight = self.spec.acquisition, self.spec.straddle_weight

        def choose(fitted: _Fitted) -> torch.Tensor:
            posterior = fitted.posterior.believe(waiting) if len(waiting) else fitted.posterior
            return acquisition.propose(posterior, box, sweep, size, rule, fitted.standard.level, weight, seed)

        return self.space.from_unit(self.device.to_host(self._soundly(choose)))

    # --- what the user learns -------------------------------------------------------------------------------------

    def length_scales(self) -> NDArray[np.float32]:
        """ARD length scales as fractions of each parameter's range in model coordinates, float32 [9].

        A parameter that the space fixes has the greatest length scale allowed: it cannot matter.

        Raises:
            FailedPrecondition: not fitted.
        """
        if self._hyper is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        scales = self._bare_gp(self._hyper).matern.length_scales.numpy().copy()
        box = acquisition.search_box(self.space, torch.zeros(0)).numpy()
        scales[box[0] == box[1]] = self.numerics.length_scales[1]
        return scales

    def noise(self) -> float:
        """Standard deviation of the noise between runs in units of the target, at the cliff."""
        return self._soundly(lambda fitted: fitted.standard.scale * fitted.posterior.noise**0.5)

    def secure_fraction(self) -> tuple[float, float]:
        """Share of the space where the posterior mean puts a key, and the half width of its 95 % interval.

        Shares are by the measure of the campaign's design: uniform in model coordinates, F by Beta(2, 1), strategies
        at `blind_fraction`. The half width is 1.96 times the root mean square distance between that share and the
        share in joint posterior samples of the whole surface, with the error of the points added.
        """
        if "secure" not in self._derived:
            self._derived["secure"] = self._soundly(self._secure_fraction)
        return self._derived["secure"]

    def sides(self) -> NDArray[np.bool_]:
        """Where a key is likelier than none, bool [`BOUNDARY_POINTS`].

        The points are a Sobol set by the measure of the campaign's design; space and seed alone decide it.

        Raises:
            FailedPrecondition: not fitted.
        """
        return self._soundly(lambda fitted: self._means(fitted, self._boundary_points()) > fitted.standard.level)

    def expected_brier(self) -> float:
        """The Brier score of "there is a key" to be expected over the points of `sides`.

        That of probabilities p that mean what they say: the mean of p (1 - p).

        Raises:
            FailedPrecondition: not fitted.
        """
        key = self._soundly(lambda fitted: self._predict(fitted, self._boundary_points())).key.astype(np.float64)
        return float(np.mean(key * (1 - key)))

    def _boundary_points(self) -> NDArray[np.float32]:
        seed = seeds.key(self.seed, Phase.SURROGATE, 7, Purpose.TRAINING) >> 1
        return _design_points(self.space, BOUNDARY_POINTS, seed)

    def _means(self, fitted: _Fitted, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Posterior mean of the standardised target, float32 [n]."""
        return self.device.in_chunks(
            lambda x: fitted.posterior.mean(x).unsqueeze(-1), unit, fitted.posterior.bytes_per_row()
        )[:, 0]

    def _secure_fraction(self, fitted: _Fitted) -> tuple[float, float]:
        seed = seeds.key(self.seed, Phase.SURROGATE, 3, Purpose.TRAINING) >> 1
        points = _design_points(self.space, VOLUME_POINTS, seed)
        share = float(np.mean(self._means(fitted, points) > fitted.standard.level))
        uncertainty = self._share_uncertainty(fitted, points[: JOINT_POINTS[fitted.posterior.plan.method]])
        integration = np.sqrt(share * (1 - share) / VOLUME_POINTS)
        return share, 1.96 * float(np.hypot(uncertainty, integration))

    def _share_uncertainty(self, fitted: _Fitted, unit: NDArray[np.float32]) -> float:
        """Root mean square distance of the share in joint posterior samples from that of the mean, on given points."""
        rng = seeds.generator(self.seed, Phase.SURROGATE, 2, Purpose.TRAINING)
        normal = self.device.to_device(rng.standard_normal((len(unit), VOLUME_SAMPLES), dtype=np.float32))
        with torch.no_grad():
            x = self.device.to_device(unit)
            mean, covariance = fitted.posterior.mean(x), fitted.posterior.covariance(x)
            # By eigenvectors: rounding leaves the covariance of a thousand points slightly indefinite, and the jitter
            # that a Cholesky factor needs would be uncertainty of our own making.
            values, vectors = torch.linalg.eigh(covariance)
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
        assert self._fitted_below is not None
        below = {phase.name.lower(): bound for phase, bound in self._fitted_below.items()}
        return safetensors.torch.save(self._hyper), json.dumps({**self._metadata(), "fitted_below": below})

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "target": self.spec.target,
            "columns": list(COLUMNS),
            "kernel": "matern52-ard",
        }

    def load(self, tensors: bytes, metadata: str) -> None:
        """Take over what `export` gave; of rows that are not there the guardrail learns nothing.

        Raises:
            InvalidArgument: they are not such, or of a model with another target.
        """
        expected = self._metadata()
        try:
            found = json.loads(metadata)
        except ValueError:
            raise InvalidArgument("metadata", "must be the JSON object of an export") from None
        below = found.pop("fitted_below", None) if isinstance(found, dict) else None
        if found != expected or not _is_bounds(below):
            raise InvalidArgument("metadata", f"must be {json.dumps(expected)} and `fitted_below`, rows by phase")
        try:
            hyper = safetensors.torch.load(tensors)
        except safetensors.SafetensorError:
            raise InvalidArgument("tensors", "must be in safetensors format") from None
        placeholder = torch.zeros(1, DIMENSIONS)
        named = EfficiencyGP(placeholder, placeholder[:, 0], self.numerics).named_parameters()
        shapes = {name: value.shape for name, value in named}
        if {name: value.shape for name, value in hyper.items()} != shapes:
            raise InvalidArgument("tensors", f"must hold {', '.join(shapes)} in an export's shapes")
        if any(value.dtype != torch.float32 or not bool(value.isfinite().all()) for value in hyper.values()):
            raise InvalidArgument("tensors", "must be finite float32")
        self._hyper = hyper
        self._fitted_below = {phase: min(below[phase.name.lower()], held) for phase, held in self._bounds().items()}
        self._forget_fit()


def _is_bounds(value: Any) -> TypeGuard[dict[str, int]]:
    names = {phase.name.lower() for phase in Phase}
    return isinstance(value, dict) and value.keys() == names and all(isinstance(v, int) for v in value.values())


def _score(forecast: NDArray[np.void]) -> Validation:
    return Validation(
        rows=len(forecast),
        rmse=float(np.sqrt(np.mean(np.square(forecast["error"])))),
        f1=float(f1_score(forecast["success"], forecast["key"] > 0.5, zero_division=0.0)),
        brier=float(brier_score_loss(forecast["success"], forecast["key"], labels=[False, True])),
        coverage=tuple(float(np.mean(np.abs(forecast["z"]) <= norm.ppf(0.5 + share / 2))) for share in _INTERVALS),
    )


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
    low, high = space.model_bounds()
    points[:, (low == high) & (np.arange(DIMENSIONS) != STRATEGY_COLUMN)] = 0  # what the space fixes has no width
    return points.astype(np.float32)
