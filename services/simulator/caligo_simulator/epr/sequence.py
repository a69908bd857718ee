"""Rounds made by SeQUeNCe, a discrete-event simulator (Wu et al., Quantum Sci. Technol. 6, 045027 (2021)).

Its photons, fibre, polarising beam splitter and detectors stand for the link:

* Pair: Alice measures her half without fault, so Bob's photon leaves in the BB84 state of her bit, one a gate. White
  noise of weight 1 - w is the fibre's `polarization_fidelity` w: any other photon gets a random linear polarisation.
* Loss: half of it, in decibels, in the fibre's attenuation, half in the efficiency of the detectors.
* Wrong port e: the frame is turned by the angle whose squared sine is e, to either side by a coin, since a port that is
  wrong at random prefers no bit in the other basis.
* Dark counts: a Poisson process of rate -ln(1 - d) a gate in each detector.
* A double click is read as a fair coin; SeQUeNCe leaves that to whoever reads the detectors.

SeQUeNCe's detectors recover each for itself, which no claim allows, so dead time is not used. Every tile is a run of
its own, with nodes seeded by key and tile.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sequence.components.detector import QSDetectorPolarization
from sequence.components.optical_channel import QuantumChannel
from sequence.components.photon import Photon
from sequence.kernel.event import Event
from sequence.kernel.process import Process
from sequence.kernel.timeline import Timeline
from sequence.topology.node import Node
from sequence.utils.encoding import polarization

from caligo.physics import detection
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Int8Array, Link, Segment

GATE: Final = 10_000
"""Picoseconds; photons arrive in the middle."""
_FIBRE: Final = 1_000.0
"""Metres."""
_OPAQUE: Final = 1e-30
"""In the place of no transmittance, which has no decibels."""
_AT_ONCE: Final = 1e12
"""Counts a second of a detector that recovers within a picosecond."""


class SequenceSource:
    """Rounds of SeQUeNCe's components; those of a tile follow from (link, bob, key, tile)."""

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        if start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        for first in range(0, segment.bob_click.size, TILE):
            tile = Segment(*(array[first : first + TILE] for array in segment))
            _fill_tile(tile, link, bob, np.random.SeedSequence(key, spawn_key=((start + first) // TILE,)))


def _fill_tile(tile: Segment, link: Link, bob: BobBases, seed: np.random.SeedSequence) -> None:
    rounds = tile.bob_click.size
    ours, *theirs = seed.spawn(3)
    # A row a round, so that a tile that is cut short begins like a whole one.
    coins = np.random.Generator(np.random.Philox(ours)).random((rounds, 5)) < 0.5
    bit, alice_basis, own, coin, side = coins.T.astype(np.int8)
    tile.alice_bit[:], tile.alice_basis[:] = bit, alice_basis
    tile.bob_basis[:] = bob.choose(0, own)  # slots lie alike in every tile

    timeline = Timeline()
    alice, receiver_node = (
        Node(name, timeline, seed=int(child.generate_state(1, np.uint64)[0] >> 1))
        for name, child in zip(("alice", "bob"), theirs, strict=True)
    )
    transmittance = math.sqrt(max(link.efficiency, _OPAQUE))
    weight = 1.0 - 2.0 * detection.qber(link.fidelity, 1.0, 0.0, 0.0, link.convention)
    fibre = QuantumChannel("fibre", timeline, -10.0 * math.log10(transmittance) / _FIBRE, _FIBRE, weight)
    fibre.set_ends(alice, receiver_node.name)
    fibre.owner = alice  # else it draws from a generator without a seed
    receiver = QSDetectorPolarization("receiver", timeline)
    for number in range(2):
        rate = -math.log1p(-link.dark_count_prob) / (GATE * 1e-12)
        receiver.set_detector(number, transmittance, rate, count_rate=_AT_ONCE, time_resolution=1)
    receiver_node.add_component(receiver)  # before `init`, else its draws have no seed either
    receiver_node.set_first_component(receiver.name)
    timeline.init()
    opening = fibre.delay
    receiver.set_basis_list(tile.bob_basis.tolist(), opening, 1e12 / GATE)
    emitter = _Emitter(
        timeline, alice, receiver_node.name, link.detector_error, bit.tolist(), alice_basis.tolist(), side.tolist()
    )
    emitter.schedule()
    timeline.stop_time = opening + rounds * GATE
    timeline.run()
    tile.bob_click[:] = _clicks(receiver.get_photon_times(), opening, coin)


class _Emitter:
    """Sends one photon a gate; schedules the next when it has sent one, so that few events wait at a time."""

    def __init__(
        self, timeline: Any, node: Any, to: str, wrong_port: float, bits: list[int], bases: list[int], sides: list[int]
    ) -> None:
        self._timeline, self._node, self._to = timeline, node, to
        self._bits, self._bases, self._sides = bits, bases, sides
        self._number = 0
        turn = math.asin(math.sqrt(wrong_port))
        self._states = [
            [[_turned(state, angle) for angle in (turn, -turn)] for state in polarization["bases"][basis]]
            for basis in range(2)
        ]

    def schedule(self) -> None:
        if self._number < len(self._bits):
            time = self._number * GATE + GATE // 2
            self._timeline.schedule(Event(time, Process(self, "emit", [])))

    def emit(self) -> None:
        """Called by the timeline."""
        number = self._number
        state = self._states[self._bases[number]][self._bits[number]][self._sides[number]]
        self._node.send_qubit(self._to, Photon(str(number), self._timeline, quantum_state=state))
        self._number += 1
        self.schedule()


def _turned(state: tuple[complex, complex], angle: float) -> tuple[complex, complex]:
    x, y = (amplitude.real for amplitude in state)
    cosine, sine = math.cos(angle), math.sin(angle)
    return complex(x * cosine - y * sine), complex(x * sine + y * cosine)


def _clicks(times: list[list[int]], opening: int, coin: Int8Array) -> Int8Array:
    """What Bob reads of two detectors' times in picoseconds, int8 of the shape of `coin` [n]."""
    fired: NDArray[np.bool_] = np.zeros((2, coin.size), np.bool_)
    for detector, seen in zip(fired, times, strict=True):
        gates = (np.array(seen, np.int64) - opening) // GATE
        detector[gates[(gates >= 0) & (gates < coin.size)]] = True
    either = np.where(fired.any(axis=0), fired[1], NO_CLICK)
    return np.where(fired.all(axis=0), coin, either).astype(np.int8)
