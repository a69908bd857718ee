"""The one way a server or a channel is made: health, reflection, limits, keepalive, typed errors.

A servicer raises `CaligoError`s and knows nothing of gRPC statuses; a client calls through `calling` and gets the
same types back.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from pydantic import ValidationError

from caligo import logs
from caligo.errors import BY_STATUS, CaligoError, FieldViolation, InternalError, InvalidArgument, Unreachable
from caligo.settings import ServiceSettings
from caligo.spec import invalid_argument

log = logs.get("rpc")

MAX_MESSAGE_BYTES: Final = 16 * 2**20
_LIMITS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_SERVER_OPTIONS: Final = (
    *_LIMITS,
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_CHANNEL_OPTIONS: Final = (
    *_LIMITS,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # gRPC's own limit is two minutes: too long for a restart to go unnoticed
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


# --- server ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A servicer with the generated function that registers it and its full name in the contract."""

    name: str
    register: Callable[[Any, grpc.Server], None]
    servicer: Any


class Server:
    """A listening gRPC server with the standard health and reflection services."""

    def __init__(self, address: str, services: Sequence[Service], *, threads: int = 64, insecure: bool = False) -> None:
        """Bind `address` and register `services`; nothing is answered before `start`.

        Raises:
            InvalidArgument: the address is reachable from outside and `insecure` is not set, or cannot be bound.
        """
        if not insecure and not _is_private(address):
            raise InvalidArgument(
                "address",
                f"{address} can be reached from other machines; use loopback or unix:, or set insecure",
            )
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            interceptors=[_TypedErrors()],
            options=_SERVER_OPTIONS,
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for service in services:
            service.register(service.servicer, self._server)
        self._names = [service.name for service in services]
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise InvalidArgument("address", f"{address} cannot be bound; is it in use?") from None
        self.address = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        self._server.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def refuse(self) -> None:
        """Tell health checks that this server is going away."""
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those under way `grace_seconds`, then cancel them. Returns when all have ended."""
        self.refuse()
        self._server.stop(grace_seconds).wait()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._names):
            self._health.set(name, status)


def _is_private(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run(
    settings: ServiceSettings,
    services: Sequence[Service],
    *,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM, SIGINT or, with a lifeline, until standard input closes; then drain and return.

    Args:
        on_start: called when the address is ours and before anything is answered.
        on_stop: called when health says NOT_SERVING and before calls under way are given their grace.
    """
    # Signals and lifeline write to a pipe: unlike a lock, it may be used in the middle of anything, by any thread.
    asked, ask = os.pipe()
    os.set_blocking(ask, False)
    signal.set_wakeup_fd(ask, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if settings.lifeline:
        threading.Thread(target=_follow_lifeline, args=(ask,), daemon=True, name="lifeline").start()
    server = Server(settings.address, services, insecure=settings.insecure)
    on_start()
    server.start()
    log.info("serving", address=server.address)
    try:
        os.read(asked, 1)
    finally:
        log.info("draining", grace_seconds=settings.grace_seconds)
        server.refuse()
        try:
            on_stop()
        finally:
            server.stop(settings.grace_seconds)
            log.info("stopped")


def _follow_lifeline(ask: int) -> None:
    # Not through sys.stdin: its lock, held here, would abort the interpreter's shutdown.
    while os.read(0, 1):
        pass
    os.write(ask, b"\0")


def main(settings_type: type[ServiceSettings], serve: Callable[[Any], None]) -> int:
    """Entry point of a service: read its settings, log, serve. Returns the exit code."""
    # Until the server listens, a signal ends the process by unwinding it, so that nothing is left in /dev/shm.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = settings_type.from_command_line(sys.argv[1:])
        logs.configure(settings.log_level, service=settings_type.section)
        serve(settings)
    except CaligoError as error:
        print(f"caligo {settings_type.section}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


class _TypedErrors(grpc.ServerInterceptor):
    """Turns what a servicer raises into a status with details."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        if handler.response_streaming:
            attribute = "stream_stream" if handler.request_streaming else "unary_stream"
        else:
            attribute = "stream_unary" if handler.request_streaming else "unary_unary"
        inner = getattr(handler, attribute)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with _reporting(context, details.method):
                return inner(request, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _reporting(context, details.method):
                yield from inner(request, context)

        return handler._replace(**{attribute: stream if handler.response_streaming else unary})


@contextlib.contextmanager
def _reporting(context: grpc.ServicerContext, method: str) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        context.abort_with_status(_to_status(invalid_argument(error)))
    except CaligoError as error:
        context.abort_with_status(_to_status(error))
    except Exception as error:
        if not context.is_active():  # the caller has gone; whatever broke because of it concerns nobody
            raise
        if type(error) is Exception and not error.args:  # context.abort's own signal
            raise
        log.exception("internal error", method=method)
        context.abort_with_status(_to_status(InternalError(f"{method} failed; the service's log says why")))


def _to_status(error: CaligoError) -> Any:
    details = []
    if isinstance(error, InvalidArgument):
        bad_request = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.allowed)
                for v in error.violations
            ]
        )
        packed = any_pb2.Any()
        packed.Pack(bad_request)
        details.append(packed)
    code = getattr(code_pb2, error.status)
    return rpc_status.to_status(status_pb2.Status(code=code, message=str(error), details=details))


# --- client ---------------------------------------------------------------------------------------------------------


def channel(address: str) -> grpc.Channel:
    """A channel to `host:port`, `dns:///name:port` or `unix:PATH`."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


def wait_ready(channel: grpc.Channel, address: str, seconds: float) -> None:
    """Block until somebody answers.

    Raises:
        Unreachable: nobody did in time.
    """
    try:
        grpc.channel_ready_future(channel).result(timeout=seconds)
    except grpc.FutureTimeoutError:
        raise Unreachable(f"{address}: nobody answers") from None


@contextlib.contextmanager
def calling(address: str) -> Iterator[None]:
    """Calls made inside raise `CaligoError`s instead of `grpc.RpcError`s."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, address) from None


def from_rpc_error(error: grpc.RpcError, address: str) -> CaligoError:
    """The typed error that a status stands for."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = _field_violations(error)
        if violations:
            return InvalidArgument(violations[0].field, violations[0].allowed, *violations[1:])
        return InvalidArgument("request", text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(f"{address}: nobody answers")
    if code is grpc.StatusCode.CANCELLED:  # we wait for what we ask, so it was the other side that ended
        return Unreachable(f"{address}: gave up the call as it stopped")
    return BY_STATUS.get(code.name, InternalError)(text or f"{address}: {code.name}")


def _field_violations(error: grpc.RpcError) -> list[FieldViolation]:
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            return [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
    return []
