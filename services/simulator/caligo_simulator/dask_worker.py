"""The simulator inside a Dask worker: one arena and one pool of EPR workers a process, rows by index.

Workers are started with `--preload caligo_simulator.dask_worker`, so that every kernel is compiled before the first row
comes; without it the first row waits for that. `simulate` is what the orchestrator submits.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import threading
from typing import Any, Final

import numpy as np
from distributed import get_worker

from caligo import wire
from caligo.errors import FailedPrecondition
from caligo.v1 import simulator_pb2
from caligo_simulator.harness import Setup
from caligo_simulator.server import to_setup
from caligo_simulator.simulation import Simulator

_SEGMENT_PAIRS: Final = 2**20
_NAMESPACE: Final = "dask"

_lock = threading.Lock()
_running: Simulator | None = None


def simulate(setup: bytes, index: int, inputs: bytes) -> bytes:
    """One row: a serialized `SimulateSetup`, the sample's index and its float32 [9] as bytes; answers with a
    serialized `ResultBatch`.

    Raises:
        InvalidArgument: setup or row cannot be used here.
        FailedPrecondition: the worker may not have child processes.
    """
    simulator = _simulator(get_worker().state.nthreads)
    row = simulator.run(_setup(setup), (index, np.frombuffer(inputs, np.float32)), threading.Event())
    return wire.encode_rows(row).SerializeToString()


def dask_setup(worker: Any) -> None:
    """Called by `dask worker --preload` before the worker takes tasks."""
    _simulator(worker.state.nthreads)


def dask_teardown(worker: Any) -> None:
    """Called by `dask worker --preload` when the worker ends."""
    close()


def close() -> None:
    """End the EPR workers and remove the arena."""
    global _running
    with _lock:
        if _running is not None:
            _running.close()
            _running = None


@functools.lru_cache(maxsize=16)
def _setup(serialized: bytes) -> Setup:
    return to_setup(simulator_pb2.SimulateSetup.FromString(serialized))


def _simulator(threads: int) -> Simulator:
    global _running
    with _lock:
        if _running is None:
            if multiprocessing.current_process().daemon:
                raise FailedPrecondition(
                    "the Dask worker may not start processes: set DASK_DISTRIBUTED__WORKER__DAEMON=False for it"
                )
            for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
                os.environ.setdefault(f"{library}_NUM_THREADS", "1")
            _running = Simulator(threads, _SEGMENT_PAIRS, _NAMESPACE)
            _running.warm_up()
            atexit.register(close)
        return _running
