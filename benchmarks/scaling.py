"""Rows a second of the whole simulator with 1 and 2 workers.

The same rows of the `cliff` space, the two simulators taking turns. A worker is one process that makes pairs and one
thread that runs the protocol on them, so one worker already occupies more than one core; the CPU time used says how
much of the machine each had, and rows a second of CPU time what a core gives. Rows and outcomes are compared: the
number of workers changes none.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from caligo_sampler.design import LHSSampler
from caligo_simulator.harness import Setup
from caligo_simulator.simulation import DesignRow, Simulator

from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.space import PRESETS, Space
from caligo.spec import PhysicsSpec, ProtocolSpec

SEED = 3
ROUNDS = 3
WORKERS = (1, 2)
SETUP = Setup("scaling", SEED, Phase.LHS, PhysicsSpec(), ProtocolSpec())


def worker_seconds(simulator: Simulator) -> float:
    """CPU time so far of the workers."""
    ticks = 0
    for process in simulator.orchestrator.process_ids():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, proc_pid_stat(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_seconds(simulator: Simulator) -> float:
    """CPU time so far of this process and of the workers."""
    return time.process_time() + worker_seconds(simulator)


def run(simulator: Simulator, design: Sequence[DesignRow]) -> tuple[float, float, ResultRows]:
    """Seconds, mean number of cores in use, and the rows by index."""
    begin, cpu = time.perf_counter(), cpu_seconds(simulator)
    rows = np.concatenate(list(simulator.simulate(SETUP, design)))
    elapsed = time.perf_counter() - begin
    return elapsed, (cpu_seconds(simulator) - cpu) / elapsed, rows[np.argsort(rows["index"])]


def measure(design: Sequence[DesignRow]) -> list[dict[str, Any]]:
    names = [f"scaling-{secrets.token_hex(4)}" for _ in WORKERS]
    runs: dict[int, list[tuple[float, float]]] = {workers: [] for workers in WORKERS}
    with Simulator(WORKERS[0], 2**20, names[0]) as one, Simulator(WORKERS[1], 2**20, names[1]) as two:
        for simulator in (one, two):
            simulator.warm_up()
        for _ in range(ROUNDS):
            results = []
            for simulator in (one, two):
                elapsed, cores, rows = run(simulator, design)
                runs[simulator.workers].append((elapsed, cores))
                results.append(rows)
            for column in ("index", "outcome", "reason", "counts"):
                assert np.array_equal(results[0][column], results[1][column])
    return [
        {
            "workers": workers,
            "rows_per_second": len(design) / statistics.median(elapsed for elapsed, _ in measured),
            "cores": statistics.median(cores for _, cores in measured),
            "rows_per_core_second": len(design) / statistics.median(elapsed * cores for elapsed, cores in measured),
            "ratio": statistics.median(
                alone / elapsed for (alone, _), (elapsed, _) in zip(runs[WORKERS[0]], measured, strict=True)
            ),
        }
        for workers, measured in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=60)
    arguments = parser.parse_args()
    _, design = LHSSampler(Space(PRESETS["cliff"]), SEED, arguments.rows).rows(0, arguments.rows)
    points = measure(list(enumerate(design)))
    print("workers   rows/s   cores used   rows a core second   times one worker")
    for p in points:
        print(
            f"{p['workers']:7d} {p['rows_per_second']:8.2f} {p['cores']:12.2f} {p['rows_per_core_second']:20.2f} "
            f"{p['ratio']:18.2f}"
        )
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.rows} rows on {cores} cores; aim: two workers use all of them, {cores / points[0]['cores']:.2f}"
          " times one worker")  # fmt: skip
    if arguments.json:
        print(json.dumps({
            "name": "scaling", "value": points[1]["rows_per_second"], "unit": "rows/s with 2 workers",
            "peer": "1 worker", "peer_value": points[0]["rows_per_second"], "ratio": points[1]["ratio"],
            "aim_ratio": cores / points[0]["cores"], "rows": arguments.rows, "points": points,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
