"""Reconciliation of strings in frames: what Alice says of one, and what Bob makes of it.

The baseline is one message for both strings, with one tag each: nothing is asked and nothing is dropped. In the blind
protocol Bob's requests and the frames that he gives up concern the frames of both strings alike. They still tell a
malicious Alice, who makes frames of one string fail, which string he decodes: its receiver is safe from an
honest-but-curious Alice only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ..messages import Bits, Syndromes
from ..verification import tags
from .decoder import KNOWN, decode
from .plans import Plan

_FRAMES_AT_ONCE: Final = 64
"""Decoded between two calls of `pause`."""


@dataclass(frozen=True, eq=False)
class Corrected:
    """What Bob has after decoding: uint8 0/1 [frames, payload], bool [frames] and uint8 [frames].

    bits: his estimate of Alice's frames. met: whether a frame has its syndrome, and in the blind protocol its tag.
    stage: how many times more was disclosed of it.
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
    order = plan.reveal_order
    words = np.zeros((len(frames), plan.code.n), np.uint8)
    words[:, order] = disclosed = rng.integers(0, 2, (len(frames), order.size), dtype=np.uint8)
    words[:, plan.code.payload] = frames
    return Syndromes(
        plan.code.syndromes(words), tags(frames if plan.is_blind else frames.reshape(1, -1), point), disclosed
    )


def correct(
    plan: Plan, said: Syndromes, point: int, frames: Bits, pause: Callable[[], object] = lambda: None
) -> Corrected:
    """Bob's frames, uint8 0/1 [frames, plan.payload], corrected by what Alice said. `pause` may raise to stop it."""
    code, order = plan.code, plan.reveal_order
    reliability = np.full(code.n, plan.reliability, np.float32)
    reliability[code.modulated] = KNOWN
    reliability[order] = 0.0
    bits, met, stage = np.empty_like(frames), np.zeros(len(frames), np.bool_), np.zeros(len(frames), np.uint8)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        batch = slice(first, first + _FRAMES_AT_ONCE)
        words = np.zeros((len(frames[batch]), code.n), np.uint8)
        words[:, order] = said.disclosed[batch]  # the decoder reads one only once it is disclosed
        words[:, code.payload] = frames[batch]
        decoding = decode(code, words, said.syndromes[batch], reliability, order, np.array(plan.revealed, np.int64))
        bits[batch] = decoding.bits[:, code.payload]
        met[batch], stage[batch] = decoding.converged, decoding.stage
        if plan.is_blind:
            met[batch] &= tags(bits[batch], point) == said.tags[batch]
        pause()
    return Corrected(bits, met, stage)
