"""A source of rounds of one's own; `caligo check source example` says whether it is one. Replace `rounds_of`."""

import numpy as np

NO_CLICK = 2
TILE = 2**16  # segments begin at multiples of it


class ExampleSource:
    """Made in each worker process, without arguments."""

    def fill(self, segment, link, bob, key, start):
        """Write rounds `start`, `start + 1`, ... into four int8 arrays, as a function of (link, bob, key, round) alone.

        segment: alice_bit, alice_basis, bob_basis, bob_click (0, 1, or 2 where nothing clicked). link: fidelity,
        efficiency, detector_error, dark_count_prob, and what follows from them. bob.choose: his bases.
        """
        if start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        for first in range(0, segment.bob_click.size, TILE):  # a generator a tile: any tile can be made alone
            tile = [array[first : first + TILE] for array in segment]
            seed = np.random.SeedSequence(key, spawn_key=((start + first) // TILE,))
            rounds_of(tile, link, bob, np.random.default_rng(seed))


def rounds_of(tile, link, bob, random):
    """One tile; a row of random numbers a round, so that a tile that is cut short begins like a whole one."""
    alice_bit, alice_basis, bob_basis, bob_click = tile
    uniform = random.random((alice_bit.size, 5))
    alice_bit[:], alice_basis[:], own = (uniform[:, j] < 0.5 for j in range(3))
    bob_basis[:] = bob.choose(0, own.astype(np.int8))
    wrong = uniform[:, 3] < np.where(alice_basis == bob_basis, link.qber(), 0.5)
    clicks = uniform[:, 4] < link.click_probability()
    bob_click[:] = np.where(clicks, alice_bit ^ wrong, NO_CLICK)
