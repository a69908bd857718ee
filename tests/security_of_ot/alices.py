"""Dishonest Alices. They send other states than they say, and spoil what she says of one basis or of one string.

What Bob sees of other states is drawn anew for his basis, as quantum mechanics says: `send` uses it for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from caligo_simulator.epr.source import NO_CLICK, BobBases, Segment
from caligo_simulator.protocol.messages import Bases, Bits, Correction, Hashes, Permutation, Syndromes
from caligo_simulator.protocol.parties import Agreement, Alice
from caligo_simulator.protocol.reconciliation import Plan
from numpy.typing import NDArray

ZERO, PLUS = 0.0, np.pi / 2
"""Angles of states between |0> and |1> on the circle of Z and X: |1> is at pi, |-> at -pi/2."""


class WatchfulAlice(Alice):
    """Keeps in mind what she has sent."""

    def __init__(self, agreement: Agreement) -> None:
        super().__init__(agreement)
        self.rng = np.random.default_rng(7)

    def send(self, segment: Segment, start: int) -> Segment:
        sent = self.prepare(segment, BobBases(None, self.agreement.slots).is_slot(start, segment.alice_bit.size))
        self.sent = sent.alice_basis.copy(), sent.alice_bit.copy()
        return sent

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        return segment


def seen_of(segment: Segment, angle: NDArray[np.float64], rng: np.random.Generator) -> Segment:
    """The segment with these states sent instead, where Bob sees something at all."""
    one = np.where(segment.bob_basis == 0, np.sin(angle / 2) ** 2, (1.0 - np.sin(angle)) / 2)
    bits = (rng.random(angle.size) < one).astype(np.int8)
    return segment._replace(bob_click=np.where(segment.bob_click == NO_CLICK, np.int8(NO_CLICK), bits))


class SendsBetween(WatchfulAlice):
    """Sends states halfway between the bases, and says that they were of either."""

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        return seen_of(segment, np.full(is_slot.size, np.pi / 4), self.rng)


class SendsOnlyZ(WatchfulAlice):
    """Sends |0> in every round, and says that half of them were |+>."""

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        zeros = np.zeros_like(segment.alice_bit)
        return seen_of(segment, np.full(is_slot.size, ZERO), self.rng)._replace(alice_bit=zeros)


class CorruptsOneBasis(WatchfulAlice):
    """Sends a part of her X states in Z, which is noise to who measures X."""

    SHARE = 0.02

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        angle = np.where(segment.alice_basis == 0, ZERO, PLUS) + np.pi * segment.alice_bit
        is_corrupt = (self.rng.random(is_slot.size) < self.SHARE) & (segment.alice_basis == 1)
        other = seen_of(segment, np.where(is_corrupt, ZERO, angle), self.rng)
        return segment._replace(bob_click=np.where(is_corrupt, other.bob_click, segment.bob_click))


class FlipsOpenedBits(WatchfulAlice):
    """Flips 5 % of the Z bits that she opens in the calibration slots."""

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        flips = is_slot & (segment.alice_basis == 0) & (self.rng.random(is_slot.size) < 0.05)
        return segment._replace(alice_bit=segment.alice_bit ^ flips.astype(np.int8))


class SaysZ(WatchfulAlice):
    """Says that nearly all of her states were of Z, so that the other string is nearly empty."""

    def prepare(self, segment: Segment, is_slot: NDArray[np.bool_]) -> Segment:
        return segment._replace(alice_basis=(self.rng.random(is_slot.size) < 0.01).astype(np.int8))


class LiesAboutBases(WatchfulAlice):
    """Announces a tenth of her X rounds as rounds of Z."""

    def hold(self, bits: Bits, bases: Bits) -> Bases:
        return super().hold(bits, bases & (self.rng.random(bases.size) > 0.1).astype(np.uint8))


class AnnouncesTooMany(WatchfulAlice):
    """Announces bases of more X rounds than there were, and uses them all the same."""

    def hold(self, bits: Bits, bases: Bits) -> Bases:
        more = np.ones(100, np.uint8)
        return super().hold(np.concatenate([bits, more]), np.concatenate([bases, more]))


class OtherPermutation(WatchfulAlice):
    """Says another permutation than she uses."""

    def permute(self, rng: np.random.Generator) -> Permutation:
        return Permutation(super().permute(rng).seed ^ 1)


class SpoilsString(WatchfulAlice):
    """Says something else about one string than is true, and the truth about the other."""

    def __init__(self, agreement: Agreement, string: int, spoil: Callable[[Syndromes], Syndromes]) -> None:
        super().__init__(agreement)
        self.string, self.spoil = string, spoil

    def describe(self, plan: Plan, frames: int, rng: np.random.Generator) -> Correction:
        true = super().describe(plan, frames, rng)
        strings = list(true.strings)
        strings[self.string] = self.spoil(strings[self.string])
        return true._replace(strings=(strings[0], strings[1]))


class SpoilsSeed(WatchfulAlice):
    """Sends a seed of the wrong length for string 0."""

    def hash(self, length: int, rng: np.random.Generator) -> Hashes:
        hashes = super().hash(length, rng)
        return hashes._replace(seeds=(hashes.seeds[0][:-1], hashes.seeds[1]))


def one_syndrome(said: Syndromes) -> Syndromes:
    """The syndrome of the first frame is wrong in every tenth bit."""
    wrong = said.syndromes.copy()
    wrong[0, ::10] ^= 1
    return said._replace(syndromes=wrong)


def one_bit(said: Syndromes) -> Syndromes:
    """One bit of one syndrome is wrong."""
    wrong = said.syndromes.copy()
    wrong[-1, -1] ^= 1
    return said._replace(syndromes=wrong)


def all_syndromes(said: Syndromes) -> Syndromes:
    """All syndromes are zero."""
    return said._replace(syndromes=np.zeros_like(said.syndromes))


def tag(said: Syndromes) -> Syndromes:
    """The tags are wrong."""
    return said._replace(tags=said.tags ^ 1)


def private_bits(said: Syndromes) -> Syndromes:
    """What she discloses is wrong, on request or in the outer code's parities."""
    return said._replace(disclosed=said.disclosed ^ 1, parities=tuple(parities ^ 1 for parities in said.parities))


def checks(said: Syndromes) -> Syndromes:
    """The checks of all frames are wrong."""
    return said._replace(checks=said.checks ^ 1)


def fewer_parities(said: Syndromes) -> Syndromes:
    """A parity of each part is missing."""
    return said._replace(parities=tuple(parities[1:] for parities in said.parities))


def shorter_code(said: Syndromes) -> Syndromes:
    """The syndromes are of a code with fewer rows."""
    return said._replace(syndromes=said.syndromes[:, ::2])


def fewer_frames(said: Syndromes) -> Syndromes:
    """A frame is missing."""
    return said._replace(syndromes=said.syndromes[1:], checks=said.checks[1:], disclosed=said.disclosed[1:])


def more_frames(said: Syndromes) -> Syndromes:
    """There are more frames than the string has."""
    thrice = (np.tile(part, (3, 1)) for part in (said.syndromes, said.disclosed))
    return said._replace(checks=np.tile(said.checks, 3), **dict(zip(("syndromes", "disclosed"), thrice, strict=True)))


def nothing(said: Syndromes) -> Syndromes:
    """There are no frames."""
    return said._replace(syndromes=said.syndromes[:0], checks=said.checks[:0], disclosed=said.disclosed[:0])


def no_tag(said: Syndromes) -> Syndromes:
    """There is no tag."""
    return said._replace(tags=said.tags[:0])


SPOILT = (
    one_syndrome, one_bit, all_syndromes, tag, private_bits, checks, fewer_parities, shorter_code, fewer_frames,
    more_frames, nothing, no_tag,
)  # fmt: skip

ALICES: dict[str, Callable[[Agreement], Alice]] = {
    "honest": WatchfulAlice,
    "sends states between the bases": SendsBetween,
    "sends only zeros": SendsOnlyZ,
    "corrupts states of one basis": CorruptsOneBasis,
    "flips opened bits of one basis": FlipsOpenedBits,
    "says Z": SaysZ,
    "lies about bases": LiesAboutBases,
    "announces too many": AnnouncesTooMany,
    "uses another permutation": OtherPermutation,
    "spoils a seed": SpoilsSeed,
    **{f"spoils {spoil.__name__} of string {s}": partial(SpoilsString, string=s, spoil=spoil)
       for spoil in SPOILT for s in (0, 1)},
}  # fmt: skip
"""Every Alice whose lies Bob must bear without a word."""
