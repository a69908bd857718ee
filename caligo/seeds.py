"""The seed tree: campaign seed -> phase -> sample index -> purpose.

Every random number of the system comes from a leaf of this tree, so a result depends on the campaign's spec and the
sample's index, never on which worker, replica or attempt computed it. Leaves are independent streams by the
construction of `numpy.random.SeedSequence`.
"""

from __future__ import annotations

import enum

import numpy as np

from caligo.phases import Phase


class Purpose(enum.IntEnum):
    """Last branch: what the numbers are for. Never renumber: campaigns would change."""

    DESIGN = 1
    """The Latin hypercube (index: number of the design)."""
    QUANTUM = 2
    """Bits, bases and clicks of a sample."""
    PROTOCOL = 3
    """Bob's choice, his private bits where he could not correct, and which rounds of a long run are held."""
    RECONCILIATION = 4
    """Alice's private bits on punctured positions, verification hash."""
    AMPLIFICATION = 5
    """Toeplitz seeds."""
    TRAINING = 6
    """Guardrail (index: number of the batch)."""
    ACQUISITION = 7
    """Start points and base samples of a proposal (index: number of the batch)."""
    AUDIT = 8
    """Which rows are simulated though the guardrail would skip them (index: block of rows)."""
    EXTRAPOLATION = 9
    """Failed frames among those that were not decoded."""
    PERMUTATION = 10
    """Alice's public permutation of the two strings."""
    HOLD_OUT = 11
    """Which rows a fit is validated on."""
    PROBES = 12
    """Probe vectors of log determinants."""
    TRAINING_ROWS = 13
    """Which of many rows hyper-parameters are learned from."""
    LANDMARKS = 14
    """Rows of the Nystrom preconditioner."""
    FOLDS = 15
    """Which rows are foretold together in a cross-validation."""
    BOUNDARY = 16
    """Points that tell how much of the boundary still moves."""
    VOLUME = 17
    """Points of the secure share."""
    SURFACES = 18
    """Posterior samples for its uncertainty."""
    DISCREPANCY = 19
    """Points, signs and posterior samples of what a device differs by from the closed form (index: which of these)."""
    RELEVANCE = 20
    """Points of the Sobol indices (index: number of the set)."""


def sequence(seed: int, phase: Phase, index: int, purpose: Purpose) -> np.random.SeedSequence:
    """The leaf of the tree at (phase, index, purpose); `seed` is 0 to 2^64 - 1, `index` not negative."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(int(phase), int(index), int(purpose)))


def generator(seed: int, phase: Phase, index: int, purpose: Purpose) -> np.random.Generator:
    """A counter-based generator (Philox) at a leaf."""
    return np.random.Generator(np.random.Philox(sequence(seed, phase, index, purpose)))


def key(seed: int, phase: Phase, index: int, purpose: Purpose) -> int:
    """64 bits at a leaf, for kernels with a counter-based generator of their own."""
    return int(sequence(seed, phase, index, purpose).generate_state(1, np.uint64)[0])
