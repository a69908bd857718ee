"""What a row costs the orchestrator: milliseconds of CPU time, and which part of it takes them.

A warm-up of so many rows, all of them feasible, with the real sampler and a stand-in for the simulator that answers
from the closed form as fast as it can; queue, farm, journal and HDF5 file are the real ones, on a real disk where
`--directory` says so. The CPU time is that of the orchestrator's process, and of its threads:

* campaign: takes the design, hands rows to the farm, follows what becomes durable;
* farm: the streams to the simulators, both ways, in one event loop;
* recorder: journal and HDF5 file;
* rest: gRPC's own threads, and SQLite's and NumPy's if they had any.

A second figure is that of a row that is not simulated because the closed form leaves it no hope: nearly all rows of a
space without any, which costs its margin and its record.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _stand_ins
from caligo.cli.embedded import ServiceProcess
from caligo.spec import CampaignSpec, validate
from caligo.v1 import campaign_pb2

NEARLY_ALL = {"bounds": {"r": [0.05, 0.1], "F": [0.99, 1.0], "eta": [0.5, 1.0], "N": [1e6, 1e7]}}
"""Where 97 % of the rows are feasible."""
FEW = {"bounds": {"F": [0.5, 0.986]}}
"""Where 15 % are."""
PARTS = {"campaign-": "campaign", "farm": "farm", "recorder": "recorder"}
"""Of the orchestrator, by how the names of their threads begin."""


@dataclasses.dataclass(frozen=True)
class Spent:
    """Rows, and CPU seconds of the process and of its parts, over the first 95 % of the phase."""

    simulated: int
    skipped: int
    seconds: float
    cpu: dict[str, float]


def orchestrate(
    directory: str, addresses: dict[str, str], space: dict[str, Any], rows: int, answer: Connection
) -> None:
    """Run phase 1 of a campaign in this process."""
    from caligo_orchestrator.campaigns.resource import Campaigns
    from caligo_orchestrator.settings import OrchestratorSettings

    spec = validate(CampaignSpec, {"name": "overhead", "space": space, "lhs": {"samples": rows}})
    campaigns = Campaigns(OrchestratorSettings(data_directory=directory, **addresses))
    campaigns.start()
    try:
        name = campaigns.create(spec, "", 100).name

        def look(share: float) -> tuple[campaign_pb2.Progress, dict[str, float]]:
            """Progress and CPU time when this share of the phase is done."""
            while not (progress := campaigns.get(name).progress).total or progress.done < share * progress.total:
                time.sleep(0.05)
            return progress, cpu_seconds()

        (first, before), begin = look(0.0), time.perf_counter()
        (last, after), seconds = look(0.95), time.perf_counter() - begin
        answer.send(
            Spent(
                simulated=last.simulated - first.simulated,
                skipped=last.skipped - first.skipped,
                seconds=seconds,
                cpu={part: after[part] - before[part] for part in after},
            )
        )
        campaigns.cancel(name)
    finally:
        campaigns.close()


def cpu_seconds() -> dict[str, float]:
    """Of this process and of its parts, since their start."""
    spent = {"process": time.process_time()}
    for thread in threading.enumerate():
        part = next((part for start, part in PARTS.items() if thread.name.startswith(start)), None)
        if part is not None and thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            spent[part] = spent.get(part, 0.0) + time.clock_gettime(clock)
    return spent


@contextmanager
def child(target: Callable[..., None], *arguments: object) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join()


def measure(directory: Path, addresses: dict[str, str], space: dict[str, Any], rows: int) -> Spent:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with child(orchestrate, str(directory), addresses, space, rows, theirs) as process:
        theirs.close()
        spent = ours.recv()
        process.join()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=4000, help="feasible rows of the warm-up")
    parser.add_argument(
        "--directory", type=Path, help="where the data directories are made; a temporary one by default"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name, ExitStack() as stack:
        directory = Path(name)
        addresses = {service: f"unix:{directory / service}" for service in ("sampler", "simulator", "surrogate")}
        sampler = ServiceProcess("sampler", addresses["sampler"], directory / "sampler.log", [])
        stack.callback(sampler.wait)
        stack.callback(sampler.terminate)
        stack.enter_context(child(_stand_ins.serve_simulator, addresses["simulator"], 0.0))
        stack.enter_context(child(_stand_ins.serve_surrogate, addresses["surrogate"], 0.0))
        many = measure(directory / "many", addresses, NEARLY_ALL, arguments.rows)
        few = measure(directory / "few", addresses, FEW, arguments.rows // 4)
    rows = many.simulated + many.skipped
    a_simulated, a_skipped = np.linalg.solve(
        [[many.simulated, many.skipped], [few.simulated, few.skipped]],
        [1e3 * many.cpu["process"], 1e3 * few.cpu["process"]],
    )
    parts = {part: 1e3 * many.cpu[part] / rows for part in PARTS.values()}
    parts["rest"] = 1e3 * many.cpu["process"] / rows - sum(parts.values())
    print(f"{rows} rows, {many.simulated / rows:.0%} simulated, {rows / many.seconds:.0f} rows/s{'CPU ms a row':>30s}")
    for part, each in parts.items():
        print(f"{part:58s} {each:8.3f}")
    print(f"{'a row that is simulated':58s} {a_simulated:8.3f}")
    print(f"{'a row that the closed form rules out':58s} {a_skipped:8.3f}")
    if arguments.json:
        print(
            json.dumps(
                {
                    "name": "overhead",
                    "value": a_simulated,
                    "unit": "CPU ms a simulated row",
                    "skipped_row": a_skipped,
                    "parts": parts,
                    "rows_per_second": rows / many.seconds,
                }
            )
        )


if __name__ == "__main__":
    main()
