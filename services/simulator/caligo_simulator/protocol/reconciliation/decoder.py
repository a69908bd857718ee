"""Layered sum-product syndrome decoding, many frames at once.

The schedule is that of Hocevar (SiPS 2004): the checks are visited one after the other and each sees the
posteriors that the checks before it have already improved, which takes about half the iterations of the
flooding schedule. `LANES` frames lie side by side as the innermost, contiguous axis, so that every operation
is one SIMD instruction over frames; a lane whose frame is finished takes the next one at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .check_update import LANES, update_check
from .codes import Code

KNOWN = np.float32(30.0)
"""Log-likelihood ratio of a position that Bob knows."""


_f = np.float32


@njit(nogil=True, cache=True, fastmath=True, boundscheck=False)
def _decode(
    check_start: NDArray[np.int32],
    check_variables: NDArray[np.int32],
    received: NDArray[np.uint8],
    syndromes: NDArray[np.uint8],
    reliability: NDArray[np.float32],
    reveal_order: NDArray[np.int32],
    reveal_ends: NDArray[np.int64],
    max_iterations: int,
    decoded: NDArray[np.uint8],
    converged: NDArray[np.bool_],
    stages: NDArray[np.uint8],
    iterations: NDArray[np.int32],
) -> None:
    frames, n = received.shape
    m = check_start.size - 1
    edges = check_variables.size
    widest = 0
    for c in range(m):
        widest = max(widest, check_start[c + 1] - check_start[c])
    posterior = np.zeros((n, LANES), np.float32)
    message = np.zeros((edges, LANES), np.float32)
    sign = np.ones((m, LANES), np.float32)
    target = np.zeros(m, np.uint32)
    hard = np.zeros(n, np.uint32)
    scratch = np.empty((4 * widest, LANES), np.float32)
    keep = np.zeros(LANES, np.float32)
    frame_of = np.full(LANES, -1, np.int64)
    stage_of = np.zeros(LANES, np.int64)
    in_stage = np.zeros(LANES, np.int64)
    total = np.zeros(LANES, np.int64)
    next_frame = 0
    busy = 0
    while True:
        for lane in range(LANES):
            if frame_of[lane] < 0 and next_frame < frames:
                frame = next_frame
                next_frame += 1
                busy += 1
                frame_of[lane] = frame
                stage_of[lane] = 0
                in_stage[lane] = 0
                total[lane] = 0
                bit = np.uint32(1) << np.uint32(lane)
                for v in range(n):
                    posterior[v, lane] = reliability[v] if received[frame, v] == 0 else -reliability[v]
                keep[lane] = 0.0
                for c in range(m):
                    odd = syndromes[frame, c]
                    sign[c, lane] = _f(-1.0) if odd else _f(1.0)
                    target[c] = (target[c] | bit) if odd else (target[c] & ~bit)
        if busy == 0:
            return

        for c in range(m):
            first = np.int64(check_start[c])
            degree = np.int64(check_start[c + 1]) - first
            update_check(posterior, message, keep, check_variables, first, degree, sign, c, scratch)  # type: ignore[call-arg]
        keep[:] = 1.0

        for v in range(n):
            bits = np.uint32(0)
            for lane in range(LANES):
                bits |= np.uint32(posterior[v, lane] < _f(0.0)) << np.uint32(lane)
            hard[v] = bits
        unsatisfied = np.uint32(0)
        for c in range(m):
            parity = target[c]
            for e in range(check_start[c], check_start[c + 1]):
                parity ^= hard[np.uint32(check_variables[e])]
            unsatisfied |= parity

        for lane in range(LANES):
            frame = frame_of[lane]
            if frame < 0:
                continue
            in_stage[lane] += 1
            total[lane] += 1
            place = np.uint32(lane)
            satisfied = ((unsatisfied >> place) & np.uint32(1)) == 0
            if not satisfied:
                if in_stage[lane] < max_iterations:
                    continue
                if stage_of[lane] + 1 < reveal_ends.size:
                    # The next values arrive: their prior changes, everything learnt so far stays.
                    stage_of[lane] += 1
                    in_stage[lane] = 0
                    for i in range(reveal_ends[stage_of[lane] - 1], reveal_ends[stage_of[lane]]):
                        at = np.uint32(reveal_order[i])
                        posterior[at, lane] += KNOWN if received[frame, at] == 0 else -KNOWN
                    continue
            for v in range(n):
                decoded[frame, v] = (hard[v] >> place) & np.uint32(1)
            converged[frame] = satisfied
            stages[frame] = stage_of[lane]
            iterations[frame] = total[lane]
            frame_of[lane] = -1
            busy -= 1


@dataclass(frozen=True)
class Decoding:
    """What the decoder found, one entry a frame.

    `bits` uint8 (frames, n); `converged` bool, the syndrome is met; `stage` uint8, the stage it ended in
    (0: nothing was revealed); `iterations` int32, over all stages.
    """

    bits: NDArray[np.uint8]
    converged: NDArray[np.bool_]
    stage: NDArray[np.uint8]
    iterations: NDArray[np.int32]


def decode(
    code: Code,
    received: NDArray[np.uint8],
    syndromes: NDArray[np.uint8],
    reliability: NDArray[np.float32],
    reveal_order: NDArray[np.int32] | None = None,
    reveal_ends: NDArray[np.int64] | None = None,
    max_iterations: int = 60,
) -> Decoding:
    """Find, for every frame, the word nearest to `received` that has the frame's syndrome.

    received (frames, n) 0/1 and reliability (n,), float32 log-likelihood ratios >= 0 of these values: 0 for
    an unknown (punctured) position, whose received value is then without effect.
    syndromes (frames, m) 0/1.

    With `reveal_order` and `reveal_ends` (both or neither), a frame that has not converged after
    `max_iterations` in stage i goes on, with all its messages, after the values `received` holds at
    reveal_order[reveal_ends[i] : reveal_ends[i + 1]] became known for certain. reveal_ends[0] = 0.
    """
    frames = received.shape[0]
    bits = np.empty((frames, code.n), np.uint8)
    converged = np.zeros(frames, np.bool_)
    stage = np.zeros(frames, np.uint8)
    iterations = np.zeros(frames, np.int32)
    _decode(
        code.check_start,
        code.check_variables,
        np.ascontiguousarray(received, np.uint8),
        np.ascontiguousarray(syndromes, np.uint8),
        np.ascontiguousarray(reliability, np.float32),
        np.zeros(0, np.int32) if reveal_order is None else np.ascontiguousarray(reveal_order, np.int32),
        np.zeros(1, np.int64) if reveal_ends is None else np.ascontiguousarray(reveal_ends, np.int64),
        max_iterations,
        bits,
        converged,
        stage,
        iterations,
    )
    return Decoding(bits, converged, stage, iterations)
