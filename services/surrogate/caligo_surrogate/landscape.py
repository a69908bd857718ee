"""A campaign's surrogate: its rows, the regressor and the guardrail learnt from them, and what they say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from caligo import logs, screening, seeds
from caligo.discrepancy import Discrepancy
from caligo.errors import FailedPrecondition
from caligo.phases import Phase
from caligo.results import ResultRows, empty_rows, simulated, succeeded
from caligo.seeds import Purpose
from caligo.space import Space
from caligo.spec import GuardrailSpec, PhysicsSpec, ProtocolSpec, SurrogateSpec
from caligo_surrogate import acquisition, findings, state, validation
from caligo_surrogate.conditioning import Conditioner, Fitted, Hyper
from caligo_surrogate.design import design_points, search_box
from caligo_surrogate.device import Device
from caligo_surrogate.discrepancy import discrepancy
from caligo_surrogate.escalation import Health, Method, Numerics, Solver
from caligo_surrogate.guardrail import Candidates, Guardrail
from caligo_surrogate.guardrail.agreement import disagreement
from caligo_surrogate.prior import ClosedForm, prior_of
from caligo_surrogate.regressor import EfficiencyGP, Progress, train
from caligo_surrogate.relevance import relevance
from caligo_surrogate.rows import MIN_ROWS, Reading, infeasible
from caligo_surrogate.validation import Validation

Result = TypeVar("Result")

log = logs.get("surrogate.landscape")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a run at n points would give: float32 [n] each.

    Attributes:
        mean, sd: of the target of one run that has one, the noise between runs included; units of the target. Without
            the closed form the margin is learned on a bent scale (`TargetScale`): there they are the median and half of
            the central 68.3 % interval, which near the cliff is the same.
        key: probability that there is a key: that the run fills a frame, loses none, and its target is positive.
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    key: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a fit ended. The loss is the negative log marginal likelihood a row."""

    rows: int
    loss: float
    steps: int
    solver: str
    validation: Validation | None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a fitted surrogate says of the physics.

    Attributes:
        relevance: `relevance.relevance`, float32 [9, 4].
        discrepancy: what the device differs by from the closed form; None where that is not the prior.
        profiles: along each parameter, float32 [9, 17, 3] (`discrepancy.discrepancy`); None in the same case.
    """

    relevance: NDArray[np.float32]
    discrepancy: Discrepancy | None = None
    profiles: NDArray[np.float32] | None = None


class EfficiencyLandscape:
    """The surrogate of one campaign.

    Its state is the rows held, the hyper-parameters, and how many rows of each phase were there when they were fitted;
    all else is a function of these and the campaign's spec, whatever the order in which rows came. Between fits, new
    rows count at once under the last hyper-parameters; the guardrail learns only from the rows that the fit saw. `rows`
    says what each kind of row tells.
    """

    def __init__(
        self,
        space: Space,
        surrogate: SurrogateSpec,
        guardrail: GuardrailSpec,
        physics: PhysicsSpec,
        protocol: ProtocolSpec,
        seed: int,
        device: Device,
        numerics: Numerics | None = None,
    ) -> None:
        self.space = space
        self.spec = surrogate
        self.guardrail_spec = guardrail
        self.physics = physics
        self.protocol = protocol
        self.seed = seed
        self.device = device
        self.numerics = numerics or Numerics()
        self.solver = Solver(surrogate.solver, device, self.numerics)
        self.prior = prior_of(surrogate, space, physics, protocol)
        self.reading = Reading(surrogate, space, self.prior)
        self._conditioner = Conditioner(space, self.reading, self.prior, self.solver, device, seed)
        self._settings = space, surrogate, guardrail, physics, protocol, seed, device, self.numerics
        self._rows: dict[Phase, ResultRows] = {phase: empty_rows() for phase in Phase}
        self._audited: dict[Phase, NDArray[np.int64]] = {phase: np.zeros(0, dtype=np.int64) for phase in Phase}
        self._hyper: Hyper | None = None
        self._fitted_below: dict[Phase, int] | None = None
        """Rows with a smaller index, by phase, were there at the fit in force."""
        self._guardrails: dict[tuple[int, ...], Guardrail] = {}
        """The last ones made, by what decides them; twins share them."""
        self._secure_share: tuple[float, float] | None = None

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
            self._secure_share = None
            seen = self._fitted_below is not None and rows["index"].min() < self._fitted_below[phase]
            self._conditioner.rows_changed(below_fit=seen)

    def snapshot(self) -> EfficiencyLandscape:
        """A landscape that holds what this one holds now; what is fitted there changes nothing here."""
        twin = EfficiencyLandscape(*self._settings)
        twin._rows, twin._audited = dict(self._rows), dict(self._audited)
        twin._hyper, twin._fitted_below = self._hyper, self._fitted_below
        twin._guardrails = self._guardrails
        twin.solver.health = self.solver.health
        twin._conditioner = self._conditioner.twin(twin.solver)
        return twin

    def bytes_held(self) -> int:
        """Estimated memory of the rows and of what was derived from them."""
        return sum(rows.nbytes for rows in self._rows.values()) + self._conditioner.bytes_held()

    def release(self) -> None:
        """Give up what was derived from the rows; it is made again when it is asked for."""
        self._conditioner.release()
        self._secure_share = None
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
            FailedPrecondition: too few rows to learn from (`Reading.learnable`).
        """
        every = self.rows()
        learned = self.reading.learnable(every)
        hyper, validated, before = self._hyper, None, 0
        held_out = np.zeros(len(every), dtype=np.bool_)
        warm_up = len(self._rows[Phase.LHS])  # rows are sorted by phase: these come first
        held_out[:warm_up] = validation.held_out(every[:warm_up], holdout_fraction, self.seed)
        seen = every[~held_out]
        known = seen[self.reading.known(seen)]
        if held_out.any() and self.reading.lack(seen, len(known)) is None:
            gp = self._new_gp(known, hyper)
            first = yield from self._train(gp, offset=0)
            hyper, before = gp.hyper_parameters(), first.step
            validated = self._validate(hyper, seen, every[held_out])
        gp = self._new_gp(learned, hyper)
        last = yield from self._train(gp, offset=before)
        self._take({name: value.cpu() for name, value in gp.hyper_parameters().items()}, self._bounds())
        summary = Summary(len(learned), last.loss, before + last.step, self.method(), validated)
        log.info("fitted", **dataclasses.asdict(summary), length_scales=self.length_scales().tolist())
        return summary

    def _new_gp(self, known: ResultRows, hyper: Hyper | None) -> EfficiencyGP:
        """A process on known rows, or on `training_rows` of them drawn by the seed tree."""
        scale = self._conditioner.scale(known)
        if len(known) > self.spec.training_rows:
            rng = seeds.generator(self.seed, Phase.SURROGATE, 0, Purpose.TRAINING_ROWS)
            known = known[np.sort(rng.permutation(len(known))[: self.spec.training_rows])]
        # While training, a dozen intermediate results of the matrix's size are alive.
        kernel = self.solver.kernel(len(known), matrices=12)
        gp = EfficiencyGP(*self._conditioner.tensors(known, scale), self.prior, self.numerics, kernel)
        if hyper is not None:
            gp.set_hyper_parameters(hyper)
        return gp

    def _train(self, gp: EfficiencyGP, offset: int) -> Generator[Progress, None, Progress]:
        """Train, where there is enough to train on: a prior that knows the physics does without."""
        if len(gp.targets) < MIN_ROWS:
            return Progress(0, 0, math.nan)
        seed = seeds.key(self.seed, Phase.SURROGATE, 0, Purpose.PROBES) >> 1
        training = train(gp, self.spec.training_steps, self.spec.learning_rate, self.solver, seed)
        while True:
            try:
                progress = next(training)
            except StopIteration as end:
                return end.value
            yield dataclasses.replace(progress, step=offset + progress.step, steps=offset + progress.steps)

    def _take(self, hyper: Hyper, below: dict[Phase, int]) -> None:
        """Bring hyper-parameters into force."""
        self._hyper, self._fitted_below = hyper, below
        self._secure_share = None
        self._conditioner.fit_changed()

    def _bounds(self) -> dict[Phase, int]:
        return {phase: int(rows["index"].max(initial=-1)) + 1 for phase, rows in self._rows.items()}

    # --- quality ------------------------------------------------------------------------------------------------

    def cross_validate(self, folds: int) -> Validation | None:
        """Quality on every simulated row of phase 1, each foretold from all rows but those of its fold.

        The hyper-parameters are those in force, which have seen all rows: what is tested is the process, not its
        training. None where there are fewer rows than folds, or fewer than two folds.

        Raises:
            FailedPrecondition: not fitted.
        """
        tested = np.flatnonzero(simulated(self._rows[Phase.LHS]))  # rows are sorted by phase: these come first
        if folds < 2 or len(tested) < max(folds, MIN_ROWS):
            return None
        hyper, every = self._in_force()[0], self.rows()
        parts = validation.folds(tested, folds, self.seed)
        forecasts = validation.in_parts(every, parts, lambda rest, part: self._forecast(hyper, rest, part))
        alone = validation.forecast_by(self.prior, every[np.concatenate(parts)], self.space, self.reading)
        return validation.score(forecasts, alone)

    def _validate(self, hyper: Hyper, seen: ResultRows, rows: ResultRows) -> Validation:
        alone = validation.forecast_by(self.prior, rows, self.space, self.reading)
        return validation.score(self._forecast(hyper, seen, rows), alone)

    def _forecast(self, hyper: Hyper, seen: ResultRows, rows: ResultRows) -> NDArray[np.void]:
        """What the process given some rows says of others."""
        conditioner, ladder = self._conditioner, self.solver.posterior(len(seen))
        return ladder.run(
            lambda plan: validation.forecast(conditioner.base(hyper, seen, plan), rows, self.space, self.reading)
        )

    # --- guardrail ----------------------------------------------------------------------------------------------

    def guardrail(self) -> Guardrail:
        """The classifier that the rows make which the fit in force saw; before a fit, every row held."""
        bounds = self._fitted_below or self._bounds()
        known = {phase: rows[rows["index"] < bounds[phase]] for phase, rows in self._rows.items()}
        audited = {phase: np.isin(rows["index"], self._audited[phase]) for phase, rows in known.items()}
        # Rows never change once they are there: how many there are below a bound says which.
        key = (*bounds.values(), *map(len, known.values()), *(int(spared.sum()) for spared in audited.values()))
        guardrail = self._guardrails.get(key)
        if guardrail is None:
            guardrail = self._new_guardrail(known, np.concatenate([*audited.values()]))
            for outdated in list(self._guardrails)[:-1]:
                self._guardrails.pop(outdated, None)
            self._guardrails[key] = guardrail
        return guardrail

    def _new_guardrail(self, known: dict[Phase, ResultRows], audited: NDArray[np.bool_]) -> Guardrail:
        rows = np.concatenate([*known.values()])
        chosen = simulated(rows)
        ended, has_key = rows[chosen], succeeded(rows[chosen])
        screen = self._screen(known[Phase.LHS])
        if screen.is_active and (why := disagreement(ended, self.physics, self.protocol)):
            screen = screening.refused(why)
        # Infeasible rows may be many, and the classifier alone asks for them.
        excluded = rows[:0] if screen.is_active else rows[infeasible(rows)]
        return Guardrail(
            self.guardrail_spec,
            self.seed,
            screen,
            self._candidates(ended["inputs"]),
            ~has_key,
            audited[chosen],
            self._candidates(excluded["inputs"]),
        )

    def _screen(self, warm_up: ResultRows) -> screening.Screen:
        """What the closed form may skip. The audits are rows of phase 1: proposals are no fair sample of what it gives
        up."""
        ended = warm_up[simulated(warm_up)]
        log_odds = screening.failure_log_odds(ended["inputs"], self.physics, self.protocol)
        own = screening.counts(log_odds, ended["inputs"], succeeded(ended))
        return screening.screen(self.guardrail_spec, self.physics, self.protocol, own)

    def _candidates(self, inputs: NDArray[np.float32]) -> Candidates:
        log_odds = screening.failure_log_odds(inputs, self.physics, self.protocol)
        return Candidates(self.space.to_unit(inputs), log_odds)

    def screen(
        self, inputs: NDArray[np.float32], index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Probability of failure, float32 [n], and the guardrail's verdicts, codes of `Verdict`, uint8 [n].

        Args:
            inputs: float32 [n, 9], model coordinates.
            index: int64 [n], indices in the active phase.
        """
        guardrail, candidates = self.guardrail(), self._candidates(inputs)
        return guardrail.failure_probability(candidates), guardrail.verdicts(candidates, index)

    # --- what the surrogate says ----------------------------------------------------------------------------------

    def predict(self, inputs: NDArray[np.float32]) -> Prediction:
        """What runs at rows [n, 9] in model coordinates would give.

        Raises:
            FailedPrecondition: not fitted.
        """
        unit = self.space.to_unit(inputs)

        def predict(fitted: Fitted) -> Prediction:
            moments = fitted.moments(unit)
            mean, sd = fitted.scale.invert(moments.mean.numpy(), moments.spread.numpy())
            return Prediction(mean, sd, moments.key(fitted.scale.level).numpy())

        return self._soundly(predict)

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
        rule, weight = self.spec.acquisition, self.spec.straddle_weight

        def points(n: int) -> torch.Tensor:
            return self.device.to_device(design_points(self.space, n, seed))

        def choose(fitted: Fitted) -> torch.Tensor:
            posterior = fitted.posterior.believe(waiting) if len(waiting) else fitted.posterior
            box = search_box(self.space, waiting)
            return acquisition.propose(posterior, points, box, size, rule, fitted.scale.level, weight, seed)

        return self.space.from_unit(self.device.to_host(self._soundly(choose)))

    def length_scales(self) -> NDArray[np.float32]:
        """ARD length scales as fractions of each parameter's range in model coordinates, float32 [9].

        With the closed form as prior they are those of what differs from it. A parameter that the space fixes has the
        greatest length scale allowed: it cannot matter.

        Raises:
            FailedPrecondition: not fitted.
        """
        scales = self._conditioner.bare_gp(self._in_force()[0]).matern.length_scales.numpy().copy()
        box = search_box(self.space, torch.zeros(0)).numpy()
        scales[box[0] == box[1]] = self.numerics.length_scales[1]
        return scales

    def noise(self) -> float:
        """Learned standard deviation of the noise between runs in units of the target, at the cliff.

        With the closed form as prior it is what comes on top of the noise that this foretells for each row.
        """
        return self._soundly(lambda fitted: fitted.scale.scale * fitted.posterior.process.noise**0.5)

    def secure_fraction(self) -> tuple[float, float]:
        """`findings.secure_share`."""
        if self._secure_share is None:
            self._secure_share = self._soundly(lambda fitted: findings.secure_share(fitted, self.space, self.seed))
        return self._secure_share

    def explain(self) -> Explanation:
        """What decides the target, and where the device differs from the closed form; seconds of work.

        Raises:
            FailedPrecondition: not fitted.
        """

        def explain(fitted: Fitted) -> Explanation:
            indices = relevance(fitted, self.space, self.seed, by_margin=self.reading.by_margin)
            if not isinstance(self.prior, ClosedForm):
                return Explanation(indices)
            rows = self.rows()
            return Explanation(indices, *discrepancy(fitted, self.prior, rows, self.reading, self.space, self.seed))

        return self._soundly(explain)

    def sides(self) -> NDArray[np.bool_]:
        """`findings.sides`."""
        return self._soundly(lambda fitted: findings.sides(fitted, self.space, self.seed))

    def expected_brier(self) -> float:
        """`findings.expected_brier`."""
        return self._soundly(lambda fitted: findings.expected_brier(fitted, self.space, self.seed))

    def _soundly(self, compute: Callable[[Fitted], Result]) -> Result:
        """`compute` of the process given every row held, soundly (`Conditioner.soundly`)."""
        return self._conditioner.soundly(*self._in_force(), self._rows, compute)

    def _in_force(self) -> tuple[Hyper, dict[Phase, int]]:
        if self._hyper is None or self._fitted_below is None:
            raise FailedPrecondition("the model is not fitted; call FitModel first")
        return self._hyper, self._fitted_below

    # --- state ----------------------------------------------------------------------------------------------------

    def export(self) -> tuple[bytes, str]:
        """`state.save` of the fit in force; rows are not part of it.

        Raises:
            FailedPrecondition: not fitted.
        """
        return state.save(*self._in_force(), self.spec.target, self.prior.name)

    def load(self, tensors: bytes, metadata: str) -> None:
        """Take over what `export` gave; of rows that are not there the guardrail learns nothing.

        Raises:
            InvalidArgument: they are not such, or of a model with another target or prior.
        """
        like = self._conditioner.empty_gp()
        hyper, below = state.load(tensors, metadata, self.spec.target, self.prior.name, like)
        self._take(hyper, {phase: min(below[phase], held) for phase, held in self._bounds().items()})
