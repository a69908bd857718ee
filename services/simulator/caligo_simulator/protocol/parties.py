"""Honest Alice and honest Bob. Each knows what it has measured and what it was told; the harness carries the messages.

Somebody dishonest is a subclass that the harness is given instead (`Parties`): tests/security_of_ot has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caligo.physics.claims import Partition
from caligo_simulator.epr.source import BobBases, Segment
from caligo_simulator.protocol.amplification import amplify, draw_seed
from caligo_simulator.protocol.messages import (
    Bases,
    Bits,
    Correction,
    Hashes,
    IndexSets,
    Permutation,
    Report,
    Requests,
)
from caligo_simulator.protocol.partition import by_alices_bases, by_bobs_choice, frames_of, verify
from caligo_simulator.protocol.reconciliation import Corrected, Plan, correct, describe
from caligo_simulator.protocol.verification import draw_point, tags

MakeGenerator = Callable[[], np.random.Generator]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both agree on before the first pair. slots: calibration slots in a tile."""

    partition: Partition
    slots: int


class Alice:
    """Sends the pairs, and makes two strings."""

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement

    def send(self, segment: Segment, start: int) -> Segment:
        """Her bits and bases of the rounds from `start` on; the honest one takes what the source has prepared."""
        return segment

    def hold(self, bits: Bits, bases: Bits) -> Bases:
        """Keep her bits and bases of the detected rounds outside the slots, uint8 0/1 [n] each; announce the bases."""
        self.bits, self.bases = bits, Bases(bases)
        return self.bases

    def permute(self, rng: np.random.Generator) -> Permutation:
        """Put the rounds of each of her bases in a random order, which is the partition."""
        permutation = Permutation(int.from_bytes(rng.bytes(16), "little"))
        self.sets = by_alices_bases(self.bases.bases, permutation)
        return permutation

    def accept(self, sets: IndexSets) -> None:
        """Take the sets that Bob names.

        Raises:
            RefusedSetsError: they are not what they must be.
        """
        verify(sets, self.bits.size)
        self.sets = sets

    def describe(self, plan: Plan, frames: int, rng: np.random.Generator) -> Correction:
        """Cut both strings to so many frames, and say what corrects either."""
        self.strings = tuple(frames_of(self.bits, index, frames, plan.payload) for index in self.sets)
        point = draw_point(rng)
        zero, one = (describe(plan, string, point, rng) for string in self.strings)
        return Correction(plan, point, (zero, one))

    def drop(self, requests: Requests) -> None:
        """Go on with the frames that Bob keeps, in the blind protocol."""
        self.strings = tuple(string[requests.kept] for string in self.strings)

    def hash(self, length: int, rng: np.random.Generator) -> Hashes:
        """Draw the seeds and hash both strings."""
        zero, one = (draw_seed(string.size, length, rng) for string in self.strings)
        hashes = Hashes(length, (zero, one))
        self.keys = tuple(amplify(s.ravel(), length, seed) for s, seed in zip(self.strings, hashes.seeds, strict=True))
        return hashes


class Bob:
    """Measures, and corrects the string of his choice. `choice` is C, 0 or 1."""

    def __init__(self, agreement: Agreement, choice: int) -> None:
        self.agreement = agreement
        self.choice = choice

    def measure(self) -> BobBases:
        """How he chooses his bases: C throughout where Alice's bases are the partition."""
        return BobBases(self.choice if self.agreement.partition == "alice" else None, self.agreement.slots)

    def report(self, segment: Segment, start: int) -> Report:
        """What he says of the rounds from `start` on, before anything else is said."""
        return Report(segment.bob_basis, segment.bob_click)

    def hold(self, bits: Bits, bases: Bits) -> None:
        """Keep his bits and bases of the detected rounds outside the slots, uint8 0/1 [n] each."""
        self.bits, self.bases = bits, bases

    def follow(self, alices: Bases, permutation: Permutation) -> None:
        """Find the two strings by Alice's bases."""
        self.sets = by_alices_bases(alices.bases, permutation)

    def name_sets(self, alices: Bases) -> IndexSets:
        """Make the two strings himself."""
        self.sets = by_bobs_choice(alices.bases, self.bases, self.choice)
        return self.sets

    def correct(self, correction: Correction, pause: Callable[[], object] = lambda: None) -> Requests | None:
        """Correct the string of his choice; in the blind protocol he says what that took and what he keeps.

        In the baseline he says nothing, and keeps for himself whether it worked (`knows`). Where what Alice says of his
        string does not fit, that is one more reason why it did not: if he stopped there, she would see which it is.
        """
        plan, said = correction.plan, correction.strings[self.choice]
        frames = len(said.syndromes)
        index = self.sets[self.choice][: frames * plan.payload]
        if said.fits(plan) and index.size == frames * plan.payload and index.max(initial=0) < self.bits.size:
            mine = frames_of(self.bits, index, frames, plan.payload)
            corrected = correct(plan, said, correction.point, mine, pause)
        else:
            corrected = Corrected.nothing(frames, plan.payload)
        self.met, self.stage, self.string = corrected.met, corrected.stage, corrected.bits
        if plan.is_blind:
            self.string = corrected.bits[corrected.met]
            self.knows = bool(corrected.met.any())
            return Requests(corrected.stage, corrected.met)
        whole = self.string.reshape(1, -1)
        self.knows = bool(corrected.met.all() and (tags(whole, correction.point) == said.tags).all())
        return None

    def hash(self, hashes: Hashes, rng: np.random.Generator) -> None:
        """His key, or random bits of his own where the string could not be corrected: he always has some."""
        self.key = rng.integers(0, 2, hashes.length, dtype=np.uint8)
        if self.knows:
            try:
                self.key = amplify(self.string.ravel(), hashes.length, hashes.seeds[self.choice])
            except ValueError:  # a seed that does not fit; Alice must not see that it was that of his string
                self.knows = False


class Parties(NamedTuple):
    """Who takes part."""

    alice: type[Alice] | Callable[[Agreement], Alice] = Alice
    bob: type[Bob] | Callable[[Agreement, int], Bob] = Bob


class Keys(NamedTuple):
    """What a run ends with, uint8 0/1 [ell] each: S_0 and S_1, and Bob's, which is S_C if he `knows` it."""

    choice: int
    alice: tuple[NDArray[np.uint8], ...]
    bob: NDArray[np.uint8]
    knows: bool
