"""Errors as types. Each knows its gRPC status, the exit code of the command line, and says one line.

An error travels as a gRPC status with `google.rpc` details (see `caligo.rpc`) and comes out of the client as the
same type. Statuses are named, not imported: processes that fork raise these errors too, and must not load gRPC.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar


class CaligoError(Exception):
    """Anything this system reports on purpose. `str(error)` is one line for a person."""

    status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code."""
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

    status = "INVALID_ARGUMENT"
    exit_code = 2

    def __init__(self, field: str, allowed: str, *more: FieldViolation) -> None:
        self.violations = (FieldViolation(field, allowed), *more)
        super().__init__("; ".join(str(v) for v in self.violations))


class Unreachable(CaligoError):
    """Nobody answers at an address."""

    status = "UNAVAILABLE"
    exit_code = 3


class NotFound(CaligoError):
    """No such resource."""

    status = "NOT_FOUND"
    exit_code = 4


class AlreadyExists(CaligoError):
    """The resource is there and is not overwritten."""

    status = "ALREADY_EXISTS"
    exit_code = 4


class FailedPrecondition(CaligoError):
    """The resource is not in a state that allows this."""

    status = "FAILED_PRECONDITION"
    exit_code = 4


class ResourceExhausted(CaligoError):
    """A limit is reached; the text says which and what to do.

    Attributes:
        limit: name of the setting that holds the limit; empty where it is none of the server's settings.
        value: the limit; None with an empty `limit`.
        retry_after_seconds: when to try again; None where waiting alone does not help.
    """

    status = "RESOURCE_EXHAUSTED"
    exit_code = 5

    def __init__(
        self, text: str, *, limit: str = "", value: int | None = None, retry_after_seconds: float | None = None
    ) -> None:
        self.limit = limit
        self.value = value
        self.retry_after_seconds = retry_after_seconds
        super().__init__(text)


class Unauthenticated(CaligoError):
    """The server wants a token, and there is none or it is not one of the server's."""

    status = "UNAUTHENTICATED"
    exit_code = 6


class PermissionDenied(CaligoError):
    """The token does not allow this."""

    status = "PERMISSION_DENIED"
    exit_code = 6


class DeadlineExceeded(CaligoError):
    """The caller's deadline passed first."""

    status = "DEADLINE_EXCEEDED"
    exit_code = 3


class Unimplemented(CaligoError):
    """The method is part of the contract and not of this release."""

    status = "UNIMPLEMENTED"
    exit_code = 2


class CampaignFailed(CaligoError):
    """A campaign ended in failure; the text is its problem."""

    status = "ABORTED"
    exit_code = 5


class InternalError(CaligoError):
    """A fault of the system's own; the log has the rest."""

    status = "INTERNAL"
    exit_code = 5


BY_STATUS: dict[str, type[CaligoError]] = {
    kind.status: kind
    for kind in (
        InternalError,
        Unreachable,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        ResourceExhausted,
        Unauthenticated,
        PermissionDenied,
        DeadlineExceeded,
        Unimplemented,
        CampaignFailed,
    )
}
"""The type that a status code becomes on the client's side; INVALID_ARGUMENT is rebuilt from its details."""
