"""Metrics for Prometheus and traces for OpenTelemetry, as a service's settings ask for them.

Each service declares its own metrics (`metrics.py`), `caligo.instrumentation` those of calls; `caligo.tracing` makes
the spans. No metric has a label that grows with campaigns or rows: what belongs to one campaign the API tells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import prometheus_client

import caligo
from caligo import logs
from caligo.addresses import is_private, proxy_variable
from caligo.errors import InvalidArgument
from caligo.settings import ServiceSettings
from caligo.tls import Renewals, Tls
from caligo.tracing import tracing_to

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log = logs.get("telemetry")

prometheus_client.disable_created_metrics()  # a series more for every one, of no use to Prometheus

SECONDS: Final = tuple(base * 10.0**power for power in range(-4, 3) for base in (1, 2.5, 5))
"""Buckets of every duration: 0.1 ms to 500 s."""
_WAITING_SPANS: Final = 2**15
"""Spans that the collector has not taken yet; further ones are dropped."""

_BUILD = prometheus_client.Info("caligo_build", "What runs here.")


@contextlib.contextmanager
def serving(settings: ServiceSettings) -> Iterator[None]:
    """Metrics and traces until the block ends, each where its setting says so.

    Raises:
        InvalidArgument: an address cannot be used, or what a setting needs is not installed.
    """
    with contextlib.ExitStack() as stack:
        if settings.metrics_address:
            stack.enter_context(_serving_metrics(settings))
        if settings.traces_endpoint:
            stack.enter_context(tracing_to(_otlp(settings), settings.section, settings.traces_share))
        yield


@contextlib.contextmanager
def _serving_metrics(settings: ServiceSettings) -> Iterator[None]:
    tls = settings.tls()
    host, port = _split(settings.metrics_address, "metrics_address", settings.insecure or tls is not None)
    _BUILD.info({"service": settings.section, "version": caligo.__version__})
    try:
        server, thread = prometheus_client.start_http_server(
            port,
            host,
            certfile=_text(settings.tls_certificate),
            keyfile=_text(settings.tls_key),
            client_cafile=_text(settings.tls_client_ca),
            client_auth_required=settings.tls_client_ca is not None,
        )
    except OSError as error:
        raise InvalidArgument("metrics_address", f"{settings.metrics_address}: {error.strerror}") from None
    if tls is not None:
        _follow_files(server, tls)
    log.info("metrics", address=f"{settings.metrics_address.rpartition(':')[0]}:{server.server_port}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _follow_files(server: Any, tls: Tls) -> None:
    """Have every new connection see the certificate that the files hold by then."""
    renewals, accept = Renewals(tls), server.get_request

    def get_request() -> Any:
        if renewals.take():
            server.socket.context.load_cert_chain(tls.certificate, tls.key)
            if tls.ca is not None:
                server.socket.context.load_verify_locations(tls.ca)
        return accept()

    server.get_request = get_request


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _otlp(settings: ServiceSettings) -> SpanProcessor:
    """Sends spans in batches from a thread of its own; a collector that does not answer costs nothing but spans."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise InvalidArgument(
            "traces_endpoint", "needs what is not installed here: pip install 'caligo[telemetry]'"
        ) from None
    endpoint = settings.traces_endpoint
    encrypted = endpoint.startswith("https://")
    _split(endpoint.removeprefix("https://"), "traces_endpoint", settings.insecure or encrypted)
    proxy = ("grpc.enable_http_proxy", int(proxy_variable(endpoint.removeprefix("https://")) != ""))
    exporter = OTLPSpanExporter(
        endpoint if encrypted else f"http://{endpoint}",
        insecure=not encrypted,
        channel_options=cast(Any, (proxy,)),  # numbers, whatever its signature says
    )
    return BatchSpanProcessor(exporter, max_queue_size=_WAITING_SPANS, schedule_delay_millis=1000)


def _split(address: str, field: str, may_be_public: bool) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise InvalidArgument(field, f"must be HOST:PORT, not {address!r}")
    if not may_be_public and not is_private(address):
        raise InvalidArgument(field, f"{address} is not on this machine; use loopback, encrypt it, or set insecure")
    return host.strip("[]"), int(port)
