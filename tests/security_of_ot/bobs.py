"""Dishonest Bobs: perfect channel, perfect devices, and no limit but the memory.

Each sits in honest Bob's place and says what only Bob can say. What he has of Alice's bits he gets from `Qubits`, so
that what he does not know can be counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from caligo_simulator.epr.source import NO_CLICK, BobBases, Segment
from caligo_simulator.protocol.messages import Bases, Correction, IndexSets, Permutation, Report, Requests
from caligo_simulator.protocol.parties import Agreement, Bob
from caligo_simulator.protocol.reconciliation import Plan
from numpy.typing import NDArray

Rounds = NDArray[np.int64]
"""Numbers of rounds."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Memory:
    """Keeps a share of the detected qubits as they come.

    A qubit is intact after the wait with probability r. Of a lost one nothing is left; is_flagged: Bob sees which are.
    """

    share: float
    r: float
    is_flagged: bool


NO_MEMORY = Memory(0.0, 0.0, True)


@dataclass
class Knowledge:
    """A guess of Alice's bit in every round, and the probability, given all that Bob has seen, that it is right."""

    guess: NDArray[np.int8]
    trust: NDArray[np.float64]

    def of(self, rounds: Rounds | Mask) -> Knowledge:
        return Knowledge(self.guess[rounds], self.trust[rounds])

    def missing(self, bits: NDArray[np.uint8]) -> float:
        """-log2 of the probability that he gives to these bits, which is infinite where he is sure of a wrong one."""
        right = np.where(self.guess == bits, self.trust, 1.0 - self.trust)
        with np.errstate(divide="ignore"):
            return float(-np.log2(right).sum())


class Qubits:
    """The qubits that Alice has sent. Each can be measured or stored, once."""

    BETWEEN = 2
    """The basis halfway between Z and X."""

    def __init__(self, segment: Segment, rng: np.random.Generator) -> None:
        self._bit, self._basis = segment.alice_bit.copy(), segment.alice_basis.copy()
        self._rng = rng
        self._is_left = np.ones(self._bit.size, np.bool_)
        self._measured_in = np.full(self._bit.size, -1, np.int8)
        self._outcome = np.zeros(self._bit.size, np.int8)

    def measure(self, rounds: Rounds, bases: NDArray[np.int8]) -> NDArray[np.int8]:
        """The outcomes in these bases: right in Alice's basis, a coin in the other one."""
        self._take(rounds)
        agreement = np.where(bases == self._basis[rounds], 1.0, 0.5)
        agreement[bases == self.BETWEEN] = np.cos(np.pi / 8) ** 2
        is_right = self._rng.random(rounds.size) < agreement
        self._measured_in[rounds] = bases
        self._outcome[rounds] = np.where(is_right, self._bit[rounds], 1 - self._bit[rounds])
        return self._outcome[rounds]

    def store(self, rounds: Rounds) -> None:
        self._take(rounds)

    def read(self, rounds: Rounds, bases: NDArray[np.uint8], memory: Memory) -> Knowledge:
        """What is known of these rounds once Alice's bases are: those not measured were stored in the memory."""
        assert not self._is_left[rounds].any()
        known = Knowledge(self._outcome[rounds], np.where(self._measured_in[rounds] == bases, 1.0, 0.5))
        known.trust[self._measured_in[rounds] == self.BETWEEN] = np.cos(np.pi / 8) ** 2
        stored = np.flatnonzero(self._measured_in[rounds] < 0)
        is_intact = self._rng.random(stored.size) < memory.r
        coins = self._rng.integers(0, 2, stored.size, dtype=np.int8)
        known.guess[stored] = np.where(is_intact, self._bit[rounds[stored]], coins)
        if memory.is_flagged:
            known.trust[stored] = np.where(is_intact, 1.0, 0.5)
        else:
            known.trust[stored] = 0.5 * (1.0 + memory.r)
        return known

    def _take(self, rounds: Rounds) -> None:
        assert self._is_left[rounds].all(), "a qubit is used twice"
        self._is_left[rounds] = False


class MeasuresAtOnce(Bob):
    """Stores as many qubits as he can hold, measures all others at once in random bases, and plays along.

    Subclasses lie as well. detections: how many rounds honest devices would report.
    """

    def __init__(
        self, agreement: Agreement, choice: int, *, rng: np.random.Generator, detections: int, memory: Memory
    ) -> None:
        super().__init__(agreement, choice)
        self.rng, self.detections, self.memory = rng, detections, memory

    # --- while the qubits come --------------------------------------------------------------------------------------

    def report(self, segment: Segment, start: int) -> Report:
        assert start == 0, "one segment holds the run"
        rounds = segment.alice_bit.size
        self.is_slot = BobBases(None, self.agreement.slots).is_slot(0, rounds)
        self.qubits = Qubits(segment, self.rng)
        stored = self.choose_stored(np.flatnonzero(~self.is_slot), int(self.memory.share * self.detections))
        self.qubits.store(stored)
        is_measured = np.ones(rounds, np.bool_)
        is_measured[stored] = False
        measured = np.flatnonzero(is_measured)
        basis, click = np.zeros(rounds, np.int8), np.zeros(rounds, np.int8)
        basis[measured] = self.choose_bases(measured)
        click[measured] = self.qubits.measure(measured, basis[measured])
        lost = self.choose_lost(measured, basis[measured], click[measured], rounds - self.detections)
        said = self.open_slots(Report(basis, click))
        said.click[lost] = NO_CLICK
        self.rounds = np.flatnonzero(~self.is_slot & (said.click != NO_CLICK))
        return said

    def choose_stored(self, rounds: Rounds, count: int) -> Rounds:
        return np.sort(self.rng.choice(rounds, count, replace=False))

    def choose_bases(self, rounds: Rounds) -> NDArray[np.int8]:
        return self.rng.integers(0, 2, rounds.size, dtype=np.int8)

    def choose_lost(self, rounds: Rounds, bases: NDArray[np.int8], bits: NDArray[np.int8], count: int) -> Rounds:
        """Which of the measured rounds he reports as lost."""
        return self.rng.choice(rounds, count, replace=False)

    def open_slots(self, true: Report) -> Report:
        """What he says of the calibration slots, of what he really has."""
        return true

    # --- once the bases are known -----------------------------------------------------------------------------------

    def follow(self, alices: Bases, permutation: Permutation) -> None:
        self.known = self.qubits.read(self.rounds, alices.bases, self.memory)
        super().follow(alices, permutation)

    def name_sets(self, alices: Bases) -> IndexSets:
        self.known = self.qubits.read(self.rounds, alices.bases, self.memory)
        self.sets = self.choose_sets()
        return self.sets

    def choose_sets(self) -> IndexSets:
        """Two sets of rounds, by what he knows of them."""
        return halves(self.rng.permutation(self.rounds.size))

    def correct(self, correction: Correction, pause: Callable[[], object] = lambda: None) -> Requests | None:
        frames, plan = len(correction.strings[0].syndromes), correction.plan
        self.met, self.stage, self.knows = np.ones(frames, np.bool_), np.zeros(frames, np.uint8), False
        trust = [self.known.of(index[: frames * plan.payload]).trust.reshape(frames, -1) for index in self.sets]
        return self.ask(plan, np.sum([(known < 1.0).sum(axis=1) for known in trust], axis=0))

    def ask(self, plan: Plan, unknown: NDArray[np.int64]) -> Requests | None:
        """What he asks for; unknown: of each frame, the bits of both strings that he is not sure of."""
        return Requests(np.zeros(unknown.size, np.uint8), np.ones(unknown.size, np.bool_))


def halves(rounds: Rounds) -> IndexSets:
    """These rounds in turn into either set."""
    half = rounds.size // 2
    return IndexSets(rounds[: 2 * half : 2], rounds[1 : 2 * half : 2])


class MeasuresBetween(MeasuresAtOnce):
    """Measures halfway between the bases, which guesses a bit best."""

    def choose_bases(self, rounds: Rounds) -> NDArray[np.int8]:
        return np.where(self.is_slot[rounds], super().choose_bases(rounds), Qubits.BETWEEN).astype(np.int8)


class MeasuresOneBasis(MeasuresAtOnce):
    """Measures everything in Z, so that he knows all of one string."""

    def choose_bases(self, rounds: Rounds) -> NDArray[np.int8]:
        return np.zeros(rounds.size, np.int8)


class StoresLeading(MeasuresAtOnce):
    """Stores the first rounds."""

    def choose_stored(self, rounds: Rounds, count: int) -> Rounds:
        return rounds[:count]


class LosesByChoice(MeasuresAtOnce):
    """Has lost nothing, and reports as lost what honest devices would have lost: zeros first, and those seen in X."""

    def choose_lost(self, rounds: Rounds, bases: NDArray[np.int8], bits: NDArray[np.int8], count: int) -> Rounds:
        return rounds[np.argsort(bits - bases, kind="stable")[:count]]


class LosesSlots(MeasuresAtOnce):
    """Reports three of four slots as lost, so that more rounds are left for the strings."""

    def choose_lost(self, rounds: Rounds, bases: NDArray[np.int8], bits: NDArray[np.int8], count: int) -> Rounds:
        slots = self.rng.permutation(rounds[self.is_slot[rounds]])
        return np.concatenate([slots[: slots.size * 3 // 4], rounds[~self.is_slot[rounds]]])[:count]


class ShowsErrors(MeasuresAtOnce):
    """Opens slots with errors that his devices do not make."""

    RATE = 0.005

    def open_slots(self, true: Report) -> Report:
        return true._replace(click=true.click ^ (self.rng.random(true.click.size) < self.RATE).astype(np.int8))


class NamesKnownFirst(MeasuresAtOnce):
    """Puts half of what he knows first into each set, and the rest behind it."""

    def choose_sets(self) -> IndexSets:
        return halves(np.argsort(-self.known.trust, kind="stable"))


class NamesShortSets(MeasuresAtOnce):
    """Names no rounds but those that he knows best, a third of all."""

    def choose_sets(self) -> IndexSets:
        return halves(np.argsort(-self.known.trust, kind="stable")[: self.rounds.size // 3])


class LeavesOut(MeasuresAtOnce):
    """Leaves out some of the rounds that he knows least, and more of them where the last frame is not full."""

    SHARE = 0.04

    def choose_sets(self) -> IndexSets:
        return halves(np.argsort(-self.known.trust, kind="stable")[: round((1.0 - self.SHARE) * self.rounds.size)])


class AsksForEverything(MeasuresAtOnce):
    """Lets her disclose all that the blind protocol has to disclose."""

    def ask(self, plan: Plan, unknown: NDArray[np.int64]) -> Requests | None:
        last = np.full(unknown.size, len(plan.revealed) - 1, np.uint8)
        return Requests(last, np.ones(unknown.size, np.bool_))


class DropsFrames(NamesKnownFirst):
    """Calls a tenth of the frames failed: those of which he knows least."""

    KEPT = 0.9

    def ask(self, plan: Plan, unknown: NDArray[np.int64]) -> Requests | None:
        kept = np.zeros(unknown.size, np.bool_)
        kept[np.argsort(unknown, kind="stable")[: max(1, round(self.KEPT * unknown.size))]] = True
        return Requests(np.zeros(unknown.size, np.uint8), kept)


class DropsHalfOfTheFrames(DropsFrames):
    """The attack on release 0.1: half of what he knows first into each set, and half of the frames called failed."""

    KEPT = 0.5
