"""A running orchestrator, for scripts and notebooks.

    from caligo.client import CampaignClient
    from caligo.spec import CampaignSpec

    with CampaignClient("127.0.0.1:50050") as client:
        campaign = client.create(CampaignSpec(name="first-look"))
        campaign = client.wait(campaign.name)
        client.download(campaign.name, "first-look.h5")

Campaigns go by their resource name, `campaigns/{id}`, or by the id alone. Calls raise the errors of `caligo.errors`;
each method may raise `Unreachable` (nobody answers) besides those that it names.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from caligo import rpc, wire
from caligo.errors import AlreadyExists, CampaignFailed, InternalError, InvalidArgument
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.slices import CliffSlice, cut
from caligo.space import SYMBOLS
from caligo.spec import CampaignSpec, from_proto, to_proto
from caligo.v1 import campaign_pb2, campaign_pb2_grpc

Message = TypeVar("Message")

_UNARY_SECONDS: Final = 30.0
_PREDICT_SECONDS: Final = 600.0
"""The model of an ended campaign may have to be made again first."""
_PREDICT_ROWS: Final = 65_536
"""Rows a call: 2.4 MB there, 0.8 MB back."""
_BACKOFF_SECONDS: Final = (0.1, 2.0)
"""Wait before the first and, doubling, at most before any later attempt to reopen a stream."""
_BROKEN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What a stream ends with when the connection or the server goes away."""


class CampaignState(enum.IntEnum):
    """Where a campaign is in its life; the codes are those of the contract's `CampaignState`."""

    UNSPECIFIED = 0
    """Not a campaign: a spec that was only checked."""
    QUEUED = 1
    RUNNING = 2
    PAUSED = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

    @property
    def is_final(self) -> bool:
        return self >= CampaignState.SUCCEEDED


@dataclasses.dataclass(frozen=True)
class Campaign:
    """A campaign as it was when asked for. The messages are those of the contract, units and all.

    Attributes:
        name: "campaigns/{id}".
        priority: share of the farm relative to other campaigns, 1 to 1,000.
        problem: why it failed or paused by itself, if it did.
        findings: what it found, once it has succeeded.
    """

    name: str
    spec: CampaignSpec
    state: CampaignState
    progress: campaign_pb2.Progress
    priority: int
    created: datetime.datetime
    updated: datetime.datetime
    problem: campaign_pb2.Problem | None
    findings: campaign_pb2.Findings | None

    @property
    def id(self) -> str:
        return self.name.removeprefix("campaigns/")

    @classmethod
    def from_message(cls, message: campaign_pb2.Campaign) -> Campaign:
        return cls(
            name=message.name,
            spec=from_proto(message.spec, CampaignSpec),
            state=CampaignState(message.state),
            progress=message.progress,
            priority=message.priority,
            created=_to_datetime(message.create_time),
            updated=_to_datetime(message.update_time),
            problem=message.problem if message.HasField("problem") else None,
            findings=message.findings if message.HasField("findings") else None,
        )


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened to a campaign. `sequence` grows by one an event; a heartbeat repeats the last one."""

    sequence: int
    time: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Changed(Event):
    """The campaign changed its state and is now as `campaign` says."""

    campaign: Campaign


@dataclasses.dataclass(frozen=True)
class Progressed(Event):
    """Rows were done."""

    progress: campaign_pb2.Progress


@dataclasses.dataclass(frozen=True)
class Noted(Event):
    """A line for people."""

    text: str


@dataclasses.dataclass(frozen=True)
class Heartbeat(Event):
    """Nothing new; the server is there."""


class CampaignClient:
    """Campaigns on the orchestrator at `address` (`host:port`, `dns:///name:port` or `unix:PATH`).

    Streams that break go on by themselves where they were, for as long as `patience_seconds` without a word from the
    server. Safe to use from several threads. A context manager; leaving it closes the connection.
    """

    def __init__(self, address: str, *, patience_seconds: float = 60.0) -> None:
        self.address = address
        self._patience_seconds = patience_seconds
        self._channel = rpc.channel(address)
        self._stub = campaign_pb2_grpc.CampaignServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    # --- one campaign -----------------------------------------------------------------------------------------------

    def create(
        self,
        spec: CampaignSpec,
        *,
        validate_only: bool = False,
        request_id: str | None = None,
        priority: int = 100,
    ) -> Campaign:
        """Start a campaign.

        Args:
            validate_only: check the spec and make nothing; what comes back has no name.
            request_id: the same id again gives the same campaign; by default a new one.
            priority: share of the farm relative to other campaigns, 1 to 1,000.

        Raises:
            InvalidArgument: the server does not accept the spec.
            FailedPrecondition: a phase is skipped whose result `spec.base` does not hold.
        """
        request = campaign_pb2.CreateCampaignRequest(
            spec=to_proto(spec, campaign_pb2.CampaignSpec),
            request_id=request_id or uuid.uuid4().hex,
            validate_only=validate_only,
            priority=priority,
        )
        return Campaign.from_message(self._call(self._stub.CreateCampaign, request).campaign)

    def get(self, name: str) -> Campaign:
        """The campaign as it is now.

        Raises:
            NotFound: there is none of that name.
        """
        request = campaign_pb2.GetCampaignRequest(name=resource_name(name))
        return Campaign.from_message(self._call(self._stub.GetCampaign, request).campaign)

    def list(self, state: CampaignState | None = None, *, page_size: int = 0) -> Iterator[Campaign]:
        """All campaigns, or those in one state, newest first; pages are fetched as they are needed."""
        token = ""
        while True:
            request = campaign_pb2.ListCampaignsRequest(
                page_size=page_size, page_token=token, filter=f"state={state.name}" if state else ""
            )
            page = self._call(self._stub.ListCampaigns, request)
            yield from map(Campaign.from_message, page.campaigns)
            token = page.next_page_token
            if not token:
                return

    def pause(self, name: str) -> Campaign:
        """Stop at once; what has come back is kept, rows under way are computed again after a resume.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended.
        """
        request = campaign_pb2.PauseCampaignRequest(name=resource_name(name))
        return Campaign.from_message(self._call(self._stub.PauseCampaign, request).campaign)

    def resume(self, name: str) -> Campaign:
        """Go on with a paused campaign.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended.
        """
        request = campaign_pb2.ResumeCampaignRequest(name=resource_name(name))
        return Campaign.from_message(self._call(self._stub.ResumeCampaign, request).campaign)

    def cancel(self, name: str) -> Campaign:
        """End a campaign for good; what it has is kept.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has ended already.
        """
        request = campaign_pb2.CancelCampaignRequest(name=resource_name(name))
        return Campaign.from_message(self._call(self._stub.CancelCampaign, request).campaign)

    def delete(self, name: str) -> None:
        """Remove a campaign that has ended, with its files.

        Raises:
            NotFound: there is none of that name.
            FailedPrecondition: it has not ended.
        """
        self._call(self._stub.DeleteCampaign, campaign_pb2.DeleteCampaignRequest(name=resource_name(name)))

    def wait(self, name: str) -> Campaign:
        """Block until the campaign has ended; it is then SUCCEEDED or CANCELLED.

        Raises:
            NotFound: there is none of that name.
            CampaignFailed: it ended in failure; the text is its problem.
        """
        for event in self.watch(name):
            if isinstance(event, Changed) and event.campaign.state.is_final:
                break
        campaign = self.get(name)
        if campaign.state is CampaignState.FAILED:
            raise CampaignFailed(describe_problem(campaign))
        return campaign

    # --- streams ----------------------------------------------------------------------------------------------------

    def watch(self, name: str, after: int = 0) -> Iterator[Event]:
        """Events with a number greater than `after`, then live ones until the campaign has ended.

        No event is lost or doubled where the connection breaks.

        Raises:
            NotFound: there is none of that name.
        """
        name = resource_name(name)
        last = after

        def open_stream() -> Any:
            return self._stub.WatchCampaign(campaign_pb2.WatchCampaignRequest(name=name, after_sequence=last))

        for message in self._resuming(open_stream):
            last = message.sequence
            yield _to_event(message)

    def results(self, name: str, phase: Phase, start_row: int = 0, *, follow: bool = False) -> Iterator[ResultRows]:
        """Result rows of a phase in the file's order, in batches: structured arrays [n] of `ROW_DTYPE`.

        Args:
            phase: `Phase.LHS` or `Phase.ACTIVE`.
            start_row: first row wanted, counted in the phase's order.
            follow: wait for rows that are yet to come, until the campaign has ended.

        Raises:
            NotFound: there is no campaign of that name.
        """
        name = resource_name(name)
        position = start_row

        def open_stream() -> Any:
            return self._stub.StreamResults(
                campaign_pb2.StreamResultsRequest(
                    name=name, phase=f"PHASE_{phase.name}", start_row=position, follow=follow
                )
            )

        for message in self._resuming(open_stream):
            position = message.next_row
            yield wire.decode_rows(message.rows)

    def download(self, name: str, path: str | Path, *, overwrite: bool = False) -> Path:
        """Fetch the campaign's HDF5 file. `path` appears complete and checked, or not at all.

        Raises:
            NotFound: there is no campaign of that name.
            FailedPrecondition: it has neither ended nor paused.
            AlreadyExists: there is something at `path`, and `overwrite` is not set.
            InvalidArgument: `path` cannot be written.
            InternalError: what came is not what was sent.
        """
        name, path = resource_name(name), Path(path)
        if path.exists() and not overwrite:
            raise AlreadyExists(f"{path}: is there already and is not overwritten")
        received = 0

        def open_stream() -> Any:
            return self._stub.DownloadDataset(campaign_pb2.DownloadDatasetRequest(name=name, offset=received))

        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            file = part.open("xb")
        except OSError as error:
            raise InvalidArgument(str(path), error.strerror or "cannot be written") from None
        try:
            digest, expected = hashlib.sha256(), b""
            with file:
                for message in self._resuming(open_stream):
                    if message.offset != received:
                        raise InternalError(f"{name}: byte {message.offset} came where {received} was due")
                    data = message.data
                    file.write(data)
                    digest.update(data)
                    received += len(data)
                    expected = message.sha256 or expected
                file.flush()
                os.fsync(file.fileno())
            if digest.digest() != expected:
                raise InternalError(f"{name}: the download's checksum is wrong; nothing was written")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def predict(self, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Posterior of the campaign's surrogate: of what one run at each row would give.

        Args:
            inputs: float32 [n, 9], model coordinates.

        Returns:
            float32 [n, 3]: mean and standard deviation of the target, probability of a key.

        Raises:
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        answers = [np.empty((0, 3), dtype=np.float32)]
        for start in range(0, len(inputs), _PREDICT_ROWS):
            rows = inputs[start : start + _PREDICT_ROWS]
            request = campaign_pb2.PredictCampaignRequest(
                name=resource_name(name), inputs=wire.encode(rows, wire.INPUTS)
            )
            answer = self._call(self._stub.PredictCampaign, request, _PREDICT_SECONDS)
            answers.append(wire.decode(answer.prediction, wire.PREDICTION, len(rows), 3))
        return np.concatenate(answers)

    def slice(
        self, name: str, x: str, y: str, *, at: NDArray[np.float32] | None = None, points: int = 41
    ) -> CliffSlice:
        """The posterior on a grid over two parameters, each over its range in the campaign's space.

        Args:
            x, y: symbols of the parameters.
            at: float32 [9], model coordinates of the point that the slice goes through; by default the middle of the
                space.
            points: of the grid, along each parameter.

        Raises:
            InvalidArgument: no such parameters, or fewer than two points.
            NotFound: there is no campaign of that name.
            FailedPrecondition: its surrogate has not been fitted yet.
        """
        for field, symbol in (("x", x), ("y", y)):
            if symbol not in SYMBOLS:
                raise InvalidArgument(field, f"must be one of {', '.join(SYMBOLS)}, not {symbol!r}")
        if x == y:
            raise InvalidArgument("y", "must be another parameter than x")
        if points < 2:
            raise InvalidArgument("points", "must be at least 2")
        space = self.get(name).spec.space.resolve()
        if at is None:
            at = space.model_bounds().mean(axis=0).astype(np.float32)
        axes = SYMBOLS.index(x), SYMBOLS.index(y)
        return cut(space, axes, at, points, lambda rows: self.predict(name, rows))

    # --- calls ------------------------------------------------------------------------------------------------------

    def _call(self, method: Callable[..., Any], request: Any, seconds: float = _UNARY_SECONDS) -> Any:
        with rpc.calling(self.address):
            return method(request, timeout=seconds)

    def _resuming(self, open_stream: Callable[[], Any]) -> Iterator[Any]:
        """The messages of a stream. Where it breaks it is opened again; `open_stream` knows where to go on.

        A stream that breaks before its first message is not opened again: there a wrong address is likelier than a
        lost connection.
        """
        first, longest = _BACKOFF_SECONDS
        was_heard, lost_since = False, None
        delay = first
        while True:
            call = open_stream()
            try:
                for message in call:
                    was_heard, lost_since, delay = True, None, first
                    yield message
                return
            except grpc.RpcError as error:
                lost_since = lost_since or time.monotonic()
                lost = not was_heard or time.monotonic() - lost_since > self._patience_seconds
                if error.code() not in _BROKEN or lost:
                    raise rpc.from_rpc_error(error, self.address) from None
            finally:
                call.cancel()
            time.sleep(delay)
            delay = min(2 * delay, longest)


def resource_name(name: str) -> str:
    """`campaigns/{id}` from itself or from the id alone."""
    return name if name.startswith("campaigns/") else f"campaigns/{name}"


def describe_problem(campaign: Campaign) -> str:
    """One line: which campaign, and why it failed or paused."""
    reason = campaign.problem.message if campaign.problem else "no reason given"
    return f"{campaign.name}: {campaign.state.name.lower()}: {reason}"


def _to_event(message: campaign_pb2.WatchCampaignResponse) -> Event:
    sequence, moment = message.sequence, _to_datetime(message.time)
    match message.WhichOneof("event"):
        case "changed":
            return Changed(sequence, moment, Campaign.from_message(message.changed))
        case "progress":
            return Progressed(sequence, moment, message.progress)
        case "note":
            return Noted(sequence, moment, message.note)
        case _:
            return Heartbeat(sequence, moment)


def _to_datetime(timestamp: Timestamp) -> datetime.datetime:
    return timestamp.ToDatetime(tzinfo=datetime.UTC)
