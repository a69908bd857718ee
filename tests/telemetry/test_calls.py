"""Calls leave metrics, and take their context along, whatever becomes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from caligo import rpc, tracing
from caligo.errors import NotFound, ResourceExhausted
from caligo.instrumentation import Incoming, Outgoing, _from_baggage, _to_baggage
from caligo.phases import Phase
from caligo.v1 import sampler_pb2 as pb
from caligo.v1 import sampler_pb2_grpc as pb_grpc

STREAM = "caligo.v1.SamplerService/StreamDesign"
CHECK = "caligo.v1.SamplerService/CheckFeasibility"


class Servicer(pb_grpc.SamplerServiceServicer):
    """Answers as its `work` says; keeps the context that it was called in."""

    def __init__(self) -> None:
        self.work: Callable[[grpc.ServicerContext], Iterator[pb.StreamDesignResponse]] = lambda context: iter(())
        self.context: dict[str, object] = {}

    def StreamDesign(self, request, context):
        self.context = dict(structlog.contextvars.get_contextvars())
        yield from self.work(context)

    def CheckFeasibility(self, request_iterator, context):
        raise ResourceExhausted("full")
        yield


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def stub(servicer: Servicer, tmp_path: Path) -> Iterator[pb_grpc.SamplerServiceStub]:
    service = rpc.Service("caligo.v1.SamplerService", pb_grpc.add_SamplerServiceServicer_to_server, servicer)
    server = rpc.Server(f"unix:{tmp_path}/socket", [service], interceptors=[Incoming()])
    server.start()
    with rpc.channel(server.address, interceptors=[Outgoing()]) as channel:
        yield pb_grpc.SamplerServiceStub(channel)
    server.stop(0)


class Difference:
    """How much series have grown."""

    def __init__(self, name: str, **labels: str) -> None:
        self._of = name, labels
        self._before = self._now()

    def _now(self) -> float:
        return REGISTRY.get_sample_value(*self._of) or 0.0

    def becomes(self, expected: float) -> bool:
        """Within a few seconds: a call is over for its caller before it is for the server."""
        ends = time.monotonic() + 10
        while self._now() - self._before != expected:
            if time.monotonic() > ends:
                return False
            time.sleep(0.01)
        return True


def answered(status: str, method: str = STREAM) -> Difference:
    return Difference("grpc_server_call_duration_seconds_count", grpc_method=method, grpc_status=status)


def called(status: str, method: str = STREAM) -> Difference:
    return Difference("grpc_client_call_duration_seconds_count", grpc_method=method, grpc_status=status)


def test_statuses_are_counted_on_both_sides(servicer, stub) -> None:
    def refuse(context):
        raise NotFound("no")
        yield

    def break_down(context):
        raise RuntimeError("no")
        yield

    def abort(context):
        context.abort(grpc.StatusCode.DATA_LOSS, "no")
        yield

    for work, status in ((refuse, "NOT_FOUND"), (break_down, "INTERNAL"), (abort, "DATA_LOSS")):
        servicer.work = work
        counts = answered(status), called(status)
        with pytest.raises(grpc.RpcError):
            list(stub.StreamDesign(pb.StreamDesignRequest()))
        assert all(count.becomes(1) for count in counts)
    refused = answered("RESOURCE_EXHAUSTED", CHECK), called("RESOURCE_EXHAUSTED", CHECK)
    with pytest.raises(grpc.RpcError):
        list(stub.CheckFeasibility(iter(())))
    assert all(count.becomes(1) for count in refused)


def test_a_stream_that_nobody_reads_any_more_is_cancelled_and_closed(servicer, stub) -> None:
    under_way = threading.Event()

    def endless(context):
        while context.is_active():
            yield pb.StreamDesignResponse()
            under_way.set()

    servicer.work = endless
    counts = answered("CANCELLED"), called("CANCELLED")
    is_open = Difference("caligo_server_calls_open", grpc_method=STREAM)
    started = Difference("grpc_server_call_started_total", grpc_method=STREAM)
    call = stub.StreamDesign(pb.StreamDesignRequest())
    next(call)
    assert under_way.wait(10) and is_open.becomes(1) and started.becomes(1)
    call.cancel()
    assert all(count.becomes(1) for count in counts) and is_open.becomes(0)


def test_the_context_of_a_call_arrives_and_does_not_stay(servicer, stub) -> None:
    with (
        structlog.contextvars.bound_contextvars(campaign="campaigns/a-1", secret="no"),
        tracing.working_on(Phase.LHS, 7),
    ):
        list(stub.StreamDesign(pb.StreamDesignRequest()))
    assert servicer.context == {"campaign": "campaigns/a-1", "phase": "lhs", "first_row": 7}
    for _ in range(100):  # whichever thread answers
        list(stub.StreamDesign(pb.StreamDesignRequest()))
        assert servicer.context == {}


@given(st.text())
def test_any_baggage_is_harmless(text) -> None:
    assert set(_from_baggage(text)) <= {"campaign", "phase", "first_row"}


@given(
    st.from_regex(r"campaigns/[a-z0-9-]{1,80}", fullmatch=True),
    st.sampled_from(["lhs", "active"]),
    st.integers(0, 10**18 - 1),
)
def test_baggage_is_read_as_it_was_written(campaign, phase, first_row) -> None:
    context = {"campaign": campaign, "phase": phase, "first_row": first_row}
    with structlog.contextvars.bound_contextvars(**context):
        ((name, text),) = _to_baggage()
    assert name == "baggage"
    assert _from_baggage(f"other=1;p, {text}") == context


def test_what_looks_like_no_campaign_is_not_taken_over(servicer, stub) -> None:
    for baggage in (
        "campaign=campaigns%2FX%0Ay",
        "campaign=x",
        "campaign=campaigns%2F" + 200 * "a",
        "first_row=-1",
        "a",
    ):
        list(stub.StreamDesign(pb.StreamDesignRequest(), metadata=[("baggage", baggage)]))
        assert servicer.context == {}


def test_a_share_of_the_rows_is_traced_the_same_everywhere() -> None:
    def traced(share: float) -> set[int]:
        exporter = InMemorySpanExporter()
        context = structlog.contextvars.bound_contextvars(campaign="campaigns/x")
        with tracing.tracing_to(SimpleSpanProcessor(exporter), "test", share), context, tracing.working_on(Phase.LHS):
            tracing.add_row_spans("queue", range(2000), tracing.now())
        return {span.attributes["caligo.row"] for span in exporter.get_finished_spans()}

    assert traced(0.0) == set()
    assert traced(1.0) == set(range(2000))
    some = traced(0.1)
    assert 130 < len(some) < 270
    assert some == traced(0.1) and some < traced(0.5)


def test_nothing_is_traced_where_nobody_asks(stub, servicer) -> None:
    exporter = InMemorySpanExporter()
    with structlog.contextvars.bound_contextvars(campaign="campaigns/x"), tracing.working_on(Phase.LHS):
        with tracing.row_span("simulate", 1), tracing.span("quantum"):
            tracing.add_row_spans("queue", [1], 0)
            tracing.end_rows([1], [1], {})
        list(stub.StreamDesign(pb.StreamDesignRequest()))
    assert exporter.get_finished_spans() == ()
    assert tracing.add_trace_id(None, "", {"campaign": "c", "phase": "lhs", "row": 1}) == {
        "campaign": "c", "phase": "lhs", "row": 1
    }  # fmt: skip


def test_a_log_line_about_a_row_has_its_trace() -> None:
    with tracing.tracing_to(SimpleSpanProcessor(InMemorySpanExporter()), "test"):
        line = tracing.add_trace_id(None, "", {"campaign": "campaigns/x", "phase": "lhs", "row": 1})
        assert line["trace_id"] == tracing.trace_id("campaigns/x", "lhs", 1)
        assert "trace_id" not in tracing.add_trace_id(None, "", {"event": "something else"})
        with tracing.active.tracer.start_as_current_span("call") as span:
            line = tracing.add_trace_id(None, "", {"event": "something else"})
        assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
