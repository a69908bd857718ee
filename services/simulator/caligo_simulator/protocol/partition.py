"""The two strings: which rounds belong to which, who says so, and the cut to equal length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from caligo_simulator.protocol.messages import Bits, IndexSets, Permutation


class RefusedSetsError(Exception):
    """The sets that Bob names are not two disjoint, equally long sets of detected rounds."""


def by_alices_bases(bases: Bits, permutation: Permutation) -> IndexSets:
    """I_0 her Z rounds and I_1 her X rounds, each in a uniformly random order.

    To be cut after this, never before: only then is what is kept a uniform subset, and Bob could not store just those.
    """
    rng = np.random.Generator(np.random.Philox(permutation.seed))
    return IndexSets(*(rng.permutation(np.flatnonzero(bases == basis)) for basis in (0, 1)))


def by_bobs_choice(alices: Bits, bobs: Bits, choice: int) -> IndexSets:
    """I_C the rounds with equal bases, I_{1-C} those with unequal ones, the longer one without its last rounds."""
    matched, unmatched = np.flatnonzero(alices == bobs), np.flatnonzero(alices != bobs)
    length = min(matched.size, unmatched.size)
    sets = matched[:length], unmatched[:length]
    return IndexSets(*(sets if choice == 0 else sets[::-1]))


def verify(sets: IndexSets, rounds: int) -> None:
    """Alice's check of the sets that Bob names, out of so many rounds.

    Raises:
        RefusedSetsError: they are unequal, overlap, repeat a round, or name one that there is not.
    """
    if sets.zero.size != sets.one.size:
        raise RefusedSetsError("the sets have different lengths")
    named = np.concatenate(sets)
    if named.size and (named.min() < 0 or named.max() >= rounds):
        raise RefusedSetsError("a set names a round that was not detected")
    is_named = np.zeros(rounds, np.bool_)
    is_named[named] = True
    if np.count_nonzero(is_named) != named.size:
        raise RefusedSetsError("a round is named twice")


def frames_of(bits: Bits, index: NDArray[np.int64], frames: int, payload: int) -> Bits:
    """The first frames of a string, uint8 0/1 [frames, payload], of the bits of all rounds."""
    return bits[index[: frames * payload]].reshape(frames, payload)
