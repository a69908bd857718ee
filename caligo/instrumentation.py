"""What a call leaves behind: metrics, a span, and at the other end the context of its log lines.

The metrics are those of gRPC's own plugin (gRFC A66) by the same names. The plugin for Python, grpcio-observability
1.85, is not used: it froze processes whose streams are cancelled, and some that stop (docs/observability.md).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote

import grpc
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter, Gauge, Histogram
from pydantic import ValidationError

from caligo import tracing
from caligo.errors import CaligoError
from caligo.rpc import behavior
from caligo.telemetry import SECONDS

_STARTED = Counter("grpc_server_call_started", "Calls that came in.", ["grpc_method"])
_OPEN = Gauge("caligo_server_calls_open", "Calls under way; a stream is one until it ends.", ["grpc_method"])
_ANSWERED = Histogram(
    "grpc_server_call_duration_seconds",
    "From a call's beginning to its end, by its status.",
    ["grpc_method", "grpc_status"],
    buckets=SECONDS,
)
_CALLED = Histogram(
    "grpc_client_call_duration_seconds",
    "From a call's beginning to its end as the caller sees it, by its status.",
    ["grpc_method", "grpc_status"],
    buckets=SECONDS,
)

_TRACEPARENT: Final = TraceContextTextMapPropagator()
_CONTEXT: Final = {
    "campaign": (re.compile(r"campaigns/[a-z0-9-]{1,80}"), str),
    "phase": (re.compile(r"[a-z]{1,20}"), str),
    "first_row": (re.compile(r"[0-9]{1,18}"), int),
}
"""What travels with a call as W3C baggage: what it may look like, and its type."""


class Incoming(grpc.ServerInterceptor):
    """Counts, times and traces the calls that a server answers, and gives their log lines the caller's context."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        method = details.method.removeprefix("/")
        if handler is None or method.startswith("grpc."):  # health checks come every second, and mean nothing
            return handler
        name, inner = behavior(handler)
        metadata = {key: value for key, value in details.invocation_metadata if key in ("baggage", "traceparent")}

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            with _answering(method, metadata, request, context):
                return inner(request, context)

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with _answering(method, metadata, request, context):
                yield from inner(request, context)

        return handler._replace(**{name: stream if handler.response_streaming else unary})


@contextlib.contextmanager
def _answering(method: str, metadata: dict[str, Any], request: Any, context: grpc.ServicerContext) -> Iterator[None]:
    # The pool's threads are used again, and a stream that is given up may end in another one: a call begins with a
    # context of its own, and nobody takes it back.
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**{**_from_baggage(metadata.get("baggage", "")), **_named_in(request)})
    span = _start(method, SpanKind.SERVER, _TRACEPARENT.extract(metadata))
    otel_context.attach(trace.set_span_in_context(span, otel_context.Context()))
    _STARTED.labels(method).inc()
    _OPEN.labels(method).inc()
    started, status = time.perf_counter(), "OK"
    try:
        yield
        if not context.is_active():  # it noticed by itself that nobody waits any more
            status = "CANCELLED"
    except CaligoError as error:
        status = error.status
        raise
    except ValidationError:
        status = "INVALID_ARGUMENT"
        raise
    except GeneratorExit:  # nobody reads the stream any more
        status = "CANCELLED"
        raise
    except BaseException:
        code = context.code()  # type: ignore[attr-defined]
        status = code.name if code is not None else "INTERNAL" if context.is_active() else "CANCELLED"
        raise
    finally:
        _OPEN.labels(method).dec()
        _ANSWERED.labels(method, status).observe(time.perf_counter() - started)
        _end(span, status)


def _named_in(request: Any) -> dict[str, Any]:
    """The campaign that a request is about, where it names one."""
    for field in ("campaign", "name"):
        value = getattr(request, field, None)
        if isinstance(value, str) and (found := _CONTEXT["campaign"][0].match(value)):
            return {"campaign": found.group()}
    return {}


class Outgoing(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Times and traces the calls made on a channel, and sends their context along."""

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        method = details.method.removeprefix("/")
        span = _start(method, SpanKind.CLIENT, None)
        started = time.perf_counter()

        def end(call: Any) -> None:
            status = call.code().name
            _CALLED.labels(method, status).observe(time.perf_counter() - started)
            _end(span, status)

        traceparent: dict[str, str] = {}
        _TRACEPARENT.inject(traceparent, trace.set_span_in_context(span))
        metadata = (*(details.metadata or ()), *traceparent.items(), *_to_baggage())
        call = continuation(details._replace(metadata=metadata), request)
        call.add_done_callback(end)
        return call

    intercept_unary_unary: Any = _call
    intercept_unary_stream: Any = _call
    intercept_stream_unary: Any = _call
    intercept_stream_stream: Any = _call


def _start(method: str, kind: SpanKind, parent: otel_context.Context | None) -> trace.Span:
    if tracing.active is None:
        return trace.INVALID_SPAN
    return tracing.active.tracer.start_span(method, parent, kind, {"rpc.system": "grpc", "rpc.method": method})


def _end(span: trace.Span, status: str) -> None:
    if status not in ("OK", "CANCELLED"):
        span.set_status(Status(StatusCode.ERROR, status))
    span.end()


def _to_baggage() -> list[tuple[str, str]]:
    context = structlog.contextvars.get_contextvars()
    entries = [f"{key}={quote(str(context[key]), safe='')}" for key in _CONTEXT if key in context]
    return [("baggage", ",".join(entries))] if entries else []


def _from_baggage(text: str) -> dict[str, Any]:
    """The entries that are ours and look like it."""
    pairs: Iterable[list[str]] = (entry.split("=", 1) for entry in text.split(","))
    found = {key.strip(): unquote(value.strip()) for key, value in (pair for pair in pairs if len(pair) == 2)}
    return {key: kind(found[key]) for key, (pattern, kind) in _CONTEXT.items() if pattern.fullmatch(found.get(key, ""))}
