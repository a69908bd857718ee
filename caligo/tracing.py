"""Traces: a row of a campaign is one, through all four services.

A trace's id is a function of campaign, phase and index. So whoever does something for a row adds a span to its trace
without having been told of it, a user finds a row by `trace_id`, and all services trace the same share of the rows.
What a service is at work on stands in structlog's context (`campaign`, `phase`, `first_row`): log lines and spans say
the same, and `caligo.instrumentation` takes it from service to service. One call carries many rows; it is a trace of
its own, and the rows' spans are linked to it.

While nothing is traced, every function returns at once. OpenTelemetry's SDK (extra `caligo[telemetry]`) is loaded
only by `Tracing`.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import caligo
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, code_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

now = time.time_ns
"""The clock of spans: nanoseconds since the epoch."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_EXPECTS_EXCEPTIONS: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
"""A stage that ends a sample raises; the row's outcome says what that means."""


class Tracing:
    """Where this process's spans go, and which rows have any."""

    def __init__(self, processor: SpanProcessor, service: str, share: float) -> None:
        """`share` of the rows and of the calls are traced, 0 to 1. Raises ImportError without OpenTelemetry's SDK."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        self._share = share
        self._processor = processor
        self._resource = Resource.create({"service.name": f"caligo-{service}", "service.version": caligo.__version__})
        self._make_ended = ReadableSpan
        self._provider = TracerProvider(ParentBasedTraceIdRatio(share), self._resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("caligo", caligo.__version__)

    def root(self, row: _Row) -> SpanContext | None:
        """The span that all others of a row are under, None where the row is not among those that are traced."""
        digest = row.digest()
        if int.from_bytes(digest[8:16], "big") >= self._share * 2**64:  # as OpenTelemetry's own ratio sampler decides
            return None
        span = int.from_bytes(digest[16:24], "big")
        return SpanContext(int.from_bytes(digest[:16], "big"), span, is_remote=True, trace_flags=_SAMPLED)

    def child_of(self, root: SpanContext) -> SpanContext:
        """A new span's context."""
        span = self._provider.id_generator.generate_span_id()
        return SpanContext(root.trace_id, span, is_remote=False, trace_flags=_SAMPLED)

    def add(
        self, name: str, context: SpanContext, parent: SpanContext | None, start: int, end: int, **more: Any
    ) -> None:
        """A span that has ended."""
        self._processor.on_end(
            self._make_ended(name, context, parent, self._resource, start_time=start, end_time=max(start, end), **more)
        )

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


active: Tracing | None = None
"""Set while this process traces."""


@contextlib.contextmanager
def tracing_to(processor: SpanProcessor, service: str, share: float = 1.0) -> Iterator[None]:
    """Give this process's spans to an OpenTelemetry processor until the block ends."""
    global active
    active = Tracing(processor, service, share)
    try:
        yield
    finally:
        active.close()
        active = None


class _Row:
    """A row by its campaign's resource name, its phase's name and its index there."""

    def __init__(self, campaign: str, phase: str, index: int) -> None:
        self.campaign = campaign
        self.phase = phase
        self.index = index

    def digest(self) -> bytes:
        return hashlib.sha256(f"{self.campaign}/{self.phase}/{self.index}".encode()).digest()

    def attributes(self) -> dict[str, Any]:
        return {"caligo.campaign": self.campaign, "caligo.phase": self.phase, "caligo.row": self.index}


def trace_id(campaign: str, phase: str, row: int) -> str:
    """Where a trace viewer has a row: 32 hexadecimal digits.

    Args:
        campaign: resource name, "campaigns/{id}".
        phase: "lhs" or "active".
        row: index in the phase.
    """
    return _Row(campaign, phase, row).digest()[:16].hex()


def working_on(phase: Phase, first_row: int = 0) -> AbstractContextManager[Any]:
    """Log lines, spans and calls made inside are about rows of a phase of the campaign in the context.

    first_row: index in the phase of what the one who is called counts as row 0.
    """
    return structlog.contextvars.bound_contextvars(phase=phase.name.lower(), first_row=first_row)


def add_row_spans(name: str, rows: Iterable[int], start: int, end: int | None = None) -> None:
    """Something was done to rows, all together, of the campaign and phase in the context.

    Args:
        rows: their numbers, counted from the context's `first_row`.
        start, end: nanoseconds since the epoch; without an end, now.
    """
    if active is not None:
        end, links = end or now(), _link_to_call()
        for row in _rows(rows):
            root = active.root(row)
            if root is not None:
                active.add(name, active.child_of(root), root, start, end, attributes=row.attributes(), links=links)


def end_rows(rows: Iterable[int], outcomes: Iterable[int], began: dict[int, int]) -> None:
    """Rows of the campaign and phase in the context are done: the spans that all others of theirs are under.

    began: when, by index, in nanoseconds since the epoch; what ends is taken out.
    """
    if active is not None:
        end = now()
        for row, outcome in zip(_rows(rows), outcomes, strict=False):
            start = began.pop(row.index, end)
            root = active.root(row)
            if root is not None:
                attributes = {**row.attributes(), "caligo.outcome": code_name(ProtocolOutcome, outcome)}
                active.add("row", root, None, start, end, attributes=attributes)


def row_span(name: str, row: int) -> AbstractContextManager[Any]:
    """What is done inside is done to one row of the campaign and phase in the context."""
    if active is None:
        return contextlib.nullcontext()
    for found in _rows((row,)):
        root = active.root(found)
        if root is not None:
            return active.tracer.start_as_current_span(
                name,
                trace.set_span_in_context(NonRecordingSpan(root)),
                attributes=found.attributes(),
                links=_link_to_call(),
                **_EXPECTS_EXCEPTIONS,
            )
    return contextlib.nullcontext()


def span(name: str) -> AbstractContextManager[Any]:
    """A part of the span that is open; nothing where none is."""
    if active is None or not trace.get_current_span().is_recording():
        return contextlib.nullcontext()
    return active.tracer.start_as_current_span(name, **_EXPECTS_EXCEPTIONS)


def _rows(numbers: Iterable[int]) -> Iterator[_Row]:
    """Rows of the campaign and phase in the context; none where it does not say."""
    context = structlog.contextvars.get_contextvars()
    campaign, phase, first = context.get("campaign"), context.get("phase"), context.get("first_row", 0)
    if campaign and phase:
        for number in numbers:
            yield _Row(campaign, phase, first + int(number))


def _link_to_call() -> list[trace.Link]:
    call = trace.get_current_span().get_span_context()
    return [trace.Link(call)] if call.is_valid else []


def add_trace_id(_: Any, __: str, line: Any) -> Any:
    """Processor of log lines: the trace of the row that a line is about, or else of the span that is open."""
    if active is not None:
        if line.keys() >= {"campaign", "phase", "row"}:
            line["trace_id"] = trace_id(line["campaign"], line["phase"], line["row"])
        elif (current := trace.get_current_span().get_span_context()).is_valid:
            line["trace_id"] = f"{current.trace_id:032x}"
    return line
