"""Makes the pool: `python -m caligo_simulator.protocol.reconciliation.build_codes [--frame-size N]`.

Progressive edge growth, then an untainted puncturing pattern, then data files and manifest. The same
distributions and seed give the same files, byte for byte, with the same zlib.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import codes, peg
from .codes import Code
from .distributions import variable_distribution
from .puncturing import untainted_pattern

SEED = 20260
SEARCH_DEPTH = {4096: 20, 65536: 3}
"""Levels of the progressive edge growth's search; cycles shorter than 2 depth + 4 are avoided where possible."""


def rank(code: Code) -> int:
    """Rank of the parity-check matrix over GF(2), by elimination on packed rows."""
    rows = np.zeros((code.m, code.n), np.uint8)
    rows[np.repeat(np.arange(code.m), np.diff(code.check_start)), code.check_variables] = 1
    packed = np.packbits(rows, axis=1)
    found = 0
    for column in range(code.n):
        byte, bit = divmod(column, 8)
        has = (packed[found:, byte] >> (7 - bit)) & 1
        pivots = np.flatnonzero(has)
        if pivots.size == 0:
            continue
        packed[[found, found + pivots[0]]] = packed[[found + pivots[0], found]]
        others = found + pivots[1:]
        packed[others] ^= packed[found]
        found += 1
        if found == code.m:
            break
    return found


def grow(n: int, rate: float, distribution: dict[int, float], seed: int, depth: int) -> Code:
    """A code of length n without division into payload and modulated positions."""
    m = round(n * (1.0 - rate))
    degrees = peg.node_degrees(distribution, n)
    edges = int(degrees.sum())
    targets = np.full(m, edges // m, np.int32)
    targets[: edges % m] += 1
    variables, checks = peg.grow(degrees, targets, depth, np.random.Generator(np.random.Philox(seed)))
    start = np.zeros(m + 1, np.int32)
    np.cumsum(np.bincount(checks, minlength=m), out=start[1:])
    nothing: NDArray[np.int32] = np.zeros(0, np.int32)
    return Code(n, start, variables[np.argsort(checks, kind="stable")], nothing, 0)


def divide(code: Code, seed: int) -> Code:
    """The same matrix with a tenth of its positions modulated: an untainted pattern first, then random ones."""
    count = codes.modulated_bits(code.n)
    rng = np.random.Generator(np.random.Philox(seed))
    pattern = untainted_pattern(code.n, code.check_start, code.check_variables, rng)[:count]
    others = np.setdiff1d(np.arange(code.n, dtype=np.int32), pattern)
    shortened = rng.choice(others, count - pattern.size, replace=False)
    modulated = np.concatenate([pattern, shortened]).astype(np.int32)
    return Code(code.n, code.check_start, code.check_variables, modulated, pattern.size)


def without_short_cycles(n: int, rate: float) -> tuple[int, Code]:
    """The first seed, and its code, for which no two checks share two variables (girth above 4)."""
    for seed in range(SEED + round(100 * rate), SEED + round(100 * rate) + 100_000, 1000):
        code = grow(n, rate, variable_distribution(n, rate), seed, SEARCH_DEPTH[n])
        checks = np.repeat(np.arange(code.m, dtype=np.int32), np.diff(code.check_start))
        if peg.four_cycles(code.check_variables, checks, n, code.m) == 0:
            return seed, divide(code, seed)
    raise RuntimeError(f"{codes.name(n, rate)}: its distribution has too many edges for girth 6")


def build(n: int, directory: Path) -> None:
    """Write the data files of frame size n and their entries in the manifest."""
    path = directory / "manifest.json"
    entries = json.loads(path.read_bytes()) if path.exists() else {}
    for rate in codes.RATES:
        seed, code = without_short_cycles(n, rate)
        content = codes.pack(code)
        name = codes.name(n, rate)
        (directory / f"{name}.npz").write_bytes(content)
        entries[name] = {
            "n": n,
            "m": code.m,
            "rank": rank(code),
            "edges": int(code.check_variables.size),
            "punctured": code.punctured,
            "seed": seed,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        print(name, entries[name], f"{len(content)} bytes", flush=True)
        path.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame-size", type=int, choices=sorted(SEARCH_DEPTH), default=4096)
    parser.add_argument("--directory", type=Path, default=codes.DATA)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    build(arguments.frame_size, arguments.directory)


if __name__ == "__main__":
    main()
