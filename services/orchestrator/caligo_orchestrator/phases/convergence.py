"""When phase 3 may end before its budget is spent: the boundary moves no more, or is known well enough."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from caligo.spec import CampaignSpec
from caligo_orchestrator.model.remote import Surrogate
from caligo_orchestrator.store.journal import Journal


class Convergence:
    """Looks at the surrogate's boundary after batches of the active phase.

    What it sees is a function of the rows learned so far, and it is journaled: a campaign that was stopped decides as
    one that was not.

    Attributes:
        is_reached: a rule of the spec has been met.
        changed_share: of the fixed Sobol set, the share that changed sides over the last `convergence.batches`
            batches; None where there were fewer.
    """

    def __init__(self, campaign: str, spec: CampaignSpec, journal: Journal, surrogate: Surrogate) -> None:
        self._campaign = campaign
        self._rules = spec.active.convergence
        self._journal = journal
        self._surrogate = surrogate
        self.is_reached = False
        self.changed_share: float | None = None

    def look(self, learned: int) -> None:
        """Look at the boundary that so many batches have made."""
        now = self._recall(learned) or self._survey(learned)
        before = self._recall(learned - self._rules.batches)
        if before is not None:
            self.changed_share = float(np.mean(now[0] != before[0]))
            self.is_reached |= 0 < self._rules.boundary_tolerance >= self.changed_share
        self.is_reached |= 0 < self._rules.brier_target >= now[1]

    def _survey(self, learned: int) -> tuple[NDArray[np.bool_], float]:
        sides, score = self._surrogate.boundary(sides_only=self._rules.brier_target == 0)
        expected_brier = np.float32(math.nan if score is None else score)
        value = expected_brier.tobytes() + np.packbits(sides).tobytes()
        self._journal.put_checkpoint(self._campaign, _key(learned), value)
        return sides, float(expected_brier)

    def _recall(self, learned: int) -> tuple[NDArray[np.bool_], float] | None:
        """What was seen after so many batches, where it was looked at: sides, and the expected Brier score or NaN."""
        value = self._journal.checkpoint(self._campaign, _key(learned))
        if value is None:
            return None
        sides = np.unpackbits(np.frombuffer(value, np.uint8, offset=4)).astype(np.bool_)
        return sides, float(np.frombuffer(value, np.float32, count=1)[0])


def _key(learned: int) -> str:
    return f"boundary/{learned}"
