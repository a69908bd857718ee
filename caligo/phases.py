"""The phases of a campaign."""

from __future__ import annotations

import enum


class Phase(enum.IntEnum):
    """Which part of a campaign a row belongs to; the codes are those of the contract's `Phase`."""

    LHS = 1
    """A Latin hypercube over the whole space."""
    SURROGATE = 2
    """Training of the surrogate, which gives no rows."""
    ACTIVE = 3
    """Rows where the surrogate is least sure."""
