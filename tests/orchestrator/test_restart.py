"""Clients of an orchestrator that is killed and started again, as a process of its own, and do not notice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import rpc
from caligo.client import AsyncCampaignClient, CampaignClient, CampaignState, Changed, Noted
from caligo.phases import Phase
from caligo.results import ResultRows
from tests.orchestrator.conftest import Farmhouse


class Process:
    """An orchestrator that can be killed."""

    def __init__(self, services: Farmhouse, directory: Path) -> None:
        self.address = f"unix:{directory}/socket"
        settings = {
            "address": self.address,
            "data-directory": directory / "data",
            "sampler": services.sampler,
            "simulator": services.simulator_address,
            "surrogate": services.surrogate_address,
            "log-level": "warning",
        }
        self._command = [sys.executable, "-m", "caligo_orchestrator"]
        self._command += [f"--{name}={value}" for name, value in settings.items()]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen([*self._command, "--lifeline"], stdin=subprocess.PIPE)
        with rpc.channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=30)

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.send_signal(how)
        self._process.wait(30)
        self._process.stdin.close()


@pytest.fixture
def process(services: Farmhouse, tmp_path: Path) -> Iterator[Process]:
    made = Process(services, tmp_path)
    made.start()
    yield made
    made.end(signal.SIGKILL)


def concatenate(batches: list[ResultRows]) -> ResultRows:
    return np.concatenate(batches)


def test_streams_and_calls_go_on_over_a_restart(services, spec, process, tmp_path) -> None:
    services.simulator.delay_seconds = 0.1
    with CampaignClient(process.address) as client:
        name = client.create(spec).name
        rows: list[ResultRows] = []
        follower = threading.Thread(
            target=lambda: rows.extend(client.results(name, Phase.ACTIVE, follow=True)), daemon=True
        )
        follower.start()  # of a phase that has no rows yet: it has heard nothing when the server goes
        events = []
        for event in client.watch(name):
            events.append(event)
            if isinstance(event, Noted) and sum(isinstance(e, Noted) for e in events) == 1:
                process.end(signal.SIGTERM)
                restart = threading.Thread(target=process.start)
                restart.start()
                assert client.get(name).name == name
                restart.join()
                services.simulator.delay_seconds = 0.01
        assert isinstance(event, Changed) and event.campaign.state is CampaignState.SUCCEEDED
        kept = [e.sequence for e in events if isinstance(e, Changed | Noted)]
        assert kept == list(range(1, len(kept) + 1))
        follower.join(30)
        assert concatenate(rows)["index"].tolist() == list(range(spec.active.samples))
        assert client.download(name, tmp_path / "mine.h5").stat().st_size > 0


def test_asyncio_streams_and_calls_go_on_over_a_restart(services, spec, process, tmp_path) -> None:
    async def follow(client: AsyncCampaignClient, name: str) -> list[ResultRows]:
        return [batch async for batch in client.results(name, Phase.ACTIVE, follow=True)]

    async def watch(client: AsyncCampaignClient, name: str, on_begun: Callable[[], None]) -> list[int]:
        kept = []
        async for event in client.watch(name):
            if isinstance(event, Changed | Noted):
                kept.append(event.sequence)
            if isinstance(event, Noted):
                on_begun()
        return kept

    async def main() -> None:
        begun = asyncio.Event()
        async with AsyncCampaignClient(process.address) as client:
            name = (await client.create(spec)).name
            rows = asyncio.create_task(follow(client, name))
            kept = asyncio.create_task(watch(client, name, begun.set))
            await begun.wait()
            process.end(signal.SIGKILL)
            restart = asyncio.create_task(asyncio.to_thread(process.start))
            assert (await client.get(name)).name == name
            await restart
            services.simulator.delay_seconds = 0.01
            assert (await client.wait(name)).state is CampaignState.SUCCEEDED
            assert await kept == list(range(1, len(await kept) + 1))
            assert concatenate(await rows)["index"].tolist() == list(range(spec.active.samples))
            path = await client.download(name, tmp_path / "mine.h5")
            data = b"".join([piece async for piece in client.read(name, 8, 1000)])
            assert path.read_bytes()[8:1008] == data

    services.simulator.delay_seconds = 0.1
    asyncio.run(main())
