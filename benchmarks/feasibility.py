"""The feasibility kernel against the same closed form in NumPy float32, and against the memory bandwidth.

Both get the same float32 [n, 9] in model coordinates and take turns, so each ratio is a median over pairs measured
next to each other. NumPy reads strided columns, which is faster for it than transposing first. The bandwidth is that
of a copy, bytes read and written, by the same threads in the same run; the kernel's is the bytes of the rows it reads
and the margins it writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
from caligo_sampler.design import LHSSampler
from caligo_sampler.feasibility import check_feasibility
from numba import njit, prange
from numpy.typing import NDArray

from caligo.physics.vectorized import feasibility_margin_float32
from caligo.space import LOG_COLUMNS, PRESETS, Space
from caligo.spec import PhysicsSpec

PAIRS = {100_000: 31, 10_000_000: 5}
"""Rows: pairs of measurements."""
AIM_SECONDS = 0.5e-3
"""For 10^5 rows."""
COPY_BYTES = 256 * 2**20


@njit(parallel=True, nogil=True)
def copy(source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    for i in prange(source.size):
        target[i] = source[i]


def numpy_margins(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Margins of rows in model coordinates, float32 [n, 9]."""
    physical = [np.float32(10.0) ** c if j in LOG_COLUMNS else c for j, c in enumerate(inputs.T[:7])]
    return feasibility_margin_float32(*physical)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bandwidth() -> float:
    """Bytes a second read and written by a copy, median of five."""
    source = np.ones(COPY_BYTES // 4, dtype=np.float32)
    target = np.empty_like(source)
    copy(source, target)
    return 2 * COPY_BYTES / statistics.median(seconds(lambda: copy(source, target)) for _ in range(5))


def measure(rows: int, pairs: int) -> dict[str, float]:
    _, inputs = LHSSampler(Space(PRESETS["cliff"]), 1, rows).rows(0, rows)
    spec = PhysicsSpec()
    ours, peer = check_feasibility(inputs, spec), numpy_margins(inputs)
    kernel, vectorised = zip(
        *(
            (seconds(lambda: check_feasibility(inputs, spec)), seconds(lambda: numpy_margins(inputs)))
            for _ in range(pairs)
        ),
        strict=True,
    )
    rate = (inputs.nbytes + ours.nbytes) / statistics.median(kernel)
    return {
        "rows": rows,
        "seconds": statistics.median(kernel),
        "best_seconds": min(kernel),
        "numpy_seconds": statistics.median(vectorised),
        "ratio": statistics.median(v / k for k, v in zip(kernel, vectorised, strict=True)),
        "largest_difference": float(np.abs(ours - peer).max()),
        "bytes_per_second": rate,
        "share_of_bandwidth": rate / bandwidth(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    points = [measure(rows, pairs) for rows, pairs in PAIRS.items()]
    print("      rows   kernel ms     best ms    NumPy ms   ratio   GB/s  of a copy's")
    for p in points:
        print(
            f"{p['rows']:10d} {1e3 * p['seconds']:11.3f} {1e3 * p['best_seconds']:11.3f} "
            f"{1e3 * p['numpy_seconds']:11.2f} {p['ratio']:7.1f} {1e-9 * p['bytes_per_second']:6.1f} "
            f"{p['share_of_bandwidth']:13.2f}"
        )
    print(f"{numba.get_num_threads()} threads; aim: 100000 rows in {1e3 * AIM_SECONDS} ms, 10 times NumPy")
    if arguments.json:
        first = points[0]
        print(
            json.dumps(
                {
                    "name": "feasibility",
                    "value": first["seconds"],
                    "unit": "s per 100000 rows",
                    "peer": "NumPy float32",
                    "peer_value": first["numpy_seconds"],
                    "ratio": first["ratio"],
                    "aim_seconds": AIM_SECONDS,
                    "threads": numba.get_num_threads(),
                    "points": points,
                }
            )
        )


if __name__ == "__main__":
    main()
