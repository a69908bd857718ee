"""Makes the pool: `python -m tools.codes.build [--frame-size N] [--rate R]`.

Progressive edge growth, first for the modulated positions, then for the payload's, then data files and manifest. The
same distributions and seed give the same files, byte for byte, with the same zlib.

The modulated positions have degree 3. Growth gives the first of them checks of their own, so that they are an
untainted pattern without a search; and as no modulated position takes part in the payload's degree distribution, the
payload keeps its own however many of them are punctured. Nor do they count when the payload's edges are shared out: a
check with a modulated position would get fewer of degree 2, the others more, and where some are punctured and some
shortened the parts of such a code would have different thresholds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from caligo_simulator.protocol.reconciliation import codes
from caligo_simulator.protocol.reconciliation.codes import Code
from caligo_simulator.protocol.reconciliation.puncturing import untainted_prefix
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from tools.codes import peg
from tools.codes.distributions import payload_distribution

SEED = 20260
SEARCH_DEPTH = {4096: 20, 65536: 1}
"""Levels of the progressive edge growth's search; cycles shorter than 2 depth + 4 are avoided where possible."""
DEEP_DEGREE = {4096: 2, 65536: 8}
"""Degree up to which the search has no end."""
SHORT = 4096
"""Up to here distributions are searched by frame error rate, which knows about cycles."""
MODULATED_DEGREE = 3
"""Where punctured positions have degree 2, every two of their checks act as one: that cost 0.2 to 0.7 in f; with
degree 4 or more, fewer can be punctured."""


def rank(code: Code) -> int:
    """Rank of the parity-check matrix over GF(2).

    Modulo a column with two ones, its two rows are the same one. What is left once the rows are joined in this way is
    eliminated densely, on packed rows.
    """
    checks = np.repeat(np.arange(code.m), np.diff(code.check_start))
    by_variable = np.argsort(code.check_variables, kind="stable")
    degree = np.bincount(code.check_variables, minlength=code.n)
    ends = checks[by_variable][degree[code.check_variables[by_variable]] == 2]
    joins = sparse.coo_array((np.ones(ends.size // 2), (ends[::2], ends[1::2])), shape=(code.m, code.m))
    count, joined = connected_components(joins, directed=False)
    rows = np.zeros((count, code.n), np.uint8)
    np.add.at(rows, (joined[checks], code.check_variables), 1)
    packed = np.packbits(rows & 1, axis=1)
    found = 0
    for column in range(code.n):
        byte, bit = divmod(column, 8)
        has = (packed[found:, byte] >> (7 - bit)) & 1
        pivots = np.flatnonzero(has)
        if pivots.size == 0:
            continue
        packed[[found, found + pivots[0]]] = packed[[found + pivots[0], found]]
        others = found + pivots[1:]
        packed[others, byte:] ^= packed[found, byte:]
        found += 1
        if found == count:
            break
    return code.m - count + found


def grow(
    n: int, rate: float, degrees: NDArray[np.int32], seed: int, depth: int, deep_degree: int = 3, modulated: int = 0
) -> Code:
    """A code whose variables have these degrees, int32 [n], grown in this order; no position is modulated yet."""
    m = round(n * (1.0 - rate))
    # The same for all: the first checks to be filled would get more of the low degrees, which come first.
    targets = np.full(m, -(-int(degrees.sum()) // m), np.int32)
    rng = np.random.Generator(np.random.Philox(seed))
    variables, checks = peg.grow(degrees, targets, depth, rng, deep_degree, modulated)
    start = np.zeros(m + 1, np.int32)
    np.cumsum(np.bincount(checks, minlength=m), out=start[1:])
    nothing: NDArray[np.int32] = np.zeros(0, np.int32)
    return Code(n, start, variables[np.argsort(checks, kind="stable")], nothing, 0)


def payload_degrees(n: int, rate: float, distribution: dict[int, float]) -> NDArray[np.int32]:
    """Ascending degrees of the payload's variables, int32.

    In a long code at most m - 1 of them are 2, the others get a third edge: any m variables of degree 2 close a cycle
    among m checks, and a cycle is a code word of few bits.
    """
    degrees = peg.node_degrees(distribution, codes.payload_bits(n))
    excess = np.count_nonzero(degrees == 2) - (round(n * (1.0 - rate)) - 1)
    if n > SHORT and excess > 0:
        degrees[:excess] = 3
        degrees.sort()
    return degrees


def mother_code(n: int, rate: float, distribution: dict[int, float], seed: int) -> Code:
    """A code of the pool: its first positions are modulated, the others carry payload and have this distribution."""
    modulated = codes.modulated_bits(n)
    payload = payload_degrees(n, rate, distribution)
    degrees = np.concatenate([np.full(modulated, MODULATED_DEGREE, np.int32), payload])
    code = grow(n, rate, degrees, seed, SEARCH_DEPTH[n], DEEP_DEGREE[n], modulated)
    positions = np.arange(modulated, dtype=np.int32)
    return Code(n, code.check_start, code.check_variables, positions, untainted_prefix(code, positions))


def build(n: int, rates: Sequence[float], directory: Path) -> None:
    """Write the data files of frame size n and these rates, and their entries in the manifest."""
    path = directory / "manifest.json"
    for rate in rates:
        seed = SEED + round(100 * rate)
        code = mother_code(n, rate, payload_distribution(n, rate), seed)
        content = codes.pack(code)
        name = codes.name(n, rate)
        (directory / f"{name}.npz").write_bytes(content)
        entries = json.loads(path.read_bytes()) if path.exists() else {}
        entries[name] = {
            "n": n,
            "m": code.m,
            "rank": rank(code),
            "edges": int(code.check_variables.size),
            "four_cycles": peg.four_cycles(
                code.check_variables, np.repeat(np.arange(code.m, dtype=np.int32), np.diff(code.check_start)), n, code.m
            ),
            "punctured": code.punctured,
            "seed": seed,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        print(name, entries[name], f"{len(content)} bytes", flush=True)
        path.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame-size", type=int, choices=sorted(SEARCH_DEPTH), default=4096)
    parser.add_argument("--rate", type=float, choices=codes.RATES, nargs="*", default=codes.RATES)
    parser.add_argument("--directory", type=Path, default=codes.DATA)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    build(arguments.frame_size, arguments.rate, arguments.directory)


if __name__ == "__main__":
    main()
