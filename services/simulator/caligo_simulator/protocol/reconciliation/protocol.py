"""Reconciliation of strings in frames: what Alice says of one, and what Bob makes of it.

The baseline is one message for both strings, with one tag each: nothing is asked and nothing is dropped. A frame is
decoded from its own syndrome; of the few that are left, the outer code discloses some private bits, in the end all. In
the blind protocol Bob's requests and the frames that he gives up concern the frames of both strings alike. They still
tell a malicious Alice, who makes frames of one string fail, which string he decodes: its receiver is safe from an
honest-but-curious Alice only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ..messages import Bits, Syndromes
from ..outer_code import parities, restore
from ..verification import tags
from .decoder import KNOWN, decode
from .plans import Plan

_BITS_AT_ONCE: Final = 2**22
"""Decoded between two calls of `pause`: seconds, and enough short frames that the decoder's lanes are seldom idle."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """What Bob has after decoding: uint8 0/1 [frames, payload], bool [frames] and uint8 [frames].

    bits: his estimate of Alice's frames. met: whether a frame has its syndrome, and in the blind protocol its tag.
    stage: how often more of it was disclosed in the blind protocol, or how many attempts left it in the baseline.
    """

    bits: Bits
    met: NDArray[np.bool_]
    stage: NDArray[np.uint8]

    @classmethod
    def nothing(cls, frames: int, payload: int) -> Self:
        """No frame corrected."""
        return cls(np.zeros((frames, payload), np.uint8), np.zeros(frames, np.bool_), np.zeros(frames, np.uint8))


def describe(plan: Plan, frames: Bits, point: int, rng: np.random.Generator) -> Syndromes:
    """What Alice says of a string, uint8 0/1 [frames, plan.payload]. rng: her private bits on punctured positions."""
    count, order = len(frames), plan.reveal_order
    words = np.zeros((count, plan.code.n), np.uint8)
    words[:, order] = private = rng.integers(0, 2, (count, order.size), dtype=np.uint8)
    words[:, plan.code.payload] = frames
    syndromes = plan.code.syndromes(words)
    if plan.restored is None:
        return Syndromes(syndromes, tags(frames, point), _checks(plan, frames, point), (), private)
    helping = tuple(
        parities(words[:, part], min(restored, count)) for restored, part in zip(plan.restored, plan.parts, strict=True)
    )
    whole = tags(frames.reshape(1, -1), point)
    return Syndromes(syndromes, whole, _checks(plan, frames, point), helping, private[:, :0])


def correct(
    plan: Plan, said: Syndromes, point: int, frames: Bits, pause: Callable[[], object] = lambda: None
) -> Corrected:
    """Bob's frames, uint8 0/1 [frames, plan.payload], corrected by what Alice said. `pause` may raise to stop it."""
    if plan.restored is None:
        return _correct_blind(plan, said, point, frames, pause)
    return _correct_at_once(plan, plan.restored, said, point, frames, pause)


def _correct_at_once(
    plan: Plan, restored: tuple[int, ...], said: Syndromes, point: int, frames: Bits, pause: Callable[[], object]
) -> Corrected:
    """The baseline: what an attempt leaves is helped by the outer code, which learns from the frames that are there."""
    count = len(frames)
    words = np.zeros((count, plan.code.n), np.uint8)
    words[:, plan.code.payload] = frames
    found = words.copy()
    met, stage = np.zeros(count, np.bool_), np.zeros(count, np.uint8)
    for attempt, (most, part) in enumerate(zip(restored, plan.parts, strict=True)):
        reliability = _reliability(plan, plan.revealed[attempt])
        for batch in _batches(plan, np.flatnonzero(~met)):
            decoding = decode(plan.code, words[batch], said.syndromes[batch], reliability)
            found[batch], met[batch] = decoding.bits, decoding.converged
            if plan.check_bits:
                met[batch] &= _checks(plan, decoding.bits[:, plan.code.payload], point) == said.checks[batch]
            pause()
        missing = ~met
        stage[missing] += 1
        if missing.any() and np.count_nonzero(missing) <= most:
            found[np.ix_(missing, part)] = restore(found[:, part], missing, said.parities[attempt])
            words[np.ix_(missing, part)] = found[np.ix_(missing, part)]
            met |= attempt == len(restored) - 1  # the frames themselves were restored
        else:
            break
    return Corrected(found[:, plan.code.payload], met, stage)


def _correct_blind(plan: Plan, said: Syndromes, point: int, frames: Bits, pause: Callable[[], object]) -> Corrected:
    """Frame by frame, each with as much disclosed as it takes."""
    order, ends = plan.reveal_order, np.array(plan.revealed, np.int64)
    reliability = _reliability(plan, 0)
    bits, met, stage = np.empty_like(frames), np.zeros(len(frames), np.bool_), np.zeros(len(frames), np.uint8)
    for batch in _batches(plan, np.arange(len(frames))):
        words = np.zeros((batch.size, plan.code.n), np.uint8)
        words[:, order] = said.disclosed[batch]  # the decoder reads one only once it is disclosed
        words[:, plan.code.payload] = frames[batch]
        decoding = decode(plan.code, words, said.syndromes[batch], reliability, order, ends)
        bits[batch] = decoding.bits[:, plan.code.payload]
        met[batch] = decoding.converged & (tags(bits[batch], point) == said.tags[batch])
        stage[batch] = decoding.stage
        pause()
    return Corrected(bits, met, stage)


def _checks(plan: Plan, frames: Bits, point: int) -> NDArray[np.int64]:
    """The checks of frames, int64 [frames]: the last bits of their tags; [0] where the plan has none."""
    return tags(frames, point) % 2**plan.check_bits if plan.check_bits else np.zeros(0, np.int64)


def _reliability(plan: Plan, revealed: int) -> NDArray[np.float32]:
    """How far Bob trusts each position of a frame, float32 [n]: private bits not at all until they are revealed."""
    reliability = np.full(plan.code.n, plan.reliability, np.float32)
    reliability[plan.code.modulated] = KNOWN
    reliability[plan.reveal_order[revealed:]] = 0.0
    return reliability


def _batches(plan: Plan, index: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Frames that are decoded between two calls of `pause`."""
    at_once = _BITS_AT_ONCE // plan.code.n
    for first in range(0, index.size, at_once):
        yield index[first : first + at_once]
