"""What a source of quantum data is: something that fills segments of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from caligo.physics.detection import Convention
from caligo.physics.device import TILE, Device, Law, law
from caligo.space import ExplorationSample
from caligo.spec import PhysicsSpec

NO_CLICK: Final = 2
"""Bob's entry in a round without a click."""

SLOT_STEP: Final = 40503
"""Odd, and near the golden section of 2^16, so that calibration slots lie evenly however many there are."""

Int8Array = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class BobBases:
    """The rule by which Bob chooses his measurement bases.

    basis: 0 (Z) or 1 (X) where he measures a whole run in one basis, which is his choice C; None where he tosses a coin
    in every round. slots: calibration slots in a tile of `TILE` rounds, 0 to `TILE`; there he tosses a coin all the
    same. Slots are agreed on before the first pair: round i is one where i `SLOT_STEP` mod `TILE` < slots.
    """

    basis: int | None
    slots: int

    @staticmethod
    def slots_of(fraction: float) -> int:
        """Slots in a tile that are nearest to a share of the rounds, at least one."""
        return max(1, round(fraction * TILE))

    def is_slot(self, start: int, pairs: int) -> NDArray[np.bool_]:
        """Which of the rounds `start`, `start + 1`, ... are calibration slots, bool [pairs]."""
        return np.arange(start, start + pairs, dtype=np.int64) * SLOT_STEP % TILE < self.slots

    def choose(self, start: int, coins: Int8Array) -> Int8Array:
        """His bases in the rounds `start`, `start + 1`, ..., of coins 0/1; int8 of their shape [n]."""
        if self.basis is None:
            return coins
        return np.where(self.is_slot(start, coins.size), coins, np.int8(self.basis))


@dataclass(frozen=True, slots=True)
class Link:
    """The devices of honest Alice and Bob, in the units of `caligo.space`.

    efficiency: Bob's with all losses; device: what there is beside losses and dark counts, None where there is nothing;
    rounds: of the run, which a random walk depends on.
    """

    fidelity: float
    efficiency: float
    detector_error: float
    dark_count_prob: float
    convention: Convention
    device: Device | None = None
    rounds: int = 1

    @classmethod
    def of(cls, s: ExplorationSample, physics: PhysicsSpec) -> Link:
        device, efficiency, dark = physics.device.in_rounds(), s.eta, s.P_dark
        if device is not None:
            device, efficiency, dark = device.without_losses(efficiency, dark)
        return cls(s.F, efficiency, s.e_det, dark, physics.fidelity_convention, device, s.N)

    def law(self) -> Law:
        """How its rounds are distributed."""
        return law(
            self.device,
            self.fidelity,
            self.efficiency,
            self.detector_error,
            self.dark_count_prob,
            float(self.rounds),
            self.convention,
        )

    def click_probability(self) -> float:
        """Probability that Bob sees a click in a round."""
        return float(self.law().click)

    def qber(self) -> float:
        """Error probability of a clicked round with equal bases, on average over bases and runs."""
        return float(self.law().qber)


class Segment(NamedTuple):
    """Consecutive rounds of one sample, int8 [n] each: bits 0 or 1, bases 0 (Z) or 1 (X).

    Rounds without a click hold `NO_CLICK` in `bob_click`; what they hold elsewhere has no meaning.
    """

    alice_bit: Int8Array
    alice_basis: Int8Array
    bob_basis: Int8Array
    bob_click: Int8Array

    @classmethod
    def over(cls, buffer: NDArray[np.uint8], pairs: int) -> Self:
        """Views of the first `segment_bytes(pairs)` bytes of a buffer; nothing is copied."""
        stride = _stride(pairs)
        flat = buffer[: segment_bytes(pairs)].view(np.int8)
        return cls(*(flat[j * stride : j * stride + pairs] for j in range(4)))


def segment_bytes(pairs: int) -> int:
    """Bytes that a segment of so many pairs takes: four arrays, each on a cache line of its own."""
    return 4 * _stride(pairs)


def _stride(pairs: int) -> int:
    return -(-pairs // 64) * 64


class EPRSource(Protocol):
    """Makes the rounds of a sample, segment by segment."""

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        """Write rounds `start`, `start + 1`, ... of the sample with this 64-bit key into a segment.

        The rounds are a function of (link, bob, key, their number) alone. `start` is a multiple of `TILE`.
        A class of somebody else's names in `effects` the fields of `Device` that it honours; rows that ask for others
        end before it is called. Losses and dark counts are part of the link already.
        """
