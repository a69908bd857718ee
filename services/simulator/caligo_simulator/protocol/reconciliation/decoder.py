"""Layered sum-product syndrome decoding, many frames at once.

The schedule is that of Hocevar (SiPS 2004): the checks are visited one after the other and each sees the
posteriors that the checks before it have already improved, which takes about half the iterations of the
flooding schedule. `LANES` frames lie side by side as the innermost, contiguous axis, so that every operation
is one SIMD instruction over frames; a lane whose frame is finished takes the next one at once. Messages and
posteriors are 16-bit integers (`check_update`).

An attempt that is not the last ends as soon as the number of unsatisfied checks has not fallen for `PATIENCE`
iterations: it seldom falls again, and the next attempt goes on from the same messages.

A frame that does not converge is tried again by `RETRIES` decoders side by side, each with reliabilities that are
perturbed in another way: the first to meet the syndrome ends the race. At the error rates that matter here this
saves about every second frame, for the price of one long decoding each. The lanes of a race begin and end together, so
it does not depend on which other frames there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .check_update import AHEAD, LANES, ROW_BYTES, UNIT, count, signs, update_check
from .codes import Code

KNOWN = np.float32(30.0)
"""Log-likelihood ratio of a position that Bob knows."""


RETRIES = 16
"""Decoders in the race over a frame that did not converge; a divisor of `LANES`."""
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


@njit(nogil=True, cache=True, boundscheck=False)
def _decode(
    check_start: NDArray[np.int32],
    check_variables: NDArray[np.int32],
    received: NDArray[np.uint8],
    syndromes: NDArray[np.uint8],
    reliability: NDArray[np.int16],
    known: np.int16,
    reveal_order: NDArray[np.int32],
    reveal_ends: NDArray[np.int64],
    max_iterations: int,
    patience: int,
    posterior: NDArray[np.int16],
    message: NDArray[np.int16],
    scratch: NDArray[np.int16],
    decoded: NDArray[np.uint8],
    converged: NDArray[np.bool_],
    stages: NDArray[np.uint8],
    iterations: NDArray[np.int32],
) -> None:
    frames, n = received.shape
    racers = reliability.shape[1]
    groups = LANES // racers
    m = check_start.size - 1
    target = np.zeros(m, np.uint32)
    hard = np.zeros(n, np.uint32)
    unsatisfied = np.zeros(LANES, np.uint16)
    frame_of = np.full(groups, -1, np.int64)
    stage_of = np.zeros(groups, np.int64)
    in_stage = np.zeros(groups, np.int64)
    fewest = np.zeros(groups, np.int64)
    stale = np.zeros(groups, np.int64)
    total = np.zeros(groups, np.int64)
    fresh = np.zeros(groups, np.int64)
    waiting = 0
    busy = 0
    while True:
        started = 0
        kept = np.uint32(0xFFFFFFFF)
        for group in range(groups):
            if frame_of[group] < 0 and waiting < frames:
                frame_of[group] = waiting
                stage_of[group] = in_stage[group] = stale[group] = total[group] = 0
                fewest[group] = m + 1
                fresh[started] = group
                started += 1
                waiting += 1
                busy += 1
                lanes = np.uint32(((1 << racers) - 1) << (group * racers))
                kept &= ~lanes
                for c in range(m):
                    odd = syndromes[frame_of[group], c]
                    target[c] = (target[c] | lanes) if odd else (target[c] & ~lanes)
        if busy == 0:
            return
        if started > 0:
            for v in range(n):
                for group in fresh[:started]:
                    lane = group * racers
                    for racer in range(racers):
                        trust = reliability[v, racer]
                        posterior[v, lane + racer] = trust if received[frame_of[group], v] == 0 else -trust

        for c in range(m):
            first = np.int64(check_start[c])
            degree = np.int64(check_start[c + 1]) - first
            update_check(posterior, message, kept, check_variables, first, degree, target, c, scratch)  # type: ignore[call-arg]

        for v in range(n):
            hard[v] = signs(posterior, v)  # type: ignore[call-arg]
        unsatisfied[:] = 0
        for c in range(m):
            parity = target[c]
            for e in range(check_start[c], check_start[c + 1]):
                parity ^= hard[np.uint32(check_variables[e])]
            count(unsatisfied, parity)  # type: ignore[call-arg]

        for group in range(groups):
            frame = frame_of[group]
            if frame < 0:
                continue
            in_stage[group] += 1
            total[group] += 1
            best = group * racers
            for lane in range(best, best + racers):
                if unsatisfied[lane] < unsatisfied[best]:
                    best = lane
            satisfied = unsatisfied[best] == 0
            if not satisfied:
                stale[group] += 1
                if unsatisfied[best] < fewest[group]:
                    fewest[group] = unsatisfied[best]
                    stale[group] = 0
                is_last = stage_of[group] + 1 == reveal_ends.size
                if in_stage[group] < max_iterations and (is_last or stale[group] < patience):
                    continue
                if not is_last:
                    # The next values arrive: their prior changes, everything learnt so far stays.
                    stage_of[group] += 1
                    in_stage[group] = stale[group] = 0
                    fewest[group] = m + 1
                    for i in range(reveal_ends[stage_of[group] - 1], reveal_ends[stage_of[group]]):
                        at = reveal_order[i]
                        sign = 1 if received[frame, at] == 0 else -1
                        for lane in range(group * racers, group * racers + racers):
                            posterior[at, lane] = min(max(posterior[at, lane] + sign * known, -32767), 32767)
                    continue
            for v in range(n):
                decoded[frame, v] = (hard[v] >> np.uint32(best)) & np.uint32(1)
            converged[frame] = satisfied
            stages[frame] = stage_of[group]
            iterations[frame] = total[group]
            frame_of[group] = -1
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
    left = np.flatnonzero(~first.converged)
    race = _start(code, received[left], syndromes[left], perturbed, order[:0], ends[:1], RETRY_ITERATIONS, patience)
    first.bits[left] = race.bits
    first.converged[left] = race.converged
    first.iterations[left] += race.iterations
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
    """Decode each frame by as many decoders as `reliability` (racers, n) has rows, until the first converges."""
    frames = received.shape[0]
    bits = np.empty((frames, code.n), np.uint8)
    converged = np.zeros(frames, np.bool_)
    stage = np.zeros(frames, np.uint8)
    iterations = np.zeros(frames, np.int32)
    _decode(
        code.check_start,
        np.pad(code.check_variables, (0, AHEAD), "edge"),
        received,
        syndromes,
        _in_units(reliability.T),
        np.int16(round(float(KNOWN) * UNIT)),
        np.ascontiguousarray(reveal_order, np.int32),
        np.ascontiguousarray(reveal_ends, np.int64),
        max_iterations,
        patience,
        _rows(code.n),
        _rows(code.check_variables.size),
        _rows(4 * int(np.diff(code.check_start).max())),
        bits,
        converged,
        stage,
        iterations,
    )
    return Decoding(bits, converged, stage, iterations)


def _in_units(log_likelihood_ratio: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.ascontiguousarray(np.rint(np.minimum(log_likelihood_ratio * np.float32(UNIT), 32767)), np.int16)


def _rows(count: int) -> NDArray[np.int16]:
    """Zeros of (count, LANES), each row in a cache line of its own: a row across two costs a fifth more time."""
    buffer = np.zeros((count + 1) * ROW_BYTES, np.uint8)
    skipped = -buffer.ctypes.data % ROW_BYTES
    return buffer[skipped : skipped + count * ROW_BYTES].view(np.int16).reshape(count, LANES)
