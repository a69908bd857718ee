"""Resident set of each service after 1,000, 10,000 and 100,000 rows.

* orchestrator and sampler: one campaign of so many rows in its warm-up, then phases 2 and 3 to its end, all as real
  processes with journal and HDF5 file, and at last every row and the file are read by a client. Simulator and
  surrogate are stand-ins here, the one answering from the closed form at once.
* simulator: the real one with two workers, given rows of 32,000 to 100,000 pairs until it has simulated a hundredth of
  the above; worker processes and fork server are counted, shared memory once.
* surrogate: the real one on the CPU is given the rows and proposes a batch of 8 after 1,000 (trained on them) and after
  10,000, under the same hyper-parameters; at 100,000 it only holds them: a batch takes minutes on a CPU.

"end" is the resident set at that moment, "peak" the highest since the moment before (VmHWM, reset each time).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from caligo_orchestrator.farm import Job
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.model.remote import Surrogate

from benchmarks import _stand_ins
from benchmarks.overhead import NEARLY_ALL, child
from caligo.cli.embedded import ServiceProcess
from caligo.client import CampaignClient
from caligo.phases import Phase
from caligo.results import METRIC, ROW_DTYPE, ProtocolOutcome, ResultRows
from caligo.space import Space
from caligo.spec import CampaignSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, to_proto, validate
from caligo.v1 import simulator_pb2, types_pb2

MARKS: Final = (1_000, 10_000, 100_000)
Figures = dict[str, dict[str, tuple[float, float]]]
"""MiB at the end and at the peak, by moment, by service."""


class Memory:
    """Of a process and all that it has started."""

    def __init__(self, process_id: int) -> None:
        self._first = process_id
        self.figures: dict[str, tuple[float, float]] = {}

    def note(self, moment: str) -> None:
        """Take the figures of this moment; the peak begins anew."""
        end = peak = 0.0
        for number in self._family():
            with contextlib.suppress(OSError):  # it has just ended
                status = (Path("/proc") / number / "status").read_text()
                shared = _kib(status, "RssShmem") if number != str(self._first) else 0.0
                end += _kib(status, "VmRSS") - shared
                peak += _kib(status, "VmHWM") - shared
                (Path("/proc") / number / "clear_refs").write_text("5")
        self.figures[moment] = end / 1024, peak / 1024

    def _family(self) -> list[str]:
        found = [str(self._first)]
        for number in found:
            for tasks in (Path("/proc") / number / "task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += tasks.read_text().split()
        return found


def _kib(status: str, field: str) -> float:
    return next((float(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")), 0.0)


@contextlib.contextmanager
def service(name: str, directory: Path, *flags: str) -> Iterator[ServiceProcess]:
    process = ServiceProcess(name, f"unix:{directory / name}", directory / f"{name}.log", list(flags))
    try:
        process.wait_until_serving()
        yield process
    finally:
        process.terminate()
        process.wait()


def campaign(directory: Path, marks: tuple[int, ...]) -> Figures:
    """Orchestrator and sampler."""
    spec = validate(
        CampaignSpec,
        {
            "name": "memory",
            "space": NEARLY_ALL,
            "lhs": {"samples": marks[-1]},
            "active": {"samples": 64, "batch_size": 16},
        },
    )
    with ExitStack() as stack:
        addresses = {name: f"unix:{directory / name}" for name in ("simulator", "surrogate")}
        stack.enter_context(child(_stand_ins.serve_simulator, addresses["simulator"], 0.0))
        stack.enter_context(child(_stand_ins.serve_surrogate, addresses["surrogate"], 0.0))
        sampler = stack.enter_context(service("sampler", directory))
        flags = ["--data-directory", str(directory / "data"), "--sampler", sampler.address]
        flags += [flag for name, address in addresses.items() for flag in (f"--{name}", address)]
        orchestrator = stack.enter_context(service("orchestrator", directory, *flags))
        client = stack.enter_context(CampaignClient(orchestrator.address))
        memories = {"orchestrator": Memory(orchestrator._process.pid), "sampler": Memory(sampler._process.pid)}

        def note(moment: str) -> None:
            for memory in memories.values():
                memory.note(moment)

        note("idle")
        name = client.create(spec).name
        for mark in marks:
            while (found := client.get(name)).progress.simulated < mark:
                assert found.state.name in ("QUEUED", "RUNNING"), found
                time.sleep(0.1)
            note(str(mark))
        ended = client.wait(name)
        assert ended.state.name == "SUCCEEDED", ended
        note("ended")
        rows = sum(len(block) for block in client.results(name, Phase.LHS))
        assert rows >= marks[-1]
        client.download(name, directory / "copy.h5")
        note("read")
    return {name: memory.figures for name, memory in memories.items()}


def simulator(directory: Path, marks: tuple[int, ...]) -> Figures:
    """The simulator's process, fork server and workers."""
    namespace = f"memory-{secrets.token_hex(4)}"
    space = validate(SpaceSpec, {"bounds": {"N": [3.2e4, 1.0e5], "eta": [0.2, 1.0]}}).resolve()
    inputs = space.from_unit(np.random.default_rng(1).random((marks[-1], 9), dtype=np.float32))
    setup = simulator_pb2.SimulateSetup(
        campaign="campaigns/memory",
        phase=types_pb2.PHASE_LHS,
        physics=to_proto(PhysicsSpec(), types_pb2.PhysicsSpec),
        protocol=to_proto(ProtocolSpec(max_decoded_frames=4), types_pb2.ProtocolSpec),
    )
    with service("simulator", directory, "--workers", "2", "--namespace", namespace) as process:
        memory = Memory(process._process.pid)
        memory.note("idle")
        farm = ReplicaFarm(process.address, 30.0)
        try:
            for first, mark in zip((0, *marks), marks, strict=False):
                left, done = mark - first, threading.Event()

                def take(rows: ResultRows) -> None:
                    nonlocal left
                    left -= len(rows)
                    if left == 0:
                        done.set()  # noqa: B023 - waited for below

                farm.submit(Job(setup, take, print), np.arange(first, mark), inputs[first:mark])
                assert done.wait(600)
                memory.note(str(mark))
        finally:
            farm.close()
    return {"simulator": memory.figures}


def surrogate(directory: Path, marks: tuple[int, ...]) -> Figures:
    spec = validate(
        CampaignSpec,
        {"name": "memory", "surrogate": {"training_steps": 20}, "training": {"folds": 0, "holdout_fraction": 0.0}},
    )
    with service("surrogate", directory, "--device", "cpu") as process:
        memory = Memory(process._process.pid)
        memory.note("idle")
        model = Surrogate(process.address, "campaigns/memory")
        try:
            model.create(spec)
            rows = smooth_rows(marks[-1], spec.space.resolve())
            for first, mark in zip((0, *marks), marks, strict=False):
                for start in range(first, mark, 4096):
                    model.observe(Phase.LHS, rows[start : min(start + 4096, mark)])
                if mark == marks[0]:
                    for _ in model.fit(0.0, 0):
                        pass
                if mark <= 10_000:
                    model.propose(0, 8, np.empty((0, 9), dtype=np.float32))
                memory.note(str(mark))
        finally:
            model.close()
    return {"surrogate": memory.figures}


def smooth_rows(count: int, space: Space) -> ResultRows:
    """Rows whose margin is a smooth function of where they are, with a cliff through the middle."""
    unit = np.random.default_rng(2).random((count, 9), dtype=np.float32)
    rows = np.zeros(count, dtype=ROW_DTYPE)
    rows["index"] = np.arange(count)
    rows["inputs"] = space.from_unit(unit)
    rows["metrics"][:, METRIC["margin"]] = unit[:, 3] - unit[:, 0] + 0.1 * np.sin(6 * unit[:, 1])
    succeeded = rows["metrics"][:, METRIC["margin"]] > 0
    rows["outcome"] = np.where(succeeded, ProtocolOutcome.SUCCESS, ProtocolOutcome.FAILURE_SECURITY)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of rows, for a shorter run")
    arguments = parser.parse_args()
    marks = tuple(max(1, round(arguments.scale * mark)) for mark in MARKS)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        for number, (measure, own) in enumerate(
            ((simulator, tuple(sorted({max(1, mark // 100) for mark in marks}))), (surrogate, marks), (campaign, marks))
        ):
            directory = Path(name) / str(number)
            directory.mkdir()
            figures |= measure(directory, own)
    for service_name, moments in figures.items():
        print(f"{service_name:14s} {'end MiB':>10s} {'peak MiB':>10s}")
        for moment, (end, peak) in moments.items():
            print(f"  {moment:12s} {end:10.0f} {peak:10.0f}")
    mine = figures["orchestrator"]
    if arguments.json:
        first, last = (mine[str(mark)][0] for mark in (marks[0], marks[-1]))
        print(
            json.dumps(
                {
                    "name": "memory",
                    "value": last,
                    "unit": f"MiB resident, orchestrator, {marks[-1]} rows",
                    "peer": f"the same after {marks[0]} rows",
                    "peer_value": first,
                    "ratio": last / first,
                    "figures": figures,
                }
            )
        )


if __name__ == "__main__":
    main()
