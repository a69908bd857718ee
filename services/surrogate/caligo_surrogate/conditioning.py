"""The process given rows: made once for the rows that a fit saw, and extended by those that came later."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from caligo import seeds
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.seeds import Purpose
from caligo.space import DIMENSIONS, Space
from caligo_surrogate.device import Device
from caligo_surrogate.escalation import Ladder, Plan, Solver
from caligo_surrogate.posterior import Moments, Posterior, condition
from caligo_surrogate.prior import MARGIN_UNIT, ClosedForm, Prior
from caligo_surrogate.regressor import EfficiencyGP
from caligo_surrogate.rows import Reading
from caligo_surrogate.target import MARGIN_BEND, TargetScale

Hyper = Mapping[str, torch.Tensor]
"""Hyper-parameters by name, on the host."""
Result = TypeVar("Result")

BLOCK_ROWS: Final = 64
"""Rows of the active phase that extend a posterior for good; fewer are added anew each time."""

CLOSED_FORM_SCALE: Final = TargetScale(0.0, MARGIN_UNIT, math.inf)
"""Of the margin where the prior is the closed form, which no rows need to set."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The process given rows, and the scale of its target."""

    posterior: Posterior
    scale: TargetScale
    device: Device

    def moments(self, unit: NDArray[np.float32]) -> Moments:
        """What is expected of runs at unit coordinates [n, 9], on the host, float32 [n] each."""
        return self._in_chunks(self.posterior.moments, unit)

    def means(self, unit: NDArray[np.float32]) -> Moments:
        """The same with the variance left out, which is what costs."""
        return self._in_chunks(self.posterior.central, unit)

    def _in_chunks(self, compute: Callable[[torch.Tensor], Moments], unit: NDArray[np.float32]) -> Moments:
        if not len(unit):
            return Moments(*(torch.zeros(0) for _ in Moments._fields))

        def chunk(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return torch.stack(compute(x), dim=-1)

        found = self.device.in_chunks(chunk, unit, self.posterior.bytes_per_row())
        return Moments(*torch.from_numpy(found).unbind(-1))


class Conditioner:
    """Makes the process given rows, and keeps what can be used again.

    What it gives is a function of the rows and the hyper-parameters, rounding included: how much of it was there
    already makes no difference.
    """

    def __init__(self, space: Space, reading: Reading, prior: Prior, solver: Solver, device: Device, seed: int) -> None:
        self.space = space
        self.reading = reading
        self.prior = prior
        self.solver = solver
        self.device = device
        self.seed = seed
        self._bases: dict[tuple[Any, ...], Fitted] = {}
        """The process given the rows that a fit saw, for the last fits, by what decides it; twins share them."""
        self._chain: list[Fitted] = []
        """The process given those rows, then the same after one more block of rows each."""
        self._whole: Fitted | None = None
        """The process given every row."""
        self._ladder: Ladder | None = None

    def twin(self, solver: Solver) -> Conditioner:
        """One for the same rows, which shares what is made for the rows of a fit."""
        twin = Conditioner(self.space, self.reading, self.prior, solver, self.device, self.seed)
        twin._bases = self._bases
        return twin

    # --- what is kept ---------------------------------------------------------------------------------------------

    def rows_changed(self, *, below_fit: bool) -> None:
        """More rows are held; below_fit: some that the fit in force saw and this one had not."""
        self._whole = None
        if below_fit:
            self._chain.clear()

    def fit_changed(self) -> None:
        """Other hyper-parameters are in force."""
        self._chain.clear()
        self._whole = None
        self._ladder = None

    def release(self) -> None:
        """Give everything up; it is made again when it is asked for."""
        self.fit_changed()
        self._bases.clear()

    def bytes_held(self) -> int:
        """Estimated memory."""
        return sum(fitted.posterior.bytes_held() for fitted in self._bases.values())

    # --- rows to tensors ------------------------------------------------------------------------------------------

    def scale(self, known: ResultRows) -> TargetScale:
        """The scale on which the target of these rows is learned."""
        if isinstance(self.prior, ClosedForm):
            return CLOSED_FORM_SCALE
        target = self.reading.target(known)
        if self.reading.by_margin:
            return TargetScale.of(target, MARGIN_BEND)
        # Without a key the efficiency lies exactly at 0, where rounding would decide: a run counts as one with a key
        # where it is foretold nearer to what such runs have.
        with_key = target[target > 0]
        return TargetScale.of(target, threshold=0.5 * float(np.median(with_key)) if len(with_key) else 0.0)

    def tensors(self, known: ResultRows, scale: TargetScale) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [n, 9] and targets [n] of known rows on the device, float32."""
        to_device = self.device.to_device
        return to_device(self.space.to_unit(known["inputs"])), to_device(scale.apply(self.reading.lesson(known)))

    # --- the process ----------------------------------------------------------------------------------------------

    def soundly(
        self,
        hyper: Hyper,
        below: Mapping[Phase, int],
        rows: Mapping[Phase, ResultRows],
        compute: Callable[[Fitted], Result],
    ) -> Result:
        """`compute` of the process given every row; where that is not sound, of one solved more carefully.

        It is the process given the rows with an index below `below`, which the fit saw, extended by blocks of
        `BLOCK_ROWS` of the active phase and by what is left over.
        """
        if self._ladder is None:
            seen = min(sum(below.values()), sum(map(len, rows.values())))  # the same whenever it is asked for
            self._ladder = self.solver.posterior(seen)

        def attempt(plan: Plan) -> Result:
            if self._chain and self._chain[0].posterior.plan != plan:
                self._chain.clear()
                self._whole = None
            if self._whole is None:
                self._whole = self._given_all(hyper, below, rows, plan)
            return compute(self._whole)

        return self._ladder.run(attempt)

    def _given_all(
        self, hyper: Hyper, below: Mapping[Phase, int], rows: Mapping[Phase, ResultRows], plan: Plan
    ) -> Fitted:
        seen = np.concatenate([rows[phase][rows[phase]["index"] < below[phase]] for phase in Phase])
        later = {phase: rows[phase][rows[phase]["index"] >= below[phase]] for phase in Phase}
        if not self._chain:
            values = tuple(hyper[name].numpy().tobytes() for name in sorted(hyper))
            key = (values, plan, *below.values(), len(seen))
            if key not in self._bases:
                for outdated in list(self._bases)[:-1]:
                    self._bases.pop(outdated, None)
                self._bases[key] = self.base(hyper, seen, plan)
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

    def base(self, hyper: Hyper, rows: ResultRows, plan: Plan) -> Fitted:
        """The process given rows, from the start.

        Raises:
            FailedPrecondition: too few rows to learn from (`Reading.learnable`).
        """
        known = self.reading.learnable(rows)
        scale = self.scale(known)
        posterior = condition(
            self.bare_gp(hyper).process_on(self.device.torch_device),
            *self.tensors(known, scale),
            self.solver,
            plan,
            seeds.key(self.seed, Phase.SURROGATE, 0, Purpose.LANDMARKS) >> 1,
        )
        return self._impute(Fitted(posterior, scale, self.device), rows)

    def _given(self, fitted: Fitted, rows: ResultRows) -> Fitted:
        """The process given more rows."""
        known = rows[self.reading.known(rows)]
        if len(known):
            posterior = fitted.posterior.extended(*self.tensors(known, fitted.scale))
            fitted = dataclasses.replace(fitted, posterior=posterior)
        return self._impute(fitted, rows)

    def _impute(self, fitted: Fitted, rows: ResultRows) -> Fitted:
        """The process given the imputed ones among rows, at its own mean, capped one standard deviation of the noise
        below the level."""
        imputed = rows[self.reading.imputed(rows)]
        if not len(imputed):
            return fitted
        unit = self.space.to_unit(imputed["inputs"])
        moments = fitted.moments(unit)
        values = torch.minimum(moments.mean, fitted.scale.level - moments.noise.sqrt())
        inputs, targets = self.device.to_device(unit), values.to(self.device.torch_device)
        return dataclasses.replace(fitted, posterior=fitted.posterior.extended(inputs, targets))

    def bare_gp(self, hyper: Hyper) -> EfficiencyGP:
        """Hyper-parameters with names, on the host."""
        gp = self.empty_gp()
        gp.set_hyper_parameters(hyper)
        return gp

    def empty_gp(self) -> EfficiencyGP:
        """A process without rows, on the host."""
        placeholder = torch.zeros(1, DIMENSIONS)
        return EfficiencyGP(placeholder, placeholder[:, 0], self.prior, self.solver.numerics)
