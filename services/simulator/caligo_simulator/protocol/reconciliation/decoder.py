"""Layered sum-product syndrome decoding, many frames at once.

The schedule is that of Hocevar (SiPS 2004): the checks are visited one after the other and each sees the
posteriors that the checks before it have already improved, which takes about half the iterations of the
flooding schedule. `LANES` frames lie side by side as the innermost, contiguous axis, so that every operation
is one SIMD instruction over frames; a lane whose frame is finished takes the next one at once.

An attempt that is not the last ends as soon as the number of unsatisfied checks has not fallen for `PATIENCE`
iterations: it seldom falls again, and the next attempt goes on from the same messages.

A frame that does not converge is tried again by `RETRIES` decoders side by side, each with reliabilities that are
perturbed in another way: the first to meet the syndrome ends the race. At the error rates that matter here this
saves about every second frame, for the price of one long decoding each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .check_update import LANES, update_check
from .codes import Code

KNOWN = np.float32(30.0)
"""Log-likelihood ratio of a position that Bob knows."""


RETRIES = 16
"""Decoders in the race over a frame that did not converge: as many as there are lanes."""
LONGEST_RETRIED = 4096
"""Longer frames are not tried again: fewer of them fail by bad luck, and a race would take a second."""
ITERATIONS = 30
RETRY_ITERATIONS = 50
LONG_ITERATIONS = 60
"""Of a frame's first decoding, in every stage; of a retry; of a frame that is not tried again. Of the frames of 4,096
bits that converge at the first attempt, 2 to 5 in 1,000 need more than the first number."""
PATIENCE = 8
"""Iterations without fewer unsatisfied checks that end an attempt before the last. Of the first attempts that would
have converged 4 % are given up, which discloses 0.1 % more; the others take half the time."""
_PERTURBATION = 0.1
"""Relative change, up or down, of each reliability in a retry; more was worse, less needs more iterations."""

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
    patience: int,
    decoded: NDArray[np.uint8],
    converged: NDArray[np.bool_],
    stages: NDArray[np.uint8],
    iterations: NDArray[np.int32],
) -> None:
    frames, n = received.shape
    racers = reliability.shape[0]
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
    unsatisfied = np.zeros(LANES, np.uint32)
    keep = np.zeros(LANES, np.float32)
    frame_of = np.full(LANES, -1, np.int64)
    stage_of = np.zeros(LANES, np.int64)
    in_stage = np.zeros(LANES, np.int64)
    fewest = np.zeros(LANES, np.uint32)
    stale = np.zeros(LANES, np.int64)
    total = np.zeros(LANES, np.int64)
    next_start = 0
    busy = 0
    while True:
        for lane in range(LANES):
            while next_start < frames * racers and converged[next_start // racers]:
                next_start += 1
            if frame_of[lane] < 0 and next_start < frames * racers:
                frame, racer = divmod(next_start, racers)
                next_start += 1
                busy += 1
                frame_of[lane] = frame
                stage_of[lane] = 0
                in_stage[lane] = 0
                fewest[lane] = m + 1
                stale[lane] = 0
                total[lane] = 0
                bit = np.uint32(1) << np.uint32(lane)
                for v in range(n):
                    trust = reliability[racer, v]
                    posterior[v, lane] = trust if received[frame, v] == 0 else -trust
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
        unsatisfied[:] = 0
        for c in range(m):
            parity = target[c]
            for e in range(check_start[c], check_start[c + 1]):
                parity ^= hard[np.uint32(check_variables[e])]
            for lane in range(LANES):
                unsatisfied[lane] += (parity >> np.uint32(lane)) & np.uint32(1)

        for lane in range(LANES):
            frame = frame_of[lane]
            if frame < 0:
                continue
            if converged[frame]:
                # Another lane was quicker.
                frame_of[lane] = -1
                busy -= 1
                continue
            in_stage[lane] += 1
            total[lane] += 1
            place = np.uint32(lane)
            satisfied = unsatisfied[lane] == 0
            if not satisfied:
                stale[lane] += 1
                if unsatisfied[lane] < fewest[lane]:
                    fewest[lane] = unsatisfied[lane]
                    stale[lane] = 0
                is_last = stage_of[lane] + 1 == reveal_ends.size
                if in_stage[lane] < max_iterations and (is_last or stale[lane] < patience):
                    continue
                if not is_last:
                    # The next values arrive: their prior changes, everything learnt so far stays.
                    stage_of[lane] += 1
                    in_stage[lane] = 0
                    fewest[lane] = m + 1
                    stale[lane] = 0
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
    (0: nothing was revealed); `iterations` int32, over all stages and, where there was one, its best retry.
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
    *,
    max_iterations: int | None = None,
    patience: int = PATIENCE,
    retries: int = RETRIES,
) -> Decoding:
    """Find, for every frame, the word nearest to `received` that has the frame's syndrome.

    received (frames, n) 0/1 and reliability (n,), float32 log-likelihood ratios >= 0 of these values: 0 for
    an unknown (punctured) position, whose received value is then without effect.
    syndromes (frames, m) 0/1.

    With `reveal_order` and `reveal_ends` (both or neither), a frame that has not converged after
    `max_iterations` in stage i, or has come no nearer in `patience`, goes on, with all its messages, after the values
    `received` holds at reveal_order[reveal_ends[i] : reveal_ends[i + 1]] became known for certain. reveal_ends[0] = 0.

    A frame of up to `LONGEST_RETRIED` bits that has not converged in its last stage is tried again by `retries`
    perturbed decoders. max_iterations: `ITERATIONS` or `LONG_ITERATIONS` unless given.
    """
    is_short = code.n <= LONGEST_RETRIED
    if max_iterations is None:
        max_iterations = ITERATIONS if is_short else LONG_ITERATIONS
    received = np.ascontiguousarray(received, np.uint8)
    syndromes = np.ascontiguousarray(syndromes, np.uint8)
    order: NDArray[np.int32] = np.zeros(0, np.int32) if reveal_order is None else reveal_order
    ends: NDArray[np.int64] = np.zeros(1, np.int64) if reveal_ends is None else reveal_ends
    first = _start(code, received, syndromes, reliability[np.newaxis], order, ends, max_iterations, patience)
    if not is_short or retries == 0 or first.converged.all():
        return first
    revealed = reliability.copy()
    revealed[order[: ends[-1]]] = KNOWN
    perturbed = revealed * _perturbations(code.n, retries)
    for i in np.flatnonzero(~first.converged):
        # One frame at a time: a race must not depend on which other frames there are.
        race = _start(
            code, received[i : i + 1], syndromes[i : i + 1], perturbed, order[:0], ends[:1], RETRY_ITERATIONS, patience
        )
        first.bits[i] = race.bits[0]
        first.converged[i] = race.converged[0]
        first.iterations[i] += race.iterations[0]
    return first


@cache
def _perturbations(n: int, retries: int) -> NDArray[np.float32]:
    """Factors of the reliabilities, float32 (retries, n), the same for every frame and at every time."""
    signs = np.random.Generator(np.random.Philox(n)).integers(0, 2, (retries, n), dtype=np.int8)
    return np.float32(1.0 - _PERTURBATION) + np.float32(2.0 * _PERTURBATION) * signs


def _start(
    code: Code,
    received: NDArray[np.uint8],
    syndromes: NDArray[np.uint8],
    reliability: NDArray[np.float32],
    reveal_order: NDArray[np.int32],
    reveal_ends: NDArray[np.int64],
    max_iterations: int,
    patience: int,
) -> Decoding:
    """Decode each frame once for each row of `reliability` (racers, n), until the first that converges."""
    frames = received.shape[0]
    bits = np.empty((frames, code.n), np.uint8)
    converged = np.zeros(frames, np.bool_)
    stage = np.zeros(frames, np.uint8)
    iterations = np.zeros(frames, np.int32)
    _decode(
        code.check_start,
        code.check_variables,
        received,
        syndromes,
        np.ascontiguousarray(reliability, np.float32),
        np.ascontiguousarray(reveal_order, np.int32),
        np.ascontiguousarray(reveal_ends, np.int64),
        max_iterations,
        patience,
        bits,
        converged,
        stage,
        iterations,
    )
    return Decoding(bits, converged, stage, iterations)
