"""Rounds made by NetSquid, pair by pair (Coopmans et al., Communications Physics 4, 164 (2021)).

NetSquid holds every pair as a density matrix, loses Bob's half in a fibre and measures what there is; its noise model
makes the Werner state. What only the detectors do is classical and drawn here: the port that a photon takes, dark
counts, and the coin that settles a double click. NetSquid's event engine has no part in this, for the rounds are
independent and nothing depends on when they happen.

The cost is several calls into NetSquid a round, whatever the click rate.
"""

from __future__ import annotations

from typing import Final

import netsquid as ns
import numpy as np
from netsquid.components.models import FibreLossModel
from netsquid.qubits import qubitapi
from numpy.typing import NDArray

from caligo.physics import detection
from caligo_simulator.epr.source import NO_CLICK, TILE, BobBases, Int8Array, Link, Segment

_LOST: Final = 2
"""In the place of Bob's outcome where his photon is lost."""


class NetSquidSource:
    """Every round from NetSquid's own qubits; the rounds of a tile follow from (key, tile)."""

    def fill(self, segment: Segment, link: Link, bob: BobBases, key: int, start: int) -> None:
        if start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        ns.set_qstate_formalism(ns.QFormalism.DM)
        state = pair_state(link)
        for first in range(0, segment.bob_click.size, TILE):
            tile = Segment(*(array[first : first + TILE] for array in segment))
            _fill_tile(tile, link, bob, state, np.random.SeedSequence(key, spawn_key=((start + first) // TILE,)))


def pair_state(link: Link) -> NDArray[np.complex128]:
    """Density matrix of a pair, complex128 [4, 4], Alice's qubit first: Phi+ of which Bob's half is depolarised."""
    pair = qubitapi.create_qubits(2, no_state=True)
    qubitapi.assign_qstate(pair, ns.b00)
    # A fully depolarised half errs in one round of two, in every basis.
    qubitapi.depolarize(pair[1], prob=2.0 * detection.qber(link.fidelity, 1.0, 0.0, 0.0, link.convention))
    return np.array(qubitapi.reduced_dm(pair))


def _fill_tile(
    tile: Segment, link: Link, bob: BobBases, state: NDArray[np.complex128], seed: np.random.SeedSequence
) -> None:
    ours, theirs = seed.spawn(2)
    # A row a round, so that a tile that is cut short begins like a whole one.
    uniform = np.random.Generator(np.random.Philox(ours)).random((tile.bob_click.size, 6))
    tile.alice_basis[:], own, coin = (uniform[:, j] < 0.5 for j in range(3))
    tile.bob_basis[:] = bob.choose(0, own.astype(np.int8))  # slots lie alike in every tile
    wrong_port = uniform[:, 3] < link.detector_error
    dark = uniform[:, 4:] < link.dark_count_prob

    outcome = _measure_pairs(tile, link.efficiency, state, np.random.RandomState(np.random.MT19937(theirs)))
    port = np.where(outcome == _LOST, _LOST, outcome ^ wrong_port)
    fires = dark | (port[:, np.newaxis] == [0, 1])
    tile.bob_click[:] = np.where(fires.all(axis=1), coin, np.where(fires.any(axis=1), fires[:, 1], NO_CLICK))


def _measure_pairs(
    tile: Segment, efficiency: float, state: NDArray[np.complex128], random: np.random.RandomState
) -> Int8Array:
    """Alice's bits, into the tile, and what Bob's photons show, 0, 1 or `_LOST`, int8 [n]."""
    ns.set_random_state(rng=random)
    fibre = FibreLossModel(p_loss_init=1.0 - efficiency, p_loss_length=0.0, rng=random)
    observables = (ns.Z, ns.X)
    outcome = np.full(tile.bob_click.size, _LOST, np.int8)
    for i, (alice_basis, bob_basis) in enumerate(zip(tile.alice_basis.tolist(), tile.bob_basis.tolist(), strict=True)):
        alice, bob = qubitapi.create_qubits(2, no_state=True)
        qubitapi.assign_qstate([alice, bob], state)
        arriving = [bob]
        fibre.error_operation(arriving, length=0.0)
        tile.alice_bit[i], _ = qubitapi.measure(alice, observable=observables[alice_basis], discard=True)
        if arriving[0] is not None:
            outcome[i], _ = qubitapi.measure(bob, observable=observables[bob_basis], discard=True)
    return outcome
