"""What a real device does to rounds that were drawn for themselves: drift, errors of one basis, dead time, afterpulses.

Each is a pure function of the sample's key and the rounds' numbers. Detectors remember, so a tile begins in the state
in which the candidates of the tile before leave them, that is the clicks that there were if detectors never slept. A
detector is known to be alive after a dead time without a candidate; from there, and some decay times of a carrier
before the tile, the past is gone through again. How far back that is has the spec's limit (`caligo.spec`); beyond a
whole tile, which no run is expected to see, detectors count as alive.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo.physics.device import TILE, Device
from caligo_simulator.epr.source import NO_CLICK, Int8Array
from caligo_simulator.philox import failures_before_success, fill_blocks, word_at

Rule = tuple[np.uint16, np.uint16, np.uint16]
"""(basis, step, limit): in round i Bob tosses a coin if i step mod `TILE` < limit, and has the basis if not."""

_CHUNK: Final = 4096
_ONES: Final = np.uint64(0x0101010101010101)
_REST_BITS: Final = np.uint64(48)
_ZERO: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
# Third counter word, beside those of the source.
_CARRIERS: Final = np.uint64(16)
_CARRIER: Final = np.uint64(17)
_DELAY: Final = np.uint64(18)
_AFTERPULSE: Final = np.uint64(19)
_FLIPS: Final = np.uint64(20)
_FLIP: Final = np.uint64(21)
_DECAYS: Final = 10.0
"""Decay times of a carrier that are looked back."""
_MANY: Final = 0.1
"""Share of clicks above which looking at every round costs less than jumping."""
_DRIFT_STREAM: Final = 0xD21F7


def sin_squared(device: Device, key: int, first: int, count: int) -> NDArray[np.float64]:
    """sin^2 of the analysers' rotation in the tiles `first`, `first + 1`, ..., float64 [count].

    sine: its phase is the key's; walk: the sum of a normal step a tile, from 0 before the first round.
    """
    draws = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, _DRIFT_STREAM, 0]))
    middles = (np.arange(first, first + count) + 0.5) * TILE
    if device.drift == "sine":
        phase = 2.0 * math.pi * (draws.random() + middles / device.drift_period)
        angle = device.drift_amplitude * np.sin(phase)
    else:
        step = device.drift_amplitude * math.sqrt(TILE / device.drift_period)
        steps = step * draws.standard_normal(first + count + 1)
        # A tile's middle lies half a step behind its end.
        ends = np.cumsum(steps)
        angle = (ends - (1.0 - math.sqrt(0.5)) * steps)[first : first + count]
    return np.sin(angle) ** 2


@njit(nogil=True, cache=True)
def flip_in_x(bob_basis: Int8Array, bob_click: Int8Array, key: np.uint64, start: int, probability: np.uint64) -> None:
    """Flip clicks in basis X with a probability of so many 2^-64."""
    words = np.empty(_CHUNK // 4, np.uint64)
    lanes = words.view(np.uint16)
    head = np.uint16(probability >> _REST_BITS)
    for chunk in range(0, bob_click.size, _CHUNK):
        fill_blocks(words, np.uint64((start + chunk) // 8), _FLIPS, _ZERO, key)
        for i in range(chunk, min(chunk + _CHUNK, bob_click.size)):
            lane = lanes[i - chunk]
            if lane <= head and bob_basis[i] == 1 and bob_click[i] != NO_CLICK:
                bob_click[i] ^= np.int8(_is_below(lane, probability, _FLIP, np.uint64(start + i), key))


def remember(
    tiles: list[tuple[Int8Array, Int8Array, Int8Array, Int8Array]],
    before: Int8Array | None,
    device: Device,
    rule: Rule,
    key: int,
    first: int,
) -> None:
    """Let dead time and afterpulses pass over tiles of candidates.

    tiles: alice_bit, alice_basis, bob_basis and bob_click of tiles that follow one another, `first` the number of their
    first round, a multiple of `TILE`; all but the last are whole. before: bob_click of the tile before, None at the
    beginning of the run. rule: Bob's rule of bases, as the kernels of the source take it.
    """
    decay = device.afterpulse_decay
    log_stays = np.float64(-1.0 / decay if decay > 0.0 else -math.inf)
    carrier = np.uint64(min(2**64 - 1, round(device.afterpulse * 2**64)))
    overlap = min(TILE, math.ceil(_DECAYS * decay))
    seen = np.empty(2 * TILE, np.int8)
    """Candidates of the tile before, then of the tile; what is left of them are its clicks."""
    released = np.zeros(2 * TILE, np.uint8)
    """Carriers by round, and by detector in the two lowest bits."""
    # From the last tile to the first, so that each still finds candidates in the one before it.
    for j in range(len(tiles) - 1, -1, -1):
        past = tiles[j - 1][3] if j else before
        alice_bit, alice_basis, bob_basis, click = tiles[j]
        end = TILE + click.size
        seen[:TILE] = NO_CLICK if past is None else past
        seen[TILE:end], seen[end:] = click, NO_CLICK
        begin = TILE if past is None else _known_alive(seen, device.dead_rounds, overlap)
        if carrier == _ZERO and np.count_nonzero(click != NO_CLICK) > _MANY * click.size:
            _sleep(seen, begin, device.dead_rounds)
        else:
            released.fill(0)
            number = first + (j - 1) * TILE
            _remember(
                *(alice_bit, alice_basis, bob_basis), *rule, seen, released, np.uint64(key), number, begin, end,
                device.dead_rounds, carrier, log_stays,
            )  # fmt: skip
        click[:] = seen[TILE:end]


@njit(nogil=True, cache=True)
def _known_alive(seen: Int8Array, dead: int, overlap: int) -> int:
    """The last round of the tile before, at least `overlap` before its end, that `dead` rounds without a candidate
    precede."""
    quiet = 0
    for i in range(TILE - overlap - 1, -1, -1):
        if quiet >= dead:
            return i + 1
        quiet = quiet + 1 if seen[i] == NO_CLICK else 0
    return 0


@njit(nogil=True, cache=True, error_model="numpy")
def _remember(
    alice_bit: Int8Array,
    alice_basis: Int8Array,
    bob_basis: Int8Array,
    basis: np.uint16,
    step: np.uint16,
    limit: np.uint16,
    seen: Int8Array,
    released: NDArray[np.uint8],
    key: np.uint64,
    number: int,
    begin: int,
    end: int,
    dead: int,
    carrier: np.uint64,
    log_stays: float,
) -> None:
    """Go through `seen`, whose first round has this number, from `begin`, where detectors are alive, up to `end`.

    Looks at eight rounds together and goes on behind the dead time of what happens there.
    """
    clicks, pending = seen.view(np.uint64), released.view(np.uint64)
    lanes_of_chunk = np.empty(_CHUNK // 4, np.uint64)
    lanes = lanes_of_chunk.view(np.uint16)
    flags = np.empty(_CHUNK, np.uint8)
    leaves = flags.view(np.uint64)
    head = np.uint16(carrier >> _REST_BITS)
    has_carriers, lingers = carrier > _ZERO, not math.isinf(log_stays)
    here: Any = np.int64(begin)
    for origin in range(begin // _CHUNK * _CHUNK, end, _CHUNK):
        if has_carriers:
            fill_blocks(lanes_of_chunk, np.uint64((number + origin) // 8), _CARRIERS, _ZERO, key)
            for i in range(_CHUNK):
                flags[i] = np.uint8(lanes[i] <= head)
        while here < origin + _CHUNK:
            word = here // 8
            clicked = ~(clicks[word] >> _ONE) & _ONES
            if dead == 0:  # a click that leaves nothing stands as it is
                clicked &= leaves[word - origin // 8]
            due = (pending[word] | pending[word] >> _ONE) & _ONES
            events = (clicked | due) >> (np.uint64(8) * np.uint64(here % 8))
            if events == _ZERO:
                here = 8 * (word + 1)
                continue
            lowest = events & (~events + _ONE)
            i = here + np.int64((((lowest - _ONE) & _ONES) * _ONES) >> np.uint64(56))
            own, fired, carriers = np.uint64(number + i), seen[i], released[i]
            if carriers:
                bits = word_at(own, _AFTERPULSE, _ZERO, key)
                both = carriers if fired == NO_CLICK else carriers | np.uint8(np.uint8(1) << np.uint8(fired))
                if fired == NO_CLICK and i >= TILE:
                    at = i - TILE
                    alice_bit[at] = (bits >> _ONE) & _ONE
                    alice_basis[at] = (bits >> np.uint64(2)) & _ONE
                    tossed = np.uint16(np.uint16(at) * step) < limit
                    bob_basis[at] = (bits >> np.uint64(3)) & _ONE if tossed else np.uint64(basis)
                fired = np.int8(bits & _ONE) if both == 3 else np.int8(both >> np.uint8(1))
                seen[i] = fired
            here = i + 1 + dead
            for j in range(i + 1, min(here, np.int64(end))):
                seen[j] = NO_CLICK
            if has_carriers and flags[i - origin] and _is_below(lanes[i - origin], carrier, _CARRIER, own, key):
                stays = failures_before_success(word_at(own, _DELAY, _ZERO, key), log_stays) if lingers else np.int64(0)
                if here + stays < end:
                    released[here + stays] |= np.uint8(np.uint8(1) << np.uint8(fired))


@njit(nogil=True, inline="always")
def _is_below(lane: np.uint16, threshold: np.uint64, purpose: np.uint64, number: np.uint64, key: np.uint64) -> np.bool_:
    """Whether 64 bits, of which `lane` are the first 16, are below a threshold; the others are drawn where they
    decide."""
    head = np.uint16(threshold >> _REST_BITS)
    if lane != head:
        return lane < head
    rest = word_at(number, purpose, _ZERO, key) >> (np.uint64(64) - _REST_BITS)
    return (np.uint64(lane) << _REST_BITS | rest) < threshold


@njit(nogil=True, cache=True)
def _sleep(seen: Int8Array, begin: int, dead: int) -> None:
    """`_remember` without carriers, where most rounds click: no branch, so nothing to be guessed wrong."""
    asleep: Any = np.int64(begin)
    for i in range(begin, seen.size):
        click = seen[i]
        counts = (click != NO_CLICK) & (i >= asleep)
        asleep = i + 1 + dead if counts else asleep
        seen[i] = click if counts else np.int8(NO_CLICK)
