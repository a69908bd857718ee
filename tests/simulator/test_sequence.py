"""The same links in SeQUeNCe, a discrete-event simulator of others (Wu et al., Quantum Sci. Technol. 6, 045027, 2021).

Its photons, fibre, polarising beam splitter and detectors stand for the link as follows.

- Pair: Alice measures her half without fault, so Bob's photon leaves in the BB84 state of her bit. One photon a gate:
  SeQUeNCe's sources are Poissonian, the rounds of the model are those with a pair. White noise of weight 1 - w is the
  fibre's `polarization_fidelity` w: any other photon is given a random linear polarisation.
- Loss: half of it, in decibels, in the fibre's attenuation, half in the efficiency of the detectors.
- Detector error e: a misaligned frame, both bases turned by the angle whose squared sine is e.
- Dark counts: a Poisson process of rate -ln(1 - d) a gate in each detector.
- A double click is read as a fair coin; SeQUeNCe leaves that to whoever reads the detectors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from caligo_simulator.epr.source import NO_CLICK, BobBases, Int8Array, Link, Segment, make_source, segment_bytes

from caligo import seeds
from caligo.phases import Phase
from caligo.physics import detection
from caligo.seeds import Purpose

pytest.importorskip("sequence", reason="SeQUeNCe is not installed")

from sequence.components.detector import QSDetectorPolarization
from sequence.components.optical_channel import QuantumChannel
from sequence.components.photon import Photon
from sequence.kernel.event import Event
from sequence.kernel.process import Process
from sequence.kernel.timeline import Timeline
from sequence.topology.node import Node
from sequence.utils.encoding import polarization

ROUNDS = 50_000
GATE = 10_000
"""Picoseconds; photons arrive in the middle."""
FIBRE = 1_000.0
"""Metres."""

LINKS = {
    "good": Link(0.99, 0.9, 0.01, 1e-6, "fidelity"),
    "noisy": Link(0.9, 0.5, 0.05, 1e-3, "weight"),
    "double": Link(0.97, 0.8, 0.02, 0.1, "fidelity"),
    "dark": Link(0.99, 0.05, 0.005, 1e-2, "fidelity"),
    "lossy": Link(0.85, 0.15, 0.0, 5e-3, "fidelity"),
}


def in_sequence(link: Link, rng: np.random.Generator) -> Segment:
    """`ROUNDS` rounds over SeQUeNCe's components."""
    bit, alice_basis, bob_basis = rng.integers(0, 2, (3, ROUNDS))
    timeline = Timeline()
    alice, bob = (Node(name, timeline, seed=int(rng.integers(2**62))) for name in ("alice", "bob"))

    transmittance = math.sqrt(link.efficiency)
    weight = 1.0 - 2.0 * detection.qber(link.fidelity, 1.0, 0.0, 0.0, link.convention)
    fibre = QuantumChannel("fibre", timeline, -10.0 * math.log10(transmittance) / FIBRE, FIBRE, weight)
    fibre.set_ends(alice, bob.name)
    fibre.owner = alice  # else it draws from a generator without a seed

    receiver = QSDetectorPolarization("receiver", timeline)
    for number in range(2):
        rate = -math.log1p(-link.dark_count_prob) / (GATE * 1e-12)
        receiver.set_detector(number, transmittance, rate, count_rate=1e12, time_resolution=1)
    bob.add_component(receiver)
    bob.set_first_component(receiver.name)
    timeline.init()
    opening = fibre.delay
    receiver.set_basis_list(bob_basis, opening, 1e12 / GATE)

    angle = math.asin(math.sqrt(link.detector_error))
    for number in range(ROUNDS):
        x, y = (amplitude.real for amplitude in polarization["bases"][alice_basis[number]][bit[number]])
        state = (
            complex(x * math.cos(angle) - y * math.sin(angle)),
            complex(x * math.sin(angle) + y * math.cos(angle)),
        )
        photon = Photon(str(number), timeline, quantum_state=state)
        timeline.schedule(Event(number * GATE + GATE // 2, Process(alice, "send_qubit", [bob.name, photon])))
    timeline.stop_time = opening + ROUNDS * GATE
    timeline.run()

    fired = np.zeros((2, ROUNDS), bool)
    for detector, times in zip(fired, receiver.get_photon_times(), strict=True):
        gates = (np.array(times, np.int64) - opening) // GATE
        detector[gates[gates >= 0]] = True
    coin = rng.integers(0, 2, ROUNDS)
    click = np.where(fired.all(axis=0), coin, np.where(fired.any(axis=0), fired[1], NO_CLICK))
    return Segment(*(array.astype(np.int8) for array in (bit, alice_basis, bob_basis, click)))


def counts(segment: Segment) -> dict[str, tuple[int, int]]:
    """Successes and trials: clicks of all rounds, errors of the clicked rounds in Z, in X and in unequal bases."""

    def errors(chosen: Int8Array) -> tuple[int, int]:
        chosen = chosen & clicked
        return int((segment.alice_bit != segment.bob_click)[chosen].sum()), int(chosen.sum())

    clicked = segment.bob_click != NO_CLICK
    equal = segment.alice_basis == segment.bob_basis
    return {
        "click": (int(clicked.sum()), clicked.size),
        "Z": errors(equal & (segment.bob_basis == 0)),
        "X": errors(equal & (segment.bob_basis == 1)),
        "unequal": errors(~equal),
    }


@pytest.mark.parametrize("name", LINKS)
def test_sequence_agrees(name: str) -> None:
    """Click rate and error rates of SeQUeNCe, of the statistical source and of the closed form."""
    link, number = LINKS[name], list(LINKS).index(name)
    theirs = counts(in_sequence(link, seeds.generator(11, Phase.LHS, number, Purpose.QUANTUM)))

    segment = Segment.over(np.empty(segment_bytes(2**20), np.uint8), 2**20)
    make_source("statistical").fill(
        segment, link, BobBases(None, 0), seeds.key(11, Phase.LHS, number, Purpose.QUANTUM), 0
    )
    ours = counts(segment)

    expected = {"click": link.click_probability(), "Z": link.qber(), "X": link.qber(), "unequal": 0.5}
    for what, p in expected.items():
        (k, n), (k_ours, n_ours) = theirs[what], ours[what]
        assert n > 100
        variance = p * (1 - p)
        assert abs(k - n * p) < 4 * math.sqrt(n * variance), what
        assert abs(k / n - k_ours / n_ours) < 4 * math.sqrt(variance * (1 / n + 1 / n_ours)), what
