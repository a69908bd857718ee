"""Is the simulator the one that the closed form was measured against?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from caligo.closed_form import expect
from caligo.results import ResultRows, measured, metric
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo_surrogate.prior import DEEP, depth_doubt

WIDE: Final = 1.96
"""Standard deviations beyond which a margin is one that the closed form did not foretell."""
WIDE_SHARE: Final = 0.16
"""Share of such margins where the deviation that the closed form foretells is too small by 1.4, which is as much as it
may be (docs/physics.md, "A run as a distribution")."""
LEVEL: Final = 1e-3
"""Of the test, which is made again after every fit."""


def disagreement(rows: ResultRows, physics: PhysicsSpec, protocol: ProtocolSpec) -> str | None:
    """How the margins of rows [n] refute the closed form, one clause; None where they do not.

    Counts margins further from the foretold mean than `WIDE` foretold deviations, among rows that have a margin and lie
    near the cliff by what they say or by what the closed form does: one-sided binomial test of their share.
    """
    run = expect(rows["inputs"], physics, protocol)
    margin = metric(rows, "margin").astype(np.float64)
    near = measured(rows) & ((margin > DEEP) | (run.margin > DEEP))
    away: NDArray[np.float64] = np.abs(margin - run.margin)[near] / np.hypot(run.sd, depth_doubt(run.margin))[near]
    wide, count = int((away > WIDE).sum()), int(near.sum())
    if not count or binomtest(wide, count, WIDE_SHARE, alternative="greater").pvalue >= LEVEL:
        return None
    return f"{wide} of {count} margins lie further from the closed form than {WIDE} of its standard deviations"
