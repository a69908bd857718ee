"""Campaigns whose four services are killed (SIGKILL) at random moments: do they end in the same rows?

Each service is a process of its own. Every fraction of a second one or several of them, any in any order, are killed;
a little supervisor starts them again after a moment. Campaigns of one spec follow one another until there have been
enough kills, and each must end in the file of an undisturbed run, row by row and in every dataset (`wall_seconds`
excepted). All the while a client reads the results; every row that it has been shown must be in the end what it was.

Most kills hit stand-ins for simulator and surrogate: real gRPC services that cost next to nothing, the surrogate one
whose proposals are a hash of all it was told and of the order of it. With `--real` all four are the real services,
started as `caligo serve` starts them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import h5py
import numpy as np

from caligo import rpc, wire
from caligo.dataset import GROUPS
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME
from caligo.phases import Phase
from caligo.results import METRIC
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc

CHEAP: Final = {"name": "chaos", "seed": 5, "lhs": {"samples": 60}, "active": {"samples": 60, "batch_size": 4}}
REAL: Final = {
    "name": "chaos",
    "seed": 11,
    "space": {"bounds": {"N": [3.2e4, 1.0e5], "eta": [0.2, 1.0]}},
    "protocol": {"max_decoded_frames": 2},
    "surrogate": {"training_steps": 10},
    "training": {"folds": 0},
    "guardrail": {"threshold": 0.6, "audit_fraction": 0.1},
    "lhs": {"samples": 24},
    "active": {"samples": 12, "batch_size": 4},
}
ROW_SECONDS: Final = 0.01
THINK_SECONDS: Final = 0.03
LONGEST_DOWN_SECONDS: Final = 0.15
POLL_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 900.0
"""For a campaign to end, however often it is disturbed."""
ENDED: Final = (pb.CAMPAIGN_STATE_SUCCEEDED, pb.CAMPAIGN_STATE_FAILED, pb.CAMPAIGN_STATE_CANCELLED)
_PR_SET_PDEATHSIG: Final = 1


class Process(Protocol):
    """A process that can be killed."""

    pid: int | None

    def start(self) -> None: ...

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""


class Forked:
    """A child of a server process that has imported everything: it stands within milliseconds."""

    def __init__(self, log: Path, serve: Callable[..., None], *arguments: Any) -> None:
        self._arguments = log, serve, *arguments
        self._context = multiprocessing.get_context("forkserver")
        self.pid: int | None = None

    def start(self) -> None:
        self._process = self._context.Process(target=_serve, args=self._arguments)
        self._process.start()
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()


class Started:
    """A service as `caligo serve` starts it."""

    def __init__(self, name: str, log: Path, *flags: str) -> None:
        self._command = [sys.executable, "-m", f"caligo_{name}", *flags]
        self._log = log
        self.pid: int | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--lifeline"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _serve(log: Path, serve: Callable[..., None], *arguments: Any) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing is left when the command is killed itself
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    serve(*arguments)


def _sampler(address: str) -> None:
    from caligo_sampler.server import SamplerSettings, serve

    serve(SamplerSettings(address=address))


def _simulator(address: str, delay_seconds: float) -> None:
    from benchmarks._stand_ins import serve_simulator

    serve_simulator(address, delay_seconds)


def _surrogate(address: str, think_seconds: float) -> None:
    from benchmarks._stand_ins import serve_surrogate

    serve_surrogate(address, think_seconds)


def _orchestrator(settings: dict[str, Any]) -> None:
    from caligo_orchestrator.api.server import serve
    from caligo_orchestrator.settings import OrchestratorSettings

    serve(OrchestratorSettings(**settings))


@dataclasses.dataclass
class Services:
    """The processes by name, and where the orchestrator is."""

    processes: dict[str, Process]
    address: str
    weights: dict[str, float]
    """How often each is killed, relative to the others."""
    pause_seconds: float
    """Mean time between kills."""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def cheap_services(directory: Path, simulators: int) -> Services:
    """Stand-ins for simulators and surrogate, and the real sampler and orchestrator."""
    unix = {name: f"unix:{directory}/{name}" for name in ("sampler", "surrogate", "orchestrator")}
    ports = _free_ports(simulators)
    log = directory / "log"
    settings = {
        "address": unix["orchestrator"],
        "data_directory": directory / "data",
        "sampler": unix["sampler"],
        "surrogate": unix["surrogate"],
        "simulator": "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports),
    }
    processes: dict[str, Process] = {
        "sampler": Forked(log, _sampler, unix["sampler"]),
        "surrogate": Forked(log, _surrogate, unix["surrogate"], THINK_SECONDS),
        **{f"simulator-{j}": Forked(log, _simulator, f"127.0.0.1:{port}", ROW_SECONDS) for j, port in enumerate(ports)},
        "orchestrator": Forked(log, _orchestrator, settings),
    }
    weights = {name: 1 / simulators if name.startswith("simulator") else 1.0 for name in processes}
    return Services(processes, unix["orchestrator"], weights, pause_seconds=0.2)


def real_services(directory: Path, simulators: int) -> Services:
    """All four as they are; the surrogate, which takes long to start, is killed less often."""
    unix = {name: f"unix:{directory}/{name}" for name in ("sampler", "surrogate", "orchestrator")}
    ports = _free_ports(simulators)
    log = directory / "log"
    farm = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    work = [f"--{name}={unix[name]}" for name in ("sampler", "surrogate")]
    namespace = f"chaos-{secrets.token_hex(4)}"
    simulator = ["--workers=1", f"--namespace={namespace}"]
    processes: dict[str, Process] = {
        "sampler": Started("sampler", log, "--address", unix["sampler"]),
        "surrogate": Started("surrogate", log, "--address", unix["surrogate"], "--device=cpu"),
        **{
            f"simulator-{j}": Started("simulator", log, "--address", f"127.0.0.1:{port}", *simulator)
            for j, port in enumerate(ports)
        },
        "orchestrator": Started(
            "orchestrator", log, "--address", unix["orchestrator"], f"--simulator={farm}", *work,
            f"--data-directory={directory / 'data'}",
        ),
    }  # fmt: skip
    weights = {name: {"surrogate": 0.3, "orchestrator": 2.0}.get(name, 1.0) for name in processes}
    return Services(processes, unix["orchestrator"], weights, pause_seconds=2.0)


class Chaos:
    """Kills and starts again, a step at a time."""

    def __init__(self, services: Services, kills: int, generator: random.Random) -> None:
        self._services = services
        self._generator = generator
        self._wanted = kills
        self._down: dict[str, float] = {}
        self._next = time.monotonic() + self._pause()
        self.kills: Counter[str] = Counter()

    def _pause(self) -> float:
        return self._generator.expovariate(1 / self._services.pause_seconds)

    @property
    def is_over(self) -> bool:
        return self.kills.total() >= self._wanted

    def step(self) -> None:
        now = time.monotonic()
        for name in [name for name, until in self._down.items() if until <= now]:
            del self._down[name]
            self._services.processes[name].start()
        if now < self._next or self.is_over:
            return
        self._next = now + self._pause()
        names = list(self._services.processes)
        weights = [self._services.weights[name] for name in names]
        for name in set(self._generator.choices(names, weights, k=self._generator.choice((1, 1, 1, 2, 3)))):
            if name not in self._down:
                self._services.processes[name].kill()
                self._down[name] = now + self._generator.uniform(0, LONGEST_DOWN_SECONDS)
                self.kills[name] += 1


class Witness:
    """A client that asks, again and again, and remembers what it was shown."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.seen: dict[tuple[str, Phase, int], bytes] = {}
        self.resumed = 0

    def try_create(self, spec: CampaignSpec, request_id: str) -> str:
        """Start a campaign; its name, or nothing where there was no answer: the same request may be made again."""
        request = pb.CreateCampaignRequest(spec=to_proto(spec, pb.CampaignSpec), request_id=request_id)
        with contextlib.suppress(grpc.RpcError), self._stub() as stub:
            return stub.CreateCampaign(request, timeout=5).campaign.name
        return ""

    def look(self, name: str) -> pb.Campaign | None:
        """The campaign as it is, or None where nobody answers; reads the rows that are new."""
        try:
            with self._stub() as stub:
                campaign = stub.GetCampaign(pb.GetCampaignRequest(name=name), timeout=5).campaign
                for phase in GROUPS:
                    self._read(stub, name, phase)
                if campaign.state == pb.CAMPAIGN_STATE_PAUSED:
                    stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name), timeout=5)
                    self.resumed += 1
                return campaign
        except grpc.RpcError:
            return None

    def _read(self, stub: campaign_pb2_grpc.CampaignServiceStub, name: str, phase: Phase) -> None:
        request = pb.StreamResultsRequest(name=name, phase=wire.encode_phase(phase))
        for response in stub.StreamResults(request, timeout=5):
            for row in wire.decode_rows(response.rows):
                key = name, phase, int(row["index"])
                if self.seen.setdefault(key, row.tobytes()) != row.tobytes():
                    raise AssertionError(f"row {key} has changed after it had been shown")

    @contextlib.contextmanager
    def _stub(self) -> Iterator[campaign_pb2_grpc.CampaignServiceStub]:
        with rpc.channel(self._address) as channel:
            yield campaign_pb2_grpc.CampaignServiceStub(channel)


def yield_to_others() -> None:
    time.sleep(POLL_SECONDS)


Tables = dict[str, np.ndarray]


def tables(file: Path) -> Tables:
    """Every dataset of a campaign's file by name, `wall_seconds` blanked."""
    found: Tables = {}
    with h5py.File(file) as h5:
        h5.visititems(lambda name, node: found.__setitem__(name, node[...]) if hasattr(node, "dtype") else None)
    for group in GROUPS.values():
        found[f"{group}/metrics"][:, METRIC["wall_seconds"]] = 0
    return found


def compare(one: Tables, other: Tables) -> tuple[int, int, list[str]]:
    """Rows of the first that the second lacks, rows that differ or are too many, and other datasets that differ."""
    lost = changed = 0
    for group in GROUPS.values():
        names = [name for name in one if name.startswith(f"{group}/")]
        left, right = (
            {int(i): b"".join(t[name][j].tobytes() for name in names) for j, i in enumerate(t[f"{group}/index"])}
            for t in (one, other)
        )
        lost += len(left.keys() - right.keys())
        changed += sum(right.get(i, row) != row for i, row in left.items())
        changed += len(other[f"{group}/index"]) - len(left.keys() & right.keys())
    rest = [name for name in one if name.startswith("surrogate/")]
    return lost, changed, [name for name in rest if one[name].tobytes() != other[name].tobytes()]


@contextlib.contextmanager
def running(services: Services) -> Iterator[None]:
    for process in services.processes.values():
        process.start()
    try:
        yield
    finally:
        for process in services.processes.values():
            with contextlib.suppress(ValueError):  # down at the moment
                process.kill()


def run(make: Callable[[Path, int], Services], spec: CampaignSpec, simulators: int, kills: int, seed: int) -> dict:
    """Run campaigns until there were so many kills; what became of them."""
    generator = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="caligo-chaos-", dir="/tmp"))  # the path of a Unix socket holds 107 bytes
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # GNU OpenMP cannot be forked
    total: Counter[str] = Counter()
    lost = changed = campaigns = 0
    others: set[str] = set()
    succeeded = False
    try:
        services = make(root, simulators)
        witness = Witness(services.address)
        with running(services):
            undisturbed = _finish(root, witness, spec, None)
            begun, chaos = time.monotonic(), Chaos(services, kills, generator)
            while not chaos.is_over:
                disturbed = _finish(root, witness, spec, chaos)
                more = compare(undisturbed, disturbed)
                lost, changed, campaigns = lost + more[0], changed + more[1], campaigns + 1
                others |= set(more[2])
        total = chaos.kills
        succeeded = not (lost or changed or others)
        damaged = len(list(root.rglob("*.damaged-*")))
        return {
            "kills": total.total(), "kills_by_service": dict(sorted(total.items())), "campaigns": campaigns,
            "rows": len(witness.seen), "rows_lost": lost, "rows_changed": changed, "datasets_changed": sorted(others),
            "files_damaged": damaged, "resumed": witness.resumed, "seconds": round(time.monotonic() - begun, 1),
            "simulators": simulators,
        }  # fmt: skip
    finally:
        if succeeded:
            shutil.rmtree(root)
        else:
            print(f"kept: {root}", file=sys.stderr)


def _finish(directory: Path, witness: Witness, spec: CampaignSpec, chaos: Chaos | None) -> Tables:
    """Start a campaign and see it through; the tables of its file."""
    name, last = "", ""
    request = secrets.token_hex(8)
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        if time.monotonic() > ends:
            raise AssertionError(f"{name or 'a campaign'} has not ended in {PATIENCE_SECONDS:g} s")
        if chaos is not None:
            chaos.step()
        if not name:
            name = witness.try_create(spec, request)
        elif (campaign := witness.look(name)) is not None and campaign.state in ENDED:
            if campaign.state != pb.CAMPAIGN_STATE_SUCCEEDED:
                raise AssertionError(f"{name} ended in {pb.CampaignState.Name(campaign.state)}: {campaign.problem}")
            break
        elif campaign is not None and campaign.HasField("problem") and campaign.problem.message != last:
            last = campaign.problem.message
            print(f"{name} paused: {last}", file=sys.stderr)
        yield_to_others()
    file = directory / "data" / CAMPAIGNS_DIRECTORY / name.partition("/")[2] / FILE_NAME
    found = tables(file)
    for phase, group in GROUPS.items():
        shown = {i for campaign, p, i in witness.seen if (campaign, p) == (name, phase)}
        if shown != set(found[f"{group}/index"].tolist()):
            raise AssertionError(f"{name}: rows of {group} that were shown are not those of the file")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=150, help="for one and for four simulators each")
    parser.add_argument("--simulators", type=int, help="only with so many")
    parser.add_argument("--real", action="store_true", help="the four real services; slow")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [] if arguments.real else ["caligo_orchestrator.api.server", "caligo_sampler.server", "benchmarks._stand_ins"]
    )
    make, values = (real_services, REAL) if arguments.real else (cheap_services, CHEAP)
    spec = validate(CampaignSpec, values)
    points = []
    for simulators in [arguments.simulators] if arguments.simulators else [1, 4]:
        point = run(make, spec, simulators, arguments.kills, arguments.seed)
        points.append(point)
        print(", ".join(f"{name} {value}" for name, value in point.items()), flush=True)
    if arguments.json:
        total = {key: sum(point[key] for point in points) for key in ("kills", "rows", "rows_lost", "rows_changed")}
        print(json.dumps({
            "name": "chaos", "value": total["kills"], "unit": "kills survived", "peer": None, "peer_value": None,
            "ratio": None, **total, "services": "real" if arguments.real else "stand-ins", "seed": arguments.seed,
            "points": points,
        }))  # fmt: skip
    if any(point["rows_lost"] or point["rows_changed"] or point["datasets_changed"] for point in points):
        sys.exit("rows were lost or changed")


if __name__ == "__main__":
    main()
