"""Untainted puncturing: Elkouss, Martinez-Mateo, Martin, IEEE Wireless Communications Letters 1 (2012) 585.

No check sees two punctured variables, so every punctured variable is recovered in the first iteration by any
one of its checks, and the punctured columns of H are linearly independent: p of the syndrome's bits are
masked by Alice's p private bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .codes import Code


@njit(cache=True)
def _neighbours_of_neighbours(
    v: int,
    variable_start: NDArray[np.int64],
    variable_checks: NDArray[np.int32],
    check_start: NDArray[np.int32],
    check_variables: NDArray[np.int32],
    seen: NDArray[np.int64],
    stamp: int,
    found: NDArray[np.int64],
) -> int:
    count = 0
    for i in range(variable_start[v], variable_start[v + 1]):
        c = variable_checks[i]
        for e in range(check_start[c], check_start[c + 1]):
            w = check_variables[e]
            if seen[w] != stamp:
                seen[w] = stamp
                found[count] = w
                count += 1
    return count


@njit(cache=True)
def _untainted(
    variable_start: NDArray[np.int64],
    variable_checks: NDArray[np.int32],
    check_start: NDArray[np.int32],
    check_variables: NDArray[np.int32],
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    n = variable_start.size - 1
    seen = np.full(n, -1, np.int64)
    found = np.empty(n, np.int64)
    size = np.empty(n, np.int64)
    for v in range(n):
        size[v] = _neighbours_of_neighbours(
            v, variable_start, variable_checks, check_start, check_variables, seen, v, found
        )
    untainted = np.ones(n, np.bool_)
    chosen = np.empty(n, np.int32)
    count = 0
    while True:
        best = -1
        ties = 0
        for v in range(n):
            if not untainted[v]:
                continue
            if best < 0 or size[v] < size[best]:
                best = v
                ties = 1
            elif size[v] == size[best]:
                ties += 1
                if rng.integers(0, ties) == 0:
                    best = v
        if best < 0:
            return chosen[:count].copy()
        chosen[count] = best
        count += 1
        neighbours = _neighbours_of_neighbours(
            best, variable_start, variable_checks, check_start, check_variables, seen, n + count, found
        )
        for i in range(neighbours):
            untainted[found[i]] = False


def untainted_pattern(
    n: int, check_start: NDArray[np.int32], check_variables: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Positions in the order in which they are punctured, int32; no more can be added.

    At each step, of the variables that share no check with a punctured one, one with the fewest variables at
    distance two is taken, ties at random by `rng`.
    """
    checks = np.repeat(np.arange(check_start.size - 1, dtype=np.int32), np.diff(check_start))
    by_variable = np.argsort(check_variables, kind="stable")
    variable_start = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(check_variables, minlength=n), out=variable_start[1:])
    return _untainted(variable_start, checks[by_variable], check_start, check_variables, rng)


def untainted_prefix(code: Code, positions: NDArray[np.int32]) -> int:
    """How many of these variables, from the first, are an untainted pattern."""
    place = np.full(code.n, positions.size)
    place[positions] = np.arange(positions.size)
    tainted = positions.size
    for check in np.split(place[code.check_variables], code.check_start[1:-1]):
        # Of the variables that a check sees, the second one of the list is one too many.
        tainted = min(tainted, *np.sort(check)[1:2].tolist(), positions.size)
    return tainted
