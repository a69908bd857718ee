"""The one way a server or a channel is made: health, reflection, limits, keepalive, typed errors.

A servicer raises `CaligoError`s and knows nothing of gRPC statuses; a client calls through `calling` and gets the
same types back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from pydantic import ValidationError

from caligo import logs
from caligo.addresses import is_private, proxy_variable
from caligo.errors import (
    BY_STATUS,
    CaligoError,
    FieldViolation,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
    Unreachable,
)
from caligo.spec import invalid_argument
from caligo.tls import Tls
from caligo.waiting import WaitingRoom

if TYPE_CHECKING:
    from caligo.settings import ServiceSettings

log = logs.get("rpc")

MAX_MESSAGE_BYTES: Final = 16 * 2**20
THREADS: Final = 64
"""Calls that a server works on at once; `Watch` of the health service takes no thread."""
_CALLS_PER_THREAD: Final = 4
"""Calls that a server takes at once, those included that wait for a thread; further ones are refused."""
STALL_SECONDS: Final = 60.0
"""How long a call may wait for a message of its other side, or for it to read one."""
_WATCHERS: Final = 256
_WATCH_SECONDS: Final = 3600.0
"""Watchers of health, at once and for how long: they take no thread, but memory. Those that go on ask again."""
_TEXT_BYTES: Final = 600
"""Of what an error quotes; gRPC loses the status where its trailers, encoded, exceed 8 KiB."""
_KNOCK_SECONDS: Final = 0.1
"""Between two tries of whoever waits for a service."""
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
TOKEN_HEADER: Final = "authorization"
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
    """A servicer with the generated function that registers it and its full name in the contract.

    Attributes:
        bounded: methods that see by themselves to it that no caller holds what it does not use; of any other the
            server does, see `_Arrivals`.
    """

    name: str
    register: Callable[[Any, grpc.Server], None]
    servicer: Any
    bounded: Collection[str] = ()


class Server:
    """A listening gRPC server with the standard health and reflection services."""

    def __init__(
        self,
        address: str,
        services: Sequence[Service],
        *,
        tls: Tls | None = None,
        insecure: bool = False,
        interceptors: Sequence[grpc.ServerInterceptor] = (),
        options: Sequence[tuple[str, Any]] = (),
        threads: int = THREADS,
        max_calls: int | None = None,
        places: int | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """Bind `address` and register `services`; nothing is answered before `start`.

        Args:
            tls: who we are, and whose certificates clients must show, if any must.
            insecure: an address that other machines can reach needs no `tls`.
            interceptors: outermost first, all inside the one that turns errors into statuses.
            options: server arguments that go before those that every server has.
            threads: calls worked on at once; a stream holds its thread to its end.
            max_calls: calls taken at once; further ones are refused with RESOURCE_EXHAUSTED.
            places: threads that calls may hold which wait for a message, or for its being read; by default half of
                them. One more, and the call is cut off that has waited longest.
            stall_seconds: how long one may.

        Raises:
            InvalidArgument: the address is reachable from outside, there is no `tls` and `insecure` is not set; or it
                cannot be bound; or a file of `tls` cannot be used.
        """
        _check_guarded(address, tls, insecure)
        bounded = {f"/{service.name}/{method}" for service in services for method in service.bounded}
        self._waiting = WaitingRoom(stall_seconds, places or threads // 2)
        self._watching = WaitingRoom(_WATCH_SECONDS, _WATCHERS)
        self._rooms = contextlib.ExitStack()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            interceptors=[_TypedErrors(), _Arrivals(self._waiting, bounded), *interceptors],
            options=tuple({**dict(_SERVER_OPTIONS), **dict(options)}.items()),
            maximum_concurrent_rpcs=max_calls or _CALLS_PER_THREAD * threads,
        )
        self._health = _Health(self._watching)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for service in services:
            service.register(service.servicer, self._server)
        self._names = [service.name for service in services]
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        try:
            if tls is None or address.startswith("unix:"):
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, tls.server_credentials())
        except RuntimeError:
            raise InvalidArgument("address", f"{address} cannot be bound; is it in use?") from None
        self.address = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        for room in (self._waiting, self._watching):
            self._rooms.enter_context(room)
        self._server.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def refuse(self) -> None:
        """Tell health checks that this server is going away."""
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those under way `grace_seconds`, then cancel them. Returns when all have ended."""
        self.refuse()
        self._server.stop(grace_seconds).wait()
        self._rooms.close()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._names):
            self._health.set(name, status)


class _Health(health.HealthServicer):
    """The library's servicer without its deadlock, and with an end to the number of its watchers.

    It sends while it holds its lock, and takes that lock on gRPC's event thread when a watcher goes away, the same
    thread that must say that the message was sent. So watchers are taken off the list on a thread of their own.
    """

    def __init__(self, watching: WaitingRoom) -> None:
        super().__init__()
        self._watching = watching
        self._closing = futures.ThreadPoolExecutor(1, thread_name_prefix="health")

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:
        place = contextlib.ExitStack()
        place.enter_context(self._watching.waiting(context))
        if not context.add_callback(place.close):  # it has ended already
            place.close()
        return super().Watch(request, context, send_response_callback)

    def _on_close_callback(self, send_response_callback: Any, service: str) -> Callable[[], Any]:
        closed = super()._on_close_callback(send_response_callback, service)
        return lambda: self._closing.submit(closed)


def _check_guarded(address: str, tls: Tls | None, insecure: bool) -> None:
    if tls is None and not insecure and not is_private(address):
        raise InvalidArgument(
            "address",
            f"{address} can be reached from other machines; use loopback or unix:, set tls_certificate and "
            "tls_key, or set insecure",
        )


def run(
    settings: ServiceSettings,
    services: Sequence[Service],
    *,
    interceptors: Sequence[grpc.ServerInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
    threads: int = THREADS,
    max_calls: int | None = None,
    places: int | None = None,
    stall_seconds: float = STALL_SECONDS,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM, SIGINT or, with a lifeline, until standard input closes; then drain and return.

    Args:
        interceptors, options, threads, max_calls, places, stall_seconds: as `Server` takes them.
        on_start: called when the address is ours and before anything is answered.
        on_stop: called when health says NOT_SERVING and before calls under way are given their grace.
    """
    from caligo.instrumentation import Incoming  # of no use to clients

    # Signals and lifeline write to a pipe: unlike a lock, it may be used in the middle of anything, by any thread.
    asked, ask = os.pipe()
    os.set_blocking(ask, False)
    signal.set_wakeup_fd(ask, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if settings.lifeline:
        threading.Thread(target=_follow_lifeline, args=(ask,), daemon=True, name="lifeline").start()
    server = Server(
        settings.address,
        services,
        tls=settings.tls(),
        insecure=settings.insecure,
        interceptors=[Incoming(), *interceptors],
        options=options,
        threads=threads,
        max_calls=max_calls,
        places=places,
        stall_seconds=stall_seconds,
    )
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
    from caligo import telemetry, tracing  # of no use to clients

    # Until the server listens, a signal ends the process by unwinding it, so that nothing is left in /dev/shm.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _keep_freed_pages()
    try:
        settings = settings_type.from_command_line(sys.argv[1:])
        _check_guarded(settings.address, settings.tls(), settings.insecure)  # before kernels are compiled, say
        logs.configure(settings.log_level, service=settings_type.section, processors=[tracing.add_trace_id])
        with telemetry.serving(settings):
            serve(settings)
    except CaligoError as error:
        print(f"caligo {settings_type.section}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def behavior(handler: Any) -> tuple[str, Callable[..., Any]]:
    """The function of a method handler, and the name of the attribute that holds it."""
    if handler.response_streaming:
        name = "stream_stream" if handler.request_streaming else "unary_stream"
    else:
        name = "stream_unary" if handler.request_streaming else "unary_unary"
    return name, getattr(handler, name)


def _keep_freed_pages() -> None:
    """Let glibc take the buffers of bulk messages from pages that it has, not from new ones each time.

    Left alone it raises its threshold for mmap with the blocks that happen to be freed, up to 32 MiB; set at once to
    where that ends, nothing depends on the order. A GiB in messages of 256 KiB to 1 MiB cost a client 7,000 to 200,000
    page faults before, at most 3,000 now, and 600,000 with a threshold below the size of a message; the resident set
    was the same within 10 MiB. Larger arrays, the surrogate's matrices, still go back to the system when freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)


class _TypedErrors(grpc.ServerInterceptor):
    """Turns what a servicer raises into a status with details, and bytes that are no message into InvalidArgument."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        name, inner = behavior(handler)

        def checked(request: Any) -> Any:
            return map(_check_readable, request) if handler.request_streaming else _check_readable(request)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with _reporting(context, details.method):
                return inner(checked(request), context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _reporting(context, details.method):
                yield from inner(checked(request), context)

        def unblocked(request: Any, context: grpc.ServicerContext, send: Any) -> None:
            with _reporting(context, details.method):
                inner(checked(request), context, send)

        wrapped = _like(handler, unary, stream, unblocked)
        return handler._replace(**{name: wrapped, "request_deserializer": _readable(handler.request_deserializer)})


class _Arrivals(grpc.ServerInterceptor):
    """Awaits what callers send and read, so that those who do neither hold few threads, and none for long.

    Left alone gRPC itself waits for the message of a unary call, before anything of ours is asked.
    """

    def __init__(self, room: WaitingRoom, bounded: Collection[str]) -> None:
        self._room = room
        self._bounded = bounded

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None or details.method in self._bounded:
            return handler
        _, inner = behavior(handler)

        def request(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            arriving = self._arriving(messages, context)
            return arriving if handler.request_streaming else first(arriving)

        def unary(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
            return inner(request(messages, context), context)

        def stream(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            for message in inner(request(messages, context), context):
                with self._room.waiting(context):  # gRPC comes back when it has sent the message
                    yield message

        def unblocked(messages: Iterator[Any], context: grpc.ServicerContext, send: Any) -> None:
            inner(request(messages, context), context, send)

        return streamed(handler, _like(handler, unary, stream, unblocked))

    def _arriving(self, messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        while True:
            with self._room.waiting(context):
                message = next(messages, None)
            if message is None:
                return
            yield message


def first(messages: Iterator[Any]) -> Any:
    """The message of a unary call.

    Raises:
        InvalidArgument: there is none.
    """
    message = next(messages, None)
    if message is None:
        raise InvalidArgument("request", "is missing")
    return message


def streamed(handler: Any, function: Callable[..., Any]) -> Any:
    """A method's handler that gives `function` the messages of its calls as they come, even where there is only one."""
    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return make(function, handler.request_deserializer, handler.response_serializer)


def _like(handler: Any, unary: Any, stream: Any, unblocked: Any) -> Callable[..., Any]:
    """The function that answers as a handler does: with a message, with many, or (health's Watch) without a thread."""
    if getattr(behavior(handler)[1], "experimental_non_blocking", False):
        unblocked.experimental_non_blocking = True
        return unblocked
    return stream if handler.response_streaming else unary


class _Unreadable:
    """Stands for bytes that are not the message that a method takes; gRPC itself would call that INTERNAL."""


def _readable(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return read


def _check_readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgument("request", "must be the message that the contract says; these bytes are none")
    return request


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
    for message in _to_details(error):
        packed = any_pb2.Any()
        packed.Pack(message)
        details.append(packed)
    code = getattr(code_pb2, error.status)
    return rpc_status.to_status(status_pb2.Status(code=code, message=_clip(str(error), _TEXT_BYTES), details=details))


def _to_details(error: CaligoError) -> Iterator[Message]:
    if isinstance(error, InvalidArgument):
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            field, allowed = _clip(violation.field, _TEXT_BYTES), _clip(violation.allowed, _TEXT_BYTES)
            bad_request.field_violations.add(field=field, description=allowed)
            if bad_request.ByteSize() > 2 * _TEXT_BYTES:
                break
        yield bad_request
    if isinstance(error, ResourceExhausted) and error.limit:
        violation = error_details_pb2.QuotaFailure.Violation(
            quota_id=error.limit, quota_value=error.value or 0, description=_clip(str(error), _TEXT_BYTES)
        )
        yield error_details_pb2.QuotaFailure(violations=[violation])
    if isinstance(error, ResourceExhausted) and error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        yield retry


def _clip(text: str, size: int) -> str:
    """A text of at most `size` bytes in UTF-8, and a mark where something was cut."""
    data = text.encode(errors="replace")
    return text if len(data) <= size else data[:size].decode(errors="ignore") + "…"


# --- client ---------------------------------------------------------------------------------------------------------


def channel(
    address: str,
    tls: Tls | None = None,
    *,
    token: str = "",
    options: Sequence[tuple[str, Any]] = (),
    service_config: Mapping[str, Any] | None = None,
    interceptors: Sequence[Any] = (),
    may_be_proxied: bool = False,
) -> grpc.Channel:
    """A channel to `host:port`, `dns:///name:port` or `unix:PATH`.

    Args:
        tls: whom to trust and who we are; without it, and on a Unix socket, nothing is encrypted.
        token: sent with every call.
        options: channel arguments that go before those that every channel has.
        service_config: gRPC's service config (load balancing, health checks, retries), as a JSON object.
        interceptors: client interceptors, outermost first.
        may_be_proxied: a proxy of the environment is taken where `addresses.proxy_variable` says so. It is for people
            at their desks; services reach one another directly.

    Raises:
        InvalidArgument: a file of `tls` cannot be used, or the token would travel in the clear to another machine.
    """
    arguments = _channel_arguments(options, service_config, may_be_proxied and proxy_variable(address) != "")
    if tls is None or address.startswith("unix:"):
        made = grpc.insecure_channel(address, options=arguments)
    else:
        made = grpc.secure_channel(address, tls.channel_credentials(), options=(*tls.channel_options(), *arguments))
    if token:
        interceptors = (*interceptors, _Bearer(_check_token(token, address, tls)))
    return grpc.intercept_channel(made, *interceptors) if interceptors else made


def aio_channel(
    address: str,
    tls: Tls | None = None,
    *,
    token: str = "",
    options: Sequence[tuple[str, Any]] = (),
    service_config: Mapping[str, Any] | None = None,
    interceptors: Sequence[Any] = (),
    may_be_proxied: bool = False,
) -> grpc.aio.Channel:
    """The same for asyncio; `interceptors` are those of `grpc.aio`."""
    arguments = _channel_arguments(options, service_config, may_be_proxied and proxy_variable(address) != "")
    if token:
        kinds = (_AioBearerUnary, _AioBearerStream)
        interceptors = (*interceptors, *(kind(_check_token(token, address, tls)) for kind in kinds))
    if tls is None or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options=arguments, interceptors=interceptors)
    return grpc.aio.secure_channel(
        address,
        tls.channel_credentials(),
        options=(*tls.channel_options(), *arguments),
        interceptors=interceptors,
    )


def _channel_arguments(
    options: Sequence[tuple[str, Any]], service_config: Mapping[str, Any] | None, is_proxied: bool
) -> tuple[tuple[str, Any], ...]:
    config = (("grpc.service_config", json.dumps(service_config)),) if service_config is not None else ()
    proxy = ("grpc.enable_http_proxy", int(is_proxied))
    return tuple({**dict((*_CHANNEL_OPTIONS, proxy)), **dict(options), **dict(config)}.items())


def _check_token(token: str, address: str, tls: Tls | None) -> str:
    if tls is None and not is_private(address):
        raise InvalidArgument("token", f"would travel in the clear to {address}; give the CA certificate to encrypt")
    if not token.isascii() or not token.isprintable():
        raise InvalidArgument("token", "must be one line as `caligo token create` printed it")
    return token


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends a token with every call."""

    def __init__(self, token: str) -> None:
        self._entry = (TOKEN_HEADER, f"Bearer {token}")

    def _add(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=(*(details.metadata or ()), self._entry)), request)

    intercept_unary_unary: Any = _add
    intercept_unary_stream: Any = _add


class _AioBearer:
    def __init__(self, token: str) -> None:
        self._token = token

    async def _add(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), (TOKEN_HEADER, f"Bearer {self._token}"))
        return await continuation(details._replace(metadata=metadata), request)


class _AioBearerUnary(_AioBearer, grpc.aio.UnaryUnaryClientInterceptor):  # gRPC takes one kind a class
    intercept_unary_unary: Any = _AioBearer._add


class _AioBearerStream(_AioBearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream: Any = _AioBearer._add


def wait_ready(
    channel: grpc.Channel, address: str, seconds: float, begun: Callable[[Any], Any] = lambda call: call
) -> None:
    """Block until somebody answers, whatever it is.

    It asks for health: the threads that gRPC has for looking at a channel outlive whoever waits, and fail when it is
    closed.

    Args:
        begun: is handed the call, and may cancel it from elsewhere, which raises `grpc.FutureCancelledError` here.

    Raises:
        Unreachable: nobody did in time.
    """
    ends = time.monotonic() + seconds
    check = health_pb2_grpc.HealthStub(channel).Check
    while (left := ends - time.monotonic()) > 0:
        call = begun(check.future(health_pb2.HealthCheckRequest(), timeout=left, wait_for_ready=True))
        try:
            call.result()
            return
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return
        time.sleep(min(_KNOCK_SECONDS, max(0.0, ends - time.monotonic())))
    raise Unreachable(f"{address}: nobody answers")


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
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _resource_exhausted(error, text or f"{address}: {code.name}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad_request = _detail(error, error_details_pb2.BadRequest)
        violations = [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        if violations:
            return InvalidArgument(violations[0].field, violations[0].allowed, *violations[1:])
        return InvalidArgument("request", text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(text if was_said(error) else f"{address}: nobody answers ({' '.join(text.split())})")
    if code is grpc.StatusCode.CANCELLED:  # we wait for what we ask, so it was the other side that ended
        return Unreachable(f"{address}: gave up the call as it stopped")
    return BY_STATUS.get(code.name, InternalError)(text or f"{address}: {code.name}")


def was_said(error: grpc.RpcError) -> bool:
    """Whether the service itself answered with this status, and not gRPC in its stead."""
    return rpc_status.from_call(cast(grpc.Call, error)) is not None


def _resource_exhausted(error: grpc.RpcError, text: str) -> ResourceExhausted:
    violations = _detail(error, error_details_pb2.QuotaFailure).violations
    retry = _detail(error, error_details_pb2.RetryInfo)
    return ResourceExhausted(
        text,
        limit=violations[0].quota_id if violations else "",
        value=violations[0].quota_value if violations else None,
        retry_after_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
    )


def _detail(error: grpc.RpcError, kind: type[Message]) -> Any:
    """The detail of one kind that came with a status; empty where none did."""
    detail = kind()
    status = rpc_status.from_call(cast(grpc.Call, error))
    for packed in status.details if status else ():
        if packed.Unpack(detail):
            break
    return detail
