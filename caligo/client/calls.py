"""What a client asks and how it reads the answers, without sending anything: shared by the two clients.

A unary method is a plan: a generator that yields the calls it needs, is sent their answers, and returns the result. A
stream is an object that knows from where to ask and is handed each message. Whoever drives them sends and waits, and
asks `Attempts` whether to try again.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc
import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from numpy.typing import NDArray

from caligo import closed_form, contours, requirements, rpc, slices, thresholds, wire
from caligo.addresses import proxy_variable
from caligo.client.model import Campaign, CampaignState, Event, resource_name
from caligo.contours import Contours
from caligo.errors import CaligoError, DeadlineExceeded, InvalidArgument, ResourceExhausted, Unreachable
from caligo.phases import Phase
from caligo.points import parameter_column, point
from caligo.requirements import Requirement
from caligo.results import ResultRows
from caligo.slices import CliffSlice
from caligo.space import STRATEGY_COLUMN
from caligo.spec import CampaignSpec, to_proto
from caligo.thresholds import Threshold
from caligo.tls import speaks_tls
from caligo.v1 import campaign_pb2 as pb

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_UNARY_SECONDS: Final = 30.0
_PREDICT_SECONDS: Final = 600.0
"""The model of an ended campaign may have to be made again first."""
_MOST_POINTS: Final = 501
"""Of a grid, along each parameter."""
_PREDICT_ROWS: Final = 65_536
"""Rows a call: 2.4 MB there, 0.8 MB back."""
_BACKOFF_SECONDS: Final = (0.1, 2.0)
"""Wait before the first and, doubling, at most before any later attempt."""
_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What a call ends with when the connection or the server goes away."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One unary call.

    Attributes:
        method: its name in the contract.
        seconds: how long the answer may take.
        is_repeatable: it may be sent again where nobody knows whether it arrived.
    """

    method: str
    request: Message
    seconds: float = _UNARY_SECONDS
    is_repeatable: bool = True


Plan = Generator[Call, Any, T]


class Stream(Protocol, Generic[T_co]):
    """A stream that can be opened again where it was.

    Attributes:
        method: its name in the contract.
        name: of its campaign. A client that has not heard from the server yet gets the campaign first: the stream may
            be silent for hours, and whoever has heard nothing knows no outage from a wrong address.
    """

    method: str
    name: str

    @property
    def is_done(self) -> bool:
        """There is nothing to open it again for."""

    def request(self) -> Message:
        """What to ask, from where it stands."""

    def receive(self, message: Any) -> T_co:
        """What a message says; the stream stands after it."""


# --- outages ----------------------------------------------------------------------------------------------------------


class Connection:
    """What is known of the server.

    Nobody has answered yet: a wrong address is likelier than an outage, and the first failure counts. After that the
    server is waited for.
    """

    def __init__(self, address: str, patience_seconds: float, *, is_encrypted: bool) -> None:
        self.address = address
        self.patience_seconds = patience_seconds
        self.is_encrypted = is_encrypted
        self.has_answered = False

    def explain(self, error: CaligoError) -> CaligoError:
        """The error, or what is behind it where nobody has ever answered."""
        if isinstance(error, Unreachable) and not (self.has_answered or self.is_encrypted) and speaks_tls(self.address):
            return Unreachable(
                f"{self.address}: answers through TLS alone; give the authorities that its certificate must come from "
                "(--ca-certificate, in Python tls)"
            )
        if isinstance(error, Unreachable | DeadlineExceeded) and (variable := proxy_variable(self.address)):
            return type(error)(f"{error}; asked through the proxy of ${variable}, for $no_proxy does not name it")
        return error


class Attempts:
    """The attempts of one call or one stream at a server that may be gone for a while, restarted say.

    gRPC's own retries stop at five attempts, seconds after the first, and never reopen a stream that has begun.
    """

    def __init__(self, connection: Connection, *, is_stream: bool = False, is_repeatable: bool = True) -> None:
        self._connection = connection
        self._is_stream = is_stream
        self._is_repeatable = is_repeatable
        self._has_begun = False
        self._lost_since: float | None = None
        self._delay = _BACKOFF_SECONDS[0]

    def succeed(self) -> None:
        """The server has answered."""
        self._connection.has_answered = self._has_begun = True
        self._lost_since, self._delay = None, _BACKOFF_SECONDS[0]

    def fail(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            CaligoError: what has gone wrong, where there is to be no further attempt.
        """
        typed = rpc.from_rpc_error(error, self._connection.address)
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        is_late = now - self._lost_since > self._connection.patience_seconds
        if is_late or not self._is_worth_another(error):
            raise self._connection.explain(typed) from None
        delay, self._delay = self._delay, min(2 * self._delay, _BACKOFF_SECONDS[1])
        if isinstance(typed, ResourceExhausted) and typed.retry_after_seconds:
            return typed.retry_after_seconds
        return delay

    def _is_worth_another(self, error: grpc.RpcError) -> bool:
        code = error.code()
        if self._is_stream:  # one that was dropped, or that finds no room when it comes back, had its place before
            return (code in _GONE and self._connection.has_answered) or (
                code is grpc.StatusCode.RESOURCE_EXHAUSTED and self._has_begun
            )
        # What the service itself says of one of its own services is an answer.
        return code in _GONE and self._connection.has_answered and self._is_repeatable and not rpc.was_said(error)


# --- plans ------------------------------------------------------------------------------------------------------------


def create(
    spec: CampaignSpec, *, validate_only: bool = False, request_id: str | None = None, priority: int = 100
) -> Plan[Campaign]:
    request = pb.CreateCampaignRequest(
        spec=to_proto(spec, pb.CampaignSpec),
        request_id=request_id or uuid.uuid4().hex,
        validate_only=validate_only,
        priority=priority,
    )
    return Campaign.from_message((yield Call("CreateCampaign", request)).campaign)


def get(name: str) -> Plan[Campaign]:
    request = pb.GetCampaignRequest(name=resource_name(name))
    return Campaign.from_message((yield Call("GetCampaign", request)).campaign)


def page(
    token: str, page_size: int, state: CampaignState | None, owner: str | None, prefix: str | None
) -> Plan[tuple[list[Campaign], str]]:
    """A page of campaigns and the token of the next one, empty after the last."""
    terms = (
        f"state={state.name}" if state else "",
        f"owner={owner}" if owner is not None else "",
        f"name:{prefix}" if prefix else "",
    )
    request = pb.ListCampaignsRequest(
        page_size=page_size, page_token=token, filter=" AND ".join(term for term in terms if term)
    )
    answer = yield Call("ListCampaigns", request)
    return [Campaign.from_message(campaign) for campaign in answer.campaigns], answer.next_page_token


def update(name: str, *, samples: int | None = None, priority: int | None = None) -> Plan[Campaign]:
    campaign, mask = pb.Campaign(name=resource_name(name)), FieldMask()
    if samples is not None:
        campaign.spec.active.samples = samples
        mask.paths.append("spec.active.samples")
    if priority is not None:
        campaign.priority = priority
        mask.paths.append("priority")
    request = pb.UpdateCampaignRequest(campaign=campaign, update_mask=mask)
    return Campaign.from_message((yield Call("UpdateCampaign", request)).campaign)


def pause(name: str) -> Plan[Campaign]:
    request = pb.PauseCampaignRequest(name=resource_name(name))
    return Campaign.from_message((yield Call("PauseCampaign", request)).campaign)


def resume(name: str) -> Plan[Campaign]:
    request = pb.ResumeCampaignRequest(name=resource_name(name))
    return Campaign.from_message((yield Call("ResumeCampaign", request)).campaign)


def cancel(name: str) -> Plan[Campaign]:
    request = pb.CancelCampaignRequest(name=resource_name(name))
    return Campaign.from_message((yield Call("CancelCampaign", request)).campaign)


def delete(name: str) -> Plan[None]:
    # Sent again it might find nothing, and say so of a campaign that was there.
    yield Call("DeleteCampaign", pb.DeleteCampaignRequest(name=resource_name(name)), is_repeatable=False)


def predict(name: str, inputs: NDArray[np.float32], *, extrapolate: bool = False) -> Plan[NDArray[np.float32]]:
    spec = (yield from get(name)).spec
    spec.space.resolve().check(inputs, extrapolate=extrapolate)
    predicted = yield from _predict(name, inputs)
    return np.concatenate([predicted, closed_form.expected(inputs, spec)], axis=1)


def _predict(name: str, inputs: NDArray[np.float32]) -> Plan[NDArray[np.float32]]:
    answers = [np.empty((0, 3), dtype=np.float32)]
    for start in range(0, len(inputs), _PREDICT_ROWS):
        rows = inputs[start : start + _PREDICT_ROWS]
        request = pb.PredictCampaignRequest(name=resource_name(name), inputs=wire.encode(rows, wire.INPUTS))
        answer = yield Call("PredictCampaign", request, _PREDICT_SECONDS)
        answers.append(wire.decode(answer.prediction, wire.PREDICTION, len(rows), 3))
    return np.concatenate(answers)


def _answered(
    name: str, asking: Generator[NDArray[np.float32], NDArray[np.float32], T], spec: CampaignSpec | None = None
) -> Plan[T]:
    """Have a question's rows predicted, by the closed form as well where the spec is given."""
    rows = next(asking)
    while True:
        predicted = yield from _predict(name, rows)
        if spec is not None:
            predicted = np.concatenate([predicted, closed_form.expected(rows, spec)], axis=1)
        try:
            rows = asking.send(predicted)
        except StopIteration as end:
            return end.value


def slice(name: str, x: str, y: str, *, at: NDArray[np.float32] | None = None, points: int = 41) -> Plan[CliffSlice]:
    axes = parameter_column(x, "x"), parameter_column(y, "y")
    if x == y:
        raise InvalidArgument("y", "must be another parameter than x")
    if points < 2:
        raise InvalidArgument("points", "must be at least 2")
    space = (yield from get(name)).spec.space.resolve()
    if at is None:
        at = space.model_bounds().mean(axis=0).astype(np.float32)
    through = np.array(at)
    through[STRATEGY_COLUMN] = space.strategies[0]  # every strategy is asked, whatever stands there
    space.check(through[None, :])
    return (yield from _answered(name, slices.steps(space, axes, at, points)))


def threshold(
    name: str, parameter: str, at: Mapping[str, float | str], levels: Sequence[float]
) -> Plan[tuple[Threshold, ...]]:
    column = parameter_column(parameter, "parameter")
    if parameter in at:
        raise InvalidArgument(parameter, "is what is asked for: leave it out of the point")
    for level in levels:
        if not 0 < level < 1:
            raise InvalidArgument("levels", f"must lie between 0 and 1, not {level:g}")
    spec = (yield from get(name)).spec
    space = spec.space.resolve()
    low, high = space.bounds[parameter]
    if not low < high:
        raise InvalidArgument(parameter, f"is fixed at {low:g} in the campaign")
    asking = thresholds.steps(space, column, point(at, space), levels)
    return (yield from _answered(name, asking, spec))


def contour(name: str, x: str, y: str, at: Mapping[str, float | str], level: float, points: int) -> Plan[Contours]:
    axes = parameter_column(x, "x"), parameter_column(y, "y")
    if x == y:
        raise InvalidArgument("y", "must be another parameter than x")
    if not 2 <= points <= _MOST_POINTS:
        raise InvalidArgument("points", f"must lie between 2 and {_MOST_POINTS}")
    if not 0 < level < 1:
        raise InvalidArgument("level", f"must lie between 0 and 1, not {level:g}")
    spec = (yield from get(name)).spec
    space = spec.space.resolve()
    for symbol in (x, y):
        if symbol in at:
            raise InvalidArgument(symbol, "varies: leave it out of the point")
        low, high = space.bounds[symbol]
        if not low < high:
            raise InvalidArgument(symbol, f"is fixed at {low:g} in the campaign")
    asking = contours.steps(space, axes, point(at, space), points, level)
    return (yield from _answered(name, asking, spec))


def require(
    name: str,
    baseline: Mapping[str, float | str],
    free: Sequence[str],
    level: float,
    weights: Mapping[str, float],
) -> Plan[tuple[Requirement, ...]]:
    if not 0 < level < 1:
        raise InvalidArgument("confidence", f"must lie between 0 and 1, not {level:g}")
    spec = (yield from get(name)).spec
    space = spec.space.resolve()
    asking = requirements.steps(space, point(baseline, space), requirements.check(free, weights, space), weights, level)
    return (yield from _answered(name, asking, spec))


# --- streams ----------------------------------------------------------------------------------------------------------


class Events:
    """A campaign's events after a number."""

    method = "WatchCampaign"
    is_done = False

    def __init__(self, name: str, after: int) -> None:
        self.name = resource_name(name)
        self._last = after

    def request(self) -> pb.WatchCampaignRequest:
        return pb.WatchCampaignRequest(name=self.name, after_sequence=self._last)

    def receive(self, message: pb.WatchCampaignResponse) -> Event:
        self._last = message.sequence
        return Event.from_message(message)


class Results:
    """The rows of a phase from one on."""

    method = "StreamResults"
    is_done = False

    def __init__(self, name: str, phase: Phase, start_row: int, follow: bool) -> None:
        self.name = resource_name(name)
        self._request = pb.StreamResultsRequest(
            name=self.name, phase=wire.encode_phase(phase), start_row=start_row, follow=follow
        )

    def request(self) -> pb.StreamResultsRequest:
        return self._request

    def receive(self, message: pb.StreamResultsResponse) -> ResultRows:
        self._request.start_row = message.next_row
        return wire.decode_rows(message.rows, any_release=True)


class FileRange:
    """Bytes of a campaign's file."""

    method = "DownloadDataset"

    def __init__(self, name: str, offset: int, length: int) -> None:
        self.name = resource_name(name)
        self._at = offset
        self._end = offset + length if length else None

    @property
    def is_done(self) -> bool:
        return self._at == self._end

    def request(self) -> pb.DownloadDatasetRequest:
        length = self._end - self._at if self._end is not None else 0
        return pb.DownloadDatasetRequest(name=self.name, offset=self._at, length=length)

    def receive(self, message: pb.DownloadDatasetResponse) -> bytes:
        data = message.data
        self._at += len(data)
        return data
