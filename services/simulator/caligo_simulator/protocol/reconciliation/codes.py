"""The pool of mother codes: data files, checked when they are loaded.

A code is a sparse parity-check matrix with a division of its n positions. A tenth of them are modulated
(physics: delta = 0.1), the rest carry the frame. Of the modulated ones, the first `punctured` of `modulated`
form an untainted puncturing pattern (`puncturing`): they may hold Alice's private random bits. All others are
shortened: their values are public.

Files: `data/ldpc_<n>_<percent>.npz` with `check_degrees` uint8 (m,), `check_variables` uint16 or uint32
(edges,), grouped by check, and `modulated` uint16 or uint32. `data/manifest.json` holds their SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from caligo.errors import InternalError

DATA = Path(__file__).parent / "data"
FRAME_SIZES = (4096, 65536)
RATES = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.95)
MODULATED_FRACTION = 0.1


class CodeFileError(InternalError):
    """A data file of the pool is missing or is not the one that the manifest describes."""


def modulated_bits(n: int) -> int:
    """Positions of a frame of n that are punctured or shortened."""
    return round(MODULATED_FRACTION * n)


def payload_bits(n: int) -> int:
    """Positions of a frame of n that carry sifted bits."""
    return n - modulated_bits(n)


@njit(nogil=True, cache=True)
def _syndromes(
    check_start: NDArray[np.int32], check_variables: NDArray[np.int32], words: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    result = np.empty((words.shape[0], check_start.size - 1), np.uint8)
    for i in range(words.shape[0]):
        for c in range(result.shape[1]):
            parity = np.uint8(0)
            for e in range(check_start[c], check_start[c + 1]):
                parity ^= words[i, check_variables[e]]
            result[i, c] = parity
    return result


@dataclass(frozen=True, eq=False)
class Code:
    """A binary parity-check matrix of m rows and n columns.

    check_start int32 (m + 1,) and check_variables int32 (edges,): the columns of row c are
    check_variables[check_start[c] : check_start[c + 1]].
    modulated int32: positions that do not carry payload; the first `punctured` of them, in this order, are
    an untainted pattern, so that any leading part of it is one as well.
    """

    n: int
    check_start: NDArray[np.int32]
    check_variables: NDArray[np.int32]
    modulated: NDArray[np.int32]
    punctured: int

    @property
    def m(self) -> int:
        """Length of a syndrome."""
        return self.check_start.size - 1

    @property
    def rate(self) -> float:
        return 1.0 - self.m / self.n

    @property
    def payload(self) -> NDArray[np.int64]:
        """Positions that carry the frame, ascending."""
        carries = np.ones(self.n, np.bool_)
        carries[self.modulated] = False
        return np.flatnonzero(carries)

    def syndromes(self, words: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H x for each row of `words`, uint8 (frames, n) of 0/1; uint8 (frames, m)."""
        return _syndromes(self.check_start, self.check_variables, words)


def name(n: int, rate: float) -> str:
    return f"ldpc_{n}_{round(100 * rate)}"


def pack(code: Code) -> bytes:
    """The bytes of a data file, the same for the same code."""
    index = np.uint16 if code.n <= 1 << 16 else np.uint32
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        check_degrees=np.diff(code.check_start).astype(np.uint8),
        check_variables=code.check_variables.astype(index),
        modulated=code.modulated.astype(index),
    )
    return buffer.getvalue()


@cache
def manifest(directory: Path = DATA) -> dict[str, Any]:
    """What `tools.codes.build` wrote about the pool, by name of the code."""
    try:
        return json.loads((directory / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CodeFileError(f"code manifest in {directory}: {error}") from error


@cache
def load(n: int, rate: float, directory: Path = DATA) -> Code:
    """The mother code of length n and this rate. Raises CodeFileError if the file is missing or altered."""
    entry = manifest(directory).get(name(n, rate))
    if entry is None:
        raise CodeFileError(f"no code of length {n} and rate {rate} in {directory}")
    path = directory / f"{name(n, rate)}.npz"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CodeFileError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise CodeFileError(f"{path}: checksum differs from the manifest's")
    with np.load(io.BytesIO(content)) as file:
        degrees = file["check_degrees"]
        check_start = np.zeros(degrees.size + 1, np.int32)
        np.cumsum(degrees, out=check_start[1:])
        return Code(
            n=n,
            check_start=check_start,
            check_variables=file["check_variables"].astype(np.int32),
            modulated=file["modulated"].astype(np.int32),
            punctured=entry["punctured"],
        )
