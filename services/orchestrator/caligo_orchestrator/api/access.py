"""Who calls, and what they may do. Every call passes here before anything of it is read.

A token stands for an owner and a role (`caligo.tokens`). Health and reflection are open to all.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc

from caligo import rpc
from caligo.errors import PermissionDenied, Unauthenticated
from caligo.tokens import Role, Tokens
from caligo.v1 import campaign_pb2
from caligo.waiting import WaitingRoom
from caligo_orchestrator.api.admission import Admission
from caligo_orchestrator.settings import OrchestratorSettings

SERVICE: Final = campaign_pb2.DESCRIPTOR.services_by_name["CampaignService"].full_name
ROLES: Final[dict[str, Role]] = {
    **dict.fromkeys(
        ("GetCampaign", "ListCampaigns", "WatchCampaign", "StreamResults", "DownloadDataset", "PredictCampaign"),
        Role.READ,
    ),
    **dict.fromkeys(
        ("CreateCampaign", "UpdateCampaign", "DeleteCampaign", "PauseCampaign", "ResumeCampaign", "CancelCampaign"),
        Role.SUBMIT,
    ),
}
"""The least role that each method of the service takes."""
_OPEN: Final = "/grpc."
"""Methods of gRPC's own, health and reflection: for everybody, and within the server's bounds."""
_LOOK_SECONDS: Final = 5.0
"""How long a stream may go on after its token was revoked, if it has anything to send."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who calls: the owner of the campaigns that they make, empty where no token was asked for."""

    owner: str
    role: Role

    def sees(self, owner: str) -> bool:
        """Whether campaigns of this owner are there for the caller."""
        return self.role is Role.ADMIN or owner == self.owner


ANYONE: Final = Caller("", Role.ADMIN)
"""Who calls without a token where none is required: everything is theirs."""
_CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """Whoever made the call that this thread works on."""
    return _CALLER.get()


class Guard(grpc.ServerInterceptor):
    """Lets in whom a token allows it, within the limits, and ends calls that hold a thread and do not move.

    It asks for the message of a unary call itself, so that nothing is read for those who are refused.
    """

    def __init__(self, tokens: Tokens, admission: Admission, room: WaitingRoom, *, require_token: bool) -> None:
        """`room`: where calls wait for what is sent to be read."""
        self._tokens = tokens
        self._admission = admission
        self._room = room
        self._require_token = require_token

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        _, inner = rpc.behavior(handler)

        def request(messages: Iterator[Any], waiting: AbstractContextManager[None]) -> Any:
            with waiting:
                return rpc.first(messages)

        def unary(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with self._admission.call(self._enter(details)) as waiting:
                return inner(request(messages, waiting(context)), context)

        def stream(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._admission.stream(self._enter(details)) as waiting:
                looked = time.monotonic()
                for message in inner(request(messages, waiting(context)), context):
                    with self._room.waiting(context):  # gRPC comes back when it has sent the message
                        yield message
                    if time.monotonic() - looked > _LOOK_SECONDS:
                        self._identify(details)
                        looked = time.monotonic()

        return rpc.streamed(handler, stream if handler.response_streaming else unary)

    def _enter(self, details: Any) -> str:
        """Let a call in; returns its owner."""
        caller = self._identify(details)
        _CALLER.set(caller)  # of this thread, until it takes the next call: gRPC keeps a call on one thread
        return caller.owner

    def _identify(self, details: Any) -> Caller:
        """Who calls.

        Raises:
            Unauthenticated: a token is required and missing, or not valid.
            PermissionDenied: the token's role does not allow the method.
        """
        entries = [value for key, value in details.invocation_metadata if key == rpc.TOKEN_HEADER]
        if not entries and not self._require_token:
            return ANYONE
        if not entries:
            raise Unauthenticated("a token is required; an administrator makes one with `caligo token create`")
        scheme, _, token = entries[0].partition(" ")
        record = self._tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        if record is None:
            raise Unauthenticated("the token is not valid: mistyped, revoked, or of another server")
        method = details.method.removeprefix(f"/{SERVICE}/")
        needed = ROLES.get(method, Role.ADMIN)
        if record.role < needed:
            raise PermissionDenied(
                f"token {record.name!r} may {record.role.name.lower()}; {method} takes {needed.name.lower()}"
            )
        return Caller(record.owner, record.role)


@contextlib.contextmanager
def guard(settings: OrchestratorSettings) -> Iterator[Guard]:
    """The guard of an orchestrator, for as long as it serves."""
    with Tokens(settings.data_directory) as tokens, WaitingRoom(settings.stall_seconds) as room:
        admission = Admission(
            room,
            max_calls=settings.max_calls,
            client_calls=settings.client_calls,
            max_streams=settings.max_streams,
            client_streams=settings.client_streams,
        )
        yield Guard(tokens, admission, room, require_token=settings.needs_token)
