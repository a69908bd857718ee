"""What each kind of row says: to the regressor, about its own quality, and to the guardrail. Decided here alone.

A row tells the regressor its margin where the protocol got as far as counting one: a key, a lost frame, no key to be
expected, nothing left after reconciliation, an error rate that is too high or has no code. A row that never filled a
frame, or whose detections Alice refused, has no margin: it speaks of the gate only, whose probability the closed form
knows. Time-outs and faults say nothing about the physics.

Where the prior is the closed form, its own margins (rows that were never simulated) are no news either. Nor is a margin
far below the cliff where the closed form says the same: how far is no question of the cliff, and one that is far below
where the closed form says otherwise counts as just that. Where the prior is constant, the closed form's margins are
data like any other, and rows without a margin but without a key as well are imputed: 0 would say "on the cliff", so the
regressor is conditioned on its own mean there, capped one standard deviation of the noise below it. For the target
`efficiency` a row without a key has the efficiency 0, whatever ended it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from caligo.errors import FailedPrecondition
from caligo.results import ProtocolOutcome, ResultRows, measured, metric, simulated, succeeded
from caligo.space import Space
from caligo.spec import SurrogateSpec
from caligo_surrogate.prior import DEEP, MARGIN_UNIT, ClosedForm, Prior

MIN_ROWS: Final = 8
"""Simulated rows below which there is nothing to learn from; without the closed form, rows with a target as well."""


def infeasible(rows: ResultRows) -> NDArray[np.bool_]:
    """Rows that the closed form excluded, bool [n]."""
    return rows["outcome"] == ProtocolOutcome.SKIPPED_INFEASIBLE


class Reading:
    """How the regressor of a campaign reads rows."""

    def __init__(self, spec: SurrogateSpec, space: Space, prior: Prior) -> None:
        self.by_margin = spec.target == "margin"
        self._space = space
        self._prior = prior

    @property
    def _knows_physics(self) -> bool:
        return isinstance(self._prior, ClosedForm)

    def known(self, rows: ResultRows) -> NDArray[np.bool_]:
        """Rows whose target is data, bool [n]."""
        if not self.by_margin:
            return simulated(rows) | np.isin(rows["outcome"], [kind for kind in ProtocolOutcome if kind.is_skipped])
        if self._knows_physics:
            return measured(rows) & ~self._deep(rows)
        return measured(rows) | (infeasible(rows) & np.isfinite(metric(rows, "margin")))

    def lack(self, rows: ResultRows, known: int) -> str | None:
        """What is missing for these rows, of which so many are known, to be learned from; None where nothing is.

        With the closed form, rows of which none has a margin can be: they never filled a frame.
        """
        ended = int(simulated(rows).sum())
        if ended < MIN_ROWS:
            return f"{ended} of {len(rows)} rows were simulated to an end; at least {MIN_ROWS} are needed to learn from"
        if known < MIN_ROWS and not self._knows_physics:
            what = "margin" if self.by_margin else "result"
            return f"{known} of {len(rows)} rows have a {what}; at least {MIN_ROWS} are needed to learn from"
        return None

    def learnable(self, rows: ResultRows) -> ResultRows:
        """The known ones among rows.

        Raises:
            FailedPrecondition: there is a `lack`.
        """
        known = rows[self.known(rows)]
        lack = self.lack(rows, len(known))
        if lack is not None:
            raise FailedPrecondition(lack)
        return known

    def has_target(self, rows: ResultRows) -> NDArray[np.bool_]:
        """Simulated rows that predictions of the target can be held against, bool [n]."""
        return measured(rows) if self.by_margin else simulated(rows)

    def imputed(self, rows: ResultRows) -> NDArray[np.bool_]:
        """Rows whose target the process itself has to say, bool [n]."""
        if not self.by_margin or self._knows_physics:
            return np.zeros(len(rows), dtype=np.bool_)
        foretold = rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
        return foretold | (simulated(rows) & ~measured(rows) & ~succeeded(rows))

    def _deep(self, rows: ResultRows) -> NDArray[np.bool_]:
        """Rows that lie far below the cliff by what they say and by what the closed form does."""
        known = self._prior(torch.from_numpy(self._space.to_unit(rows["inputs"])))
        return (metric(rows, "margin") < DEEP) & (MARGIN_UNIT * known.mean.numpy() < DEEP)

    def lesson(self, rows: ResultRows) -> NDArray[np.float32]:
        """The target of known rows as the regressor learns it, float32 [n]."""
        target = self.target(rows)
        return np.maximum(target, np.float32(2 * DEEP)) if self._knows_physics else target

    def target(self, rows: ResultRows) -> NDArray[np.float32]:
        """The target of measured rows, float32 [n]."""
        if self.by_margin:
            return metric(rows, "margin")
        return np.where(succeeded(rows), metric(rows, "net_efficiency"), np.float32(0))
