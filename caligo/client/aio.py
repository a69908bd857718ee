"""The client for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from caligo import rpc
from caligo.client import calls
from caligo.client.calls import Attempts, Call, Connection, Plan, Stream
from caligo.client.download import Download
from caligo.client.model import Campaign, CampaignState, Changed, Event, check_success
from caligo.client.sync import CampaignClient
from caligo.contours import Contours
from caligo.errors import InternalError, InvalidArgument
from caligo.phases import Phase
from caligo.requirements import IMPROVABLE, Requirement
from caligo.results import ResultRows
from caligo.slices import CliffSlice
from caligo.spec import CampaignSpec
from caligo.thresholds import Threshold
from caligo.tls import Tls
from caligo.v1 import campaign_pb2_grpc

T = TypeVar("T")


class AsyncCampaignClient:
    """`CampaignClient` for asyncio: the same methods with the same arguments and errors.

    What answers there is awaited here, what iterates there is an asynchronous iterator here. Made inside the event
    loop that uses it; an asynchronous context manager.
    """

    def __init__(
        self, address: str, *, token: str = "", tls: Tls | None = None, patience_seconds: float = 60.0
    ) -> None:
        self.address = address
        self._connection = Connection(address, patience_seconds, is_encrypted=tls is not None)
        self._channel = rpc.aio_channel(address, tls, token=token, may_be_proxied=True)
        self._stub = campaign_pb2_grpc.CampaignServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `CampaignClient.close`."""
        await self._channel.close(None)

    async def create(
        self,
        spec: CampaignSpec,
        *,
        validate_only: bool = False,
        request_id: str | None = None,
        priority: int = 100,
    ) -> Campaign:
        """As `CampaignClient.create`."""
        return await self._carry_out(
            calls.create(spec, validate_only=validate_only, request_id=request_id, priority=priority)
        )

    async def get(self, name: str) -> Campaign:
        """As `CampaignClient.get`."""
        return await self._carry_out(calls.get(name))

    async def list(
        self,
        state: CampaignState | None = None,
        *,
        owner: str | None = None,
        prefix: str | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Campaign]:
        """As `CampaignClient.list`."""
        token = ""
        while True:
            campaigns, token = await self._carry_out(calls.page(token, page_size, state, owner, prefix))
            for campaign in campaigns:
                yield campaign
            if not token:
                return

    async def update(self, name: str, *, samples: int | None = None, priority: int | None = None) -> Campaign:
        """As `CampaignClient.update`."""
        return await self._carry_out(calls.update(name, samples=samples, priority=priority))

    async def pause(self, name: str) -> Campaign:
        """As `CampaignClient.pause`."""
        return await self._carry_out(calls.pause(name))

    async def resume(self, name: str) -> Campaign:
        """As `CampaignClient.resume`."""
        return await self._carry_out(calls.resume(name))

    async def cancel(self, name: str) -> Campaign:
        """As `CampaignClient.cancel`."""
        return await self._carry_out(calls.cancel(name))

    async def delete(self, name: str) -> None:
        """As `CampaignClient.delete`."""
        await self._carry_out(calls.delete(name))

    async def wait(self, name: str) -> Campaign:
        """As `CampaignClient.wait`."""
        async with contextlib.aclosing(self.watch(name)) as events:
            async for event in events:
                if isinstance(event, Changed) and event.campaign.state.is_final:
                    break
        return check_success(await self.get(name))

    def watch(self, name: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """As `CampaignClient.watch`."""
        return self._follow(calls.Events(name, after))

    def results(
        self, name: str, phase: Phase, start_row: int = 0, *, follow: bool = False
    ) -> AsyncGenerator[ResultRows, None]:
        """As `CampaignClient.results`."""
        return self._follow(calls.Results(name, phase, start_row, follow))

    def read(self, name: str, offset: int = 0, length: int = 0) -> AsyncGenerator[bytes, None]:
        """As `CampaignClient.read`."""
        return (data async for data in self._follow(calls.FileRange(name, offset, length)) if data)

    async def download(
        self,
        name: str,
        path: str | Path,
        *,
        overwrite: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """As `CampaignClient.download`."""
        path = Path(path)
        with contextlib.closing(Download(name, path, overwrite=overwrite)) as download:
            while True:
                try:
                    async for done, total in self._follow(download):
                        if on_progress is not None:
                            on_progress(done, total)
                    await asyncio.to_thread(download.finish)
                    return path
                except (InvalidArgument, InternalError) as error:
                    if not download.start_over(error):
                        raise

    async def predict(
        self, name: str, inputs: NDArray[np.float32], *, extrapolate: bool = False
    ) -> NDArray[np.float32]:
        """As `CampaignClient.predict`."""
        return await self._carry_out(calls.predict(name, inputs, extrapolate=extrapolate))

    async def slice(
        self, name: str, x: str, y: str, *, at: NDArray[np.float32] | None = None, points: int = 41
    ) -> CliffSlice:
        """As `CampaignClient.slice`."""
        return await self._carry_out(calls.slice(name, x, y, at=at, points=points))

    async def threshold(
        self, name: str, parameter: str, *, at: Mapping[str, float | str] = {}, levels: Sequence[float] = (0.5, 0.95)
    ) -> tuple[Threshold, ...]:
        """As `CampaignClient.threshold`."""
        return await self._carry_out(calls.threshold(name, parameter, at, levels))

    async def contour(
        self,
        name: str,
        x: str,
        y: str,
        *,
        at: Mapping[str, float | str] = {},
        level: float = 0.5,
        points: int = 101,
    ) -> Contours:
        """As `CampaignClient.contour`."""
        return await self._carry_out(calls.contour(name, x, y, at, level, points))

    async def require(
        self,
        name: str,
        baseline: Mapping[str, float | str],
        *,
        free: Sequence[str] = IMPROVABLE,
        confidence: float = 0.95,
        weights: Mapping[str, float] = {},
    ) -> tuple[Requirement, ...]:
        """As `CampaignClient.require`."""
        return await self._carry_out(calls.require(name, baseline, free, confidence, weights))

    async def _carry_out(self, plan: Plan[T]) -> T:
        answer = None
        while True:
            try:
                call = plan.send(answer)
            except StopIteration as end:
                return end.value
            answer = await self._call(call)

    async def _call(self, call: Call) -> Any:
        attempts = Attempts(self._connection, is_repeatable=call.is_repeatable)
        while True:
            try:
                answer = await getattr(self._stub, call.method)(call.request, timeout=call.seconds)
                attempts.succeed()
                return answer
            except grpc.RpcError as error:
                delay = attempts.fail(error)
            await asyncio.sleep(delay)

    async def _follow(self, stream: Stream[T]) -> AsyncGenerator[T, None]:
        if not self._connection.has_answered:
            await self.get(stream.name)
        attempts = Attempts(self._connection, is_stream=True)
        while not stream.is_done:
            call = getattr(self._stub, stream.method)(stream.request())
            try:
                async for message in call:
                    attempts.succeed()
                    yield stream.receive(message)
                return
            except grpc.RpcError as error:
                delay = attempts.fail(error)
            finally:
                call.cancel()
            await asyncio.sleep(delay)


for _name, _method in vars(AsyncCampaignClient).items():
    if not _name.startswith("_"):
        _method.__doc__ = getattr(CampaignClient, _name).__doc__
