"""What the parties say to each other, in this order (docs/physics.md, "The protocol").

    Bob   -> Alice  Report          detections, and what he measured in the calibration slots, while the pairs come
                    (the wait)
    Alice -> Bob    Bases           hers, in every detected round; her openings of the slots go with them
    Bob   -> Alice  IndexSets       only where Bob makes the partition
    Alice -> Bob    Permutation     only where Alice's bases are the partition
    Alice -> Bob    Correction      the code, the syndromes and tags of both strings
    Bob   -> Alice  Requests        only in the blind protocol
    Alice -> Bob    Hashes          the length of the key and a seed for each string

With Alice's partition and the baseline Bob says nothing after his reports.

Of a long run the simulator holds a part of the rounds and frames only; a message speaks of those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caligo_simulator.epr.source import NO_CLICK, Int8Array
from caligo_simulator.protocol.outer_code import symbols_of

if TYPE_CHECKING:
    from caligo_simulator.protocol.reconciliation.plans import Plan

Bits = NDArray[np.uint8]

UNREAD: Final = np.int8(-1)
"""In the place of what Bob keeps for himself."""


class Report(NamedTuple):
    """What Bob says of consecutive rounds, int8 [n] each.

    click: `NO_CLICK` where he reports none. basis and the value of click are read in calibration slots only.
    """

    basis: Int8Array
    click: Int8Array

    def read(self, is_slot: NDArray[np.bool_]) -> Report:
        """What Alice reads of it, and `UNREAD` for the rest."""
        is_lost = self.click == NO_CLICK
        is_open = is_slot & ~is_lost
        return Report(np.where(is_open, self.basis, UNREAD), np.where(is_open | is_lost, self.click, UNREAD))


class Bases(NamedTuple):
    """Alice's bases, uint8 0/1 [n], in the detected rounds outside the slots, in order of time."""

    bases: Bits


class IndexSets(NamedTuple):
    """The rounds of the two strings, int64 [m] each: positions among those of `Bases`, in the order of the string."""

    zero: NDArray[np.int64]
    one: NDArray[np.int64]


class Permutation(NamedTuple):
    """The public random number, 128 bits, that puts each string in order; drawn after the wait."""

    seed: int


class Syndromes(NamedTuple):
    """What Alice says of one string.

    syndromes: uint8 0/1 [frames, rows of the code]. tags: int64, [1] for the whole string in the baseline, [frames] in
    the blind protocol. checks: what tells the baseline's outer code which frames are right, int64 [frames]; [0] where
    the plan has none. parities: those of the outer code in the baseline, uint16 [restored, symbols] for each of the
    plan's parts; none in the blind protocol. disclosed: uint8 0/1 [frames, punctured], the private bits in the order in
    which the blind protocol discloses them, each frame's as far as Bob asks for them; [frames, 0] in the baseline.
    """

    syndromes: Bits
    tags: NDArray[np.int64]
    checks: NDArray[np.int64]
    parities: tuple[NDArray[np.uint16], ...]
    disclosed: Bits

    def fits(self, plan: Plan) -> bool:
        """Whether it is of the form that the plan demands."""
        frames = len(self.syndromes)
        parities = [] if plan.restored is None else zip(plan.restored, plan.parts, strict=True)
        return (
            frames > 0
            and self.syndromes.shape == (frames, plan.code.m)
            and self.tags.shape == (frames if plan.is_blind else 1,)
            and self.checks.shape == (frames if plan.check_bits else 0,)
            and self.disclosed.shape == (frames, plan.punctured if plan.is_blind else 0)
            and [p.shape for p in self.parities] == [(min(n, frames), symbols_of(part.size)) for n, part in parities]
        )


class Correction(NamedTuple):
    """How Bob can correct either string. `point` is that of the tags."""

    plan: Plan
    point: int
    strings: tuple[Syndromes, Syndromes]


class Requests(NamedTuple):
    """Of each frame, of both strings alike: how often Bob asked for more, uint8 [frames]; whether he keeps it, bool."""

    stage: NDArray[np.uint8]
    kept: NDArray[np.bool_]


class Hashes(NamedTuple):
    """Length of the key, and an independent seed for each string."""

    length: int
    seeds: tuple[Bits, Bits]


Message = Report | Bases | IndexSets | Permutation | Correction | Requests | Hashes
