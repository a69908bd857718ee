"""Errors as types. Each knows its gRPC status, the exit code of the command line, and says one line.

An error travels as a gRPC status with `google.rpc` details (see `caligo.rpc`) and comes out of the client as the
same type.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import grpc


class CaligoError(Exception):
    """Anything this system reports on purpose. `str(error)` is one line for a person."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    exit_code: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class FieldViolation:
    """A field of a request or a spec, by its path (`active.batch_size`), and what is allowed there."""

    field: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}: {self.allowed}"


class InvalidArgument(CaligoError):
    """The caller's mistake: a field holds something that is not allowed."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 2

    def __init__(self, field: str, allowed: str, *more: FieldViolation) -> None:
        self.violations = (FieldViolation(field, allowed), *more)
        super().__init__("; ".join(str(v) for v in self.violations))


class Unreachable(CaligoError):
    """Nobody answers at an address."""

    status = grpc.StatusCode.UNAVAILABLE
    exit_code = 3


class NotFound(CaligoError):
    """No such resource."""

    status = grpc.StatusCode.NOT_FOUND
    exit_code = 4


class AlreadyExists(CaligoError):
    """The resource is there and is not overwritten."""

    status = grpc.StatusCode.ALREADY_EXISTS
    exit_code = 4


class FailedPrecondition(CaligoError):
    """The resource is not in a state that allows this."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 4


class ResourceExhausted(CaligoError):
    """A limit is reached; the text says which and what to do."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 5


class DeadlineExceeded(CaligoError):
    """The caller's deadline passed first."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    exit_code = 3


class Unimplemented(CaligoError):
    """The method is part of the contract and not of this release."""

    status = grpc.StatusCode.UNIMPLEMENTED
    exit_code = 2


class CampaignFailed(CaligoError):
    """A campaign ended in failure; the text is its problem."""

    status = grpc.StatusCode.ABORTED
    exit_code = 5


class InternalError(CaligoError):
    """A fault of the system's own; the log has the rest."""

    status = grpc.StatusCode.INTERNAL
    exit_code = 5


BY_STATUS: dict[grpc.StatusCode, type[CaligoError]] = {
    kind.status: kind
    for kind in (
        InternalError,
        Unreachable,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        DeadlineExceeded,
        Unimplemented,
        CampaignFailed,
    )
}
"""The type that a status code becomes on the client's side; INVALID_ARGUMENT is rebuilt from its details."""
