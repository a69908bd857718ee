"""How busy the farm keeps its simulators, and how near a batch comes to the ideal when one of them is slow.

Busy: stand-in replicas whose rows take 10 ms and no CPU time; the share of time in which a replica has a row, between
the moment when all have had one and the moment when none waits any more, beside rows a second and the CPU time that
dispatcher and stand-ins take: on a machine of few cores it is they who are the bound, and the stand-ins are there only
in this benchmark.

Uneven: one replica is five times slower than two others. The time of a batch against the ideal, in which all end at
the same moment, and, as the peer, against a queue without a network from which each pulls its next row.

Stragglers: what copying rows that have been away for long gains in batches as small as those of the active phase, on
the same three replicas ten times slower, against the same farm that copies none.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
from caligo_orchestrator.farm import Job, replicas
from caligo_orchestrator.farm.replicas import ReplicaFarm

from benchmarks.peers.simulators import Replicas, serving
from caligo.results import ResultRows
from caligo.space import PRESETS, Space
from caligo.v1 import simulator_pb2, types_pb2

ROW_SECONDS = 0.01
UNEVEN = [0.01, 0.01, 0.05]
PATIENCE = 30.0


class Batch:
    """Rows through a farm, and when they were done."""

    def __init__(self, farm: ReplicaFarm, rows: int) -> None:
        self._farm = farm
        self._left = rows
        self._done = threading.Event()
        self.begun = time.monotonic()
        setup = simulator_pb2.SimulateSetup(campaign="campaigns/benchmark", phase=types_pb2.PHASE_ACTIVE)
        inputs = Space(PRESETS["cliff"]).from_unit(np.random.default_rng(1).random((rows, 9), dtype=np.float32))
        farm.submit(Job(setup, self._take, self._fail), np.arange(rows, dtype=np.int64), inputs)

    def _take(self, rows: ResultRows) -> None:
        self._left -= len(rows)
        if self._left == 0:
            self.ended = time.monotonic()
            self._done.set()

    def _fail(self, error: Exception) -> None:
        raise error

    def seconds_to_empty_queue(self) -> float:
        """Wait until every row has been sent; the time of it."""
        rows = self._left
        while (self._farm.stats().waiting or self._left == rows) and not self._done.is_set():
            time.sleep(0.005)
        return time.monotonic()

    def seconds(self) -> float:
        """Wait for the last result; what the batch took."""
        assert self._done.wait(120)
        return self.ended - self.begun


def warm(farm: ReplicaFarm, replicas: int) -> None:
    """Until every replica has its stream, as in the middle of a campaign."""
    while farm.stats().simulators < replicas:
        Batch(farm, 2 * replicas).seconds()


def busy(count: int, seconds: float, processes: int) -> dict[str, Any]:
    """A long batch on `count` replicas."""
    rows = int(count * seconds / ROW_SECONDS)
    with serving([ROW_SECONDS] * count, processes) as made:
        farm = ReplicaFarm(made.address, PATIENCE)
        warm(farm, count)
        cpu = time.process_time()
        batch = Batch(farm, rows)
        ends = batch.seconds_to_empty_queue()
        took = batch.seconds()
        cpu = time.process_time() - cpu
        farm.close()
    begins = batch.begun + 0.25
    return {
        "replicas": count,
        "busy": share_busy(made, begins, ends),
        "rows_per_second": rows / took,
        "ideal_rows_per_second": count / ROW_SECONDS,
        "dispatcher_cpu_microseconds_a_row": 1e6 * cpu / rows,
        "stand_in_cpu_microseconds_a_row": 1e6 * made.cpu_seconds / sum(map(len, made.work)),
        "row_milliseconds": 1e3 * float(np.median(np.concatenate([np.diff(work)[:, 0] for work in made.work]))),
    }


def share_busy(replicas: Replicas, begins: float, ends: float) -> float:
    """Share of the time between two moments in which a replica had a row, mean of all."""
    shares = []
    for work in replicas.work:
        begin, end = np.clip(work, begins, ends).T
        shares.append(float((end - begin).sum()) / (ends - begins))
    return statistics.mean(shares)


def pulled(rows: int) -> float:
    """Seconds of a batch when each replica pulls its next row from one queue in no time."""
    free = [(0.0, j) for j in range(len(UNEVEN))]
    for _ in range(rows):
        at, j = heapq.heappop(free)
        heapq.heappush(free, (at + UNEVEN[j], j))
    return max(at for at, _ in free)


def uneven(rows: int, rounds: int) -> dict[str, Any]:
    """Batches on replicas of different speed."""
    with serving(UNEVEN) as made:
        farm = ReplicaFarm(made.address, PATIENCE)
        warm(farm, len(UNEVEN))
        Batch(farm, rows // 4).seconds()
        seconds = statistics.median(Batch(farm, rows).seconds() for _ in range(rounds))
        farm.close()
    ideal = rows / sum(1 / value for value in UNEVEN)
    return {"seconds": seconds, "ideal_seconds": ideal, "pull_seconds": pulled(rows), "over_ideal": seconds / ideal - 1}


def stragglers(batches: Sequence[int], rounds: int) -> dict[int, tuple[float, float]]:
    """Median seconds of batches of so many rows, with copies and without."""
    found: dict[int, list[float]] = {rows: [] for rows in batches}
    with serving([10 * seconds for seconds in UNEVEN]) as made:
        for times in (replicas._STRAGGLER, math.inf):
            with mock.patch.object(replicas, "_STRAGGLER", times):
                farm = ReplicaFarm(made.address, PATIENCE)
                warm(farm, len(UNEVEN))
                for rows, seconds in found.items():
                    seconds.append(statistics.median(Batch(farm, rows).seconds() for _ in range(rounds)))
                farm.close()
    return {rows: (seconds[0], seconds[1]) for rows, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="of ideal work for each number of replicas")
    parser.add_argument("--rows", type=int, default=600, help="of a batch on uneven replicas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="of stand-ins")
    arguments = parser.parse_args()
    print("replicas   busy   rows/s   ideal   dispatcher us/row   stand-ins us/row   a row takes ms")
    points = []
    for count in arguments.replicas:
        p = busy(count, arguments.seconds, arguments.processes)
        points.append(p)
        print(
            f"{count:8d} {p['busy']:6.1%} {p['rows_per_second']:8.0f} {p['ideal_rows_per_second']:7.0f} "
            f"{p['dispatcher_cpu_microseconds_a_row']:19.0f} {p['stand_in_cpu_microseconds_a_row']:18.0f} "
            f"{p['row_milliseconds']:16.1f}"
        )
    u = uneven(arguments.rows, arguments.rounds)
    print(
        f"{arguments.rows} rows on replicas of {UNEVEN} s a row: {u['seconds']:.2f} s, "
        f"ideal {u['ideal_seconds']:.2f} s ({u['over_ideal']:+.1%}), "
        f"a pull queue without a network {u['pull_seconds']:.2f} s"
    )
    copied = stragglers((8, 16, 32), max(5, arguments.rounds))
    for rows, (with_copies, without) in copied.items():
        print(f"{rows} rows on three, one of them slow: {with_copies:.2f} s, {without:.2f} s without copies")
    if arguments.json:
        print(json.dumps({
            "name": "dispatch", "value": points[-1]["busy"], "unit": f"share of time {points[-1]['replicas']} replicas "
            "of 10 ms a row are busy", "aim": 0.95, "peer": "pull queue without a network, uneven replicas: its "
            "seconds over ours", "peer_value": u["pull_seconds"], "ratio": u["pull_seconds"] / u["seconds"],
            "uneven": u, "stragglers": copied, "points": points,
            "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
